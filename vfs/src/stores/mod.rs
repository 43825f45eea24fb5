//! A VFS that opens stores by itself, for programs that know paths and nothing of stores.
//!
//! | module | is |
//! |---|---|
//! | `shared` | the stores that the process has open |
//! | `paths` | which facet a path names |

mod paths;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_engine::{Error, Facet, FacetName};
use rusqlite::Connection;
use rusqlite::ffi as sqlite;

pub use self::shared::OpenStore;
use self::shared::SharedStores;
use crate::database::{DatabaseFile, Groups};
use crate::error::{Failure, Operation, VfsError};
use crate::ffi::{Mount, PerProcess};
use crate::file::{FileKind, FileSystem, OpenRequest, Opened};
use crate::file_system::{self, AT_PARAMETER, FacetFileSystem};
use crate::names;
use crate::registration::{self, VfsOptions};
use crate::scratch::{ScratchFile, ScratchSpace};
use crate::side_files::{self, KnownFacets};

/// URI parameter that names the store.
const STORE_PARAMETER: &str = "store";

/// A VFS that finds, opens and shares the stores of the databases it is asked for, until the process
/// ends.
///
/// `file:NAME?vfs=…&store=PATH` is the facet NAME of the store at PATH; without `store=` it is one of
/// the default store. A store is opened with the first connection to it, shared by all connections of
/// the process, and closed with the last. Like a database file it is created where it is not there, if
/// the connection may create its database. A store that another process has open is
/// `SQLITE_BUSY`.
///
/// Names are taken as paths: `.`, `..` and repeated slashes are resolved, and a leading slash does not
/// count, so that `/srv/./app.db` is the facet `srv/app.db`. The current directory does not matter.
///
/// ```
/// use lapidary_vfs::{PathVfs, VfsOptions};
/// # let directory = tempfile::tempdir()?;
/// let store = directory.path().join("store");
/// let vfs = PathVfs::register("doc-paths", Some(store), VfsOptions::default())?;
///
/// let notes = rusqlite::Connection::open("file:/home/me/notes.db?vfs=doc-paths")?;
/// notes.execute_batch("CREATE TABLE note(body)")?;
/// let opened = vfs.opened_facet(&notes, "main").unwrap();
/// assert_eq!(opened.facet.name().as_str(), "home/me/notes.db");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PathVfs {
    mount: Arc<Mount<PathFileSystem>>,
}

/// A facet that a connection of a [`PathVfs`] has open, and a use of its store.
#[derive(Clone, Debug)]
pub struct OpenedFacet {
    /// The facet.
    pub facet: Arc<Facet>,
    /// The store it is in.
    pub store: OpenStore,
}

impl PathVfs {
    /// Registers the VFS with SQLite under `vfs_name` (as
    /// [`Registration::register`](crate::Registration::register) has it). `default_store` is where
    /// facets are of which no store is named.
    ///
    /// # Errors
    /// As [`Registration::register`](crate::Registration::register).
    pub fn register(
        vfs_name: &str,
        default_store: Option<PathBuf>,
        options: VfsOptions,
    ) -> Result<Self, VfsError> {
        registration::check_name(vfs_name)?;
        let make_default = options.make_default;
        let file_system = PathFileSystem {
            default_store,
            scratch: ScratchSpace::from(options),
            process: PerProcess::default(),
        };
        let mount = Mount::register(vfs_name, file_system, make_default)?;
        tracing::debug!(vfs = vfs_name, make_default, "VFS registered with SQLite");
        Ok(Self { mount })
    }

    /// The facet that the database `schema` of `connection` is (`main`, or what it was attached as), if
    /// it was opened through this VFS.
    #[must_use]
    pub fn opened_facet(&self, connection: &Connection, schema: &str) -> Option<OpenedFacet> {
        self.mount.opened_facet(connection, schema)
    }

    /// Opens the default store, which has to be there.
    ///
    /// # Errors
    /// [`VfsError::NoStoreNamed`] if there is no default; [`VfsError::Store`].
    pub fn default_store(&self) -> Result<OpenStore, VfsError> {
        let file_system = self.mount.file_system();
        let path = file_system.default_store.as_deref().ok_or(VfsError::NoStoreNamed)?;
        Ok(file_system.process.get().stores.open(path, false)?)
    }

    /// The facet that `path` names.
    ///
    /// # Errors
    /// [`VfsError::InvalidPath`].
    pub fn facet_name(path: &str) -> Result<FacetName, VfsError> {
        paths::facet_name(path).map_err(|failure| VfsError::InvalidPath(failure.message))
    }
}

/// All stores, seen as a file system.
#[derive(Debug)]
struct PathFileSystem {
    default_store: Option<PathBuf>,
    scratch: ScratchSpace,
    process: PerProcess<Process>,
}

/// What is open in this process.
#[derive(Debug, Default)]
struct Process {
    stores: SharedStores,
    groups: Arc<Groups>,
}

impl PathFileSystem {
    fn open_database(&self, request: &OpenRequest<'_>) -> Result<DatabaseFile, Failure> {
        refuse_look_alikes(request)?;
        let named = (request.parameter)(STORE_PARAMETER);
        let path = match (&named, &self.default_store) {
            (Some(named), _) if named.is_empty() => {
                return Err(refused("URI parameter `store` is empty; it is the path of a store"));
            }
            (Some(named), _) => Path::new(named),
            (None, Some(path)) => path,
            (None, None) => return Err(refused(VfsError::NoStoreNamed.to_string())),
        };
        // What is to be read of the past is there, or the request is a mistake.
        let create = request.access.create && (request.parameter)(AT_PARAMETER).is_none();
        let Process { stores, groups } = self.process.get();
        let opened = stores.open(path, create);
        let store = opened.map_err(|error| store_failure(&error))?;
        let (scratch, groups) = (self.scratch.clone(), Arc::clone(groups));
        let facets = FacetFileSystem::new(Arc::clone(store.store()), scratch, groups);
        Ok(facets.open_database(request)?.using(store))
    }
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::of(Operation::Open, message)
}

/// An error of opening a store. That somebody else has it is worth telling apart: it passes.
fn store_failure(error: &Error) -> Failure {
    let mut failure = Failure::from_engine(Operation::Open, error);
    match error {
        Error::Locked { .. } => failure.code = sqlite::SQLITE_BUSY,
        Error::Missing { .. } => failure.message.push_str(file_system::CREATES),
        _ => {}
    }
    failure
}

/// SQLite would ignore `Store=` in silence, and the default store be used.
fn refuse_look_alikes(request: &OpenRequest<'_>) -> Result<(), Failure> {
    let is_look_alike =
        |key: &String| key.eq_ignore_ascii_case(STORE_PARAMETER) && key != STORE_PARAMETER;
    match (request.parameter_names)().into_iter().find(is_look_alike) {
        Some(key) => {
            Err(refused(format!("URI parameter `{key}` is refused: it is called `store`")))
        }
        None => Ok(()),
    }
}

impl FileSystem for PathFileSystem {
    type Database = DatabaseFile;
    type Scratch = ScratchFile;

    fn open(
        &self,
        request: &OpenRequest<'_>,
    ) -> Result<Opened<DatabaseFile, ScratchFile>, Failure> {
        match request.kind {
            FileKind::MainDatabase => self.open_database(request).map(Opened::Database),
            _ => {
                let Process { stores, groups } = self.process.get();
                let known = || KnownFacets::new(|name| stores.any_has(name));
                side_files::open(request, &self.scratch, groups, known).map(Opened::Scratch)
            }
        }
    }

    fn delete(&self, name: &str, sync_directory: bool) -> Result<(), Failure> {
        side_files::delete(name, sync_directory, &self.process.get().groups)
    }

    fn exists(&self, _name: &str) -> bool {
        // SQLite asks for side files alone, which are never there, and does not say of which store.
        false
    }

    fn full_name(&self, name: &str) -> Result<String, Failure> {
        paths::facet_name(name).map(|name| name.as_str().to_owned())
    }

    fn name_bytes_max(&self) -> usize {
        names::PATH_BYTES_MAX
    }
}
