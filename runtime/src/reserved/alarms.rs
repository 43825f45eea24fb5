//! `_lapidary_alarms`: what is to run when, by name.
//!
//! `due` is when the alarm was set for, `wake` when it is to run next: later after a failure, NULL when
//! it was given up. `owner` is the facet that it was set in: a fork has the rows of its source, which
//! are not its own.

use rusqlite::{Connection, Row};

use super::{change, exists, first};
use crate::alarms::{Alarm, AlarmState, Owner};
use crate::error::Result;
use crate::isolation::call::{as_host, host_sql};

const TABLE: &str = "_lapidary_alarms";

/// Takes the owner as ?1, and nothing else.
const COLUMNS: &str = "name, due, payload, attempts, error, wake, owner = ?1";

fn alarm(row: &Row<'_>) -> rusqlite::Result<Alarm> {
    let (wake, is_own) = (row.get::<_, Option<i64>>(5)?, row.get(6)?);
    Ok(Alarm {
        name: row.get(0)?,
        due_ms: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
        payload: row.get(2)?,
        attempts: row.get(3)?,
        error: row.get(4)?,
        state: match (is_own, wake) {
            (false, _) => AlarmState::Inherited,
            (true, Some(wake)) => AlarmState::Waiting { wake_ms: u64::try_from(wake).unwrap_or(0) },
            (true, None) => AlarmState::Failed,
        },
    })
}

pub(crate) fn set(
    connection: &Connection,
    owner: &Owner,
    name: &str,
    due_ms: i64,
    payload: &[u8],
) -> Result<()> {
    let create = "CREATE TABLE IF NOT EXISTS main._lapidary_alarms(
                      name TEXT PRIMARY KEY, due INTEGER NOT NULL, payload BLOB NOT NULL,
                      attempts INTEGER NOT NULL, error TEXT, wake INTEGER, owner BLOB NOT NULL)
                  WITHOUT ROWID";
    change(connection, create, ())?;
    let create = "CREATE INDEX IF NOT EXISTS main._lapidary_alarms_wake
                      ON _lapidary_alarms(owner, wake)";
    change(connection, create, ())?;
    let sql = "INSERT OR REPLACE INTO main._lapidary_alarms VALUES (?1, ?2, ?3, 0, NULL, ?2, ?4)";
    change(connection, sql, (name, due_ms, payload, owner.bytes()))?;
    Ok(())
}

pub(crate) fn get(connection: &Connection, owner: &Owner, name: &str) -> Result<Option<Alarm>> {
    let sql = format!("SELECT {COLUMNS} FROM main._lapidary_alarms WHERE name = ?2");
    first(connection, TABLE, &sql, (owner.bytes(), name), alarm)
}

pub(crate) fn delete(connection: &Connection, name: &str) -> Result<bool> {
    if !exists(connection, TABLE)? {
        return Ok(false);
    }
    Ok(change(connection, "DELETE FROM main._lapidary_alarms WHERE name = ?1", [name])? > 0)
}

/// In order of names, from the one that follows `after`.
pub(crate) fn list(
    connection: &Connection,
    owner: &Owner,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Alarm>> {
    if !exists(connection, TABLE)? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM main._lapidary_alarms WHERE name > ?2 ORDER BY name LIMIT ?3"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    as_host(|| {
        let mut statement = connection.prepare_cached(&host_sql(&sql))?;
        // No name is empty.
        let rows = statement.query_map((owner.bytes(), after.unwrap_or(""), limit), alarm)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    })
}

/// Makes the alarms of other facets `owner`'s, and tells how many there were.
pub(crate) fn adopt(connection: &Connection, owner: &Owner) -> Result<usize> {
    if !exists(connection, TABLE)? {
        return Ok(0);
    }
    let sql = "UPDATE main._lapidary_alarms SET owner = ?1 WHERE owner <> ?1";
    change(connection, sql, [owner.bytes()])
}

/// Whether the facet may have alarms.
pub(crate) fn has_any(connection: &Connection) -> Result<bool> {
    exists(connection, TABLE)
}

/// Makes the alarms of one other facet `owner`'s.
pub(crate) fn pass_on(connection: &Connection, from: &[u8], owner: &Owner) -> Result<usize> {
    let sql = "UPDATE main._lapidary_alarms SET owner = ?1 WHERE owner = ?2";
    change(connection, sql, (owner.bytes(), from))
}

/// When the next alarm of `owner` is to run.
pub(crate) fn next_wake(connection: &Connection, owner: &Owner) -> Result<Option<i64>> {
    let sql = "SELECT wake FROM main._lapidary_alarms
               WHERE owner = ?1 AND wake IS NOT NULL ORDER BY wake LIMIT 1";
    first(connection, TABLE, sql, [owner.bytes()], |row| row.get(0))
}

/// Takes out the alarm of `owner` that has been due longest.
pub(crate) fn take_due(
    connection: &Connection,
    owner: &Owner,
    now_ms: i64,
) -> Result<Option<Alarm>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM main._lapidary_alarms
         WHERE owner = ?1 AND wake <= ?2 ORDER BY wake LIMIT 1"
    );
    let due = first(connection, TABLE, &sql, (owner.bytes(), now_ms), alarm)?;
    if let Some(due) = &due {
        delete(connection, &due.name)?;
    }
    Ok(due)
}

/// Notes that running an alarm has failed; `wake` is when to try again, if at all.
pub(crate) fn note_failure(
    connection: &Connection,
    name: &str,
    attempts: u32,
    error: &str,
    wake: Option<i64>,
) -> Result<()> {
    let sql =
        "UPDATE main._lapidary_alarms SET attempts = ?2, error = ?3, wake = ?4 WHERE name = ?1";
    change(connection, sql, (name, attempts, error, wake))?;
    Ok(())
}
