//! What verification has reached so far, and how often.

use rustc_hash::FxHashMap;

use crate::format::{Identity, StoredRef};
use crate::segments::LiveChanges;
use crate::types::SegmentId;

/// A bit for each place that something can be in, made as they are needed; what is reached more than
/// once is counted aside.
#[derive(Debug, Default)]
pub(super) struct Reached {
    bits: FxHashMap<SegmentId, Vec<u64>>,
    again: FxHashMap<Identity, u32>,
    pub(super) live: LiveChanges,
}

impl Reached {
    /// Something leads to `reference`; says whether it is the first.
    pub(super) fn reach(&mut self, reference: StoredRef) -> bool {
        let identity = reference.identity();
        let bits = self.bits.entry(identity.segment).or_default();
        let (word, bit) = (identity.slot as usize / 64, identity.slot % 64);
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        let is_first = bits[word] & (1 << bit) == 0;
        if is_first {
            bits[word] |= 1 << bit;
        } else {
            *self.again.entry(identity).or_insert(1) += 1;
        }
        is_first
    }

    /// How many things lead there.
    pub(super) fn holders(&self, identity: Identity) -> u32 {
        if let Some(&count) = self.again.get(&identity) {
            return count;
        }
        let word =
            self.bits.get(&identity.segment).and_then(|bits| bits.get(identity.slot as usize / 64));
        word.map_or(0, |word| u32::from(word & (1 << (identity.slot % 64)) != 0))
    }

    /// What more than one thing leads to.
    pub(super) fn shared(&self) -> impl Iterator<Item = (Identity, u32)> {
        self.again.iter().map(|(&identity, &count)| (identity, count))
    }
}
