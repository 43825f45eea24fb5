//! Connections to one facet on several threads: a writer, many readers, and who waits for whom.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use lapidary_engine::{Background, Environment, Store, StoreOptions};
use lapidary_tests::hooks::{HookedDisk, Moment};
use lapidary_tests::sim_disk::SimDisk;
use lapidary_tests::small_store;
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags, ffi};

fn open(vfs: &str) -> Connection {
    let connection =
        Connection::open_with_flags_and_vfs("shared", OpenFlags::default(), vfs).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn code(result: rusqlite::Result<()>) -> i32 {
    result.unwrap_err().sqlite_error().unwrap().extended_code
}

/// Accounts whose sum never changes, and a count of the transfers between them.
const ACCOUNTS: &str = "
    CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER, note TEXT);
    CREATE INDEX account_amount ON account(amount);
    CREATE TABLE transfers(n INTEGER); INSERT INTO transfers VALUES (0);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    INSERT INTO account SELECT i, 100, printf('%.*c', i, 'n') FROM n";

/// One row, so one statement sees one snapshot.
const SUMS: &str = "SELECT (SELECT sum(amount) FROM account) = 20000
                       AND (SELECT count(*) FROM account NOT INDEXED) = 200, n FROM transfers";

fn sums(connection: &Connection) -> (bool, i64) {
    connection.query_row(SUMS, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Reads in transactions of several statements, until `done`. Returns how many versions it saw.
fn read_along(vfs: &str, done: &AtomicBool, acknowledged: &AtomicI64, begun: &AtomicI64) -> u32 {
    let connection = open(vfs);
    let (mut last, mut versions) = (-1, 0);
    while !done.load(Ordering::SeqCst) {
        let least = acknowledged.load(Ordering::SeqCst);
        connection.execute_batch("BEGIN").unwrap();
        let (whole, n) = sums(&connection);
        assert!(whole, "half of a transfer");
        assert!(n >= least.max(last), "{n} is older than what was acknowledged or seen");
        assert!(n <= begun.load(Ordering::SeqCst), "a commit from the future");
        thread::yield_now();
        assert_eq!(sums(&connection), (true, n), "the snapshot moved");
        connection.execute_batch("COMMIT").unwrap();
        versions += u32::from(n != last);
        last = n;
    }
    versions
}

#[test]
fn many_readers_and_one_writer_that_never_waits() {
    const READERS: u32 = 6;
    const TRANSFERS: i64 = 300;
    let registration = small_store::register();
    let vfs = registration.name();
    let writer = open(vfs);
    writer.execute_batch(&format!("PRAGMA cache_size=10; {ACCOUNTS}")).unwrap();
    let (done, acknowledged, begun) =
        (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(0));
    let started = Barrier::new(READERS as usize + 1);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| {
                    started.wait();
                    read_along(vfs, &done, &acknowledged, &begun)
                })
            })
            .collect();
        started.wait();
        for n in 1..=TRANSFERS {
            begun.store(n, Ordering::SeqCst);
            // Busy at no point: the timeout is zero.
            writer
                .execute_batch(&format!(
                    "BEGIN;
                     UPDATE account SET amount = amount - 7 WHERE id = 1 + {n} % 200;
                     UPDATE account SET amount = amount + 7 WHERE id = 1 + {n} * 31 % 200;
                     UPDATE account SET note = note || 'x' WHERE id % 10 = {n} % 10;
                     UPDATE transfers SET n = {n};
                     COMMIT"
                ))
                .unwrap();
            acknowledged.store(n, Ordering::SeqCst);
            if n % 50 == 0 {
                small_store::maintain(&registration).unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
        let versions: u32 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(versions >= READERS, "{versions} versions were seen");
    });
    assert_eq!(sums(&writer), (true, TRANSFERS));
    let check: String = writer.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// At the moment between the write and the sync of a commit: readers, old and new, answer at once, and
/// with the version before it.
#[test]
fn what_is_not_synced_is_seen_by_nobody_else_and_keeps_nobody_waiting() {
    let disk = HookedDisk::new(SimDisk::new(1));
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::create() };
    let store = Store::open(Environment::with_io(Arc::new(disk.clone())), options).unwrap();
    let registration = Registration::register("unsynced", store, VfsOptions::default()).unwrap();
    let writer = open(registration.name());
    writer.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (1)").unwrap();
    let reader = open(registration.name());
    assert_eq!(number(&reader, "SELECT n FROM t"), 1);

    let seen = Arc::new(AtomicI64::new(0));
    let (told, name) = (Arc::clone(&seen), registration.name().to_owned());
    disk.before(Moment::SegmentSync, move |_| {
        let fresh = open(&name);
        let busy = code(fresh.execute_batch("UPDATE t SET n = 3"));
        assert_eq!(busy & 0xff, ffi::SQLITE_BUSY, "the writer is still at it");
        let sum = number(&reader, "SELECT n FROM t") + number(&fresh, "SELECT n FROM t");
        told.store(sum, Ordering::SeqCst);
    });
    writer.execute("UPDATE t SET n = 2", []).unwrap();
    assert!(!disk.is_armed());
    assert_eq!(seen.load(Ordering::SeqCst), 2, "both readers saw 1");
    assert_eq!(number(&open(registration.name()), "SELECT n FROM t"), 2);
}

/// Calls of the busy handler; one test uses it.
static ASKED: AtomicU32 = AtomicU32::new(0);

fn wait_thrice(count: i32) -> bool {
    ASKED.fetch_add(1, Ordering::SeqCst);
    count < 3
}

#[test]
fn the_busy_handler_is_asked_where_waiting_can_help() {
    let registration = small_store::register();
    let (one, mut other) = (open(registration.name()), open(registration.name()));
    one.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (1)").unwrap();
    other.busy_handler(Some(wait_thrice)).unwrap();
    let asked = || ASKED.swap(0, Ordering::SeqCst);
    assert_eq!(number(&other, "SELECT n FROM t"), 1);

    // A writer is at it, and no transaction is open: it may end.
    one.execute_batch("BEGIN IMMEDIATE; UPDATE t SET n = 2").unwrap();
    for sql in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "UPDATE t SET n = 3", "VACUUM"] {
        assert_eq!(code(other.execute_batch(sql)), ffi::SQLITE_BUSY, "{sql}");
        assert_eq!(asked(), 4, "{sql}");
    }
    assert_eq!(number(&other, "SELECT n FROM t"), 1);
    assert_eq!(asked(), 0, "readers wait for nobody");

    // In a transaction that has read, its snapshot would be old by then.
    other.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    assert_eq!(code(other.execute_batch("UPDATE t SET n = 3")), ffi::SQLITE_BUSY);
    one.execute_batch("COMMIT").unwrap();
    assert_eq!(code(other.execute_batch("UPDATE t SET n = 3")), ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(asked(), 0);
    other.execute_batch("ROLLBACK; UPDATE t SET n = n + 1").unwrap();
    assert_eq!((number(&one, "SELECT n FROM t"), asked()), (3, 0));
}

/// A statement by itself that meets a commit between its read and its write begins again, within the
/// busy timeout: none of them ever fails.
#[test]
fn statements_by_themselves_add_up() {
    const THREADS: i64 = 4;
    const ROUNDS: i64 = 60;
    let registration = small_store::register();
    let vfs = registration.name();
    open(vfs).execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (0)").unwrap();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let connection = open(vfs);
                connection.busy_timeout(Duration::from_secs(60)).unwrap();
                for _ in 0..ROUNDS {
                    assert_eq!(connection.execute("UPDATE t SET n = n + 1", []).unwrap(), 1);
                }
            });
        }
    });
    assert_eq!(number(&open(vfs), "SELECT n FROM t"), THREADS * ROUNDS);
}
