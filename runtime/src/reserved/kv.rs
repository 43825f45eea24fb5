//! `_lapidary_kv`: values by key.

use rusqlite::Connection;

use super::{change, exists, first};
use crate::error::Result;
use crate::isolation::call::{as_host, host_sql};
use crate::kv::KvList;

const TABLE: &str = "_lapidary_kv";

pub(crate) fn get(connection: &Connection, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT value FROM main._lapidary_kv WHERE key = ?1";
    first(connection, TABLE, sql, [key], |row| row.get(0))
}

pub(crate) fn put(connection: &Connection, key: &[u8], value: &[u8]) -> Result<()> {
    let create = "CREATE TABLE IF NOT EXISTS main._lapidary_kv(
                      key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID";
    change(connection, create, ())?;
    let sql = "INSERT INTO main._lapidary_kv VALUES (?1, ?2)
               ON CONFLICT DO UPDATE SET value = excluded.value";
    change(connection, sql, (key, value))?;
    Ok(())
}

pub(crate) fn delete(connection: &Connection, key: &[u8]) -> Result<bool> {
    if !exists(connection, TABLE)? {
        return Ok(false);
    }
    Ok(change(connection, "DELETE FROM main._lapidary_kv WHERE key = ?1", [key])? > 0)
}

pub(crate) fn list(connection: &Connection, list: &KvList) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    if !exists(connection, TABLE)? {
        return Ok(Vec::new());
    }
    let (start, end) = list.range();
    let sql = match (&end, list.reverse) {
        (Some(_), false) => {
            "SELECT key, value FROM main._lapidary_kv WHERE key >= ?1 AND key < ?2
             ORDER BY key LIMIT ?3"
        }
        (Some(_), true) => {
            "SELECT key, value FROM main._lapidary_kv WHERE key >= ?1 AND key < ?2
             ORDER BY key DESC LIMIT ?3"
        }
        (None, false) => {
            "SELECT key, value FROM main._lapidary_kv WHERE key >= ?1 AND ?2 IS NULL
             ORDER BY key LIMIT ?3"
        }
        (None, true) => {
            "SELECT key, value FROM main._lapidary_kv WHERE key >= ?1 AND ?2 IS NULL
             ORDER BY key DESC LIMIT ?3"
        }
    };
    let limit = i64::try_from(list.limit).unwrap_or(i64::MAX);
    as_host(|| {
        let mut statement = connection.prepare_cached(&host_sql(sql))?;
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let rows = statement.query_map((start, end, limit), pair)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    })
}
