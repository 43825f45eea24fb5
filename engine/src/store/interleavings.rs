//! Interleavings of threads on a real store, one after the other, by loom: every one in which a thread is
//! interrupted at most as often as `LOOM_MAX_PREEMPTIONS` says, with every value that the memory model
//! lets an atomic load see. `docs/TESTING.md` has the command.

use std::sync::Arc;

use loom::thread;

use super::{Store, background};
use crate::config::{Background, FormatParams, StoreOptions};
use crate::env::{Clock, Entropy, Environment};
use crate::error::Error;
use crate::facet::Facet;
use crate::io::MemoryIo;
use crate::name::FacetName;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::types::{PageNo, PageSize, Ticket, View};

/// Time that stands still and randomness that is none, since a model must run alike each time.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

impl Entropy for Still {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

fn store() -> Arc<Store> {
    let environment = Environment {
        io: Arc::new(MemoryIo::new()),
        clock: Arc::new(Still),
        entropy: Arc::new(Still),
    };
    let options = StoreOptions {
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        background: Background::Manual,
        ..StoreOptions::create()
    };
    Store::open(environment, options).expect("an empty store opens")
}

fn facet(store: &Store, name: &str) -> Arc<Facet> {
    let name = FacetName::new(name).expect("it is a good name");
    store.create_facet(&name).expect("the name is free")
}

/// Fills page 1 with `byte`.
fn commit(facet: &Arc<Facet>, byte: u8) -> Ticket {
    let mut writer = facet.begin_write_latest().expect("nobody else writes");
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::MIN).expect("it has no pages yet");
    }
    writer.write_page(PageNo(1), &[byte; 512]).expect("it is a page");
    writer.commit(0).expect("there is room")
}

/// What a snapshot shows of page 1; nothing if there is none yet.
fn seen(facet: &Arc<Facet>, view: View) -> u8 {
    let snapshot = facet.snapshot(view).expect("the facet is there");
    let mut image = [0; 512];
    if snapshot.page_count() > 0 {
        snapshot.read_page(PageNo(1), &mut image).expect("what is pinned is there");
    }
    assert!(image.iter().all(|byte| *byte == image[0]), "half a page");
    image[0]
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 1_000_000;
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(2);
    }
    builder.check(model);
}

/// Two commits that wait at the same time: one leads, the other shares or leads the next, and both are
/// durable when they are told so. Nobody waits for ever.
#[test]
fn waiters_are_woken_and_told_the_truth() {
    explore(|| {
        let store = store();
        let other = facet(&store, "a");
        let own = facet(&store, "b");
        let waiter = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let ticket = commit(&other, 1);
                store.wait_durable(ticket).expect("the disk works");
                assert_eq!(seen(&other, View::Durable), 1);
            })
        };
        let ticket = commit(&own, 2);
        store.wait_durable(ticket).expect("the disk works");
        assert!(store.durable_lsn() >= ticket.lsn());
        assert_eq!(seen(&own, View::Durable), 2);
        waiter.join().expect("no panic");
    });
}

/// A reader beside a commit and its flush: it sees one version whole, as long as it holds it, and never
/// an older one after a newer one. If it sees a version as durable, its LSN is.
#[test]
fn publication_shows_whole_versions_that_are_durable() {
    explore(|| {
        let store = store();
        let facet = facet(&store, "a");
        let first = commit(&facet, 1);
        store.wait_durable(first).expect("the disk works");
        let writer = {
            let (store, facet) = (Arc::clone(&store), Arc::clone(&facet));
            thread::spawn(move || {
                let ticket = commit(&facet, 2);
                store.wait_durable(ticket).expect("the disk works");
                ticket
            })
        };
        let held = facet.snapshot(View::Durable).expect("the facet is there");
        let before = held.version();
        let between = seen(&facet, View::Durable);
        let mut image = [0; 512];
        held.read_page(PageNo(1), &mut image).expect("what is pinned is there");
        assert_eq!(u64::from(image[0]), before.0, "page 1 of version n is full of n");
        assert!(u64::from(between) >= before.0, "an older version after a newer one");
        let ticket = writer.join().expect("no panic");
        assert!(store.durable_lsn() >= ticket.lsn());
        assert_eq!(seen(&facet, View::Durable), 2);
        drop(held);
    });
}

/// A snapshot that is let go while its version is replaced: pins are counted right, and the segments
/// that nobody reads any more are free for a checkpoint to find.
#[test]
fn pins_come_and_go_beside_commits() {
    explore(|| {
        let store = store();
        let facet = facet(&store, "a");
        store.wait_durable(commit(&facet, 1)).expect("the disk works");
        let reader = {
            let facet = Arc::clone(&facet);
            thread::spawn(move || {
                let held = facet.snapshot(View::Latest).expect("the facet is there");
                let copy = held.clone();
                drop(held);
                let mut image = [0; 512];
                copy.read_page(PageNo(1), &mut image).expect("what is pinned is there");
                assert_eq!(u64::from(image[0]), copy.version().0);
            })
        };
        store.wait_durable(commit(&facet, 2)).expect("the disk works");
        reader.join().expect("no panic");
        let mut pinned = rustc_hash::FxHashSet::default();
        facet.pinned_segments(&mut pinned);
        assert!(pinned.is_empty(), "a snapshot that is gone pins {pinned:?}");
    });
}

/// A flush that is asked for happens, though the flusher thread may be about to sleep, or to begin the
/// flush before; who sleeps until the listener says that something is durable is woken.
#[test]
fn a_flush_that_is_asked_for_happens() {
    explore(|| {
        let store = store();
        let facet = facet(&store, "a");
        let stopping = Arc::new(AtomicBool::new(false));
        let flusher = {
            let (store, stopping) = (Arc::clone(&store), Arc::clone(&stopping));
            thread::spawn(move || background::flush(&store.shared, &stopping))
        };
        store.shared.core.log.set_flusher(flusher.thread().clone());
        // The token of a core: see the mailbox of the host.
        let token = Arc::new((Mutex::new(false), Condvar::new()));
        let put = Arc::clone(&token);
        store.on_durable(Box::new(move || {
            *put.0.lock().expect("no panic") = true;
            put.1.notify_one();
        }));
        let ticket = commit(&facet, 1);
        store.request_flush();
        while !store.is_durable(ticket).expect("the disk works") {
            let mut has_token = token.0.lock().expect("no panic");
            while !*has_token {
                has_token = token.1.wait(has_token).expect("no panic");
            }
            *has_token = false;
        }
        stopping.store(true, Ordering::Release);
        flusher.thread().unpark();
        flusher.join().expect("no panic");
        assert_eq!(seen(&facet, View::Durable), 1);
    });
}

/// A store that stops for good tells everybody who waits, or who comes to wait.
#[test]
fn a_store_that_stops_leaves_nobody_waiting() {
    explore(|| {
        let store = store();
        let facet = facet(&store, "a");
        let ticket = commit(&facet, 1);
        // Somebody has the lead, so that waiters wait.
        let lead = store.shared.core.log.lead();
        let waiter = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.wait_durable(ticket))
        };
        let cause = Error::Closed;
        drop(store.shared.core.log.poison(&cause));
        drop(lead);
        let told = waiter.join().expect("no panic");
        assert!(matches!(told, Err(Error::Poisoned { .. })), "{told:?}");
    });
}
