//! Points of history: earlier manifests that are kept, with all they lead to.
//!
//! A point is a copy of a manifest that was the one there, under a name of its own. It counts from the
//! moment at which the manifest lists it, and until that does not any more. So there is one root, and what a
//! lost host left half done is no point.
//!
//! Order. 1. A manifest lands, and nothing else is under way. 2. The copy is written. 3. The next manifest
//! lists it. What that one does not lead to any more, the copy may still need, and the same manifest says so:
//! no moment lies between in which somebody could take it for garbage. If 3 came before 2, a host lost between
//! them would leave a point without a copy. A point goes the other way: first no manifest lists it, then the
//! copy is deleted, and what it alone needed.
//!
//! The times are those of the hosts' wall clocks, and are made to ascend. A clock that is wrong makes wrong
//! times, and lets points go early; so no more than [`DROPS_MAX`] go for each that is made.

use std::fmt;
use std::time::Duration;

use lapidary_engine::Lsn;

use super::error::{BucketError, Result};
use super::fetch::{newest_manifest, retried};
use super::format::manifest::Manifest;
use super::format::object::ObjectKey;
use super::objects::{ObjectErrorKind, Objects};
use super::settings::BucketSettings;

/// Where the copies are.
pub(super) const HISTORY_PREFIX: &str = "history/";
/// Points that a manifest lists at most: when there are as many, the oldest goes for the next.
pub(super) const POINTS_MAX: usize = 4096;
/// Points that go for each that is made, at most.
const DROPS_MAX: usize = 2;

/// A moment to which a store in a bucket can be taken back: see [`history`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HistoryPoint {
    /// When it was made, by the wall clock of the host, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Up to there it has everything.
    pub lsn: Lsn,
    /// Epoch of the host that made it.
    pub epoch: u64,
    /// Which of the manifests of that epoch it is.
    pub sequence: u64,
    /// The first object of that epoch that was not yet written.
    pub(super) next_object: u64,
}

impl fmt::Display for HistoryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wall_ms, epoch, sequence, .. } = self;
        write!(f, "manifest {sequence} of epoch {epoch}, kept at {wall_ms} ms")
    }
}

impl HistoryPoint {
    /// Name of the copy in the bucket.
    pub(super) fn name(&self) -> String {
        format!("{HISTORY_PREFIX}{:016x}-{:016x}", self.epoch, self.sequence)
    }

    /// Epoch and number of the manifest of which `name` is a copy.
    pub(super) fn of_name(name: &str) -> Option<(u64, u64)> {
        let (epoch, sequence) = name.strip_prefix(HISTORY_PREFIX)?.split_once('-')?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        Some((number(epoch)?, number(sequence)?))
    }

    pub(super) fn id(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }

    /// Whether an object was written before: only then the point may need it.
    pub(super) fn may_need(&self, key: ObjectKey) -> bool {
        (key.epoch, key.sequence) < (self.epoch, self.next_object)
    }

    /// The manifest that was copied.
    pub(super) fn manifest(&self, objects: &dyn Objects) -> Result<Manifest> {
        if let Some(manifest) = self.find(objects)? {
            return Ok(manifest);
        }
        if !self.is_kept(objects)? {
            return Err(BucketError::NotKept { bucket: objects.describe(), point: *self });
        }
        let (name, place) = (self.name(), objects.describe());
        Err(BucketError::Damaged { name, place, detail: "it is missing".to_owned() })
    }

    /// The same, if it is there.
    pub(super) fn find(&self, objects: &dyn Objects) -> Result<Option<Manifest>> {
        let name = self.name();
        let read = retried(&name, || {
            let (bytes, _) = objects.get(&name)?;
            Manifest::decode(&bytes)
                .map_err(|malformed| BucketError::object(objects, &name, malformed))
        });
        let manifest = match read {
            Err(BucketError::Objects(error)) if error.kind == ObjectErrorKind::NotFound => {
                return Ok(None);
            }
            read => read?,
        };
        if (manifest.epoch, manifest.sequence) != self.id() {
            let (epoch, sequence) = (manifest.epoch, manifest.sequence);
            let detail = format!("it is a copy of manifest {sequence} of epoch {epoch}");
            return Err(BucketError::Damaged { name, place: objects.describe(), detail });
        }
        Ok(Some(manifest))
    }

    /// Whether the newest manifest still lists it.
    pub(super) fn is_kept(&self, objects: &dyn Objects) -> Result<bool> {
        let (manifest, _) = newest_manifest(objects)?;
        Ok(manifest.points.iter().any(|point| point.id() == self.id()))
    }
}

/// The moments to which the store in `objects` can be taken back, the oldest first. No lease is taken.
///
/// A host makes them if [`BucketSettings::history_for`] says so. [`pull_at`](super::pull_at) makes a store of one,
/// [`Follower::open_at`](super::Follower::open_at) reads single facets.
///
/// ```
/// use lapidary::bucket::{self, Bucket, BucketSettings, Objects, RemoteObjects};
/// use lapidary::{Environment, Host, HostConfig};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("file://{}/bucket", directory.path().display());
/// # let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url)?);
/// # let local = Environment::system(directory.path().join("store"));
/// let settings = BucketSettings {
///     history_for: Some(Duration::from_secs(30 * 24 * 3600)),
///     ..BucketSettings::default()
/// };
/// let held = Bucket::attach_waiting(&objects, &local, &settings, |_| false)?;
/// let host = Host::open_from_bucket(held, HostConfig::new())?;
/// let acme = host.facet("tenants/acme")?;
/// acme.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep me')").wait()?;
/// // There is one in each hour. Before something risky, one can be asked for.
/// host.bucket().expect("it has one").keep_point()?;
/// acme.execute("DELETE FROM note", ()).wait()?;
/// host.shutdown()?;
///
/// let points = bucket::history(&*objects)?;
/// let last = points.last().expect("one was asked for");
/// // All of it, as a store:
/// let restored = directory.path().join("restored");
/// bucket::pull_at(&objects, &Environment::system(&restored), last, &mut |_| ())?;
/// let host = Host::open(restored, HostConfig::new())?;
/// let notes = host.facet("tenants/acme")?.query("SELECT body FROM note", (), |row| row.get(0));
/// let notes: Vec<String> = notes.wait()?;
/// assert_eq!(notes, ["keep me"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NoStore`](BucketError::NoStore); a manifest that is damaged or of a newer release; what the bucket says.
pub fn history(objects: &dyn Objects) -> Result<Vec<HistoryPoint>> {
    Ok(newest_manifest(objects)?.0.points)
}

/// Which points there are to be, on the side of the host.
#[derive(Debug)]
pub(super) struct Keeper {
    /// `None`: those there are stay, and there are no more.
    keep_ms: Option<u64>,
    interval_ns: u64,
    /// What the next manifest is to list.
    points: Vec<HistoryPoint>,
    /// On the monotonic clock.
    due_ns: u64,
}

impl Keeper {
    pub(super) fn new(
        settings: &BucketSettings,
        points: Vec<HistoryPoint>,
        now_ns: u64,
        wall_ms: u64,
    ) -> Self {
        let keep_ms = settings.history_for.map(milliseconds);
        let interval_ms = milliseconds(settings.history_interval);
        // A wall clock that went back says nothing about how long ago the last one was.
        let since_ms = points.last().and_then(|last| wall_ms.checked_sub(last.wall_ms));
        let left_ms = since_ms.map_or(0, |since_ms| interval_ms.saturating_sub(since_ms));
        let points = if keep_ms == Some(0) { Vec::new() } else { points };
        let due_ns = now_ns.saturating_add(left_ms.saturating_mul(1_000_000));
        Self { keep_ms, interval_ns: interval_ms.saturating_mul(1_000_000), points, due_ns }
    }

    pub(super) fn points(&self) -> &[HistoryPoint] {
        &self.points
    }

    pub(super) fn is_on(&self) -> bool {
        self.keep_ms.is_some_and(|keep_ms| keep_ms > 0)
    }

    /// Whether `published` is to be copied.
    pub(super) fn is_due(&self, published: &Manifest, now_ns: u64) -> bool {
        let is_new = || self.points.last().is_none_or(|last| last.lsn < published.shipped);
        self.is_on() && now_ns >= self.due_ns && !published.superblock.is_empty() && is_new()
    }

    /// The point that a copy of `published` is.
    pub(super) fn point(&self, published: &Manifest, wall_ms: u64) -> HistoryPoint {
        let after_last = self.points.last().map_or(0, |last| last.wall_ms.saturating_add(1));
        HistoryPoint {
            wall_ms: wall_ms.max(after_last),
            lsn: published.shipped,
            epoch: published.epoch,
            sequence: published.sequence,
            next_object: published.next_object,
        }
    }

    /// The copy is in the bucket. Of those that are too old the youngest stays: it is how the store was at the
    /// beginning of the time that can be gone back to.
    pub(super) fn made(&mut self, point: HistoryPoint, now_ns: u64) {
        self.due_ns = now_ns.saturating_add(self.interval_ns);
        self.points.push(point);
        let oldest_ms = point.wall_ms.saturating_sub(self.keep_ms.unwrap_or(u64::MAX));
        let old = self.points.iter().take_while(|point| point.wall_ms < oldest_ms).count();
        let beyond = self.points.len().saturating_sub(POINTS_MAX);
        let dropped = old.saturating_sub(1).max(beyond).min(DROPS_MAX);
        self.points.drain(..dropped);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn keeper(history_for: Option<u64>, points: Vec<HistoryPoint>, wall_ms: u64) -> Keeper {
        let history_for = history_for.map(Duration::from_millis);
        let settings = BucketSettings { history_for, ..BucketSettings::default() };
        Keeper::new(&settings, points, 0, wall_ms)
    }

    fn manifest(lsn: u64) -> Manifest {
        let superblock = vec![1];
        Manifest { epoch: 1, sequence: lsn, shipped: Lsn(lsn), superblock, ..Manifest::default() }
    }

    /// Makes a point in each hour from the first to the last.
    fn hours(keeper: &mut Keeper, hours: std::ops::Range<u64>) -> Vec<u64> {
        for hour in hours {
            let manifest = manifest(hour);
            assert!(keeper.is_due(&manifest, hour * HOUR * 1_000_000), "{hour}");
            let point = keeper.point(&manifest, hour * HOUR);
            keeper.made(point, hour * HOUR * 1_000_000);
            assert!(!keeper.is_due(&manifest, u64::MAX), "nothing is new");
            assert!(!keeper.is_due(&self::manifest(hour + 1), hour * HOUR * 1_000_000));
        }
        keeper.points().iter().map(|point| point.wall_ms / HOUR).collect()
    }

    #[test]
    fn points_are_kept_for_as_long_as_is_said() {
        let mut one = keeper(Some(5 * HOUR), Vec::new(), 0);
        // At any moment of the last five hours the one before it is there.
        assert_eq!(hours(&mut one, 1..21), [14, 15, 16, 17, 18, 19, 20]);
        // A host that is told nothing leaves them alone, and one that is told to keep none does that.
        let points = one.points().to_vec();
        let other = keeper(None, points.clone(), 90 * HOUR);
        assert!(!other.is_due(&manifest(99), u64::MAX) && other.points() == points);
        let none = keeper(Some(0), points, 21 * HOUR);
        assert!(!none.is_due(&manifest(99), u64::MAX) && none.points().is_empty());
    }

    #[test]
    fn a_wrong_clock_takes_little() {
        let mut first = keeper(Some(50 * HOUR), Vec::new(), 0);
        hours(&mut first, 1..21);
        // It runs years ahead for a while.
        let far = 100_000 * HOUR;
        let mut second = keeper(Some(50 * HOUR), first.points().to_vec(), far);
        let ahead = second.point(&manifest(50), far);
        second.made(ahead, 0);
        assert_eq!(second.points().len(), 19);
        // Right again: the times still ascend, and the next one is not waited for for years.
        let mut third = keeper(Some(50 * HOUR), second.points().to_vec(), 22 * HOUR);
        assert!(third.is_due(&manifest(51), 0));
        let back = third.point(&manifest(51), 22 * HOUR);
        assert_eq!(back.wall_ms, far + 1);
        third.made(back, 0);
        assert!(third.points().len() >= 18);
    }

    #[test]
    fn the_number_of_points_is_bounded() {
        let mut one = keeper(Some(u64::MAX), Vec::new(), 0);
        let last = POINTS_MAX as u64 + 100;
        assert_eq!(hours(&mut one, 1..last).len(), POINTS_MAX);
    }

    #[test]
    fn names_there_and_back() {
        let point = keeper(None, Vec::new(), 0).point(&manifest(77), 5);
        assert_eq!(HistoryPoint::of_name(&point.name()), Some((1, 77)));
        assert_eq!(HistoryPoint::of_name("history/1"), None);
    }
}
