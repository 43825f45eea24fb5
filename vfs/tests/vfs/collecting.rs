//! Commits of several connections behind a gate that are made as one.

use lapidary_engine::FacetName;
use lapidary_vfs::{Gate, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, number};

fn name(facet: &str) -> FacetName {
    FacetName::new(facet).unwrap()
}

/// A connection as a host has them, to a facet with a row.
fn open(gate: &Gate, facet: &str) -> Connection {
    let connection = gate.open(&name(facet), OpenFlags::default()).unwrap();
    connection
        .execute_batch(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY;
             CREATE TABLE IF NOT EXISTS t(n); INSERT INTO t VALUES (0)",
        )
        .unwrap();
    connection
}

fn count(connection: &Connection) -> i64 {
    number(connection, "SELECT count(*) FROM t")
}

#[test]
fn several_connections_commit_as_one() {
    for mut fixture in Fixture::each() {
        let gate = fixture.registration().gate(0);
        let connections = ["a", "b", "c"].map(|facet| open(&gate, facet));
        for round in 1..=3 {
            for connection in &connections {
                connection.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
            }
            // One has nothing to commit, another gets smaller.
            connections[2].execute_batch("ROLLBACK; BEGIN").unwrap();
            let before = fixture.store().current_ticket();
            let collecting = gate.collect();
            for connection in &connections {
                connection.execute_batch("COMMIT").unwrap();
            }
            assert_eq!(fixture.store().current_ticket(), before, "nothing is committed yet");
            collecting.commit().unwrap();
            let ticket = gate.last_ticket();
            assert_eq!(ticket.lsn().0, before.lsn().0 + 1, "one record");
            for facet in ["a", "b"] {
                let facet = fixture.store().open_facet(&name(facet)).unwrap();
                assert_eq!(facet.latest_ticket(), ticket);
            }
            assert_eq!(connections.each_ref().map(count), [1 + round, 1 + round, 1]);
        }
        // What follows is committed as ever.
        connections[0].execute_batch("INSERT INTO t VALUES (2); DELETE FROM t").unwrap();
        fixture.store().wait_durable(gate.last_ticket()).unwrap();
        connections.iter().for_each(check_integrity);
        drop((connections, gate));
        fixture.reopen();
        assert_eq!(["a", "b", "c"].map(|facet| count(&fixture.open(facet))), [0, 4, 1]);
    }
}

#[test]
fn what_is_not_committed_is_given_up_and_its_connections_are_of_no_use() {
    let fixture = Fixture::memory();
    let gate = fixture.registration().gate(0);
    let (one, other) = (open(&gate, "a"), open(&gate, "b"));
    for connection in [&one, &other] {
        connection.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    }
    let before = fixture.store().current_ticket();
    let collecting = gate.collect();
    one.execute_batch("COMMIT").unwrap();
    drop(collecting);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(fixture.store().current_ticket(), before);
    let error = one.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
    assert!(take_last_error().unwrap().contains("close the connection"), "{error}");
    drop(one);
    assert_eq!(count(&open(&gate, "a")), 2, "the row that was there, and that of opening");
    assert_eq!(count(&other), 1);
    other.execute_batch("INSERT INTO t VALUES (3)").unwrap();
}

#[test]
fn a_quota_refuses_all() {
    let fixture = Fixture::memory();
    let gate = fixture.registration().gate(0);
    let (one, other) = (open(&gate, "a"), open(&gate, "b"));
    fixture.store().set_quota(&name("b"), Some(40_000)).unwrap();
    one.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    other.execute_batch("BEGIN; INSERT INTO t VALUES (zeroblob(100000))").unwrap();
    let collecting = gate.collect();
    one.execute_batch("COMMIT").unwrap();
    other.execute_batch("COMMIT").unwrap();
    let error = collecting.commit().unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_FULL);
    drop((one, other));
    let (one, other) = (open(&gate, "a"), open(&gate, "b"));
    assert_eq!((count(&one), count(&other)), (2, 2));
    check_integrity(&other);
}

#[test]
fn a_connection_that_does_not_keep_its_lock_is_told_of() {
    let fixture = Fixture::memory();
    let gate = fixture.registration().gate(0);
    let (one, other) = (open(&gate, "a"), open(&gate, "b"));
    one.execute_batch("PRAGMA locking_mode=NORMAL; SELECT n FROM t").unwrap();
    for connection in [&one, &other] {
        connection.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    }
    let before = fixture.store().current_ticket();
    let collecting = gate.collect();
    one.execute_batch("COMMIT").unwrap();
    other.execute_batch("COMMIT").unwrap();
    let error = collecting.commit().unwrap_err();
    assert!(error.to_string().contains("locking_mode=EXCLUSIVE"), "{error}");
    assert_eq!(fixture.store().current_ticket(), before);
    drop((one, other));
    assert_eq!(count(&open(&gate, "b")), 2);
}
