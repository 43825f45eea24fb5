//! The bodies of the fuzz targets, without libFuzzer: on inputs made from seeds, and on the corpus.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::fs;
use std::path::Path;

use lapidary_tests::chance::Chance;
use lapidary_tests::fuzz_bodies::TARGETS;
use lapidary_tests::seeds::SIMULATION;

/// Runs a target on its corpus, and on an input made from each seed.
fn smoke(target: &str, inputs: u64) {
    let (_, body, input_bytes_max) =
        TARGETS.into_iter().find(|(name, ..)| *name == target).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut kept: Vec<_> =
        fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    assert!(!kept.is_empty(), "{} is empty", corpus.display());
    for path in kept {
        let input = fs::read(&path).unwrap();
        let ran = std::panic::catch_unwind(|| body(&input));
        assert!(ran.is_ok(), "on {}", path.display());
    }
    body(&[]);
    for seed in SIMULATION.seeds(inputs) {
        let mut chance = Chance::from_seed(seed);
        let length = chance.below(input_bytes_max);
        let input: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
        if std::panic::catch_unwind(|| body(&input)).is_err() {
            panic!(
                "to repeat: {}",
                SIMULATION.replay(seed, &format!("--test fuzz_bodies {target}"))
            );
        }
    }
}

#[test]
fn connections() {
    smoke("connections", 300);
}

#[test]
fn import() {
    smoke("import", 300);
}

#[test]
fn operations() {
    smoke("operations", 400);
}

#[test]
fn records() {
    smoke("records", 1000);
}

#[test]
fn recovery() {
    smoke("recovery", 1500);
}

#[test]
fn superblock() {
    smoke("superblock", 1000);
}

#[test]
fn untrusted_sql() {
    smoke("untrusted_sql", 300);
}

#[test]
fn vfs_calls() {
    smoke("vfs_calls", 300);
}
