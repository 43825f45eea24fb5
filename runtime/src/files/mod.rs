//! SQLite files: facets that come from one, and that become one.
//!
//! | module | is |
//! |---|---|
//! | `source` | the committed content of a file, with what waits in its `-wal` or `-journal` |
//! | `import` | a new facet from a file |
//! | `rows` | rows of a file and of its facet, counted and compared |
//! | `export` | a file from a version of a facet |
//! | `salvage` | files from a store that may not open any more |
//! | `new_file` | a file that is there as a whole or not at all |
//! | `error` | what can go wrong with files |

mod error;
mod export;
mod import;
mod new_file;
mod rows;
mod salvage;
mod source;

use std::path::PathBuf;

use lapidary_engine::{FacetName, PageSize, RootHash};

pub use error::FileError;
pub use export::ExportOptions;
#[cfg(feature = "bucket")]
pub(crate) use export::write_version;
pub(crate) use import::forget_interrupted;
pub use import::{ImportCheck, ImportOptions, Imported};
pub use salvage::{SalvagedFile, SalvagedFiles, salvage};

/// What an import or export is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileStep {
    /// Reads the file through SQLite.
    Reading,
    /// Has SQLite check it, of which nothing is told until it is done.
    Checking,
    /// Writes pages to where they go.
    Writing,
    /// Reads them back, to compare.
    Comparing,
}

/// How far an import or export has come, in bytes of its present step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileProgress {
    /// The step.
    pub step: FileStep,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes there are.
    pub total_bytes: u64,
}

/// Who is told of progress, if anybody.
type Listener<'a> = Option<&'a mut dyn FnMut(FileProgress)>;

/// Tells of one page in this many.
const PAGES_PER_REPORT: u32 = 256;

fn tell(listener: &mut Listener<'_>, step: FileStep, done_bytes: u64, total_bytes: u64) {
    if let Some(listener) = listener {
        listener(FileProgress { step, done_bytes, total_bytes });
    }
}

/// What was imported or exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileContent {
    /// Bytes in a page; `None` of an empty database, which has no pages.
    pub page_size: Option<PageSize>,
    /// Number of pages.
    pub page_count: u32,
    /// The root hash, of the facet and of the file.
    pub root_hash: RootHash,
}

impl FileContent {
    /// Bytes of the database.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.page_size.map_or(0, |size| size.bytes() as u64) * u64::from(self.page_count)
    }
}

/// Where the file of the facet `name` belongs in a directory with files of many: its levels are
/// folders, and the last one has `.sqlite` added.
///
/// ```
/// let name = lapidary::FacetName::new("tenants/acme/42")?;
/// assert_eq!(lapidary::file_path_of(&name).to_str(), Some("tenants/acme/42.sqlite"));
/// # Ok::<(), lapidary::HostError>(())
/// ```
#[must_use]
pub fn file_path_of(name: &FacetName) -> PathBuf {
    PathBuf::from(format!("{name}.sqlite"))
}
