//! Power is lost while alarms are set, run, renamed and restored: every alarm that was acknowledged has
//! run in the end, what each did is there once, and none is left that nobody looks at.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapidary::{AlarmHandler, Host, HostConfig, HostError, Retention};
use lapidary_engine::{Background, Environment, StoreOptions};
use lapidary_tests::chance::Chance;
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_disk::{SimDisk, Survival};
use lapidary_tests::world::World;
use rusqlite::{Connection, OpenFlags};

const FACETS: u32 = 5;
const STEPS: u32 = 40;
/// Long enough for anything that is to happen; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(world: &World, disk: &SimDisk, cores: usize) -> Result<Host, HostError> {
    let handler = AlarmHandler::new(|tx, _, alarm| {
        tx.execute("CREATE TABLE IF NOT EXISTS ran(name TEXT UNIQUE)", ())?;
        tx.execute("INSERT INTO ran VALUES (?1)", [&alarm.name])?;
        // Some fail at first.
        if alarm.attempts == 0 && alarm.name.ends_with('7') {
            return Err(HostError::abort("the first time"));
        }
        Ok(())
    });
    let handler = handler.retry_after(Duration::from_millis(1));
    let store =
        StoreOptions { create: true, background: Background::Threads, ..world.options.clone() };
    let config = HostConfig::new()
        .cores(NonZeroUsize::new(cores).unwrap())
        .pin_cores(false)
        .resident_facets_max(3)
        .store(store)
        .on_alarm(handler);
    Host::open_in(Environment::with_io(Arc::new(disk.clone())), config)
}

/// Sets alarms until the end, or until power is lost. Returns those acknowledged.
fn live(host: &Host, chance: &mut Chance, prefix: &str) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut names: Vec<String> = (0..FACETS).map(|n| format!("{prefix}-{n}")).collect();
    let mut live = || -> Result<(), HostError> {
        let now_ms = host.store().environment().clock.wall_ms();
        let mut waiting = Vec::new();
        for step in 0..STEPS {
            let at = chance.index(names.len());
            let facet = host.facet(&names[at])?;
            match chance.below(12) {
                0..8 => {
                    let name = format!("{prefix}-{step}");
                    let due_ms = now_ms + chance.pick(&[0_u64, 3, 20]);
                    waiting.push((name.clone(), facet.alarms().set(name, due_ms, "")));
                }
                8..10 => {
                    let new = format!("{prefix}-{at}/{step}").replace('/', "-moved-");
                    // There may be no such facet yet.
                    match host.rename(&names[at], &new).wait() {
                        Ok(()) => names[at] = new,
                        Err(error) if error.kind() == lapidary::HostErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
                10 => {
                    for (name, call) in waiting.drain(..) {
                        call.wait()?;
                        acknowledged.insert(name);
                    }
                }
                _ => {
                    let _ = host.store().checkpoint();
                }
            }
        }
        for (name, call) in waiting {
            call.wait()?;
            acknowledged.insert(name);
        }
        Ok(())
    };
    // The error is that of a disk without power.
    let _ = live();
    acknowledged
}

/// An alarm runs, and runs once more after a restore to before that. Returns its name, if it is to be
/// there in the end.
fn restore(host: &Host, disk: &SimDisk, name: &str) -> Result<String, HostError> {
    let retention = Retention { bytes: 1 << 30, age: Duration::from_secs(1 << 20) };
    host.set_retention(name, Some(retention)).wait()?;
    let facet = host.facet(name)?;
    let now_ms = host.store().environment().clock.wall_ms();
    facet.alarms().set(name, now_ms + 5, "").wait()?;
    // Before it has run, if the machine is not very slow.
    let bookmark = facet.bookmark().wait()?;
    // What is durable can be read of a store that has stopped, which runs no alarms.
    while facet.alarms().get(name).wait()?.is_some() && !disk.is_stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
    facet.restore(bookmark).wait()?;
    Ok(name.to_owned())
}

/// Waits until everything has run that `acknowledged` has, and nothing waits.
fn check(host: &Host, acknowledged: &BTreeSet<String>) {
    let start = Instant::now();
    loop {
        let (mut ran, mut waiting) = (BTreeSet::new(), 0);
        for info in host.list(None, None, 1_000).wait().unwrap() {
            // Not through the host, which would look after the alarms of a facet that it lists.
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            let facet =
                Connection::open_with_flags_and_vfs(info.name.as_str(), flags, host.vfs_name())
                    .unwrap();
            if facet.table_exists(Some("main"), "_lapidary_alarms").unwrap() {
                let count = "SELECT count(*) FROM _lapidary_alarms";
                waiting += facet.query_row(count, (), |row| row.get::<_, u32>(0)).unwrap();
            }
            if facet.table_exists(Some("main"), "ran").unwrap() {
                let mut statement = facet.prepare("SELECT name FROM ran").unwrap();
                let names = statement.query_map((), |row| row.get::<_, String>(0)).unwrap();
                for name in names {
                    assert!(ran.insert(name.unwrap()), "an alarm has run in two facets");
                }
            }
        }
        let lost: Vec<_> = acknowledged.difference(&ran).collect();
        if lost.is_empty() && waiting == 0 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{waiting} are not looked at; have not run: {lost:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn crash_and_recover(seed: u64, operation: u64) -> u64 {
    let world = World::new(seed);
    let disk = SimDisk::new(seed);
    disk.crash_at(operation);
    let chance = &mut Chance::from_seed(seed ^ operation);
    let mut acknowledged = BTreeSet::new();
    let mut after = disk.clone();
    for life in 0..2 {
        if let Ok(host) = open(&world, &after, 1 + life) {
            acknowledged.extend(live(&host, chance, &format!("life-{life}")));
            acknowledged.extend(restore(&host, &after, &format!("restored-{life}")));
        }
        let operations = after.operations();
        after = if operation.is_multiple_of(5) {
            after.after_kill()
        } else {
            after.after_crash(Survival::Random(operation))
        };
        if operation == u64::MAX {
            return operations;
        }
        // The next process crashes too.
        after.crash_at(after.operations() + 20 + operation % 101);
    }
    after.clear_faults();
    let host = open(&world, &after, 2).unwrap();
    check(&host, &acknowledged);
    host.shutdown().unwrap();
    after.operations()
}

#[test]
fn no_acknowledged_alarm_is_lost() {
    for seed in SIMULATION.seeds(2) {
        let operations = crash_and_recover(seed, u64::MAX);
        for operation in (seed % 7..operations).step_by(7) {
            let run = || crash_and_recover(seed, operation);
            if std::panic::catch_unwind(run).is_err() {
                panic!(
                    "crash at operation {operation} of {operations}; to repeat: {}",
                    SIMULATION.replay(seed, "--test alarms_crash")
                );
            }
        }
    }
}
