//! What can go wrong with a store in a bucket, and what is to be done about it.

use std::io;

use lapidary_engine::{FileName, Io};

use crate::error::HostErrorKind;

use super::format::Malformed;
use super::objects::{ObjectError, Objects};

/// Result of something done to a bucket.
pub type Result<T, E = BucketError> = std::result::Result<T, E>;

/// An error of a store in a bucket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// The bucket did not do what it was asked for.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The bucket has no store.
    #[error("{bucket}: no store here; check the address, or have a host ship one")]
    NoStore {
        /// The bucket.
        bucket: String,
    },
    /// Another host serves the store.
    #[error(
        "{bucket}: host {holder} serves the store, in epoch {epoch}; it can be taken over when its \
         lease has not been renewed for {lease_ms} ms, or after that host has closed it"
    )]
    Held {
        /// The bucket.
        bucket: String,
        /// Name of that host.
        holder: String,
        /// Its epoch.
        epoch: u64,
        /// Its lease, in milliseconds.
        lease_ms: u32,
    },
    /// This host may not write to the store any more.
    #[error("{cause}")]
    Fenced {
        /// Why: who took over in which epoch, or that the lease ran out.
        cause: String,
    },
    /// The directory has a store that the bucket has moved on from.
    #[error(
        "{directory}: host {holder} has served this store from {bucket} since, in epoch {epoch}: what \
         this directory holds beyond what was shipped is in no other place; keep a copy of it if that \
         matters, then open the store with an empty directory"
    )]
    StaleDirectory {
        /// The local directory.
        directory: String,
        /// The bucket.
        bucket: String,
        /// Name of the host that served it last.
        holder: String,
        /// Its epoch.
        epoch: u64,
    },
    /// A follower has not come to where a read was to be.
    #[error(
        "{bucket}: the follower has not come to {wanted} within {} ms: it has LSN {lsn} of epoch {epoch}; \
         wait longer, or read at the host", waited.as_millis()
    )]
    Behind {
        /// The bucket.
        bucket: String,
        /// The LSN or bookmark that was asked for.
        wanted: String,
        /// What the follower has.
        lsn: lapidary_engine::Lsn,
        /// The epoch of the manifest it shows.
        epoch: u64,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// A read of a follower asked for an object that the host has let go of since.
    #[error(
        "{bucket}: what was read here as of LSN {lsn} is not kept there any more; read again, as of a later \
         one; if that is too often, raise `BucketSettings::keep_replaced` of the host"
    )]
    Outdated {
        /// The bucket.
        bucket: String,
        /// What the follower had.
        lsn: lapidary_engine::Lsn,
    },
    /// A point of history has gone.
    #[error("{bucket}: the store as of {point} is not kept there any more; choose a later point")]
    NotKept {
        /// The bucket.
        bucket: String,
        /// The point.
        point: super::HistoryPoint,
    },
    /// The directory has another store than the bucket, or none is to be put into it.
    #[error("{directory}: {detail}")]
    Directory {
        /// The local directory.
        directory: String,
        /// What is wrong with it, and what to do.
        detail: String,
    },
    /// What is to be put into the directory does not belong to what is there.
    #[error("{directory}: {detail}; choose an empty directory")]
    NotEmpty {
        /// The local directory.
        directory: String,
        /// What is there.
        detail: &'static str,
    },
    /// Bytes in the bucket, or the file `BUCKET`, are not what was written.
    #[error("{name} in {place} is damaged: {detail}; nothing was changed: restore it from a copy")]
    Damaged {
        /// The object or file.
        name: String,
        /// Bucket or directory.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// Written by a newer release.
    #[error(
        "{name} in {place}: format version {found}, but this build reads versions up to {supported}; \
         open the store with a newer release"
    )]
    TooNew {
        /// The object or file.
        name: String,
        /// Bucket or directory.
        place: String,
        /// Version found.
        found: u32,
        /// Newest version this build reads.
        supported: u32,
    },
    /// The operating system refused an operation on the local directory.
    #[error("{operation} {path} failed: {source}")]
    Local {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] lapidary_engine::Error),
    /// A setting out of range, or an address that cannot be understood.
    #[error("{0}")]
    InvalidInput(String),
}

impl BucketError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> HostErrorKind {
        match self {
            Self::Held { .. } | Self::Behind { .. } | Self::Outdated { .. } => HostErrorKind::Retry,
            Self::Fenced { .. } => HostErrorKind::Reopen,
            Self::NoStore { .. } | Self::NotKept { .. } => HostErrorKind::NotFound,
            Self::NotEmpty { .. } => HostErrorKind::AlreadyExists,
            Self::Local { source, .. } if is_full(source) => HostErrorKind::NoSpace,
            Self::Objects(_) | Self::Local { .. } => HostErrorKind::Io,
            Self::StaleDirectory { .. }
            | Self::Directory { .. }
            | Self::TooNew { .. }
            | Self::InvalidInput(_) => HostErrorKind::InvalidInput,
            Self::Damaged { .. } => HostErrorKind::Corruption,
            Self::Store(error) => crate::error::store_kind(error),
        }
    }

    /// What becomes of it when the operating system refuses `operation` on a file of `local`, or on its
    /// directory.
    pub(super) fn local(
        local: &dyn Io,
        operation: &'static str,
        file: Option<FileName>,
    ) -> impl FnOnce(io::Error) -> Self {
        let directory = local.describe();
        let path = file.map_or(directory.clone(), |file| format!("{directory}/{file}"));
        move |source| Self::Local { operation, path, source }
    }

    pub(super) fn malformed(name: &str, place: String, malformed: Malformed) -> Self {
        let name = name.to_owned();
        match malformed {
            Malformed::TooNew(found) => {
                Self::TooNew { name, place, found, supported: super::format::VERSION }
            }
            Malformed::Damaged(detail) => Self::Damaged { name, place, detail: detail.to_owned() },
        }
    }

    pub(super) fn object(objects: &dyn Objects, name: &str, malformed: Malformed) -> Self {
        Self::malformed(name, objects.describe(), malformed)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a host says that is to wait for a bucket and has none.
pub(crate) fn no_bucket() -> BucketError {
    BucketError::InvalidInput(
        "this host has no bucket to wait for; open it with `Host::open_from_bucket`, or ask for \
         `Acknowledge::Locally`"
            .to_owned(),
    )
}
