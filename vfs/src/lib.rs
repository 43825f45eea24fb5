//! A SQLite VFS that keeps each database as a *facet* of one Lapidary page store.
//!
//! Register a store, then open facets with any SQLite interface that lives in the same process:
//! by VFS name, or with a URI `file:NAME?vfs=…`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use lapidary_engine::{Environment, MemoryIo, Store, StoreOptions};
//! use lapidary_vfs::{Registration, VfsOptions};
//! use rusqlite::{Connection, OpenFlags};
//!
//! // Environment::system("path/of/the/store") keeps it in files.
//! let environment = Environment::with_io(Arc::new(MemoryIo::new()));
//! let store = Store::open(environment, StoreOptions::create())?;
//! let registration = Registration::register("lapidary", store, VfsOptions::default())?;
//!
//! let flags = OpenFlags::default();
//! let acme = Connection::open_with_flags_and_vfs("tenants/acme", flags, "lapidary")?;
//! acme.execute_batch("CREATE TABLE notes(body TEXT); INSERT INTO notes VALUES ('hello');")?;
//!
//! let same = Connection::open("file:tenants/acme?vfs=lapidary")?;
//! let body: String = same.query_row("SELECT body FROM notes", [], |row| row.get(0))?;
//! assert_eq!(body, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A COMMIT of such a connection returns when the transaction is durable; connections that commit
//! at the same time share the wait. A host that would rather not wait opens them through a
//! [`Gate`]. Readers never wait for a writer, nor a writer for readers: each transaction reads the
//! version that was newest when it began.
//!
//! A program that knows paths and nothing of stores uses a [`PathVfs`], which opens stores by itself:
//! `file:NAME?vfs=…&store=PATH`.
//!
//! # Reading the past
//!
//! `file:NAME?vfs=…&at=BOOKMARK` opens the version of a facet that a
//! [`Bookmark`](lapidary_engine::Bookmark) names, if it is kept (`Store::set_retention`). Such a
//! connection is read-only, also if it was opened for writing or with `SQLITE_OPEN_CREATE`: writes
//! fail with `SQLITE_READONLY`. Its version stays what it is, and stays readable, for as long as the
//! connection is open, whatever is committed, restored, let go of or deleted meanwhile. A bookmark of
//! a version that is not kept, or of another facet, is `SQLITE_CANTOPEN`, and [`take_last_error`] says
//! what is kept. Attached to another connection, it lets the past be compared with the present:
//!
//! ```
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use lapidary_engine::*;
//! # use lapidary_vfs::{Registration, VfsOptions};
//! # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
//! # let store = Store::open(environment, StoreOptions::create())?;
//! # let _registration = Registration::register("doc-past", Arc::clone(&store), VfsOptions::default())?;
//! let name = FacetName::new("notes")?;
//! let day = Retention { bytes: 1 << 30, age: Duration::from_secs(24 * 3600) };
//! store.set_retention(&name, Some(day))?;
//!
//! let notes = rusqlite::Connection::open("file:notes?vfs=doc-past")?;
//! notes.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('keep'), ('lost')")?;
//! let bookmark = store.open_facet(&name)?.bookmark()?;
//! notes.execute("DELETE FROM note WHERE body = 'lost'", [])?;
//!
//! notes.execute_batch(&format!("ATTACH 'file:notes?vfs=doc-past&at={bookmark}' AS past"))?;
//! let sql = "SELECT body FROM past.note EXCEPT SELECT body FROM note";
//! let lost: String = notes.query_row(sql, [], |row| row.get(0))?;
//! assert_eq!(lost, "lost");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What differs from a database in a file
//!
//! - `journal_mode=WAL` is declined (readers and a writer go side by side without it), `OFF` is
//!   refused. DELETE, TRUNCATE, PERSIST and MEMORY work, and none of them costs a disk write.
//! - `PRAGMA synchronous` changes nothing: durability belongs to the connection's way in.
//! - A transaction over several facets of one VFS, attached to each other, is atomic, whatever the
//!   journal mode: all of it survives a crash, or nothing. One over facets and files, or facets of
//!   several stores, is refused where SQLite would have used a super-journal; with
//!   `journal_mode=MEMORY` or `synchronous=OFF` it would not, and each of them commits by itself, as
//!   files do.
//! - A write transaction that began with a read can meet `SQLITE_BUSY_SNAPSHOT`: somebody committed
//!   in between. Roll back and begin again; `BEGIN IMMEDIATE` with a busy timeout avoids it.
//! - With `locking_mode=EXCLUSIVE` a connection keeps its first snapshot after a read as well: it
//!   sees no later commit of others, and cannot write once there is one (`SQLITE_BUSY`).
//!   `PRAGMA locking_mode=NORMAL` and a read let go of it. On read-only connections, which would
//!   have nothing else from it, the mode is refused.
//! - A transaction that would take a facet beyond its quota (`Store::set_quota`) fails at COMMIT with
//!   `SQLITE_FULL` and is rolled back; the connection goes on.
//! - `PRAGMA mmap_size` has SQLite read pages in place, from a mapping that all connections of the store
//!   share. Only pages that are stored in full are, and nothing in a store that is in memory. It
//!   pays for large facets that many read. A statement that stays open keeps the segments it has
//!   read from; [`ProcessSettings::mmap_bytes`] is the default for all connections.
//! - The URI parameters `nolock` and `immutable` are refused, and so is any that begins with
//!   `lapidary`, or is called `at` in other than lower case: SQLite would ignore it in silence. What
//!   else it does not know it ignores.
//! - `PRAGMA lapidary_stat` gives figures of the facet, as JSON ([`facet_json`]);
//!   `PRAGMA lapidary_verify` verifies the whole store (`Store::verify`), reading all of it, and gives
//!   `ok` or a line for each thing that is wrong. Other pragmas that begin with `lapidary_` are refused.
//! - Result codes are SQLite's; [`take_last_error`] has the words behind the last one.
//!
//! # Features
//!
//! | feature | default | does |
//! |---|---|---|
//! | `bundled` | yes | compiles SQLite in; without it `libsqlite3-sys` links the system's, 3.39 or newer |
//! | `loadable_extension` | no | takes SQLite from the process that loads this as a part of an extension; not together with `bundled` |
//!
//! # Reading map
//!
//! | module | is |
//! |---|---|
//! | `registration`, `gate`, `process` | the public interface |
//! | `error` | result codes and the words kept beside them |
//! | `file` | the safe traits that SQLite's C interface is translated to |
//! | `file_system` | which file is opened how: facets, journals, refusals |
//! | `names` | facet names against the names of SQLite's side files |
//! | `database` | a handle to a facet: locks are snapshots, the commit point |
//! | `database/transaction`, `database/pages` | staged writes; bytes over pages |
//! | `database/pragma` | pragmas that mean something here |
//! | `database/visible`, `database/stamp` | the change counter SQLite sees, and why |
//! | `stat` | figures as JSON |
//! | `header` | the few fields of a first page that matter here |
//! | `root_hash` | root hashes of SQLite databases, in facets and in files |
//! | `stores` | a VFS that opens stores by their paths and shares them |
//! | `thread_use` | what a thread has read, written, and holds in memory |
//! | `side_files`, `scratch` | journals and temporary files |
//! | `ffi` | all unsafe code: C methods, panic barrier, registration, the watch on statements and what they may do, the count of memory |
//! | [`adapter`] | the same store through the `sqlite-vfs` crate's traits |
//! | `tests/vfs/` | all of it with real SQLite; `adapter.rs` holds it against stock SQLite |

/// The example of `README.md`, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(feature = "bundled", feature = "loadable_extension"))]
compile_error!(
    "of the features `bundled` and `loadable_extension` one can be on: an extension uses its host's SQLite"
);

pub mod adapter;
mod database;
mod error;
mod ffi;
mod file;
mod file_system;
mod gate;
mod header;
mod names;
#[cfg(not(feature = "loadable_extension"))]
mod process;
mod registration;
mod root_hash;
mod scratch;
mod side_files;
mod stat;
mod stores;
mod thread_use;

pub use error::{VfsError, take_last_error};
#[cfg(feature = "loadable_extension")]
pub use ffi::use_host_sqlite;
#[cfg(feature = "raw_file")]
pub use ffi::{Code, RawFile};
#[cfg(feature = "bundled")]
pub use ffi::{RunningStatement, StatementWatch, authorize_statements, watch_statements};
pub use ffi::{close_connection, fork_generation};
#[cfg(not(feature = "loadable_extension"))]
pub use ffi::{has_heap_refusal, limit_thread_heap, replace_heap_refusal};
pub use gate::{Collecting, Gate};
pub use names::facet_uri;
#[cfg(not(feature = "loadable_extension"))]
pub use process::{ProcessSettings, ProcessSetup, configure_process};
pub use registration::{Registration, VfsOptions};
pub use root_hash::{ROOT_HASH_MASK, RootHashError, root_hash_of_file, root_hash_of_reader};
pub use stat::{facet_json, store_json};
pub use stores::{OpenStore, OpenedFacet, PathVfs};
pub use thread_use::ThreadUse;
#[cfg(not(feature = "loadable_extension"))]
pub use thread_use::thread_heap_bytes;
