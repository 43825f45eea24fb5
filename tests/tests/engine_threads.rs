//! Several threads commit, wait and read while the store's own threads flush and checkpoint, until
//! the power goes at a random operation: what was acknowledged is there, and no reader ever saw a
//! version that was lost. The schedule is the operating system's, so a seed fixes the disk only.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lapidary_engine::{
    Background, Environment, Facet, FormatParams, PageNo, PageSize, Store, StoreOptions, Tunables,
    View,
};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::name;
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};

const FACETS: usize = 6;
const WRITERS: usize = 3;
const PAGE: usize = 1024;
const PAGES: u32 = 8;

/// Highest version of each facet that was acknowledged, and that a reader saw as durable.
#[derive(Default)]
struct Seen {
    acknowledged: [AtomicU64; FACETS],
    read: [AtomicU64; FACETS],
    finished: AtomicBool,
}

/// Says that it is over when the test's own thread is done, also by a panic.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn open(disk: &SimDisk, create: bool, background: Background) -> Arc<Store> {
    let options = StoreOptions {
        create,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        tunables: Tunables {
            log_buffers: WRITERS,
            flush_interval: Duration::from_micros(100),
            checkpoint_log_bytes: 128 << 10,
            buffered_bytes_max: 64 << 10,
            spill_bytes: 4 << 10,
            ..Tunables::default()
        },
        background,
    };
    Store::open(Environment::with_io(Arc::new(disk.clone())), options).unwrap()
}

/// Version `version` writes this byte to every page that it writes.
fn byte_of(version: u64) -> u8 {
    (version % 251) as u8 + 1
}

/// Page `page` is written by every version that is a multiple of its number.
fn last_writer(page: u32, version: u64) -> u64 {
    version - version % u64::from(page)
}

fn commit(
    facet: &Arc<Facet>,
    buffer: usize,
) -> lapidary_engine::Result<(u64, lapidary_engine::Ticket)> {
    let mut writer = facet.begin_write(&facet.snapshot(View::Latest)?)?;
    let version = writer.base().version().0 + 1;
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap())?;
    }
    for page in 1..=PAGES {
        if version.is_multiple_of(u64::from(page)) {
            writer.write_page(PageNo(page), &[byte_of(version); PAGE])?;
        }
    }
    Ok((version, writer.commit(buffer)?))
}

/// Reads a version whole and checks every byte; returns its number.
fn read(facet: &Arc<Facet>, view: View) -> u64 {
    let snapshot = facet.snapshot(view).unwrap();
    let version = snapshot.version().0;
    let mut bytes = [0; PAGE];
    for page in 1..=snapshot.page_count() {
        snapshot.read_page(PageNo(page), &mut bytes).unwrap();
        let writer = last_writer(page, version);
        let expected = if writer == 0 { 0 } else { byte_of(writer) };
        assert_eq!(bytes, [expected; PAGE], "{} version {version} page {page}", facet.name());
    }
    version
}

fn write_until_the_end(store: &Store, thread: usize, seen: &Seen, seed: u64) {
    let mut chance = Chance::from_seed(seed ^ thread as u64);
    let facets: Vec<_> = (thread..FACETS)
        .step_by(WRITERS)
        .filter_map(|number| Some((number, store.open_facet(&name(&format!("f/{number}"))).ok()?)))
        .collect();
    while !facets.is_empty() {
        let (number, facet) = &facets[chance.index(facets.len())];
        let Ok((version, ticket)) = commit(facet, thread) else { return };
        if chance.one_in(3) {
            store.request_flush();
        } else {
            if store.wait_durable(ticket).is_err() {
                return;
            }
            seen.acknowledged[*number].fetch_max(version, Ordering::SeqCst);
        }
    }
}

fn read_until_the_end(store: &Store, seen: &Seen) {
    while !seen.finished.load(Ordering::SeqCst) {
        for number in 0..FACETS {
            let facet = store.open_facet(&name(&format!("f/{number}")));
            match facet.and_then(|facet| facet.snapshot(View::Durable)) {
                Ok(snapshot) => {
                    seen.read[number].fetch_max(snapshot.version().0, Ordering::SeqCst);
                }
                Err(_) => return,
            }
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn run(seed: u64) -> u64 {
    let mut chance = Chance::from_seed(seed);
    let disk = SimDisk::new(seed);
    let store = open(&disk, true, Background::Threads);
    for number in 0..FACETS {
        store.create_facet(&name(&format!("f/{number}"))).unwrap();
    }
    store.flush().unwrap();
    let at = disk.operations() + u64::from(chance.below(400));
    if chance.one_in(4) {
        disk.fail_at(at, Fault::Io);
        disk.crash_at(at + 60);
    } else {
        disk.crash_at(at);
    }
    let seen = Seen::default();
    thread::scope(|scope| {
        let (store, seen) = (&*store, &seen);
        let reader = scope.spawn(|| read_until_the_end(store, seen));
        let writers: Vec<_> = (0..WRITERS)
            .map(|thread| scope.spawn(move || write_until_the_end(store, thread, seen, seed)))
            .collect();
        let finish = Finish(&seen.finished);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        drop(finish);
        reader.join().unwrap();
    });
    drop(store);
    let survival = [Survival::Nothing, Survival::Everything, Survival::Random(seed)];
    let disk = disk.after_crash(chance.pick(&survival));
    let store = open(&disk, false, Background::Manual);
    for number in 0..FACETS {
        let facet = store.open_facet(&name(&format!("f/{number}"))).unwrap();
        let version = read(&facet, View::Durable);
        assert_eq!(version, read(&facet, View::Latest));
        let acknowledged = seen.acknowledged[number].load(Ordering::SeqCst);
        let observed = seen.read[number].load(Ordering::SeqCst);
        assert!(
            version >= acknowledged,
            "seed {seed}: {acknowledged} acknowledged, {version} left"
        );
        assert!(version >= observed, "seed {seed}: {observed} was read, {version} is left");
    }
    seen.acknowledged.iter().map(|version| version.load(Ordering::SeqCst)).sum()
}

#[test]
fn threads_until_the_power_goes() {
    let acknowledged: u64 = (0..40).map(run).sum();
    assert!(acknowledged > 400, "{acknowledged} commits were acknowledged");
}

#[test]
fn readers_and_writers_without_a_crash() {
    let disk = SimDisk::new(1);
    let store = open(&disk, true, Background::Threads);
    let facet = store.create_facet(&name("one")).unwrap();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let (store, facet, finished) = (&*store, &facet, &finished);
        for view in [View::Latest, View::Durable] {
            scope.spawn(move || {
                let mut newest = 0;
                while !finished.load(Ordering::SeqCst) {
                    let version = read(facet, view);
                    assert!(version >= newest, "{view:?} went back from {newest} to {version}");
                    newest = version;
                }
            });
        }
        scope.spawn(move || {
            while !finished.load(Ordering::SeqCst) {
                store.checkpoint().unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let _finish = Finish(finished);
        for round in 0..1500 {
            let (_, ticket) = commit(facet, round).unwrap();
            if round % 7 == 0 {
                store.wait_durable(ticket).unwrap();
            }
        }
    });
    store.close().unwrap();
    drop((facet, store));
    let store = open(&disk.after_crash(Survival::Nothing), false, Background::Manual);
    assert_eq!(read(&store.open_facet(&name("one")).unwrap(), View::Durable), 1500);
}
