//! Statements as they run: `sqlite3_trace_v2`.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::raw::{c_char, c_int, c_uint, c_void};

use rusqlite::Connection;
use rusqlite::ffi as sqlite;

use super::barrier::guard_value;

/// Is told of the statements of a connection; see [`watch_statements`]. Its methods must not use the
/// connection.
pub trait StatementWatch: Send + 'static {
    /// A statement begins; or within it a trigger or one of a trigger's statements, of which `sql` is a
    /// comment that begins with `--`.
    fn begins(&mut self, statement: &RunningStatement<'_>, sql: &[u8]);

    /// A statement gives out a row.
    fn row(&mut self, statement: &RunningStatement<'_>);

    /// A statement has come to its end or was reset.
    fn ends(&mut self, statement: &RunningStatement<'_>);
}

/// A statement that runs, to a [`StatementWatch`].
#[derive(Debug)]
pub struct RunningStatement<'call> {
    handle: *mut sqlite::sqlite3_stmt,
    call: PhantomData<&'call ()>,
}

impl RunningStatement<'_> {
    /// Tells it from the other statements that its connection has now.
    #[must_use]
    pub fn id(&self) -> usize {
        self.handle.addr()
    }

    /// Its SQL, without the values that were bound to it; empty if it has none.
    #[must_use]
    pub fn sql(&self) -> &[u8] {
        // SAFETY: a statement that SQLite has passed to the callback that is running.
        let sql = unsafe { sqlite::sqlite3_sql(self.handle) };
        if sql.is_null() {
            return &[];
        }
        // SAFETY: a string that ends in NUL, and lives as long as the statement.
        unsafe { CStr::from_ptr(sql) }.to_bytes()
    }

    /// VM steps of all its runs, as far as they have ended or given out a row. Wraps around.
    #[must_use]
    pub fn vm_steps(&self) -> u32 {
        self.status(sqlite::SQLITE_STMTSTATUS_VM_STEP, false)
    }

    /// Steps through tables from end to end since this was last asked.
    #[must_use]
    pub fn take_full_scan_steps(&self) -> u32 {
        self.status(sqlite::SQLITE_STMTSTATUS_FULLSCAN_STEP, true)
    }

    fn status(&self, counter: c_int, reset: bool) -> u32 {
        // SAFETY: a statement that SQLite has passed to the callback that is running.
        let value = unsafe { sqlite::sqlite3_stmt_status(self.handle, counter, reset.into()) };
        value.cast_unsigned()
    }
}

/// Has `watch` told of every statement of `connection`, in place of what was told of them before, by
/// this or by rusqlite's `trace_v2`. It lives as long as the connection.
///
/// # Errors
/// Those of SQLite, when there is no memory.
pub fn watch_statements<W: StatementWatch>(
    connection: &Connection,
    watch: W,
) -> rusqlite::Result<()> {
    let watch = Box::into_raw(Box::new(watch)).cast::<c_void>();
    // SAFETY: the handle is used during this call alone, and not closed by it.
    let handle = unsafe { connection.handle() };
    // SAFETY: an open connection that this thread uses; the name ends in NUL and is copied; `watch` was
    // made of the type that the destructor takes, and SQLite runs that once, also if this fails.
    let code = unsafe {
        let name = c"lapidary_watch".as_ptr();
        sqlite::sqlite3_set_clientdata(handle, name, watch, Some(discard::<W>))
    };
    if code != sqlite::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(sqlite::Error::new(code), None));
    }
    let events =
        sqlite::SQLITE_TRACE_STMT | sqlite::SQLITE_TRACE_ROW | sqlite::SQLITE_TRACE_PROFILE;
    // SAFETY: `watch` is of the type that the callback takes, and lives until the connection is closed
    // or is watched anew, which sets another before the old one can be called again.
    let code = unsafe { sqlite::sqlite3_trace_v2(handle, events, Some(told::<W>), watch) };
    if code != sqlite::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(sqlite::Error::new(code), None));
    }
    Ok(())
}

unsafe extern "C" fn discard<W>(watch: *mut c_void) {
    // SAFETY: made by `watch_statements` of a box of this type; SQLite calls this once.
    let watch = unsafe { Box::from_raw(watch.cast::<W>()) };
    guard_value((), || drop(watch));
}

unsafe extern "C" fn told<W: StatementWatch>(
    event: c_uint,
    watch: *mut c_void,
    statement: *mut c_void,
    detail: *mut c_void,
) -> c_int {
    // SAFETY: of this type and alive, see `watch_statements`. SQLite calls this from the one thread that
    // uses the connection, and the watch does not lead back here.
    let watch = unsafe { &mut *watch.cast::<W>() };
    let running = RunningStatement { handle: statement.cast(), call: PhantomData };
    guard_value((), || match event {
        sqlite::SQLITE_TRACE_STMT => {
            // SAFETY: the event comes with a string that ends in NUL and is good for the call.
            let sql = unsafe { CStr::from_ptr(detail.cast::<c_char>()) };
            watch.begins(&running, sql.to_bytes());
        }
        sqlite::SQLITE_TRACE_ROW => watch.row(&running),
        sqlite::SQLITE_TRACE_PROFILE => watch.ends(&running),
        _ => {}
    });
    sqlite::SQLITE_OK
}
