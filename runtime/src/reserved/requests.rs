//! `_lapidary_requests`: replies of requests that were answered, by key.

use rusqlite::Connection;

use super::{change, first};
use crate::error::Result;

const TABLE: &str = "_lapidary_requests";

pub(crate) fn reply(connection: &Connection, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT reply FROM main._lapidary_requests WHERE key = ?1";
    first(connection, TABLE, sql, [key], |row| row.get(0))
}

/// Remembers a reply, and forgets those before the last `kept_max`.
pub(crate) fn remember(
    connection: &Connection,
    key: &[u8],
    reply: &[u8],
    kept_max: u32,
) -> Result<()> {
    let create = "CREATE TABLE IF NOT EXISTS main._lapidary_requests(
                      number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, reply BLOB NOT NULL)";
    change(connection, create, ())?;
    let sql = "INSERT INTO main._lapidary_requests(key, reply) VALUES (?1, ?2)";
    change(connection, sql, (key, reply))?;
    // The newest is never deleted, so numbers only grow.
    let oldest = connection.last_insert_rowid() - i64::from(kept_max);
    change(connection, "DELETE FROM main._lapidary_requests WHERE number <= ?1", [oldest])?;
    Ok(())
}
