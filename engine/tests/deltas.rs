//! Pages that are logged as deltas: what the log takes for them, what of them is in memory, and that they
//! are what was committed after crashes, checkpoints, forks, restores and salvage.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lapidary_engine::{
    Background, Environment, Facet, FacetName, FileName, ForkFrom, FormatParams, Io, MemoryIo,
    PageNo, PageSize, Retention, SalvageSink, Salvaged, Store, StoreOptions, Tunables, View,
};

const PAGE: usize = 4096;
const RETENTION: Retention = Retention { bytes: 1 << 30, age: Duration::from_secs(36_000) };

fn open_with(io: &MemoryIo, delta_memory_bytes_max: usize, retention: Retention) -> Arc<Store> {
    let options = StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        background: Background::Manual,
        tunables: Tunables { delta_memory_bytes_max, retention, ..Tunables::default() },
    };
    Store::open(Environment::with_io(Arc::new(io.clone())), options).unwrap()
}

fn open(io: &MemoryIo) -> Arc<Store> {
    open_with(io, 1 << 20, Retention::OFF)
}

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

/// A page without zeros. Two of different numbers differ in one word.
fn image(number: u8) -> Vec<u8> {
    let mut image = vec![0x55; PAGE];
    image[64 + usize::from(number) * 8] = 0xaa;
    image
}

fn write(facet: &Arc<Facet>, pages: &[(u32, u8)]) {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
    }
    for &(page, number) in pages {
        writer.write_page(PageNo(page), &image(number)).unwrap();
    }
    writer.commit(0).unwrap();
}

/// A facet of 3 pages, of which the second is logged as a delta, durably.
fn with_a_delta(store: &Store, text: &str) -> Arc<Facet> {
    let facet = store.create_facet(&name(text)).unwrap();
    write(&facet, &[(1, 1), (2, 2), (3, 3)]);
    store.flush().unwrap();
    write(&facet, &[(2, 20)]);
    store.flush().unwrap();
    facet
}

fn check(facet: &Arc<Facet>, numbers: &[u8]) {
    check_snapshot(&facet.snapshot(View::Durable).unwrap(), numbers);
}

fn check_snapshot(snapshot: &lapidary_engine::Snapshot, numbers: &[u8]) {
    assert_eq!(snapshot.page_count() as usize, numbers.len());
    for (page, &number) in (1..).zip(numbers) {
        let mut found = vec![0; PAGE];
        snapshot.read_page(PageNo(page), &mut found).unwrap();
        assert!(found == image(number), "page {page} is not {number}");
    }
}

fn verify(store: &Store) {
    let report = store.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

/// What the files have now: opened again, as after a crash.
fn crashed(io: &MemoryIo) -> MemoryIo {
    let copy = MemoryIo::new();
    copy.create_directory().unwrap();
    let mut files = vec![FileName::Superblock];
    files.extend(io.list_segments().unwrap().into_iter().map(FileName::Segment));
    for file in files {
        let from = io.open(file).unwrap();
        let mut bytes = vec![0; usize::try_from(from.len().unwrap()).unwrap()];
        from.read_at(0, &mut bytes).unwrap();
        let to = copy.create(file).unwrap();
        to.write_at(0, &bytes).unwrap();
        to.sync().unwrap();
    }
    copy.sync_directory().unwrap();
    copy
}

#[test]
fn a_small_change_takes_a_small_record() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = store.create_facet(&name("a")).unwrap();
    let pages: Vec<(u32, u8)> = (1..=8).map(|page| (page, 0)).collect();
    let written = |number: u8| {
        let before = store.stat().written_bytes;
        let pages: Vec<_> = pages.iter().map(|&(page, _)| (page, number)).collect();
        write(&facet, &pages);
        store.flush().unwrap();
        store.stat().written_bytes - before
    };
    assert!(written(0) > 8 * PAGE as u64);
    for number in 1..20 {
        assert_eq!(written(number), 4096, "one block");
    }
    // The first time after a checkpoint, what is to be built on is logged whole.
    store.checkpoint().unwrap();
    assert!(written(20) > 8 * PAGE as u64);
    assert_eq!(written(21), 4096);
    check(&facet, &[21; 8]);
    verify(&store);
}

/// If this fails, the store's memory grows with what is written.
#[test]
fn memory_is_bounded_and_given_back() {
    let io = MemoryIo::new();
    let store = open_with(&io, 5 * PAGE, Retention::OFF);
    let facet = store.create_facet(&name("a")).unwrap();
    let snapshot = |numbers: &[u8]| check(&facet, numbers);
    for number in 0..10 {
        let pages: Vec<_> = (1..=8).map(|page| (page, number)).collect();
        write(&facet, &pages);
        store.flush().unwrap();
        assert!((1..=6 * PAGE as u64).contains(&store.stat().image_bytes), "{:?}", store.stat());
        snapshot(&[number; 8]);
    }
    // Versions that somebody holds count, and are no way around the bound.
    let mut held = Vec::new();
    for number in 10..20 {
        held.push((facet.snapshot(View::Latest).unwrap(), number - 1));
        write(&facet, &(1..=8).map(|page| (page, number)).collect::<Vec<_>>());
        store.flush().unwrap();
        assert!(store.stat().image_bytes <= 6 * PAGE as u64, "{:?}", store.stat());
    }
    held.iter().for_each(|(held, number)| check_snapshot(held, &[*number; 8]));
    drop(held);
    write(&facet, &[(1, 9), (2, 9), (3, 9), (4, 9), (5, 9), (6, 9), (7, 9), (8, 9)]);
    store.flush().unwrap();
    store.checkpoint().unwrap();
    assert_eq!(store.stat().image_bytes, 0);
    snapshot(&[9; 8]);
    verify(&store);

    let store = open_with(&MemoryIo::new(), 0, Retention::OFF);
    let facet = with_a_delta(&store, "none");
    assert_eq!(store.stat().image_bytes, 0);
    check(&facet, &[1, 20, 3]);
}

#[test]
fn a_crash_takes_nothing() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = with_a_delta(&store, "a");
    for number in 21..30 {
        write(&facet, &[(2, number), (3, number + 1)]);
        store.flush().unwrap();
        // Opened twice, so that what the first recovery wrote is replayed as well.
        let again = crashed(&io);
        for _ in 0..2 {
            let store = open(&again);
            let facet = store.open_facet(&name("a")).unwrap();
            check(&facet, &[1, number, number + 1]);
            verify(&store);
        }
        // And goes on from there.
        let store = open(&again);
        let facet = store.open_facet(&name("a")).unwrap();
        write(&facet, &[(1, 7), (2, 8)]);
        store.flush().unwrap();
        let store = open(&crashed(&again));
        check(&store.open_facet(&name("a")).unwrap(), &[7, 8, number + 1]);
        store.checkpoint().unwrap();
        verify(&store);
        if number == 25 {
            store.checkpoint().unwrap();
        }
    }
}

/// Images that a checkpoint writes lie behind its cut. If this fails, they are counted twice, or not at
/// all, after the next checkpoint, or after one that a crash came before.
#[test]
fn images_are_counted_once() {
    for reopens in [false, true] {
        let io = MemoryIo::new();
        let mut store = open(&io);
        drop(with_a_delta(&store, "a"));
        store.checkpoint().unwrap();
        verify(&store);
        if reopens {
            drop(store);
            store = open(&io);
        }
        // The fork changes another page of the same leaf, so that the leaves share the image by itself.
        let (fork, _) = store.fork_facet(&name("a"), &name("b"), ForkFrom::Latest).unwrap();
        write(&fork, &[(1, 9)]);
        store.checkpoint().unwrap();
        verify(&store);
        // And a map that gets higher holds all anew.
        write(&store.open_facet(&name("a")).unwrap(), &[(1, 1), (40, 4)]);
        store.checkpoint().unwrap();
        verify(&store);
        store.delete_facet(&name("a")).unwrap();
        store.checkpoint().unwrap();
        verify(&store);
        check(&fork, &[9, 20, 3]);
        store.delete_facet(&name("b")).unwrap();
        store.checkpoint().unwrap();
        store.checkpoint().unwrap();
        verify(&store);
        assert!(store.stat().live_bytes < 2048, "{:?}", store.stat());
    }
}

#[test]
fn forks_share_what_is_in_memory() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = with_a_delta(&store, "a");
    let (fork, _) = store.fork_facet(&name("a"), &name("b"), ForkFrom::Latest).unwrap();
    store.flush().unwrap();
    write(&fork, &[(2, 21)]);
    write(&facet, &[(2, 22)]);
    store.flush().unwrap();
    let (third, _) = store.fork_facet(&name("b"), &name("c"), ForkFrom::Latest).unwrap();
    store.flush().unwrap();
    let check_all = |store: &Store| {
        for (text, number) in [("a", 22), ("b", 21), ("c", 21)] {
            check(&store.open_facet(&name(text)).unwrap(), &[1, number, 3]);
        }
    };
    check_all(&store);
    check_all(&open(&crashed(&io)));
    store.checkpoint().unwrap();
    check_all(&store);
    verify(&store);
    // The oldest goes, and with it the facet that the shared image was written for.
    store.delete_facet(&name("b")).unwrap();
    store.checkpoint().unwrap();
    verify(&store);
    store.clean().unwrap();
    store.checkpoint().unwrap();
    check(&third, &[1, 21, 3]);
    verify(&store);
}

/// A fork of the durable version has to name the pages in which it differs from the latest.
#[test]
fn a_fork_of_a_version_in_memory_waits_for_a_checkpoint() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = with_a_delta(&store, "a");
    write(&facet, &[(2, 30)]);
    let (fork, _) = store.fork_facet(&name("a"), &name("b"), ForkFrom::Durable).unwrap();
    store.flush().unwrap();
    check(&facet, &[1, 30, 3]);
    let numbers = if fork.latest_version() == facet.latest_version() { 30 } else { 20 };
    check(&fork, &[1, numbers, 3]);
    check(&open(&crashed(&io)).open_facet(&name("b")).unwrap(), &[1, numbers, 3]);
    verify(&store);
    // Deltas go on afterwards.
    write(&facet, &[(2, 31)]);
    store.flush().unwrap();
    let before = store.stat().written_bytes;
    write(&facet, &[(2, 32)]);
    store.flush().unwrap();
    assert_eq!(store.stat().written_bytes - before, 4096);
}

/// History begins while pages are in memory alone: by a setting, and by a store that is opened with
/// another default.
#[test]
fn a_history_that_begins_has_what_is_in_memory() {
    for by_setting in [true, false] {
        let io = MemoryIo::new();
        let mut store = open(&io);
        let mut facet = with_a_delta(&store, "a");
        if by_setting {
            store.set_retention(&name("a"), Some(RETENTION)).unwrap();
        } else {
            drop((facet, store));
            store = open_with(&io, 1 << 20, RETENTION);
            facet = store.open_facet(&name("a")).unwrap();
        }
        let past = facet.bookmark().unwrap();
        write(&facet, &[(2, 30), (3, 31)]);
        store.flush().unwrap();
        check_snapshot(&facet.snapshot_at(&past).unwrap(), &[1, 20, 3]);
        // Found by replay too.
        if by_setting {
            let store = open(&crashed(&io));
            let facet = store.open_facet(&name("a")).unwrap();
            check_snapshot(&facet.snapshot_at(&past).unwrap(), &[1, 20, 3]);
            store.checkpoint().unwrap();
            verify(&store);
        }
        let from = ForkFrom::Bookmark(past);
        if by_setting {
            facet.restore(&past).unwrap();
            store.flush().unwrap();
            check(&facet, &[1, 20, 3]);
        } else {
            let (fork, _) = store.fork_facet(&name("a"), &name("b"), from).unwrap();
            store.flush().unwrap();
            check(&fork, &[1, 20, 3]);
        }
        store.checkpoint().unwrap();
        verify(&store);
        check_snapshot(&facet.snapshot_at(&past).unwrap(), &[1, 20, 3]);
        let history = store.stat().history_bytes;
        drop((facet, store));
        let store = open_with(&io, 1 << 20, RETENTION);
        assert_eq!(store.stat().history_bytes, history);
        let facet = store.open_facet(&name("a")).unwrap();
        check_snapshot(&facet.snapshot_at(&past).unwrap(), &[1, 20, 3]);
        store.set_retention(&name("a"), Some(Retention::OFF)).unwrap();
        write(&facet, &[(1, 1)]);
        store.flush().unwrap();
        assert_eq!(store.stat().history_bytes, 0);
    }
}

#[test]
fn a_page_that_was_cut_off_is_not_built_on() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = with_a_delta(&store, "a");
    let mut writer = facet.begin_write_latest().unwrap();
    writer.set_page_count(1).unwrap();
    writer.write_page(PageNo(2), &image(40)).unwrap();
    writer.commit(0).unwrap();
    drop(writer);
    store.flush().unwrap();
    check(&facet, &[1, 40]);
    check(&open(&crashed(&io)).open_facet(&name("a")).unwrap(), &[1, 40]);
}

#[test]
fn snapshots_keep_their_images() {
    let io = MemoryIo::new();
    let store = open(&io);
    let facet = with_a_delta(&store, "a");
    let before = facet.snapshot(View::Durable).unwrap();
    write(&facet, &[(2, 50)]);
    store.flush().unwrap();
    let after = facet.snapshot(View::Durable).unwrap();
    for _ in 0..3 {
        write(&facet, &[(1, 60), (2, 61), (3, 62)]);
        store.checkpoint().unwrap();
    }
    check_snapshot(&before, &[1, 20, 3]);
    check_snapshot(&after, &[1, 50, 3]);
    let held = store.stat().image_bytes;
    drop(before);
    assert!(store.stat().image_bytes < held);
}

/// Commits go on while a checkpoint writes images. If this fails, one of them was built on what was before
/// the cut, and recovery from that checkpoint has nothing to apply it to.
#[test]
fn nothing_that_comes_after_a_cut_is_built_on_what_was_before() {
    const FACETS: u8 = 40;
    for _ in 0..20 {
        let io = MemoryIo::new();
        let store = open_with(&io, 64 << 20, Retention::OFF);
        let text = |facet: u8| format!("facet/{facet}");
        let facets: Vec<_> = (0..FACETS).map(|facet| with_a_delta(&store, &text(facet))).collect();
        let is_done = AtomicBool::new(false);
        let last = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut last = 0;
                loop {
                    last = last % 200 + 1;
                    facets.iter().for_each(|facet| write(facet, &[(2, last), (3, last)]));
                    if is_done.load(Ordering::Acquire) {
                        break last;
                    }
                }
            });
            thread::sleep(Duration::from_millis(1));
            store.checkpoint().unwrap();
            is_done.store(true, Ordering::Release);
            writer.join().unwrap()
        });
        store.flush().unwrap();
        let again = open(&crashed(&io));
        for facet in (0..FACETS).map(|facet| again.open_facet(&name(&text(facet))).unwrap()) {
            check(&facet, &[1, last, last]);
        }
        again.checkpoint().unwrap();
        verify(&again);
    }
}

/// Name, pages, those that are damaged.
type FoundFacet = (Option<String>, Vec<Vec<u8>>, Vec<PageNo>);

#[derive(Default)]
struct Found(Vec<FoundFacet>);

impl SalvageSink for Found {
    fn begin(&mut self, facet: &Salvaged) -> io::Result<()> {
        self.0.push((facet.name.clone(), Vec::new(), Vec::new()));
        Ok(())
    }

    fn page(&mut self, _: PageNo, image: &[u8]) -> io::Result<()> {
        self.0.last_mut().unwrap().1.push(image.to_vec());
        Ok(())
    }

    fn end(&mut self, facet: &Salvaged) -> io::Result<()> {
        self.0.last_mut().unwrap().2 = facet.damaged.clone();
        Ok(())
    }
}

/// Without a superblock the log is all there is; without the batch in which a page was an image, what was built on
/// it is damaged, and said to be.
#[test]
fn salvage_applies_deltas() {
    let salvage = |damages: bool| {
        let io = MemoryIo::new();
        let store = open(&io);
        let facet = store.create_facet(&name("a")).unwrap();
        write(&facet, &[(1, 1), (3, 3)]);
        store.flush().unwrap();
        write(&facet, &[(2, 2)]);
        store.flush().unwrap();
        write(&facet, &[(2, 20), (3, 21)]);
        store.flush().unwrap();
        drop((facet, store));
        let copy = crashed(&io);
        copy.remove(FileName::Superblock).unwrap();
        if damages {
            for file in copy.list_segments().unwrap() {
                let file = copy.open(FileName::Segment(file)).unwrap();
                let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                file.read_at(0, &mut bytes).unwrap();
                let is_it = |at: &usize| bytes[*at..*at + PAGE] == image(2);
                if let Some(at) = (0..bytes.len() - PAGE).find(is_it) {
                    file.write_at(at as u64 & !4095, &[0xee; 4096]).unwrap();
                }
            }
        }
        let mut found = Found::default();
        Store::salvage(Environment::with_io(Arc::new(copy)), &mut found).unwrap();
        assert_eq!(found.0.len(), 1);
        found.0.remove(0)
    };
    let (text, pages, damaged) = salvage(false);
    assert_eq!((text.as_deref(), damaged), (Some("a"), vec![]));
    assert!(pages == [image(1), image(20), image(21)]);
    let (_, pages, damaged) = salvage(true);
    assert_eq!(damaged, [PageNo(2)]);
    assert!(pages[0] == image(1) && pages[2] == image(21));
}
