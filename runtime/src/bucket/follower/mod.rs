//! Read-only hosts that follow what the host of a store ships.
//!
//! A follower reads manifests and the objects they lead to, and writes nothing to the bucket. What it shows
//! is, facet by facet, what the log has up to an LSN: all that the manifest says is shipped, and nothing that a
//! crash of the host could take back ([`Store::open_to_follow`]). It moves on from manifest to manifest by
//! replaying what was added to the log; after a checkpoint, or when another host has taken over, it opens the
//! store anew beside the one before, which goes when its last read has ended.
//!
//! | module | holds |
//! |---|---|
//! | `cache` | what was fetched of objects, in local files |
//! | `files` | the files of the store, as a manifest has them |
//! | `view` | the store, open for reading |
//! | `settings` | settings and figures |

mod cache;
mod files;
mod settings;
mod view;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lapidary_engine::{Bookmark, Environment, FacetInfo, FacetName, Lsn, Store, View as Versions};
use lapidary_vfs::configure_process;
use rusqlite::Connection;

pub use settings::{AtLeast, FollowerSettings, FollowerStat};

use super::error::{BucketError, Result};
use super::fetch::decode_manifest;
use super::files::lock_directory;
use super::format::manifest::{MANIFEST, Manifest};
use super::history::HistoryPoint;
use super::objects::{ObjectError, ObjectErrorKind, Objects, Tag};
use crate::alarms::is_reserved;
use crate::config::HostConfig;
use crate::error::{HostError, Result as HostResult};
use crate::files::{ExportOptions, FileContent, write_version};
use crate::host::checked;
use cache::ObjectCache;
use view::View;

/// How often opening begins anew when what it needs was let go of meanwhile.
const OPEN_TRIES: usize = 3;

/// A store that another host serves from a bucket, open for reading on this machine.
///
/// It fetches what is read, and keeps it in a local directory that is its own. Reads run on the calling
/// thread, each in one snapshot of one facet. A follower takes no lease and disturbs no host; any number can follow
/// one store.
///
/// ```
/// use lapidary::bucket::{
///     Bucket, BucketSettings, Follower, FollowerSettings, Objects, RemoteObjects, Watch,
/// };
/// use lapidary::{Environment, Host, HostConfig};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("file://{}/bucket", directory.path().display());
/// // `s3://BUCKET/PREFIX` for the real thing. The host:
/// let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url)?);
/// let local = Environment::system(directory.path().join("store"));
/// let bucket = Bucket::attach(&objects, &local, BucketSettings::default(), &mut Watch::default())?;
/// let host = Host::open_from_bucket(bucket, HostConfig::new())?;
/// let acme = host.facet("tenants/acme")?;
/// acme.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('hello')").wait()?;
/// host.sync_to_bucket()?;
///
/// // On another machine:
/// let cache = Environment::system(directory.path().join("cache"));
/// let follower = Follower::open(&objects, &cache, FollowerSettings::default())?;
/// let count = |connection: &lapidary::rusqlite::Connection| {
///     Ok(connection.query_row("SELECT count(*) FROM note", (), |row| row.get::<_, i64>(0))?)
/// };
/// assert_eq!(follower.read("tenants/acme", count)?, 1);
///
/// // A session that has to see what it wrote at the host takes a bookmark along.
/// acme.execute("INSERT INTO note VALUES ('world')", ()).wait()?;
/// let written = acme.bookmark().wait()?;
/// let wait = Duration::from_secs(10);
/// assert_eq!(follower.read_at_least("tenants/acme", written, wait, count)?, 2);
/// println!("{} ms behind, at LSN {}", follower.stat().lag_ms, follower.lsn());
/// # host.shutdown()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Follower {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    objects: Arc<dyn Objects>,
    environment: Environment,
    settings: FollowerSettings,
    config: HostConfig,
    cache: ObjectCache,
    /// What reads begin with.
    current: Mutex<Arc<View>>,
    /// Held by whoever looks at the bucket.
    looking: Mutex<Looked>,
    progress: Mutex<Progress>,
    moved: Condvar,
    counters: Counters,
    _lock: Box<dyn Send + Sync>,
}

/// The manifest that is shown.
struct Looked {
    /// `None` if it is one of the past, from which is not moved on.
    tag: Option<Tag>,
    epoch: u64,
    sequence: u64,
}

#[derive(Default)]
struct Progress {
    /// When the last look began after which the newest manifest was shown, on the monotonic clock.
    newest_ns: u64,
    /// Looks that went well.
    looks: u64,
    /// A look is asked for.
    hurry: bool,
    stop: bool,
}

#[derive(Default)]
struct Counters {
    looks: AtomicU64,
    failures: AtomicU64,
    moves: AtomicU64,
    opened: AtomicU64,
    took_us: AtomicU64,
    took_us_max: AtomicU64,
}

impl Follower {
    /// Opens the store that is in `objects` for reading, as of its newest manifest, and follows it from then
    /// on. The directory of `environment` is for what is fetched: it is empty, or was a follower's before, and
    /// then begins anew.
    ///
    /// # Errors
    /// [`Objects`](BucketError::Objects), with `NotFound` if no store was shipped there yet;
    /// [`Directory`](BucketError::Directory) if the directory is not a follower's; a setting out of range; what the
    /// local disk or damage say.
    pub fn open(
        objects: &Arc<dyn Objects>,
        environment: &Environment,
        settings: FollowerSettings,
    ) -> Result<Self> {
        let mut follower = Self::start(objects, environment, settings, None)?;
        if follower.inner.settings.background {
            let local = &*environment.io;
            let failed = BucketError::local(local, "start a thread for", None);
            let inner = Arc::clone(&follower.inner);
            let named = std::thread::Builder::new().name("lapidary-follow".to_owned());
            follower.thread = Some(named.spawn(move || inner.run()).map_err(failed)?);
        }
        Ok(follower)
    }

    /// Opens the store for reading as it was at a [point of its history](super::history), where it stays.
    ///
    /// ```
    /// # use lapidary::bucket::{self, Bucket, BucketSettings, Follower, FollowerSettings, Objects, RemoteObjects};
    /// # use lapidary::{Environment, Host, HostConfig};
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # let directory = tempfile::tempdir()?;
    /// # let url = format!("file://{}/bucket", directory.path().display());
    /// # let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url)?);
    /// # let local = Environment::system(directory.path().join("store"));
    /// # let settings = BucketSettings { history_for: Some(Duration::from_secs(86_400)), ..BucketSettings::default() };
    /// # let held = Bucket::attach_waiting(&objects, &local, &settings, |_| false)?;
    /// # let host = Host::open_from_bucket(held, HostConfig::new())?;
    /// # let acme = host.facet("tenants/acme")?;
    /// # acme.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep me')").wait()?;
    /// # host.bucket().expect("it has one").keep_point()?;
    /// # acme.execute("DELETE FROM note", ()).wait()?;
    /// # host.shutdown()?;
    /// let points = bucket::history(&*objects)?;
    /// let cache = Environment::system(directory.path().join("cache"));
    /// let past = Follower::open_at(&objects, &cache, FollowerSettings::default(), &points[0])?;
    /// let count = |connection: &lapidary::rusqlite::Connection| {
    ///     Ok(connection.query_row("SELECT count(*) FROM note", (), |row| row.get::<_, i64>(0))?)
    /// };
    /// assert_eq!(past.read("tenants/acme", count)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open); [`NotKept`](BucketError::NotKept) if the point has gone.
    pub fn open_at(
        objects: &Arc<dyn Objects>,
        environment: &Environment,
        settings: FollowerSettings,
        point: &HistoryPoint,
    ) -> Result<Self> {
        let settings = FollowerSettings { background: false, ..settings };
        Self::start(objects, environment, settings, Some(point))
    }

    fn start(
        objects: &Arc<dyn Objects>,
        environment: &Environment,
        settings: FollowerSettings,
        point: Option<&HistoryPoint>,
    ) -> Result<Self> {
        settings.check()?;
        let local = &environment.io;
        let lock = lock_directory(&**local)?;
        cache::claim_directory(&**local)?;
        let mut config = HostConfig::new().isolation(settings.isolation.clone());
        config = config.idle_readers_max(settings.idle_readers_max);
        config.store.tunables = settings.tunables.clone();
        // Nothing of SQLite has run yet, as far as this follower is concerned.
        configure_process(&config.process);
        let cache = ObjectCache::new(Arc::clone(objects), Arc::clone(local));
        let began_ns = environment.clock.monotonic_ns();
        let mut tries = 1;
        let (view, looked) = loop {
            let (manifest, tag) = match point {
                Some(point) => (point.manifest(&**objects)?, None),
                None => {
                    let (bytes, tag) = objects.get(MANIFEST)?;
                    (decoded(&**objects, &bytes)?, Some(tag))
                }
            };
            let (epoch, sequence) = (manifest.epoch, manifest.sequence);
            let bucket = objects.describe();
            match View::open(bucket, &manifest, &cache, environment, &config) {
                Ok(view) => break (view, Looked { tag, epoch, sequence }),
                // The host may have let go of something between the two.
                Err(error) if tries == OPEN_TRIES || error.kind() != crate::HostErrorKind::Io => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "opened again"),
            }
            tries += 1;
        };
        tracing::info!(bucket = objects.describe(), epoch = looked.epoch, lsn = %view.lsn(), "follows the store");
        let inner = Arc::new(Inner {
            objects: Arc::clone(objects),
            environment: environment.clone(),
            settings,
            config,
            cache,
            current: Mutex::new(Arc::new(view)),
            looking: Mutex::new(looked),
            progress: Mutex::new(Progress { newest_ns: began_ns, ..Progress::default() }),
            moved: Condvar::new(),
            counters: Counters::default(),
            _lock: lock,
        });
        inner.counters.looks.store(1, Ordering::Relaxed);
        inner.counters.opened.store(1, Ordering::Relaxed);
        Ok(Self { inner, thread: None })
    }

    /// Runs `body` on the calling thread, in one read transaction on the facet `name` as it is shown now. What
    /// it sees stays as it is until it ends, also when the follower moves on meanwhile.
    ///
    /// What is not here yet is fetched, which takes as long as the bucket does.
    ///
    /// # Errors
    /// Those of `body`; [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet;
    /// [`BucketError::Outdated`], to be tried again, if the host has let go of what was to be read.
    pub fn read<T, F>(&self, name: impl AsRef<str>, body: F) -> HostResult<T>
    where
        F: FnOnce(&Connection) -> HostResult<T>,
    {
        let name = checked(name.as_ref())?;
        self.inner.on(&self.inner.current(), |view| view.readers().read(&name, body))
    }

    /// As [`read`](Self::read), but waits, for `timeout` at most, until the follower shows what is asked for:
    /// an LSN, or a version of this facet by its bookmark.
    ///
    /// A bookmark of a version that was lost with its host, before it was in the bucket, is taken for reached
    /// when a later host has committed to the facet.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`BucketError::Behind`] after the timeout;
    /// [`InvalidInput`](crate::HostErrorKind::InvalidInput) for a bookmark of another facet.
    pub fn read_at_least<T, F>(
        &self,
        name: impl AsRef<str>,
        at_least: impl Into<AtLeast>,
        timeout: Duration,
        body: F,
    ) -> HostResult<T>
    where
        F: FnOnce(&Connection) -> HostResult<T>,
    {
        let name = checked(name.as_ref())?;
        let at_least = at_least.into();
        let view = self.inner.wait(timeout, &at_least, |view| match at_least {
            AtLeast::Lsn(lsn) => Ok(view.lsn() >= lsn),
            AtLeast::Bookmark(bookmark) => has_version(view.store(), &name, &bookmark),
        })?;
        self.inner.on(&view, |view| view.readers().read(&name, body))
    }

    /// As [`read`](Self::read), but of the version that `bookmark` names, if the facet
    /// [keeps](lapidary_engine::Retention) it.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`NotFound`](crate::HostErrorKind::NotFound) if the version is not kept.
    pub fn read_at<T, F>(&self, name: impl AsRef<str>, bookmark: Bookmark, body: F) -> HostResult<T>
    where
        F: FnOnce(&Connection) -> HostResult<T>,
    {
        let name = checked(name.as_ref())?;
        let view = self.inner.current();
        self.inner.on(&view, |view| view.readers().read_at(&name, &bookmark, body))
    }

    /// Names the version of the facet `name` that was the newest at a moment, in milliseconds since the Unix
    /// epoch, as [`FacetHandle::bookmark_at`](crate::FacetHandle::bookmark_at) does at the host.
    ///
    /// # Errors
    /// [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet, or if that version is not kept.
    pub fn bookmark_at(&self, name: impl AsRef<str>, wall_ms: u64) -> HostResult<Bookmark> {
        let name = checked(name.as_ref())?;
        let view = self.inner.current();
        self.inner.on(&view, |view| Ok(view.readers().facet(&name)?.bookmark_at(wall_ms)?))
    }

    /// Writes the facet `name` to a SQLite file, as [`FacetHandle::export`](crate::FacetHandle::export) does at the
    /// host.
    ///
    /// # Errors
    /// As there; [`BucketError::Outdated`], to be tried again, if the host has let go of what was to be read.
    pub fn export(
        &self,
        name: impl AsRef<str>,
        path: impl AsRef<Path>,
        options: ExportOptions<'_>,
    ) -> HostResult<FileContent> {
        let name = checked(name.as_ref())?;
        let view = self.inner.current();
        self.inner
            .on(&view, |view| write_version(&view.readers().facet(&name)?, path.as_ref(), options))
    }

    /// Waits, for `timeout` at most, until the follower shows everything up to `lsn`.
    ///
    /// # Errors
    /// [`BucketError::Behind`] after the timeout.
    pub fn wait_for(&self, lsn: Lsn, timeout: Duration) -> HostResult<()> {
        self.inner.wait(timeout, &AtLeast::Lsn(lsn), |view| Ok(view.lsn() >= lsn)).map(drop)
    }

    /// Looks at the bucket now, and moves on to its newest manifest. Returns up to which LSN everything is
    /// shown. The follower's thread does this, if it has one.
    ///
    /// # Errors
    /// A request failed, or damage: what was shown before is still shown, and the next look may go well.
    pub fn refresh(&self) -> Result<Lsn> {
        self.inner.look()?;
        Ok(self.lsn())
    }

    /// Up to there everything is shown, and a little more may be of single facets.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.inner.current().lsn()
    }

    /// At most `limit` facets within `prefix` (all if `None`), in the order of their names, from the one that
    /// follows `after`.
    ///
    /// # Errors
    /// Names that no facet can have.
    pub fn list(
        &self,
        prefix: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> HostResult<Vec<FacetInfo>> {
        let named = |name: Option<&str>| name.map(FacetName::new).transpose();
        let (prefix, mut after) = (named(prefix)?, named(after)?);
        let view = self.inner.current();
        let mut found = Vec::new();
        // The host's own are not told of.
        while found.len() < limit {
            let more =
                view.store().list_facets(prefix.as_ref(), after.as_ref(), limit - found.len())?;
            let Some(last) = more.last() else { break };
            after = Some(last.name.clone());
            found.extend(more.into_iter().filter(|facet| !is_reserved(&facet.name)));
        }
        Ok(found)
    }

    /// The store as it is shown now, for whoever looks at its facets and versions themselves. Nothing can be
    /// written to it. After a checkpoint of the host another takes its place, and this one moves on no more.
    #[must_use]
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(self.inner.current().store())
    }

    /// Figures as of now.
    #[must_use]
    pub fn stat(&self) -> FollowerStat {
        let inner = &self.inner;
        let view = inner.current();
        let (gets, get_bytes) = inner.cache.counts();
        let lag_ns = inner.now_ns().saturating_sub(inner.progress().newest_ns);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { looks, failures, moves, opened, took_us, took_us_max } = &inner.counters;
        FollowerStat {
            epoch: view.epoch(),
            lsn: view.lsn(),
            lag_ms: lag_ns / 1_000_000,
            looks: read(looks),
            failures: read(failures),
            moves: read(moves),
            opened: read(opened),
            took_us: read(took_us),
            took_us_max: read(took_us_max),
            gets,
            get_bytes,
            cached_bytes: inner.cache.bytes(),
        }
    }
}

/// Whether the facet `name` has come to `bookmark`.
fn has_version(store: &Store, name: &FacetName, bookmark: &Bookmark) -> HostResult<bool> {
    // It may not be there yet.
    let Ok(facet) = store.open_facet(name) else { return Ok(false) };
    let shown = facet.snapshot(Versions::Durable)?.bookmark();
    if shown.facet > bookmark.facet {
        let detail = format!(
            "facet {name}: bookmark {bookmark} is of another facet, which had this name before or has \
             another one"
        );
        return Err(BucketError::InvalidInput(detail).into());
    }
    Ok(shown.facet == bookmark.facet && shown >= *bookmark)
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("objects", &self.inner.objects)
            .field("lsn", &self.lsn())
            .finish_non_exhaustive()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.inner.progress().stop = true;
        self.inner.moved.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows has panicked");
        }
    }
}

fn decoded(objects: &dyn Objects, bytes: &[u8]) -> Result<Manifest> {
    let manifest = decode_manifest(objects, bytes)?;
    if manifest.superblock.is_empty() {
        return Err(BucketError::Objects(ObjectError {
            kind: ObjectErrorKind::NotFound,
            operation: "get",
            name: MANIFEST.to_owned(),
            bucket: objects.describe(),
            detail: "a host has claimed it, and has shipped no store yet".to_owned(),
        }));
    }
    Ok(manifest)
}

impl Inner {
    fn current(&self) -> Arc<View> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        self.environment.clock.monotonic_ns()
    }

    /// What comes of reading in `view`; and if not even its data are there any more, that.
    fn on<T>(&self, view: &View, body: impl FnOnce(&View) -> HostResult<T>) -> HostResult<T> {
        let outcome = body(view);
        if outcome.is_err() && view.is_gone() {
            self.hurry();
            let (bucket, lsn) = (self.objects.describe(), view.lsn());
            return Err(BucketError::Outdated { bucket, lsn }.into());
        }
        outcome
    }

    /// Waits until `is_there` holds for what is shown.
    fn wait(
        &self,
        timeout: Duration,
        wanted: &AtLeast,
        is_there: impl Fn(&View) -> HostResult<bool>,
    ) -> HostResult<Arc<View>> {
        let began = Instant::now();
        let mut has_looked = false;
        loop {
            // Before it is looked whether it is there: what comes later is counted.
            let looks = self.progress().looks;
            let view = self.current();
            if is_there(&view)? {
                return Ok(view);
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() || (has_looked && !self.settings.background) {
                return Err(HostError::Bucket(BucketError::Behind {
                    bucket: self.objects.describe(),
                    wanted: wanted.to_string(),
                    lsn: view.lsn(),
                    epoch: view.epoch(),
                    waited: began.elapsed(),
                }));
            }
            if self.settings.background {
                let mut progress = self.progress();
                progress.hurry |= !has_looked;
                self.moved.notify_all();
                let waited = self.moved.wait_timeout_while(progress, left, |p| p.looks == looks);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            } else {
                self.look()?;
            }
            has_looked = true;
        }
    }

    fn hurry(&self) {
        self.progress().hurry = true;
        self.moved.notify_all();
    }

    /// Looks at the bucket once, and shows its newest manifest.
    fn look(&self) -> Result<()> {
        let mut looked = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let began_ns = self.now_ns();
        self.counters.looks.fetch_add(1, Ordering::Relaxed);
        let shown = self.show_newest(&mut looked);
        if shown.is_err() {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        shown?;
        let mut progress = self.progress();
        progress.newest_ns = progress.newest_ns.max(began_ns);
        progress.looks += 1;
        drop(progress);
        self.moved.notify_all();
        Ok(())
    }

    fn show_newest(&self, looked: &mut Looked) -> Result<()> {
        let Some(tag) = &looked.tag else { return Ok(()) };
        let view = self.current();
        let changed = if view.is_gone() {
            // The view is of no use any more, also if the manifest is the one it was opened with.
            Some(self.objects.get(MANIFEST)?)
        } else {
            self.objects.get_if_changed(MANIFEST, tag)?
        };
        let Some((bytes, tag)) = changed else { return Ok(()) };
        let began_ns = self.now_ns();
        let manifest = decoded(&*self.objects, &bytes)?;
        let (epoch, sequence) = (manifest.epoch, manifest.sequence);
        if (epoch, sequence) < (looked.epoch, looked.sequence) {
            let detail = "it is older than the one that was there before: the bucket was put back";
            return Err(BucketError::Damaged {
                name: MANIFEST.to_owned(),
                place: self.objects.describe(),
                detail: detail.to_owned(),
            });
        }
        if !view.advance(&manifest, &self.cache)? {
            self.open_anew(&view, &manifest)?;
        }
        *looked = Looked { tag: Some(tag), epoch, sequence };
        self.cache.forget_unused();
        let took_us = self.now_ns().saturating_sub(began_ns) / 1_000;
        self.counters.moves.fetch_add(1, Ordering::Relaxed);
        self.counters.took_us.store(took_us, Ordering::Relaxed);
        self.counters.took_us_max.fetch_max(took_us, Ordering::Relaxed);
        Ok(())
    }

    /// Opens what `manifest` has beside `before`, and lets reads begin with it.
    fn open_anew(&self, before: &View, manifest: &Manifest) -> Result<()> {
        let bucket = self.objects.describe();
        let view = View::open(bucket, manifest, &self.cache, &self.environment, &self.config)?;
        let damaged = |detail: String| BucketError::Damaged {
            name: MANIFEST.to_owned(),
            place: self.objects.describe(),
            detail,
        };
        if view.store().id() != before.store().id() {
            let (new, old) = (view.store().id(), before.store().id());
            return Err(damaged(format!("it is of store {new}, and was of store {old} before")));
        }
        if view.lsn() < before.lsn() {
            let (new, old) = (view.lsn(), before.lsn());
            return Err(damaged(format!("its log ends at LSN {new}, and had LSN {old} before")));
        }
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        Ok(())
    }

    /// The thread: looks once in an interval, or sooner if somebody waits.
    fn run(&self) {
        let interval = self.settings.interval;
        let mut failing = false;
        loop {
            let progress = self.progress();
            let waited = self.moved.wait_timeout_while(progress, interval, |progress| {
                !progress.stop && !progress.hurry
            });
            let mut progress = waited.unwrap_or_else(PoisonError::into_inner).0;
            if progress.stop {
                return;
            }
            progress.hurry = false;
            drop(progress);
            match self.look() {
                Ok(()) => failing = false,
                Err(error) if failing => tracing::debug!(%error, "the follower stays where it is"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "the follower stays where it is, and tries again");
                }
            }
        }
    }
}
