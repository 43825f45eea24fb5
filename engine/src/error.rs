//! What can go wrong, and what the caller is to do about it.

use std::io;

use crate::bookmark::Bookmark;
use crate::types::{PageNo, SegmentId};

/// Result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Somebody else is writing, or the snapshot is old: try again, from a new snapshot.
    Busy,
    /// The thing named does not exist.
    NotFound,
    /// The thing named exists already.
    AlreadyExists,
    /// The thing named is in another store, or on its way there: ask there.
    Moved,
    /// The request itself is at fault; the same request will fail again.
    InvalidInput,
    /// The disk, or a limit set on the store, is full: free space, then try again.
    NoSpace,
    /// A write or sync failed, so the store stopped: close it and open it again, which recovers
    /// everything that was acknowledged.
    Reopen,
    /// Stored bytes are not what was written: keep the files, restore from a backup.
    Corruption,
    /// The operating system refused an operation; nothing was changed.
    Io,
    /// What a file is fetched from does not answer; nothing was changed: try again after a moment.
    Unavailable,
}

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{operation} {path} failed{}: {source}", at(*.offset))]
    Io {
        /// What was tried, such as `read` or `sync`.
        operation: &'static str,
        /// The file or directory.
        path: String,
        /// Where in the file, in bytes, where that has a meaning.
        offset: Option<u64>,
        /// What the operating system said.
        source: io::Error,
    },
    /// No room for new data.
    #[error(
        "{path}: no space left for {needed_bytes} bytes of new data; nothing of this transaction \
         was written: free disk space or delete facets, then try again"
    )]
    NoSpace {
        /// The store's directory.
        path: String,
        /// Bytes asked for.
        needed_bytes: u64,
    },
    /// A quota that was set on the facet, or on a name above it, is used up.
    #[error(
        "{name}: its quota of {limit_bytes} bytes is used up ({used_bytes} used, {needed_bytes} more \
         needed); nothing of this was written: delete rows and vacuum, or raise the quota"
    )]
    QuotaExceeded {
        /// Name that the quota was set on.
        name: String,
        /// Bytes of pages that the facets of that subtree may have.
        limit_bytes: u64,
        /// Bytes that they have.
        used_bytes: u64,
        /// Bytes that would have come on top.
        needed_bytes: u64,
    },
    /// The version that a bookmark names is not kept.
    #[error(
        "facet {facet}: no version {bookmark} is kept; the oldest is {oldest}, the newest {newest}; \
         nothing was changed: choose one of them, or keep more history"
    )]
    BookmarkUnknown {
        /// Name of the facet.
        facet: String,
        /// The bookmark, or the moment, that was asked for.
        bookmark: String,
        /// Bookmark of the oldest version that is kept.
        oldest: Bookmark,
        /// Bookmark of the newest durable version.
        newest: Bookmark,
    },
    /// Another process has the store open.
    #[error("{path}: the store is locked by another process; stop that process or use its host")]
    Locked {
        /// The store's directory.
        path: String,
    },
    /// There is nothing at the path, and creating a store was not asked for.
    #[error("{path}: no store here; check the path, or open it with `create` set")]
    Missing {
        /// The store's directory.
        path: String,
    },
    /// The directory holds something else.
    #[error("{path}: not a store: {reason}; choose an empty directory or an existing store")]
    NotAStore {
        /// The store's directory.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The store was written by a newer release.
    #[error(
        "{path}: format version {found}, but this build reads versions up to {supported}; open it \
         with a newer release"
    )]
    FormatTooNew {
        /// The file.
        path: String,
        /// Version found.
        found: u32,
        /// Newest version this build reads.
        supported: u32,
    },
    /// Bytes that the whole store depends on are damaged.
    #[error(
        "{path} is damaged at offset {offset}: {detail}; the store was left as it is: keep a copy \
         of its files and restore from a backup"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A page of one facet is damaged; other facets are not concerned.
    #[error(
        "facet {facet}: page {page} is damaged in {path} (segment {segment}) at offset {offset}: {detail}; \
         other facets are not concerned: restore this one from a backup"
    )]
    PageCorrupt {
        /// Name of the facet.
        facet: String,
        /// The page.
        page: PageNo,
        /// The segment file.
        path: String,
        /// The segment that holds it.
        segment: SegmentId,
        /// Where in the segment file, in bytes.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The page map of one facet is damaged; other facets are not concerned.
    #[error(
        "facet {facet}: its page map is damaged in {path} (segment {segment}) at offset {offset}: {detail}; \
         other facets are not concerned: restore this one from a backup"
    )]
    MapCorrupt {
        /// Name of the facet.
        facet: String,
        /// The segment file.
        path: String,
        /// The segment that holds the damaged part.
        segment: SegmentId,
        /// Where in the segment file, in bytes.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A facet name that breaks a rule.
    #[error("facet name {name:?} is refused: {reason}; use levels like `tenants/acme/agent-7`")]
    InvalidName {
        /// The name, its first 128 characters.
        name: String,
        /// The rule.
        reason: &'static str,
    },
    /// A request that cannot be carried out as put.
    #[error("{0}")]
    InvalidInput(String),
    /// No facet of that name.
    #[error("facet {name}: no such facet; create it first, or check the name with a list")]
    FacetNotFound {
        /// The name.
        name: String,
    },
    /// A facet of that name is there already.
    #[error("facet {name}: exists already; choose another name or delete it first")]
    FacetExists {
        /// The name.
        name: String,
    },
    /// The name is refused: see [`Store::refuse_name`](crate::Store::refuse_name).
    #[error(
        "facet {name}: {} {destination}; {}",
        if *.is_gone { "has moved to" } else { "is on its way to" },
        if *.is_gone {
            "ask there, or have this store forget that it was here with `Host::forget_departed` or \
             `lapidary move --forget`"
        } else {
            "go on with the move, or cancel it with `Departure::cancel` or `lapidary move --cancel`"
        }
    )]
    FacetMoved {
        /// The name.
        name: String,
        /// Where it goes or went.
        destination: String,
        /// Whether it has gone there.
        is_gone: bool,
    },
    /// The facet was deleted while a handle to it was open.
    #[error("facet {name}: was deleted; close this handle")]
    FacetDeleted {
        /// The name it had.
        name: String,
    },
    /// Another writer holds the facet.
    #[error("facet {name}: another writer holds it; try again when that transaction has ended")]
    WriterBusy {
        /// The name.
        name: String,
    },
    /// The snapshot a writer started from is not the newest version.
    #[error("facet {name}: the snapshot is older than the last commit; begin again from a new one")]
    StaleSnapshot {
        /// The name.
        name: String,
    },
    /// A write or sync of the log failed earlier.
    #[error(
        "the store stopped after a failed write or sync ({cause}); what was not yet acknowledged \
         may be lost: close the store and open it again to recover all that was"
    )]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// The store was closed.
    #[error("the store is closed; open it again")]
    Closed,
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                ErrorKind::Unavailable
            }
            Self::Io { .. } => ErrorKind::Io,
            Self::NoSpace { .. } | Self::QuotaExceeded { .. } => ErrorKind::NoSpace,
            Self::Locked { .. } | Self::WriterBusy { .. } | Self::StaleSnapshot { .. } => {
                ErrorKind::Busy
            }
            Self::Missing { .. }
            | Self::FacetNotFound { .. }
            | Self::FacetDeleted { .. }
            | Self::BookmarkUnknown { .. } => ErrorKind::NotFound,
            Self::FacetExists { .. } => ErrorKind::AlreadyExists,
            Self::FacetMoved { .. } => ErrorKind::Moved,
            Self::NotAStore { .. }
            | Self::FormatTooNew { .. }
            | Self::InvalidName { .. }
            | Self::InvalidInput(_) => ErrorKind::InvalidInput,
            Self::Corrupt { .. } | Self::PageCorrupt { .. } | Self::MapCorrupt { .. } => {
                ErrorKind::Corruption
            }
            Self::Poisoned { .. } | Self::Closed => ErrorKind::Reopen,
        }
    }

    /// Whether the operating system said that the disk or a quota is full.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
