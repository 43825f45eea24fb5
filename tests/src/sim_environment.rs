//! Simulated clocks and randomness, and the environment made of them and a simulated disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::{Clock, Entropy, Environment, Io};

use crate::chance::Chance;

/// A clock that moves a little at every look, and whose wall time now and then jumps by up to a day,
/// also backwards. A function of its seed and the number of looks.
#[derive(Debug)]
pub struct SimClock {
    wall_ms: Mutex<(u64, Chance)>,
    monotonic_ns: AtomicU64,
}

impl SimClock {
    /// A clock somewhere in the year 2023.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let wall_ms = Mutex::new((1_700_000_000_000, Chance::from_seed(seed)));
        Self { wall_ms, monotonic_ns: AtomicU64::new(1_000_000_000) }
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        const DAY_MS: u32 = 24 * 3600 * 1000;
        let mut guard = self.wall_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let (now_ms, chance) = &mut *guard;
        if chance.one_in(16) {
            *now_ms = *now_ms + u64::from(chance.below(2 * DAY_MS)) - u64::from(DAY_MS);
        } else {
            *now_ms += u64::from(chance.below(3));
        }
        *now_ms
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.fetch_add(20_000, Ordering::Relaxed)
    }
}

/// A clock that stands until somebody moves it on. Clones share it.
#[derive(Clone, Debug)]
pub struct HandClock {
    now_ns: Arc<AtomicU64>,
    /// How far this clone is ahead of the others.
    ahead_ns: u64,
}

impl HandClock {
    /// A clock that stands at one second.
    #[must_use]
    pub fn new() -> Self {
        Self { now_ns: Arc::new(AtomicU64::new(1_000_000_000)), ahead_ns: 0 }
    }

    /// The same time, on a machine that was started so much earlier.
    #[must_use]
    pub fn ahead_by_ms(&self, ms: u64) -> Self {
        Self { now_ns: Arc::clone(&self.now_ns), ahead_ns: ms * 1_000_000 }
    }

    /// Moves it, and all its clones, on.
    pub fn advance_ms(&self, ms: u64) {
        self.now_ns.fetch_add(ms * 1_000_000, Ordering::Relaxed);
    }

    /// Where it stands.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed) + self.ahead_ns
    }
}

impl Default for HandClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for HandClock {
    /// Wrong by hours, in a way of its own for each clone that is ahead.
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.ahead_ns / 1000 + self.now_ns() / 1_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_ns()
    }
}

/// Randomness that is a function of its seed.
#[derive(Debug)]
pub struct SimEntropy {
    chance: Mutex<Chance>,
}

impl SimEntropy {
    /// Randomness from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { chance: Mutex::new(Chance::from_seed(seed)) }
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            let random = chance.number().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// An environment over `io` with clocks and randomness from `seed`.
#[must_use]
pub fn environment(io: Arc<dyn Io>, seed: u64) -> Environment {
    Environment {
        io,
        clock: Arc::new(SimClock::new(seed)),
        entropy: Arc::new(SimEntropy::new(seed ^ 0x5eed_5eed_5eed_5eed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_jumps_and_monotonic_time_does_not() {
        let clock = SimClock::new(3);
        let walls: Vec<u64> = (0..200).map(|_| clock.wall_ms()).collect();
        assert!(walls.windows(2).any(|pair| pair[1] < pair[0]));
        let times: Vec<u64> = (0..200).map(|_| clock.monotonic_ns()).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn randomness_is_a_function_of_the_seed() {
        let bytes = |seed| {
            let mut bytes = [0; 21];
            SimEntropy::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}
