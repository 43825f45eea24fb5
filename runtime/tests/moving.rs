//! Facets that move from one core to another while they are called.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use common::{config, disk, host};
use futures_util::future::join_all;
use lapidary::{FacetHandle, ForkFrom, Host, HostError, HostErrorKind, MailboxFull};
use lapidary_engine::MemoryIo;

fn insert(facet: &FacetHandle, n: i64) -> lapidary::Call<usize> {
    facet.execute("INSERT INTO t(n) VALUES (?1)", [n])
}

fn prepared(host: &Host, name: &str) -> FacetHandle {
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)", ()).wait().unwrap();
    facet
}

fn numbers(facet: &FacetHandle) -> Vec<i64> {
    facet.query("SELECT n FROM t ORDER BY id", (), |row| row.get(0)).wait().unwrap()
}

#[test]
fn calls_keep_their_order_and_nobody_else_waits() {
    let host = host(2);
    let facet = prepared(&host, "a/1");
    let (from, to) = (facet.core(), 1 - facet.core());
    let (go, wait) = channel::<()>();
    let held = facet.run(move |_| Ok(wait.recv().is_ok()));
    let before: Vec<_> = (0..50).map(|n| insert(&facet, n)).collect();
    let mut moved = host.move_to_core("a", to);
    assert_eq!((facet.core(), host.facet("a/2").unwrap().core()), (to, to));
    let after: Vec<_> = (50..100).map(|n| insert(&facet, n)).collect();
    let sibling = host.facet("a/2").unwrap().execute("CREATE TABLE t(n)", ());
    // Somebody who was on the new core before is served, though the old one is held up.
    let neighbour = (0..20)
        .map(|number| host.facet(format!("neighbour-{number}")).unwrap())
        .find(|facet| facet.core() == to)
        .unwrap();
    neighbour.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    assert!(moved.try_wait().is_none());
    go.send(()).unwrap();
    held.wait().unwrap();
    moved.wait().unwrap();
    sibling.wait().unwrap();
    for call in before.into_iter().chain(after) {
        assert_eq!(call.wait().unwrap(), 1);
    }
    assert_eq!(numbers(&facet), (0..100).collect::<Vec<_>>());
    let cores = host.stat().wait().unwrap().cores;
    assert!(cores[to].calls > 50 && cores[from].calls > 50, "{cores:?}");
    // It moves again, and back to where its name puts it.
    host.move_to_core("a", to).wait().unwrap();
    host.move_to_core("a", from).wait().unwrap();
    assert_eq!(facet.core(), from);
    insert(&facet, 100).wait().unwrap();
    assert_eq!(numbers(&facet).len(), 101);
}

#[test]
fn many_moves_under_many_callers_keep_every_order() {
    let host = host(3);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let host = &host;
                scope.spawn(move || {
                    let name = format!("root/{worker}");
                    let facet = prepared(host, &name);
                    for round in 0..20 {
                        let calls: Vec<_> = (0..20)
                            .map(|n| {
                                // A handle of its own now and then, that looks its core up anew.
                                let fresh = host.facet(&name).unwrap();
                                insert(if n % 3 == 0 { &fresh } else { &facet }, round * 20 + n)
                            })
                            .collect();
                        for outcome in pollster::block_on(join_all(calls)) {
                            assert_eq!(outcome.unwrap(), 1);
                        }
                    }
                    assert_eq!(numbers(&facet), (0..400).collect::<Vec<_>>());
                })
            })
            .collect();
        let mover = scope.spawn(|| {
            let mut core = 0;
            while !done.load(Ordering::Relaxed) {
                core = (core + 1) % 3;
                // Mostly without waiting for the one before.
                let moved = host.move_to_core("root", core);
                if core == 0 {
                    moved.wait().unwrap();
                }
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        mover.join().unwrap();
    });
    host.shutdown().unwrap();
}

#[test]
fn names_are_changed_in_order_with_the_moves() {
    let host = host(2);
    let facet = prepared(&host, "a/1");
    let to = 1 - facet.core();
    let (go, wait) = channel::<()>();
    let held = facet.run(move |_| Ok(wait.recv().is_ok()));
    let first = insert(&facet, 0);
    let moved = host.move_to_core("a", to);
    let second = insert(&facet, 1);
    let forked = host.fork("a/1", "a/2", ForkFrom::Latest);
    let deleted = host.delete("a/1");
    let created = facet.execute("CREATE TABLE u(n)", ());
    go.send(()).unwrap();
    held.wait().unwrap();
    moved.wait().unwrap();
    for call in [first, second] {
        call.wait().unwrap();
    }
    forked.wait().unwrap();
    deleted.wait().unwrap();
    created.wait().unwrap();
    assert_eq!(numbers(&host.facet("a/2").unwrap()), [0, 1]);
    let together = host.transaction_over(["a/1", "a/2"], |facets| {
        facets[1].execute("DELETE FROM t", ())?;
        facets[0].execute("INSERT INTO u VALUES (1)", ())?;
        Ok(())
    });
    together.wait().unwrap();
}

#[test]
fn an_abort_reaches_calls_made_before_the_move() {
    let host = host(2);
    let facet = prepared(&host, "a");
    let to = 1 - facet.core();
    let (begun, begins) = channel::<()>();
    let (go, wait) = channel::<()>();
    let held = facet.run(move |_| Ok(begun.send(()).is_ok() && wait.recv().is_ok()));
    // An abort that came first would drop the closure with the receiver.
    begins.recv().unwrap();
    let before = insert(&facet, 0);
    let moved = host.move_to_core("a", to);
    let after = insert(&facet, 1);
    let aborted = host.abort("a", "enough");
    let again = insert(&facet, 2);
    go.send(()).unwrap();
    moved.wait().unwrap();
    // What ran had its end: nothing of SQLite was interrupted.
    let _ = held.wait();
    for call in [before, after] {
        let error = call.wait().unwrap_err();
        assert!(matches!(error, HostError::FacetAborted { .. }), "{error}");
    }
    aborted.wait().unwrap();
    again.wait().unwrap();
    assert_eq!(numbers(&facet), [2]);
}

#[test]
fn replies_on_the_new_core_wait_for_what_the_old_one_committed() {
    let (environment, switch) = disk(&MemoryIo::new());
    let host = Host::open_in(environment, config(2)).unwrap();
    let facet = prepared(&host, "a");
    let _release = switch.release_at_end();
    switch.hold();
    let mut before = insert(&facet, 7);
    switch.await_sync();
    host.move_to_core("a", 1 - facet.core()).wait().unwrap();
    let mut seen = facet.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0));
    let early = facet.unconfirmed().query("SELECT n FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(early.wait().unwrap(), [7]);
    assert!(before.try_wait().is_none() && seen.try_wait().is_none());
    switch.release();
    before.wait().unwrap();
    assert_eq!(seen.wait().unwrap(), [7]);
}

#[test]
fn a_host_that_shuts_down_runs_what_waits_for_a_move() {
    let host = host(2);
    let facet = prepared(&host, "a");
    let (go, wait) = channel::<()>();
    let held = facet.run(move |_| Ok(wait.recv().is_ok()));
    let moved = host.move_to_core("a", 1 - facet.core());
    let after = insert(&facet, 1);
    let stopping = thread::spawn(move || host.shutdown());
    thread::sleep(std::time::Duration::from_millis(20));
    go.send(()).unwrap();
    stopping.join().unwrap().unwrap();
    held.wait().unwrap();
    moved.wait().unwrap();
    assert_eq!(after.wait().unwrap(), 1);
}

#[test]
fn full_lanes_and_lines_move_too() {
    let config = config(2).facet_calls_max(2).mailbox_full(MailboxFull::Wait);
    let host = common::host_on(&MemoryIo::new(), config);
    let facet = prepared(&host, "a");
    let (go, wait) = channel::<()>();
    let held = facet.run(move |_| Ok(wait.recv().is_ok()));
    let calls: Vec<_> = (0..50).map(|n| insert(&facet, n)).collect();
    let moved = host.move_to_core("a", 1 - facet.core());
    let more: Vec<_> = (50..100).map(|n| insert(&facet, n)).collect();
    go.send(()).unwrap();
    for outcome in pollster::block_on(join_all(calls.into_iter().chain(more))) {
        assert_eq!(outcome.unwrap(), 1);
    }
    held.wait().unwrap();
    moved.wait().unwrap();
    assert_eq!(numbers(&facet), (0..100).collect::<Vec<_>>());
}

#[test]
fn what_cannot_move_is_refused() {
    let host = host(2);
    for (root, core) in [("a/b", 0), ("a", 2), ("", 0)] {
        let error = host.move_to_core(root, core).wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{error}");
    }
    host.shutdown().unwrap();
    assert_eq!(host.move_to_core("a", 0).wait().unwrap_err().kind(), HostErrorKind::Closed);
}
