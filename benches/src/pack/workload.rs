//! The workloads: what is asked of every arm, as a function of the seed.

use std::fmt::Write as _;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::arguments::WorkloadName;

/// A workload and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) name: WorkloadName,
    /// Of each database when it is made; only of [`WorkloadName::Large`].
    pub(crate) size_mib: u32,
}

impl Work {
    pub(crate) const AGENTS: Self = Self { name: WorkloadName::Agents, size_mib: 0 };

    /// Rows of each database when it is made; `None` if turns add them.
    pub(crate) fn rows(self) -> Option<u32> {
        (self.name == WorkloadName::Large).then(|| self.size_mib.saturating_mul(ROWS_PER_MIB))
    }

    /// Bytes of each database when it is made, roughly.
    pub(crate) fn bytes(self) -> u64 {
        self.rows().map_or(0, |_| u64::from(self.size_mib) << 20)
    }
}

/// Number of a facet within the run, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FacetIndex(pub(crate) u32);

impl FacetIndex {
    /// Its name. A single level, because a host assigns facets to cores by the first one.
    pub(crate) fn name(self) -> String {
        let mut name = String::with_capacity(14);
        // Writing to a string cannot fail.
        let _ = write!(name, "agent-{:07}", self.0);
        name
    }

    /// The name of a fork of it.
    pub(crate) fn fork_name(self) -> String {
        self.name() + "-fork"
    }
}

/// The facets one client serves: every `clients`-th, from number `client` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) client: u32,
    pub(crate) clients: u32,
    pub(crate) facets: u32,
}

impl Share {
    pub(crate) fn len(self) -> usize {
        (self.facets.saturating_sub(self.client)).div_ceil(self.clients) as usize
    }

    /// The facet at `ordinal` within the share.
    pub(crate) fn facet(self, ordinal: usize) -> FacetIndex {
        debug_assert!(ordinal < self.len());
        FacetIndex(self.client + self.clients * u32::try_from(ordinal).unwrap_or(u32::MAX))
    }

    pub(crate) fn ordinal(self, facet: FacetIndex) -> usize {
        debug_assert_eq!(facet.0 % self.clients, self.client);
        (facet.0 / self.clients) as usize
    }
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    Message(Message),
    /// Another value for the row of this number, from 1.
    Update {
        row: u32,
        value: &'static [u8],
    },
}

impl Turn {
    /// Bytes that it leaves behind and that are counted.
    fn bytes(&self) -> u64 {
        match self {
            Self::Message(message) => message.body.len() as u64,
            Self::Update { value, .. } => value.len() as u64,
        }
    }
}

/// A turn of an agent: a message to add and a state row to set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) role: &'static str,
    pub(crate) body: &'static str,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: &'static str,
    pub(crate) value: &'static [u8],
}

/// What turns leave behind in a facet; counted when acknowledged and again after reopening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) turns: u64,
    pub(crate) body_bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, turn: &Turn) {
        self.turns += 1;
        self.body_bytes += turn.bytes();
    }
}

/// A pool of random text that bodies and values are slices of, so that making a turn costs a few
/// random numbers and no copy: the figures are the arms', not the generator's.
#[derive(Debug)]
pub(crate) struct Texts {
    pool: &'static str,
}

const POOL_BYTES: usize = 1 << 20;
const BODY_BYTES_MIN: usize = 160;
const BODY_BYTES_MAX: usize = 224;
const VALUE_BYTES: usize = 48;
/// Of a row of [`WorkloadName::Large`]: four of them fill a page of 4 KiB, so that as many rows make
/// a MiB as pages make four.
pub(crate) const ROW_BYTES: usize = 900;
/// Rows for each MiB of a database of [`WorkloadName::Large`].
const ROWS_PER_MIB: u32 = 1024;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .";
const KEYS: [&str; 8] =
    ["goal", "plan", "cursor", "mood", "budget", "summary", "last_tool", "last_error"];
const ROLES: [&str; 3] = ["user", "assistant", "tool"];
/// 2020-01-01 and 2030-01-01 in milliseconds since 1970.
const TIMESTAMPS_MS: std::ops::Range<i64> = 1_577_836_800_000..1_893_456_000_000;

impl Texts {
    /// Makes the pool of `seed`. It lives until the process ends, which is when it is last used.
    pub(crate) fn leak(seed: u64) -> &'static Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let pool: String = (0..POOL_BYTES)
            .map(|_| char::from(ALPHABET[generator.random_range(0..ALPHABET.len())]))
            .collect();
        Box::leak(Box::new(Self { pool: pool.leak() }))
    }

    fn slice(&self, start: usize, len: usize) -> &'static str {
        &self.pool[start..start + len]
    }
}

/// The turns of one client, a function of the seed and the client's number.
#[derive(Debug)]
pub(crate) struct TurnSource {
    texts: &'static Texts,
    /// See [`Work::rows`].
    rows: Option<u32>,
    generator: ChaCha8Rng,
}

impl TurnSource {
    pub(crate) fn new(texts: &'static Texts, work: Work, seed: u64, client: u32) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(1 + u64::from(client));
        Self { texts, rows: work.rows(), generator }
    }

    pub(crate) fn next_turn(&mut self) -> Turn {
        let generator = &mut self.generator;
        if let Some(rows) = self.rows {
            let row = 1 + generator.random_range(0..rows);
            let start = generator.random_range(0..POOL_BYTES - ROW_BYTES);
            return Turn::Update { row, value: self.texts.slice(start, ROW_BYTES).as_bytes() };
        }
        let body_bytes = generator.random_range(BODY_BYTES_MIN..=BODY_BYTES_MAX);
        let body_start = generator.random_range(0..POOL_BYTES - BODY_BYTES_MAX);
        let value_start = generator.random_range(0..POOL_BYTES - VALUE_BYTES);
        Turn::Message(Message {
            role: ROLES[generator.random_range(0..ROLES.len())],
            body: self.texts.slice(body_start, body_bytes),
            timestamp_ms: generator.random_range(TIMESTAMPS_MS),
            key: KEYS[generator.random_range(0..KEYS.len())],
            value: self.texts.slice(value_start, VALUE_BYTES).as_bytes(),
        })
    }

    /// A number below `bound`, each as likely.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.generator.random_range(0..bound)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LARGE: Work = Work { name: WorkloadName::Large, size_mib: 1 };

    #[test]
    fn shares_cover_every_facet_once() {
        for (facets, clients) in [(1, 2), (7, 2), (1000, 3), (5, 5), (2, 8)] {
            let mut seen = vec![0; facets as usize];
            for client in 0..clients {
                let share = Share { client, clients, facets };
                for ordinal in 0..share.len() {
                    let facet = share.facet(ordinal);
                    assert_eq!(share.ordinal(facet), ordinal);
                    seen[facet.0 as usize] += 1;
                }
            }
            assert!(seen.iter().all(|&count| count == 1), "{facets} facets, {clients} clients");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_turns_and_clients_differ() {
        let describe = |seed, client| {
            let mut source = TurnSource::new(Texts::leak(seed), Work::AGENTS, seed, client);
            (0..5).map(|_| format!("{:?}", source.next_turn())).collect::<Vec<_>>()
        };
        assert_eq!(describe(7, 0), describe(7, 0));
        assert_ne!(describe(7, 0), describe(7, 1));
        assert_ne!(describe(7, 0), describe(8, 0));
    }

    #[test]
    fn bodies_are_about_192_bytes() {
        let mut source = TurnSource::new(Texts::leak(3), Work::AGENTS, 3, 0);
        let mut tally = Tally::default();
        for _ in 0..10_000 {
            tally.add(&source.next_turn());
        }
        let mean = tally.body_bytes / tally.turns;
        assert!((189..=195).contains(&mean), "{mean}");
    }

    #[test]
    fn updates_go_to_every_row_there_is_and_to_no_other() {
        let mut source = TurnSource::new(Texts::leak(3), LARGE, 3, 0);
        let mut seen = vec![false; 1024];
        for _ in 0..20_000 {
            let Turn::Update { row, value } = source.next_turn() else { panic!("a message") };
            assert_eq!(value.len(), ROW_BYTES);
            seen[row as usize - 1] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
    }
}
