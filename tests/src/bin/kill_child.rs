//! The process that the kill test kills: makes turns on a store as fast as it can, and writes a
//! line "facet turn" to its standard output for each, once it is acknowledged.
//!
//! Usage: `kill_child host|vfs|churn DIRECTORY FACETS`, where `churn` makes facets come and go beside the turns;
//! `kill_child full DIRECTORY` to fill a small file system and get on; or `kill_child lock DIRECTORY` to hold a
//! store open, say "locked" and wait for standard input to end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use lapidary::{ForkFrom, Host, HostConfig, HostError, HostErrorKind, ImportOptions};
use lapidary_engine::{Environment, FormatParams, Store, StoreOptions, Tunables};
use lapidary_tests::turns::{check, facet_name, prepare, take_turn};
use lapidary_tests::victim::{CHURN, FORKED, IMPORTED, TURNS_IMPORTED};
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const THREADS: usize = 3;
const FACETS_FULL: usize = 4;
const ROUNDS_FULL: usize = 5;
/// More than enough for the file system that is to be filled.
const TURNS_FULL_MAX: u32 = 10_000;
/// Some 40 KiB that no zeros can be left out of.
const GROWTH: &str =
    "CREATE TABLE IF NOT EXISTS growth(b); INSERT INTO growth VALUES (randomblob(40000))";

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["host", directory, facets] => through_host(directory, facets.parse()?, false),
        ["churn", directory, facets] => through_host(directory, facets.parse()?, true),
        ["vfs", directory, facets] => through_vfs(directory, facets.parse()?),
        ["full", directory] => fill(directory),
        ["lock", directory] => hold_lock(directory),
        _ => {
            Err("usage: kill_child host|vfs|churn DIRECTORY FACETS, or full|lock DIRECTORY".into())
        }
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

fn acknowledge(facet: usize, turn: u32) -> io::Result<()> {
    say(&format!("{facet} {turn}\n"))
}

/// One write call per line, so that what the parent has read is what was acknowledged.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Every facet of a thread gets its turn at the same time, so that turns share flushes.
fn through_host(directory: &str, facets: usize, with_churn: bool) -> Outcome {
    let cores = NonZeroUsize::new(2).expect("two is not zero");
    let config = HostConfig::new().cores(cores).resident_facets_max(facets / 2).store(options());
    let host = Host::open(directory, config)?;
    thread::scope(|scope| {
        let host = &host;
        let mut threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || host_turns(host, thread, facets)))
            .collect();
        if with_churn {
            threads.push(scope.spawn(move || churn(host, directory, facets)));
        }
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

/// Facets come by forks and imports, go back in time and are deleted, while the store is checkpointed and
/// cleaned. What is acknowledged is said as "made NAME" and "gone NAME"; "going NAME" comes before a delete.
fn churn(host: &Host, directory: &str, facets: usize) -> Outcome {
    let source = format!("{directory}-source.sqlite");
    prepare_source(&source)?;
    // Names that no round before this one has used.
    let listed = host.list(Some(CHURN), None, usize::MAX).wait()?;
    let numbers =
        listed.iter().filter_map(|info| info.name.as_str().rsplit('-').next()?.parse().ok());
    let mut number = numbers.max().unwrap_or(0_usize);
    let mut there: VecDeque<String> = VecDeque::new();
    loop {
        number += 1;
        let facet = number % facets;
        let name =
            format!("{CHURN}/{}-{facet}-{number}", if number % 3 == 0 { IMPORTED } else { FORKED });
        if number % 3 == 0 {
            host.facet(&name)?.import(&source, ImportOptions::new())?;
        } else {
            match host.fork(facet_name(facet), &name, ForkFrom::Durable).wait() {
                // The turns have not got as far as creating it.
                Err(error) if error.kind() == HostErrorKind::NotFound => continue,
                forked => forked?,
            }
        }
        say(&format!("made {name}\n"))?;
        there.push_back(name.clone());
        if number % 3 == 1 {
            let handle = host.facet(&name)?;
            let bookmark = handle.bookmark().wait()?;
            handle
                .transaction(move |tx| {
                    let turn = prepare(tx)? + 1;
                    Ok(take_turn(tx, facet, turn)?)
                })
                .wait()?;
            handle.restore(bookmark).wait()?;
        }
        if there.len() > 6 {
            let name = there.pop_front().expect("there are seven");
            say(&format!("going {name}\n"))?;
            host.delete(&name).wait()?;
            say(&format!("gone {name}\n"))?;
        }
        match number % 5 {
            0 => host.store().checkpoint()?,
            2 => drop(host.store().clean()?),
            _ => {}
        }
    }
}

/// A database of some turns of facet 0, as a file to import.
fn prepare_source(path: &str) -> Outcome {
    for suffix in ["", "-journal"] {
        drop(std::fs::remove_file(format!("{path}{suffix}")));
    }
    let source = Connection::open(path)?;
    prepare(&source)?;
    (1..=TURNS_IMPORTED).try_for_each(|turn| take_turn(&source, 0, turn))?;
    Ok(())
}

/// Fills the file system that `directory` is on, makes room by a delete, and goes on, some times over: each
/// refusal says that there is no space, and what was acknowledged is there each time the store is reopened.
fn fill(directory: &str) -> Outcome {
    let mut newest: BTreeMap<usize, u32> = BTreeMap::new();
    let mut refusals = 0;
    for round in 0..ROUNDS_FULL {
        let in_round = |what| move |error| format!("{what} in round {round}: {error}");
        let mut host = Host::open(directory, HostConfig::new().store(options()))
            .map_err(in_round("opening"))?;
        for facet in 0..FACETS_FULL {
            let handle = host.facet(facet_name(facet))?;
            let acknowledged = newest.get(&facet).copied().unwrap_or(0);
            let looked = handle.read(|connection| Ok(check(connection, facet, acknowledged, 0)));
            match looked {
                Err(error) if error.kind() == HostErrorKind::NotFound && acknowledged == 0 => {}
                looked => _ = looked??,
            }
        }
        let mut is_full = false;
        for turn in 0..TURNS_FULL_MAX {
            let facet = turn as usize % FACETS_FULL;
            let handle = host.facet(facet_name(facet))?;
            let taken = handle.transaction(move |tx| {
                let turn = prepare(tx)? + 1;
                take_turn(tx, facet, turn)?;
                tx.execute_batch(GROWTH)?;
                Ok(turn)
            });
            match taken.wait() {
                Ok(turn) => drop(newest.insert(facet, turn)),
                Err(error) if error.kind() == HostErrorKind::NoSpace => {
                    is_full = true;
                    refusals += 1;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !is_full {
            return Err("the file system is not small".into());
        }
        let facet = round % FACETS_FULL;
        match host.delete(facet_name(facet)).wait() {
            // A running store may have found no room for the checkpoint that would give some back.
            // Opened again, it has.
            Err(error) if error.kind() == HostErrorKind::NoSpace => {
                close_when_full(&host).map_err(in_round("closing"))?;
                host = Host::open(directory, HostConfig::new().store(options()))
                    .map_err(in_round("opening again"))?;
                let deleted = host.delete(facet_name(facet)).wait();
                deleted.map_err(in_round("deleting after opening again"))?;
            }
            deleted => deleted.map_err(in_round("deleting"))?,
        }
        newest.remove(&facet);
        close_when_full(&host).map_err(in_round("closing"))?;
    }
    say(&format!("full {refusals}\n"))?;
    Ok(())
}

/// Without room for a checkpoint everything is durable all the same.
fn close_when_full(host: &Host) -> Result<(), HostError> {
    match host.shutdown() {
        Err(error) if error.kind() == HostErrorKind::NoSpace => Ok(()),
        ended => ended,
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
