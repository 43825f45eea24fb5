//! Pooled read-only connections for any thread.
//!
//! A reader is taken out of the pool, used by one thread, and put back, so no two threads ever use
//! it at a time. It is a plain connection of the VFS: it sees the newest durable version, pins it
//! for the length of one transaction, and takes no lock that the writer would wait for.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use lapidary_engine::{Bookmark, Error, Facet, FacetName, Store};
use lapidary_vfs::facet_uri;
use rusqlite::{Connection, OpenFlags, TransactionState};
use tracing::debug_span;

use crate::config::HostConfig;
use crate::connection::FacetConnection;
use crate::error::{HostError, Result};
use crate::isolation::{Guard, Policies, ThreadSpan, transaction};
use crate::meter::Meters;
use crate::name_set::NameSet;

/// Enough that threads seldom meet at a lock.
const SHARDS: usize = 16;

pub(crate) struct Readers {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    store: Arc<Store>,
    vfs_name: String,
    cached_statements_max: usize,
    slow_statement: Option<Duration>,
    policies: Arc<Policies>,
    meters: Arc<Meters>,
    idle_max: usize,
    /// Of all shards.
    idle: AtomicUsize,
    closed: AtomicBool,
}

struct Shard {
    readers: LruCache<FacetName, Vec<Reader>>,
    /// The names in `readers`.
    names: NameSet,
}

struct Reader {
    connection: FacetConnection,
    guard: Guard,
}

impl Reader {
    fn serves(&self, name: &FacetName) -> bool {
        self.connection.facet().is_named(name)
    }

    /// Whether the next transaction takes a snapshot of its own. A statement that was forgotten
    /// half-way holds on to its snapshot, though there is no transaction in SQLite's eyes.
    fn is_at_rest(&self) -> bool {
        let state = self.connection.transaction_state(None::<&str>);
        self.connection.is_autocommit()
            && matches!(state, Ok(TransactionState::None))
            && !self.connection.is_busy()
    }
}

impl Reader {
    /// Runs `body` in one read transaction.
    fn run<T>(&self, name: &FacetName, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let running = self.guard.begin(&self.connection);
        let outcome = in_snapshot(&self.connection, body);
        self.guard.end(&self.connection, running, name, outcome)
    }
}

impl Readers {
    pub(crate) fn new(
        store: Arc<Store>,
        vfs_name: &str,
        config: &HostConfig,
        policies: Arc<Policies>,
        meters: Arc<Meters>,
    ) -> Self {
        let shard =
            || Mutex::new(Shard { readers: LruCache::new_unbounded(), names: NameSet::default() });
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: RandomState::new(),
            store,
            vfs_name: vfs_name.to_owned(),
            cached_statements_max: config.cached_statements_max,
            slow_statement: config.slow_statement,
            policies,
            meters,
            idle_max: config.idle_readers_max,
            idle: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Runs `body` in one read transaction on the newest durable version of `name`.
    pub(crate) fn read<T>(
        &self,
        name: &FacetName,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let reader = match self.take(name) {
            Some(reader) => Ok(reader),
            None => self.open(name),
        };
        let reader = reader
            .and_then(|reader| self.await_name(reader.connection.facet()).map(|()| reader))
            .map_err(|error| error.within(name).or_stopped(&self.store))?;
        let outcome = reader.run(name, body);
        let unusable = matches!(&outcome, Err(error) if error.is_store_failure());
        let outcome = outcome.map_err(|error| error.within(name).or_stopped(&self.store));
        if !unusable && reader.is_at_rest() {
            self.put(name, reader);
        }
        outcome
    }

    /// Runs `body` in one read transaction on a version of the past of `name`.
    pub(crate) fn read_at<T>(
        &self,
        name: &FacetName,
        bookmark: &Bookmark,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let outcome = self.open_at(name, bookmark);
        let outcome = outcome.and_then(|reader| reader.run(name, body));
        outcome.map_err(|error| error.within(name).or_stopped(&self.store))
    }

    /// The facet `name`, for who tells of it.
    pub(crate) fn facet(&self, name: &FacetName) -> Result<Arc<Facet>> {
        let facet = self.find(name)?;
        self.await_name(&facet)?;
        Ok(facet)
    }

    /// Waits until the name that the facet was found by is durably its own.
    fn await_name(&self, facet: &Facet) -> Result<()> {
        let named = facet.name_ticket();
        if !self.store.is_durable(named)? {
            self.store.wait_durable(named)?;
        }
        Ok(())
    }

    pub(crate) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// Closes the idle readers of `root` and of everything below it.
    pub(crate) fn close_subtree(&self, root: &FacetName) {
        for shard in &self.shards {
            // Closed when the lock is given back.
            let mut closing = Vec::new();
            let mut shard = lock(shard);
            for name in shard.names.within(root) {
                shard.names.remove(&name);
                closing.extend(shard.readers.remove(&name).unwrap_or_default());
            }
            drop(shard);
            self.idle.fetch_sub(closing.len(), Ordering::Relaxed);
        }
    }

    pub(crate) fn close_all(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let count = shard.readers.iter().map(|(_, readers)| readers.len()).sum();
            self.idle.fetch_sub(count, Ordering::Relaxed);
            shard.readers.clear();
            shard.names.clear();
        }
    }

    /// Closes all and keeps none from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.close_all();
    }

    /// Number of the shard that readers of `name` are in.
    fn shard(&self, name: &FacetName) -> usize {
        let mut hasher = self.hasher.build_hasher();
        name.hash(&mut hasher);
        let hash = std::hash::Hasher::finish(&hasher);
        // The remainder is below the number of shards, so it fits.
        usize::try_from(hash % SHARDS as u64).unwrap_or(0)
    }

    fn take(&self, name: &FacetName) -> Option<Reader> {
        loop {
            let mut shard = lock(&self.shards[self.shard(name)]);
            let mut reader = shard.readers.get_mut(name)?.pop()?;
            self.idle.fetch_sub(1, Ordering::Relaxed);
            drop(shard);
            if reader.serves(name) && reader.guard.is_current(&self.policies, name) {
                return Some(reader);
            }
        }
    }

    fn put(&self, name: &FacetName, reader: Reader) {
        if self.idle_max == 0 || self.closed.load(Ordering::SeqCst) || !reader.serves(name) {
            return;
        }
        let at = self.shard(name);
        let mut shard = lock(&self.shards[at]);
        match shard.readers.get_mut(name) {
            Some(readers) => readers.push(reader),
            None => {
                shard.names.insert(name);
                shard.readers.insert(name.clone(), vec![reader]);
            }
        }
        drop(shard);
        if self.idle.fetch_add(1, Ordering::Relaxed) >= self.idle_max {
            // Closed here, outside the locks.
            drop(self.give_up(at));
        }
    }

    /// Takes out a reader for one that was put into the shard `at`: of the facet least recently read
    /// in the same shard, which stands for all of them, or in the next that has any.
    fn give_up(&self, at: usize) -> Option<Reader> {
        for step in 0..=SHARDS {
            let mut shard = lock(&self.shards[(at + step) % SHARDS]);
            // That facet alone was read just now.
            if step == 0 && shard.readers.len() == 1 {
                continue;
            }
            let Some((name, mut readers)) = shard.readers.remove_lru() else { continue };
            // One at a time: a busy facet's readers are not all given up for one of another.
            let reader = readers.pop();
            if readers.is_empty() {
                shard.names.remove(&name);
            } else {
                shard.readers.insert(name, readers);
            }
            if reader.is_some() {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                return reader;
            }
        }
        None
    }

    fn find(&self, name: &FacetName) -> Result<Arc<Facet>> {
        match self.store.open_facet(name) {
            Err(error @ Error::FacetNotFound { .. }) => {
                // The answer tells of a deletion or renaming that may not be durable yet.
                self.store.wait_durable(self.store.current_ticket())?;
                Err(HostError::Store(error))
            }
            found => Ok(found?),
        }
    }

    fn open(&self, name: &FacetName) -> Result<Reader> {
        let facet = self.find(name)?;
        self.connect(name, facet_uri(name), facet)
    }

    fn open_at(&self, name: &FacetName, bookmark: &Bookmark) -> Result<Reader> {
        let facet = self.facet(name)?;
        // The connection pins it too. This one says in the store's own words what is wrong, and keeps
        // the version until then.
        let pinned = facet.snapshot_at(bookmark)?;
        let uri = format!("{}?at={bookmark}", facet_uri(name));
        let reader = self.connect(name, uri, facet)?;
        drop(pinned);
        Ok(reader)
    }

    fn connect(&self, name: &FacetName, uri: String, facet: Arc<Facet>) -> Result<Reader> {
        let _span = debug_span!("open", facet = %name).entered();
        let opening = ThreadSpan::begin();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags_and_vfs(uri, flags, self.vfs_name.as_str())?;
        let mut connection = FacetConnection::new(connection, facet);
        connection.set_prepared_statement_cache_capacity(self.cached_statements_max);
        let (policy, meter) = (self.policies.of(name), self.meters.of(name));
        let guard =
            Guard::new(&mut connection, opening, name, policy, meter, None, self.slow_statement)?;
        Ok(Reader { connection, guard })
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_snapshot<T>(
    connection: &Connection,
    body: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    transaction::begin(connection)?;
    let outcome = body(connection);
    if !connection.is_autocommit() {
        let ended = transaction::rollback(connection);
        if outcome.is_ok() {
            ended?;
        }
    }
    outcome
}
