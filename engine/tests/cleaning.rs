//! Cleaning, and verification of what it leaves.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod support;

use std::sync::Arc;

use lapidary_engine::{
    Background, Environment, Facet, FindingKind, ForkFrom, FormatParams, MemoryIo, PageNo,
    PageSize, Retention, Store, StoreOptions, Tunables, View,
};
use support::name;

const PAGE: usize = 1024;

fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 128 << 10 },
        background: Background::Manual,
        tunables: Tunables { checkpoint_log_bytes: 256 << 10, ..Tunables::default() },
    }
}

fn open(io: &MemoryIo) -> Arc<Store> {
    Store::open(Environment::with_io(Arc::new(io.clone())), options()).unwrap()
}

fn page(seed: u64) -> [u8; PAGE] {
    support::noise(seed)
}

fn put(facet: &Arc<Facet>, number: u32, seed: u64) {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
    }
    writer.write_page(PageNo(number), &page(seed)).unwrap();
    writer.commit(0).unwrap();
}

fn check(facet: &Arc<Facet>, expected: &[u64]) {
    let snapshot = facet.snapshot(View::Durable).unwrap();
    let mut read = [0; PAGE];
    for (number, &seed) in (1..).zip(expected) {
        snapshot.read_page(PageNo(number), &mut read).unwrap();
        assert_eq!(read, page(seed), "page {number} of {}", facet.name());
    }
}

fn assert_verified(store: &Store) {
    let report = store.verify(&mut |_| ()).unwrap();
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{findings:#?}");
}

fn idle(store: &Store) {
    store.flush().unwrap();
    for _ in 0..10_000 {
        if !store.maintain().unwrap() {
            return;
        }
    }
    panic!("maintenance never ends: {:?}", store.stat());
}

/// If this fails, a store that is overwritten at random grows for ever, or cleaning loses pages.
#[test]
fn space_stays_within_bounds_under_random_overwrites() {
    let io = MemoryIo::new();
    let store = open(&io);
    let mut chance = 7_u64;
    let mut next = move || {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        chance >> 33
    };
    let (facets, pages) = (40_usize, 64_u32);
    let mut expected = vec![vec![0_u64; pages as usize]; facets];
    let handles: Vec<_> =
        (0..facets).map(|n| store.create_facet(&name(format!("f/{n}"))).unwrap()).collect();
    for (n, facet) in handles.iter().enumerate() {
        for number in 1..=pages {
            put(facet, number, 0);
            expected[n][number as usize - 1] = 0;
        }
        store.flush().unwrap();
    }
    let mut worst = 0.0_f64;
    for round in 0..30_000_u64 {
        let (n, number) = (next() as usize % facets, next() as u32 % pages + 1);
        put(&handles[n], number, round);
        expected[n][number as usize - 1] = round;
        if round % 16 == 0 {
            store.flush().unwrap();
            while store.maintain().unwrap() {}
        }
        if round > 10_000 && round % 500 == 0 {
            let stat = store.stat();
            worst = worst.max(stat.allocated_bytes as f64 / stat.live_bytes as f64);
        }
    }
    store.flush().unwrap();
    let stat = store.stat();
    assert!(stat.cleaned_segments > 50, "{stat:?}");
    // The bound for real stores is 1.25; here the log since the last checkpoint and what is kept
    // ready are a large part of so small a store.
    assert!(worst < 2.0, "{worst}, {stat:?}");
    for (facet, expected) in handles.iter().zip(&expected) {
        check(facet, expected);
    }
    assert_verified(&store);
    drop((handles, store));

    let store = open(&io);
    for (n, expected) in expected.iter().enumerate() {
        check(&store.open_facet(&name(format!("f/{n}"))).unwrap(), expected);
    }
    assert_verified(&store);
}

/// If this fails, cleaning takes something for garbage that a fork, a version of the past or a
/// deleted source's fork still needs, or keeps what nobody does.
#[test]
fn forks_and_history_survive_cleaning() {
    let io = MemoryIo::new();
    let store = open(&io);
    let keep = Retention { bytes: 10 << 20, age: std::time::Duration::from_secs(3600) };
    store.set_retention(&name("past"), Some(keep)).unwrap();
    let template = store.create_facet(&name("template")).unwrap();
    let past = store.create_facet(&name("past")).unwrap();
    for number in 1..=100 {
        put(&template, number, 1);
        put(&past, number, 1);
    }
    store.flush().unwrap();
    let first = past.bookmark().unwrap();
    let mut forks = Vec::new();
    for n in 0..20_u64 {
        let (fork, _) = store
            .fork_facet(&name("template"), &name(format!("fork/{n}")), ForkFrom::Latest)
            .unwrap();
        for number in 1..=n as u32 {
            put(&fork, number * 5, 100 + n);
        }
        put(&template, n as u32 + 1, 50 + n);
        put(&past, n as u32 + 1, 60 + n);
        forks.push(fork);
        store.flush().unwrap();
        if n % 3 == 0 {
            store.checkpoint().unwrap();
            store.clean().unwrap();
        }
    }
    let expected_fork = |n: u64| {
        let mut pages = vec![1; 100];
        (0..n as usize).for_each(|earlier| pages[earlier] = 50 + earlier as u64);
        (1..=n as usize).for_each(|number| pages[number * 5 - 1] = 100 + n);
        pages
    };
    let check_all = |store: &Store| {
        for n in (0..20).filter(|n| n % 4 != 1) {
            check(&store.open_facet(&name(format!("fork/{n}"))).unwrap(), &expected_fork(n));
        }
        let past = store.open_facet(&name("past")).unwrap();
        let old = past.snapshot_at(&first).unwrap();
        let mut read = [0; PAGE];
        for number in 1..=100 {
            old.read_page(PageNo(number), &mut read).unwrap();
            assert_eq!(read, page(1), "page {number}");
        }
    };
    drop(forks);
    store.delete_facet(&name("template")).unwrap();
    for n in (0..20).filter(|n| n % 4 == 1) {
        store.delete_facet(&name(format!("fork/{n}"))).unwrap();
    }
    for _ in 0..6 {
        store.checkpoint().unwrap();
        store.clean().unwrap();
        check_all(&store);
        assert_verified(&store);
    }
    past.restore(&first).unwrap();
    store.flush().unwrap();
    assert_verified(&store);
    drop((past, template, store));
    let store = open(&io);
    check_all(&store);
    check(&store.open_facet(&name("past")).unwrap(), &[1; 100]);
    assert_verified(&store);

    for top in ["past", "fork"] {
        store.delete_facet(&name(top)).unwrap();
    }
    idle(&store);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let stat = store.stat();
    assert!(stat.live_bytes < 4096, "something is still counted as live: {stat:?}");
    assert_eq!((stat.shared_references, stat.history_bytes), (0, 0));
}

/// If this fails, deleting a thousand facets means copying the rest of the store, or gives nothing
/// back to the file system.
#[test]
fn deleted_facets_give_space_back_without_a_copy() {
    let io = MemoryIo::new();
    let store = open(&io);
    for n in 0..200 {
        let facet = store.create_facet(&name(format!("gone/{n}"))).unwrap();
        (1..=16).for_each(|number| put(&facet, number, n));
        store.flush().unwrap();
    }
    idle(&store);
    let before = store.stat();
    assert!(before.allocated_bytes > 3 << 20);
    store.delete_facet(&name("gone")).unwrap();
    idle(&store);
    store.checkpoint().unwrap();
    idle(&store);
    let after = store.stat();
    assert_eq!(after.cleaned_bytes, before.cleaned_bytes);
    assert!(after.allocated_bytes < before.allocated_bytes / 3, "{before:?} {after:?}");
    assert_verified(&store);
}

/// If this fails, a damaged page is not found, or is blamed on somebody else.
#[test]
fn a_damaged_page_is_found_and_named() {
    let io = MemoryIo::new();
    let store = open(&io);
    for n in 0..3 {
        let facet = store.create_facet(&name(format!("f/{n}"))).unwrap();
        put(&facet, 1, 10 + n);
    }
    store.close().unwrap();
    support::flip(&io, &page(11)[..32]);
    let store = open(&io);
    let report = store.verify(&mut |_| ()).unwrap();
    let kinds: Vec<_> =
        report.findings.iter().map(|found| (found.kind, found.facet.as_deref())).collect();
    assert_eq!(kinds, [(FindingKind::Page, Some("f/1")), (FindingKind::Record, None)]);
    assert_eq!(report.findings[0].page, Some(PageNo(1)));
    assert!(report.findings[0].path.ends_with(".seg"), "{}", report.findings[0]);
    check(&store.open_facet(&name("f/0")).unwrap(), &[10]);
    check(&store.open_facet(&name("f/2")).unwrap(), &[12]);
}

/// If this fails, a snapshot of a facet that was just deleted reads what is there instead.
#[test]
fn a_snapshot_of_what_was_just_deleted_stays() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = store.create_facet(&name("a")).unwrap();
    (1..=40).for_each(|number| put(&facet, number, 1));
    store.flush().unwrap();
    let old = facet.snapshot(View::Durable).unwrap();
    (1..=40).for_each(|number| put(&facet, number, 2));
    let other = store.create_facet(&name("b")).unwrap();
    for round in 3..12 {
        (1..=40).for_each(|number| put(&other, number, round));
        store.flush().unwrap();
    }
    // What the snapshot reads is live no more, in a segment in which other things are.
    store.checkpoint().unwrap();
    drop(facet);
    store.delete_facet(&name("a")).unwrap();
    // What is emptied is made ready, though no checkpoint knows of the delete.
    let (before, checkpoints) = (store.stat().cleaned_segments, store.stat().checkpoints);
    for _ in 0..4 {
        store.clean().unwrap();
        while store.maintain().unwrap() {}
    }
    assert!(store.stat().cleaned_segments >= before + 2, "{:?}", store.stat());
    assert_eq!(store.stat().checkpoints, checkpoints, "{:?}", store.stat());
    for round in 12..40 {
        (1..=40).for_each(|number| put(&other, number, round));
        store.flush().unwrap();
    }
    let mut read = [0; PAGE];
    for number in 1..=40 {
        old.read_page(PageNo(number), &mut read).unwrap();
        assert_eq!(read, page(1), "page {number}");
    }
    assert_verified(&store);
}

/// If this fails, what a snapshot saw in memory is overwritten once it is in the log alone.
#[test]
fn a_snapshot_from_before_the_flush_outlives_cleaning() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = store.create_facet(&name("a")).unwrap();
    let other = store.create_facet(&name("b")).unwrap();
    for number in 1..=8 {
        put(&facet, number, u64::from(number));
    }
    let held = facet.snapshot(View::Latest).unwrap();
    assert_eq!(facet.snapshot(View::Durable).unwrap().page_count(), 0, "nothing was flushed");
    for round in 100..2_000_u64 {
        put(&facet, round as u32 % 8 + 1, round);
        put(&other, round as u32 % 64 + 1, round);
        if round % 16 == 0 {
            store.flush().unwrap();
            while store.maintain().unwrap() {}
        }
    }
    let stat = store.stat();
    assert!(stat.allocated_bytes < stat.written_bytes / 2, "segments are used again: {stat:?}");
    let mut read = [0; PAGE];
    for number in 1..=8 {
        held.read_page(PageNo(number), &mut read).unwrap();
        assert_eq!(read, page(u64::from(number)), "page {number}");
    }
    drop(held);
    idle(&store);
    assert_verified(&store);
}
