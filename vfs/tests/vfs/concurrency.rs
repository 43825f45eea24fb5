//! Several connections, several threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapidary_vfs::take_last_error;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

#[test]
fn readers_keep_their_version_while_a_writer_commits() {
    for fixture in Fixture::each() {
        let writer = fixture.open("a");
        fill(&writer, 10, 10);
        let reader = fixture.open("a");
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), 10);

        // EXCLUSIVE waits for no reader, and no reader waits for it.
        writer.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t(b) VALUES (1)").unwrap();
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), 10);
        let another = fixture.open("a");
        assert_eq!(number(&another, "SELECT count(*) FROM t"), 10);
        writer.execute_batch("COMMIT").unwrap();
        assert_eq!(number(&another, "SELECT count(*) FROM t"), 11);
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), 10);
        writer.execute_batch("DELETE FROM t; VACUUM; PRAGMA page_size=512; VACUUM").unwrap();
        assert_eq!(number(&reader, "SELECT sum(length(b)) FROM t"), 100);
        check_integrity(&reader);
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), 0);
        assert_eq!(number(&reader, "PRAGMA page_size"), 512);
    }
}

#[test]
fn a_second_writer_is_busy() {
    let fixture = Fixture::memory();
    let first = fixture.open("a");
    fill(&first, 10, 10);
    let second = fixture.open("a");
    first.execute_batch("BEGIN IMMEDIATE").unwrap();
    second.busy_timeout(Duration::ZERO).unwrap();
    let error = second.execute_batch("BEGIN IMMEDIATE").unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY);
    assert!(take_last_error().unwrap().contains("facet a: another writer holds it"));
    // Another facet is not concerned.
    fixture.open("b").execute_batch("CREATE TABLE t(x)").unwrap();
    first.execute_batch("COMMIT").unwrap();
    second.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
}

#[test]
fn upgrading_a_stale_read_is_busy_snapshot_at_once() {
    let fixture = Fixture::memory();
    let first = fixture.open("a");
    fill(&first, 10, 10);
    let second = fixture.open("a");
    second.busy_timeout(Duration::from_secs(20)).unwrap();
    second.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&second, "SELECT count(*) FROM t"), 10);
    first.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    let start = Instant::now();
    let error = second.execute("DELETE FROM t WHERE a = 2", []).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "waiting could never help");
    assert_eq!(code(&error), ffi::SQLITE_BUSY_SNAPSHOT);
    assert!(take_last_error().unwrap().contains("older than the last commit"));
    assert_eq!(number(&second, "SELECT count(*) FROM t"), 10, "the snapshot is still good");
    second.execute_batch("ROLLBACK").unwrap();
    assert_eq!(second.execute("DELETE FROM t WHERE a = 2", []).unwrap(), 1);
    assert_eq!(number(&first, "SELECT count(*) FROM t"), 8);
}

#[test]
fn a_handle_goes_on_from_its_own_commit() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 100, 10);
    // The open SELECT keeps SHARED through all commits of the loop.
    let mut select = connection.prepare("SELECT a FROM t WHERE a <= 100 ORDER BY a").unwrap();
    let mut rows = select.query([]).unwrap();
    let mut seen = 0;
    while let Some(row) = rows.next().unwrap() {
        let a: i64 = row.get(0).unwrap();
        connection.execute("INSERT INTO t(b) VALUES (?1)", [a]).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 100);
    drop(rows);
    drop(select);
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 200);
    check_integrity(&connection);
}

#[test]
fn the_busy_timeout_waits_for_the_writer() {
    let fixture = Fixture::memory();
    let first = fixture.open("a");
    fill(&first, 10, 10);
    first.execute_batch("BEGIN IMMEDIATE; DELETE FROM t WHERE a = 1").unwrap();
    std::thread::scope(|scope| {
        let second = fixture.open("a");
        let waiting = scope.spawn(move || {
            second.busy_timeout(Duration::from_secs(30)).unwrap();
            second.execute("DELETE FROM t WHERE a = 2", []).unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        first.execute_batch("COMMIT").unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
    });
    assert_eq!(number(&first, "SELECT count(*) FROM t"), 8);
}

#[test]
fn exclusive_locking_mode_shuts_out_writers_but_not_readers() {
    let fixture = Fixture::memory();
    let owner = fixture.open("a");
    assert_eq!(text(&owner, "PRAGMA locking_mode=exclusive"), "exclusive");
    fill(&owner, 10, 10);
    let other = fixture.open("a");
    other.busy_timeout(Duration::ZERO).unwrap();
    for count in 10..20 {
        assert_eq!(number(&other, "SELECT count(*) FROM t"), count);
        check_integrity(&other);
        assert_eq!(
            code(&other.execute("DELETE FROM t", []).unwrap_err()),
            ffi::SQLITE_BUSY,
            "the lock is kept between transactions"
        );
        owner.execute("INSERT INTO t(b) VALUES (randomblob(2000))", []).unwrap();
        owner.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
    }
    // Back to normal; SQLite lets go with the next statement.
    assert_eq!(text(&owner, "PRAGMA locking_mode=normal"), "normal");
    assert_eq!(number(&owner, "SELECT count(*) FROM t"), 20);
    other.execute("DELETE FROM t WHERE a <= 5", []).unwrap();
    assert_eq!(number(&owner, "SELECT count(*) FROM t"), 15);
    check_integrity(&owner);
}

#[test]
fn threads_add_up() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 50;
    for fixture in Fixture::each() {
        fixture
            .open("counters")
            .execute_batch("CREATE TABLE c(n INTEGER, log TEXT); INSERT INTO c VALUES (0, '')")
            .unwrap();
        let writing = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let fixture = &fixture;
                    scope.spawn(move || {
                        let shared = fixture.open("counters");
                        shared.busy_timeout(Duration::from_secs(60)).unwrap();
                        let own = fixture.open(&format!("own/{thread}"));
                        fill(&own, 1, 1);
                        for _ in 0..ROUNDS {
                            shared
                                .execute_batch(
                                    "BEGIN IMMEDIATE; UPDATE c SET n = n + 1, log = log || 'x';
                                     COMMIT",
                                )
                                .unwrap();
                            own.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
                        }
                    })
                })
                .collect();
            for _ in 0..2 {
                scope.spawn(|| {
                    let reader = fixture.open("counters");
                    let mut last = 0;
                    while writing.load(Ordering::Relaxed) {
                        let n = number(&reader, "SELECT n FROM c WHERE length(log) = n");
                        assert!(n >= last, "time does not run backwards");
                        last = n;
                    }
                });
            }
            for writer in writers {
                writer.join().unwrap();
            }
            writing.store(false, Ordering::Relaxed);
        });
        let connection = fixture.open("counters");
        assert_eq!(
            number(&connection, "SELECT n FROM c"),
            i64::try_from(THREADS * ROUNDS).unwrap()
        );
        check_integrity(&connection);
        for thread in 0..THREADS {
            let own = fixture.open(&format!("own/{thread}"));
            assert_eq!(number(&own, "SELECT count(*) FROM t"), i64::try_from(ROUNDS).unwrap() + 1);
        }
    }
}

#[test]
fn connections_move_between_threads() {
    let fixture = Fixture::memory();
    let mut connection = fixture.open("a");
    fill(&connection, 1, 1);
    for _ in 0..8 {
        connection = std::thread::spawn(move || {
            connection.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
            connection
        })
        .join()
        .unwrap();
    }
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 9);
}

#[test]
fn shared_cache_connections() {
    let fixture = Fixture::memory();
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_SHARED_CACHE;
    let first = fixture.try_open("a", flags).unwrap();
    fill(&first, 10, 10);
    let second = fixture.try_open("a", flags).unwrap();
    assert_eq!(number(&second, "SELECT count(*) FROM t"), 10);
    second.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    assert_eq!(number(&first, "SELECT count(*) FROM t"), 9);
    drop(first);
    second.execute("DELETE FROM t WHERE a = 2", []).unwrap();
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 8);
}

#[test]
fn many_handles_of_many_facets() {
    let fixture = Fixture::posix();
    let connections: Vec<Connection> =
        (0..300).map(|number| fixture.open(&format!("f/{}", number % 100))).collect();
    for connection in &connections {
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (1)")
            .unwrap();
    }
    for connection in &connections {
        assert_eq!(number(connection, "SELECT count(*) FROM t"), 3);
    }
}
