//! The process that the kill test kills: makes turns on a store as fast as it can, and writes a
//! line "facet turn" to its standard output for each, once it is acknowledged.
//!
//! Usage: `kill_child host|vfs DIRECTORY FACETS`, or `kill_child lock DIRECTORY` to hold a store
//! open, say "locked" and wait for standard input to end.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use lapidary::{Host, HostConfig};
use lapidary_engine::{Environment, FormatParams, Store, StoreOptions, Tunables};
use lapidary_tests::turns::{facet_name, prepare, take_turn};
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const THREADS: usize = 3;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["host", directory, facets] => through_host(directory, facets.parse()?),
        ["vfs", directory, facets] => through_vfs(directory, facets.parse()?),
        ["lock", directory] => hold_lock(directory),
        _ => Err("usage: kill_child host|vfs DIRECTORY FACETS, or lock DIRECTORY".into()),
    }
}

/// Small segments and checkpoints often, so that kills fall into their middle.
fn options() -> StoreOptions {
    StoreOptions {
        format: FormatParams { segment_bytes_min: 256 << 10, segment_bytes_max: 1 << 20 },
        tunables: Tunables { checkpoint_log_bytes: 2 << 20, ..Tunables::default() },
        ..StoreOptions::create()
    }
}

/// One write call per line, so that what the parent has read is what was acknowledged.
fn acknowledge(facet: usize, turn: u32) -> io::Result<()> {
    let line = format!("{facet} {turn}\n");
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Every facet of a thread gets its turn at the same time, so that turns share flushes.
fn through_host(directory: &str, facets: usize) -> Outcome {
    let cores = NonZeroUsize::new(2).expect("two is not zero");
    let config = HostConfig::new().cores(cores).resident_facets_max(facets / 2).store(options());
    let host = Host::open(directory, config)?;
    thread::scope(|scope| {
        let host = &host;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || host_turns(host, thread, facets)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panics"))
    })
}

fn host_turns(host: &Host, thread: usize, facets: usize) -> Outcome {
    let mut handles = Vec::new();
    for facet in (thread..facets).step_by(THREADS) {
        let handle = host.facet(facet_name(facet))?;
        let turn = handle.transaction(|tx| Ok(prepare(tx)?)).wait()?;
        handles.push((facet, handle, turn));
    }
    loop {
        let mut calls = Vec::new();
        for (facet, handle, turn) in &mut handles {
            *turn += 1;
            let (facet, n) = (*facet, *turn);
            calls.push((facet, n, handle.transaction(move |tx| Ok(take_turn(tx, facet, n)?))));
        }
        for (facet, n, call) in calls {
            call.wait()?;
            acknowledge(facet, n)?;
        }
    }
}

fn through_vfs(directory: &str, facets: usize) -> Outcome {
    let store = Store::open(Environment::system(directory), options())?;
    let registration = Registration::register("kill", store, VfsOptions::default())?;
    thread::scope(|scope| {
        let registration = &registration;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || vfs_turns(registration, thread, facets)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panics"))
    })
}

fn vfs_turns(registration: &Arc<Registration>, thread: usize, facets: usize) -> Outcome {
    let mut connections = Vec::new();
    for facet in (thread..facets).step_by(THREADS) {
        let mut connection = Connection::open_with_flags_and_vfs(
            facet_name(facet),
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            registration.name(),
        )?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let turn = prepare(&transaction)?;
        transaction.commit()?;
        connections.push((facet, connection, turn));
    }
    loop {
        for (facet, connection, turn) in &mut connections {
            *turn += 1;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            take_turn(&transaction, *facet, *turn)?;
            transaction.commit()?;
            acknowledge(*facet, *turn)?;
        }
    }
}

fn hold_lock(directory: &str) -> Outcome {
    let store = Store::open(Environment::system(directory), StoreOptions::create())?;
    let mut out = io::stdout().lock();
    out.write_all(b"locked\n")?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(store);
    Ok(())
}
