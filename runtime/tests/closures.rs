//! Closures that leave a connection in a bad state, or panic in unusual ways.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::host;
use lapidary::rusqlite::Connection;
use lapidary::{FacetHandle, Host, HostErrorKind};

fn prepared() -> (Host, FacetHandle) {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (1), (2)").wait().unwrap();
    (host, facet)
}

fn count(facet: &FacetHandle) -> i64 {
    facet
        .read(
            |connection| Ok(connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?),
        )
        .unwrap()
}

/// Leaves a statement half-way that nobody can finish or close.
fn forget_statement(connection: &Connection) -> lapidary::Result<()> {
    let mut statement = connection.prepare("SELECT n FROM t")?;
    let mut rows = statement.query(())?;
    assert!(rows.next()?.is_some());
    std::mem::forget(rows);
    std::mem::forget(statement);
    Ok(())
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a destructor panics");
    }
}

/// What it leaves as its panic's payload panics as well.
struct PanicsTwiceWhenDropped;

impl Drop for PanicsTwiceWhenDropped {
    fn drop(&mut self) {
        std::panic::panic_any(PanicsWhenDropped);
    }
}

#[test]
fn a_reader_with_a_forgotten_statement_is_not_used_again() {
    let (host, facet) = prepared();
    facet.read(forget_statement).unwrap();
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
    assert_eq!(count(&facet), 3, "what was acknowledged is seen");
    assert_eq!(host.stat().wait().unwrap().idle_readers, 1, "the sound one");
}

#[test]
fn a_reader_cannot_keep_its_snapshot_by_locking_mode() {
    let (_host, facet) = prepared();
    let error = facet
        .read(|connection| Ok(connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?))
        .unwrap_err();
    assert!(error.to_string().contains("locking_mode=EXCLUSIVE is refused"), "{error}");
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
    assert_eq!(count(&facet), 3);
}

#[test]
fn a_closed_writer_lets_go_of_its_lock_though_a_statement_was_forgotten() {
    let (_host, facet) = prepared();
    facet.run(forget_statement).wait().unwrap();
    let error = facet.run::<(), _>(|_| panic!("closes the writer")).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Aborted, "{error}");
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
    assert_eq!(count(&facet), 3);
}

#[test]
fn nothing_is_attached_to_a_host_s_connections() {
    let (host, facet) = prepared();
    let other = host.facet("b").unwrap();
    other.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    for sql in ["ATTACH 'b' AS other", "ATTACH ':memory:' AS other", "VACUUM"] {
        let error = facet.execute_batch(sql).wait().unwrap_err();
        assert!(error.to_string().contains("too many attached databases"), "{sql}: {error}");
    }
    let error = facet
        .read(|connection| {
            connection.execute_batch("COMMIT; ATTACH 'b' AS other")?;
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("too many attached databases"), "{error}");
    other.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
}

#[test]
fn a_core_outlives_a_panic_whose_payload_panics() {
    let (host, facet) = prepared();
    let call = facet.run::<(), _>(|connection| {
        connection.execute("INSERT INTO t VALUES (3)", ())?;
        std::panic::panic_any(PanicsWhenDropped)
    });
    let error = call.wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Aborted, "{error}");
    host.facet("b").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
    assert_eq!(count(&facet), 3);
    host.shutdown().unwrap();
}

#[test]
fn a_core_outlives_a_discarded_result_whose_panic_panics() {
    let (host, facet) = prepared();
    // The core is held until the call behind is discarded: else its result could be here already,
    // and panic here.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let held = facet.run(move |_| {
        let _ = wait.recv();
        Ok(())
    });
    drop(facet.run(|_| Ok(PanicsTwiceWhenDropped)));
    go.send(()).unwrap();
    held.wait().unwrap();
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
    assert_eq!(count(&facet), 3);
    host.shutdown().unwrap();
}
