//! Gated durability: commits that return at once, for a host that holds the replies back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapidary_engine::{FacetName, Lsn, Ticket};
use rusqlite::{Connection, OpenFlags, ffi as sqlite};

use crate::database::Family;
use crate::error::keep_last_error;
use crate::names;
use crate::registration::Registration;

/// URI parameter that carries a gate's token.
pub(crate) const GATE_PARAMETER: &str = "lapidary_gate";

/// What a gate and the files opened through it share.
#[derive(Debug)]
pub(crate) struct GateState {
    token: String,
    log_buffer: usize,
    /// LSN of the newest commit.
    newest: AtomicU64,
    /// Where transactions go that are to be committed together.
    collecting: Mutex<Option<Arc<Family>>>,
    /// Whether there is such a place, to be looked at without the lock.
    collects: AtomicBool,
}

impl GateState {
    pub(crate) fn new(token: String, log_buffer: usize) -> Self {
        Self {
            token,
            log_buffer,
            newest: AtomicU64::new(Ticket::DURABLE.lsn().0),
            collecting: Mutex::default(),
            collects: AtomicBool::new(false),
        }
    }

    pub(crate) fn log_buffer(&self) -> usize {
        self.log_buffer
    }

    /// Where a transaction is to go in place of its commit, if anywhere.
    pub(crate) fn collecting(&self) -> Option<Arc<Family>> {
        if !self.collects.load(Ordering::Acquire) {
            return None;
        }
        self.lock().clone()
    }

    fn collect_in(&self, family: Option<Arc<Family>>) -> Option<Arc<Family>> {
        let mut collecting = self.lock();
        self.collects.store(family.is_some(), Ordering::Release);
        std::mem::replace(&mut *collecting, family)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Family>>> {
        self.collecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, ticket: Ticket) {
        self.newest.fetch_max(ticket.lsn().0, Ordering::AcqRel);
    }
}

/// A way in for a host: connections opened through it commit without waiting for the disk.
///
/// Such a connection reads the newest version of a facet, durable or not, and its commits go to
/// the log buffer that the gate names. In exchange the host owes an *output gate*: nothing that a
/// connection returned may leave the process before [`Gate::last_ticket`] (and the ticket of
/// whatever it read) is durable. That is why nobody gets such a connection by name alone: the gate
/// passes a random token that only it knows.
///
/// Clones are the same gate. A gate keeps its [`Registration`] alive.
#[derive(Clone)]
pub struct Gate {
    state: Arc<GateState>,
    registration: Arc<Registration>,
}

impl std::fmt::Debug for Gate {
    /// Without the token, which a log must not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("vfs", &self.registration.name())
            .field("log_buffer", &self.state.log_buffer)
            .field("last_ticket", &self.last_ticket())
            .finish_non_exhaustive()
    }
}

impl Gate {
    pub(crate) fn new(state: Arc<GateState>, registration: Arc<Registration>) -> Self {
        Self { state, registration }
    }

    /// Opens a facet with gated durability. `flags` are as for
    /// [`Connection::open_with_flags_and_vfs`]; with `SQLITE_OPEN_CREATE` a facet that is not
    /// there is created.
    ///
    /// # Errors
    /// As SQLite has them; [`take_last_error`](crate::take_last_error) has the words. `:memory:`,
    /// which SQLite would open as a database in memory.
    pub fn open(&self, facet: &FacetName, flags: OpenFlags) -> rusqlite::Result<Connection> {
        if names::is_reserved(facet) {
            let error = sqlite::Error::new(sqlite::SQLITE_CANTOPEN);
            let reason = format!("facet name \"{facet}\": {}", names::RESERVED);
            return Err(rusqlite::Error::SqliteFailure(error, Some(reason)));
        }
        let uri = names::facet_uri(facet);
        let uri = format!("{uri}?{GATE_PARAMETER}={}", self.state.token);
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags_and_vfs(uri, flags, self.registration.name())
    }

    /// Ticket of the newest commit made through this gate; [`Ticket::DURABLE`] if there was none.
    #[must_use]
    pub fn last_ticket(&self) -> Ticket {
        Ticket::at(Lsn(self.state.newest.load(Ordering::Acquire)))
    }
}

impl Gate {
    /// From now on commits of the gate's connections are put together, and made by
    /// [`Collecting::commit`]: after a crash all of them are there, or none. One store has one order of
    /// commits, so the connections may be to any of its facets.
    ///
    /// To SQLite each has committed when its COMMIT returns. So nothing may be asked of a connection
    /// from then until the commit, and it has to be in `locking_mode=EXCLUSIVE`, where SQLite asks
    /// nothing by itself; otherwise the commit is refused. If it fails, or is not made, the connections
    /// whose COMMIT has returned are to be closed.
    ///
    /// ```
    /// # use lapidary_engine::*;
    /// # use lapidary_vfs::*;
    /// # use std::sync::Arc;
    /// # use rusqlite::OpenFlags;
    /// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    /// # let store = Store::open(environment, StoreOptions::create())?;
    /// let registration = Registration::register("gated", store, VfsOptions::default())?;
    /// let gate = registration.gate(0);
    /// let open = |name| -> Result<_, Box<dyn std::error::Error>> {
    ///     let connection = gate.open(&FacetName::new(name)?, OpenFlags::default())?;
    ///     connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t(x)")?;
    ///     Ok(connection)
    /// };
    /// let (from, to) = (open("from")?, open("to")?);
    /// from.execute_batch("BEGIN; INSERT INTO t VALUES (-1)")?;
    /// to.execute_batch("BEGIN; INSERT INTO t VALUES (1)")?;
    /// let collecting = gate.collect();
    /// from.execute_batch("COMMIT")?;
    /// to.execute_batch("COMMIT")?;
    /// collecting.commit()?;
    /// registration.store().wait_durable(gate.last_ticket())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If the gate collects already.
    #[must_use = "what is collected is given up when this is dropped"]
    pub fn collect(&self) -> Collecting<'_> {
        let family = Arc::new(Family::new(Arc::clone(self.registration.store()), 0));
        let other = self.state.collect_in(Some(Arc::clone(&family)));
        assert!(other.is_none(), "a gate collects for one commit at a time");
        Collecting { gate: self, family }
    }
}

/// Commits that are put together: see [`Gate::collect`]. Dropped, it gives them up.
#[derive(Debug)]
pub struct Collecting<'gate> {
    gate: &'gate Gate,
    family: Arc<Family>,
}

impl Collecting<'_> {
    /// Makes the commits, as one. [`Gate::last_ticket`] is its ticket then, if anything was changed.
    ///
    /// # Errors
    /// As those of a COMMIT; nothing is committed. [`take_last_error`](crate::take_last_error) has the
    /// words.
    pub fn commit(self) -> rusqlite::Result<()> {
        self.family.commit_collected().map_err(|failure| {
            keep_last_error(&failure);
            let error = sqlite::Error::new(failure.code);
            rusqlite::Error::SqliteFailure(error, Some(failure.message))
        })
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.gate.state.collect_in(None);
        self.family.give_up();
    }
}
