//! `_lapidary_meta`: what the host knows of a facet, by key.

use rusqlite::Connection;

use super::{change, first};
use crate::error::Result;

const TABLE: &str = "_lapidary_meta";
const SCHEMA_VERSION: &str = "schema_version";

/// Number of schema steps that the facet has behind it.
pub(crate) fn schema_version(connection: &Connection) -> Result<u32> {
    let sql = "SELECT value FROM main._lapidary_meta WHERE key = ?1";
    let version = first(connection, TABLE, sql, [SCHEMA_VERSION], |row| row.get(0))?;
    Ok(version.unwrap_or(0))
}

pub(crate) fn set_schema_version(connection: &Connection, version: u32) -> Result<()> {
    let create = "CREATE TABLE IF NOT EXISTS main._lapidary_meta(
                      key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID";
    change(connection, create, ())?;
    let sql = "INSERT INTO main._lapidary_meta VALUES (?1, ?2)
               ON CONFLICT DO UPDATE SET value = excluded.value";
    change(connection, sql, (SCHEMA_VERSION, version))?;
    Ok(())
}
