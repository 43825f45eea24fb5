//! Which facet to look at when.
//!
//! An index facet belongs to each core, so that cores do not wait for each other. Its entries are
//! hints: (facet, time to look at it), the facet by its id, which outlives a renaming. A facet may have
//! one in several, after the number of cores has changed.

use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::{FacetId, FacetName, Store};
use lapidary_vfs::{Gate, Registration};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::connection::FacetConnection;
use crate::error::{HostError, Result};

/// The name that facets of the host's own are below.
const RESERVED: &str = ".lapidary";
/// The name that index facets are below, each called by its number.
const ALARMS: &str = ".lapidary/alarms";

/// Whether a facet of that name is the host's own.
pub(crate) fn is_reserved(name: &FacetName) -> bool {
    name.root() == RESERVED
}

/// An entry of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) shard: usize,
    pub(super) facet: FacetId,
    /// How often the facet could not be looked at.
    pub(super) failures: u32,
}

/// One index facet.
pub(super) struct Shard {
    number: usize,
    name: FacetName,
    store: Arc<Store>,
    /// Of its own: a core goes by the newest commit of its gate.
    gate: Gate,
    open: Mutex<Option<FacetConnection>>,
}

impl Shard {
    pub(super) fn new(registration: &Arc<Registration>, number: usize) -> Result<Self> {
        Ok(Self {
            number,
            name: FacetName::new(format!("{ALARMS}/{number}"))?,
            store: Arc::clone(registration.store()),
            gate: registration.gate(number),
            open: Mutex::new(None),
        })
    }

    /// Whether it was ever needed.
    pub(super) fn exists(&self) -> bool {
        self.store.facet_exists(&self.name)
    }

    /// Closes its connection.
    pub(super) fn close(&self) {
        drop(self.open.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Has the facet looked at at `wake` or before. Returns whether that is news.
    pub(super) fn look_at(&self, facet: FacetId, wake: i64) -> Result<bool> {
        self.with(|connection| {
            let known: Option<i64> = connection
                .prepare_cached("SELECT wake FROM alarm WHERE facet = ?1")?
                .query_row([key(facet)], |row| row.get(0))
                .optional()?;
            if known.is_some_and(|known| known <= wake) {
                return Ok(false);
            }
            put(connection, facet, wake, 0)?;
            Ok(true)
        })
    }

    /// Has the facet looked at at `wake`, and not before; never, if `None`.
    pub(super) fn set(&self, facet: FacetId, wake: Option<i64>) -> Result<()> {
        self.with(|connection| match wake {
            Some(wake) => put(connection, facet, wake, 0),
            None => {
                let sql = "DELETE FROM alarm WHERE facet = ?1";
                connection.prepare_cached(sql)?.execute([key(facet)]).map(drop)
            }
        })
    }

    /// Notes that the facet could not be looked at, and when to try again.
    pub(super) fn put_off(&self, entry: Entry, wake: i64) -> Result<()> {
        self.with(|connection| put(connection, entry.facet, wake, entry.failures.saturating_add(1)))
    }

    /// The first `limit` entries whose time has come, and the time of the first that has yet to.
    pub(super) fn due(&self, now_ms: i64, limit: usize) -> Result<(Vec<Entry>, Option<i64>)> {
        if !self.exists() {
            return Ok((Vec::new(), None));
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.with(|connection| {
            let sql = "SELECT facet, failures FROM alarm WHERE wake <= ?1 ORDER BY wake LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map((now_ms, limit), |row| {
                let facet = FacetId(row.get::<_, i64>(0)?.cast_unsigned());
                Ok(Entry { shard: self.number, facet, failures: row.get(1)? })
            })?;
            let due = rows.collect::<rusqlite::Result<_>>()?;
            let sql = "SELECT wake FROM alarm WHERE wake > ?1 ORDER BY wake LIMIT 1";
            let mut statement = connection.prepare_cached(sql)?;
            let next = statement.query_row([now_ms], |row| row.get(0)).optional()?;
            Ok((due, next))
        })
    }

    /// Takes over what indexes of cores that there are no more hold, and deletes them.
    pub(super) fn take_over(shards: &[Self], registration: &Arc<Registration>) -> Result<()> {
        let store = registration.store();
        let root = FacetName::new(ALARMS)?;
        for info in store.list_facets(Some(&root), None, usize::MAX)? {
            let number = info.name.as_str().rsplit('/').next().and_then(|last| last.parse().ok());
            let Some(number) = number.filter(|number: &usize| *number >= shards.len()) else {
                continue;
            };
            let heir = &shards[number % shards.len()];
            let leaving = Self { number, name: info.name.clone(), ..heir.sibling() };
            let (all, _) = leaving.due(i64::MAX, usize::MAX)?;
            for entry in all {
                // What is looked at too early is found to be.
                heir.look_at(entry.facet, 0)?;
            }
            leaving.close();
            store.delete_facet(&info.name)?;
        }
        Ok(())
    }

    fn sibling(&self) -> Self {
        Self {
            number: self.number,
            name: self.name.clone(),
            store: Arc::clone(&self.store),
            gate: self.gate.clone(),
            open: Mutex::new(None),
        }
    }

    fn with<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match open.take() {
            Some(connection) => connection,
            None => self.connect().map_err(|error| self.error(error))?,
        };
        let value = body(&connection).map_err(|error| self.error(error.into()))?;
        // After an error it is opened anew: it may show what was lost, or hold an old snapshot.
        *open = Some(connection);
        Ok(value)
    }

    fn error(&self, error: HostError) -> HostError {
        error.within(&self.name).or_stopped(&self.store)
    }

    fn connect(&self) -> Result<FacetConnection> {
        let facet = self.store.open_or_create_facet(&self.name)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = FacetConnection::new(self.gate.open(&self.name, flags)?, facet);
        connection.execute_batch(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY;
             CREATE TABLE IF NOT EXISTS alarm(
                 facet INTEGER PRIMARY KEY, wake INTEGER NOT NULL, failures INTEGER NOT NULL);
             CREATE INDEX IF NOT EXISTS alarm_wake ON alarm(wake);",
        )?;
        Ok(connection)
    }
}

fn key(facet: FacetId) -> i64 {
    facet.0.cast_signed()
}

fn put(connection: &Connection, facet: FacetId, wake: i64, failures: u32) -> rusqlite::Result<()> {
    let sql = "INSERT INTO alarm VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE
               SET wake = excluded.wake, failures = excluded.failures";
    connection.prepare_cached(sql)?.execute((key(facet), wake, failures)).map(drop)
}
