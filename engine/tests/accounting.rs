//! Random lives of a store, verified again and again: what is counted as live, and as shared, is what is
//! there, whatever was forked, restored, deleted, cleaned and reopened.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{
    Background, Bookmark, Environment, FacetName, ForkFrom, FormatParams, MemoryIo, PageNo,
    PageSize, Retention, Snapshot, Store, StoreOptions, Tunables, View,
};

const PAGE: usize = 512;
const RETENTION: Retention = Retention { bytes: 1 << 20, age: Duration::from_secs(36_000) };
const NAMES: [&str; 7] = ["a", "a/b", "a/b/c", "d", "d/e", "f", "g"];

type Pages = BTreeMap<u32, u8>;

/// A page as that byte stands for it; most differ from each other in one word, and so are logged as
/// deltas.
fn image(byte: u8) -> [u8; PAGE] {
    if byte.is_multiple_of(4) {
        return [byte; PAGE];
    }
    let mut image = [0x77; PAGE];
    image[usize::from(byte) * 2] = byte;
    image
}

struct Life {
    io: MemoryIo,
    store: Option<Arc<Store>>,
    /// All the time; if not, perhaps sometimes.
    keeps_history: bool,
    delta_memory_bytes_max: usize,
    chance: u64,
    facets: BTreeMap<FacetName, Pages>,
    bookmarks: Vec<(FacetName, Bookmark, Pages)>,
    held: Vec<(Snapshot, Pages)>,
    log: Vec<String>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut life = Self {
            io: MemoryIo::new(),
            store: None,
            keeps_history: seed % 3 == 1,
            delta_memory_bytes_max: if seed.is_multiple_of(5) { 20 * PAGE } else { 1 << 20 },
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            facets: BTreeMap::new(),
            bookmarks: Vec::new(),
            held: Vec::new(),
            log: Vec::new(),
        };
        life.open();
        life
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 20) as u32 % limit
    }

    fn open(&mut self) {
        let keeps = self.keeps_history || self.chance % 3 == 1;
        let options = StoreOptions {
            create: true,
            format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
            background: Background::Manual,
            tunables: Tunables {
                spill_bytes: 4 << 10,
                retention: if keeps { RETENTION } else { Retention::OFF },
                delta_memory_bytes_max: self.delta_memory_bytes_max,
                ..Tunables::default()
            },
        };
        let environment = Environment::with_io(Arc::new(self.io.clone()));
        self.store = Some(Store::open(environment, options).unwrap());
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().unwrap()
    }

    fn name(&mut self) -> FacetName {
        let at = self.below(NAMES.len() as u32) as usize;
        FacetName::new(NAMES[at]).unwrap()
    }

    fn commit(&mut self, name: &FacetName) {
        let facet = self.store().open_or_create_facet(name).unwrap();
        let mut pages = self.facets.get(name).cloned().unwrap_or_default();
        let mut writer = facet.begin_write_latest().unwrap();
        if writer.page_size().is_none() {
            writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
        }
        if self.below(8) == 0 {
            let keep = self.below(80);
            if keep < writer.page_count() {
                writer.set_page_count(keep).unwrap();
                pages.retain(|&page, _| page <= keep);
            }
        }
        for _ in 0..1 + self.below(20) {
            let (page, byte) = (1 + self.below(90), self.below(256) as u8);
            writer.write_page(PageNo(page), &image(byte)).unwrap();
            pages.insert(page, byte);
        }
        writer.commit(0).unwrap();
        drop(writer);
        if self.below(2) == 0 {
            self.store().flush().unwrap();
            let bookmark = facet.bookmark().unwrap();
            self.bookmarks.push((name.clone(), bookmark, pages.clone()));
        }
        self.facets.insert(name.clone(), pages);
    }

    fn step(&mut self) {
        let name = self.name();
        let kind = self.below(24);
        self.log.push(format!("{kind} {name}"));
        match kind {
            0..8 => self.commit(&name),
            8 => {
                if self.store().delete_facet(&name).is_ok() {
                    self.facets.retain(|other, _| !other.is_within(&name));
                    self.bookmarks.retain(|(other, ..)| !other.is_within(&name));
                }
            }
            9..12 => {
                let to = self.name();
                let from = [ForkFrom::Latest, ForkFrom::Durable][self.below(2) as usize];
                if from == ForkFrom::Durable {
                    self.store().flush().unwrap();
                }
                if self.store().fork_facet(&name, &to, from).is_ok() {
                    let pages = self.facets[&name].clone();
                    self.facets.insert(to, pages);
                }
            }
            12 => {
                let to = FacetName::new(format!("z{}", self.below(3))).unwrap();
                if self.store().fork_subtree(&name, &to, ForkFrom::Latest).is_ok() {
                    let copies: Vec<_> = self
                        .facets
                        .iter()
                        .filter_map(|(from, pages)| {
                            Some((from.moved(&name, &to).unwrap()?, pages.clone()))
                        })
                        .collect();
                    self.facets.extend(copies);
                } else if self.store().delete_facet(&to).is_ok() {
                    self.facets.retain(|other, _| !other.is_within(&to));
                }
            }
            13 | 14 if !self.bookmarks.is_empty() => {
                let at = self.below(self.bookmarks.len() as u32) as usize;
                let (name, bookmark, pages) = self.bookmarks[at].clone();
                if kind == 13 {
                    let facet = self.store().open_facet(&name).unwrap();
                    match facet.restore(&bookmark) {
                        Ok(_) => drop(self.facets.insert(name, pages)),
                        Err(error) => assert!(!self.keeps_history, "{error}"),
                    }
                } else {
                    let to = self.name();
                    let forked = self.store().fork_facet(&name, &to, ForkFrom::Bookmark(bookmark));
                    if forked.is_ok() {
                        self.facets.insert(to, pages);
                    }
                }
            }
            15 => {
                if let Ok(facet) = self.store().open_facet(&name) {
                    let snapshot = facet.snapshot(View::Latest).unwrap();
                    self.held.push((snapshot, self.facets[&name].clone()));
                    if self.held.len() > 3 {
                        self.held.remove(0);
                    }
                }
            }
            16 => self.store().flush().unwrap(),
            17 => self.store().checkpoint().unwrap(),
            18 | 19 => drop(self.store().clean().unwrap()),
            20 => drop(self.store().maintain().unwrap()),
            22 if !self.keeps_history => {
                let retention = (self.below(2) == 0).then_some(RETENTION);
                self.store().set_retention(&name, retention).unwrap();
            }
            21 => {
                // What is not durable is lost, and so is what was taken from it.
                self.store().flush().unwrap();
                self.check();
                self.held.clear();
                self.store = None;
                self.open();
            }
            _ => self.verify(),
        }
    }

    fn verify(&mut self) {
        let report = self.store().verify(&mut |_| ()).unwrap();
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{:#?}\n{findings:#?}", self.log);
    }

    fn check(&self) {
        let read = |snapshot: &Snapshot, pages: &Pages, what: &str| {
            let mut image = [0; PAGE];
            for page in 1..=snapshot.page_count() {
                snapshot.read_page(PageNo(page), &mut image).unwrap();
                let expected = pages.get(&page).copied().unwrap_or(0);
                let is_right = image == self::image(expected);
                assert!(is_right, "page {page} of {what} is not {expected}: {:#?}", self.log);
            }
        };
        for (name, pages) in &self.facets {
            let facet = self.store().open_facet(name).unwrap();
            read(&facet.snapshot(View::Latest).unwrap(), pages, name.as_str());
        }
        for (snapshot, pages) in &self.held {
            read(snapshot, pages, "a held snapshot");
        }
        for (name, bookmark, pages) in &self.bookmarks {
            let facet = self.store().open_facet(name).unwrap();
            match facet.snapshot_at(bookmark) {
                Ok(snapshot) => read(&snapshot, pages, "the past"),
                Err(error) => assert!(!self.keeps_history, "{error}"),
            }
        }
    }
}

fn live(seed: u64, steps: u32) {
    let mut life = Life::new(seed);
    for _ in 0..steps {
        life.step();
    }
    life.check();
    life.verify();
    life.held.clear();
    for name in NAMES.into_iter().chain(["z0", "z1", "z2"]) {
        let _ = life.store().delete_facet(&FacetName::new(name).unwrap());
    }
    for _ in 0..2 {
        life.store().checkpoint().unwrap();
    }
    let stat = life.store().stat();
    // What the cleaner is still filling is named in the checkpoint, dead or not.
    let named = 16 * stat.forwards;
    assert!(stat.live_bytes < 4096 + named, "seed {seed}: something still counts: {stat:?}");
    assert_eq!((stat.shared_references, stat.history_bytes), (0, 0), "seed {seed}");
}

/// If this fails, space is lost, or given to something else while it is still needed. A panic in
/// another place, with the seed it prints, means the same.
#[test]
fn what_is_counted_is_what_is_there() {
    let more = std::env::var("LAPIDARY_SIM_SEEDS").ok().and_then(|count| count.parse().ok());
    for seed in 1..=more.unwrap_or(30) {
        println!("seed {seed}");
        live(seed, 200);
    }
}
