//! The same store through the traits of the [`sqlite-vfs`](sqlite_vfs) crate: a second way in, for
//! those who build on that crate, and independent of this crate's own C interface, which tests use
//! to hold one against the other.
//!
//! ```
//! use std::sync::Arc;
//!
//! use lapidary_engine::{Environment, MemoryIo, Store, StoreOptions};
//! use lapidary_vfs::{VfsOptions, adapter};
//! use rusqlite::{Connection, OpenFlags};
//!
//! let environment = Environment::with_io(Arc::new(MemoryIo::new()));
//! let store = Store::open(environment, StoreOptions::create())?;
//! adapter::register("lapidary-adapter", store, VfsOptions::default())?;
//! let flags = OpenFlags::default();
//! let notes = Connection::open_with_flags_and_vfs("notes", flags, "lapidary-adapter")?;
//! notes.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where a transaction commits
//!
//! The traits do not hand on `SQLITE_FCNTL_COMMIT_PHASETWO`. What a handle sees of a transaction is
//! writes, a sync, the end of the journal, perhaps a truncation, and an unlock, and a ROLLBACK
//! looks the same: it writes the old pages back first. So here
//!
//! 1. **`sync` commits.** SQLite syncs a database when all pages of a COMMIT are written, or all
//!    pages of a ROLLBACK are back in place; never in between. The version that a ROLLBACK so makes
//!    equals the one before.
//! 2. **Lowering the lock to SHARED commits what came after the sync**: the truncation of a
//!    database that shrank. A crash between the two leaves unused pages at the end, as it can in
//!    a file.
//! 3. **Lowering it to NONE commits nothing.** That is how the pager leaves its error state.
//!
//! # What is refused
//!
//! Each of these would turn 1 into a half-done commit, or into none:
//!
//! - `synchronous=OFF`, under which nothing is synced: an error at the end of the journal, or when
//!   the lock is lowered;
//! - `journal_mode=MEMORY` and `OFF`, which look the same from here, and of which OFF takes nothing
//!   back: an error at the first write;
//! - transactions over several files, as everywhere in this crate.
//!
//! `locking_mode=EXCLUSIVE` works.
//!
//! # Known limits of the crate underneath
//!
//! Registrations are for ever, and so is the store behind one; the registration is not sound if
//! connections are *opened* by several threads at the same time; a stale snapshot is
//! `SQLITE_BUSY` (there is no way to say `SQLITE_BUSY_SNAPSHOT`); `CURRENT_TIME` is in January
//! 1970; names have at most 503 bytes; URI parameters are ignored; there is no gate.

mod file;
mod link;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapidary_engine::{FacetName, Store};
use sqlite_vfs::{OpenAccess, OpenKind, OpenOptions, RegisterError, Vfs};

pub use self::file::StoreFile;
use self::link::Links;
use crate::database::{DatabaseFile, Durability, Groups, NO_WRITE_AHEAD_LOG};
use crate::error::{Failure, Operation, VfsError, keep_last_error};
use crate::file::Access;
use crate::file_system::open_facet;
use crate::names;
use crate::registration::{VfsOptions, check_name};
use crate::scratch::{NO_SUPER_JOURNAL, ScratchFile, ScratchSpace, Watch};

/// Start of the names that temporary files get, in place of none.
const TEMPORARY_PREFIX: &str = "lapidary-temporary-";

/// A store behind the traits of [`sqlite_vfs`].
#[derive(Debug)]
pub struct StoreVfs {
    store: Arc<Store>,
    groups: Arc<Groups>,
    scratch: ScratchSpace,
    links: Links,
    temporary_files: AtomicU64,
}

/// Registers `store` with SQLite under `vfs_name` through [`sqlite_vfs::register`], for the rest of
/// the process's life.
///
/// # Errors
/// [`VfsError`], as for [`Registration::register`](crate::Registration::register).
pub fn register(vfs_name: &str, store: Arc<Store>, options: VfsOptions) -> Result<(), VfsError> {
    check_name(vfs_name)?;
    if crate::ffi::vfs_exists(vfs_name) {
        return Err(VfsError::NameTaken { name: vfs_name.to_owned() });
    }
    let make_default = options.make_default;
    let vfs = StoreVfs::new(store, options);
    sqlite_vfs::register(vfs_name, vfs, make_default).map_err(|error| VfsError::Refused {
        name: vfs_name.to_owned(),
        code: match error {
            RegisterError::Register(code) => code,
            RegisterError::Nul(_) => rusqlite::ffi::SQLITE_MISUSE,
        },
    })
}

impl StoreVfs {
    /// A VFS for `store`, to be registered by the caller.
    #[must_use]
    pub fn new(store: Arc<Store>, options: VfsOptions) -> Self {
        Self {
            groups: Arc::default(),
            store,
            scratch: ScratchSpace {
                memory_bytes_max: options.scratch_memory_bytes_max,
                directory: options.scratch_directory.map(Arc::new),
            },
            links: Links::default(),
            temporary_files: AtomicU64::new(0),
        }
    }

    /// [`Vfs::open`], with arguments that can be made outside of [`sqlite_vfs`].
    fn open_kind(
        &self,
        name: &str,
        kind: OpenKind,
        access: OpenAccess,
    ) -> Result<StoreFile, Failure> {
        match kind {
            OpenKind::MainDb => self.open_database(name, access),
            OpenKind::MainJournal => {
                let scratch = ScratchFile::new(self.scratch.clone(), Watch::NoSuperJournal);
                let database = name.strip_suffix("-journal").unwrap_or(name);
                Ok(StoreFile::journal(scratch, self.links.find(database)))
            }
            OpenKind::TempDb
            | OpenKind::TempJournal
            | OpenKind::TransientDb
            | OpenKind::SubJournal => {
                Ok(StoreFile::temporary(ScratchFile::new(self.scratch.clone(), Watch::Nothing)))
            }
            OpenKind::SuperJournal => Err(Failure::of(Operation::Open, NO_SUPER_JOURNAL)),
            OpenKind::Wal => {
                Err(Failure::of(Operation::Open, format!("{name}: {NO_WRITE_AHEAD_LOG}")))
            }
        }
    }

    fn open_database(&self, name: &str, access: OpenAccess) -> Result<StoreFile, Failure> {
        let facet_name = names::facet_name(name)?;
        let access = Access {
            write: access != OpenAccess::Read,
            create: matches!(access, OpenAccess::Create | OpenAccess::CreateNew),
            exclusive: access == OpenAccess::CreateNew,
        };
        let facet = open_facet(&self.store, &facet_name, access, &Durability::Sync)?;
        let (store, groups) = (Arc::clone(&self.store), Arc::clone(&self.groups));
        let file = DatabaseFile::new(store, groups, facet, Durability::Sync, !access.write);
        Ok(StoreFile::database(file, self.links.of(name)))
    }
}

/// Hands `failure` on, with as much of its code as the crate can carry.
fn io_error(failure: Failure) -> io::Error {
    keep_last_error(&failure);
    let kind = match failure.code {
        // The one kind that becomes SQLITE_FULL.
        rusqlite::ffi::SQLITE_FULL => io::ErrorKind::WriteZero,
        // Other kinds of a failed opening are tried again for reading, or become SQLITE_IOERR.
        rusqlite::ffi::SQLITE_CANTOPEN => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, failure.message)
}

impl Vfs for StoreVfs {
    type Handle = StoreFile;

    fn open(&self, name: &str, options: OpenOptions) -> io::Result<StoreFile> {
        self.open_kind(name, options.kind, options.access).map_err(io_error)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        // Side files and temporary files are gone when their handle is; facets are not SQLite's to
        // delete. Nothing here touches the catalog.
        if names::is_side_file(name) || name.starts_with(TEMPORARY_PREFIX) {
            return Ok(());
        }
        let message =
            format!("{name}: a database is not deleted through SQLite; use Store::delete_facet");
        Err(io_error(Failure::new(rusqlite::ffi::SQLITE_IOERR_DELETE, message)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(!names::is_side_file(name)
            && FacetName::new(name).is_ok_and(|name| self.store.facet_exists(&name)))
    }

    fn temporary_name(&self) -> String {
        let number = self.temporary_files.fetch_add(1, Ordering::Relaxed);
        format!("{TEMPORARY_PREFIX}{number}")
    }

    fn random(&self, buffer: &mut [i8]) {
        let mut bytes = vec![0; buffer.len()];
        // Without randomness SQLite is left with its own generator's state.
        if getrandom::fill(&mut bytes).is_ok() {
            for (place, byte) in buffer.iter_mut().zip(bytes) {
                *place = i8::from_ne_bytes([byte]);
            }
        }
    }

    fn sleep(&self, duration: Duration) -> Duration {
        std::thread::sleep(duration);
        duration
    }

    fn full_pathname<'a>(&self, name: &'a str) -> io::Result<Cow<'a, str>> {
        names::facet_name(name).map_err(io_error)?;
        Ok(Cow::Borrowed(name))
    }
}

#[cfg(test)]
mod tests;
