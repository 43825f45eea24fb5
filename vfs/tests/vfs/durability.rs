//! When a commit is durable, and what happens when it never will be.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapidary_engine::{
    Background, DirectoryState, Environment, FacetName, FileName, FileNo, Io, IoFile, MemoryIo,
    Store, StoreOptions, Ticket,
};
use lapidary_vfs::{Registration, VfsOptions, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number};

/// What a [`FaultyIo`] does wrong.
#[derive(Debug, Default)]
struct Faults {
    /// Every sync of a segment fails.
    sync: AtomicBool,
    /// Files grow no more, and none is created.
    full: AtomicBool,
    /// Every sync takes a while, as on a disk.
    slow: AtomicBool,
    syncs: AtomicU64,
}

/// Files in memory with faults that can be switched on.
#[derive(Clone, Debug)]
struct FaultyIo {
    inner: MemoryIo,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn IoFile>,
    faults: Arc<Faults>,
    is_segment: bool,
}

impl FaultyIo {
    fn new() -> Self {
        Self { inner: MemoryIo::new(), faults: Arc::default() }
    }

    fn wrap(&self, name: FileName, inner: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        let is_segment = matches!(name, FileName::Segment(_));
        Arc::new(FaultyFile { inner, faults: Arc::clone(&self.faults), is_segment })
    }

    fn set_full(&self, full: bool) {
        self.faults.full.store(full, Ordering::SeqCst);
    }

    fn fail_syncs(&self, fail: bool) {
        self.faults.sync.store(fail, Ordering::SeqCst);
    }

    fn syncs(&self) -> u64 {
        self.faults.syncs.load(Ordering::SeqCst)
    }
}

impl Io for FaultyIo {
    fn describe(&self) -> String {
        "(faulty)".into()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.inner.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.inner.create_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.inner.lock()
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.wrap(name, self.inner.open(name)?))
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        if self.faults.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.wrap(name, self.inner.create(name)?))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.inner.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }
}

impl IoFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let grows = offset + bytes.len() as u64 > self.inner.len()?;
        if grows && self.faults.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if self.is_segment {
            self.faults.syncs.fetch_add(1, Ordering::SeqCst);
            if self.faults.slow.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_micros(500));
            }
            if self.faults.sync.load(Ordering::SeqCst) {
                return Err(io::Error::from_raw_os_error(5));
            }
        }
        self.inner.sync()
    }
}

#[test]
fn a_plain_commit_waits_for_the_disk() {
    let io = FaultyIo::new();
    // In the background segments are made ready, which takes syncs too.
    let registration = manual_on(Arc::new(io.clone()));
    let store = registration.store();
    let connection = open(&registration, "a");
    fill(&connection, 1, 1);
    for _ in 0..5 {
        let before = io.syncs();
        connection.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
        assert!(io.syncs() > before);
        assert!(store.is_durable(store.current_ticket()).unwrap());
    }
    let before = io.syncs();
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT; BEGIN; SELECT * FROM t; COMMIT").unwrap();
    connection.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
    assert_eq!(io.syncs(), before, "nothing was committed, nothing is waited for");
}

/// A store that flushes when it is told to.
fn manual() -> Arc<Registration> {
    manual_on(Arc::new(MemoryIo::new()))
}

fn manual_on(io: Arc<dyn Io>) -> Arc<Registration> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::create() };
    let store = Store::open(Environment::with_io(io), options).unwrap();
    let name = format!("manual-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    Registration::register(&name, store, VfsOptions::default()).unwrap()
}

fn open(registration: &Registration, facet: &str) -> Connection {
    Connection::open_with_flags_and_vfs(facet, OpenFlags::default(), registration.name()).unwrap()
}

#[test]
fn a_gated_commit_returns_at_once_with_a_ticket() {
    let registration = manual();
    let store = registration.store();
    let gate = registration.gate(0);
    assert_eq!(gate.last_ticket(), Ticket::DURABLE);
    let name = FacetName::new("tenants/a b?c#d%e").unwrap();
    let host = gate.open(&name, OpenFlags::default()).unwrap();
    // Plain connections wait for the facet's creation, not for what is in it.
    store.flush().unwrap();
    fill(&host, 10, 10);
    let ticket = gate.last_ticket();
    assert!(ticket > Ticket::DURABLE);
    assert!(!store.is_durable(ticket).unwrap());

    // The host goes on from what it committed; everybody else sees what is durable.
    assert_eq!(number(&host, "SELECT count(*) FROM t"), 10);
    let plain = open(&registration, name.as_str());
    plain.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(number(&plain, "SELECT count(*) FROM sqlite_schema"), 0);
    let error = plain.execute_batch("CREATE TABLE u(x)").unwrap_err();
    // With no transaction open SQLite makes BUSY of BUSY_SNAPSHOT: trying again can help.
    assert_eq!(code(&error), ffi::SQLITE_BUSY);
    assert!(take_last_error().unwrap().contains("older than the last commit"));

    store.flush().unwrap();
    assert!(store.is_durable(ticket).unwrap());
    assert_eq!(number(&plain, "SELECT count(*) FROM t"), 10);
    plain.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    assert_eq!(gate.last_ticket(), ticket, "not made through this gate");
    assert_eq!(number(&host, "SELECT count(*) FROM t"), 9);

    host.execute("DELETE FROM t WHERE a = 2", []).unwrap();
    let next = gate.last_ticket();
    assert!(next > ticket);
    assert_eq!(number(&plain, "SELECT count(*) FROM t"), 9);
    store.wait_durable(next).unwrap();
    assert_eq!(number(&plain, "SELECT count(*) FROM t"), 8);
    assert_eq!(number(&host, "SELECT count(*) FROM t"), 8);
    host.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
    assert_eq!(gate.last_ticket(), next, "a rollback makes no commit");
}

#[test]
fn gates_are_apart_and_secret() {
    let registration = manual();
    let (one, two) = (registration.gate(0), registration.gate(1));
    let name = FacetName::new("a").unwrap();
    fill(&one.open(&name, OpenFlags::default()).unwrap(), 1, 1);
    assert!(one.last_ticket() > Ticket::DURABLE);
    assert_eq!(two.last_ticket(), Ticket::DURABLE);
    assert_eq!(one.clone().last_ticket(), one.last_ticket());
    let shown = format!("{one:?}");
    assert!(!shown.contains("token"), "{shown}");

    // A connection does not learn the token that opened it.
    let host = one.open(&name, OpenFlags::default()).unwrap();
    let file: String =
        host.query_row("SELECT file FROM pragma_database_list", [], |row| row.get(0)).unwrap();
    assert_eq!(file, "a");

    // One that is open outlives its gate; nobody can open another with the old token.
    drop(one);
    host.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
    let missing = two.open(&FacetName::new("b").unwrap(), OpenFlags::SQLITE_OPEN_READ_ONLY);
    assert_eq!(code(&missing.unwrap_err()) & 0xff, ffi::SQLITE_CANTOPEN);
}

#[test]
fn gated_commits_on_the_hosts_settings() {
    let registration = manual();
    let gate = registration.gate(0);
    let name = FacetName::new("a").unwrap();
    let host = gate.open(&name, OpenFlags::default()).unwrap();
    host.execute_batch("PRAGMA journal_mode=MEMORY; PRAGMA locking_mode=EXCLUSIVE").unwrap();
    fill(&host, 1, 1);
    for count in 1..50 {
        assert_eq!(number(&host, "SELECT count(*) FROM t"), count);
        let before = gate.last_ticket();
        host.execute("INSERT INTO t(b) VALUES (randomblob(900))", []).unwrap();
        assert!(gate.last_ticket() > before);
        host.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
        if count % 7 == 0 {
            registration.store().flush().unwrap();
        }
    }
    registration.store().flush().unwrap();
    let plain = open(&registration, "a");
    assert_eq!(number(&plain, "SELECT count(*) FROM t"), 50);
    check_integrity(&plain);
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_stops_every_connection() {
    let io = FaultyIo::new();
    let mut fixture = Fixture::on(Arc::new(io.clone()));
    for mode in ["delete", "memory", "truncate", "persist"] {
        for locking in ["normal", "exclusive"] {
            let facet = format!("{mode}/{locking}");
            let connection = fixture.open(&facet);
            connection.pragma_update(None, "journal_mode", mode).unwrap();
            connection.pragma_update(None, "locking_mode", locking).unwrap();
            fill(&connection, 10, 10);
            let reader = fixture.open(&facet);
            reader.execute_batch("BEGIN").unwrap();
            assert_eq!(number(&reader, "SELECT count(*) FROM t"), 10);
            // So that the sync that fails is that of the log, and not of a segment made ready for it.
            while fixture.store().maintain().unwrap() {}

            io.fail_syncs(true);
            connection.execute_batch("BEGIN; DELETE FROM t WHERE a = 1").unwrap();
            let error = connection.execute_batch("COMMIT").unwrap_err();
            assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{facet}: {error}");
            let words = take_last_error().unwrap();
            assert!(words.contains("store stopped after a failed write or sync"), "{words}");
            // A second COMMIT must not pretend.
            connection.execute_batch("COMMIT").unwrap_err();
            let _ = connection.execute_batch("ROLLBACK");
            let error = connection.execute_batch("SELECT * FROM t").unwrap_err();
            assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{facet}: {error}");
            connection.execute_batch("INSERT INTO t(b) VALUES (1)").unwrap_err();
            assert!(fixture.try_open("another", OpenFlags::default()).is_err());

            io.fail_syncs(false);
            connection.execute_batch("INSERT INTO t(b) VALUES (1)").unwrap_err();
            drop((connection, reader));
            fixture.restart();
            let connection = fixture.open(&facet);
            let count = number(&connection, "SELECT count(*) FROM t");
            assert!((9..=10).contains(&count), "whole or not at all: {count}");
            check_integrity(&connection);
        }
    }
}

#[test]
fn a_full_disk_is_sqlite_full_and_the_store_goes_on() {
    for mode in ["delete", "memory", "persist"] {
        for locking in ["normal", "exclusive"] {
            let io = FaultyIo::new();
            let mut fixture = Fixture::on(Arc::new(io.clone()));
            let connection = fixture.open("a");
            connection.pragma_update(None, "journal_mode", mode).unwrap();
            connection.pragma_update(None, "locking_mode", locking).unwrap();
            connection.execute_batch("PRAGMA cache_size=50").unwrap();
            fill(&connection, 10, 100);
            io.set_full(true);
            let mut done = 10;
            let error = loop {
                match connection.execute("INSERT INTO t(b) VALUES (randomblob(200000))", []) {
                    Ok(_) => done += 1,
                    Err(error) => break error,
                }
                assert!(done < 1000, "the disk is full");
            };
            assert_eq!(code(&error), ffi::SQLITE_FULL, "{mode} {locking}: {error}");
            assert!(take_last_error().unwrap().contains("no space left"));
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), done);
            check_integrity(&connection);
            // One so large that it spills before it is to be committed.
            let large =
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
                         INSERT INTO t(b) SELECT randomblob(1000000) FROM n";
            let error = connection.execute(large, []).unwrap_err();
            assert_eq!(code(&error), ffi::SQLITE_FULL, "{mode} {locking}: {error}");
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), done);

            io.set_full(false);
            connection.execute(large, []).unwrap();
            check_integrity(&connection);
            drop(connection);
            fixture.restart();
            let connection = fixture.open("a");
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), done + 20);
            check_integrity(&connection);
        }
    }
}

#[test]
fn commits_at_the_same_time_share_a_sync() {
    let io = FaultyIo::new();
    let fixture = Fixture::on(Arc::new(io.clone()));
    let connections: Vec<_> = (0..8)
        .map(|number| {
            let connection = fixture.open(&format!("f/{number}"));
            fill(&connection, 1, 1);
            connection
        })
        .collect();
    io.faults.slow.store(true, Ordering::SeqCst);
    let before = io.syncs();
    let done = Mutex::new(0_u64);
    std::thread::scope(|scope| {
        for connection in connections {
            let done = &done;
            scope.spawn(move || {
                for _ in 0..100 {
                    connection.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
                    *done.lock().unwrap() += 1;
                }
            });
        }
    });
    assert_eq!(*done.lock().unwrap(), 800);
    assert!(io.syncs() - before < 400, "{} syncs for 800 commits", io.syncs() - before);
}

#[test]
fn a_closed_store_is_an_error_that_says_so() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 1, 1);
    fixture.store().close().unwrap();
    connection.execute_batch("SELECT * FROM t").unwrap_err();
    assert!(take_last_error().unwrap().contains("the store is closed"));
    assert!(fixture.try_open("b", OpenFlags::default()).is_err());
}
