//! A store that seeded operations left behind, what it holds, and which of its bytes are whose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapidary_engine::{Bookmark, Error, FileName, ForkFrom, Io, Retention, Store, View};
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags};

use super::harm::Harm;
use super::places::Places;
use super::read::{Read, Reader, Rows, read};
use crate::chance::Chance;
use crate::driver::name;
use crate::image::{Image, image_of, put_image};
use crate::sim_disk::{OperationKind, Place, SimDisk};
use crate::world::World;

/// The rows of every facet, by name.
pub(super) type State = BTreeMap<String, Arc<Rows>>;

const NAMES: [&str; 6] =
    ["acme", "acme/agent-1", "acme/agent-2", "birch", "cedar/deep/down", "dune"];
/// Blocks of a file before its first batch.
const HEADER_BYTES: u64 = 4096;

/// See the [module](super).
#[derive(Debug)]
pub struct Specimen {
    pub(super) world: World,
    /// The files as they were left.
    pub image: Image,
    /// What was there after each operation, the newest last.
    pub(super) states: Vec<State>,
    /// What each operation wrote; none if it wrote a superblock.
    written: Vec<Option<Places>>,
    /// The one write of the last operation, if it is a batch that nothing vouches for.
    pub last_batch: Option<Places>,
    /// Versions of the past that can be read, with what they have.
    pub(super) past: BTreeMap<Reader, Arc<Rows>>,
    /// What opening it reads.
    pub shared: Places,
    /// What reading each facet, and each version of the past, reads besides.
    pub(super) own: BTreeMap<Reader, Places>,
}

/// A store that is open, under a name of its own in SQLite.
pub(super) fn register(store: Arc<Store>) -> Arc<Registration> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let vfs_name = format!("specimen-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    Registration::register(&vfs_name, store, VfsOptions::default()).expect("the name is new")
}

impl Specimen {
    /// A store that is a function of `seed`.
    ///
    /// # Panics
    /// If the store does not work before it is damaged.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        world.options.tunables.spill_bytes = 16 << 10;
        // Where history is kept, no page is logged as a delta.
        let history = Retention { bytes: 200 << 10, age: Duration::from_secs(400 * 24 * 3600) };
        let keeps_history = !seed.is_multiple_of(3);
        world.options.tunables.retention = if keeps_history { history } else { Retention::OFF };
        world.options.tunables.history_bytes_max = u64::MAX;
        let mut chance = Chance::from_seed(seed ^ 0xc0_44u64);
        let disk = SimDisk::new(seed);
        let mut builder = Builder {
            registration: register(world.open(&disk, true).expect("an empty disk holds a store")),
            disk: disk.clone(),
            state: State::new(),
            states: vec![State::new()],
            written: vec![None],
            past: BTreeMap::new(),
            last_batch: None,
        };
        let steps = chance.between(40, 90);
        for _ in 0..steps {
            if chance.one_in(25) {
                drop(builder.registration);
                builder.registration = register(world.open(&disk, false).expect("it opens again"));
                builder.note(disk.operations());
            }
            builder.step(&mut chance);
        }
        if chance.one_in(2) {
            let before = disk.operations();
            builder.registration.store().close().expect("it closes");
            builder.note(before);
        } else {
            // The last batch is one that nothing vouches for.
            let before = disk.operations();
            builder.transact("acme", &mut chance);
            builder.note(before);
        }
        let Builder { registration, states, written, past, last_batch, .. } = builder;
        drop(registration);
        let mut specimen = Self {
            image: image_of(&disk.after_kill()),
            world,
            states,
            written,
            last_batch,
            past: BTreeMap::new(),
            shared: Places::default(),
            own: BTreeMap::new(),
        };
        specimen.look(&past);
        specimen
    }

    /// A disk with `image` on it.
    pub(super) fn disk_with(image: &Image) -> SimDisk {
        let disk = SimDisk::new(1);
        put_image(&disk, image);
        for &file in image.keys() {
            disk.open(file).and_then(|file| file.sync()).expect("the disk works");
        }
        disk.sync_directory().expect("the disk works");
        disk
    }

    /// The newest rows of what `reader` reads, in state number `state`.
    pub(super) fn rows_of(&self, reader: &Reader, state: usize) -> Option<Arc<Rows>> {
        match reader.at {
            Some(_) => self.past.get(reader).cloned(),
            None => self.states[state].get(&reader.facet).cloned(),
        }
    }

    /// States that may come back after this damage: the newest, and older ones as long as the damage
    /// reaches all that was written since and no superblock vouches for it.
    pub(super) fn oldest_state(&self, changed: &Places) -> usize {
        let mut oldest = self.states.len() - 1;
        while oldest > 0
            && self.written[oldest].as_ref().is_some_and(|w| w.is_empty() || w.touch(changed))
        {
            oldest -= 1;
        }
        oldest
    }

    /// Finds out which bytes are read for what, and that all is well.
    fn look(&mut self, past: &BTreeMap<Reader, Arc<Rows>>) {
        let newest = self.states.len() - 1;
        let disk = Self::disk_with(&self.image);
        disk.note_reads();
        let store = self.world.open(&disk, false).expect("undamaged, it opens");
        self.shared = Places::of(disk.take_read_places());
        drop(store);
        let facets = self.states[newest].keys();
        let newest_readers = facets.map(|facet| Reader { facet: facet.clone(), at: None });
        for reader in newest_readers.chain(past.keys().cloned()).collect::<Vec<_>>() {
            let disk = Self::disk_with(&self.image);
            let registration = register(self.world.open(&disk, false).expect("it opens"));
            disk.note_reads();
            match read(&registration, &reader, false).expect("undamaged, it is sound") {
                Read::Rows(rows) => {
                    let expected = match reader.at {
                        Some(_) => Arc::clone(&past[&reader]),
                        None => Arc::clone(&self.states[newest][&reader.facet]),
                    };
                    assert!(rows == *expected, "{reader:?}: undamaged, it has other rows");
                    if reader.at.is_some() {
                        self.past.insert(reader.clone(), expected);
                    }
                    self.own.insert(reader, Places::of(disk.take_read_places()));
                }
                Read::Refused(_, refusal) => {
                    assert!(reader.at.is_some(), "{reader:?}: undamaged, it says {refusal:?}");
                }
            }
        }
    }
}

struct Builder {
    registration: Arc<Registration>,
    disk: SimDisk,
    state: State,
    states: Vec<State>,
    written: Vec<Option<Places>>,
    past: BTreeMap<Reader, Arc<Rows>>,
    last_batch: Option<Places>,
}

impl Builder {
    fn step(&mut self, chance: &mut Chance) {
        let before = self.disk.operations();
        let facet = chance.pick(&NAMES);
        let other = chance.pick(&NAMES);
        let store = Arc::clone(self.registration.store());
        match chance.below(20) {
            0..11 => self.transact(facet, chance),
            11..13 if self.state.contains_key(facet) && !self.state.contains_key(other) => {
                store.fork_facet(&name(facet), &name(other), ForkFrom::Latest).expect("a fork");
                let rows = Arc::clone(&self.state[facet]);
                self.state.insert(other.to_owned(), rows);
            }
            13 if chance.one_in(2) && self.state.contains_key(facet) => {
                // What is below goes with it.
                store.delete_facet(&name(facet)).expect("it is deleted");
                self.state.retain(|other, _| !is_within(other, facet));
                self.past.retain(|reader, _| !is_within(&reader.facet, facet));
            }
            14 => store.checkpoint().expect("a checkpoint"),
            15..17 => {
                store.checkpoint().expect("a checkpoint");
                store.clean().expect("a round of cleaning");
                store.checkpoint().expect("a checkpoint");
            }
            17 => while store.maintain().expect("maintenance") {},
            _ => self.remember(facet),
        }
        store.flush().expect("a flush");
        self.note(before);
    }

    /// A version of the past to be read later.
    fn remember(&mut self, facet: &str) {
        let Some(rows) = self.state.get(facet) else { return };
        let bookmark: Bookmark = self
            .registration
            .store()
            .open_facet(&name(facet))
            .and_then(|facet| facet.snapshot(View::Durable))
            .map(|snapshot| snapshot.bookmark())
            .expect("the newest version has a name");
        let reader = Reader { facet: facet.to_owned(), at: Some(bookmark) };
        self.past.insert(reader, Arc::clone(rows));
    }

    fn transact(&mut self, facet: &str, chance: &mut Chance) {
        let rows = self.state.get(facet).map(|rows| (**rows).clone()).unwrap_or_default();
        let rows =
            write(&self.registration, facet, rows, chance).expect("undamaged, it is written");
        self.state.insert(facet.to_owned(), Arc::new(rows));
    }

    /// What was written since changing operation number `before`.
    fn note(&mut self, before: u64) {
        let trace = self.disk.trace();
        let writes = trace[before as usize..]
            .iter()
            .filter(|operation| operation.kind == OperationKind::Write);
        let writes: Vec<_> = writes
            .filter_map(|write| Some((write.file?, write.offset, write.offset + write.length)))
            .collect();
        let vouched = writes.iter().any(|(file, ..)| *file == FileName::Superblock);
        // Filling a file to be put to use later vouches for nothing.
        let contents: BTreeMap<FileName, Vec<u8>> = writes
            .iter()
            .filter_map(|&(file, ..)| Some((file, self.disk.contents(file)?)))
            .collect();
        let is_filling = |&(file, start, end): &Place| {
            let bytes = contents.get(&file).and_then(|all| all.get(start as usize..end as usize));
            bytes.is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
        };
        let writes: Vec<Place> = writes.into_iter().filter(|write| !is_filling(write)).collect();
        self.last_batch = match writes[..] {
            [(_, offset, _)] if !vouched && offset >= HEADER_BYTES => {
                Some(Places::of(writes.iter().copied()))
            }
            _ => None,
        };
        self.written.push((!vouched).then(|| Places::of(writes)));
        self.states.push(self.state.clone());
    }
}

fn is_within(name: &str, top: &str) -> bool {
    name.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A transaction on a facet, which is created if need be; the rows afterwards.
pub(super) fn write(
    registration: &Registration,
    facet: &str,
    mut rows: Rows,
    chance: &mut Chance,
) -> rusqlite::Result<Rows> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags_and_vfs(facet, flags, registration.name())?;
    let page_size = chance.pick(&[512, 1024, 4096, 4096]);
    connection.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA cache_size={};
         BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v BLOB NOT NULL);
         CREATE INDEX IF NOT EXISTS t_v ON t(v);",
        chance.pick(&[4, 200])
    ))?;
    for _ in 0..chance.between(1, 12) {
        let key = i64::from(chance.below(60));
        if chance.one_in(5) {
            connection.execute("DELETE FROM t WHERE k BETWEEN ?1 AND ?1 + 6", [key])?;
            rows.retain(|other, _| !(key..=key + 6).contains(other));
        } else {
            let value = value(facet, key, chance);
            connection
                .prepare_cached("INSERT OR REPLACE INTO t VALUES (?1, ?2)")?
                .execute(rusqlite::params![key, value])?;
            rows.insert(key, Arc::new(value));
        }
    }
    connection.execute_batch("COMMIT")?;
    Ok(rows)
}

/// A value that no other facet, row or time has.
fn value(facet: &str, key: i64, chance: &mut Chance) -> Vec<u8> {
    let mut noise = chance.split();
    let length = chance.pick(&[0, 8, 60, 400, 1500]);
    let mut value = format!("{facet} {key} ").into_bytes();
    value.extend((0..length / 8).flat_map(|_| noise.number().to_le_bytes()));
    value
}

/// A segment's header fits one.
const SECTOR: u64 = 512;

/// Whether opening may fail like this: it is damage, and a damaged file is named. If that is one that the
/// log goes on in, and it is gone or nothing says so any more, it is said that one is missing.
pub(super) fn is_refusal(error: &Error, harm: &Harm) -> bool {
    let words = error.to_string();
    let is_named = harm.changed.files().any(|file| words.contains(&file.to_string()));
    let is_lost = harm.shortens || harm.changed.ranges().any(|(_, start, _)| start < SECTOR);
    let is_missed = is_lost && words.contains("the file of a segment is missing");
    matches!(
        error.kind(),
        lapidary_engine::ErrorKind::Corruption | lapidary_engine::ErrorKind::InvalidInput
    ) && (is_named || is_missed)
}
