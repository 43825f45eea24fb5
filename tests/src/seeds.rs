//! Seeds of random runs: how many, and how to repeat one.

use std::env;

use lapidary_engine::Environment;

/// Environment variable with the number of seeds to run.
pub const SEEDS_VARIABLE: &str = "LAPIDARY_SIM_SEEDS";
/// Environment variable with one seed to run, as a failure prints it.
pub const SEED_VARIABLE: &str = "LAPIDARY_SIM_SEED";

/// The seeds to run: the one asked for; or `fixed` ones that are the same every time (or as many as
/// asked for), and one more that is fresh.
#[must_use]
pub fn seeds(fixed: u64) -> Vec<u64> {
    if let Some(seed) = number(SEED_VARIABLE) {
        return vec![seed];
    }
    let count = number(SEEDS_VARIABLE).unwrap_or(fixed);
    let mut bytes = [0; 8];
    Environment::posix(".").entropy.fill(&mut bytes);
    let fresh = u64::from_le_bytes(bytes);
    // Asked for more, run others than the fixed ones, else repeating finds nothing new.
    let first = if count > fixed { fresh } else { 0 };
    (0..count).map(|index| first.wrapping_add(index)).chain([fresh]).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} must be a number, not {text:?}"),
    }
}

/// The command that repeats a seed of a test.
#[must_use]
pub fn replay(seed: u64, test: &str) -> String {
    format!("{SEED_VARIABLE}={seed} cargo test -p lapidary-tests {test}")
}
