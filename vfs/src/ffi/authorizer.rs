//! What statements are about to do, before they do it: `sqlite3_set_authorizer`.
//!
//! That of rusqlite panics at a name that is not UTF-8, which a file from elsewhere can have.

use std::borrow::Cow;
use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};

use rusqlite::Connection;
use rusqlite::ffi as sqlite;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};

use super::barrier::guard_value;

/// Has `authorize` asked of every action of the statements that `connection` compiles from now on, as rusqlite's
/// `Connection::authorizer` does, and in place of that. What of a name is not UTF-8 is shown to it as U+FFFD. It lives as
/// long as the connection, which it must not use. A panic in it refuses the action.
///
/// # Errors
/// Those of SQLite, when there is no memory.
pub fn authorize_statements<F>(connection: &Connection, authorize: F) -> rusqlite::Result<()>
where
    F: Fn(&AuthContext<'_>) -> Authorization + Send + 'static,
{
    let authorize = Box::into_raw(Box::new(authorize)).cast::<c_void>();
    // SAFETY: the handle is used during this call alone, and not closed by it.
    let handle = unsafe { connection.handle() };
    // SAFETY: an open connection that this thread uses; the name ends in NUL and is copied; `authorize` was
    // made of the type that the destructor takes, and SQLite runs that once, also if this fails.
    let code = unsafe {
        let name = c"lapidary_authorizer".as_ptr();
        sqlite::sqlite3_set_clientdata(handle, name, authorize, Some(discard::<F>))
    };
    if code != sqlite::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(sqlite::Error::new(code), None));
    }
    // SAFETY: `authorize` is of the type that the callback takes, and lives until the connection is closed
    // or is given another, which is set before the old one can be called again.
    let code = unsafe { sqlite::sqlite3_set_authorizer(handle, Some(asked::<F>), authorize) };
    if code != sqlite::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(sqlite::Error::new(code), None));
    }
    Ok(())
}

unsafe extern "C" fn discard<F>(authorize: *mut c_void) {
    // SAFETY: made by `authorize_statements` of a box of this type; SQLite calls this once.
    let authorize = unsafe { Box::from_raw(authorize.cast::<F>()) };
    guard_value((), || drop(authorize));
}

unsafe extern "C" fn asked<F: Fn(&AuthContext<'_>) -> Authorization>(
    authorize: *mut c_void,
    code: c_int,
    one: *const c_char,
    two: *const c_char,
    database: *const c_char,
    accessor: *const c_char,
) -> c_int {
    // SAFETY: of this type and alive, see `authorize_statements`.
    let authorize = unsafe { &*authorize.cast::<F>() };
    let words = [one, two, database, accessor];
    // SAFETY: SQLite passes null, or strings that end in NUL and are good for the call.
    let words = words.map(|word| unsafe { text(word) });
    let [one, two, database_name, accessor] = words.each_ref().map(Option::as_deref);
    let context = AuthContext { action: action(code, one, two), database_name, accessor };
    guard_value(sqlite::SQLITE_DENY, || match authorize(&context) {
        Authorization::Allow => sqlite::SQLITE_OK,
        Authorization::Ignore => sqlite::SQLITE_IGNORE,
        _ => sqlite::SQLITE_DENY,
    })
}

/// # Safety
/// `word` is null, or a string that ends in NUL and is good for `'call`.
unsafe fn text<'call>(word: *const c_char) -> Option<Cow<'call, str>> {
    // SAFETY: as the caller says.
    (!word.is_null()).then(|| unsafe { CStr::from_ptr(word) }.to_string_lossy())
}

/// The action that SQLite means by a code and two words, see <https://sqlite.org/c3ref/c_alter_table.html>.
fn action<'call>(
    code: c_int,
    one: Option<&'call str>,
    two: Option<&'call str>,
) -> AuthAction<'call> {
    use AuthAction as A;
    match (code, one, two) {
        (sqlite::SQLITE_SELECT, ..) => A::Select,
        (sqlite::SQLITE_RECURSIVE, ..) => A::Recursive,
        (sqlite::SQLITE_FUNCTION, _, Some(function_name)) => A::Function { function_name },
        (code, Some(one), two) => named(code, one, two),
        (code, arg1, arg2) => A::Unknown { code, arg1, arg2 },
    }
}

/// Those whose first word is there.
fn named<'call>(code: c_int, one: &'call str, two: Option<&'call str>) -> AuthAction<'call> {
    use AuthAction as A;
    match (code, two) {
        (sqlite::SQLITE_READ, Some(column_name)) => A::Read { table_name: one, column_name },
        (sqlite::SQLITE_UPDATE, Some(column_name)) => A::Update { table_name: one, column_name },
        (sqlite::SQLITE_INSERT, _) => A::Insert { table_name: one },
        (sqlite::SQLITE_DELETE, _) => A::Delete { table_name: one },
        (sqlite::SQLITE_TRANSACTION, _) => A::Transaction { operation: operation(one) },
        (sqlite::SQLITE_SAVEPOINT, Some(savepoint_name)) => {
            A::Savepoint { operation: operation(one), savepoint_name }
        }
        (sqlite::SQLITE_PRAGMA, pragma_value) => A::Pragma { pragma_name: one, pragma_value },
        (sqlite::SQLITE_ATTACH, _) => A::Attach { filename: one },
        (sqlite::SQLITE_DETACH, _) => A::Detach { database_name: one },
        (sqlite::SQLITE_REINDEX, _) => A::Reindex { index_name: one },
        (sqlite::SQLITE_ANALYZE, _) => A::Analyze { table_name: one },
        (sqlite::SQLITE_ALTER_TABLE, Some(table_name)) => {
            A::AlterTable { database_name: one, table_name }
        }
        (sqlite::SQLITE_CREATE_TABLE, _) => A::CreateTable { table_name: one },
        (sqlite::SQLITE_CREATE_TEMP_TABLE, _) => A::CreateTempTable { table_name: one },
        (sqlite::SQLITE_DROP_TABLE, _) => A::DropTable { table_name: one },
        (sqlite::SQLITE_DROP_TEMP_TABLE, _) => A::DropTempTable { table_name: one },
        (sqlite::SQLITE_CREATE_VIEW, _) => A::CreateView { view_name: one },
        (sqlite::SQLITE_CREATE_TEMP_VIEW, _) => A::CreateTempView { view_name: one },
        (sqlite::SQLITE_DROP_VIEW, _) => A::DropView { view_name: one },
        (sqlite::SQLITE_DROP_TEMP_VIEW, _) => A::DropTempView { view_name: one },
        (sqlite::SQLITE_CREATE_VTABLE, Some(module_name)) => {
            A::CreateVtable { table_name: one, module_name }
        }
        (sqlite::SQLITE_DROP_VTABLE, Some(module_name)) => {
            A::DropVtable { table_name: one, module_name }
        }
        (sqlite::SQLITE_CREATE_INDEX, Some(table_name)) => {
            A::CreateIndex { index_name: one, table_name }
        }
        (sqlite::SQLITE_CREATE_TEMP_INDEX, Some(table_name)) => {
            A::CreateTempIndex { index_name: one, table_name }
        }
        (sqlite::SQLITE_DROP_INDEX, Some(table_name)) => {
            A::DropIndex { index_name: one, table_name }
        }
        (sqlite::SQLITE_DROP_TEMP_INDEX, Some(table_name)) => {
            A::DropTempIndex { index_name: one, table_name }
        }
        (sqlite::SQLITE_CREATE_TRIGGER, Some(table_name)) => {
            A::CreateTrigger { trigger_name: one, table_name }
        }
        (sqlite::SQLITE_CREATE_TEMP_TRIGGER, Some(table_name)) => {
            A::CreateTempTrigger { trigger_name: one, table_name }
        }
        (sqlite::SQLITE_DROP_TRIGGER, Some(table_name)) => {
            A::DropTrigger { trigger_name: one, table_name }
        }
        (sqlite::SQLITE_DROP_TEMP_TRIGGER, Some(table_name)) => {
            A::DropTempTrigger { trigger_name: one, table_name }
        }
        (code, two) => A::Unknown { code, arg1: Some(one), arg2: two },
    }
}

fn operation(word: &str) -> TransactionOperation {
    match word {
        "BEGIN" => TransactionOperation::Begin,
        "RELEASE" => TransactionOperation::Release,
        "ROLLBACK" => TransactionOperation::Rollback,
        _ => TransactionOperation::Unknown,
    }
}
