//! Gated durability: commits that return at once, for a host that holds the replies back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{FacetName, Lsn, Ticket};
use rusqlite::{Connection, OpenFlags, ffi as sqlite};

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
}

impl GateState {
    pub(crate) fn new(token: String, log_buffer: usize) -> Self {
        Self { token, log_buffer, newest: AtomicU64::new(Ticket::DURABLE.lsn().0) }
    }

    pub(crate) fn log_buffer(&self) -> usize {
        self.log_buffer
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
