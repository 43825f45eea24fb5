//! Forks: what the documentation of `Store::fork_facet` and `Store::fork_subtree` promises.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::sync::Arc;

use lapidary_engine::{
    Background, Environment, Error, ErrorKind, Facet, FacetName, ForkFrom, FormatParams, MemoryIo,
    PageNo, PageSize, Retention, Store, StoreOptions, Tunables, View,
};

const PAGE: usize = 1024;
const KEEP: Retention = Retention { bytes: 1 << 40, age: std::time::Duration::from_secs(1 << 30) };

fn open(io: &MemoryIo) -> Arc<Store> {
    let options = StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 256 << 10 },
        tunables: Tunables { retention: KEEP, ..Tunables::default() },
        background: Background::Manual,
    };
    Store::open(Environment::with_io(Arc::new(io.clone())), options).unwrap()
}

fn name(text: impl AsRef<str>) -> FacetName {
    FacetName::new(text).unwrap()
}

fn put(facet: &Arc<Facet>, page: u32, byte: u8) {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
    }
    writer.write_page(PageNo(page), &[byte; PAGE]).unwrap();
    writer.commit(0).unwrap();
}

/// The first byte of each page.
fn get(facet: &Arc<Facet>, view: View) -> Vec<u8> {
    let snapshot = facet.snapshot(view).unwrap();
    let mut page = [0; PAGE];
    let read = |number| {
        snapshot.read_page(PageNo(number), &mut page).unwrap();
        page[0]
    };
    (1..=snapshot.page_count()).map(read).collect()
}

fn names(store: &Store) -> Vec<String> {
    let listed = store.list_facets(None, None, 1000).unwrap();
    listed.into_iter().map(|info| info.name.to_string()).collect()
}

/// If this fails, a fork shows what its source became, or the source what the fork became.
#[test]
fn sides_of_a_fork_do_not_see_each_other() {
    let io = MemoryIo::new();
    let store = open(&io);
    let source = store.create_facet(&name("source")).unwrap();
    for page in 1..=3 {
        put(&source, page, page as u8);
    }
    let (fork, ticket) =
        store.fork_facet(&name("source"), &name("fork"), ForkFrom::Latest).unwrap();
    assert_eq!(get(&fork, View::Latest), [1, 2, 3], "it begins with what is not durable yet");
    assert!(!store.is_durable(ticket).unwrap());
    put(&source, 1, 11);
    put(&fork, 2, 22);
    store.wait_durable(ticket).unwrap();
    store.flush().unwrap();
    for _ in 0..2 {
        assert_eq!(get(&source, View::Durable), [11, 2, 3]);
        assert_eq!(get(&fork, View::Durable), [1, 22, 3]);
        store.checkpoint().unwrap();
    }
    store.delete_facet(&name("source")).unwrap();
    store.flush().unwrap();
    store.checkpoint().unwrap();
    drop((source, fork, store));
    let store = open(&io);
    assert_eq!(get(&store.open_facet(&name("fork")).unwrap(), View::Durable), [1, 22, 3]);
}

/// If this fails, a fork begins with another version than the one that was asked for.
#[test]
fn a_fork_begins_with_the_version_asked_for() {
    let io = MemoryIo::new();
    let store = open(&io);
    let source = store.create_facet(&name("source")).unwrap();
    put(&source, 1, 1);
    store.flush().unwrap();
    let first = source.bookmark().unwrap();
    put(&source, 1, 2);
    store.flush().unwrap();
    put(&source, 1, 3);
    let begins = [(ForkFrom::Bookmark(first), 1), (ForkFrom::Durable, 2), (ForkFrom::Latest, 3)];
    for (from, byte) in begins {
        let (fork, _) = store.fork_facet(&name("source"), &name(byte.to_string()), from).unwrap();
        assert_eq!(get(&fork, View::Latest), [byte]);
    }
    store.flush().unwrap();
    drop((source, store));
    let store = open(&io);
    for (_, byte) in begins {
        let fork = store.open_facet(&name(byte.to_string())).unwrap();
        assert_eq!(get(&fork, View::Durable), [byte], "after a recovery");
        assert_eq!(fork.versions().unwrap().len(), 1, "a fork has no past of its own");
    }
}

/// If this fails, a fork that is refused changed something, or is refused for the wrong reason.
#[test]
fn what_is_refused() {
    let store = open(&MemoryIo::new());
    for text in ["a", "a/b", "taken", "copy/b"] {
        store.create_facet(&name(text)).unwrap();
    }
    store.flush().unwrap();
    let of_another = store.open_facet(&name("taken")).unwrap().bookmark().unwrap();
    let fork = |from: &str, to: &str, version| {
        store.fork_facet(&name(from), &name(to), version).map(drop).unwrap_err()
    };
    let subtree = |from: &str, to: &str, version| {
        store.fork_subtree(&name(from), &name(to), version).map(drop).unwrap_err()
    };
    assert!(matches!(fork("a", "taken", ForkFrom::Latest), Error::FacetExists { .. }));
    assert!(matches!(fork("nobody", "new", ForkFrom::Latest), Error::FacetNotFound { .. }));
    let unknown = fork("a", "new", ForkFrom::Bookmark(of_another));
    assert!(matches!(unknown, Error::BookmarkUnknown { .. }), "{unknown}");
    assert_eq!(subtree("a", "a/x", ForkFrom::Latest).kind(), ErrorKind::InvalidInput);
    assert_eq!(subtree("a", "a", ForkFrom::Latest).kind(), ErrorKind::InvalidInput);
    assert!(matches!(subtree("nobody", "new", ForkFrom::Latest), Error::FacetNotFound { .. }));
    // One of several names is taken, so none is.
    assert!(matches!(subtree("a", "copy", ForkFrom::Latest), Error::FacetExists { .. }));
    let unrelated = subtree("a", "new", ForkFrom::Bookmark(of_another));
    assert_eq!(unrelated.kind(), ErrorKind::InvalidInput, "{unrelated}");
    assert_eq!(names(&store), ["a", "a/b", "copy/b", "taken"]);
}

/// If this fails, a subtree comes back as it never was: facets of different times together, or some
/// that did not exist then.
#[test]
fn a_subtree_is_forked_as_it_was_at_one_moment() {
    let io = MemoryIo::new();
    let store = open(&io);
    let top = store.create_facet(&name("t")).unwrap();
    let low = store.create_facet(&name("t/low")).unwrap();
    put(&low, 1, 1);
    put(&top, 1, 1);
    store.flush().unwrap();
    let moment = top.bookmark().unwrap();
    put(&low, 1, 2);
    put(&top, 1, 2);
    store.create_facet(&name("t/late")).unwrap();
    put(&store.create_facet(&name("t/later")).unwrap(), 1, 9);
    store.fork_facet(&name("t"), &name("t/fork"), ForkFrom::Latest).unwrap();
    store.flush().unwrap();
    let expect = |store: &Store, to: &str| {
        let below = store.list_facets(Some(&name(to)), None, 100).unwrap();
        let below: Vec<String> = below.iter().map(|info| info.name.to_string()).collect();
        assert_eq!(below, [to.to_owned(), format!("{to}/low")]);
        for one in below {
            assert_eq!(get(&store.open_facet(&name(&one)).unwrap(), View::Durable), [1], "{one}");
        }
    };
    let fork = |store: &Store, to: &str| {
        let from = ForkFrom::Bookmark(moment);
        // Not durable yet when the fork is made.
        store.create_facet(&name("t/unborn")).unwrap();
        store.fork_facet(&name("t"), &name("t/unborn/fork"), ForkFrom::Latest).unwrap();
        let (facets, _) = store.fork_subtree(&name("t"), &name(to), from).unwrap();
        assert_eq!(facets.len(), 2);
        store.delete_facet(&name("t/unborn")).unwrap();
        store.flush().unwrap();
        expect(store, to);
    };
    fork(&store, "one");
    drop((top, low, store));
    // Replayed from the log, then from a checkpoint.
    let store = open(&io);
    expect(&store, "one");
    fork(&store, "two");
    store.close().unwrap();
    let store = open(&io);
    expect(&store, "two");
    fork(&store, "three");
}

/// If this fails, a bookmark of a fork that a crash took opens another fork, which got its number.
#[test]
fn a_bookmark_of_a_lost_fork_never_names_another() {
    let io = MemoryIo::new();
    let store = open(&io);
    for (text, byte) in [("a", 1), ("b", 2)] {
        put(&store.create_facet(&name(text)).unwrap(), 1, byte);
    }
    store.flush().unwrap();
    let (fork, _) = store.fork_facet(&name("a"), &name("fork"), ForkFrom::Latest).unwrap();
    let (lost, id) = (fork.snapshot(View::Latest).unwrap().bookmark(), fork.id());
    drop((fork, store));
    let store = open(&io);
    let (fork, _) = store.fork_facet(&name("b"), &name("fork"), ForkFrom::Latest).unwrap();
    store.flush().unwrap();
    assert_eq!(fork.id(), id, "the number is used again, or this test tests nothing");
    let error = fork.snapshot_at(&lost).unwrap_err();
    assert!(matches!(error, Error::BookmarkUnknown { .. }), "{error}");
    let own = fork.bookmark().unwrap();
    drop((fork, store));
    let store = open(&io);
    let fork = store.open_facet(&name("fork")).unwrap();
    assert_eq!(fork.bookmark().unwrap(), own, "a recovery renamed a version");
}

/// If this fails, forks cost the size of what is forked, or space leaks that they shared.
#[test]
fn a_thousand_forks_cost_little_and_leave_nothing() {
    let store = open(&MemoryIo::new());
    store.set_retention(&name("agents"), Some(Retention::OFF)).unwrap();
    let template = store.create_facet(&name("template")).unwrap();
    for page in 1..=100 {
        put(&template, page, page as u8);
    }
    store.set_retention(&name("template"), Some(Retention::OFF)).unwrap();
    put(&template, 1, 1);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let before = store.stat();
    for number in 0..1000 {
        let to = name(format!("agents/{number}"));
        store.fork_facet(&name("template"), &to, ForkFrom::Latest).unwrap();
    }
    store.flush().unwrap();
    store.checkpoint().unwrap();
    let after = store.stat();
    assert!(after.live_bytes < before.live_bytes + 1000 * 150, "{before:?}\n{after:?}");
    for number in (0..1000).step_by(10) {
        put(&store.open_facet(&name(format!("agents/{number}"))).unwrap(), 7, 0);
    }
    store.delete_facet(&name("agents")).unwrap();
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let end = store.stat();
    assert!(end.shared_references <= 1, "only the root, which the template has alone: {end:?}");
    assert!(end.live_bytes <= before.live_bytes + 4096, "{before:?}\n{end:?}");
    let report = store.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
