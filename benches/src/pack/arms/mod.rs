//! The arms: ways of keeping many databases, one file each. [`Arm`] is all the rest of the
//! program knows of them.

mod host;
mod in_memory;
mod stock;
mod vfs;

use std::path::PathBuf;
use std::time::Duration;

use lapidary_engine::Store;
use lapidary_vfs::{ProcessSettings, ProcessSetup, configure_process as configure_sqlite};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::process::DiskUse;

use crate::arguments::ArmName;
use crate::load::Client;
use crate::sql::Statements;
use crate::template::Template;
use crate::workload::Work;

/// What an arm needs to know to begin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) arm: ArmName,
    /// The arm's own directory. It exists, and is empty at the first opening.
    pub(crate) directory: PathBuf,
    pub(crate) facets: u32,
    /// Connections kept open at most, in all clients together.
    pub(crate) open_max: u32,
    /// CPUs the arm runs on; as many threads serve facets.
    pub(crate) cpus: Vec<usize>,
    /// Turns each client keeps outstanding, where an arm can.
    pub(crate) in_flight: usize,
    /// Turns in a call, where an arm can.
    pub(crate) batch: usize,
    /// Of each database, read in place.
    pub(crate) mmap_mib: u32,
    pub(crate) work: Work,
    pub(crate) template: Option<Template>,
}

impl Setting {
    pub(crate) fn statements(&self) -> &'static Statements {
        Statements::choose(self.work, self.template.is_some())
    }

    /// SQLite's process-wide settings.
    fn process(&self) -> ProcessSettings {
        ProcessSettings { mmap_bytes: u64::from(self.mmap_mib) << 20, ..ProcessSettings::default() }
    }

    fn clients(&self) -> u32 {
        u32::try_from(self.cpus.len()).unwrap_or(u32::MAX)
    }

    /// Connections that one client keeps open at most.
    fn open_max_per_client(&self) -> usize {
        self.open_max.div_ceil(self.clients().max(1)) as usize
    }
}

/// An arm that is open.
pub(crate) trait Arm {
    /// One client per core, to be used from a thread each. Asked for once per opening.
    fn clients(&mut self) -> Result<Vec<Box<dyn Client>>>;

    /// Whether each client's thread belongs on a CPU of its own. Not if the arm has pinned threads
    /// that do the work, and its clients only ask.
    fn pins_clients(&self) -> bool {
        true
    }

    /// Whether [`Read`](crate::load::Request::Read) uses connections apart from those of turns.
    fn reads_apart(&self) -> bool {
        false
    }

    /// Databases open right now, in the sense of having a connection.
    fn connections_open(&self) -> Result<u64>;

    /// How long opening the store took; `None` where there is no store to open.
    fn store_open(&self) -> Option<Duration>;

    /// Bytes on disk now.
    fn disk_use(&self) -> Result<DiskUse>;

    /// Bytes written so far by the arm's own account; `None` if only the kernel counts them.
    fn written(&self) -> Result<Option<Written>>;

    /// Closes everything in an orderly way. All clients must be gone.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Bytes that a store says it has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// To the log, padding included.
    pub(crate) log_bytes: u64,
    /// To fill segment files ahead of need.
    pub(crate) filled_bytes: u64,
}

/// Opens an arm: new in an empty directory, or what an earlier process left there.
pub(crate) fn open(setting: &Setting) -> Result<Box<dyn Arm>> {
    match setting.arm {
        ArmName::Lapidary | ArmName::LapidaryCore => Ok(Box::new(host::Hosted::open(setting)?)),
        ArmName::LapidaryVfs => Ok(Box::new(vfs::Vfs::open(setting)?)),
        ArmName::SqliteWalFull | ArmName::SqliteWalNormal | ArmName::SqliteMemoryOff => {
            Ok(Box::new(stock::Stock::new(setting)))
        }
        ArmName::SqliteInmem => Ok(Box::new(in_memory::InMemory::new(setting))),
    }
}

/// Sets up SQLite for this process, the same for every arm.
pub(crate) fn configure_process(setting: &Setting) -> Result<()> {
    match configure_sqlite(&setting.process()) {
        ProcessSetup::Applied | ProcessSetup::AlreadyApplied => Ok(()),
        ProcessSetup::TooLate => {
            Err(Failure::new("SQLite was in use before its process-wide settings were made"))
        }
    }
}

/// A connection to copy the template from, if there is one.
fn open_template(setting: &Setting) -> Result<Option<Connection>> {
    let Some(template) = &setting.template else { return Ok(None) };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(&template.path, flags)
        .doing(|| format!("opening {}", template.path.display()))
        .map(Some)
}

fn store_disk_use(store: &Store) -> DiskUse {
    let stat = store.stat();
    // What is live is known as of the last checkpoint; what came after it is in the log.
    let bytes = stat.live_bytes + stat.tail_bytes;
    DiskUse { bytes, allocated_bytes: stat.allocated_bytes }
}

fn store_written(store: &Store) -> Written {
    let stat = store.stat();
    Written { log_bytes: stat.written_bytes, filled_bytes: stat.filled_bytes }
}
