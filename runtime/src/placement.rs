//! Which core serves a facet.

/// The core, of `cores`, that serves every facet whose name starts with the level `root`.
///
/// Only the root counts, so that a subtree is deleted or renamed on one core. The function is fixed
/// (FNV-1a, spread by the finalizer of SplitMix64): a facet keeps its core, and with it its place
/// in figures and logs, from one run to the next.
pub(crate) fn core_of(root: &str, cores: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in root.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // Multiply and shift: the remainder is below `cores`, so it fits.
    usize::try_from((u128::from(hash) * cores as u128) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::core_of;

    #[test]
    fn the_assignment_is_fixed() {
        let cores: Vec<usize> =
            ["agents", "tenants", "a", "b", "c", "Zürich"].iter().map(|r| core_of(r, 8)).collect();
        assert_eq!(cores, [7, 0, 0, 1, 3, 6]);
    }

    #[test]
    fn roots_spread_evenly() {
        for cores in [1, 2, 3, 8] {
            let mut counts = vec![0_usize; cores];
            for number in 0..8_000 {
                counts[core_of(&format!("tenant-{number}"), cores)] += 1;
            }
            let fair = 8_000 / cores;
            assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 5), "{counts:?}");
        }
    }
}
