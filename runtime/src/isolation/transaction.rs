//! The host's own transaction statements, kept prepared where the facet's SQL cannot ask for them.

use std::sync::LazyLock;

use rusqlite::{Connection, Result};

use super::call::{as_host, host_sql, mark};

fn run(connection: &Connection, sql: &str) -> Result<()> {
    as_host(|| connection.prepare_cached(sql)?.execute(())).map(drop)
}

/// BEGIN.
pub(crate) fn begin(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| host_sql("BEGIN"));
    run(connection, &SQL)
}

/// COMMIT.
pub(crate) fn commit(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| host_sql("COMMIT"));
    run(connection, &SQL)
}

/// ROLLBACK.
pub(crate) fn rollback(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| host_sql("ROLLBACK"));
    run(connection, &SQL)
}

/// SAVEPOINT. Names of savepoints nest: the innermost counts.
pub(crate) fn savepoint(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| host_sql("SAVEPOINT lapidary"));
    run(connection, &SQL)
}

/// RELEASE of the innermost [`savepoint`].
pub(crate) fn release(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| host_sql("RELEASE lapidary"));
    run(connection, &SQL)
}

/// ROLLBACK TO the innermost [`savepoint`], which stays.
pub(crate) fn rollback_to(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| host_sql("ROLLBACK TO lapidary"));
    run(connection, &SQL)
}

/// SAVEPOINT of a call that shares its commit. Its SQL cannot guess the name, so what is released or
/// rolled back by it later is this one.
pub(crate) fn begin_call(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("SAVEPOINT call_{}", mark()));
    run(connection, &SQL)
}

/// RELEASE of what [`begin_call`] began.
pub(crate) fn end_call(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("RELEASE call_{}", mark()));
    run(connection, &SQL)
}

/// ROLLBACK TO what [`begin_call`] began, and its RELEASE.
pub(crate) fn undo_call(connection: &Connection) -> Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("ROLLBACK TO call_{}", mark()));
    run(connection, &SQL)?;
    end_call(connection)
}
