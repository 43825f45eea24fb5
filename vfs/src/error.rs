//! Errors of the VFS: typed for Rust callers, a result code for SQLite, and the full words kept
//! aside, since SQLite passes nothing but the code on.

use std::cell::RefCell;
use std::os::raw::c_int;

use lapidary_engine::{Error as EngineError, ErrorKind as EngineErrorKind};
use rusqlite::ffi as sqlite;

/// Why a store could not be registered as a SQLite VFS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfsError {
    /// The name cannot be a VFS name.
    #[error("VFS name {name:?} is refused: {reason}; use a short word such as `lapidary`")]
    InvalidVfsName {
        /// The name, its first 64 characters.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// SQLite knows a VFS of that name already.
    #[error(
        "VFS name {name:?} is taken: drop its registration and close its connections first, or \
         choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The SQLite that loads an extension lacks functions that are needed.
    #[cfg(feature = "loadable_extension")]
    #[error(
        "this program's SQLite is version number {version}, but {needed} is needed (3.39 is 3039000); \
         use a newer SQLite, or build with an older rusqlite"
    )]
    HostTooOld {
        /// Its version number; 0 if it does not tell.
        version: i32,
        /// The least that would do.
        needed: i32,
    },
    /// Two SQLite libraries in one process load the same extension.
    #[cfg(feature = "loadable_extension")]
    #[error(
        "another SQLite library of this process has loaded the extension, and what is of one library \
         must not be given to another; use one SQLite library in a process"
    )]
    SecondHost,
    /// No store was named, and there is no default.
    #[error(
        "no store is named: open `file:NAME?vfs=…&store=PATH`, or set a default store (extension: the \
         environment variable LAPIDARY_STORE, before it is loaded)"
    )]
    NoStoreNamed,
    /// A path that cannot name a facet.
    #[error("{0}")]
    InvalidPath(String),
    /// A store could not be opened.
    #[error(transparent)]
    Store(#[from] EngineError),
    /// SQLite refused the registration.
    #[error("SQLite refused to register VFS {name:?} (result code {code})")]
    Refused {
        /// The name.
        name: String,
        /// SQLite's result code.
        code: i32,
    },
}

/// What SQLite was doing; decides the result code of an error that has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    Read,
    Write,
    Truncate,
    Size,
    Sync,
    Lock,
    Commit,
}

impl Operation {
    fn result_code(self) -> c_int {
        match self {
            Self::Open => sqlite::SQLITE_CANTOPEN,
            Self::Read => sqlite::SQLITE_IOERR_READ,
            Self::Write => sqlite::SQLITE_IOERR_WRITE,
            Self::Truncate => sqlite::SQLITE_IOERR_TRUNCATE,
            Self::Size => sqlite::SQLITE_IOERR_FSTAT,
            Self::Sync | Self::Commit => sqlite::SQLITE_IOERR_FSYNC,
            Self::Lock => sqlite::SQLITE_IOERR_LOCK,
        }
    }
}

/// An error on its way to SQLite.
#[derive(Debug)]
pub(crate) struct Failure {
    /// SQLite's result code.
    pub(crate) code: c_int,
    /// The full words.
    pub(crate) message: String,
    /// What the operating system said, as `errno`; 0 if it was not asked.
    pub(crate) os_error: i32,
}

impl Failure {
    /// An error with a result code of its own.
    pub(crate) fn new(code: c_int, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), os_error: 0 }
    }

    /// An error of `operation`, with the result code that SQLite expects from it.
    pub(crate) fn of(operation: Operation, message: impl Into<String>) -> Self {
        Self::new(operation.result_code(), message)
    }

    /// An error of the engine during `operation`.
    pub(crate) fn from_engine(operation: Operation, error: &EngineError) -> Self {
        let os_error = match error {
            EngineError::Io { source, .. } => source.raw_os_error().unwrap_or(0),
            _ => 0,
        };
        let code = match (operation, error) {
            // Whatever is wrong, a file that was not opened is SQLITE_CANTOPEN; a full disk or quota
            // alone is worth telling apart, since space can be made.
            (_, EngineError::NoSpace { .. } | EngineError::QuotaExceeded { .. }) => {
                sqlite::SQLITE_FULL
            }
            (Operation::Open, _) => operation.result_code(),
            // BUSY is for locks alone: anywhere else the pager would take it as "not now", keep
            // its dirty cache, and a second COMMIT would falsely succeed.
            (Operation::Lock, EngineError::WriterBusy { .. }) => sqlite::SQLITE_BUSY,
            (Operation::Lock, EngineError::StaleSnapshot { .. }) => sqlite::SQLITE_BUSY_SNAPSHOT,
            (_, EngineError::FacetDeleted { .. } | EngineError::FacetNotFound { .. }) => {
                sqlite::SQLITE_IOERR_VNODE
            }
            (_, EngineError::PageCorrupt { .. } | EngineError::MapCorrupt { .. }) => {
                sqlite::SQLITE_IOERR_DATA
            }
            (_, EngineError::Corrupt { .. }) => sqlite::SQLITE_IOERR_CORRUPTFS,
            // SQLite itself gives this one no meaning any more.
            (_, error) if error.kind() == EngineErrorKind::Unavailable => {
                sqlite::SQLITE_IOERR_BLOCKED
            }
            _ => operation.result_code(),
        };
        Self { code, message: error.to_string(), os_error }
    }

    /// An error of the operating system during `operation` on `what`.
    pub(crate) fn from_io(operation: Operation, what: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let code = if matches!(error.kind(), StorageFull | QuotaExceeded) {
            sqlite::SQLITE_FULL
        } else {
            operation.result_code()
        };
        let message = format!("{what}: {error}");
        Self { code, message, os_error: error.raw_os_error().unwrap_or(0) }
    }

    /// Whether this says no more than "try again".
    pub(crate) fn is_busy(&self) -> bool {
        self.code & 0xff == sqlite::SQLITE_BUSY
    }
}

#[derive(Debug)]
struct LastError {
    message: String,
    os_error: i32,
}

thread_local! {
    static LAST_ERROR: RefCell<Option<LastError>> = const { RefCell::new(None) };
}

/// Keeps the words of `failure` for [`take_last_error`].
pub(crate) fn keep_last_error(failure: &Failure) {
    LAST_ERROR.with_borrow_mut(|last| {
        *last = Some(LastError { message: failure.message.clone(), os_error: failure.os_error });
    });
}

/// The words and the `errno` of the last error on this thread, left in place.
pub(crate) fn peek_last_error() -> Option<(String, i32)> {
    LAST_ERROR
        .with_borrow(|last| last.as_ref().map(|error| (error.message.clone(), error.os_error)))
}

/// Takes the last error that the VFS met on this thread, in full words.
///
/// SQLite hands on nothing but a result code ("disk I/O error", "unable to open database file");
/// this says which facet, which rule, and what to do. SQLite's error log gets the same words.
/// `None` if there was no error since the last call. Busy locks count as errors here too.
#[must_use]
pub fn take_last_error() -> Option<String> {
    LAST_ERROR.with_borrow_mut(Option::take).map(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locks_are_busy() {
        let busy = EngineError::WriterBusy { name: "a".into() };
        let stale = EngineError::StaleSnapshot { name: "a".into() };
        assert_eq!(Failure::from_engine(Operation::Lock, &busy).code, sqlite::SQLITE_BUSY);
        assert_eq!(
            Failure::from_engine(Operation::Lock, &stale).code,
            sqlite::SQLITE_BUSY_SNAPSHOT
        );
        for operation in [Operation::Read, Operation::Write, Operation::Sync, Operation::Commit] {
            for error in [&busy, &stale] {
                let failure = Failure::from_engine(operation, error);
                assert_eq!(failure.code & 0xff, sqlite::SQLITE_IOERR, "{operation:?} {error}");
            }
        }
    }

    #[test]
    fn a_commit_fails_with_ioerr_or_full_alone() {
        let errors = [
            EngineError::NoSpace { path: "p".into(), needed_bytes: 1 },
            EngineError::QuotaExceeded {
                name: "a".into(),
                limit_bytes: 1,
                used_bytes: 1,
                needed_bytes: 1,
            },
            EngineError::Poisoned { cause: "c".into() },
            EngineError::Closed,
            EngineError::FacetDeleted { name: "a".into() },
            EngineError::InvalidInput("x".into()),
            EngineError::Corrupt { path: "p".into(), offset: 0, detail: "d".into() },
        ];
        for error in &errors {
            let code = Failure::from_engine(Operation::Commit, error).code & 0xff;
            assert!(code == sqlite::SQLITE_IOERR || code == sqlite::SQLITE_FULL, "{error}");
        }
    }

    #[test]
    fn words_are_kept_once_per_thread() {
        assert_eq!(take_last_error(), None);
        keep_last_error(&Failure::new(sqlite::SQLITE_IOERR, "the words"));
        assert_eq!(peek_last_error(), Some(("the words".into(), 0)));
        std::thread::spawn(|| assert_eq!(take_last_error(), None)).join().unwrap();
        assert_eq!(take_last_error().as_deref(), Some("the words"));
        assert_eq!(take_last_error(), None);
    }
}
