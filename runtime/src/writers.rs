//! The open writer connections of one core, least recently used closed first.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hashlink::LruCache;
use lapidary_engine::{Error, FacetName, Ticket};
use lapidary_vfs::Gate;
use rusqlite::{Connection, OpenFlags};

use crate::abort::Interrupt;
use crate::config::{HostConfig, PAGE_CACHE_KIB_DEFAULT};
use crate::connection::FacetConnection;
use crate::error::Result;
use crate::isolation::Guard;
use crate::schema::Schema;
use crate::shared::Shared;
use crate::stat::{CoreCounters, add};

/// A facet's one writer connection.
pub(crate) struct Writer {
    connection: FacetConnection,
    pub(crate) guard: Guard,
    /// The commit that the connection's snapshot came from: its own newest, or the newest at
    /// opening. If the facet's is another, somebody else has written, and the connection, which
    /// never lets go of its lock, would stay on the old version for ever.
    version: Ticket,
    /// Everything that a call on this connection could have seen so far.
    observed: Ticket,
    interrupt: Arc<Interrupt>,
    /// Version of the schema that the facet is known to be at.
    schema_version: Cell<Option<u32>>,
}

impl Writer {
    fn is_current(&self) -> bool {
        let facet = self.connection.facet();
        !facet.is_deleted() && facet.latest_ticket() == self.version
    }

    pub(crate) fn observed(&self) -> Ticket {
        self.observed
    }

    pub(crate) fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Brings the facet to the version of `schema`. While the connection is open nobody else can
    /// change it.
    pub(crate) fn bring_up(&self, name: &FacetName, schema: Option<&Schema>) -> Result<()> {
        let Some(schema) = schema else { return Ok(()) };
        if !self.is_up(Some(schema)) {
            schema.bring_up(name, &self.connection)?;
            self.schema_version.set(Some(schema.version()));
        }
        Ok(())
    }

    /// Whether [`bring_up`](Self::bring_up) has nothing to do.
    pub(crate) fn is_up(&self, schema: Option<&Schema>) -> bool {
        schema.is_none_or(|schema| self.schema_version.get() == Some(schema.version()))
    }

    /// To be called after each call. `own` is the ticket of the core's newest commit.
    pub(crate) fn note_commits(&mut self, own: Ticket) {
        let latest = self.connection.facet().latest_ticket();
        // Somebody else's commit may have come before this connection took its snapshot, so its
        // ticket counts as seen; but `version` stays behind, so that the connection is opened anew.
        self.observed = self.observed.max(latest);
        if latest == own {
            self.version = latest;
        }
    }
}

impl Deref for Writer {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

pub(crate) struct Writers {
    open: LruCache<FacetName, Writer>,
    gate: Gate,
    shared: Arc<Shared>,
    counters: Arc<CoreCounters>,
    cached_statements_max: usize,
    setup: String,
    slow_statement: Option<Duration>,
}

impl Writers {
    pub(crate) fn new(
        shared: Arc<Shared>,
        gate: Gate,
        counters: Arc<CoreCounters>,
        config: &HostConfig,
    ) -> Self {
        // EXCLUSIVE: page 1 is not read again for each transaction, nor rewritten by each commit.
        // MEMORY: the store makes commits atomic, so the journal serves rollback alone.
        let mut setup = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY".to_owned();
        if config.page_cache_kib_max != PAGE_CACHE_KIB_DEFAULT {
            // SQLite takes a negative number as KiB.
            setup.push_str(&format!("; PRAGMA cache_size=-{}", config.page_cache_kib_max));
        }
        Self {
            open: LruCache::new(config.resident_facets_max),
            gate,
            shared,
            counters,
            cached_statements_max: config.cached_statements_max,
            setup,
            slow_statement: config.slow_statement,
        }
    }

    /// The writer of `name`, opened if it is not; a facet that does not exist is created.
    pub(crate) fn get(&mut self, name: &FacetName) -> Result<&mut Writer> {
        let policies = &self.shared.policies;
        let is_current = self
            .open
            .get_mut(name)
            .is_some_and(|writer| writer.is_current() && writer.guard.is_current(policies, name));
        if !is_current {
            self.close(name);
            let writer = self.open_writer(name)?;
            if self.open.len() == self.open.capacity() {
                drop(self.open.remove_lru());
                add(&self.counters.evicted_facets, 1);
            }
            self.open.insert(name.clone(), writer);
            add(&self.counters.opened_facets, 1);
            self.count();
        }
        // It was found or put there just now.
        let missing = || Error::FacetNotFound { name: name.to_string() }.into();
        self.open.peek_mut(name).ok_or_else(missing)
    }

    /// The writer of `name`, as it is, if it is open.
    pub(crate) fn opened(&mut self, name: &FacetName) -> Option<&mut Writer> {
        self.open.peek_mut(name)
    }

    /// Takes the writer of `name` out, opened if it is not.
    pub(crate) fn take(&mut self, name: &FacetName) -> Result<Writer> {
        self.get(name)?;
        let missing = || Error::FacetNotFound { name: name.to_string() }.into();
        self.open.remove(name).ok_or_else(missing)
    }

    /// Puts back what [`take`](Self::take) took out.
    pub(crate) fn put_back(&mut self, name: &FacetName, writer: Writer) {
        if self.open.len() == self.open.capacity() {
            drop(self.open.remove_lru());
            add(&self.counters.evicted_facets, 1);
        }
        self.open.insert(name.clone(), writer);
        self.count();
    }

    fn open_writer(&self, name: &FacetName) -> Result<Writer> {
        let store = &self.shared.store;
        let renamed = self.shared.names.for_open();
        let facet = store.open_or_create_facet(name)?;
        // A facet found under its name tells of how it came by it; an empty one under a name that
        // was there before, of that one's deletion or renaming, which precedes the creation.
        let told = facet.name_ticket().max(*renamed);
        drop(renamed);

        // Asked for before the connection takes its snapshot (the setup does), which may then be
        // newer but not older: if it is, `is_current` finds another ticket, and the connection is
        // opened anew.
        let version = facet.latest_ticket();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = FacetConnection::new(self.gate.open(name, flags)?, facet);
        connection.set_prepared_statement_cache_capacity(self.cached_statements_max);
        connection.execute_batch(&self.setup)?;
        let interrupt = Interrupt::of(&connection);
        let policy = self.shared.policies.of(name);
        let meter = self.shared.meters.of(name);
        let watched = Some(Arc::clone(&interrupt));
        let slow = self.slow_statement;
        let guard = Guard::new(&mut connection, name, policy, meter, watched, slow)?;
        Ok(Writer {
            interrupt,
            guard,
            schema_version: Cell::new(None),
            connection,
            version,
            observed: told.max(version),
        })
    }

    /// Closes the writer of `name`, if it is open.
    pub(crate) fn close(&mut self, name: &FacetName) {
        if self.open.remove(name).is_some() {
            self.count();
        }
    }

    /// Closes the writers of `root` and of everything below it.
    pub(crate) fn close_subtree(&mut self, root: &FacetName) {
        let names: Vec<FacetName> = self
            .open
            .iter()
            .map(|(name, _)| name)
            .filter(|name| name.is_within(root))
            .cloned()
            .collect();
        for name in &names {
            self.open.remove(name);
        }
        self.count();
    }

    pub(crate) fn close_all(&mut self) {
        self.open.clear();
        self.count();
    }

    /// Publishes how many are open.
    pub(crate) fn count(&self) {
        let open = self.open.len() as u64;
        self.counters.resident_facets.store(open, std::sync::atomic::Ordering::Relaxed);
    }
}
