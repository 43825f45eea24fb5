//! Rows of restores and forks, and what versions are called after a recovery.

use std::time::Duration;

use lapidary_engine::{Bookmark, ForkFrom, Retention, Version};

use super::*;

const KEEP: Retention = Retention { bytes: 1 << 20, age: Duration::from_secs(1 << 30) };

/// A trial whose facet keeps its history; the bookmark is of [`OLD`], the newest version is 7.
fn with_history() -> (Trial, Bookmark) {
    let trial = Trial::new(1);
    trial.store.set_retention(&name("a"), Some(KEEP)).unwrap();
    let bookmark = trial.facet.bookmark().unwrap();
    commit(&trial.facet, 7).unwrap();
    trial.store.flush().unwrap();
    (trial, bookmark)
}

#[test]
fn restore() {
    let (trial, bookmark) = with_history();
    let restored = trial.facet.restore(&bookmark).unwrap();
    // As any commit: visible to the writer's side at once, to all others when it is durable.
    assert_eq!((shown(&trial.facet, View::Latest), shown(&trial.facet, View::Durable)), (OLD, 7));
    assert_eq!(trial.after_reopening(), [7].into());
    trial.store.wait_durable(restored.ticket).unwrap();
    assert_eq!(shown(&trial.facet, View::Durable), OLD);
    assert_eq!(trial.after_reopening(), [OLD].into());
    trial.facet.restore(&restored.undo).unwrap();
    trial.store.flush().unwrap();
    assert_eq!(trial.after_reopening(), [7].into());
}

#[test]
fn restore_while_there_is_a_writer() {
    let (trial, bookmark) = with_history();
    let before = trial.store.current_ticket();
    let writer = stage(&trial.facet, 9).unwrap();
    assert_eq!(trial.facet.restore(&bookmark).unwrap_err().kind(), ErrorKind::Busy);
    drop(writer);
    assert_eq!(trial.store.current_ticket(), before);
}

#[test]
fn restore_of_a_bookmark_that_is_not_kept() {
    let trial = Trial::new(1);
    let bookmark = trial.facet.bookmark().unwrap();
    commit(&trial.facet, 7).unwrap();
    trial.store.flush().unwrap();
    let (before, version) = (trial.store.current_ticket(), trial.facet.latest_version());
    let error = trial.facet.restore(&bookmark).unwrap_err();
    assert!(matches!(error, Error::BookmarkUnknown { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!((trial.store.current_ticket(), trial.facet.latest_version()), (before, version));
    assert!(!trial.facet.has_writer());
    assert_eq!(trial.after_reopening(), [7].into());
}

fn fork_content(store: &Store, facet: &str, view: View) -> u8 {
    shown(&store.open_facet(&name(facet)).unwrap(), view)
}

#[test]
fn fork_of_latest() {
    let trial = Trial::new(1);
    let committed = commit(&trial.facet, NEW).unwrap();
    let (fork, ticket) = trial.store.fork_facet(&name("a"), &name("b"), ForkFrom::Latest).unwrap();
    assert!(ticket > committed, "it is durable with its source's commit, not before");
    assert_eq!(shown(&fork, View::Latest), NEW);
    // Neither of them without a flush, and then both.
    assert!(!open(&trial.sim().after_kill()).facet_exists(&name("b")));
    assert_eq!(trial.after_reopening(), [OLD].into());
    trial.store.wait_durable(ticket).unwrap();
    assert!(trial.store.is_durable(committed).unwrap());
    assert_eq!(shown(&fork, View::Durable), NEW);
    let store = open(&trial.sim().after_crash(Survival::Nothing));
    assert_eq!(fork_content(&store, "a", View::Durable), NEW);
    assert_eq!(fork_content(&store, "b", View::Durable), NEW);
}

/// The power goes out in the middle of the flush: the fork is there only with its source's commit.
#[test]
fn fork_of_latest_and_power_loss() {
    let mut with_fork = 0;
    for seed in SEEDS {
        let trial = Trial::new(seed);
        commit(&trial.facet, NEW).unwrap();
        trial.store.fork_facet(&name("a"), &name("b"), ForkFrom::Latest).unwrap();
        trial.sim().crash_at(trial.sim().operations() + seed % 2);
        assert_stop(trial.store.flush());
        let store = open(&trial.sim().after_crash(Survival::Random(seed)));
        if store.facet_exists(&name("b")) {
            assert_eq!(fork_content(&store, "b", View::Durable), NEW);
            assert_eq!(fork_content(&store, "a", View::Durable), NEW);
            with_fork += 1;
        }
    }
    assert!(with_fork > 0);
}

#[test]
fn fork_of_durable() {
    let trial = Trial::new(1);
    commit(&trial.facet, NEW).unwrap();
    let (fork, ticket) = trial.store.fork_facet(&name("a"), &name("b"), ForkFrom::Durable).unwrap();
    assert_eq!(shown(&fork, View::Latest), OLD);
    trial.store.wait_durable(ticket).unwrap();
    let store = open(&trial.sim().after_crash(Survival::Nothing));
    assert_eq!(fork_content(&store, "a", View::Durable), NEW);
    assert_eq!(fork_content(&store, "b", View::Durable), OLD);
}

#[test]
fn fork_of_a_bookmark() {
    let (trial, bookmark) = with_history();
    let from = ForkFrom::Bookmark(bookmark);
    let (fork, ticket) = trial.store.fork_facet(&name("a"), &name("b"), from).unwrap();
    assert_eq!(shown(&fork, View::Latest), OLD);
    trial.store.wait_durable(ticket).unwrap();
    let store = open(&trial.sim().after_crash(Survival::Nothing));
    assert_eq!(fork_content(&store, "a", View::Durable), 7);
    assert_eq!(fork_content(&store, "b", View::Durable), OLD);
}

#[test]
fn fork_of_a_subtree() {
    let trial = Trial::new(1);
    for facet in ["a/x", "a/y"] {
        commit(&trial.store.create_facet(&name(facet)).unwrap(), NEW).unwrap();
    }
    let (forks, ticket) =
        trial.store.fork_subtree(&name("a"), &name("b"), ForkFrom::Latest).unwrap();
    assert_eq!(forks.len(), 3);
    assert!(!open(&trial.sim().after_kill()).facet_exists(&name("b")));
    trial.store.wait_durable(ticket).unwrap();
    let store = open(&trial.sim().after_crash(Survival::Nothing));
    let found: Vec<u8> =
        ["b", "b/x", "b/y"].map(|facet| fork_content(&store, facet, View::Durable)).into();
    assert_eq!(found, [OLD, NEW, NEW]);
}

#[test]
fn fork_of_a_bookmark_that_is_not_kept() {
    let trial = Trial::new(1);
    let bookmark = trial.facet.bookmark().unwrap();
    commit(&trial.facet, 7).unwrap();
    trial.store.flush().unwrap();
    let before = trial.store.current_ticket();
    let from = ForkFrom::Bookmark(bookmark);
    let error = trial.store.fork_facet(&name("a"), &name("b"), from).unwrap_err();
    assert!(matches!(error, Error::BookmarkUnknown { .. }), "{error}");
    assert_eq!(trial.store.current_ticket(), before);
    assert!(!trial.store.facet_exists(&name("b")));
    assert_eq!(trial.after_reopening(), [7].into());
}

#[test]
fn fork_over_a_quota() {
    let trial = Trial::new(1);
    trial.store.set_quota(&name("b"), Some(PAGE as u64)).unwrap();
    let before = trial.store.current_ticket();
    let error = trial.store.fork_facet(&name("a"), &name("b"), ForkFrom::Latest).unwrap_err();
    assert!(matches!(error, Error::QuotaExceeded { .. }), "{error}");
    assert_eq!(trial.store.current_ticket(), before);
    assert!(!trial.store.facet_exists(&name("b")));
}

/// A version that was lost and the version that takes its number never look alike.
#[test]
fn a_lost_version_has_no_namesake() {
    let trial = Trial::new(1);
    trial.store.set_retention(&name("a"), Some(KEEP)).unwrap();
    trial.store.flush().unwrap();
    commit(&trial.facet, NEW).unwrap();
    let lost = trial.facet.snapshot(View::Latest).unwrap().bookmark();
    let store = open(&trial.sim().after_crash(Survival::Nothing));
    let facet = store.open_facet(&name("a")).unwrap();
    commit(&facet, 7).unwrap();
    store.flush().unwrap();
    let found = facet.bookmark().unwrap();
    assert_eq!((found.version, lost.version), (Version(2), Version(2)));
    assert_ne!(found, lost);
    assert!(matches!(facet.restore(&lost).unwrap_err(), Error::BookmarkUnknown { .. }));
}
