//! What pages hold: bytes that look random, and follow from whose they are and how often they were
//! written. So nothing can be saved by storing them sparsely, nothing has to be remembered but a
//! count, and a page that belongs elsewhere is found out.

/// Which content of which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageContent {
    pub(crate) seed: u64,
    pub(crate) facet: u32,
    pub(crate) page: u32,
    /// How often it was written before.
    pub(crate) generation: u32,
}

impl PageContent {
    fn words(self) -> impl Iterator<Item = [u8; 8]> {
        let whose = u64::from(self.facet) << 32 | u64::from(self.page);
        let start = mixed(mixed(self.seed ^ whose) ^ u64::from(self.generation));
        (0_u64..).map(move |index| {
            mixed(start.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
        })
    }

    pub(crate) fn fill(self, bytes: &mut [u8]) {
        for (chunk, word) in bytes.chunks_mut(8).zip(self.words()) {
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    pub(crate) fn is_in(self, bytes: &[u8]) -> bool {
        bytes.chunks(8).zip(self.words()).all(|(chunk, word)| chunk == &word[..chunk.len()])
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_identity_counts() {
        let content = PageContent { seed: 1, facet: 2, page: 3, generation: 4 };
        let mut bytes = [0; 509];
        content.fill(&mut bytes);
        assert!(content.is_in(&bytes));
        for other in [
            PageContent { seed: 2, ..content },
            PageContent { facet: 3, ..content },
            PageContent { page: 2, ..content },
            PageContent { generation: 5, ..content },
        ] {
            assert!(!other.is_in(&bytes), "{other:?}");
        }
        bytes[508] ^= 1;
        assert!(!content.is_in(&bytes));
    }

    #[test]
    fn bytes_are_spread_evenly() {
        let mut bytes = vec![0; 1 << 16];
        PageContent { seed: 0, facet: 0, page: 0, generation: 0 }.fill(&mut bytes);
        let mut counts = [0_u32; 256];
        bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        assert!(counts.iter().all(|&count| (160..360).contains(&count)), "{counts:?}");
    }
}
