//! Quotas: what the documentation of `Store::set_quota` promises.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use lapidary_engine::{
    Background, Environment, Error, ErrorKind, Facet, FacetName, ForkFrom, MemoryIo, PageNo,
    PageSize, Result, Retention, Store, StoreOptions, Tunables, View,
};

const PAGE: usize = 1024;
const KEEP: Retention = Retention { bytes: 1 << 40, age: std::time::Duration::from_secs(1 << 30) };

fn open(io: &MemoryIo) -> Arc<Store> {
    let options = StoreOptions {
        create: true,
        tunables: Tunables { retention: KEEP, ..Tunables::default() },
        background: Background::Manual,
        ..StoreOptions::default()
    };
    Store::open(Environment::with_io(Arc::new(io.clone())), options).unwrap()
}

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

/// Commits so many pages.
fn resize(facet: &Arc<Facet>, pages: u32) -> Result<()> {
    let mut writer = facet.begin_write_latest()?;
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap())?;
    }
    for page in 1..=pages {
        writer.write_page(PageNo(page), &[1; PAGE])?;
    }
    writer.set_page_count(pages)?;
    writer.commit(0).map(drop)
}

fn create(store: &Store, text: &str, pages: u32) -> Arc<Facet> {
    let facet = store.create_facet(&name(text)).unwrap();
    resize(&facet, pages).unwrap();
    facet
}

/// Pages that a quota says are used.
fn used(store: &Store, text: &str) -> u64 {
    let used_bytes = store.quota(&name(text)).unwrap().used_bytes;
    assert_eq!(used_bytes % PAGE as u64, 0);
    used_bytes / PAGE as u64
}

fn limit(store: &Store, text: &str, pages: u64) {
    store.set_quota(&name(text), Some(pages * PAGE as u64)).unwrap();
}

fn assert_full<T: std::fmt::Debug>(result: Result<T>, quota: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let Error::QuotaExceeded { name, .. } = &error else { panic!("{error}") };
    assert_eq!(name, quota, "{error}");
}

/// If this fails, a facet gets beyond its quota, or a refused commit leaves something behind.
#[test]
fn a_commit_beyond_a_quota_changes_nothing() {
    let io = MemoryIo::new();
    let store = open(&io);
    limit(&store, "t", 10);
    let (a, b) = (create(&store, "t/a", 4), create(&store, "t/b", 4));
    let other = create(&store, "u", 50);
    store.flush().unwrap();
    let before = store.stat().written_bytes;
    assert_full(resize(&a, 7), "t");
    store.flush().unwrap();
    assert_eq!(store.stat().written_bytes, before, "something of it was written");
    assert_eq!(a.snapshot(View::Latest).unwrap().page_count(), 4);
    resize(&a, 6).unwrap();
    assert_eq!(used(&store, "t"), 10);
    assert_full(resize(&b, 5), "t");
    resize(&other, 60).unwrap();
    // Below what is there already: nothing grows any more, and everything may shrink.
    limit(&store, "t", 2);
    assert_full(resize(&b, 5), "t");
    resize(&b, 4).unwrap();
    resize(&b, 3).unwrap();
    store.set_quota(&name("t"), None).unwrap();
    assert!(store.quota(&name("t")).is_none());
    resize(&b, 30).unwrap();
}

/// If this fails, what is used is not what is there, and with time nothing or everything is refused.
#[test]
fn use_follows_what_happens_to_facets() {
    let io = MemoryIo::new();
    let store = open(&io);
    let a = create(&store, "t/a", 4);
    limit(&store, "t", 1000);
    limit(&store, "t/x", 500);
    assert_eq!((used(&store, "t"), used(&store, "t/x")), (4, 0), "facets that were there count");
    store.fork_facet(&name("t/a"), &name("t/x/fork"), ForkFrom::Latest).unwrap();
    assert_eq!((used(&store, "t"), used(&store, "t/x")), (8, 4), "shared pages count twice");
    store.flush().unwrap();
    let four = a.bookmark().unwrap();
    resize(&a, 9).unwrap();
    a.restore(&four).unwrap();
    assert_eq!(used(&store, "t"), 8, "a restore counts what it leads to, and history does not");
    store.rename_facet(&name("t/a"), &name("t/x/a")).unwrap();
    assert_eq!((used(&store, "t"), used(&store, "t/x")), (8, 8));
    store.rename_facet(&name("t/x"), &name("v")).unwrap();
    assert_eq!((used(&store, "t"), used(&store, "v")), (0, 8), "a quota moves with its name");
    assert!(store.quota(&name("t/x")).is_none());
    store.flush().unwrap();
    drop((a, store));
    let store = open(&io);
    assert_eq!((used(&store, "t"), used(&store, "v")), (0, 8), "replayed from the log");
    store.close().unwrap();
    let store = open(&io);
    assert_eq!((used(&store, "t"), used(&store, "v")), (0, 8), "and from a checkpoint");
    store.delete_facet(&name("v/fork")).unwrap();
    assert_eq!(used(&store, "v"), 4);
    store.delete_facet(&name("v")).unwrap();
    assert!(store.quota(&name("v")).is_none(), "a quota is deleted with the facets below it");
}

/// If this fails, forks and renames are a way around a quota.
#[test]
fn what_comes_from_elsewhere_needs_room() {
    let io = MemoryIo::new();
    let store = open(&io);
    create(&store, "a", 3);
    create(&store, "a/b", 4);
    create(&store, "empty", 0);
    limit(&store, "t", 6);
    assert_full(store.fork_subtree(&name("a"), &name("t"), ForkFrom::Latest), "t");
    assert_full(store.rename_facet(&name("a"), &name("t")), "t");
    // A quota further down counts too, though there is no facet yet.
    limit(&store, "t", 100);
    limit(&store, "t/x/b", 3);
    assert_full(store.fork_subtree(&name("a"), &name("t/x"), ForkFrom::Latest), "t/x/b");
    assert_full(store.rename_facet(&name("a"), &name("t/x")), "t/x/b");
    assert_eq!((used(&store, "t"), store.facet_exists(&name("a/b"))), (0, true));
    store.fork_subtree(&name("a"), &name("t/y"), ForkFrom::Latest).unwrap();
    assert_eq!(used(&store, "t"), 7);
    // What moves within a quota needs no room in it.
    limit(&store, "t", 7);
    store.rename_facet(&name("t/y"), &name("t/z")).unwrap();
    // What is empty needs none at all, however full it is.
    limit(&store, "t", 1);
    store.fork_facet(&name("empty"), &name("t/e"), ForkFrom::Latest).unwrap();
    store.rename_facet(&name("empty"), &name("t/f")).unwrap();
    assert_eq!(used(&store, "t"), 7);
}

/// If this fails, a facet that nobody has opened since the store was is not counted in a quota that
/// moves to a name above it.
#[test]
fn a_quota_that_moves_counts_what_is_there_already() {
    let io = MemoryIo::new();
    let store = open(&io);
    create(&store, "to/here", 5);
    create(&store, "from", 2);
    limit(&store, "from", 100);
    store.close().unwrap();
    let store = open(&io);
    store.rename_facet(&name("from"), &name("to")).unwrap();
    assert_eq!(used(&store, "to"), 7);
    store.flush().unwrap();
    drop(store);
    assert_eq!(used(&open(&io), "to"), 7);
}
