//! Pages read in place: what they show, and that they stay for as long as they are held.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use lapidary_engine::{
    Background, Environment, Error, Facet, FileName, FormatParams, HeldPages, Io, MemoryIo, PageNo,
    PageSize, PosixIo, Snapshot, Store, StoreOptions, Tunables, View,
};
use support::name;
use tempfile::TempDir;

const PAGE: usize = 4096;
const PAST: usize = 256;
const PAGES: u32 = 200;

fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 128 << 10 },
        background: Background::Manual,
        tunables: Tunables { checkpoint_log_bytes: 256 << 10, ..Tunables::default() },
    }
}

struct Disk {
    directory: TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn io(&self) -> Arc<dyn Io> {
        Arc::new(PosixIo::new(&self.directory.path().join("store")))
    }

    fn try_open(&self, tunables: Tunables) -> Result<Arc<Store>, Error> {
        Store::open(Environment::with_io(self.io()), StoreOptions { tunables, ..options() })
    }

    fn open(&self) -> Arc<Store> {
        self.try_open(options().tunables).unwrap()
    }
}

fn page(seed: u64) -> [u8; PAGE] {
    support::noise(seed)
}

fn put(facet: &Arc<Facet>, number: u32, image: &[u8]) {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(image.len()).unwrap()).unwrap();
    }
    writer.write_page(PageNo(number), image).unwrap();
    writer.commit(0).unwrap();
}

/// Pages that follow from `generation`, in segments that the log has left.
fn fill(store: &Store, facet: &Arc<Facet>, generation: u64) {
    for number in 1..=PAGES {
        put(facet, number, &page(generation * 1000 + u64::from(number)));
        if number % 10 == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
}

/// Makes garbage of what the log holds so far, and has everything moved that is live.
fn churn(store: &Store) {
    for round in 0..3 {
        let facet = store.open_or_create_facet(&name("churn")).unwrap();
        fill(store, &facet, 100 + round);
        while store.clean().unwrap().segments > 0 {
            store.checkpoint().unwrap();
        }
        while store.maintain().unwrap() {}
    }
    store.checkpoint().unwrap();
}

fn durable(facet: &Arc<Facet>) -> Snapshot {
    facet.snapshot(View::Durable).unwrap()
}

/// How many of the pages can be held; those must be right.
fn hold_all(held: &mut HeldPages, snapshot: &Snapshot, generation: u64) -> usize {
    let mut count = 0;
    for number in 1..=PAGES {
        if let Some(bytes) = held.hold(snapshot, PageNo(number), PAST) {
            assert_eq!(bytes.len(), PAGE + PAST);
            assert_eq!(bytes.as_ptr().align_offset(8), 0, "SQLite reads words");
            assert_eq!(bytes[..PAGE], page(generation * 1000 + u64::from(number)), "{number}");
            count += 1;
        }
    }
    count
}

fn let_go_all(held: &mut HeldPages) {
    while held.count() > 0 {
        held.let_go();
    }
}

#[test]
fn what_is_read_in_place_is_what_is_read() {
    let disk = Disk::new();
    let store = disk.open();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    let mut held = facet.held_pages();
    let count = hold_all(&mut held, &durable(&facet), 1);
    // Not what is in the segment that is being written, nor where one ends.
    assert!((150..200).contains(&count), "{count}");
    assert_eq!(held.count(), count);
    let_go_all(&mut held);

    // What was moved is read where it is now, by who comes later and by who knows the old place.
    churn(&store);
    assert!(store.stat().forwards > 100, "{:?}", store.stat());
    for held in [&mut held, &mut facet.held_pages()] {
        let count = hold_all(held, &durable(&facet), 1);
        assert!(count > 150, "{count}");
        let_go_all(held);
    }
    drop((held, facet));
    store.close().unwrap();

    let store = disk.open();
    let facet = store.open_facet(&name("a")).unwrap();
    let count = hold_all(&mut facet.held_pages(), &durable(&facet), 1);
    assert!(count > 150, "{count}");
}

#[test]
fn only_full_images_that_are_stored_and_finished() {
    let disk = Disk::new();
    let store = disk.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let mut held = facet.held_pages();
    assert!(held.hold(&durable(&facet), PageNo(1), PAST).is_none(), "no page at all");
    put(&facet, 1, &page(1));
    let latest = facet.snapshot(View::Latest).unwrap();
    assert!(held.hold(&latest, PageNo(1), PAST).is_none(), "in memory");
    store.flush().unwrap();
    assert!(held.hold(&durable(&facet), PageNo(1), PAST).is_none(), "in the segment being written");

    let mut sparse = [0; PAGE];
    sparse[..100].fill(1);
    put(&facet, 2, &sparse);
    put(&facet, 4, &page(4));
    fill(&store, &store.create_facet(&name("b")).unwrap(), 1);
    let snapshot = durable(&facet);
    assert!(held.hold(&snapshot, PageNo(1), PAST).is_some(), "now it was left");
    assert!(held.hold(&snapshot, PageNo(2), PAST).is_none(), "stored without zeros");
    assert!(held.hold(&snapshot, PageNo(3), PAST).is_none(), "never written");
    assert!(held.hold(&snapshot, PageNo(4), PAST).is_some());
    for missing in [0, 5, u32::MAX] {
        assert!(held.hold(&snapshot, PageNo(missing), PAST).is_none());
    }
    assert!(held.hold(&snapshot, PageNo(1), 1 << 20).is_none(), "no segment is that long");

    // What a transaction has changed is not what is in place.
    let mut writer = facet.begin_write_latest().unwrap();
    writer.write_page(PageNo(1), &page(5)).unwrap();
    assert!(held.hold_in(&writer, PageNo(1), PAST).is_none(), "staged");
    assert!(held.hold_in(&writer, PageNo(4), PAST).is_some());
    writer.set_page_count(3).unwrap();
    writer.set_page_count(4).unwrap();
    assert!(held.hold_in(&writer, PageNo(4), PAST).is_none(), "cut off");
    drop(writer);

    let other = Disk::new();
    let other_store = other.open();
    let stranger = other_store.create_facet(&name("a")).unwrap();
    assert!(stranger.held_pages().hold(&snapshot, PageNo(1), PAST).is_none(), "another store's");
}

/// If this fails, a page changes under who reads it.
#[test]
fn a_held_page_outlives_everything() {
    let disk = Disk::new();
    let store = disk.open();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    let mut held = facet.held_pages();
    let pages: Vec<(u32, *const u8)> = (1..=PAGES)
        .filter_map(|number| {
            let bytes = held.hold(&durable(&facet), PageNo(number), PAST)?;
            Some((number, bytes.as_ptr()))
        })
        .collect();
    assert_eq!(pages.len(), held.count());
    let unchanged = |held: &mut HeldPages, facet: &Arc<Facet>, at: usize| {
        let (number, address) = pages[at];
        // Held again: it has to be the same memory, with the same bytes.
        let bytes = held.hold(&durable(facet), PageNo(number), PAST).unwrap();
        assert_eq!(bytes.as_ptr(), address);
        assert_eq!(bytes[..PAGE], page(1000 + u64::from(number)));
        held.let_go();
    };
    // Everything is moved: the old places are empty, but not used for anything else.
    churn(&store);
    for at in 0..pages.len() {
        unchanged(&mut held, &facet, at);
    }
    let allocated = store.stat().allocated_bytes;
    let_go_all(&mut held);
    store.checkpoint().unwrap();
    while store.maintain().unwrap() {}
    let without = store.stat().allocated_bytes;
    assert!(without + u64::from(PAGES) * PAGE as u64 / 2 < allocated, "{without} {allocated}");

    // The same with the facet deleted and its snapshot gone.
    let mut held = facet.held_pages();
    let count = hold_all(&mut held, &durable(&facet), 1);
    assert!(count > 150);
    drop(facet);
    store.delete_facet(&name("a")).unwrap();
    churn(&store);
    let allocated = store.stat().allocated_bytes;
    drop(held);
    store.checkpoint().unwrap();
    while store.maintain().unwrap() {}
    let without = store.stat().allocated_bytes;
    assert!(without + u64::from(PAGES) * PAGE as u64 / 2 < allocated, "{without} {allocated}");
    assert!(store.verify(&mut |_| ()).unwrap().is_clean());
}

/// If this fails, another process may write to files that are still read in place.
#[test]
fn a_closed_store_stays_locked_while_a_page_is_held() {
    let disk = Disk::new();
    let store = disk.open();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    let snapshot = durable(&facet);
    let mut held = facet.held_pages();
    let mut late = facet.held_pages();
    assert!(late.hold(&snapshot, PageNo(1), PAST).is_some());
    late.let_go();
    assert!(held.hold(&snapshot, PageNo(1), PAST).is_some());
    store.close().unwrap();
    assert!(late.hold(&snapshot, PageNo(1), PAST).is_none(), "closed is closed");
    assert!(held.hold(&snapshot, PageNo(2), PAST).is_none());
    assert!(matches!(disk.try_open(options().tunables), Err(Error::Locked { .. })));
    held.let_go();
    disk.open();
}

#[test]
fn a_damaged_page_is_not_held_and_the_others_are() {
    let disk = Disk::new();
    let store = disk.open();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    store.close().unwrap();
    drop((facet, store));

    let target = page(1000 + 7);
    let io = disk.io();
    for number in io.list_segments().unwrap() {
        let file = io.open(FileName::Segment(number)).unwrap();
        let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut content).unwrap();
        if let Some(at) = content.windows(64).position(|window| *window == target[..64]) {
            file.write_at(at as u64 + 50, &[content[at + 50] ^ 1]).unwrap();
        }
    }
    let store = disk.open();
    let facet = store.open_facet(&name("a")).unwrap();
    let snapshot = durable(&facet);
    let mut held = facet.held_pages();
    assert!(held.hold(&snapshot, PageNo(7), PAST).is_none());
    assert_eq!(held.count(), 0);
    let error = snapshot.read_page(PageNo(7), &mut [0; PAGE]).unwrap_err();
    assert!(matches!(error, Error::PageCorrupt { page: PageNo(7), .. }), "{error}");
    for number in [6, 8] {
        let bytes = held.hold(&snapshot, PageNo(number), PAST).unwrap();
        assert_eq!(bytes[..PAGE], page(1000 + u64::from(number)));
    }
}

#[test]
fn mappings_are_bounded() {
    let disk = Disk::new();
    let store = disk.try_open(Tunables { mapped_segments_max: 2, ..options().tunables }).unwrap();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    let snapshot = durable(&facet);
    let mut held = facet.held_pages();
    let count = hold_all(&mut held, &snapshot, 1);
    assert!((10..100).contains(&count), "two segments: {count}");
    // What others hold cannot be ended, so there is nothing for these.
    let others = hold_all(&mut facet.held_pages(), &snapshot, 1);
    assert_eq!(others, count);
    let_go_all(&mut held);
    // One at a time, all are to be had.
    let mut one_at_a_time = |number| {
        let is_held = held.hold(&snapshot, PageNo(number), PAST).is_some();
        held.let_go();
        is_held
    };
    assert!((1..=PAGES).filter(|&number| one_at_a_time(number)).count() > 150);

    let disk = Disk::new();
    let store = disk.try_open(Tunables { mapped_segments_max: 0, ..options().tunables }).unwrap();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    assert!(!facet.held_pages().is_allowed());
    assert_eq!(hold_all(&mut facet.held_pages(), &durable(&facet), 1), 0);
}

#[test]
fn in_memory_there_is_nothing_to_map() {
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let store = Store::open(environment, options()).unwrap();
    let facet = store.create_facet(&name("a")).unwrap();
    fill(&store, &facet, 1);
    assert_eq!(hold_all(&mut facet.held_pages(), &durable(&facet), 1), 0);
}
