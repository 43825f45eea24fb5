//! Calls on facets: order, forms, outcomes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{host, host_on};
use futures_util::future::join_all;
use lapidary::{FacetHandle, Host, HostError, HostErrorKind, rusqlite};
use lapidary_engine::MemoryIo;

fn table(host: &Host, name: &str) -> FacetHandle {
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER UNIQUE)", ()).wait().unwrap();
    facet
}

fn numbers(facet: &FacetHandle) -> Vec<i64> {
    facet.query("SELECT n FROM t ORDER BY id", (), |row| row.get(0)).wait().unwrap()
}

#[test]
fn calls_of_a_facet_run_in_the_order_made() {
    let host = host(2);
    let facet = table(&host, "a");
    let calls: Vec<_> =
        (0..500_i64).map(|n| facet.execute("INSERT INTO t(n) VALUES (?1)", [n])).collect();
    let reads = facet.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
    for call in calls {
        assert_eq!(call.wait().unwrap(), 1);
    }
    assert_eq!(reads.wait().unwrap(), [500], "a call sees all that were made before it");
    assert_eq!(numbers(&facet), (0..500).collect::<Vec<_>>());
}

#[test]
fn facets_are_isolated_and_spread_over_the_cores() {
    let host = host(3);
    let facets: Vec<_> = (0..60).map(|n| host.facet(format!("tenant-{n}/db")).unwrap()).collect();
    thread::scope(|scope| {
        for (number, facet) in (0_i64..).zip(&facets) {
            scope.spawn(move || {
                facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
                for _ in 0..number {
                    facet.execute("INSERT INTO t VALUES (?1)", [number]).wait().unwrap();
                }
            });
        }
    });
    for (number, facet) in (0_i64..).zip(&facets) {
        let found: Vec<i64> = facet.query("SELECT n FROM t", (), |row| row.get(0)).wait().unwrap();
        assert_eq!(found, [number].repeat(usize::try_from(number).unwrap()), "{}", facet.name());
    }
    let stat = host.stat().wait().unwrap();
    assert_eq!(stat.cores.len(), 3);
    assert!(stat.cores.iter().all(|core| core.resident_facets > 0), "{:?}", stat.cores);
    assert_eq!(stat.cores.iter().map(|core| core.resident_facets).sum::<u64>(), 60);
    assert_eq!(stat.store.facets, 60);
}

#[test]
fn a_subtree_lives_on_one_core() {
    let host = host(4);
    let core = host.facet("tenants").unwrap().core();
    for name in ["tenants/a", "tenants/b/c", "tenants/d/e/f"] {
        assert_eq!(host.facet(name).unwrap().core(), core);
    }
}

#[test]
fn the_future_form_needs_no_particular_executor() {
    let host = host(2);
    let facet = table(&host, "a");
    pollster::block_on(async {
        let inserts = (0..100_i64).map(|n| facet.execute("INSERT INTO t(n) VALUES (?1)", [n]));
        for outcome in join_all(inserts).await {
            assert_eq!(outcome.unwrap(), 1);
        }
        let sum = facet
            .transaction(|tx| {
                Ok(tx.query_row("SELECT sum(n) FROM t", (), |row| row.get::<_, i64>(0))?)
            })
            .await
            .unwrap();
        assert_eq!(sum, 4950);
    });
}

#[test]
fn a_polled_call_can_be_waited_for() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut call = facet.run(move |_| {
        wait.recv().unwrap();
        Ok(7)
    });
    assert!(call.try_wait().is_none());
    assert!(format!("{call:?}").contains("sent"));
    go.send(()).unwrap();
    assert_eq!(call.wait().unwrap(), 7);
}

#[test]
fn a_reply_is_taken_once() {
    let host = host(1);
    let mut call = host.facet("a").unwrap().run(|_| Ok(1));
    let reply = loop {
        if let Some(reply) = call.try_wait() {
            break reply;
        }
        thread::yield_now();
    };
    assert_eq!(reply.unwrap(), 1);
    assert!(call.try_wait().is_none());
}

#[test]
fn an_error_rolls_a_transaction_back() {
    let host = host(1);
    let facet = table(&host, "a");
    let error = facet
        .transaction(|tx| {
            tx.execute("INSERT INTO t(n) VALUES (1)", ())?;
            tx.execute("INSERT INTO t(n) VALUES (1)", ())?;
            Ok(())
        })
        .wait()
        .unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Statement);
    assert!(error.to_string().starts_with("facet a: UNIQUE constraint failed"), "{error}");
    assert!(error.sqlite_error().is_some());

    let error = facet
        .transaction(|tx| -> lapidary::Result<()> {
            tx.execute("INSERT INTO t(n) VALUES (2)", ())?;
            Err(HostError::abort("changed my mind"))
        })
        .wait()
        .unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Aborted);
    assert_eq!(error.to_string(), "facet a: aborted by the caller: changed my mind");
    assert_eq!(numbers(&facet), [0_i64; 0]);
}

#[test]
fn a_statement_that_fails_changes_nothing_and_names_the_facet() {
    let host = host(1);
    let facet = table(&host, "tenants/acme");
    for sql in ["INSERT INTO missing VALUES (1)", "SELEC 1", "INSERT INTO t(n) VALUES (1), (1)"] {
        let error = facet.execute(sql, ()).wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Statement, "{error}");
        assert!(error.to_string().starts_with("facet tenants/acme: "), "{error}");
    }
    assert_eq!(numbers(&facet), [0_i64; 0]);
}

#[test]
fn a_panic_rolls_back_and_the_core_goes_on() {
    let host = host(1);
    let facet = table(&host, "a");
    let other = table(&host, "b");
    let error = facet
        .transaction(|tx| -> lapidary::Result<()> {
            tx.execute("INSERT INTO t(n) VALUES (1)", ())?;
            panic!("kaboom {}", 1);
        })
        .wait()
        .unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Aborted);
    assert!(error.to_string().contains("facet a: the closure panicked: kaboom 1"), "{error}");
    assert_eq!(numbers(&facet), [0_i64; 0]);
    facet.execute("INSERT INTO t(n) VALUES (2)", ()).wait().unwrap();
    assert_eq!(numbers(&facet), [2]);
    assert_eq!(numbers(&other), [0_i64; 0]);
    assert_eq!(host.stat().wait().unwrap().cores[0].panics, 1);
}

struct Explosive(Arc<AtomicBool>);

impl Drop for Explosive {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        panic!("dropped");
    }
}

#[test]
fn a_discarded_result_whose_destructor_panics_does_not_harm_the_core() {
    let host = host(1);
    let facet = table(&host, "a");
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let exploded = Arc::new(AtomicBool::new(false));
    let explosive = Explosive(Arc::clone(&exploded));
    drop(facet.run(move |_| {
        wait.recv().unwrap();
        Ok(explosive)
    }));
    go.send(()).unwrap();
    facet.execute("INSERT INTO t(n) VALUES (2)", ()).wait().unwrap();
    assert!(exploded.load(Ordering::SeqCst));
}

#[test]
fn a_dropped_call_runs_to_its_end() {
    let host = host(1);
    let facet = table(&host, "a");
    let (go, wait) = std::sync::mpsc::channel::<()>();
    drop(facet.transaction(move |tx| {
        tx.execute("INSERT INTO t(n) VALUES (1)", ())?;
        wait.recv().unwrap();
        tx.execute("INSERT INTO t(n) VALUES (2)", ())?;
        Ok(())
    }));
    go.send(()).unwrap();
    assert_eq!(numbers(&facet), [1, 2]);
}

#[test]
fn transactions_begin_and_end_with_their_call() {
    let host = host(1);
    let facet = table(&host, "a");
    let error = facet.execute("BEGIN", ()).wait().unwrap_err();
    assert!(matches!(error, HostError::TransactionLeftOpen { .. }), "{error}");
    let error = facet.execute_batch("BEGIN; INSERT INTO t(n) VALUES (1)").wait().unwrap_err();
    assert!(matches!(error, HostError::TransactionLeftOpen { .. }), "{error}");
    let error = facet
        .transaction(|tx| Ok(tx.execute_batch("INSERT INTO t(n) VALUES (2); ROLLBACK")?))
        .wait()
        .unwrap_err();
    assert!(matches!(error, HostError::TransactionEnded { .. }), "{error}");
    assert_eq!(numbers(&facet), [0_i64; 0]);
    facet.execute_batch("BEGIN; INSERT INTO t(n) VALUES (3); COMMIT").wait().unwrap();
    assert_eq!(numbers(&facet), [3]);
}

#[test]
fn a_closure_on_a_core_may_not_block_on_a_call_but_may_read() {
    let host = host(2);
    let facet = table(&host, "a");
    facet.execute("INSERT INTO t(n) VALUES (5)", ()).wait().unwrap();
    let again = facet.clone();
    let error = facet
        .run(move |_| again.execute("INSERT INTO t(n) VALUES (6)", ()).wait())
        .wait()
        .unwrap_err();
    assert!(matches!(error, HostError::WaitOnCore { .. }), "{error}");
    let again = facet.clone();
    let read = facet
        .run(move |_| {
            again.read(|connection| {
                Ok(connection.query_row("SELECT min(n) FROM t", (), |row| row.get::<_, i64>(0))?)
            })
        })
        .wait();
    assert_eq!(read.unwrap(), 5);
}

#[test]
fn reads_run_beside_an_open_transaction_and_see_what_is_committed() {
    let host = host(1);
    let facet = table(&host, "a");
    facet.execute("INSERT INTO t(n) VALUES (1)", ()).wait().unwrap();
    let (wrote, has_written) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let call = facet.transaction(move |tx| {
        tx.execute("INSERT INTO t(n) VALUES (2)", ())?;
        wrote.send(()).unwrap();
        wait.recv().unwrap();
        Ok(())
    });
    has_written.recv().unwrap();
    let count = |facet: &FacetHandle| {
        facet
            .read(|connection| {
                Ok(connection
                    .query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))?)
            })
            .unwrap()
    };
    assert_eq!(count(&facet), 1);
    go.send(()).unwrap();
    call.wait().unwrap();
    assert_eq!(count(&facet), 2, "an acknowledged call is seen by every read after it");
    assert_eq!(host.stat().wait().unwrap().idle_readers, 1, "the reader is kept and used again");
}

#[test]
fn a_read_sees_one_snapshot_and_cannot_write() {
    let host = host(1);
    let facet = table(&host, "a");
    let writer = facet.clone();
    let seen = facet
        .read(move |connection| {
            let count = || -> rusqlite::Result<i64> {
                connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))
            };
            let before = count()?;
            writer.execute("INSERT INTO t(n) VALUES (1)", ()).wait()?;
            Ok((before, count()?))
        })
        .unwrap();
    assert_eq!(seen, (0, 0));
    let error = facet
        .read(|connection| Ok(connection.execute("INSERT INTO t(n) VALUES (2)", ())?))
        .unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Statement, "{error}");
    assert_eq!(numbers(&facet), [1]);
}

#[test]
fn readers_on_many_threads_do_not_disturb_the_writer() {
    let host = host(1);
    let facet = table(&host, "a");
    facet.execute("INSERT INTO t(n) VALUES (0)", ()).wait().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let (count, max): (i64, i64) = facet
                        .read(|connection| {
                            Ok(connection.query_row(
                                "SELECT count(*), max(n) FROM t",
                                (),
                                |row| Ok((row.get(0)?, row.get(1)?)),
                            )?)
                        })
                        .unwrap();
                    assert_eq!(count, max + 1);
                    assert!(count >= last, "a reader never goes back in time");
                    last = count;
                }
            });
        }
        for n in 1..200_i64 {
            facet.execute("INSERT INTO t(n) VALUES (?1)", [n]).wait().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_facet_is_created_by_its_first_call_but_not_by_a_read() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    let error = facet.read(|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NotFound);
    assert!(error.to_string().contains("facet a"), "{error}");
    assert!(host.list(None, None, 10).wait().unwrap().is_empty());
    assert_eq!(facet.query("SELECT 1", (), |row| row.get::<_, i64>(0)).wait().unwrap(), [1]);
    assert_eq!(host.list(None, None, 10).wait().unwrap().len(), 1);
    facet.read(|_| Ok(())).unwrap();
}

#[test]
fn names_are_checked_and_never_taken_for_something_else() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, common::config(2));
    for name in ["", "/a", "a/", "a//b", "a/../b", "a\0b", ":memory:", &"x".repeat(513)] {
        let error = host.facet(name).unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{name:?}: {error}");
        assert_eq!(host.delete(name).wait().unwrap_err().kind(), HostErrorKind::InvalidInput);
    }
    let names =
        ["a", "file:a", "a?vfs=unix", "a#b", "a%41", "aA", "file:%61", "a-journal", "a-wal", "ä b"];
    for (number, name) in (0_i64..).zip(names) {
        let facet = host.facet(name).unwrap();
        facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
        facet.execute("INSERT INTO t VALUES (?1)", [number]).wait().unwrap();
    }
    for (number, name) in (0_i64..).zip(names) {
        let facet = host.facet(name).unwrap();
        let sql = "SELECT n FROM t";
        let read = facet.read(|c| Ok(c.query_row(sql, (), |row| row.get::<_, i64>(0))?));
        assert_eq!(read.unwrap(), number, "{name}");
        let query = facet.query(sql, (), |row| row.get::<_, i64>(0)).wait();
        assert_eq!(query.unwrap(), [number], "{name}");
    }
    assert_eq!(host.list(None, None, 100).wait().unwrap().len(), names.len());
}

#[test]
fn the_page_size_of_a_new_facet_can_be_chosen() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    facet.execute_batch("PRAGMA page_size=16384; CREATE TABLE t(n)").wait().unwrap();
    let size = facet.query("PRAGMA page_size", (), |row| row.get::<_, i64>(0)).wait();
    assert_eq!(size.unwrap(), [16384]);
    let listed = host.list(Some("a"), None, 1).wait().unwrap();
    assert_eq!(listed[0].page_size.unwrap().bytes(), 16384);
}

#[test]
fn writers_are_set_up_for_one_thread_and_one_writer() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    let text = |sql: &'static str| {
        facet.query(sql, (), |row| row.get::<_, String>(0)).wait().unwrap().remove(0)
    };
    assert_eq!(text("PRAGMA journal_mode"), "memory");
    assert_eq!(text("PRAGMA locking_mode"), "exclusive");
    // A core does not read page 1 anew, so a plain writer must be kept out once the core has
    // written.
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let plain = rusqlite::Connection::open_with_flags_and_vfs(
        "a",
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
        host.vfs_name(),
    )
    .unwrap();
    plain.busy_timeout(Duration::ZERO).unwrap();
    let error = plain.execute("INSERT INTO t VALUES (1)", ()).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{error}");
}

#[test]
fn a_core_sees_what_a_plain_connection_wrote_before_it() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    // Opens the writer connection and reads, which takes a snapshot that is never let go.
    facet.query("SELECT count(*) FROM sqlite_schema", (), |_| Ok(())).wait().unwrap();
    let plain = rusqlite::Connection::open_with_flags_and_vfs(
        "a",
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
        host.vfs_name(),
    )
    .unwrap();
    plain
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t(n) VALUES (1)")
        .unwrap();
    drop(plain);
    assert_eq!(numbers(&facet), [1]);
    facet.execute("INSERT INTO t(n) VALUES (2)", ()).wait().unwrap();
    assert_eq!(numbers(&facet), [1, 2]);
}
