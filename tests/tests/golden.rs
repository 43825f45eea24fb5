//! The versions of the format, byte by byte: a small store as each version writes it, kept in
//! `tests/fixtures/`, opens with what it holds; and the same calls still write the same bytes as the
//! newest one.
//!
//! If the format has changed on purpose: after a release, give it a new version number, keep the
//! fixtures (old stores must go on opening), and add one for the new version. Before the first release, or for what is no part of the format (how much is made ready
//! ahead, what the cleaner chooses), write the fixture anew and look at what differs:
//!
//! ```sh
//! LAPIDARY_WRITE_GOLDEN=1 cargo test -p lapidary-tests --test golden
//! ```
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{
    Background, Environment, Facet, FileName, ForkFrom, FormatParams, Io, MemoryIo, OverlayIo,
    PageNo, PageSize, PosixIo, Retention, Snapshot, Store, StoreOptions, Tunables, View, Writer,
};
use lapidary_tests::driver::name;
use lapidary_tests::image::{Image, from_text, image_of, put_image, to_text};
use lapidary_tests::sim_environment::environment;

const SEED: u64 = 1;
const WRITE: &str = "LAPIDARY_WRITE_GOLDEN";
const AGE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Versions of the format of which there is a fixture; the last is the one that is written.
const FORMATS: [u32; 2] = [1, 2];
const NEWEST: u32 = FORMATS[FORMATS.len() - 1];

fn fixture(format: u32) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    directory.join(format!("format-{format}/store.txt"))
}

fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        tunables: Tunables { spill_bytes: 16 << 10, ..Tunables::default() },
        background: Background::Manual,
    }
}

fn open(io: Arc<dyn Io>) -> Arc<Store> {
    Store::open(environment(io, SEED), StoreOptions { create: false, ..options() }).unwrap()
}

/// A page with something at its beginning and its end and nothing between, as b-tree pages are.
fn sparse(bytes: usize, seed: u8) -> Vec<u8> {
    let mut page = vec![0; bytes];
    page[..40].fill(seed);
    page[bytes - 60..].fill(seed ^ 0xff);
    page
}

/// A page without a zero.
fn full(bytes: usize, seed: u8) -> Vec<u8> {
    vec![seed.wrapping_mul(2) | 1; bytes]
}

/// A full page in which a few words are others.
fn changed(bytes: usize, seed: u8, change: u8) -> Vec<u8> {
    let mut page = full(bytes, seed);
    page[16..24].fill(change);
    page[bytes - 8..].fill(change);
    page
}

fn put(facet: &Arc<Facet>, pages: &[(u32, Vec<u8>)]) {
    stage(facet, pages).commit(0).unwrap();
}

fn stage(facet: &Arc<Facet>, pages: &[(u32, Vec<u8>)]) -> Writer {
    let mut writer = facet.begin_write_latest().unwrap();
    for (page, content) in pages {
        if writer.page_size().is_none() {
            writer.set_page_size(PageSize::from_bytes(content.len()).unwrap()).unwrap();
        }
        writer.write_page(PageNo(*page), content).unwrap();
    }
    writer
}

/// Pages by number.
type Pages = Vec<(u32, Vec<u8>)>;

/// What the store holds, written down apart from the calls that make it. Pages that are not named
/// here are zeros.
fn expected(format: u32) -> BTreeMap<&'static str, (u64, u32, Pages)> {
    // Version, number of pages, pages.
    let template =
        |first: u8| vec![(1, sparse(4096, first)), (2, full(4096, 5)), (3, sparse(4096, 6))];
    let counters = (1..=40).map(|page| (page, full(1024, page as u8))).collect();
    let mut expected = BTreeMap::from([
        ("empty", (0, 0, vec![])),
        ("sizes/512", (1, 3, vec![(1, sparse(512, 1)), (3, full(512, 2))])),
        ("sizes/4096", (1, 2, vec![(1, sparse(4096, 3)), (2, full(4096, 4))])),
        ("sizes/65536", (1, 1, vec![(1, sparse(65536, 5))])),
        ("template", (2, 3, template(9))),
        ("agents/ann", (1, 3, template(7))),
        (
            "agents/bob",
            (2, 3, vec![(1, sparse(4096, 8)), (2, full(4096, 5)), (3, sparse(4096, 6))]),
        ),
        ("agents/bob/notes", (1, 1, vec![(1, sparse(1024, 33))])),
        (
            "copies/bob",
            (2, 3, vec![(1, sparse(4096, 8)), (2, full(4096, 5)), (3, sparse(4096, 6))]),
        ),
        ("copies/bob/notes", (1, 1, vec![(1, sparse(1024, 33))])),
        ("then", (1, 3, template(7))),
        ("spilled", (1, 40, (1..=40).map(|page| (page, full(1024, 100 + page as u8))).collect())),
        ("counters", (121, 40, counters)),
        ("renamed/to", (1, 1, vec![(1, sparse(1024, 44))])),
        ("history", (6, 2, vec![(1, full(1024, 12)), (2, full(1024, 13))])),
        ("shrunk", (2, 1, vec![(1, full(1024, 71))])),
        ("tail/new", (1, 1, vec![(1, sparse(1024, 55))])),
        ("pair/left", (1, 1, vec![(1, sparse(1024, 66))])),
        ("pair/right", (1, 2, vec![(1, full(512, 67)), (2, sparse(512, 68))])),
    ]);
    if format >= 2 {
        let pages = vec![(1, changed(1024, 21, 5)), (2, changed(1024, 22, 6))];
        expected.insert("changes", (5, 2, pages));
    }
    expected
}

/// Versions of facet `history` that are kept, newest first: bookmark, and what page 1 has.
const HISTORY: [(&str, u8); 6] = [
    ("00000002-0000000000000006-", 12),
    ("00000002-0000000000000005-", 11),
    ("00000002-0000000000000004-", 14),
    ("00000002-0000000000000003-", 13),
    ("00000002-0000000000000002-", 12),
    ("00000002-0000000000000001-", 11),
];

/// Writes the store.
fn generate() -> Image {
    let io = MemoryIo::new();
    let store = Store::open(environment(Arc::new(io.clone()), SEED), options()).unwrap();
    let create = |text: &str| store.create_facet(&name(text)).unwrap();

    // Page sizes, full and sparse pages, pages never written, a facet without any.
    create("empty");
    put(&create("sizes/512"), &[(1, sparse(512, 1)), (3, full(512, 2))]);
    put(&create("sizes/4096"), &[(1, sparse(4096, 3)), (2, full(4096, 4))]);
    put(&create("sizes/65536"), &[(1, sparse(65536, 5))]);
    let shrunk = create("shrunk");
    put(&shrunk, &[(1, full(1024, 71)), (2, full(1024, 73))]);
    let mut writer = shrunk.begin_write_latest().unwrap();
    writer.set_page_count(1).unwrap();
    writer.commit(0).unwrap();
    drop(writer);
    store.flush().unwrap();

    // Forks of every kind, whose nodes and pages are shared.
    let keep = |bytes| Some(Retention { bytes, age: AGE });
    store.set_retention(&name("template"), keep(1 << 20)).unwrap();
    let template = create("template");
    put(&template, &[(1, sparse(4096, 7)), (2, full(4096, 5)), (3, sparse(4096, 6))]);
    store.flush().unwrap();
    let bookmark = template.bookmark().unwrap();
    store.fork_facet(&name("template"), &name("agents/ann"), ForkFrom::Latest).unwrap();
    let from = ForkFrom::Durable;
    let (bob, _) = store.fork_facet(&name("template"), &name("agents/bob"), from).unwrap();
    put(&bob, &[(1, sparse(4096, 8))]);
    put(&create("agents/bob/notes"), &[(1, sparse(1024, 33))]);
    store.checkpoint().unwrap();
    put(&template, &[(1, sparse(4096, 9))]);
    store.fork_facet(&name("template"), &name("then"), ForkFrom::Bookmark(bookmark)).unwrap();
    store.fork_subtree(&name("agents/bob"), &name("copies/bob"), ForkFrom::Latest).unwrap();
    store.flush().unwrap();

    // More than is staged in memory: pages that are in the log ahead of their commit.
    let pages: Vec<_> = (1..=40).map(|page| (page, full(1024, 100 + page as u8))).collect();
    put(&create("spilled"), &pages);
    store.flush().unwrap();

    // Pages that are logged as deltas, and that the next checkpoint writes as images.
    let changes = create("changes");
    for change in [1, 2] {
        put(&changes, &[(1, changed(1024, 21, change)), (2, full(1024, 22))]);
        store.flush().unwrap();
    }

    // The process is killed: what the next open finds, writes again, and writes from there on.
    drop((template, bob, shrunk, changes));
    drop(store);
    let store = open(Arc::new(io.clone()));
    let create = |text: &str| store.create_facet(&name(text)).unwrap();

    // History, and a version of the past made the newest one.
    store.set_retention(&name("history"), keep(64 << 10)).unwrap();
    let history = create("history");
    for byte in [11, 12, 13, 14] {
        put(&history, &[(1, full(1024, byte)), (2, full(1024, byte + 1))]);
        store.flush().unwrap();
    }
    let versions = history.versions().unwrap();
    for past in [&versions[3], &versions[2]] {
        history.restore(&past.bookmark).unwrap();
        store.flush().unwrap();
    }

    // Settings, names.
    store.set_quota(&name("agents"), Some(1 << 20)).unwrap();
    store.set_quota(&name("agents/ann"), Some(12345)).unwrap();
    store.set_retention(&name("agents"), Some(Retention::OFF)).unwrap();
    put(&create("deleted"), &[(1, sparse(1024, 66))]);
    put(&create("deleted/below"), &[(1, sparse(1024, 67))]);
    put(&create("renamed/from"), &[(1, sparse(1024, 44))]);
    store.checkpoint().unwrap();
    store.delete_facet(&name("deleted")).unwrap();
    store.rename_facet(&name("renamed/from"), &name("renamed/to")).unwrap();

    // Garbage beside what lives, so that there is something to clean: survivors and forwards.
    let counters = create("counters");
    for page in 1..=40 {
        put(&counters, &[(page, full(1024, page as u8))]);
        store.flush().unwrap();
        for round in [200, page as u8 - 1] {
            put(&counters, &[(page.max(2) - 1, full(1024, if page == 1 { 1 } else { round }))]);
        }
        store.flush().unwrap();
    }
    put(&counters, &[(1, full(1024, 1))]);
    store.checkpoint().unwrap();
    let cleaned = store.clean().unwrap();
    assert!(cleaned.moved_bytes > 0, "{cleaned:?}");
    store.checkpoint().unwrap();
    assert!(store.stat().forwards > 0 && store.stat().shared_references > 0, "{:?}", store.stat());

    // Deltas since, which recovery has to apply: in the last batch, too.
    let changes = store.open_facet(&name("changes")).unwrap();
    put(&changes, &[(1, changed(1024, 21, 3)), (2, changed(1024, 22, 4))]);
    put(&changes, &[(1, changed(1024, 21, 4)), (2, changed(1024, 22, 5))]);
    store.flush().unwrap();

    // A tail: what recovery has to replay, the last batch not known to be durable; and a commit
    // that was never flushed.
    put(&create("tail/new"), &[(1, sparse(1024, 55))]);
    store.flush().unwrap();
    let mut left = stage(&create("pair/left"), &[(1, sparse(1024, 66))]);
    let mut right = stage(&create("pair/right"), &[(1, full(512, 67)), (2, sparse(512, 68))]);
    store.commit_together(&mut [&mut left, &mut right], 0).unwrap();
    store.flush().unwrap();
    drop((left, right));
    store.set_quota(&name("tail"), Some(4096)).unwrap();
    put(&changes, &[(1, changed(1024, 21, 5)), (2, changed(1024, 22, 6))]);
    store.flush().unwrap();
    put(&counters, &[(1, full(1024, 99))]);
    drop((history, counters, changes));
    drop(store);
    image_of(&io)
}

fn check_pages(snapshot: &Snapshot, facet: &str, count: u32, pages: &[(u32, Vec<u8>)]) {
    assert_eq!(snapshot.page_count(), count, "{facet}");
    let size = snapshot.page_size().map_or(0, PageSize::bytes);
    for number in 1..=count {
        let mut found = vec![0; size];
        snapshot.read_page(PageNo(number), &mut found).unwrap();
        let expected = pages.iter().find(|(page, _)| *page == number);
        let expected = expected.map_or_else(|| vec![0; size], |(_, content)| content.clone());
        assert_eq!(found, expected, "{facet}, page {number}");
    }
}

/// The store has exactly what is expected.
fn check(store: &Store, format: u32) {
    let listed = store.list_facets(None, None, usize::MAX).unwrap();
    let listed: Vec<String> = listed.iter().map(|facet| facet.name.to_string()).collect();
    let mut names: Vec<&str> = expected(format).into_keys().collect();
    names.sort_unstable();
    assert_eq!(listed, names);
    for (facet, (version, count, pages)) in expected(format) {
        let handle = store.open_facet(&name(facet)).unwrap();
        let snapshot = handle.snapshot(View::Durable).unwrap();
        assert_eq!(snapshot.version().0, version, "{facet}");
        check_pages(&snapshot, facet, count, &pages);
    }

    let history = store.open_facet(&name("history")).unwrap();
    let mut versions = history.versions().unwrap();
    let created = versions.pop().unwrap();
    assert_eq!((created.bookmark.version.0, created.page_count, created.page_size), (0, 0, None));
    assert_eq!(versions.len(), HISTORY.len());
    for (version, (bookmark, byte)) in versions.iter().zip(HISTORY) {
        let expected = format!("{bookmark}{:016x}", history.id().0);
        assert_eq!(version.bookmark.to_string(), expected);
        let snapshot = history.snapshot_at(&expected.parse().unwrap()).unwrap();
        let pages = [(1, full(1024, byte)), (2, full(1024, byte + 1))];
        check_pages(&snapshot, "history", 2, &pages);
    }
    let template = store.open_facet(&name("template")).unwrap();
    let first = template.versions().unwrap().into_iter().find(|info| info.bookmark.version.0 == 1);
    let first = first.unwrap();
    let pages = [(1, sparse(4096, 7)), (2, full(4096, 5)), (3, sparse(4096, 6))];
    check_pages(&template.snapshot_at(&first.bookmark).unwrap(), "template", 3, &pages);

    let quota =
        |text: &str| store.quota(&name(text)).map(|quota| (quota.limit_bytes, quota.used_bytes));
    assert_eq!(quota("agents"), Some((1 << 20, 6 * 4096 + 1024)));
    assert_eq!(quota("agents/ann"), Some((12345, 3 * 4096)));
    assert_eq!(quota("tail"), Some((4096, 1024)));
    assert_eq!(quota("history"), None);
    let retention = |text: &str| store.retention(&name(text)).map(|kept| (kept.bytes, kept.age));
    assert_eq!(retention("history"), Some((64 << 10, AGE)));
    assert_eq!(retention("agents"), Some((0, Duration::ZERO)));

    let report = store.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(report.facets, expected(format).len() as u64);
}

/// A fixture; that of the newest format is written anew if the environment asks for it.
fn golden(format: u32) -> Image {
    let fixture = fixture(format);
    if format == NEWEST && std::env::var_os(WRITE).is_some() {
        let text = format!(
            "# A store of format version {format}, as `tests/tests/golden.rs` makes it and explains it.\n{}",
            to_text(&generate())
        );
        std::fs::create_dir_all(fixture.parent().unwrap()).unwrap();
        // Tests run at the same time, and each gets a whole file.
        let new = fixture.with_extension(format!("{:?}", std::thread::current().id()));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &fixture).unwrap();
    }
    from_text(&std::fs::read_to_string(fixture).unwrap()).unwrap()
}

#[test]
fn a_store_of_each_format_opens_with_all_it_holds() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let io = PosixIo::new(&directory.path().join("store"));
        put_image(&io, &golden(format));
        let io: Arc<dyn Io> = Arc::new(io);
        let store = open(Arc::clone(&io));
        // Pages that only a delta is logged of are in memory.
        assert_eq!(store.stat().image_bytes > 0, format >= 2);
        check(&store, format);
        // It goes on from there, and is still all there when it is opened again.
        let facet = store.create_facet(&name("zz")).unwrap();
        put(&facet, &[(1, full(1024, 3))]);
        put(&facet, &[(1, changed(1024, 3, 1))]);
        store.flush().unwrap();
        store.delete_facet(&name("zz")).unwrap();
        store.clean().unwrap();
        store.close().unwrap();
        drop((facet, store));
        check(&open(io), format);
    }
}

/// Else a build that does not know deltas would take them for damage.
#[test]
fn a_store_that_was_opened_is_of_the_newest_format() {
    let io = MemoryIo::new();
    put_image(&io, &golden(1));
    drop(open(Arc::new(io.clone())));
    let superblock = &image_of(&io)[&FileName::Superblock];
    assert_eq!(superblock[8..12], NEWEST.to_le_bytes());
    assert_eq!(superblock[4096 + 8..4096 + 12], NEWEST.to_le_bytes());
}

#[test]
fn a_store_of_each_format_is_read_without_changing_a_byte() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let io = Arc::new(PosixIo::new(&directory.path().join("store")));
        put_image(&*io, &golden(format));
        let store = open(Arc::new(OverlayIo::new(io.clone())));
        check(&store, format);
        store.close().unwrap();
        drop(store);
        let environment = Environment::system(directory.path().join("store"));
        let report = Store::verify_offline(environment, &mut |_| ()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.findings);
        assert!(image_of(&*io) == golden(format), "a byte of the store has changed");
    }
}

#[test]
fn the_same_calls_write_the_same_bytes() {
    let (golden, new) = (golden(NEWEST), generate());
    let again = generate();
    assert!(new == again, "what is written is not a function of the calls and the seed");
    let differing = new.iter().find_map(|(file, bytes)| match golden.get(file) {
        Some(old) => {
            let at = old.iter().zip(bytes).position(|(old, new)| old != new);
            at.or((old.len() != bytes.len()).then_some(old.len().min(bytes.len())))
                .map(|at| format!("{file} differs at offset {at}"))
        }
        None => Some(format!("{file} is new")),
    });
    let missing = golden.keys().find(|file| !new.contains_key(file));
    let differing = differing.or(missing.map(|file| format!("{file} is gone")));
    if let Some(differing) = differing {
        panic!(
            "{differing}.\nIf the format was not to change, this is a bug. If it was: stores that \
             were released must go on opening, so give the format a new version, keep this fixture \
             and add one. Before the first release, or if only the choice of places has changed: \
             {WRITE}=1 cargo test -p lapidary-tests --test golden"
        );
    }
}
