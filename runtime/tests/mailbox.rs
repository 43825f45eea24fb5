//! Bounded mailboxes: a full one is an error or a wait, as asked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use common::{config, host_on};
use futures_util::future::join_all;
use lapidary::{Call, FacetHandle, Host, HostError, HostErrorKind, MailboxFull};
use lapidary_engine::MemoryIo;

const CALLS_MAX: usize = 4;

/// A host whose one core is busy until the sender is used or dropped, with a full mailbox.
fn jammed(full: MailboxFull) -> (Host, FacetHandle, Sender<()>, Vec<Call<usize>>) {
    let config = config(1).mailbox_calls_max(CALLS_MAX).mailbox_full(full);
    let host = host_on(&MemoryIo::new(), config);
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)", ()).wait().unwrap();
    let (go, wait) = channel::<()>();
    let (began, has_begun) = channel();
    let mut calls = vec![facet.run(move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(0)
    })];
    has_begun.recv().unwrap();
    calls.extend((0..4).map(|n| insert(&facet, n)));
    (host, facet, go, calls)
}

fn insert(facet: &FacetHandle, n: i64) -> Call<usize> {
    facet.execute("INSERT INTO t(n) VALUES (?1)", [n])
}

fn numbers(facet: &FacetHandle) -> Vec<i64> {
    facet.query("SELECT n FROM t ORDER BY id", (), |row| row.get(0)).wait().unwrap()
}

#[test]
fn a_full_mailbox_is_an_error_if_asked() {
    let (_host, facet, go, calls) = jammed(MailboxFull::Error);
    let error = insert(&facet, 99).wait().unwrap_err();
    assert!(matches!(error, HostError::MailboxFull { calls_max: CALLS_MAX, core: 0, .. }));
    assert_eq!(error.kind(), HostErrorKind::Retry);
    go.send(()).unwrap();
    for call in calls {
        call.wait().unwrap();
    }
    assert_eq!(numbers(&facet), [0, 1, 2, 3], "the refused call did nothing");
}

#[test]
fn a_thread_waits_for_room() {
    let (_host, facet, go, calls) = jammed(MailboxFull::Wait);
    let last = insert(&facet, 4);
    assert!(format!("{last:?}").contains("waiting for room"));
    let waiting = thread::spawn(move || last.wait());
    thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished());
    go.send(()).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), 1);
    drop(calls);
    assert_eq!(numbers(&facet), [0, 1, 2, 3, 4]);
}

#[test]
fn futures_wait_for_room_without_blocking_their_executor_and_keep_their_order() {
    let (_host, facet, go, calls) = jammed(MailboxFull::Wait);
    let waiting: Vec<_> = (4..200).map(|n| insert(&facet, n)).collect();
    let unjam = async {
        // Reached only if polling the calls before it did not block.
        go.send(()).unwrap();
    };
    pollster::block_on(async {
        let (outcomes, ()) = futures_util::future::join(join_all(waiting), unjam).await;
        assert!(outcomes.into_iter().all(|outcome| outcome.unwrap() == 1));
    });
    drop(calls);
    assert_eq!(numbers(&facet), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_call_that_never_found_room_is_dropped_unrun() {
    let (_host, facet, go, calls) = jammed(MailboxFull::Wait);
    drop(insert(&facet, 99));
    let mut tried = insert(&facet, 98);
    assert!(tried.try_wait().is_none());
    drop(tried);
    go.send(()).unwrap();
    for call in calls {
        call.wait().unwrap();
    }
    insert(&facet, 4).wait().unwrap();
    assert_eq!(numbers(&facet), [0, 1, 2, 3, 4]);
}

#[test]
fn futures_waiting_for_room_end_with_the_host() {
    let (host, facet, go, calls) = jammed(MailboxFull::Wait);
    let waiting: Vec<_> = (4..50).map(|n| insert(&facet, n)).collect();
    let polled = thread::spawn(move || pollster::block_on(join_all(waiting)));
    thread::sleep(Duration::from_millis(20));
    let stopping = thread::spawn(move || host.shutdown());
    thread::sleep(Duration::from_millis(20));
    go.send(()).unwrap();
    stopping.join().unwrap().unwrap();
    for call in calls {
        call.wait().unwrap();
    }
    for outcome in polled.join().unwrap() {
        if let Err(error) = outcome {
            assert_eq!(error.kind(), HostErrorKind::Closed, "{error}");
        }
    }
}

#[test]
fn calls_in_line_keep_their_order_whatever_order_they_are_awaited_in() {
    let (_host, facet, go, calls) = jammed(MailboxFull::Wait);
    let waiting: Vec<_> = (4..100).map(|n| insert(&facet, n)).collect();
    go.send(()).unwrap();
    for call in waiting.into_iter().rev() {
        assert_eq!(call.wait().unwrap(), 1);
    }
    drop(calls);
    assert_eq!(numbers(&facet), (0..100).collect::<Vec<_>>());
}

#[test]
fn many_threads_through_a_small_mailbox() {
    let config = config(2).mailbox_calls_max(2);
    let host = host_on(&MemoryIo::new(), config);
    thread::scope(|scope| {
        for worker in 0..8 {
            let host = &host;
            scope.spawn(move || {
                let facet = host.facet(format!("worker-{worker}")).unwrap();
                facet.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)", ()).wait().unwrap();
                if worker % 2 == 0 {
                    let calls: Vec<_> = (0..100).map(|n| insert(&facet, n)).collect();
                    for call in calls {
                        assert_eq!(call.wait().unwrap(), 1);
                    }
                } else {
                    let calls = join_all((0..100).map(|n| insert(&facet, n)));
                    for outcome in pollster::block_on(calls) {
                        assert_eq!(outcome.unwrap(), 1);
                    }
                }
                assert_eq!(numbers(&facet), (0..100).collect::<Vec<_>>());
            });
        }
    });
}
