//! Where a run's decisions come from: a seed, or the bytes of a fuzzer.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of decisions. Equal sources give equal decisions.
#[derive(Clone, Debug)]
pub struct Chance {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Seed(Box<ChaCha8Rng>),
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Chance {
    /// Endless decisions that are a function of `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self { source: Source::Seed(Box::new(ChaCha8Rng::seed_from_u64(seed))) }
    }

    /// Decisions read off `bytes`; when they are used up, every decision is 0 and [`Self::is_spent`]
    /// says so.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { source: Source::Bytes { bytes: bytes.to_vec(), at: 0 } }
    }

    /// Whether the bytes are used up. Never for a seed.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        match &self.source {
            Source::Seed(_) => false,
            Source::Bytes { bytes, at } => *at >= bytes.len(),
        }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        match &mut self.source {
            Source::Seed(generator) => generator.next_u64(),
            Source::Bytes { .. } => u64::from(self.taken(4)),
        }
    }

    /// A number from 0 to `bound - 1`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let bound = bound.max(1);
        match &mut self.source {
            Source::Seed(generator) => generator.next_u32() % bound,
            Source::Bytes { .. } => {
                let width = match bound {
                    1 => 0,
                    2..=0x100 => 1,
                    0x101..=0x1_0000 => 2,
                    _ => 4,
                };
                self.taken(width) % bound
            }
        }
    }

    /// An index into something of `length` entries.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(u32::try_from(length).unwrap_or(u32::MAX)) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// Yes, once in `times`.
    pub fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == times.saturating_sub(1)
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A source of its own, for a part whose number of decisions must not shift the others'.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::from_seed(self.number())
    }

    /// Half of what is left: a split of a seed, or the first half of the bytes that are left.
    #[must_use]
    pub fn halved(&mut self) -> Self {
        match &mut self.source {
            Source::Seed(_) => self.split(),
            Source::Bytes { bytes, at } => {
                let left = &bytes[(*at).min(bytes.len())..];
                let (first, second) = left.split_at(left.len() / 2);
                let (first, second) = (first.to_vec(), second.to_vec());
                (*bytes, *at) = (second, 0);
                Self { source: Source::Bytes { bytes: first, at: 0 } }
            }
        }
    }

    fn taken(&mut self, width: usize) -> u32 {
        let Source::Bytes { bytes, at } = &mut self.source else { return 0 };
        let mut value = 0;
        for _ in 0..width {
            value = value << 8 | u32::from(bytes.get(*at).copied().unwrap_or(0));
            *at += 1;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sources_decide_alike() {
        let (mut one, mut two) = (Chance::from_seed(7), Chance::from_seed(7));
        assert!((0..100).all(|_| one.below(1000) == two.below(1000)));
        let mut bytes = Chance::from_bytes(&[1, 2, 3]);
        assert_eq!((bytes.below(16), bytes.below(600)), (1, 515));
        assert!(bytes.is_spent());
        assert_eq!(bytes.below(16), 0);
    }

    #[test]
    fn one_in_happens_and_does_not() {
        let mut chance = Chance::from_seed(1);
        let yes = (0..1000).filter(|_| chance.one_in(10)).count();
        assert!((50..200).contains(&yes), "{yes}");
    }
}
