//! The one place with unsafe code: SQLite's C interface on one side, [`crate::file`]'s safe traits
//! on the other.
//!
//! Invariants, named in the SAFETY comments below:
//!
//! 1. **Memory of a VFS is never freed.** Connections keep bare pointers to the `sqlite3_vfs` even
//!    when they have no file open, and a thread may be between `sqlite3_vfs_find` and `xOpen`. So
//!    the structure, its name and its [`mount::AppData`] are leaked (some hundred bytes for each
//!    registration); what they lead to is reached through a `Weak`.
//! 2. **A slot belongs to one file.** SQLite gives `xOpen` a `sqlite3_file` of `szOsFile` bytes;
//!    [`slot::install`] makes a [`slot::Slot`] of it, whose methods table fits the type inside.
//!    SQLite calls the table's functions with that pointer alone, until `xClose`, and not after.
//! 3. **One call at a time on a file.** SQLite calls a file's methods under its connection's mutex,
//!    or, in multi-thread mode, from the one thread that may use the connection. Nothing that the
//!    methods call comes back to the same file. Files are `Send`, since threads may take turns.
//! 4. **Pointers passed in are good for the call**: buffers of the length given, strings that end
//!    in NUL, places for results.
//! 5. **No panic gets out.** Every entry point goes through [`barrier::guard`]. A file whose method
//!    panicked answers every later call with an error.
//! 6. **A file is of one process.** After a fork, a child answers the calls on its parent's files
//!    with errors, and touches nothing that they lead to (`forked`).

#![expect(unsafe_code, reason = "the C interface; everything else in this crate is safe")]

mod api;
#[cfg(feature = "bundled")]
mod authorizer;
mod barrier;
mod forked;
#[cfg(not(feature = "loadable_extension"))]
mod heap;
mod io_methods;
mod journal;
mod libraries;
mod mount;
mod opened;
#[cfg(not(feature = "loadable_extension"))]
mod process;
#[cfg(feature = "raw_file")]
mod raw_file;
mod signals;
mod slot;
mod statements;
mod vfs_methods;
#[cfg(feature = "bundled")]
mod watch;

#[cfg(feature = "loadable_extension")]
pub use api::use_host_sqlite;
#[cfg(feature = "bundled")]
pub use authorizer::authorize_statements;
pub use forked::fork_generation;
pub(crate) use forked::{Generation, OPENED_BEFORE_FORK, PerProcess};
#[cfg(not(feature = "loadable_extension"))]
pub use heap::{has_heap_refusal, limit_thread_heap, replace_heap_refusal};
pub(crate) use mount::{Mount, vfs_exists};
#[cfg(not(feature = "loadable_extension"))]
pub(crate) use process::configure;
#[cfg(feature = "raw_file")]
pub use raw_file::{Code, RawFile};
pub(crate) use signals::with_signals_blocked;
pub use statements::close_connection;
#[cfg(feature = "bundled")]
pub use watch::{RunningStatement, StatementWatch, watch_statements};

#[cfg(test)]
mod tests;
