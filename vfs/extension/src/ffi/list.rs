//! `lapidary_list(prefix)`: the facets within a name, as a table-valued function.
//!
//! rusqlite has no panic barrier around virtual tables, so each method here has one that can fail.

use std::os::raw::c_int;
use std::vec;

use lapidary_engine::{FacetInfo, FacetName};
use lapidary_vfs::OpenStore;
use rusqlite::ffi as sqlite;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor,
    eponymous_only_module,
};
use rusqlite::{Connection, Error, Result};

use super::{barrier, borrowed};
use crate::functions::{facet_name, failed, store_of};

/// The columns. The last is what the argument is compared with.
const SCHEMA: &str = "CREATE TABLE x(name TEXT, page_size INTEGER, pages INTEGER, bytes INTEGER, prefix TEXT HIDDEN)";
const PREFIX_COLUMN: c_int = 4;

/// Facets that are asked for at a time.
const BATCH: usize = 256;

/// Registers the function.
pub(crate) fn register(connection: &Connection) -> Result<()> {
    connection.create_module(c"lapidary_list", eponymous_only_module::<List>(), None)
}

/// SQLite's part first, as it knows no other.
#[repr(C)]
struct List {
    base: sqlite::sqlite3_vtab,
    connection: *mut sqlite::sqlite3,
}

// SAFETY: `repr(C)`, and begins with a `sqlite3_vtab`.
unsafe impl VTab<'_> for List {
    type Aux = ();
    type Cursor = Cursor;

    fn connect(
        connection: &mut VTabConnection,
        _aux: Option<&()>,
        _arguments: &[&[u8]],
    ) -> Result<(String, Self)> {
        connection.config(VTabConfig::DirectOnly)?;
        // SAFETY: used while the table is, which does not outlive the connection.
        let connection = unsafe { connection.handle() };
        Ok((SCHEMA.into(), Self { base: sqlite::sqlite3_vtab::default(), connection }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<()> {
        let is_prefix = |operator, column| {
            operator == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ && column == PREFIX_COLUMN
        };
        let wanted: Vec<(usize, bool)> = info
            .constraints()
            .enumerate()
            .filter(|(_, constraint)| is_prefix(constraint.operator(), constraint.column()))
            .map(|(index, constraint)| (index, constraint.is_usable()))
            .collect();
        if let Some((index, _)) = wanted.iter().find(|(_, is_usable)| *is_usable) {
            let mut usage = info.constraint_usage(*index);
            usage.set_argv_index(1);
            usage.set_omit(true);
            info.set_estimated_cost(1000.0);
        } else if wanted.is_empty() {
            info.set_estimated_cost(1_000_000.0);
        } else {
            // The argument is not known yet in this order of joins.
            return Err(Error::SqliteFailure(sqlite::Error::new(sqlite::SQLITE_CONSTRAINT), None));
        }
        Ok(())
    }

    fn open(&mut self) -> Result<Cursor> {
        Ok(Cursor {
            base: sqlite::sqlite3_vtab_cursor::default(),
            connection: self.connection,
            scan: None,
            row: None,
            rowid: 0,
        })
    }
}

/// SQLite's part first, as it knows no other.
#[repr(C)]
struct Cursor {
    base: sqlite::sqlite3_vtab_cursor,
    connection: *mut sqlite::sqlite3,
    scan: Option<Scan>,
    row: Option<FacetInfo>,
    rowid: i64,
}

/// What is still to come.
struct Scan {
    store: OpenStore,
    prefix: Option<FacetName>,
    batch: vec::IntoIter<FacetInfo>,
}

impl Scan {
    fn next(&mut self, last: Option<&FacetName>) -> Result<Option<FacetInfo>> {
        if let Some(facet) = self.batch.next() {
            return Ok(Some(facet));
        }
        let store = self.store.store();
        let facets = store.list_facets(self.prefix.as_ref(), last, BATCH).map_err(failed)?;
        // Nothing is told that a crash could take back.
        store.wait_durable(store.current_ticket()).map_err(failed)?;
        self.batch = facets.into_iter();
        Ok(self.batch.next())
    }
}

impl Cursor {
    fn start(&mut self, prefix: Option<&str>) -> Result<()> {
        self.scan = None;
        let prefix = prefix.filter(|prefix| !prefix.is_empty()).map(facet_name).transpose()?;
        // SAFETY: the connection that calls its table is alive, and used by this thread.
        let store = unsafe { borrowed(self.connection, store_of) }?;
        let mut scan = Scan { store, prefix, batch: Vec::new().into_iter() };
        self.row = scan.next(None)?;
        self.rowid = 1;
        self.scan = Some(scan);
        Ok(())
    }

    fn advance(&mut self) -> Result<()> {
        let last = self.row.take().map(|facet| facet.name);
        self.rowid += 1;
        if let Some(scan) = &mut self.scan {
            self.row = scan.next(last.as_ref())?;
        }
        Ok(())
    }
}

// SAFETY: `repr(C)`, and begins with a `sqlite3_vtab_cursor`.
unsafe impl VTabCursor for Cursor {
    fn filter(&mut self, _plan: c_int, _name: Option<&str>, arguments: &Filters<'_>) -> Result<()> {
        barrier(|| {
            let prefix = match arguments.iter().next() {
                Some(_) => arguments.get::<Option<String>>(0)?,
                None => None,
            };
            self.start(prefix.as_deref())
        })
    }

    fn next(&mut self) -> Result<()> {
        barrier(|| self.advance())
    }

    fn eof(&self) -> bool {
        self.row.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        let Some(facet) = &self.row else { return Ok(()) };
        let page_bytes = facet.page_size.map(|size| i64::try_from(size.bytes()).unwrap_or(0));
        match column {
            0 => context.set_result(&facet.name.as_str()),
            1 => context.set_result(&page_bytes),
            2 => context.set_result(&facet.page_count),
            3 => context.set_result(&(page_bytes.unwrap_or(0) * i64::from(facet.page_count))),
            _ => context.set_result(
                &self.scan.as_ref().and_then(|scan| scan.prefix.as_ref().map(FacetName::as_str)),
            ),
        }
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.rowid)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // It may be the last use of the store, and close it.
        let ended: Result<()> = barrier(|| {
            self.scan = None;
            Ok(())
        });
        drop(ended);
    }
}
