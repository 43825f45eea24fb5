//! Transactions on a facet's core that change nothing.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{config, disk, host};
use lapidary::rusqlite::Connection;
use lapidary::{FacetHandle, Host, HostError, HostErrorKind, Result};
use lapidary_engine::MemoryIo;

fn prepared() -> (Host, FacetHandle) {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (1)").wait().unwrap();
    (host, facet)
}

fn count(connection: &Connection) -> Result<i64> {
    Ok(connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?)
}

#[test]
fn it_sees_what_ran_before_it_though_that_is_not_durable() {
    let (environment, switch) = disk(&MemoryIo::new());
    let host = Host::open_in(environment, config(1)).unwrap();
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let _release = switch.release_at_end();
    switch.hold();
    drop(facet.execute("INSERT INTO t VALUES (1)", ()));
    let mut seen = facet.read_transaction(count);
    switch.await_sync();
    assert!(seen.try_wait().is_none(), "the reply waits for the disk");
    let early = facet.unconfirmed().read_transaction(count).wait().unwrap();
    assert_eq!((early, facet.read(count).unwrap()), (1, 0));
    switch.release();
    assert_eq!(seen.wait().unwrap(), 1);
}

#[test]
fn whatever_writes_is_refused_and_undone() {
    let (host, facet) = prepared();
    let commits = || host.meter("a").unwrap().commits;
    let before = commits();
    for sql in [
        "INSERT INTO t VALUES (2)",
        "DELETE FROM t",
        "CREATE TABLE u(n)",
        "DROP TABLE t",
        "PRAGMA user_version = 7",
        "SAVEPOINT s; DELETE FROM t; RELEASE s",
        "DELETE FROM t; COMMIT",
        "DELETE FROM t; COMMIT; BEGIN",
    ] {
        // The closure does not care.
        let call = facet.read_transaction(move |connection| {
            let _ = connection.execute_batch(sql);
            Ok(())
        });
        let error = call.wait().unwrap_err();
        assert!(matches!(error, HostError::ReadTransactionWrites { .. }), "{sql}: {error}");
        assert_eq!(error.kind(), HostErrorKind::NotAllowed);
        assert_eq!(facet.read_transaction(count).wait().unwrap(), 1, "{sql}");
    }
    assert_eq!(commits(), before);
    let version = |connection: &Connection| {
        Ok(connection.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(facet.read_transaction(version).wait().unwrap(), 0);
    facet.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap();
    assert_eq!(facet.read(count).unwrap(), 2);
}

#[test]
fn errors_and_panics_are_the_closure_s() {
    let (_host, facet) = prepared();
    let call = facet.read_transaction(|connection| {
        connection.execute("DELETE FROM t", ())?;
        Err::<(), _>(HostError::abort("why"))
    });
    // What it wrote is told first: it is the defect.
    assert_eq!(call.wait().unwrap_err().kind(), HostErrorKind::NotAllowed);
    let call = facet.read_transaction(|_| Err::<(), _>(HostError::abort("why")));
    assert_eq!(call.wait().unwrap_err().kind(), HostErrorKind::Aborted);
    let call = facet.read_transaction::<(), _>(|connection| {
        connection.execute("DELETE FROM t", ())?;
        panic!("why")
    });
    assert!(matches!(call.wait().unwrap_err(), HostError::Panicked { .. }));
    let call = facet.read_transaction(|connection| Ok(connection.execute_batch("ROLLBACK")?));
    assert!(matches!(call.wait().unwrap_err(), HostError::TransactionEnded { .. }));
    assert_eq!(facet.read_transaction(count).wait().unwrap(), 1);
}

#[test]
fn temporary_tables_are_free() {
    let (_host, facet) = prepared();
    let call = facet.read_transaction(|connection| {
        connection.execute_batch("CREATE TEMP TABLE x AS SELECT n * 2 AS n FROM t")?;
        Ok(connection.query_row("SELECT sum(n) FROM x", (), |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(call.wait().unwrap(), 2);
}
