//! What others do while, and wait for when, commits become durable.

#![expect(clippy::disallowed_methods, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lapidary_engine::{
    Environment, ErrorKind, Lsn, MemoryIo, Store, StoreOptions, Ticket, Tunables, View,
};
use support::{FaultyIo, name, open, read, wait_until, write};

/// A snapshot ends after the commit that replaced its page was published, and before the rest of
/// the batch was: the page is given back before it was counted as kept for the snapshot. If this
/// fails, the store stops with a panic in the thread of a mere reader.
#[test]
fn a_snapshot_may_end_while_the_batch_that_replaces_its_pages_is_published() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    for text in ["a", "b"] {
        write(&store, &store.create_facet(&name(text)).unwrap(), 1);
    }
    store.close().unwrap();

    let store = open(&disk);
    let a = store.open_facet(&name("a")).unwrap();
    assert_eq!(read(&a), 1);
    let old = a.snapshot(View::Durable).unwrap();
    support::try_write(&a, 2).unwrap();
    store.rename_facet(&name("b"), &name("c")).unwrap();
    let c = store.open_facet(&name("c")).unwrap();
    thread::scope(|scope| {
        // Publication goes by LSN: it comes to the rename after the commit, and stops there, since
        // that facet is being loaded by a reader that the disk keeps waiting.
        let reads = disk.hold_reads();
        scope.spawn(|| assert_eq!(read(&c), 1));
        reads.wait_for_reader();
        scope.spawn(|| store.flush().unwrap());
        wait_until("the commit is published", || {
            a.snapshot(View::Durable).unwrap().version() > old.version()
        });
        assert!(!store.is_durable(store.current_ticket()).unwrap(), "the batch is not");
        drop(old);
        drop(reads);
    });
    assert_eq!((read(&a), read(&c)), (2, 1));
    store.checkpoint().unwrap();

    // The page counts neither as live nor as kept: with the facets gone, all space is free.
    drop((a, c));
    store.delete_facet(&name("a")).unwrap();
    store.delete_facet(&name("c")).unwrap();
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let stat = store.stat();
    assert!(stat.ready_segments + 1 >= stat.segments, "{stat:?}");
}

/// If this fails, a caller that passes a ticket of another store, or one kept from before a crash,
/// flushes in circles for ever.
#[test]
fn a_ticket_that_was_never_given_out_is_refused() {
    let store = open(&FaultyIo::default());
    write(&store, &store.create_facet(&name("a")).unwrap(), 1);
    let (sender, answer) = mpsc::channel();
    let waiting = Arc::clone(&store);
    thread::spawn(move || {
        let unknown = Ticket::at(Lsn(waiting.current_ticket().lsn().0 + 1));
        sender.send(waiting.wait_durable(unknown).map_err(|error| error.kind()))
    });
    let answer = answer.recv_timeout(Duration::from_secs(20)).expect("an answer comes");
    assert_eq!(answer, Err(ErrorKind::InvalidInput));
    store.wait_durable(store.current_ticket()).unwrap();
}

/// The interval between flushes is an hour here, so that what is durable before did not wait for it.
#[test]
fn when_all_rest_a_flush_that_was_asked_for_does_not_wait() {
    let tunables = Tunables { flush_interval: Duration::from_secs(3600), ..Tunables::default() };
    let options = StoreOptions { tunables, ..StoreOptions::create() };
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let store = Store::open(environment, options).unwrap();
    let facet = store.create_facet(&name("a")).unwrap();
    let (mut one, mut other) = (store.worker(), store.worker());
    let commit = |byte| {
        let store = &store;
        support::try_write(&facet, byte).unwrap();
        let ticket = facet.latest_ticket();
        store.request_flush();
        move || store.is_durable(ticket).unwrap()
    };
    wait_until("the first flush, at once", commit(1));
    let second = commit(2);
    one.rest();
    thread::sleep(Duration::from_millis(30));
    assert!(!second(), "one is at work, and could add to it");
    other.rest();
    wait_until("all rest", second);
    wait_until("all rest already", commit(3));
    one.resume();
    let fourth = commit(4);
    thread::sleep(Duration::from_millis(30));
    assert!(!fourth(), "one is at work again");
    drop(one);
    wait_until("the only one left rests", fourth);
    drop(other);
    let fifth = commit(5);
    thread::sleep(Duration::from_millis(30));
    assert!(!fifth(), "nobody says anything");
    store.flush().unwrap();
    assert!(fifth());
}
