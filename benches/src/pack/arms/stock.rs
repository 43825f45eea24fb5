//! Stock SQLite, a file per facet, as most programs keep their tenants today.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{Arm, Setting, Written};
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::process::{DiskUse, descriptor_limit};

use crate::arguments::ArmName;
use crate::load::Client;
use crate::pool::{Opener, Pool};
use crate::sql::copy_database;
use crate::workload::{FacetIndex, Share};

/// Descriptors left to the rest of the process when connections take all they may.
const DESCRIPTORS_RESERVED: u64 = 64;

/// The pragmas that tell the three arms apart.
#[derive(Clone, Copy, Debug)]
struct Mode {
    journal_mode: &'static str,
    synchronous: &'static str,
    /// Of an open connection: the file, and in WAL mode also `-wal` and `-shm`.
    descriptors: u64,
}

impl Mode {
    fn of(arm: ArmName) -> Self {
        match arm {
            ArmName::SqliteWalNormal => {
                Self { journal_mode: "wal", synchronous: "NORMAL", descriptors: 3 }
            }
            ArmName::SqliteMemoryOff => {
                Self { journal_mode: "memory", synchronous: "OFF", descriptors: 1 }
            }
            _ => Self { journal_mode: "wal", synchronous: "FULL", descriptors: 3 },
        }
    }

    fn is_wal(self) -> bool {
        self.journal_mode == "wal"
    }
}

pub(super) struct Stock {
    setting: Setting,
    mode: Mode,
    connections_open: Arc<AtomicUsize>,
}

impl Stock {
    pub(super) fn new(setting: &Setting) -> Self {
        Self {
            setting: setting.clone(),
            mode: Mode::of(setting.arm),
            connections_open: Arc::default(),
        }
    }
}

impl Arm for Stock {
    fn clients(&mut self) -> Result<Vec<Box<dyn Client>>> {
        let clients = self.setting.clients();
        let descriptors = descriptor_limit().saturating_sub(DESCRIPTORS_RESERVED)
            / self.mode.descriptors
            / u64::from(clients);
        let open_max = usize::try_from(descriptors)
            .unwrap_or(usize::MAX)
            .min(self.setting.open_max_per_client());
        let client = |client| -> Box<dyn Client> {
            let share = Share { client, clients, facets: self.setting.facets };
            Box::new(Pool::new(
                Files { setting: self.setting.clone(), mode: self.mode },
                self.setting.statements(),
                share,
                open_max,
                Arc::clone(&self.connections_open),
            ))
        };
        Ok((0..clients).map(client).collect())
    }

    fn connections_open(&self) -> Result<u64> {
        Ok(self.connections_open.load(Ordering::Relaxed) as u64)
    }

    fn store_open(&self) -> Option<Duration> {
        None
    }

    fn disk_use(&self) -> Result<DiskUse> {
        DiskUse::below(&self.setting.directory)
    }

    fn written(&self) -> Result<Option<Written>> {
        Ok(None)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Files {
    setting: Setting,
    mode: Mode,
}

impl Files {
    fn path(&self, facet: FacetIndex) -> PathBuf {
        self.setting.directory.join(facet.name() + ".sqlite")
    }

    fn fork_path(&self, facet: FacetIndex) -> PathBuf {
        self.setting.directory.join(facet.fork_name() + ".sqlite")
    }

    fn connect(&self, path: &Path, more: OpenFlags) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        Connection::open_with_flags(path, flags).doing(|| format!("opening {}", path.display()))
    }

    fn connect_new(&self, path: &Path) -> Result<Connection> {
        let connection = self.connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        self.set_synchronous(&connection)?;
        self.set_journal_mode(&connection)?;
        Ok(connection)
    }

    fn set_journal_mode(&self, connection: &Connection) -> Result<()> {
        let mode = self.mode.journal_mode;
        let now: String = connection
            .pragma_update_and_check(None, "journal_mode", mode, |row| row.get(0))
            .doing(|| format!("setting journal_mode={mode}"))?;
        if now == mode {
            Ok(())
        } else {
            Err(Failure::new(format!("SQLite keeps journal mode {now} where {mode} was asked for")))
        }
    }

    fn set_synchronous(&self, connection: &Connection) -> Result<()> {
        connection
            .pragma_update(None, "synchronous", self.mode.synchronous)
            .doing(|| "setting PRAGMA synchronous".to_owned())
    }

    /// Copies the template, and makes the copy durable unless the arm promises nothing.
    fn copy_template(&self, template: &PathBuf, facet: FacetIndex) -> Result<()> {
        let path = self.path(facet);
        fs::copy(template, &path)
            .doing(|| format!("copying the template to {}", path.display()))?;
        if self.mode.is_wal() {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .doing(|| format!("syncing {}", path.display()))?;
        }
        Ok(())
    }
}

impl Opener for Files {
    fn create(&self, facet: FacetIndex) -> Result<Connection> {
        if let Some(template) = &self.setting.template {
            let file = if self.mode.is_wal() { &template.wal_path } else { &template.path };
            self.copy_template(file, facet)?;
            return self.open(facet);
        }
        let connection = self.connect_new(&self.path(facet))?;
        self.setting
            .statements()
            .create_tables(&connection)
            .doing(|| format!("creating the tables of {}", facet.name()))?;
        Ok(connection)
    }

    fn open(&self, facet: FacetIndex) -> Result<Connection> {
        let connection = self.connect(&self.path(facet), OpenFlags::empty())?;
        self.set_synchronous(&connection)?;
        // WAL is a property of the file; every other mode is one of the connection.
        if !self.mode.is_wal() {
            self.set_journal_mode(&connection)?;
        }
        Ok(connection)
    }

    /// A copy by SQLite's own means, since the file alone is not all that was acknowledged.
    fn fork(&self, facet: FacetIndex, open: &Connection) -> Result<Option<Connection>> {
        let mut fork = self.connect(&self.fork_path(facet), OpenFlags::SQLITE_OPEN_CREATE)?;
        self.set_synchronous(&fork)?;
        copy_database(open, &mut fork).doing(|| format!("forking {}", facet.name()))?;
        // Not before: in WAL mode the copy could not have pages of another size.
        self.set_journal_mode(&fork)?;
        // Closed, it is a single file in every mode.
        fork.close().map_err(|(_, error)| error).doing(|| format!("forking {}", facet.name()))?;
        Ok(None)
    }

    fn delete_fork(&self, facet: FacetIndex) -> Result<()> {
        let path = self.fork_path(facet);
        let doing = || format!("deleting {}", path.display());
        fs::remove_file(&path).doing(doing)?;
        if self.mode.is_wal() {
            File::open(&self.setting.directory).and_then(|it| it.sync_all()).doing(doing)?;
        }
        Ok(())
    }
}
