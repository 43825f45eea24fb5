//! Files that SQLite has beside its databases, and the transactions over several of those.

use std::fmt;
use std::sync::Arc;

use lapidary_engine::FacetName;
use rusqlite::ffi as sqlite;

use crate::database::{Groups, NO_WRITE_AHEAD_LOG};
use crate::error::{Failure, Operation};
use crate::file::{FileKind, OpenRequest};
use crate::names;
use crate::scratch::{ScratchFile, ScratchSpace, Watch};

/// Tells whether a name is that of a facet which this process may commit to.
#[derive(Clone)]
pub(crate) struct KnownFacets(Arc<dyn Fn(&FacetName) -> bool + Send + Sync>);

impl KnownFacets {
    pub(crate) fn new(is_known: impl Fn(&FacetName) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_known))
    }

    pub(crate) fn has(&self, name: &FacetName) -> bool {
        (self.0)(name)
    }
}

impl fmt::Debug for KnownFacets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownFacets")
    }
}

/// Opens a file that is no main database.
pub(crate) fn open(
    request: &OpenRequest<'_>,
    scratch: &ScratchSpace,
    groups: &Groups,
    known: impl FnOnce() -> KnownFacets,
) -> Result<ScratchFile, Failure> {
    let watch = match request.kind {
        FileKind::MainJournal => Watch::SuperJournalName,
        FileKind::MainDatabase | FileKind::Temporary => Watch::Nothing,
        FileKind::SuperJournal => {
            let open = groups.open_super_journal(request.name.unwrap_or_default());
            Watch::Names { known: known(), _open: open }
        }
        FileKind::WriteAheadLog => {
            let name = request.name.unwrap_or("database");
            return Err(Failure::of(Operation::Open, format!("{name}: {NO_WRITE_AHEAD_LOG}")));
        }
    };
    Ok(ScratchFile::new(scratch.clone(), watch))
}

/// Deletes a file. SQLite deletes side files alone. But for super-journals they are private to their
/// handle: there is nothing to delete, and what is not there counts as deleted.
pub(crate) fn delete(name: &str, sync_directory: bool, groups: &Groups) -> Result<(), Failure> {
    // The commit of a transaction over several facets deletes its super-journal for good; one
    // that is given up does not mind if it comes back.
    if names::is_super_journal(name) {
        return groups.delete_super_journal(name, sync_directory);
    }
    if names::is_side_file(name) {
        return Ok(());
    }
    Err(Failure::new(
        sqlite::SQLITE_IOERR_DELETE,
        format!("{name}: a database is not deleted through SQLite; use Store::delete_facet"),
    ))
}
