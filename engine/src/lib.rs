//! A log-structured page store for thousands of small databases.
//!
//! A *store* is a directory that holds one log, cut into *segment* files. A *facet* is a small
//! database in it: a name, and a series of *versions* of a page map. It costs no file and no
//! descriptor. The engine knows pages, not SQL.
//!
//! # Reading map
//!
//! | module | holds |
//! |---|---|
//! | `types`, `name`, `bookmark`, `error`, `config`, `env` | units, names, names of versions, errors, settings, the outside world |
//! | `core` | what every part of an open store shares |
//! | `io` | files behind one trait: the operating system's (POSIX, io_uring), in memory, and changes in memory over others |
//! | `format` | every byte on disk, each with one owner |
//! | `map` | page maps: persistent trees of page references |
//! | `segments` | segment files, also as memory, what is live in them, where the cleaner put things, room for new data |
//! | `log` | per-core buffers, flushes, the durable LSN |
//! | `facet` | versions, snapshots, pages in place, the writer, publication, history, restores, root hashes, what quotas and retentions say |
//! | `store` | the store, its catalog, forks, quotas, checkpoints, who holds what, the cleaner, recovery, verification, salvage, its threads |
//!
//! A commit: `facet::writer` stages pages and appends a record to a buffer of `log`; a flush
//! (`log::writer`) writes and syncs a batch and publishes it (`facet::publish`). A read: a snapshot
//! (`facet::snapshot`) finds the page's reference in its `map` and reads it from memory or through
//! `segments`, where the cleaner put it. Recovery: `store::recovery`, which starts with a table of
//! decisions. What is garbage is settled by checkpoints: `store::references`.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use lapidary_engine::{
//!     Environment, FacetName, MemoryIo, PageNo, PageSize, Store, StoreOptions, View,
//! };
//!
//! // `Environment::system("directory")` keeps the store in files.
//! let environment = Environment::with_io(Arc::new(MemoryIo::new()));
//! let store = Store::open(environment, StoreOptions::create())?;
//! let facet = store.create_facet(&FacetName::new("tenants/acme")?)?;
//!
//! let mut writer = facet.begin_write(&facet.snapshot(View::Latest)?)?;
//! writer.set_page_size(PageSize::from_bytes(512).unwrap())?;
//! writer.write_page(PageNo(1), &[42; 512])?;
//! let ticket = writer.commit(0)?;
//! store.wait_durable(ticket)?; // one sync, shared with whoever else waits
//!
//! let mut page = [0; 512];
//! facet.snapshot(View::Durable)?.read_page(PageNo(1), &mut page)?;
//! assert_eq!(page, [42; 512]);
//! store.close()?;
//! # Ok::<(), lapidary_engine::Error>(())
//! ```
//!
//! # Features
//!
//! None. The log goes through POSIX calls, or io_uring with [`Environment::uring`]
//! ([`StoreStat::io_backend`] says which).

/// The example of `README.md`, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod bookmark;
mod config;
mod core;
mod env;
mod error;
mod facet;
mod format;
mod io;
mod log;
mod map;
mod name;
mod segments;
mod store;
mod sync;
mod types;

pub use bookmark::Bookmark;
pub use config::{Background, FormatParams, Retention, StoreOptions, Tunables};
pub use env::{Clock, Entropy, Environment};
pub use error::{Error, ErrorKind, Result};
pub use facet::{Facet, HeldPages, Restored, RootHash, RootHasher, Snapshot, VersionInfo, Writer};
pub use format::segment::SegmentUse;
pub use io::{
    DirectoryState, FileName, Io, IoFile, Mapping, MemoryIo, OverlayIo, PosixIo, UringIo,
    WriteSyncError,
};
pub use name::{FacetName, NAME_BYTES_MAX, NAME_LEVELS_MAX};
pub use store::{
    Cleaned, FacetInfo, Finding, FindingKind, ForkFrom, LimitsOf, QuotaInfo, Refusal,
    SalvageReport, SalvageSink, Salvaged, Store, StoreStat, VerifyProgress, VerifyReport, Worker,
};
pub use types::{
    FacetId, FileNo, Incarnation, Lsn, PageNo, PageSize, SegmentId, StoreId, Ticket, Version, View,
};
