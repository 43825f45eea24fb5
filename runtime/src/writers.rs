//! The open writer connections of one core: the least recently used lose their pages first, then are
//! closed.

mod open;

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapidary_engine::{Error, FacetName, Ticket};
use lapidary_vfs::{Gate, thread_heap_bytes};
use open::OpenWriters;
use rusqlite::{Connection, OpenFlags};
use tracing::debug_span;

use crate::abort::Interrupt;
use crate::alarms::Owner;
use crate::config::{HostConfig, PAGE_CACHE_KIB_DEFAULT};
use crate::connection::FacetConnection;
use crate::error::Result;
use crate::isolation::{Guard, ThreadSpan};
use crate::residency::Hooks;
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
    owner: Owner,
    /// Whether the embedder's hook has run.
    is_awake: Cell<bool>,
    /// Version of the schema that the facet is known to be at.
    schema_version: Cell<Option<u32>>,
    /// Bytes of SQLite's memory that its opening and its calls have left.
    heap_bytes: i64,
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

    /// Notes what a call has added to SQLite's memory, while the writer is taken out.
    pub(crate) fn note_heap(&mut self, grown_bytes: i64) {
        self.heap_bytes += grown_bytes;
    }

    /// Gives back the pages that SQLite keeps of the facet, which it reads again when they are needed.
    /// Returns the bytes that this has freed.
    fn give_back_pages(&mut self) -> i64 {
        let before = thread_heap_bytes();
        if let Err(error) = self.connection.release_memory() {
            tracing::warn!(%error, "a connection did not give back its pages");
        }
        let freed = before.wrapping_sub(thread_heap_bytes());
        self.heap_bytes -= freed;
        freed
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Runs the hook of an opened connection, and brings the facet to the version of `schema`. While the
    /// connection is open nobody else can change it.
    pub(crate) fn bring_up(
        &self,
        name: &FacetName,
        schema: Option<&Schema>,
        hooks: &Hooks,
    ) -> Result<()> {
        if !self.is_awake.get() {
            hooks.wake(name, self)?;
            self.is_awake.set(true);
        }
        let Some(schema) = schema else { return Ok(()) };
        if !self.is_up(Some(schema)) {
            schema.bring_up(name, self)?;
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
    open: OpenWriters,
    facets_max: usize,
    bytes_max: i64,
    /// Of all that are open.
    heap_bytes: i64,
    hooks: Hooks,
    /// Number of the core.
    core: usize,
    gate: Gate,
    shared: Arc<Shared>,
    counters: Arc<CoreCounters>,
    cached_statements_max: usize,
    setup: String,
    slow_statement: Option<Duration>,
}

impl Writers {
    pub(crate) fn new(
        core: usize,
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
            open: OpenWriters::default(),
            facets_max: config.resident_facets_max,
            bytes_max: config
                .resident_bytes_max
                .map_or(i64::MAX, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            heap_bytes: 0,
            hooks: config.hooks.clone(),
            core,
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
            self.make_room(self.facets_max.saturating_sub(1), self.bytes_max, None);
            let before = thread_heap_bytes();
            let mut writer = self.open_writer(name)?;
            writer.heap_bytes = thread_heap_bytes().wrapping_sub(before);
            self.heap_bytes += writer.heap_bytes;
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
        let missing = || Error::FacetNotFound { name: name.to_string() };
        let writer = self.open.remove(name).ok_or_else(missing)?;
        self.heap_bytes -= writer.heap_bytes;
        Ok(writer)
    }

    /// Puts back what [`take`](Self::take) took out.
    pub(crate) fn put_back(&mut self, name: &FacetName, writer: Writer) {
        self.heap_bytes += writer.heap_bytes;
        self.open.insert(name.clone(), writer);
        self.make_room(self.facets_max, self.bytes_max, Some(name));
        self.count();
    }

    fn open_writer(&self, name: &FacetName) -> Result<Writer> {
        let _span = debug_span!("open", facet = %name).entered();
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
        let owner = Owner::new(&self.shared.alarms, self.core, &facet);
        let opening = ThreadSpan::begin();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = FacetConnection::new(self.gate.open(name, flags)?, facet);
        connection.set_prepared_statement_cache_capacity(self.cached_statements_max);
        connection.execute_batch(&self.setup)?;
        let interrupt = Interrupt::of(&connection);
        let policy = self.shared.policies.of(name);
        let meter = self.shared.meters.of(name);
        let watched = Some(Arc::clone(&interrupt));
        let slow = self.slow_statement;
        let guard = Guard::new(&mut connection, opening, name, policy, meter, watched, slow)?;
        Ok(Writer {
            interrupt,
            guard,
            owner,
            is_awake: Cell::new(false),
            schema_version: Cell::new(None),
            heap_bytes: 0,
            connection,
            version,
            observed: told.max(version),
        })
    }

    /// Notes what a call on the writer of `name` has added to SQLite's memory, and closes others if that is
    /// too much. To be called after the call, however it ended.
    pub(crate) fn note_heap(&mut self, name: &FacetName, grown_bytes: i64) {
        if grown_bytes == 0 {
            return;
        }
        if let Some(writer) = self.open.peek_mut(name) {
            writer.heap_bytes += grown_bytes;
            self.heap_bytes += grown_bytes;
        }
        self.make_room(usize::MAX, self.bytes_max, Some(name));
        self.count();
    }

    /// Takes the pages of the least recently used, and if that is not enough closes those that are neither
    /// pinned nor `current`, until there are at most `facets` with at most `bytes`.
    fn make_room(&mut self, facets: usize, bytes: i64, current: Option<&FacetName>) {
        // The one used last is the current one.
        while self.heap_bytes > bytes && self.open.warm() > usize::from(current.is_some()) {
            let Some(writer) = self.open.make_lean() else { break };
            let freed = writer.give_back_pages();
            self.heap_bytes -= freed;
            add(&self.counters.shrunk_facets, 1);
        }
        let mut looked_at = 0;
        while (self.open.len() > facets || self.heap_bytes > bytes) && looked_at < self.open.len() {
            let Some((name, writer)) = self.open.remove_lru() else { return };
            if Some(&name) == current || self.shared.pins.holds(&name) {
                // To the other end, so that the next time does not look at it first.
                self.open.insert(name, writer);
                looked_at += 1;
                continue;
            }
            if self.hooks.hibernate(&name, &writer) {
                self.shared.store.request_flush();
            }
            self.heap_bytes -= writer.heap_bytes;
            drop(writer);
            add(&self.counters.evicted_facets, 1);
        }
    }

    /// Closes all as [`make_room`](Self::make_room) does, pinned or not.
    pub(crate) fn hibernate_all(&mut self) {
        while let Some((name, writer)) = self.open.remove_lru() {
            self.hooks.hibernate(&name, &writer);
        }
        self.close_all();
    }

    /// Closes the writer of `name`, if it is open.
    pub(crate) fn close(&mut self, name: &FacetName) {
        if let Some(writer) = self.open.remove(name) {
            self.heap_bytes -= writer.heap_bytes;
            self.count();
        }
    }

    /// Closes the writers of `root` and of everything below it.
    pub(crate) fn close_subtree(&mut self, root: &FacetName) {
        for name in self.open.names_within(root) {
            self.close(&name);
        }
    }

    pub(crate) fn close_all(&mut self) {
        self.open.clear();
        self.heap_bytes = 0;
        self.count();
    }

    /// Publishes how many are open.
    pub(crate) fn count(&self) {
        let open = self.open.len() as u64;
        self.counters.resident_facets.store(open, Ordering::Relaxed);
        let bytes = u64::try_from(self.heap_bytes).unwrap_or(0);
        self.counters.resident_bytes.store(bytes, Ordering::Relaxed);
    }
}
