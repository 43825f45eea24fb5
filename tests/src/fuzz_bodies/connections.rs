//! Several connections to one facet in any interleaving, each answer compared with a model of what locks
//! and snapshots promise.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapidary_engine::FacetName;
use lapidary_vfs::Registration;
use rusqlite::{Connection, Error, OpenFlags, ffi};

use crate::chance::Chance;
use crate::small_store;

const CONNECTIONS: usize = 3;
const STEPS_MAX: u32 = 400;
/// Keys are few, so that connections write the same rows; values are long, so that some transactions spill.
const KEYS: u32 = 12;

type Rows = BTreeMap<i64, i64>;

/// A version of the facet.
struct Version {
    rows: Rows,
    /// Whether it surely is another version than the one before: a transaction that changes no row may or may
    /// not make one.
    is_new: bool,
}

/// What a connection is in.
#[derive(Clone)]
enum Transaction {
    /// None: each statement is one.
    None,
    /// `BEGIN`, and nothing read yet.
    Begun,
    /// It reads this version.
    Reading(usize),
    /// It has the writer, since this version.
    Writing { base: usize, rows: Rows, took_back: bool },
}

/// What is there to go back to: the rows, or whatever the transaction began with.
type Savepoint = Option<Rows>;

struct Bench {
    registration: Arc<Registration>,
    name: FacetName,
    connections: Vec<Rc<Connection>>,
    transactions: Vec<Transaction>,
    savepoints: Vec<Vec<Savepoint>>,
    versions: Vec<Version>,
}

/// Takes the input as statements of three connections to one facet: reads, writes, transactions of every
/// kind, savepoints, scans that others write beside, closing, VACUUM, checkpoints and cleaning. What is
/// read, and who is refused with which code, is as the model has it.
pub fn connections(input: &[u8]) {
    thread_local! {
        static REGISTRATION: Arc<Registration> = small_store::register();
    }
    static FACETS: AtomicU64 = AtomicU64::new(0);
    let registration = REGISTRATION.with(Arc::clone);
    let name = format!("connections-{}", FACETS.fetch_add(1, Ordering::Relaxed));
    let name = FacetName::new(name).expect("it is a good name");
    let mut chance = Chance::from_bytes(input);
    let mut bench = Bench::new(registration, name);
    for _ in 0..STEPS_MAX {
        if chance.is_spent() {
            break;
        }
        let connection = chance.index(CONNECTIONS);
        bench.step(connection, &mut chance, true);
    }
    bench.end();
}

impl Bench {
    fn new(registration: Arc<Registration>, name: FacetName) -> Self {
        let open = || Rc::new(connect(&registration, &name));
        let connections: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
        let schema = "CREATE TABLE t(k INTEGER PRIMARY KEY, v INTEGER, filler BLOB)";
        connections[0].execute_batch(schema).expect("nobody else is there");
        Self {
            registration,
            name,
            connections,
            transactions: vec![Transaction::None; CONNECTIONS],
            savepoints: vec![Vec::new(); CONNECTIONS],
            versions: vec![Version { rows: Rows::new(), is_new: true }],
        }
    }

    fn newest(&self) -> usize {
        self.versions.len() - 1
    }

    fn writer(&self) -> Option<usize> {
        self.transactions.iter().position(|held| matches!(held, Transaction::Writing { .. }))
    }

    /// One operation of `at`. `alone` if no statement of it is under way.
    fn step(&mut self, at: usize, chance: &mut Chance, alone: bool) {
        match chance.below(16) {
            0..=2 => self.read(at),
            3..=6 => {
                let key = i64::from(chance.below(KEYS));
                let value = i64::from(chance.below(256));
                self.write(at, key, Some(value));
            }
            7 => {
                let key = i64::from(chance.below(KEYS));
                self.write(at, key, None);
            }
            8 => self.begin(at, chance.pick(&["DEFERRED", "IMMEDIATE", "EXCLUSIVE"])),
            9 | 10 => self.commit(at),
            11 => self.roll_back(at),
            12 => self.savepoint(at, chance.below(3)),
            13 if alone => self.scan(at, chance),
            14 if alone => self.reopen(at),
            _ => match chance.below(4) {
                0 => self.vacuum(at),
                1 => drop(small_store::maintain(&self.registration)),
                2 => {
                    self.journal_mode(
                        at,
                        chance.pick(&["DELETE", "TRUNCATE", "PERSIST", "MEMORY"]),
                    );
                }
                _ => self.read(at),
            },
        }
    }

    /// The rows that a read of `at` shows; it has a snapshot from then on, if it is in a transaction.
    fn expected_read(&mut self, at: usize) -> Rows {
        let newest = self.newest();
        if matches!(self.transactions[at], Transaction::Begun) {
            self.transactions[at] = Transaction::Reading(newest);
        }
        match &self.transactions[at] {
            Transaction::Writing { rows, .. } => rows.clone(),
            Transaction::Reading(version) => self.versions[*version].rows.clone(),
            Transaction::None | Transaction::Begun => self.versions[newest].rows.clone(),
        }
    }

    fn read(&mut self, at: usize) {
        let expected = self.expected_read(at);
        assert_eq!(rows(&self.connections[at]), expected, "connection {at} reads");
    }

    /// What becomes of a statement of `at` that writes, once SQLite has said how it went.
    fn takes_writer(&mut self, at: usize, outcome: Result<(), i32>) -> bool {
        let other = self.writer().is_some_and(|writer| writer != at);
        let newest = self.newest();
        let base = match &self.transactions[at] {
            Transaction::Writing { .. } => {
                assert_eq!(outcome, Ok(()), "connection {at} has the writer");
                return true;
            }
            Transaction::Reading(version) => *version,
            Transaction::None | Transaction::Begun => newest,
        };
        if other {
            assert_eq!(outcome, Err(ffi::SQLITE_BUSY), "connection {at}; another one writes");
            return false;
        }
        let passed = &self.versions[base + 1..];
        match outcome {
            Ok(()) => {
                let stale = passed.iter().any(|version| version.is_new);
                assert!(!stale, "connection {at} writes on a version that is not the latest");
                let rows = self.versions[newest].rows.clone();
                if !matches!(self.transactions[at], Transaction::None) {
                    self.transactions[at] =
                        Transaction::Writing { base: newest, rows, took_back: false };
                }
                true
            }
            Err(code) => {
                assert_eq!(code, ffi::SQLITE_BUSY_SNAPSHOT, "connection {at}; nobody writes");
                assert!(!passed.is_empty(), "connection {at} is refused on the latest version");
                false
            }
        }
    }

    fn write(&mut self, at: usize, key: i64, value: Option<i64>) {
        let connection = &self.connections[at];
        let outcome = match value {
            Some(value) => connection
                .prepare_cached("INSERT OR REPLACE INTO t VALUES (?1, ?2, zeroblob(?3))")
                .and_then(|mut insert| insert.execute([key, value, value * 40])),
            None => connection
                .prepare_cached("DELETE FROM t WHERE k = ?1")
                .and_then(|mut delete| delete.execute([key])),
        };
        if !self.takes_writer(at, code_of(outcome)) {
            return;
        }
        let change = |rows: &mut Rows| match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        };
        match &mut self.transactions[at] {
            Transaction::Writing { rows, .. } => change(rows),
            _ => {
                let mut rows = self.versions[self.newest()].rows.clone();
                change(&mut rows);
                self.publish(rows);
            }
        }
    }

    fn publish(&mut self, rows: Rows) {
        let is_new = rows != self.versions[self.newest()].rows;
        self.versions.push(Version { rows, is_new });
    }

    fn execute(&self, at: usize, sql: &str) -> Result<(), i32> {
        code_of(self.connections[at].execute_batch(sql))
    }

    fn begin(&mut self, at: usize, kind: &str) {
        // Within a transaction, SQLite takes the locks of the others before it says that there is one.
        let is_within = !matches!(self.transactions[at], Transaction::None);
        let kind = if is_within { "DEFERRED" } else { kind };
        let outcome = self.execute(at, &format!("BEGIN {kind}"));
        if is_within {
            assert_eq!(outcome, Err(ffi::SQLITE_ERROR), "a transaction within one");
        } else if kind == "DEFERRED" {
            assert_eq!(outcome, Ok(()));
            self.transactions[at] = Transaction::Begun;
        } else if self.takes_writer(at, outcome) {
            let base = self.newest();
            let rows = self.versions[base].rows.clone();
            self.transactions[at] = Transaction::Writing { base, rows, took_back: false };
        }
    }

    fn commit(&mut self, at: usize) {
        let outcome = self.execute(at, "COMMIT");
        match self.end_transaction(at) {
            Transaction::None => assert_eq!(outcome, Err(ffi::SQLITE_ERROR)),
            Transaction::Writing { rows, base, took_back } => {
                assert_eq!(outcome, Ok(()), "connection {at} commits");
                assert_eq!(base, self.newest(), "somebody else committed meanwhile");
                if took_back || rows != self.versions[base].rows {
                    self.publish(rows);
                } else {
                    self.versions.push(Version { rows, is_new: false });
                }
            }
            Transaction::Begun | Transaction::Reading(_) => assert_eq!(outcome, Ok(())),
        }
    }

    fn end_transaction(&mut self, at: usize) -> Transaction {
        self.savepoints[at].clear();
        std::mem::replace(&mut self.transactions[at], Transaction::None)
    }

    fn roll_back(&mut self, at: usize) {
        let outcome = self.execute(at, "ROLLBACK");
        let ended = self.end_transaction(at);
        let expected =
            if matches!(ended, Transaction::None) { Err(ffi::SQLITE_ERROR) } else { Ok(()) };
        assert_eq!(outcome, expected, "connection {at} rolls back");
    }

    /// Sets a savepoint, goes back to the last one, or lets go of it.
    fn savepoint(&mut self, at: usize, what: u32) {
        if matches!(self.transactions[at], Transaction::None) {
            return;
        }
        let depth = self.savepoints[at].len();
        match what {
            0 => {
                assert_eq!(self.execute(at, &format!("SAVEPOINT s{depth}")), Ok(()));
                let rows = match &self.transactions[at] {
                    Transaction::Writing { rows, .. } => Some(rows.clone()),
                    _ => None,
                };
                self.savepoints[at].push(rows);
            }
            _ if depth == 0 => {}
            1 => {
                assert_eq!(self.execute(at, &format!("ROLLBACK TO s{}", depth - 1)), Ok(()));
                let to = self.savepoints[at][depth - 1].clone();
                if let Transaction::Writing { base, rows, took_back } = &mut self.transactions[at] {
                    *rows = to.unwrap_or_else(|| self.versions[*base].rows.clone());
                    *took_back = true;
                }
            }
            _ => {
                assert_eq!(self.execute(at, &format!("RELEASE s{}", depth - 1)), Ok(()));
                self.savepoints[at].pop();
            }
        }
    }

    /// Reads row by row while the others go on: it shows the version it began with.
    fn scan(&mut self, at: usize, chance: &mut Chance) {
        let before = self.transactions[at].clone();
        let expected = self.expected_read(at);
        let connection = Rc::clone(&self.connections[at]);
        let mut statement = connection.prepare("SELECT k, v FROM t ORDER BY k").expect("good SQL");
        let mut found = statement.query([]).expect("readers wait for nobody");
        let mut seen = Rows::new();
        let mut next = |seen: &mut Rows| {
            let row = found.next().expect("nothing is in the way of a reader");
            row.is_some_and(|row| {
                seen.insert(row.get_unwrap(0), row.get_unwrap(1));
                true
            })
        };
        let mut more = next(&mut seen);
        if matches!(before, Transaction::None) && more {
            self.transactions[at] = Transaction::Reading(self.newest());
        }
        for _ in 0..chance.below(6) {
            let other = (at + 1 + chance.index(CONNECTIONS - 1)) % CONNECTIONS;
            self.step(other, chance, false);
            more = more && next(&mut seen);
        }
        while more {
            more = next(&mut seen);
        }
        drop(found);
        assert_eq!(seen, expected, "connection {at} scanned while others wrote");
        if matches!(before, Transaction::None) {
            self.transactions[at] = Transaction::None;
        }
    }

    fn reopen(&mut self, at: usize) {
        self.connections[at] = Rc::new(connect(&self.registration, &self.name));
        self.end_transaction(at);
    }

    fn vacuum(&mut self, at: usize) {
        let outcome = self.execute(at, "VACUUM");
        if !matches!(self.transactions[at], Transaction::None) {
            assert_eq!(outcome, Err(ffi::SQLITE_ERROR), "VACUUM within a transaction");
        } else if self.takes_writer(at, outcome) {
            self.publish(self.versions[self.newest()].rows.clone());
        }
    }

    fn journal_mode(&mut self, at: usize, mode: &str) {
        if matches!(self.transactions[at], Transaction::None) {
            let asked = self.connections[at].pragma_update(None, "journal_mode", mode);
            asked.expect("each of these modes works");
        }
    }

    /// Everybody leaves; what was committed is there.
    fn end(mut self) {
        for at in 0..CONNECTIONS {
            self.reopen(at);
        }
        self.read(0);
        let check: String = self.connections[0]
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("it can be read");
        assert_eq!(check, "ok");
        self.connections.clear();
        self.registration.store().delete_facet(&self.name).expect("it is there");
    }
}

fn connect(registration: &Registration, name: &FacetName) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags_and_vfs(name.as_str(), flags, registration.name())
        .expect("a facet opens");
    connection.busy_timeout(Duration::ZERO).expect("it is a setting");
    // Few pages in the cache, so that it reads again and that transactions spill.
    connection.pragma_update(None, "cache_size", 10).expect("it is a setting");
    connection
}

fn rows(connection: &Connection) -> Rows {
    let mut statement =
        connection.prepare_cached("SELECT k, v FROM t").expect("readers wait for nobody");
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    found.and_then(Iterator::collect).expect("readers wait for nobody")
}

fn code_of<T>(outcome: rusqlite::Result<T>) -> Result<(), i32> {
    match outcome {
        Ok(_) => Ok(()),
        Err(Error::SqliteFailure(error, _)) => Err(error.extended_code),
        Err(other) => panic!("not an error of SQLite: {other}"),
    }
}
