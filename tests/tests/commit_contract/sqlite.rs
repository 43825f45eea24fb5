//! The rows where they are about SQLite: the result code of COMMIT on a
//! plain connection, and what the connection and the store have after it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapidary_engine::{
    Background, ErrorKind, FileName, FormatParams, Retention, Store, StoreOptions, Tunables,
};
use lapidary_tests::driver::name;
use lapidary_tests::hooks::{HookedDisk, Moment};
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};
use lapidary_tests::sim_environment::environment;
use lapidary_vfs::{Registration, VfsOptions, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

/// For rows that chance has a say in.
const SEEDS: std::ops::Range<u64> = 0..12;
/// Written by the transaction under test, beside the rows of before.
const NEW: i64 = 1000;

/// A registered store with table `t` in facet `a`, in which there is one row.
struct Trial {
    disk: HookedDisk,
    registration: Arc<Registration>,
    connection: Connection,
}

fn register(disk: &HookedDisk) -> Arc<Registration> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let options = StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        tunables: Tunables { spill_bytes: 32 << 10, ..Tunables::default() },
        background: Background::Manual,
    };
    let store = Store::open(environment(Arc::new(disk.clone()), 1), options).unwrap();
    let name = format!("contract-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    Registration::register(&name, store, VfsOptions::default()).unwrap()
}

fn connect(registration: &Registration) -> Connection {
    let flags = OpenFlags::default();
    let connection = Connection::open_with_flags_and_vfs("a", flags, registration.name()).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
}

impl Trial {
    fn new(seed: u64) -> Self {
        let disk = HookedDisk::new(SimDisk::new(seed));
        let registration = register(&disk);
        let connection = connect(&registration);
        connection
            .execute_batch(
                "CREATE TABLE t(n INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, NULL)",
            )
            .unwrap();
        Self { disk, registration, connection }
    }

    fn store(&self) -> &Arc<Store> {
        self.registration.store()
    }

    /// Begins the transaction under test: all but its COMMIT.
    fn begin(&self) {
        let sql = "BEGIN IMMEDIATE; INSERT INTO t VALUES (1000, randomblob(5000))";
        self.connection.execute_batch(sql).unwrap();
    }

    /// COMMIT, which fails with this code.
    fn commit_fails(&self, expected: i32) -> String {
        let error = self.connection.execute_batch("COMMIT").unwrap_err();
        assert_eq!(code(&error), expected, "{error}");
        take_last_error().unwrap()
    }

    /// The connection is out of its transaction, shows nothing of it, and can commit it now.
    fn assert_refused_and_going(&self) {
        assert!(self.connection.is_autocommit(), "the transaction has ended");
        assert_eq!(rows(&self.connection), [1].into());
        assert_eq!(self.after_reopening(), [false].into());
        self.begin();
        self.connection.execute_batch("COMMIT").unwrap();
        assert_eq!(self.after_reopening(), [true].into());
    }

    /// Whether the transaction is there when the store is opened again, after several ends.
    fn after_reopening(&self) -> BTreeSet<bool> {
        let sim = &self.disk.disk;
        let survivals = [Survival::Nothing, Survival::Everything, Survival::Random(7)];
        let mut disks: Vec<SimDisk> =
            survivals.into_iter().map(|survival| sim.after_crash(survival)).collect();
        disks.push(sim.after_kill());
        disks.into_iter().map(reopened).collect()
    }
}

/// Whether the transaction is there; whole, if it is.
fn reopened(disk: SimDisk) -> bool {
    let registration = register(&HookedDisk::new(disk));
    let connection = connect(&registration);
    let verdict: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let found = rows(&connection);
    assert!(found.contains(&1), "what was acknowledged is there");
    found.contains(&NEW)
}

fn rows(connection: &Connection) -> BTreeSet<i64> {
    let mut statement = connection.prepare("SELECT n FROM t").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn code(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code,
        other => panic!("not an error of SQLite: {other}"),
    }
}

#[test]
fn sqlite_ok() {
    let trial = Trial::new(1);
    trial.begin();
    let other = connect(&trial.registration);
    assert_eq!(rows(&other), [1].into());
    trial.connection.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&other), [1, NEW].into());
    assert_eq!(trial.after_reopening(), [true].into());
}

/// Fills the disk until a commit is refused for lack of space.
fn fill(trial: &Trial) {
    trial.disk.disk.set_capacity(Some(trial.disk.disk.used_bytes()));
    let filler = Connection::open_with_flags_and_vfs(
        "filler",
        OpenFlags::default(),
        trial.registration.name(),
    )
    .unwrap();
    let mut last = filler.execute_batch("CREATE TABLE t(b)");
    for _ in 0..200 {
        if let Err(error) = last {
            assert_eq!(code(&error), ffi::SQLITE_FULL, "{error}");
            return;
        }
        last = filler.execute_batch("INSERT INTO t VALUES (randomblob(4000))");
    }
    panic!("the disk never gets full");
}

#[test]
fn sqlite_no_space_when_admitted() {
    let trial = Trial::new(1);
    fill(&trial);
    trial.begin();
    let words = trial.commit_fails(ffi::SQLITE_FULL);
    assert!(words.contains("no space left"), "{words}");
    trial.disk.disk.set_capacity(None);
    trial.assert_refused_and_going();
}

/// The statement that spills fails, and with it the transaction.
#[test]
fn sqlite_no_space_in_a_spill() {
    let trial = Trial::new(1);
    fill(&trial);
    trial.connection.execute_batch("PRAGMA cache_size=4; BEGIN IMMEDIATE").unwrap();
    let error =
        trial.connection.execute_batch("INSERT INTO t VALUES (5, randomblob(200000))").unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_FULL, "{error}");
    if !trial.connection.is_autocommit() {
        trial.connection.execute_batch("ROLLBACK").unwrap();
    }
    trial.disk.disk.set_capacity(None);
    trial.assert_refused_and_going();
}

#[test]
fn sqlite_quota_exceeded() {
    let trial = Trial::new(1);
    let used = {
        trial.store().set_quota(&name("a"), Some(u64::MAX)).unwrap();
        trial.store().quota(&name("a")).unwrap().used_bytes
    };
    trial.store().set_quota(&name("a"), Some(used)).unwrap();
    trial.begin();
    let words = trial.commit_fails(ffi::SQLITE_FULL);
    assert!(words.contains("its quota of"), "{words}");
    trial.store().set_quota(&name("a"), None).unwrap();
    trial.assert_refused_and_going();
}

#[test]
fn sqlite_facet_deleted_under_the_writer() {
    let trial = Trial::new(1);
    trial.begin();
    trial.store().delete_facet(&name("a")).unwrap();
    let words = trial.commit_fails(ffi::SQLITE_IOERR_VNODE);
    assert!(words.contains("was deleted"), "{words}");
    assert_eq!(trial.after_reopening(), [false].into(), "the deletion is not durable yet");
}

#[test]
fn sqlite_writer_busy() {
    let trial = Trial::new(1);
    trial.begin();
    let other = connect(&trial.registration);
    let error = other.execute_batch("BEGIN IMMEDIATE").unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY, "{error}");
    trial.connection.execute_batch("ROLLBACK").unwrap();
    other.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    drop(other);
    trial.assert_refused_and_going();
}

#[test]
fn sqlite_stale_snapshot() {
    let trial = Trial::new(1);
    let other = connect(&trial.registration);
    other.execute_batch("BEGIN").unwrap();
    assert_eq!(rows(&other), [1].into());
    trial.begin();
    trial.connection.execute_batch("COMMIT").unwrap();
    let error = other.execute_batch("INSERT INTO t VALUES (2, NULL)").unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY_SNAPSHOT, "{error}");
    assert_eq!(rows(&other), [1].into(), "it goes on reading its version");
    other.execute_batch("COMMIT; INSERT INTO t VALUES (2, NULL)").unwrap();
    assert_eq!(rows(&trial.connection), [1, 2, NEW].into());
}

/// The store has stopped: nothing works, and nothing pretends to, though the disk works again.
fn assert_stopped(trial: &Trial) {
    trial.disk.disk.clear_faults();
    for _ in 0..2 {
        // No transaction is open, or none can be committed.
        trial.connection.execute_batch("COMMIT").unwrap_err();
        let _ = trial.connection.execute_batch("ROLLBACK");
        for sql in ["SELECT n FROM t", "INSERT INTO t VALUES (7, NULL)", "BEGIN IMMEDIATE"] {
            let error = trial.connection.execute_batch(sql).unwrap_err();
            assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{sql}: {error}");
        }
        let opened = Connection::open_with_flags_and_vfs(
            "a",
            OpenFlags::default(),
            trial.registration.name(),
        );
        assert_eq!(code(&opened.unwrap_err()) & 0xff, ffi::SQLITE_CANTOPEN);
    }
}

fn with_io_error(after: u64) -> BTreeSet<bool> {
    let mut answers = BTreeSet::new();
    for seed in SEEDS {
        let trial = Trial::new(seed);
        trial.begin();
        let sim = &trial.disk.disk;
        sim.fail_at(sim.operations() + after, Fault::Io);
        let words = trial.commit_fails(ffi::SQLITE_IOERR_FSYNC);
        assert!(words.contains("store stopped after a failed write or sync"), "{words}");
        assert_stopped(&trial);
        answers.extend(trial.after_reopening());
    }
    answers
}

#[test]
fn sqlite_io_error_on_the_log_write() {
    assert!(with_io_error(0).contains(&false));
}

#[test]
fn sqlite_io_error_on_the_log_sync() {
    assert_eq!(with_io_error(1), [false, true].into(), "decided by reopening");
}

/// A transaction that is larger than SQLite's cache and than what is staged in memory.
#[test]
fn sqlite_io_error_in_a_spill() {
    for after in 0..2 {
        let trial = Trial::new(1);
        trial.connection.execute_batch("PRAGMA cache_size=4; BEGIN IMMEDIATE").unwrap();
        let sim = &trial.disk.disk;
        sim.fail_at(sim.operations() + after, Fault::Io);
        let sql = "INSERT INTO t VALUES (1000, randomblob(200000))";
        let error = trial.connection.execute_batch(sql).unwrap_err();
        assert_eq!(code(&error), ffi::SQLITE_IOERR_WRITE, "{error}");
        assert_stopped(&trial);
        assert_eq!(trial.after_reopening(), [false].into());
    }
}

/// A segment that is made for the commit cannot be made.
#[test]
fn sqlite_io_error_when_a_segment_is_made() {
    let trial = Trial::new(1);
    for n in 2..200 {
        trial.disk.before(Moment::Create, |hooked| {
            hooked.disk.fail_at(hooked.disk.operations(), Fault::Io);
        });
        trial.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        trial.connection.execute("INSERT INTO t VALUES (?1, randomblob(5000))", [n]).unwrap();
        if let Err(error) = trial.connection.execute_batch("COMMIT") {
            assert_eq!(code(&error), ffi::SQLITE_IOERR_FSYNC, "{error}");
            assert!(trial.connection.is_autocommit());
            assert_eq!(rows(&trial.connection), (1..n).collect());
            trial.connection.execute_batch("DELETE FROM t WHERE n > 1").unwrap();
            return trial.assert_refused_and_going();
        }
    }
    panic!("sooner or later a segment is made");
}

#[test]
fn sqlite_store_poisoned_earlier() {
    let trial = Trial::new(1);
    trial.begin();
    let sim = &trial.disk.disk;
    sim.fail_at(sim.operations(), Fault::Io);
    trial.store().create_facet(&name("other")).unwrap();
    assert_eq!(trial.store().flush().unwrap_err().kind(), ErrorKind::Reopen);
    trial.commit_fails(ffi::SQLITE_IOERR_FSYNC);
    assert_stopped(&trial);
    assert_eq!(trial.after_reopening(), [false].into());
}

#[test]
fn sqlite_store_closed() {
    let trial = Trial::new(1);
    trial.begin();
    trial.store().close().unwrap();
    let words = trial.commit_fails(ffi::SQLITE_IOERR_FSYNC);
    assert!(words.contains("the store is closed"), "{words}");
    assert_eq!(trial.after_reopening(), [false].into());
}

#[test]
fn sqlite_damaged_page_read_in_the_transaction() {
    let trial = Trial::new(1);
    trial.connection.execute("INSERT INTO t VALUES (5, ?1)", [vec![77_u8; 20_000]]).unwrap();
    // Until then its images are in memory, for the deltas that may come next.
    trial.store().checkpoint().unwrap();
    let mut found = 0;
    for file in trial.disk.disk.files().into_iter().filter(|file| *file != FileName::Superblock) {
        trial.disk.disk.change(file, |bytes| {
            if let Some(at) = bytes.windows(4000).position(|window| window == [77; 4000]) {
                bytes[at + 9] ^= 1;
                found += 1;
            }
        });
    }
    assert!(found > 0);
    // A connection that has nothing in its cache.
    let connection = connect(&trial.registration);
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (6, NULL)").unwrap();
    let read =
        connection.query_row("SELECT b FROM t WHERE n = 5", [], |row| row.get::<_, Vec<u8>>(0));
    assert_eq!(code(&read.unwrap_err()), ffi::SQLITE_IOERR_DATA);
    let words = take_last_error().unwrap();
    assert!(words.contains("is damaged"), "{words}");
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").unwrap();
    }
    assert_eq!(rows(&connection), [1, 5].into());
    drop(connection);
    // What does not need that page works.
    trial.begin();
    trial.connection.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&trial.connection), [1, 5, NEW].into());
}

#[test]
fn sqlite_panic_in_the_engine() {
    for moment in [Moment::SegmentWrite, Moment::SegmentSync] {
        let trial = Trial::new(1);
        trial.begin();
        trial.disk.before(moment, |_| panic!("on purpose"));
        let words = trial.commit_fails(ffi::SQLITE_IOERR);
        assert!(words.contains("internal error"), "{words}");
        assert_stopped(&trial);
        let answers = trial.after_reopening();
        assert!(moment == Moment::SegmentSync || answers == [false].into(), "{answers:?}");
    }
}

/// A restore takes the place of a writer, and connections see it as a commit of somebody else.
#[test]
fn sqlite_restore() {
    let trial = Trial::new(1);
    let keep = Retention { bytes: 1 << 20, age: Duration::from_secs(1 << 30) };
    trial.store().set_retention(&name("a"), Some(keep)).unwrap();
    let facet = trial.store().open_facet(&name("a")).unwrap();
    let bookmark = facet.bookmark().unwrap();
    trial.begin();
    assert_eq!(facet.restore(&bookmark).unwrap_err().kind(), ErrorKind::Busy);
    trial.connection.execute_batch("COMMIT").unwrap();
    let restored = facet.restore(&bookmark).unwrap();
    assert_eq!(rows(&trial.connection), [1, NEW].into(), "not before it is durable");
    trial.store().wait_durable(restored.ticket).unwrap();
    assert_eq!(rows(&trial.connection), [1].into());
    assert_eq!(trial.after_reopening(), [false].into());
}

/// Attaches facet `b` and begins a transaction over both, with a super-journal as SQLite sees it or
/// without.
fn begin_group(trial: &Trial, mode: &str) {
    let attach = format!(
        "ATTACH 'file:b?vfs={}' AS b; PRAGMA main.journal_mode={mode}; PRAGMA b.journal_mode={mode};
         CREATE TABLE b.u(n INTEGER PRIMARY KEY, b);
         BEGIN IMMEDIATE; INSERT INTO t VALUES ({NEW}, NULL); INSERT INTO u VALUES ({NEW}, NULL)",
        trial.registration.name()
    );
    trial.connection.execute_batch(&attach).unwrap();
}

/// Whether the group is there when the store is opened again, after several ends: in both facets or
/// in neither.
fn group_after_reopening(trial: &Trial) -> BTreeSet<bool> {
    let sim = &trial.disk.disk;
    let disks = [
        sim.after_kill(),
        sim.after_crash(Survival::Nothing),
        sim.after_crash(Survival::Random(5)),
    ];
    let has = |disk: SimDisk| {
        let registration = register(&HookedDisk::new(disk));
        let connection = connect(&registration);
        let attach = format!("ATTACH 'file:b?vfs={}' AS b", registration.name());
        connection.execute_batch(&attach).unwrap();
        let count = |table: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {table} WHERE n = {NEW}");
            connection.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(count("t"), count("u"), "half a transaction");
        count("t") == 1
    };
    disks.into_iter().map(has).collect()
}

#[test]
fn sqlite_group() {
    for mode in ["DELETE", "PERSIST", "MEMORY"] {
        let trial = Trial::new(1);
        begin_group(&trial, mode);
        assert_eq!(group_after_reopening(&trial), [false].into());
        trial.connection.execute_batch("COMMIT").unwrap();
        assert_eq!(group_after_reopening(&trial), [true].into(), "{mode}");
    }
}

#[test]
fn sqlite_group_sync_fails() {
    for mode in ["DELETE", "PERSIST", "MEMORY"] {
        for after in [0, 1] {
            let trial = Trial::new(1);
            begin_group(&trial, mode);
            let sim = &trial.disk.disk;
            sim.fail_at(sim.operations() + after, Fault::Io);
            let error = trial.connection.execute_batch("COMMIT").unwrap_err();
            assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{mode} {error}");
            assert_stopped(&trial);
            group_after_reopening(&trial);
        }
    }
}

#[test]
fn sqlite_group_refused_for_one() {
    for mode in ["DELETE", "PERSIST", "MEMORY"] {
        for refusing in ["a", "b"] {
            let trial = Trial::new(1);
            begin_group(&trial, mode);
            trial.connection.execute_batch("UPDATE t SET b = randomblob(9000)").unwrap();
            trial.connection.execute_batch("UPDATE u SET b = randomblob(9000)").unwrap();
            trial.store().set_quota(&name(refusing), Some(1)).unwrap();
            let words = trial.commit_fails(ffi::SQLITE_FULL);
            assert!(words.contains("its quota of"), "{mode} {words}");
            assert!(trial.connection.is_autocommit());
            assert_eq!(group_after_reopening(&trial), [false].into(), "{mode}");
            trial.store().set_quota(&name(refusing), None).unwrap();
            let sql =
                format!("BEGIN; INSERT INTO t VALUES ({NEW}, 1); INSERT INTO u VALUES ({NEW}, 1)");
            trial.connection.execute_batch(&sql).unwrap();
            trial.connection.execute_batch("COMMIT").unwrap();
            assert_eq!(group_after_reopening(&trial), [true].into(), "{mode}");
        }
    }
}
