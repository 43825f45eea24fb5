//! The adapter over the `sqlite-vfs` crate as an oracle: the same SQL through it, through this
//! crate's own C interface, and on stock SQLite gives the same rows and the same errors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lapidary_engine::{Environment, MemoryIo, Store, StoreOptions};
use lapidary_vfs::{VfsOptions, adapter, take_last_error};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

/// The crate's registration must not be used by two threads at once.
static ADAPTER: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ADAPTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Registers `store` with the adapter; the name.
fn register(store: Arc<Store>) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("adapter-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let options = VfsOptions { scratch_memory_bytes_max: 4096, ..VfsOptions::default() };
    adapter::register(&name, store, options).unwrap();
    name
}

fn new_store() -> Arc<Store> {
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    Store::open(environment, StoreOptions::create()).unwrap()
}

fn open(vfs: &str, facet: &str) -> Connection {
    Connection::open_with_flags_and_vfs(facet, OpenFlags::default(), vfs).unwrap()
}

/// What a statement gave: rows, or the message of an error.
type Outcome = Result<Vec<Vec<Value>>, String>;

fn run(connection: &Connection, sql: &str) -> Outcome {
    let query = || -> rusqlite::Result<Vec<Vec<Value>>> {
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        statement
            .query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?
            .collect()
    };
    query().map_err(|error| error.to_string())
}

/// Numbers from a seed, so that every run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One statement or other. Content is a function of the statement alone.
fn statement(random: &mut Random) -> String {
    let key = random.below(300);
    let length = [3, 40, 400, 3000, 20_000][usize::try_from(random.below(5)).unwrap()];
    match random.below(24) {
        0 => "BEGIN".into(),
        1 => "BEGIN IMMEDIATE".into(),
        2 | 3 => "COMMIT".into(),
        4 => "ROLLBACK".into(),
        5 => "SAVEPOINT s".into(),
        6 => "ROLLBACK TO s".into(),
        7 => "RELEASE s".into(),
        8..12 => format!(
            "INSERT INTO t VALUES ({key}, printf('%.*c', {length}, 'x'), {})",
            random.below(50)
        ),
        12 => format!(
            "WITH RECURSIVE n(i) AS (SELECT {key} UNION ALL SELECT i + 1 FROM n WHERE i < {key} + 60)
             INSERT OR REPLACE INTO t SELECT i, hex(zeroblob(i * 7 % 900)), i % 50 FROM n"
        ),
        13 => format!("INSERT OR ROLLBACK INTO t VALUES ({key}, 'r', 1)"),
        14 => format!("UPDATE t SET b = printf('%.*c', {length}, 'y') WHERE a % 7 = {}", key % 7),
        15 => format!("UPDATE t SET a = a + 1 WHERE a < {key}"),
        16 => format!("DELETE FROM t WHERE a BETWEEN {key} AND {key} + 80"),
        17 => "DELETE FROM t WHERE c % 3 = 0".into(),
        18 => "VACUUM".into(),
        19 => format!("PRAGMA page_size={}", 512 << random.below(8)),
        20 => "CREATE INDEX IF NOT EXISTS t_c ON t(c, b)".into(),
        21 => "DROP INDEX IF EXISTS t_c".into(),
        22 => "PRAGMA incremental_vacuum(3)".into(),
        _ => "SELECT count(*), sum(length(b)), sum(c) FROM t".into(),
    }
}

#[test]
fn the_same_sql_gives_the_same_rows_three_ways() {
    let _alone = alone();
    let fixture = Fixture::spilling();
    let adapter_store = new_store();
    let adapter = register(Arc::clone(&adapter_store));
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..60_u64 {
        let mut random = Random(seed);
        let facet = format!("seed/{seed}");
        let page_size = 512 << random.below(8);
        let modes = ["delete", "truncate", "persist", "memory"];
        let mode = modes[usize::try_from(random.below(4)).unwrap()];
        let locking = ["normal", "exclusive"][usize::try_from(random.below(2)).unwrap()];
        let cache = [2, 10, 2000][usize::try_from(random.below(3)).unwrap()];
        let vacuum = random.below(3);
        let setup = format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA cache_size={cache};
             PRAGMA journal_mode={mode}; PRAGMA locking_mode={locking};
             CREATE TABLE t(a INTEGER PRIMARY KEY, b, c);"
        );
        let stock = Connection::open(directory.path().join(format!("{seed}.db"))).unwrap();
        stock.execute_batch("PRAGMA synchronous=OFF").unwrap();
        let mut ways = vec![stock, fixture.open(&facet)];
        if mode != "memory" {
            ways.push(open(&adapter, &facet));
        }
        // Open all along, so that its cache has to follow.
        let reader = fixture.open(&facet);
        for way in &ways {
            way.execute_batch(&setup).unwrap();
        }
        for step in 0..120 {
            let sql = statement(&mut random);
            let stock = run(&ways[0], &sql);
            for (number, way) in ways.iter().enumerate().skip(1) {
                let outcome = run(way, &sql);
                assert!(
                    outcome == stock,
                    "seed {seed} step {step} way {number}: {sql}: {outcome:?} is not {stock:?} \
                     ({:?})",
                    take_last_error()
                );
            }
            if ways[0].is_autocommit() {
                let sums = "SELECT count(*), sum(a), sum(length(b)), sum(c) FROM t";
                assert_eq!(run(&reader, sums), run(&ways[0], sums), "seed {seed} step {step}");
            }
        }
        for way in &ways {
            if !way.is_autocommit() {
                way.execute_batch("COMMIT").unwrap();
            }
        }
        let content = "SELECT a, b, c FROM t ORDER BY a";
        let rows = run(&ways[0], content);
        assert!(rows.is_ok());
        let was_adapted = ways.len() == 3;
        drop(ways);
        // What is there for others, and what the adapter finds in the store that it did not write.
        let mut others = vec![fixture.open(&facet), open(&register_once(&fixture), &facet)];
        if was_adapted {
            others.push(open(&adapter, &facet));
        }
        for other in others {
            assert!(run(&other, content) == rows, "seed {seed}");
            check_integrity(&other);
        }
    }
    adapter_store.close().unwrap();
}

/// The store of `fixture` through the adapter.
fn register_once(fixture: &Fixture) -> String {
    static NAME: Mutex<Option<String>> = Mutex::new(None);
    NAME.lock().unwrap().get_or_insert_with(|| register(Arc::clone(fixture.store()))).clone()
}

#[test]
fn both_ways_into_one_store() {
    let _alone = alone();
    let fixture = Fixture::memory();
    let adapter = register(Arc::clone(fixture.store()));
    let (own, adapted) = (fixture.open("a"), open(&adapter, "a"));
    fill(&own, 10, 10);
    for round in 0..10 {
        adapted.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
        own.execute("INSERT INTO t(b) VALUES (2)", []).unwrap();
        for connection in [&own, &adapted] {
            assert_eq!(number(connection, "SELECT count(*) FROM t"), 12 + 2 * round);
        }
    }
    own.execute_batch("BEGIN IMMEDIATE").unwrap();
    adapted.busy_timeout(std::time::Duration::ZERO).unwrap();
    assert_eq!(code(&adapted.execute("DELETE FROM t", []).unwrap_err()), ffi::SQLITE_BUSY);
    own.execute_batch("ROLLBACK").unwrap();

    adapted.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    number(&adapted, "SELECT count(*) FROM t");
    own.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    assert_eq!(code(&adapted.execute("DELETE FROM t", []).unwrap_err()), ffi::SQLITE_BUSY);
    assert!(take_last_error().unwrap().contains("older than the last commit"));
    adapted.execute_batch("ROLLBACK").unwrap();
    check_integrity(&own);
}

#[test]
fn commits_are_durable_in_each_mode_that_works() {
    let _alone = alone();
    for locking in ["normal", "exclusive"] {
        for mode in ["delete", "truncate", "persist"] {
            let io = MemoryIo::new();
            let reopen = || {
                let environment = Environment::with_io(Arc::new(io.clone()));
                Store::open(environment, StoreOptions::create()).unwrap()
            };
            let store = reopen();
            let connection = open(&register(Arc::clone(&store)), "a");
            connection.execute_batch("PRAGMA auto_vacuum=1").unwrap();
            connection.pragma_update(None, "journal_mode", mode).unwrap();
            connection.pragma_update(None, "locking_mode", locking).unwrap();
            fill(&connection, 500, 500);
            connection.execute("DELETE FROM t WHERE a > 20", []).unwrap();
            connection
                .execute_batch(
                    "PRAGMA cache_size=2; BEGIN; UPDATE t SET b = zeroblob(9000); ROLLBACK",
                )
                .unwrap();
            // Seen at once by another way in, so committed; the store is then closed under it.
            let own = lapidary_vfs::Registration::register(
                &format!("own-{mode}-{locking}"),
                Arc::clone(&store),
                VfsOptions::default(),
            )
            .unwrap();
            let reader = open(own.name(), "a");
            assert_eq!(number(&reader, "SELECT count(*) FROM t"), 20, "{mode} {locking}");
            check_integrity(&reader);
            store.close().unwrap();
            drop((connection, reader, own));
            drop(store);
            let fixture = Fixture::on(Arc::new(io.clone()));
            let connection = fixture.open("a");
            assert_eq!(number(&connection, "SELECT sum(length(b)) FROM t"), 10_000);
            check_integrity(&connection);
        }
    }
}

#[test]
fn what_would_not_commit_is_refused() {
    let _alone = alone();
    let store = new_store();
    let vfs = register(Arc::clone(&store));
    let reader = |facet: &str| open(&vfs, facet);
    for locking in ["normal", "exclusive"] {
        for (mode, setting, words) in [
            ("memory", "PRAGMA synchronous=FULL", "journal_mode MEMORY and OFF"),
            ("off", "PRAGMA synchronous=FULL", "journal_mode MEMORY and OFF"),
            ("delete", "PRAGMA synchronous=OFF", "synchronous=OFF is refused"),
            ("truncate", "PRAGMA synchronous=OFF", "synchronous=OFF is refused"),
            ("persist", "PRAGMA synchronous=OFF", "synchronous=OFF is refused"),
        ] {
            let facet = format!("{locking}/{mode}");
            let connection = open(&vfs, &facet);
            fill(&connection, 10, 10);
            connection.pragma_update(None, "locking_mode", locking).unwrap();
            connection.pragma_update(None, "journal_mode", mode).unwrap();
            connection.execute_batch(setting).unwrap();
            let error = connection.execute("DELETE FROM t WHERE a = 1", []).unwrap_err();
            assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{facet}: {error}");
            let message = take_last_error().unwrap();
            assert!(message.contains(words), "{facet}: {message}");
            assert_eq!(number(&reader(&facet), "SELECT count(*) FROM t"), 10, "{facet}");
            drop(connection);
            let connection = open(&vfs, &facet);
            assert_eq!(connection.execute("DELETE FROM t WHERE a = 1", []).unwrap(), 1);
            assert_eq!(number(&reader(&facet), "SELECT count(*) FROM t"), 9);
            check_integrity(&connection);
        }
    }
    let connection = open(&vfs, "wal");
    fill(&connection, 10, 10);
    let mut pragma = connection.prepare("PRAGMA journal_mode=WAL").unwrap();
    let answer: Result<Vec<String>, _> = pragma.query_map([], |row| row.get(0)).unwrap().collect();
    assert!(answer.is_err(), "{answer:?}");
    drop(pragma);
    assert_eq!(number(&reader("wal"), "SELECT count(*) FROM t"), 10);
    assert_eq!(text(&reader("wal"), "PRAGMA integrity_check"), "ok");
}
