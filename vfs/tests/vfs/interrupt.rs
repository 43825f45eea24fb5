//! Statements that are interrupted: what they did is taken back, and the facet goes on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use rusqlite::{Connection, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

const SUMS: &str = "SELECT count(*) || '/' || sum(a) || '/' || sum(length(b)) FROM t";

/// Has `connection` interrupt itself at the `count`th look, of one every 40 steps.
fn interrupt_at(connection: &mut Connection, count: u32) {
    let looks = AtomicU32::new(0);
    let handler = move || looks.fetch_add(1, Ordering::Relaxed) + 1 == count;
    connection.progress_handler(40, Some(handler)).unwrap();
}

fn stop_interrupting(connection: &mut Connection) {
    connection.progress_handler(0, None::<fn() -> bool>).unwrap();
}

/// At ever later moments of each statement, until it comes to its end.
#[test]
fn by_the_progress_handler_at_any_moment() {
    let fixture = Fixture::spilling();
    let statements = [
        "UPDATE t SET b = b || zeroblob(900)",
        "DELETE FROM t WHERE a % 2 = 0",
        "INSERT INTO t(b) SELECT b FROM t",
        "CREATE INDEX i ON t(b)",
        "VACUUM",
        "SELECT count(*) FROM t AS l, t AS r WHERE l.b < r.b",
    ];
    for (facet, sql) in statements.iter().enumerate() {
        let mut connection = fixture.open(&facet.to_string());
        connection.execute_batch("PRAGMA cache_size=5").unwrap();
        fill(&connection, 60, 700);
        let before = text(&connection, SUMS);
        let other = fixture.open(&facet.to_string());
        let mut interrupted = 0;
        for count in 1.. {
            let in_transaction = *sql != "VACUUM" && count % 2 == 0;
            if in_transaction {
                connection.execute_batch("BEGIN; UPDATE t SET b = zeroblob(800)").unwrap();
            }
            interrupt_at(&mut connection, count);
            let outcome = connection.execute_batch(sql);
            stop_interrupting(&mut connection);
            // Reading leaves a transaction; what was changing something takes all of it back.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK").unwrap();
            }
            let Err(error) = outcome else { break };
            assert_eq!(code(&error), ffi::SQLITE_INTERRUPT, "{sql}: {error}");
            interrupted += 1;
            for connection in [&connection, &other] {
                assert_eq!(text(connection, SUMS), before, "{sql}, interrupted at {count}");
            }
            // Nobody holds the writer.
            other.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
        }
        assert!(interrupted > 3, "{sql}: interrupted {interrupted} times");
        check_integrity(&connection);
        check_integrity(&other);
    }
}

#[test]
fn by_another_thread() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 100, 100);
    let handle = connection.get_interrupt_handle();
    let started = Arc::new(Barrier::new(2));
    std::thread::scope(|scope| {
        let waiting = Arc::clone(&started);
        scope.spawn(move || {
            waiting.wait();
            handle.interrupt();
        });
        // Endless, so it ends by the interrupt alone, which must come while the statement runs.
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                       INSERT INTO t(b) SELECT tick(i) FROM n";
        let ticks = AtomicU32::new(0);
        connection
            .create_scalar_function(
                "tick",
                1,
                rusqlite::functions::FunctionFlags::default(),
                move |_| {
                    if ticks.fetch_add(1, Ordering::Relaxed) == 1000 {
                        started.wait();
                    }
                    Ok(1)
                },
            )
            .unwrap();
        let error = connection.execute_batch(endless).unwrap_err();
        assert_eq!(code(&error), ffi::SQLITE_INTERRUPT);
    });
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 100);
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 100);
    connection.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    check_integrity(&connection);
}
