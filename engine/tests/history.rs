//! History: bookmarks, snapshots of the past, restores, and what is kept for how long.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapidary_engine::{
    Background, Bookmark, Clock, Environment, Error, Facet, FacetName, FormatParams, MemoryIo,
    PageNo, PageSize, Retention, Store, StoreOptions, Tunables, View,
};

const PAGE: usize = 1024;
const KEEP: Retention = Retention { bytes: 1 << 40, age: Duration::from_secs(1 << 30) };

/// A clock that a test sets.
#[derive(Debug, Default)]
struct TestClock {
    wall_ms: AtomicU64,
    monotonic_ns: Mutex<u64>,
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        let mut now = self.monotonic_ns.lock().unwrap();
        // Maintenance looks for what is too old about once a second.
        *now += 2_000_000_000;
        *now
    }
}

struct World {
    io: MemoryIo,
    clock: Arc<TestClock>,
    tunables: Tunables,
}

impl World {
    fn new(retention: Retention) -> Self {
        let tunables = Tunables { retention, ..Tunables::default() };
        Self { io: MemoryIo::new(), clock: Arc::new(TestClock::default()), tunables }
    }

    fn open(&self) -> Arc<Store> {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let environment = Environment { clock, ..Environment::with_io(Arc::new(self.io.clone())) };
        let options = StoreOptions {
            create: true,
            format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 256 << 10 },
            tunables: self.tunables.clone(),
            background: Background::Manual,
        };
        Store::open(environment, options).unwrap()
    }

    fn at(&self, wall_ms: u64) {
        self.clock.wall_ms.store(wall_ms, Ordering::Relaxed);
    }
}

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

/// Commits pages, each filled with its byte, and makes that durable.
fn put(
    store: &Store,
    facet: &Arc<Facet>,
    page_count: Option<u32>,
    pages: &[(u32, u8)],
) -> Bookmark {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
    }
    if let Some(count) = page_count {
        writer.set_page_count(count).unwrap();
    }
    for &(page, byte) in pages {
        writer.write_page(PageNo(page), &[byte; PAGE]).unwrap();
    }
    writer.commit(0).unwrap();
    store.flush().unwrap();
    facet.bookmark().unwrap()
}

/// The first byte of each page at a bookmark.
fn at(facet: &Arc<Facet>, bookmark: &Bookmark) -> Vec<u8> {
    let snapshot = facet.snapshot_at(bookmark).unwrap();
    assert_eq!(snapshot.bookmark(), *bookmark);
    let mut page = [0; PAGE];
    let read = |number| {
        snapshot.read_page(PageNo(number), &mut page).unwrap();
        page[0]
    };
    (1..=snapshot.page_count()).map(read).collect()
}

fn assert_gone(facet: &Arc<Facet>, bookmark: &Bookmark) {
    let error = facet.snapshot_at(bookmark).unwrap_err();
    assert!(matches!(error, Error::BookmarkUnknown { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&bookmark.to_string()) && text.contains("oldest"), "{text}");
}

/// If this fails, the past is not what it was: live, replayed from the log or read from a checkpoint.
#[test]
fn every_version_opens_as_it_was() {
    let world = World::new(KEEP);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let mut expected = Vec::new();
    for round in 1..=20u8 {
        let page = 1 + u32::from(round) % 5;
        let bookmark = put(&store, &facet, None, &[(page, round)]);
        expected.push((bookmark, at(&facet, &bookmark)));
        if round == 10 {
            store.checkpoint().unwrap();
        }
    }
    let check = |facet: &Arc<Facet>| {
        for (bookmark, content) in &expected {
            assert_eq!(at(facet, bookmark), *content, "{bookmark}");
        }
        let versions = facet.versions().unwrap();
        assert_eq!(versions.len(), 21, "each commit and the empty beginning");
        assert_eq!(versions[0].kept_bytes, 0, "nothing is kept for the newest alone");
        assert!(versions.is_sorted_by(|newer, older| newer.bookmark > older.bookmark));
    };
    check(&facet);
    drop((facet, store));
    for _ in 0..2 {
        let store = world.open();
        check(&store.open_facet(&name("a")).unwrap());
        store.close().unwrap();
    }
}

/// If this fails, a commit that cuts off many pages and writes some of them again takes the past of
/// those pages with it: they read as zeros in the version before.
#[test]
fn pages_cut_off_and_written_again_in_one_commit_have_a_past() {
    let world = World::new(KEEP);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let all: Vec<(u32, u8)> = (1..=100).map(|page| (page, page as u8)).collect();
    let full = put(&store, &facet, None, &all);
    put(&store, &facet, Some(10), &[(11, 201), (40, 202), (70, 203)]);
    let expected: Vec<u8> = (1..=100).collect();
    assert_eq!(at(&facet, &full), expected);
    drop((facet, store));
    let store = world.open();
    let facet = store.open_facet(&name("a")).unwrap();
    assert_eq!(at(&facet, &full), expected, "after a recovery");
}

/// If this fails, a restore loses what was there before it, or does not survive a crash.
#[test]
fn a_restore_can_be_undone() {
    let world = World::new(KEEP);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let first = put(&store, &facet, None, &[(1, 1), (2, 1), (3, 1)]);
    put(&store, &facet, Some(1), &[(2, 2)]);
    let restored = facet.restore(&first).unwrap();
    assert!(!store.is_durable(restored.ticket).unwrap());
    store.wait_durable(restored.ticket).unwrap();
    let back = facet.bookmark().unwrap();
    assert!(back > restored.undo && restored.undo > first);
    assert_eq!(at(&facet, &back), [1, 1, 1]);
    store.wait_durable(facet.restore(&restored.undo).unwrap().ticket).unwrap();
    assert_eq!(at(&facet, &facet.bookmark().unwrap()), [1, 2]);
    assert_eq!(at(&facet, &back), [1, 1, 1], "what was undone stays in the history");
    drop((facet, store));
    let store = world.open();
    let facet = store.open_facet(&name("a")).unwrap();
    assert_eq!(at(&facet, &facet.bookmark().unwrap()), [1, 2]);
    assert_eq!(at(&facet, &back), [1, 1, 1]);
    let report = store.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

/// If this fails, a bookmark of a commit that a crash took opens the one that came in its place.
#[test]
fn a_bookmark_of_a_lost_version_is_refused() {
    let world = World::new(KEEP);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    put(&store, &facet, None, &[(1, 1)]);
    let mut writer = facet.begin_write_latest().unwrap();
    writer.write_page(PageNo(1), &[2; PAGE]).unwrap();
    writer.commit(0).unwrap();
    let lost = writer.base().bookmark();
    assert_gone(&facet, &lost);
    drop((writer, facet, store));
    let store = world.open();
    let facet = store.open_facet(&name("a")).unwrap();
    let new = put(&store, &facet, None, &[(1, 3)]);
    assert_eq!(new.version, lost.version, "the number is used again");
    assert_gone(&facet, &lost);
    assert_eq!(at(&facet, &new), [3]);
    let other = store.create_facet(&name("b")).unwrap();
    assert_gone(&other, &new);
}

/// If this fails, history grows without bound, or leaves while it should be kept.
#[test]
fn what_is_beyond_bytes_or_age_leaves() {
    let bytes = Retention { bytes: 8 << 10, age: Duration::from_secs(1 << 30) };
    let world = World::new(bytes);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let marks: Vec<Bookmark> =
        (1..=30u8).map(|round| put(&store, &facet, None, &[(1, round)])).collect();
    assert_gone(&facet, &marks[0]);
    assert_eq!(at(&facet, &marks[28]), [29]);
    let kept: u64 = facet.versions().unwrap().iter().map(|version| version.kept_bytes).sum();
    assert!(kept <= 8 << 10 && kept == store.stat().history_bytes, "{kept}");

    let age = Retention { bytes: 1 << 40, age: Duration::from_secs(60) };
    store.set_retention(&name("b"), Some(age)).unwrap();
    let facet = store.create_facet(&name("b")).unwrap();
    let mut marks = Vec::new();
    for second in 0..100 {
        world.at(second * 1000);
        marks.push(put(&store, &facet, None, &[(1, second as u8)]));
    }
    // What was replaced 60 seconds ago or later is kept.
    assert_eq!(at(&facet, &marks[38]), [38]);
    assert_gone(&facet, &marks[37]);
    // Nobody commits, and it leaves all the same.
    world.at(1_000_000);
    while store.maintain().unwrap() {}
    assert_gone(&facet, &marks[98]);
    assert_eq!(at(&facet, &marks[99]), [99]);
}

/// If this fails, one store-wide bound does not hold.
#[test]
fn all_history_together_is_bounded() {
    let mut world = World::new(KEEP);
    world.tunables.history_bytes_max = 64 << 10;
    let store = world.open();
    for text in ["a", "b", "c"] {
        let facet = store.create_facet(&name(text)).unwrap();
        for round in 0..100 {
            put(&store, &facet, None, &[(1 + round % 7, round as u8)]);
        }
    }
    while store.maintain().unwrap() {}
    let stat = store.stat();
    assert!(stat.history_bytes <= 64 << 10 && stat.history_bytes > 8 << 10, "{stat:?}");
}

/// If this fails, a setting goes for other names than it was set on, or is forgotten.
#[test]
fn a_retention_goes_for_a_subtree() {
    let world = World::new(Retention::OFF);
    let store = world.open();
    store.set_retention(&name("t"), Some(KEEP)).unwrap();
    store.set_retention(&name("t/off"), Some(Retention::OFF)).unwrap();
    let keeps = |store: &Store, text: &str| {
        let facet = store.open_or_create_facet(&name(text)).unwrap();
        let old = put(store, &facet, None, &[(1, 1)]);
        put(store, &facet, None, &[(1, 2)]);
        facet.snapshot_at(&old).is_ok()
    };
    let check = |store: &Store| {
        let found: Vec<bool> =
            ["t", "t/x", "t/off", "t/off/x", "u"].iter().map(|text| keeps(store, text)).collect();
        assert_eq!(found, [true, true, false, false, false]);
        assert_eq!(store.retention(&name("t")), Some(KEEP));
        assert_eq!(store.retention(&name("t/x")), None);
    };
    check(&store);
    drop(store);
    let store = world.open();
    check(&store);
    store.rename_facet(&name("t"), &name("v")).unwrap();
    assert!(keeps(&store, "v/x") && !keeps(&store, "v/off/x") && !keeps(&store, "t/x"));
    store.close().unwrap();
    let store = world.open();
    assert_eq!(store.retention(&name("v")), Some(KEEP));
    store.set_retention(&name("v"), None).unwrap();
    assert!(!keeps(&store, "v/x"));
}

/// If this fails, versions from before a time in which nothing was kept open as a mixture of then and
/// now after a recovery.
#[test]
fn a_time_without_retention_ends_the_past() {
    let world = World::new(KEEP);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let old: Vec<Bookmark> =
        (1..4).map(|byte| put(&store, &facet, None, &[(byte, byte as u8)])).collect();
    store.checkpoint().unwrap();
    store.set_retention(&name("a"), Some(Retention::OFF)).unwrap();
    put(&store, &facet, None, &[(1, 7), (2, 7), (3, 7)]);
    store.set_retention(&name("a"), None).unwrap();
    let new = put(&store, &facet, None, &[(1, 8)]);
    put(&store, &facet, None, &[(1, 9)]);
    let check = |facet: &Arc<Facet>| {
        for bookmark in &old {
            assert_gone(facet, bookmark);
        }
        assert_eq!(at(facet, &new), [8, 7, 7]);
    };
    check(&facet);
    drop((facet, store));
    let store = world.open();
    check(&store.open_facet(&name("a")).unwrap());
}

/// If this fails, a moment leads to a version that was not the newest then.
#[test]
fn a_version_is_found_by_time() {
    let world = World::new(KEEP);
    world.at(1000);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let mut marks = Vec::new();
    for at in [2000, 3000, 3000, 2500, 4000] {
        world.at(at);
        marks.push(put(&store, &facet, None, &[(1, marks.len() as u8)]));
    }
    for (moment, index) in [(2000, 0), (2499, 0), (3500, 3), (2500, 3), (9999, 4)] {
        assert_eq!(facet.bookmark_at(moment).unwrap(), marks[index], "at {moment}");
    }
    store.set_retention(&name("a"), Some(Retention::OFF)).unwrap();
    put(&store, &facet, None, &[(1, 9)]);
    assert!(matches!(facet.bookmark_at(3000), Err(Error::BookmarkUnknown { .. })));
    assert_eq!(facet.snapshot(View::Durable).unwrap().wall_ms(), 4000);
}

/// If this fails, a snapshot of the past changes under its reader when its version leaves.
#[test]
fn a_snapshot_of_the_past_outlives_its_version() {
    let world = World::new(KEEP);
    let store = world.open();
    let facet = store.create_facet(&name("a")).unwrap();
    let old = put(&store, &facet, None, &[(1, 1), (2, 2)]);
    put(&store, &facet, None, &[(1, 3)]);
    let snapshot = facet.snapshot_at(&old).unwrap();
    store.set_retention(&name("a"), Some(Retention::OFF)).unwrap();
    for round in 0..200 {
        put(&store, &facet, None, &[(1, round), (2, round)]);
        if round % 20 == 0 {
            store.checkpoint().unwrap();
            store.clean().unwrap();
        }
        while store.maintain().unwrap() {}
    }
    assert_gone(&facet, &old);
    let mut page = [0; PAGE];
    for (number, byte) in [(1, 1), (2, 2)] {
        snapshot.read_page(PageNo(number), &mut page).unwrap();
        assert_eq!(page, [byte; PAGE]);
    }
}
