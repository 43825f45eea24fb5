//! Settings of a follower, and its figures.

use std::fmt;
use std::time::Duration;

use lapidary_engine::{Bookmark, Lsn, Tunables};

use super::super::error::{BucketError, Result};
use crate::isolation::Isolation;

/// How a store is followed.
#[derive(Clone, Debug)]
pub struct FollowerSettings {
    /// How often it is looked whether there is a new manifest: one request, which brings nothing if there is
    /// none. What is shown is behind the bucket by that at most, and the time that moving on takes. Default
    /// 250 ms.
    pub interval: Duration,
    /// As those of the host, where they concern reading: the retention of facets for which none is set, and how
    /// much memory page images may take.
    pub tunables: Tunables,
    /// What SQL may do. Default: as of a host.
    pub isolation: Isolation,
    /// Connections that are kept open for the next read. Default 1,024.
    pub idle_readers_max: usize,
    /// Whether a thread looks at the bucket; if not, nobody does but [`Follower::refresh`](super::Follower::refresh)
    /// and reads that wait, as simulations need it. Default `true`.
    pub background: bool,
}

impl Default for FollowerSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(250),
            tunables: Tunables::default(),
            isolation: Isolation::default(),
            idle_readers_max: 1024,
            background: true,
        }
    }
}

impl FollowerSettings {
    pub(super) fn check(&self) -> Result<()> {
        let interval_ms = self.interval.as_millis();
        if (1..=3_600_000).contains(&interval_ms) {
            return Ok(());
        }
        let what = format!("an interval of {interval_ms} ms: it must be 1 ms to 1 h");
        Err(BucketError::InvalidInput(what))
    }
}

/// What a read has to see: see [`Follower::read_at_least`](super::Follower::read_at_least).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLeast {
    /// Everything up to an LSN of the store's log, such as [`Store::durable_lsn`](lapidary_engine::Store::durable_lsn)
    /// of the host.
    Lsn(Lsn),
    /// A version of the facet that is read, or a later one.
    Bookmark(Bookmark),
}

impl From<Lsn> for AtLeast {
    fn from(lsn: Lsn) -> Self {
        Self::Lsn(lsn)
    }
}

impl From<Bookmark> for AtLeast {
    fn from(bookmark: Bookmark) -> Self {
        Self::Bookmark(bookmark)
    }
}

impl fmt::Display for AtLeast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Bookmark(bookmark) => write!(f, "bookmark {bookmark}"),
        }
    }
}

/// Figures of a follower, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerStat {
    /// Epoch of the manifest that is shown: of the host that ships.
    pub epoch: u64,
    /// Up to there everything is shown.
    pub lsn: Lsn,
    /// Milliseconds since the last look began after which the newest manifest was shown: what was in the bucket
    /// then is shown. It grows while the bucket does not answer.
    pub lag_ms: u64,
    /// Times it was looked for a new manifest.
    pub looks: u64,
    /// Of those, how many failed.
    pub failures: u64,
    /// Times another manifest was shown.
    pub moves: u64,
    /// Times the store was opened for that, the first included; else what was added to the log was replayed.
    pub opened: u64,
    /// Microseconds that the last move took, requests included.
    pub took_us: u64,
    /// The most that one took.
    pub took_us_max: u64,
    /// Requests to read data.
    pub gets: u64,
    /// Bytes that those brought.
    pub get_bytes: u64,
    /// Bytes of objects in the local directory.
    pub cached_bytes: u64,
}
