//! The bodies of the fuzz targets on seeded inputs, without libFuzzer.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use lapidary_tests::chance::Chance;
use lapidary_tests::fuzz_bodies;
use lapidary_tests::seeds::SIMULATION;

/// Runs `body` on an input made from each seed.
fn smoke(body: fn(&[u8]), test: &str, inputs: u64, input_bytes_max: u32) {
    for seed in SIMULATION.seeds(inputs) {
        let mut chance = Chance::from_seed(seed);
        let length = chance.below(input_bytes_max);
        let input: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
        if std::panic::catch_unwind(|| body(&input)).is_err() {
            panic!("to repeat: {}", SIMULATION.replay(seed, &format!("--test fuzz_bodies {test}")));
        }
    }
}

#[test]
fn recovery() {
    smoke(fuzz_bodies::recovery, "recovery", 1500, 40);
}

#[test]
fn operations() {
    smoke(fuzz_bodies::operations, "operations", 400, 600);
}

#[test]
fn inputs_of_no_bytes() {
    fuzz_bodies::recovery(&[]);
    fuzz_bodies::operations(&[]);
}
