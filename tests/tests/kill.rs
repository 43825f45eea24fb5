//! A process under load is killed with SIGKILL, again and again on one store: every turn it
//! acknowledged is there afterwards, no turn is half there, and every facet is sound.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lapidary_engine::{Environment, Store, StoreOptions};
use lapidary_tests::chance::Chance;
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::turns::{check, facet_name};
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags};

const FACETS: usize = 24;
const ROUNDS: u32 = 50;
/// A facet's next turn is asked for when the last one is acknowledged.
const IN_FLIGHT_MAX: u32 = 1;

/// Kills the process even if the test fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the load for about `life` and returns what was acknowledged before the kill.
fn run_and_kill(mode: &str, directory: &Path, life: Duration) -> Vec<(usize, u32)> {
    let child = Command::new(env!("CARGO_BIN_EXE_kill_child"))
        .arg(mode)
        .arg(directory)
        .arg(FACETS.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut victim = Victim(child);
    let mut output = BufReader::new(victim.0.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        let mut acknowledged = Vec::new();
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            // A line without its end was cut by the kill.
            if let Some((facet, turn)) = line.strip_suffix('\n').and_then(|l| l.split_once(' ')) {
                acknowledged.push((facet.parse().unwrap(), turn.parse().unwrap()));
            }
            line.clear();
        }
        acknowledged
    });
    thread::sleep(life);
    let early = victim.0.try_wait().unwrap();
    assert!(early.is_none(), "the {mode} child ended by itself: {early:?}");
    drop(victim);
    reader.join().unwrap()
}

#[test]
fn killed_again_and_again() {
    let seed = std::env::var(SIMULATION.one).map_or_else(
        |_| u64::from(std::process::id()),
        |seed| seed.parse().expect("a seed is a number"),
    );
    println!("{}={seed} chooses the moments", SIMULATION.one);
    let mut chance = Chance::from_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut newest = [0; FACETS];
    let (mut turns, mut rounds_with_turns, mut unchecked) = (0, 0, 0);
    let start = Instant::now();
    for round in 0..ROUNDS {
        let mode = if chance.one_in(3) { "vfs" } else { "host" };
        // Some die while they are still recovering or creating tables.
        let longest_ms = if chance.one_in(4) { 30 } else { 500 };
        let life = Duration::from_millis(u64::from(chance.below(longest_ms)));
        let acknowledged = run_and_kill(mode, &path, life);
        turns += acknowledged.len();
        rounds_with_turns += u32::from(!acknowledged.is_empty());
        for (facet, turn) in acknowledged {
            assert!(turn > newest[facet], "turn {turn} of facet {facet} a second time");
            newest[facet] = turn;
        }
        // Some rounds leave recovery to the next child, which may be killed in the middle of it. A
        // facet can then be further than was acknowledged by a turn for each such round.
        unchecked += 1;
        if chance.one_in(5) && round + 1 < ROUNDS {
            continue;
        }
        check_store(&path, &mut newest, unchecked * IN_FLIGHT_MAX, round);
        unchecked = 0;
    }
    println!("{turns} turns acknowledged in {ROUNDS} rounds, {:?}", start.elapsed());
    assert!(rounds_with_turns > ROUNDS / 3, "{rounds_with_turns} rounds got to work");
}

/// Opens the store and checks every facet; `newest` is then what is really there.
fn check_store(path: &Path, newest: &mut [u32; FACETS], ahead_max: u32, round: u32) {
    let store = Store::open(Environment::system(path), StoreOptions::create())
        .unwrap_or_else(|error| panic!("round {round}: {error}"));
    let vfs_name = format!("after-kill-{round}");
    let registration = Registration::register(&vfs_name, store, VfsOptions::default()).unwrap();
    for (facet, newest) in newest.iter_mut().enumerate() {
        let name = lapidary_engine::FacetName::new(facet_name(facet)).unwrap();
        if !registration.store().facet_exists(&name) {
            assert_eq!(*newest, 0, "round {round}: {name} is gone");
            continue;
        }
        let connection = Connection::open_with_flags_and_vfs(
            name.as_str(),
            OpenFlags::SQLITE_OPEN_READ_WRITE,
            registration.name(),
        )
        .unwrap_or_else(|error| panic!("round {round}: {name}: {error}"));
        *newest = check(&connection, facet, *newest, ahead_max)
            .unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
}
