//! How many instructions the common things take, counted by callgrind, so that a change that makes
//! them slower is seen on any machine, however busy:
//!
//! ```sh
//! cargo install gungraun-runner --version 0.20.0 --locked
//! cargo bench --bench instructions
//! ```
//!
//! Each count has a limit, which is the baseline that a change is held to: the count when it was last
//! set, and a tenth. Above it the run fails. A change that is meant to cost more, or that gains
//! enough for the limit to mean nothing, sets it anew and says why in its message.
//!
//! Everything is counted on one thread, with the store in memory: the work of a commit and of the
//! flush that makes it durable, and nothing of the disk or of waiting.

#![allow(missing_docs, reason = "the macros make public items")]

use std::hint::black_box;
use std::sync::Arc;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};
use lapidary_engine::{
    Background, Environment, FacetName, ForkFrom, MemoryIo, Store, StoreOptions,
};
use lapidary_vfs::{Gate, ProcessSettings, Registration, VfsOptions, configure_process};
use rusqlite::{Connection, OpenFlags};

/// A store with one small facet, its writer open as the host has it. The connection comes before
/// what it was made from, and so is closed first.
struct Stage {
    connection: Option<Connection>,
    gate: Gate,
    _registration: Arc<Registration>,
    store: Arc<Store>,
    next: i64,
}

const ROWS: i64 = 200;
const READ: &str = "SELECT body FROM note WHERE id = ?1";
const WRITE: &str = "UPDATE note SET body = ?2, edits = edits + 1 WHERE id = ?1";

fn name() -> FacetName {
    FacetName::new("tenants/acme").expect("a name that is allowed")
}

impl Stage {
    /// After some transactions, so that statements are prepared and caches are as in use.
    fn warm() -> Self {
        configure_process(&ProcessSettings::default());
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let mut options = StoreOptions::create();
        options.background = Background::Manual;
        let store = Store::open(environment, options).expect("a store in memory");
        let registration =
            Registration::register("instructions", Arc::clone(&store), VfsOptions::default())
                .expect("a name that is free");
        let gate = registration.gate(0);
        let mut stage =
            Self { connection: None, gate, _registration: registration, store, next: 1 };
        stage.open();
        let fill = format!(
            "CREATE TABLE note(id INTEGER PRIMARY KEY, edits INTEGER, body TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {ROWS})
             INSERT INTO note SELECT i, 0, printf('%.*c', 60 + i % 40, 'n') FROM n;"
        );
        stage.connection().execute_batch(&fill).expect("a table");
        for _ in 0..20 {
            stage.write();
            black_box(stage.read());
        }
        stage
    }

    /// The same with segments made ahead of need.
    fn supplied() -> Self {
        let stage = Self::warm();
        while stage.store.maintain().expect("a store in memory") {}
        stage
    }

    /// The same with the facet's connection closed.
    fn cold() -> Self {
        let mut stage = Self::warm();
        stage.connection = None;
        stage.store.maintain().expect("a store in memory");
        stage
    }

    fn open(&mut self) {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        self.store.open_or_create_facet(&name()).expect("a facet");
        let connection = self.gate.open(&name(), flags).expect("a connection");
        connection
            .execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY")
            .expect("pragmas");
        self.connection = Some(connection);
    }

    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("it is open")
    }

    fn step(&mut self) -> i64 {
        self.next = self.next * 7 % (ROWS + 11) % ROWS + 1;
        self.next
    }

    fn write(&mut self) {
        let id = self.step();
        let mut statement = self.connection().prepare_cached(WRITE).expect("a statement");
        let changed = statement.execute((id, "a body that is new")).expect("an update");
        assert_eq!(changed, 1);
        drop(statement);
        self.store.flush().expect("a flush");
    }

    fn read(&mut self) -> String {
        let id = self.step();
        let mut statement = self.connection().prepare_cached(READ).expect("a statement");
        statement.query_row((id,), |row| row.get(0)).expect("a row")
    }
}

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

// A row changed in a transaction of its own, until it is durable.
#[library_benchmark(config = at_most(30_900))]
#[bench::of_one_row(Stage::warm())]
fn commit(mut stage: Stage) -> Stage {
    stage.write();
    stage
}

// A row by its key, on a connection that is open.
#[library_benchmark(config = at_most(4_900))]
#[bench::of_one_row(Stage::warm())]
fn read(mut stage: Stage) -> Stage {
    black_box(stage.read());
    stage
}

// A connection to a facet that has none, and its first query.
#[library_benchmark(config = at_most(212_000))]
#[bench::with_a_query(Stage::cold())]
fn cold_open(mut stage: Stage) -> Stage {
    stage.open();
    black_box(stage.read());
    stage
}

// A fork of the facet, until it is durable.
#[library_benchmark(config = at_most(18_400))]
#[bench::of_a_small_facet(Stage::supplied())]
fn fork(stage: Stage) -> Stage {
    let to = FacetName::new("tenants/acme-2").expect("a name that is allowed");
    black_box(stage.store.fork_facet(&name(), &to, ForkFrom::Latest).expect("a fork"));
    stage.store.flush().expect("a flush");
    stage
}

library_benchmark_group!(name = instructions, benchmarks = [commit, read, cold_open, fork]);

main!(library_benchmark_groups = instructions);
