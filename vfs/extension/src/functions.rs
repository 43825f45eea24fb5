//! SQL functions.
//!
//! They work on the store of the connection's main database, if that is a facet, and on the default
//! store if not. What they change is durable when they return, and no part of a transaction.

use lapidary_engine::{Bookmark, FacetName, ForkFrom, Retention, Ticket};
use lapidary_vfs::{OpenStore, PathVfs};
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, Error, Result};

use crate::{ffi, setup};

/// Flags of all functions: not to be called from a schema or a trigger, which may be somebody else's.
const FLAGS: FunctionFlags = FunctionFlags::SQLITE_UTF8.union(FunctionFlags::SQLITE_DIRECTONLY);

/// Registers all functions with `connection`.
pub(crate) fn register(connection: &Connection) -> Result<()> {
    let function = |name: &str, arguments, body: fn(&Context<'_>) -> Result<String>| {
        connection.create_scalar_function(name, arguments, FLAGS, body)
    };
    function("lapidary_bookmark", 0, bookmark)?;
    function("lapidary_bookmark", 1, bookmark)?;
    function("lapidary_fork", 2, fork)?;
    function("lapidary_fork", 3, fork)?;
    function("lapidary_delete", 1, delete)?;
    function("lapidary_retention", 3, retention)?;
    function("lapidary_stat", 0, stat)?;
    function("lapidary_stat", 1, stat)?;
    connection.create_scalar_function("lapidary_last_error", 0, FLAGS, |_| {
        Ok(lapidary_vfs::take_last_error())
    })?;
    ffi::register_list(connection)
}

/// An error in SQL.
pub(crate) fn failed(error: impl ToString) -> Error {
    Error::ModuleError(error.to_string())
}

/// The store that the functions of `connection` work on.
pub(crate) fn store_of(connection: &Connection) -> Result<OpenStore> {
    let vfs = setup::vfs().map_err(failed)?;
    match vfs.opened_facet(connection, "main") {
        Some(opened) => Ok(opened.store),
        None => vfs.default_store().map_err(failed),
    }
}

/// The facet that a path names.
pub(crate) fn facet_name(path: &str) -> Result<FacetName> {
    PathVfs::facet_name(path).map_err(failed)
}

/// Argument `index` of `function`, which is a text.
fn text(context: &Context<'_>, index: usize, what: &str) -> Result<String> {
    match context.get_raw(index) {
        ValueRef::Text(bytes) => match str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(failed(format!("{what} is not UTF-8"))),
        },
        other => Err(failed(format!("{what} is to be a text, and is {:?}", other.data_type()))),
    }
}

/// Argument `index`, which is a number of `what`.
fn number(context: &Context<'_>, index: usize, what: &str) -> Result<u64> {
    let number = i64::column_result(context.get_raw(index)).ok();
    number
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| failed(format!("{what} is to be a whole number, 0 or more")))
}

fn name(context: &Context<'_>, index: usize, what: &str) -> Result<FacetName> {
    facet_name(&text(context, index, what)?)
}

/// Waits until a change is durable. What SQL is told must not be taken back by a crash.
fn durable(store: &OpenStore, ticket: Ticket) -> Result<()> {
    store.store().wait_durable(ticket).map_err(failed)
}

/// `lapidary_bookmark()`, `lapidary_bookmark(schema)`: names the newest durable version of a database.
fn bookmark(context: &Context<'_>) -> Result<String> {
    let schema =
        if context.is_empty() { "main".into() } else { text(context, 0, "the schema name")? };
    let vfs = setup::vfs().map_err(failed)?;
    let opened =
        ffi::with_connection(context, |connection| Ok(vfs.opened_facet(connection, &schema)))?;
    let opened = opened.ok_or_else(|| {
        failed(format!(
            "lapidary_bookmark: database {schema:?} of this connection is no facet; open one with \
             file:NAME?vfs={}&store=PATH",
            setup::VFS_NAME
        ))
    })?;
    Ok(opened.facet.bookmark().map_err(failed)?.to_string())
}

/// `lapidary_fork(from, to)`, `lapidary_fork(from, to, bookmark)`: gives the name of the fork.
fn fork(context: &Context<'_>) -> Result<String> {
    let (from, to) = (name(context, 0, "the source's name")?, name(context, 1, "the fork's name")?);
    let version = if context.len() > 2 {
        let bookmark: Bookmark = text(context, 2, "the bookmark")?.parse().map_err(failed)?;
        ForkFrom::Bookmark(bookmark)
    } else {
        ForkFrom::Latest
    };
    let store = ffi::with_connection(context, store_of)?;
    let (fork, ticket) = store.store().fork_facet(&from, &to, version).map_err(failed)?;
    durable(&store, ticket)?;
    Ok(fork.name().to_string())
}

/// `lapidary_delete(name)`: deletes a facet and all below it, and gives its name.
fn delete(context: &Context<'_>) -> Result<String> {
    let name = name(context, 0, "the facet's name")?;
    let store = ffi::with_connection(context, store_of)?;
    let ticket = store.store().delete_facet(&name).map_err(failed)?;
    durable(&store, ticket)?;
    Ok(name.to_string())
}

/// `lapidary_retention(name, bytes, seconds)`: how much history a facet and all below it keep.
fn retention(context: &Context<'_>) -> Result<String> {
    let name = name(context, 0, "the facet's name")?;
    let bytes = number(context, 1, "the retention in bytes")?;
    let seconds = number(context, 2, "the retention in seconds")?;
    let retention = Retention { bytes, age: std::time::Duration::from_secs(seconds) };
    let store = ffi::with_connection(context, store_of)?;
    let ticket = store.store().set_retention(&name, Some(retention)).map_err(failed)?;
    durable(&store, ticket)?;
    Ok(name.to_string())
}

/// `lapidary_stat()`: figures of the store. `lapidary_stat(name)`: of a facet.
fn stat(context: &Context<'_>) -> Result<String> {
    let store = ffi::with_connection(context, store_of)?;
    if context.is_empty() {
        return Ok(lapidary_vfs::store_json(store.store()));
    }
    let name = name(context, 0, "the facet's name")?;
    let facet = store.store().open_facet(&name).map_err(failed)?;
    // It tells of how the facet came by its name.
    durable(&store, facet.name_ticket())?;
    lapidary_vfs::facet_json(&facet).map_err(failed)
}
