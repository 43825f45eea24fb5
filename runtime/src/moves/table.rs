//! What a host has to remember of moves: rows in a facet of its own, which comes into being with the first.
//!
//! `departing` has a row for each name that goes or has gone from here. `arrived` has a row for each copy that is
//! complete. Each change is one transaction of a plain connection, so it is durable when it returns.

use std::sync::Arc;

use lapidary_engine::{FacetName, Store};
use lapidary_vfs::{Registration, facet_uri};
use rusqlite::{Connection, OpenFlags, Row};

use super::{MoveId, is_there};
use crate::error::{HostError, Result};

const NAME: &str = ".lapidary/moves";

/// A name that goes or has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DepartingRow {
    pub(super) id: MoveId,
    pub(super) name: FacetName,
    pub(super) destination: String,
    pub(super) is_gone: bool,
    /// Of the copy that was sent last.
    pub(super) digest: Option<[u8; 32]>,
}

/// A copy that is complete. It is served if there is nothing any more where it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArrivedRow {
    pub(super) id: MoveId,
    pub(super) name: FacetName,
    pub(super) digest: [u8; 32],
}

pub(super) struct Table {
    store: Arc<Store>,
    vfs_name: String,
    name: FacetName,
}

impl Table {
    pub(super) fn new(registration: &Arc<Registration>) -> Result<Self> {
        let store = Arc::clone(registration.store());
        let vfs_name = registration.name().to_owned();
        Ok(Self { store, vfs_name, name: FacetName::new(NAME)? })
    }

    /// Names that go or have gone, in order.
    pub(super) fn departing(&self) -> Result<Vec<DepartingRow>> {
        let sql = "SELECT id, name, destination, is_gone, digest FROM departing ORDER BY name";
        self.rows(sql, |row| {
            Ok(DepartingRow {
                id: MoveId(row.get(0)?),
                name: name_in(row, 1)?,
                destination: row.get(2)?,
                is_gone: row.get(3)?,
                digest: row.get(4)?,
            })
        })
    }

    /// Copies that are complete, in order of their names.
    pub(super) fn arrived(&self) -> Result<Vec<ArrivedRow>> {
        self.rows("SELECT id, name, digest FROM arrived ORDER BY name", |row| {
            Ok(ArrivedRow { id: MoveId(row.get(0)?), name: name_in(row, 1)?, digest: row.get(2)? })
        })
    }

    /// A name goes. `served` are copies that have become part of what goes, or that it is a part of.
    pub(super) fn depart(&self, row: &DepartingRow, served: &[MoveId]) -> Result<()> {
        self.change(|connection| {
            let sql = "INSERT INTO departing VALUES (?1, ?2, ?3, ?4, ?5)";
            let DepartingRow { id, name, destination, is_gone, digest } = row;
            connection.execute(sql, (id.0, name.as_str(), destination, is_gone, digest))?;
            for id in served {
                connection.execute("DELETE FROM arrived WHERE id = ?1", [id.0])?;
            }
            Ok(())
        })
    }

    pub(super) fn note_sent(&self, id: MoveId, digest: &[u8; 32]) -> Result<()> {
        self.change(|connection| {
            let sql = "UPDATE departing SET digest = ?2 WHERE id = ?1";
            connection.execute(sql, (id.0, digest)).map(drop)
        })
    }

    /// The commit point.
    pub(super) fn note_gone(&self, id: MoveId) -> Result<()> {
        self.change(|connection| {
            let sql = "UPDATE departing SET is_gone = 1 WHERE id = ?1";
            connection.execute(sql, [id.0]).map(drop)
        })
    }

    pub(super) fn forget_departing(&self, ids: &[MoveId]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.change(|connection| {
            for id in ids {
                connection.execute("DELETE FROM departing WHERE id = ?1", [id.0])?;
            }
            Ok(())
        })
    }

    pub(super) fn arrive(&self, row: &ArrivedRow) -> Result<()> {
        self.change(|connection| {
            let sql = "INSERT INTO arrived VALUES (?1, ?2, ?3)";
            connection.execute(sql, (row.id.0, row.name.as_str(), row.digest)).map(drop)
        })
    }

    pub(super) fn forget_arrived(&self, id: MoveId) -> Result<()> {
        self.change(|connection| {
            connection.execute("DELETE FROM arrived WHERE id = ?1", [id.0]).map(drop)
        })
    }

    fn rows<T>(
        &self,
        sql: &str,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        if !is_there(&self.store, &self.name)? {
            return Ok(Vec::new());
        }
        self.with(|connection| connection.prepare(sql)?.query_map((), row)?.collect())
    }

    fn change(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<()> {
        self.with(|connection| {
            let transaction = connection.unchecked_transaction()?;
            body(&transaction)?;
            transaction.commit()
        })
    }

    fn with<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let run = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_URI;
            let uri = facet_uri(&self.name);
            let connection =
                Connection::open_with_flags_and_vfs(uri, flags, self.vfs_name.as_str())?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS departing(
                     id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, destination TEXT NOT NULL,
                     is_gone INTEGER NOT NULL, digest BLOB) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS arrived(
                     id BLOB PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;",
            )?;
            body(&connection)
        };
        run().map_err(|error| HostError::from(error).within(&self.name).or_stopped(&self.store))
    }
}

fn name_in(row: &Row<'_>, column: usize) -> rusqlite::Result<FacetName> {
    let name: String = row.get(column)?;
    FacetName::new(name).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}
