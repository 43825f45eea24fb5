//! A process under load is killed with SIGKILL, again and again on several stores, also while facets are
//! forked, imported, restored and deleted and the store is checkpointed and cleaned: everything it
//! acknowledged is there afterwards, nothing is half there, every facet is sound, and the store verifies.
//!
//! `LAPIDARY_KILL_ROUNDS` is how many times, 30 if it is not set.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::process::Command;
use std::time::{Duration, Instant};

use lapidary_tests::chance::Chance;
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::victim::{FACETS, Known};

const STORES: usize = 3;

#[test]
fn killed_again_and_again() {
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{variable} must be a number")))
    };
    let rounds = number("LAPIDARY_KILL_ROUNDS").unwrap_or(30);
    let seed = number(SIMULATION.one).unwrap_or_else(|| u64::from(std::process::id()));
    println!("{}={seed} chooses the moments", SIMULATION.one);
    let mut chance = Chance::from_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut stores: Vec<Known> = (0..STORES).map(|_| Known::default()).collect();
    let mut rounds_heard = 0;
    let start = Instant::now();
    for round in 0..rounds {
        let store = chance.index(STORES);
        let path = directory.path().join(format!("store-{store}"));
        let known = &mut stores[store];
        let mode = chance.pick(&["vfs", "host", "churn", "churn"]);
        // Some die while they are still recovering or creating tables.
        let longest_ms = if chance.one_in(4) { 30 } else { 500 };
        let life = Duration::from_millis(u64::from(chance.below(longest_ms)));
        let heard = known.heard;
        let mut command = Command::new(env!("CARGO_BIN_EXE_kill_child"));
        command.arg(mode).arg(&path).arg(FACETS.to_string());
        let was_alive = known.run_and_kill(&mut command, life);
        assert!(was_alive, "round {round}: the {mode} child ended by itself");
        rounds_heard += u64::from(known.heard > heard);
        // Some rounds leave recovery to the next child, which may be killed in the middle of it. A facet
        // can then be further than was acknowledged by a turn for each such round.
        if chance.one_in(5) && round + 1 < rounds {
            continue;
        }
        if path.is_dir() {
            known.check(&path);
        }
        if round % 100 == 99 {
            println!("{} rounds, {:?}", round + 1, start.elapsed());
        }
    }
    let heard: usize = stores.iter().map(|known| known.heard).sum();
    println!("{heard} acknowledgements in {rounds} rounds, {:?}", start.elapsed());
    assert!(rounds_heard > rounds / 4, "{rounds_heard} rounds got to work");
}
