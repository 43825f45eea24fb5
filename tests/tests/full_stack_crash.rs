//! Real SQLite through the VFS on the simulated disk: power is lost at operations sampled over the
//! whole run, the store is recovered, and the rows are compared with a model. Transactions on
//! several facets, now and then one over two of them, form one history; what comes back must be a first part of it that includes
//! everything acknowledged. `PRAGMA integrity_check` says ok in every facet.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{FacetName, Lsn, Store};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::name;
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_disk::{SimDisk, Survival};
use lapidary_tests::world::World;
use lapidary_vfs::{Gate, Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags};

const FACETS: [&str; 3] = ["one", "two/deep", "three"];

/// Rows of the facets: key to length and first byte of the value, all that the values consist of.
type Rows = BTreeMap<i64, (i64, u8)>;
type State = BTreeMap<&'static str, Arc<Rows>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// COMMIT returns when it is durable.
    Sync,
    /// COMMIT returns at once with a ticket.
    Gated,
}

/// What was done and what of it was acknowledged.
#[derive(Default)]
struct History {
    /// The state after each transaction, with the LSN that covers it; the first is before any.
    states: Vec<(State, Lsn)>,
    acknowledged: Lsn,
}

struct Stack {
    registration: Arc<Registration>,
    gate: Option<Gate>,
}

impl Stack {
    fn new(store: Arc<Store>, mode: Mode) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let vfs_name = format!("simulated-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let registration = Registration::register(&vfs_name, store, VfsOptions::default()).unwrap();
        let gate = (mode == Mode::Gated).then(|| registration.gate(0));
        Self { registration, gate }
    }

    fn store(&self) -> &Arc<Store> {
        self.registration.store()
    }

    fn open(&self, facet: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        match &self.gate {
            Some(gate) => gate.open(&name(facet), flags),
            None => Connection::open_with_flags_and_vfs(facet, flags, self.registration.name()),
        }
    }
}

/// One facet's connection and the rows it should show.
struct Open {
    facet: &'static str,
    connection: Connection,
    rows: Rows,
    /// COMMIT was asked for and has not answered.
    committing: bool,
}

fn prepare(
    stack: &Stack,
    facet: &'static str,
    chance: &mut Chance,
) -> rusqlite::Result<Connection> {
    let connection = stack.open(facet)?;
    let page_size = chance.pick(&[512, 1024, 4096, 8192, 65536]);
    let auto_vacuum = chance.pick(&["NONE", "FULL", "INCREMENTAL"]);
    let journal = chance.pick(&["DELETE", "TRUNCATE", "PERSIST", "MEMORY"]);
    let locking = chance.pick(&["NORMAL", "EXCLUSIVE"]);
    // A cache of few pages makes transactions spill.
    let cache_pages = chance.pick(&[2, 10, 500]);
    connection.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum};
         PRAGMA journal_mode={journal}; PRAGMA locking_mode={locking};
         PRAGMA cache_size={cache_pages};"
    ))?;
    Ok(connection)
}

/// One transaction, mirrored in `rows`. `Ok(false)` if it was rolled back.
fn transact(open: &mut Open, chance: &mut Chance) -> rusqlite::Result<bool> {
    let Open { connection, rows, committing, .. } = open;
    let before = rows.clone();
    if chance.one_in(12) {
        connection.execute_batch("VACUUM")?;
        return Ok(true);
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v BLOB NOT NULL, s TEXT);
         CREATE INDEX IF NOT EXISTS t_s ON t(s);",
    )?;
    for _ in 0..chance.between(1, 8) {
        let key = i64::from(chance.below(60));
        match chance.below(10) {
            0..7 => {
                let length = i64::from(chance.pick(&[0, 10, 200, 1000, 7000]));
                let byte = chance.below(256) as u8;
                connection
                    .prepare_cached("INSERT OR REPLACE INTO t VALUES (?1, ?2, hex(?2))")?
                    .execute((key, vec![byte; length as usize]))?;
                // A value of no bytes has no byte to tell it by.
                rows.insert(key, (length, if length == 0 { 0 } else { byte }));
            }
            7..9 => {
                connection
                    .prepare_cached("DELETE FROM t WHERE k >= ?1 AND k < ?1 + 9")?
                    .execute([key])?;
                rows.retain(|other, _| !(key..key + 9).contains(other));
            }
            _ => {
                connection.execute_batch("SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; RELEASE s")?;
            }
        }
    }
    if chance.one_in(6) {
        connection.execute_batch("ROLLBACK")?;
        *rows = before;
        return Ok(false);
    }
    *committing = true;
    connection.execute_batch("COMMIT")?;
    *committing = false;
    Ok(true)
}

/// One transaction over two facets, which a connection of its own attaches to each other.
fn transact_together(
    stack: &Stack,
    history: &mut History,
    state: &mut State,
    facets: [&'static str; 2],
    chance: &mut Chance,
) -> rusqlite::Result<()> {
    if let Some(gate) = &stack.gate
        && chance.one_in(2)
    {
        return transact_collected(stack, gate, history, state, facets, chance);
    }
    if stack.gate.is_some() {
        // What is attached has no gate, and so would not see what is not durable.
        let _ = stack.store().flush();
    }
    let connection = prepare(stack, facets[0], chance)?;
    let journal = chance.pick(&["DELETE", "TRUNCATE", "PERSIST", "MEMORY"]);
    connection.execute_batch(&format!(
        "ATTACH 'file:{}?vfs={}' AS other; PRAGMA other.journal_mode={journal}; BEGIN IMMEDIATE",
        facets[1],
        stack.registration.name()
    ))?;
    let mut after = state.clone();
    for (schema, facet) in ["main", "other"].into_iter().zip(facets) {
        let mut rows = state.get(facet).map(|rows| (**rows).clone()).unwrap_or_default();
        change(&connection, schema, &mut rows, chance)?;
        after.insert(facet, Arc::new(rows));
    }
    if chance.one_in(6) {
        return connection.execute_batch("ROLLBACK");
    }
    if let Err(error) = connection.execute_batch("COMMIT") {
        history.states.push((after, Lsn(u64::MAX)));
        return Err(error);
    }
    *state = after;
    note_done(stack, history, state);
    Ok(())
}

/// Some changes of the table `t` of `schema`, mirrored in `rows`.
fn change(
    connection: &Connection,
    schema: &str,
    rows: &mut Rows,
    chance: &mut Chance,
) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {schema}.t(k INTEGER PRIMARY KEY, v BLOB NOT NULL, s TEXT);
         CREATE INDEX IF NOT EXISTS {schema}.t_s ON t(s);"
    ))?;
    for _ in 0..chance.between(1, 4) {
        let (key, byte) = (i64::from(chance.below(60)), chance.below(255) as u8 + 1);
        let length = i64::from(chance.pick(&[10, 200, 1000, 7000]));
        connection
            .prepare(&format!("INSERT OR REPLACE INTO {schema}.t VALUES (?1, ?2, hex(?2))"))?
            .execute((key, vec![byte; length as usize]))?;
        rows.insert(key, (length, byte));
    }
    let gone = i64::from(chance.below(60));
    connection.execute(&format!("DELETE FROM {schema}.t WHERE k >= ?1"), [gone])?;
    rows.retain(|key, _| *key < gone);
    Ok(())
}

/// One transaction over two facets, each with a connection of its own, whose commits the gate collects.
fn transact_collected(
    stack: &Stack,
    gate: &Gate,
    history: &mut History,
    state: &mut State,
    facets: [&'static str; 2],
    chance: &mut Chance,
) -> rusqlite::Result<()> {
    let mut after = state.clone();
    let mut connections = Vec::new();
    for facet in facets {
        let connection = prepare(stack, facet, chance)?;
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE")?;
        let mut rows = state.get(facet).map(|rows| (**rows).clone()).unwrap_or_default();
        change(&connection, "main", &mut rows, chance)?;
        after.insert(facet, Arc::new(rows));
        connections.push(connection);
    }
    let collecting = gate.collect();
    // Now and then one alone, which is given up then.
    let committing = if chance.one_in(6) { 1 } else { connections.len() };
    for connection in &connections[..committing] {
        connection.execute_batch("COMMIT")?;
    }
    if committing < connections.len() {
        return Ok(());
    }
    if let Err(error) = collecting.commit() {
        history.states.push((after, Lsn(u64::MAX)));
        return Err(error);
    }
    *state = after;
    note_done(stack, history, state);
    Ok(())
}

/// The last transaction led to `state`.
fn note_done(stack: &Stack, history: &mut History, state: &State) {
    let covering = stack.store().current_ticket().lsn();
    history.states.push((state.clone(), covering));
    if stack.gate.is_none() {
        history.acknowledged = history.acknowledged.max(covering);
    }
}

/// Runs transactions until the end or until the disk loses its power.
fn run(stack: &Stack, history: &mut History, disk: &SimDisk, chance: &mut Chance, steps: u32) {
    let mut state = history.states[history.states.len() - 1].0.clone();
    let mut opens: Vec<Open> = Vec::new();
    for _ in 0..steps {
        let facet = chance.pick(&FACETS);
        let result = step(stack, history, &mut state, &mut opens, facet, chance);
        history.acknowledged = history.acknowledged.max(stack.store().durable_lsn());
        if let Err(error) = result {
            let words = lapidary_vfs::take_last_error().unwrap_or_default();
            assert!(disk.is_stopped(), "{facet}: {error}: {words}");
            // Nobody knows whether a COMMIT without an answer made it. Before that, it did not.
            if let Some(open) = opens.iter().find(|open| open.committing) {
                state.insert(facet, Arc::new(open.rows.clone()));
                history.states.push((state, Lsn(u64::MAX)));
            }
            return;
        }
    }
}

fn step(
    stack: &Stack,
    history: &mut History,
    state: &mut State,
    opens: &mut Vec<Open>,
    facet: &'static str,
    chance: &mut Chance,
) -> rusqlite::Result<()> {
    if chance.one_in(10) {
        opens.retain(|open| open.facet != facet);
    }
    if chance.one_in(4) {
        let other = chance.pick(&FACETS);
        if other != facet {
            opens.retain(|open| ![facet, other].contains(&open.facet));
            return transact_together(stack, history, state, [facet, other], chance);
        }
    }
    let index = match opens.iter().position(|open| open.facet == facet) {
        Some(index) => index,
        None => {
            let connection = prepare(stack, facet, chance)?;
            let rows = state.get(facet).map(|rows| (**rows).clone()).unwrap_or_default();
            opens.push(Open { facet, connection, rows, committing: false });
            opens.len() - 1
        }
    };
    let open = &mut opens[index];
    if transact(open, chance)? {
        state.insert(facet, Arc::new(open.rows.clone()));
        note_done(stack, history, state);
    }
    if chance.one_in(5) {
        // What a connection shows of its own work does not wait for the disk.
        assert_eq!(read_rows(&open.connection)?, open.rows, "{facet}");
    }
    if chance.one_in(4) {
        let _ = stack.store().flush();
    }
    if chance.one_in(6) {
        let _ = stack.store().maintain();
    }
    if chance.one_in(20) {
        let _ = stack.store().checkpoint();
    }
    Ok(())
}

fn read_rows(connection: &Connection) -> rusqlite::Result<Rows> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(Rows::new());
    }
    let mut statement = connection.prepare("SELECT k, v, s = hex(v) FROM t")?;
    let rows = statement.query_map([], |row| {
        let value: Vec<u8> = row.get(1)?;
        let byte = value.first().copied();
        assert!(value.iter().all(|other| Some(*other) == byte), "a value is torn");
        assert!(row.get::<_, bool>(2)?, "two columns of one row differ");
        Ok((row.get(0)?, (value.len() as i64, byte)))
    })?;
    let mut found = Rows::new();
    for row in rows {
        let (key, (length, byte)) = row?;
        found.insert(key, (length, byte.unwrap_or_default()));
    }
    Ok(found)
}

/// Reads every facet of a recovered store and finds its state in the history.
fn check(world: &World, disk: &SimDisk, history: &History) -> (Stack, State) {
    let store = world.open(disk, history.states.len() == 1).unwrap();
    let stack = Stack::new(store, Mode::Sync);
    let mut found = State::new();
    for facet in FACETS {
        if !stack.store().facet_exists(&FacetName::new(facet).unwrap()) {
            continue;
        }
        let connection = stack.open(facet).unwrap();
        let verdict: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "{facet}");
        found.insert(facet, Arc::new(read_rows(&connection).unwrap()));
    }
    let acknowledged = history.acknowledged;
    let first = history.states.iter().rposition(|(_, lsn)| *lsn <= acknowledged).unwrap();
    let candidates = &history.states[first..];
    // A facet that exists and is empty counts as one that does not.
    let filled = |state: &State| -> State {
        let rows = state.iter().filter(|(_, rows)| !rows.is_empty());
        rows.map(|(facet, rows)| (*facet, Arc::clone(rows))).collect()
    };
    let matches = candidates.iter().any(|(state, _)| filled(state) == filled(&found));
    assert!(
        matches,
        "{} states may have come back, and none did; found {found:?}, acknowledged was {:?}",
        candidates.len(),
        candidates[0].0
    );
    (stack, found)
}

fn start() -> History {
    History { states: vec![(State::new(), Lsn(0))], acknowledged: Lsn(0) }
}

const STEPS: u32 = 40;

fn operations(seed: u64, mode: Mode) -> u64 {
    let disk = SimDisk::new(seed);
    let stack = Stack::new(World::new(seed).open(&disk, true).unwrap(), mode);
    let mut history = start();
    run(&stack, &mut history, &disk, &mut Chance::from_seed(seed), STEPS);
    assert!(!disk.is_stopped());
    assert!(history.states.len() > 10, "few transactions: {}", history.states.len());
    disk.operations()
}

fn crash_and_recover(seed: u64, mode: Mode, operation: u64) {
    let world = World::new(seed);
    let disk = SimDisk::new(seed);
    disk.crash_at(operation);
    let mut history = start();
    let created = world.open(&disk, true);
    let Ok(store) = created else { return };
    let stack = Stack::new(store, mode);
    run(&stack, &mut history, &disk, &mut Chance::from_seed(seed), STEPS);
    drop(stack);
    let after = if operation.is_multiple_of(5) {
        disk.after_kill()
    } else {
        disk.after_crash(Survival::Random(operation))
    };
    let (stack, found) = check(&world, &after, &history);
    // The next process goes on with what it found, and crashes too.
    drop(stack);
    let stack = Stack::new(world.open(&after, false).unwrap(), mode);
    let mut history = History { states: vec![(found, Lsn(0))], acknowledged: Lsn(0) };
    after.crash_at(after.operations() + operation % 17);
    run(&stack, &mut history, &after, &mut Chance::from_seed(operation), STEPS / 4);
    drop(stack);
    let last = after.after_crash(Survival::Random(operation + 1));
    drop(check(&world, &last, &history));
}

fn crash_at_sampled_operations(mode: Mode, test: &str) {
    for seed in SIMULATION.seeds(3) {
        let operations = operations(seed, mode);
        for operation in (seed % 13..operations).step_by(13) {
            let run = || crash_and_recover(seed, mode, operation);
            if std::panic::catch_unwind(run).is_err() {
                panic!(
                    "crash at operation {operation} of {operations}; to repeat: {}",
                    SIMULATION.replay(seed, &format!("--test full_stack_crash {test}"))
                );
            }
        }
    }
}

#[test]
fn durable_commits() {
    crash_at_sampled_operations(Mode::Sync, "durable_commits");
}

#[test]
fn gated_commits() {
    crash_at_sampled_operations(Mode::Gated, "gated_commits");
}
