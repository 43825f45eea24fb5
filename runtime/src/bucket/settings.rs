//! Settings of a store in a bucket.

use std::time::Duration;

use super::error::{BucketError, Result};
use super::format::manifest::NAME_BYTES_MAX;
use super::history::POINTS_MAX;

/// How a host keeps its store in a bucket. None of it is stored; hosts may differ, but for
/// [`lease`](Self::lease): a manifest tells the lease it gives.
#[derive(Clone, Debug)]
pub struct BucketSettings {
    /// Name of this host in messages to others. Default: the machine's name and the process.
    pub name: String,
    /// How long commits wait before they are shipped: what is lost with the host, of what was
    /// acknowledged when locally durable, is what was committed in this time and while the requests
    /// took. Default 1 s. Shorter is more requests.
    pub interval: Duration,
    /// Bytes that are shipped at once when so many wait, before the interval is over. Default 4 MiB.
    pub tail_bytes: usize,
    /// Time between two shipments at least, also when many bytes wait: it bounds the requests. A
    /// shipment is two or three. Default 700 ms.
    pub pause: Duration,
    /// How long this host may go on without the bucket, and how long others wait for it. Default 10 s.
    /// Shorter is a quicker takeover, and a host that stops sooner when the bucket does not answer.
    pub lease: Duration,
    /// Bytes written and not shipped, at which writes wait for the bucket. Default 256 MiB of memory.
    pub unshipped_bytes_max: usize,
    /// Bytes of segment files on the local disk, beyond which those that were read longest ago are evicted:
    /// they are in the bucket, and fetched again when they are read. Default `u64::MAX`: the disk holds
    /// the whole store. What the bucket has not yet, the newest segments, and those that wait to be
    /// written stay, whatever this says; so it should be 1 GiB and more than
    /// [`unshipped_bytes_max`](Self::unshipped_bytes_max). A disk that is full evicts too. The file system has
    /// to be able to punch holes: ext4, XFS, Btrfs and tmpfs are.
    pub local_bytes_max: u64,
    /// How long objects that no manifest leads to any more are kept. Default 60 s.
    pub keep_replaced: Duration,
    /// How long the bucket keeps what it was: [points of history](super::history) are made, and all that they lead to is
    /// kept. A part of what was replaced since takes space for so long. `Some` of nothing deletes those there are; `None`
    /// leaves them alone, and makes no more. Default `None`.
    pub history_for: Option<Duration>,
    /// Time between two points of history; if nothing is committed, there are none. Default 1 h.
    pub history_interval: Duration,
    /// Whether a thread ships and renews the lease; if not, nothing is but by [`Bucket::ship`](super::Bucket::ship),
    /// as simulations need it. Default `true`.
    pub background: bool,
}

impl Default for BucketSettings {
    fn default() -> Self {
        Self {
            name: default_name(),
            interval: Duration::from_secs(1),
            tail_bytes: 4 << 20,
            pause: Duration::from_millis(700),
            lease: Duration::from_secs(10),
            unshipped_bytes_max: 256 << 20,
            local_bytes_max: u64::MAX,
            keep_replaced: Duration::from_secs(60),
            history_for: None,
            history_interval: Duration::from_secs(3600),
            background: true,
        }
    }
}

impl BucketSettings {
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(BucketError::InvalidInput(what));
        let lease_ms = self.lease.as_millis();
        if !(100..=3_600_000).contains(&lease_ms) {
            return wrong(format!("a lease of {lease_ms} ms: it must be 100 ms to 1 h"));
        }
        if self.interval * 3 > self.lease {
            let interval = self.interval.as_millis();
            return wrong(format!(
                "an interval of {interval} ms: it must be a third of the lease of {lease_ms} ms at most"
            ));
        }
        let most = POINTS_MAX as u128 / 2;
        let (history, each) = (self.history_for.unwrap_or_default(), self.history_interval);
        if each < Duration::from_secs(1) || history.as_millis() / each.as_millis().max(1) > most {
            return wrong(format!(
                "history of {} s with a point in each {} ms: it must be {most} points at most, a second or more \
                 apart",
                history.as_secs(),
                each.as_millis()
            ));
        }
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            let len = self.name.len();
            return wrong(format!("a name of {len} bytes: it must have 1 to {NAME_BYTES_MAX}"));
        }
        Ok(())
    }

    /// How long who waits for another's lease looks away.
    pub(super) fn poll(&self) -> Duration {
        (self.lease / 20).clamp(Duration::from_millis(20), Duration::from_millis(500))
    }

    pub(super) fn lease_ms(&self) -> u32 {
        u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX)
    }
}

fn default_name() -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut name = format!("{node}:{}", std::process::id());
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}
