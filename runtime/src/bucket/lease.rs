//! Whether this host may still write: its epoch and its lease.
//!
//! A host holds the store in an *epoch*, for as long as the manifest names it. It renews its lease by
//! replacing the manifest, and counts it from the moment before it sent that request. Whoever wants to
//! take over counts from the moment at which it first saw that manifest, which is later. Both count on
//! their own monotonic clocks, so no clock is ever compared with another's, and one that is wrong or
//! jumps does no harm. What remains is that clocks run at different speeds: the holder stops after nine
//! tenths of the lease.
//!
//! Once a lease has run out, or somebody else took over, this host never writes again: what it could
//! still do well is to be opened anew.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use lapidary_engine::Clock;

use super::error::BucketError;

/// Identity of a directory that holds, or held, a store in a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HolderId(pub [u8; 16]);

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The holder's part of the lease that it uses.
const USED_TENTHS: u64 = 9;

#[derive(Debug)]
pub(super) struct Lease {
    clock: Arc<dyn Clock>,
    bucket: String,
    epoch: u64,
    /// On the monotonic clock, in nanoseconds.
    until_ns: AtomicU64,
    fenced: OnceLock<String>,
}

impl Lease {
    /// The lease that a manifest gives, which was first sent at `sent_ns`.
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        bucket: String,
        epoch: u64,
        sent_ns: u64,
        lease_ms: u32,
    ) -> Self {
        let lease =
            Self { clock, bucket, epoch, until_ns: AtomicU64::new(0), fenced: OnceLock::new() };
        lease.renew(sent_ns, lease_ms);
        lease
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    /// A manifest that was first sent at `sent_ns` is in the bucket.
    pub(super) fn renew(&self, sent_ns: u64, lease_ms: u32) {
        let used_ns = u64::from(lease_ms) * 1_000_000 / 10 * USED_TENTHS;
        self.until_ns.fetch_max(sent_ns.saturating_add(used_ns), Ordering::AcqRel);
    }

    /// Fails if this host may not write any more.
    pub(super) fn check(&self) -> Result<(), BucketError> {
        if self.fenced.get().is_none() && self.now_ns() >= self.until_ns.load(Ordering::Acquire) {
            self.fence(format!(
                "the lease on {} ran out in epoch {} before the bucket took a new one: another host \
                 may serve the store by now",
                self.bucket, self.epoch
            ));
        }
        match self.fenced.get() {
            None => Ok(()),
            Some(cause) => Err(BucketError::Fenced { cause: cause.clone() }),
        }
    }

    /// As [`check`](Self::check), for whoever has to say it as an I/O error.
    pub(super) fn check_io(&self) -> std::io::Result<()> {
        self.check().map_err(std::io::Error::other)
    }

    /// From now on this host may not write. The first cause is kept.
    pub(super) fn fence(&self, cause: String) {
        if self.fenced.set(cause).is_ok() {
            tracing::error!(
                cause = self.fenced.get(),
                "this host may not write to the store any more"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn wall_ms(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_lease_that_ran_out_is_not_renewed() {
        let clock = Arc::new(Hand::default());
        let lease = Lease::new(Arc::<Hand>::clone(&clock), "b".to_owned(), 7, 0, 1000);
        clock.0.store(899_999_999, Ordering::Relaxed);
        lease.check().unwrap();
        lease.renew(500_000_000, 1000);
        // A renewal that was sent earlier and answered later takes nothing back.
        lease.renew(100_000_000, 1000);
        clock.0.store(1_399_999_999, Ordering::Relaxed);
        lease.check().unwrap();
        clock.0.store(1_400_000_000, Ordering::Relaxed);
        let error = lease.check().unwrap_err().to_string();
        assert!(error.contains("ran out in epoch 7"), "{error}");
        lease.renew(1_400_000_000, 1000);
        lease.check().unwrap_err();
        lease.fence("another".to_owned());
        assert_eq!(lease.check().unwrap_err().to_string(), error);
    }
}
