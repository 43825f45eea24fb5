//! What the host keeps for itself inside facets: tables named `_lapidary_…`, which come into being
//! when they are first needed. Every statement on them is in this module, and is the host's own to the
//! facet's isolation.

pub(crate) mod alarms;
pub(crate) mod kv;
pub(crate) mod meta;
pub(crate) mod requests;

use rusqlite::{Connection, OptionalExtension as _, Params, Row};

use crate::error::Result;
use crate::isolation::call::{as_host, host_sql};

/// The first row of `sql`; `None` if there is none, or the reserved table `table` does not exist.
fn first<T, P, F>(
    connection: &Connection,
    table: &str,
    sql: &str,
    params: P,
    row: F,
) -> Result<Option<T>>
where
    P: Params,
    F: FnOnce(&Row<'_>) -> rusqlite::Result<T>,
{
    as_host(|| match connection.prepare_cached(&host_sql(sql)) {
        Ok(mut statement) => Ok(statement.query_row(params, row).optional()?),
        // Asked only now: the table is there most of the time.
        Err(_) if !exists(connection, table)? => Ok(None),
        Err(error) => Err(error.into()),
    })
}

fn exists(connection: &Connection, table: &str) -> Result<bool> {
    Ok(connection.table_exists(Some("main"), table)?)
}

/// Runs one statement and tells how many rows it changed.
fn change<P: Params>(connection: &Connection, sql: &str, params: P) -> Result<usize> {
    as_host(|| Ok(connection.prepare_cached(&host_sql(sql))?.execute(params)?))
}
