//! SQLite runs out of memory at each of its allocations in turn: the facet is whole and usable
//! afterwards, with all of the transaction or nothing, and nobody holds its writer or an old version.
//!
//! One test, since the allocator is the process's, and alone in its binary for that.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::Arc;

use lapidary_engine::{FacetName, ForkFrom, Store};
use lapidary_tests::failing_memory::{Then, fail_at, install, stop_failing};
use lapidary_tests::small_store;
use lapidary_vfs::{ProcessSettings, ProcessSetup, configure_process};
use rusqlite::{Connection, OpenFlags, ffi};

const TRANSACTION: &str = "
    BEGIN;
    UPDATE t SET b = b || zeroblob(900) WHERE a % 2 = 0;
    SAVEPOINT s;
    DELETE FROM t WHERE a < 20;
    ROLLBACK TO s;
    INSERT INTO t(b) SELECT substr(b, 1, 40) FROM t ORDER BY b LIMIT 5;
    COMMIT;
    SELECT count(*) FROM t AS l JOIN t AS r ON l.b = r.b;
    PRAGMA incremental_vacuum(2)";

fn open(vfs: &str, name: &FacetName) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(name.as_str(), OpenFlags::default(), vfs)
}

fn content(connection: &Connection) -> String {
    let sums = "SELECT count(*) || '/' || sum(a) || '/' || sum(length(b)) FROM t";
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    connection.query_row(sums, [], |row| row.get(0)).unwrap()
}

fn assert_out_of_memory(error: &rusqlite::Error, when: &str) {
    let code = error.sqlite_error().map(|error| error.extended_code);
    let expected = [ffi::SQLITE_NOMEM, ffi::SQLITE_IOERR_NOMEM];
    assert!(code.is_some_and(|code| expected.contains(&code)), "{when}: {error}");
}

/// Runs the transaction in a fork of the template with the `nth` allocation failing. Returns whether it
/// got that far.
fn run(vfs: &str, store: &Arc<Store>, nth: u64, then: Then, states: [&str; 2]) -> bool {
    let when = format!("allocation {nth}, {then:?}");
    let name = FacetName::new(format!("fork/{nth}/{then:?}")).unwrap();
    let template = FacetName::new("template").unwrap();
    let (_, fork) = store.fork_facet(&template, &name, ForkFrom::Latest).unwrap();
    store.wait_durable(fork).unwrap();

    fail_at(nth, then);
    let opened = open(vfs, &name);
    let outcome = opened.as_ref().map(|connection| {
        connection.execute_batch("PRAGMA cache_size=3").and(connection.execute_batch(TRANSACTION))
    });
    let failed = stop_failing();
    match (&outcome, failed) {
        (Err(error), true) => assert_out_of_memory(error, &when),
        (Ok(Err(error)), true) => assert_out_of_memory(error, &when),
        (Ok(Ok(())), _) => {}
        (other, false) => panic!("{when}: {other:?} with all memory there is"),
    }
    if let Ok(connection) = &opened
        && !connection.is_autocommit()
    {
        connection.execute_batch("ROLLBACK").unwrap();
    }
    let other = open(vfs, &name).unwrap();
    let found = content(&other);
    assert!(states.contains(&found.as_str()), "{when}: {found} is neither of {states:?}");
    if let Ok(connection) = &opened {
        assert_eq!(content(connection), found, "{when}");
        connection.execute_batch("INSERT INTO t(b) VALUES ('again')").unwrap();
    }
    other.execute_batch("BEGIN IMMEDIATE; DELETE FROM t; COMMIT").unwrap();
    drop((opened, other));
    let facet = store.open_facet(&name).unwrap();
    assert!(!facet.has_writer(), "{when}");
    store.delete_facet(&name).unwrap();
    failed
}

/// Asks for the VFS's own answers to pragmas with the `nth` allocation failing. Returns whether it got
/// that far.
fn ask(connection: &Connection, nth: u64, then: Then) -> bool {
    let when = format!("pragma, allocation {nth}, {then:?}");
    fail_at(nth, then);
    let refused = connection.execute_batch("PRAGMA journal_mode=OFF").unwrap_err();
    let answer = connection.query_row("PRAGMA lapidary_stat", [], |row| row.get::<_, String>(0));
    let failed = stop_failing();
    if !refused.to_string().contains("journal_mode=OFF is refused") {
        assert_out_of_memory(&refused, &when);
    }
    match answer {
        Ok(answer) => assert!(!answer.is_empty(), "{when}"),
        Err(error) => assert_out_of_memory(&error, &when),
    }
    failed
}

#[test]
fn at_every_allocation() {
    install();
    // Without lookaside every small allocation is one that can fail.
    let settings = ProcessSettings { lookaside_slots: 0, ..ProcessSettings::default() };
    assert_eq!(configure_process(&settings), ProcessSetup::Applied);
    let registration = small_store::register();
    let (vfs, store) = (registration.name(), registration.store());
    let (template, after) = (FacetName::new("template").unwrap(), FacetName::new("after").unwrap());
    let prepare = |name: &FacetName| {
        let connection = open(vfs, name).unwrap();
        connection
            .execute_batch(
                "PRAGMA page_size=1024; PRAGMA auto_vacuum=2;
                 CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX t_b ON t(substr(b, 1, 9));
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
                 INSERT INTO t SELECT i, printf('%.*c', i * 11, char(97 + i % 26)) FROM n",
            )
            .unwrap();
        connection
    };
    let before = content(&prepare(&template));
    let connection = prepare(&after);
    connection.execute_batch(TRANSACTION).unwrap();
    let states = [before.as_str(), &content(&connection)];
    assert_ne!(states[0], states[1]);
    drop(connection);

    for then in [Then::Recover, Then::StayOut] {
        let last = (1..).find(|&nth| !run(vfs, store, nth, then, states)).unwrap();
        assert!(last > 500, "{last} allocations");
        small_store::maintain(&registration).unwrap();
        let connection = open(vfs, &template).unwrap();
        let last = (1..).find(|&nth| !ask(&connection, nth, then)).unwrap();
        assert!(last > 10, "{last} allocations");
    }
    // What a version that somebody still reads needs could not be let go of.
    for name in [&template, &after] {
        store.delete_facet(name).unwrap();
    }
    for _ in 0..4 {
        small_store::maintain(&registration).unwrap();
    }
    let stat = store.stat();
    let in_use = stat.segments - stat.ready_segments;
    assert!(in_use <= 2, "{in_use} segments of {} in use for nothing: {stat:?}", stat.segments);
}
