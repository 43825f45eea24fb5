//! What a cleaner of a log has to copy at least, when pages are overwritten at random.
//!
//! With uniformly random overwrites all segments decay alike, so the best victim is the one written
//! longest ago. A store whose segments are live to the part `a` on average has written `1 - u` of
//! free space per segment cleaned, where `u` is what is still live in that oldest segment:
//!
//! ```text
//!     a = (u - 1) / ln(u)          write amplification = 1 / (1 - u)
//! ```
//!
//! (Menon and Stockmeyer, "An age-threshold algorithm for garbage collection in log-structured
//! arrays", 1998; Rosenblum and Ousterhout, "The design and implementation of a log-structured file
//! system", 1992, for the cost of cleaning.)

/// What is live in the oldest segment of a store whose segments are live to the part `mean`.
pub(crate) fn victim_utilisation(mean: f64) -> f64 {
    let (mut low, mut high) = (1e-12, 1.0 - 1e-12);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        // The mean grows with what the oldest still has.
        if (middle - 1.0) / middle.ln() < mean {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Bytes written for each byte of new pages, if victims are live to the part `victim`.
pub(crate) fn write_amplification(victim: f64) -> f64 {
    1.0 / (1.0 - victim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        // (u - 1) / ln(u) at u = 1/2 is 0.7213...
        assert!((victim_utilisation(0.721_347_520_444) - 0.5).abs() < 1e-9);
        assert!((victim_utilisation(0.8) - 0.629).abs() < 0.001);
        assert!((write_amplification(0.5) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn an_almost_empty_and_an_almost_full_store() {
        assert!(write_amplification(victim_utilisation(0.05)) < 1.01);
        assert!(write_amplification(victim_utilisation(0.99)) > 40.0);
    }
}
