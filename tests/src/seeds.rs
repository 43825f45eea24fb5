//! Seeds of random runs: how many, and how to repeat one.

use std::env;

use lapidary_engine::Environment;

/// Environment variables that choose the seeds of a kind of run.
#[derive(Clone, Copy, Debug)]
pub struct SeedVariables {
    /// With one seed to run, as a failure prints it.
    pub one: &'static str,
    /// With the number of seeds to run.
    pub count: &'static str,
}

/// Runs on the simulated disk.
pub const SIMULATION: SeedVariables =
    SeedVariables { one: "LAPIDARY_SIM_SEED", count: "LAPIDARY_SIM_SEEDS" };

/// Generated SQL beside stock SQLite.
pub const DIFFERENTIAL: SeedVariables =
    SeedVariables { one: "LAPIDARY_DIFF_SEED", count: "LAPIDARY_DIFF_CASES" };

impl SeedVariables {
    /// The seeds to run: the one asked for; or `fixed` ones that are the same every time (or as many
    /// as asked for), and one more that is fresh.
    #[must_use]
    pub fn seeds(self, fixed: u64) -> Vec<u64> {
        if let Some(seed) = number(self.one) {
            return vec![seed];
        }
        let count = number(self.count).unwrap_or(fixed);
        let fresh = fresh();
        // Asked for more, run others than the fixed ones, else repeating finds nothing new.
        let first = if count > fixed { fresh } else { 0 };
        (0..count).map(|index| first.wrapping_add(index)).chain([fresh]).collect()
    }

    /// Seeds without end, the first of them fresh; or the one asked for.
    pub fn fresh_seeds(self) -> Box<dyn Iterator<Item = u64>> {
        match number(self.one) {
            Some(seed) => Box::new(std::iter::once(seed)),
            None => {
                let first = fresh();
                Box::new((0..).map(move |index| first.wrapping_add(index)))
            }
        }
    }

    /// The command that repeats a seed of a test.
    #[must_use]
    pub fn replay(self, seed: u64, test: &str) -> String {
        format!("{}={seed} cargo test -p lapidary-tests {test}", self.one)
    }
}

/// How many crashes and recoveries a run is to come to: what `LAPIDARY_SIM_CYCLES` says, or else `few`.
#[must_use]
pub fn cycles(few: u64) -> u64 {
    number("LAPIDARY_SIM_CYCLES").unwrap_or(few)
}

fn fresh() -> u64 {
    let mut bytes = [0; 8];
    Environment::system(".").entropy.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} must be a number, not {text:?}"),
    }
}
