//! Thread-per-core host for thousands of small, isolated SQLite databases ("facets") that live in
//! one durable page store.
//!
//! A [`Host`] opens a store and starts one pinned thread per core. Each facet belongs to the core
//! that the first level of its name selects; that core owns the facet's one writer connection and
//! runs its calls in order. A core never waits for the disk: it goes on with the next call while
//! earlier ones are being made durable, and every reply is held back until all it observed is
//! durable. Readers are snapshot connections on the callers' own threads; they see what is durable
//! and never make the writer wait.
//!
//! ```
//! use lapidary::{Host, HostConfig};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("store");
//! let host = Host::open(&path, HostConfig::new())?;
//! let agent = host.facet("agents/42")?;
//!
//! // Blocking with `wait`, or as a future with `.await`: every call offers both.
//! agent.execute("CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT NOT NULL)", ()).wait()?;
//! let id = agent
//!     .transaction(|tx| {
//!         tx.execute("INSERT INTO note(body) VALUES (?1)", ["buy milk"])?;
//!         Ok(tx.last_insert_rowid())
//!     })
//!     .wait()?;
//!
//! // What has been acknowledged is durable, so every reader sees it.
//! let body: String = agent.read(move |connection| {
//!     Ok(connection.query_row("SELECT body FROM note WHERE id = ?1", [id], |row| row.get(0))?)
//! })?;
//! assert_eq!(body, "buy milk");
//! host.shutdown()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to read
//!
//! | module | is |
//! |---|---|
//! | `host` | [`Host`]: opening, names (delete, rename, list), figures, shutdown |
//! | `facet` | [`FacetHandle`]: the calls on one database |
//! | `transaction`, `once` | [`Transaction`], savepoints; requests that are answered once |
//! | `schema` | [`Schema`]: steps that run when a facet starts |
//! | `connection` | a connection, to its end |
//! | `abort` | stopping what runs and waits on a subtree |
//! | `kv` | values by key beside SQL |
//! | `alarms` | calls that a facet asks to be made later, durable as it is |
//! | `reserved` | the host's own tables inside facets, and every statement on them |
//! | `forks` | forks, quotas and retentions, by name |
//! | `uri` | how plain connections name a facet |
//! | `files` | import and export of SQLite files, salvage of a damaged store into files |
//! | `moves` | facets that go to another store |
//! | `history` | bookmarks of a facet, reading and restoring the past |
//! | `call` | [`Call`]: the reply to come, as a future and for blocking |
//! | `mailbox`, `line` | how calls enter a core, and wait for room when it is full |
//! | `placement` | which core serves what, and moving it |
//! | `schedule` | in which order a core serves them: a turn for each facet |
//! | `core_thread` | the loop of a core: calls in, replies out |
//! | `several` | one transaction over several facets |
//! | `shared_commit` | calls of one facet that share a commit |
//! | `task` | a call on its way: work to run, then a reply to release |
//! | `terms` | when the reply of one call may leave, where it says so itself |
//! | `output_gate` | replies held until what they observed is durable |
//! | `writers` | the open writer connections of a core, least recently used closed first |
//! | `residency` | which facets stay open, and hooks for when they do not |
//! | `readers` | pooled read-only connections for any thread |
//! | `isolation` | what SQL inside a facet may do: [`Isolation`], and how it is kept |
//! | `meter`, `usage` | what each facet used, to bill from: readings, and a stream of differences |
//! | `ticker` | threads that do something every so often |
//! | `stat`, `snapshot`, `latency` | figures of the cores; a host at a moment; how long calls take |
//! | `exported` | the figures, for the crate `metrics` |
//! | `config`, `error` | settings, what can go wrong |
//!
//! # Features
//!
//! | feature | default | does |
//! |---|---|---|
//! | `cli` | yes | builds the command `lapidary` (`cli/`), so that `cargo install` finds it; the library has nothing of it |
//! | `metrics` | no | counters, gauges and histograms for the crate `metrics` |
//! | `serde` | no | figures, meters and snapshots are `serde::Serialize`; a `Duration` as serde has it |
//!
//! Who embeds the crate turns default features off and compiles none of what the command needs. SQLite
//! is always compiled in.
//!
//! # SQLite's process-wide settings
//!
//! [`Host::open`] switches off SQLite's malloc statistics (a mutex that serialises the cores) and
//! its initial page allocation (87 KiB for each connection), and makes the default lookaside
//! small. That is possible only before the process first uses SQLite, so open the host before any
//! other connection; [`Host::process_setup`] tells whether it came in time.

mod abort;
mod alarms;
#[cfg(feature = "bucket")]
pub mod bucket;
mod call;
mod config;
mod connection;
mod core_thread;
mod error;
mod exported;
mod facet;
mod files;
mod forks;
mod history;
mod host;
mod isolation;
mod kv;
mod latency;
mod line;
mod mailbox;
mod meter;
mod moves;
mod name_set;
mod once;
mod output_gate;
mod placement;
mod readers;
mod reserved;
mod residency;
mod schedule;
mod schema;
mod several;
mod shared;
mod shared_commit;
mod snapshot;
mod stat;
mod task;
mod terms;
mod ticker;
mod transaction;
mod uri;
mod usage;
mod writers;

pub use alarms::{
    ALARM_NAME_BYTES_MAX, ALARM_PAYLOAD_BYTES_MAX, Alarm, AlarmHandler, AlarmStat, AlarmState,
    Alarms, AlarmsTransaction,
};
pub use call::Call;
pub use config::{HostConfig, MailboxFull};
pub use error::{Budget, HostError, HostErrorKind, Result};
#[cfg(all(feature = "metrics", feature = "bucket"))]
pub use exported::BUCKET_METRICS;
#[cfg(feature = "metrics")]
pub use exported::{METRICS, Metric, MetricKind};
pub use facet::FacetHandle;
pub use files::{
    ExportOptions, FileContent, FileError, FileProgress, FileStep, ImportCheck, ImportOptions,
    Imported, SalvagedFile, SalvagedFiles, file_path_of, salvage,
};
pub use host::Host;
pub use isolation::Isolation;
pub use kv::{KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, Kv, KvList, KvTransaction};
pub use latency::LatencySummary;
pub use meter::MeterReading;
pub use moves::{
    Arrival, ArrivalReceipt, Departed, Departure, DepartureProof, DepartureState, MoveError, MoveId,
};
pub use once::REQUESTS_REMEMBERED_MAX;
pub use schema::Schema;
pub use shared_commit::COALESCED_CALLS_MAX;
pub use snapshot::{BusyFacet, HostSnapshot};
pub use stat::{CoreStat, HostStat};
pub use transaction::Transaction;
pub use usage::{Usage, UsageDelta, UsageStream};

pub use lapidary_engine::{
    Bookmark, Clock, Environment, FacetInfo, FacetName, ForkFrom, FormatParams, PageSize,
    QuotaInfo, Retention, RootHash, Salvaged, Store, StoreOptions, StoreStat, Tunables,
    VersionInfo,
};
pub use lapidary_vfs::{ProcessSetup, VfsOptions, root_hash_of_file};
/// The SQLite API that closures receive, in the version this crate was built with.
pub use rusqlite;
