//! Plain SQLite connections through the VFS: what a program gets that changes nothing but the way
//! it opens its databases. COMMIT returns when it is durable; threads that commit at the same time
//! share a flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapidary_engine::{Environment, FacetName, ForkFrom, Store, StoreOptions};
use lapidary_vfs::{Registration, VfsOptions, take_last_error};
use rusqlite::{Connection, OpenFlags};

use super::{Arm, Setting, Written};
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::process::DiskUse;

use crate::load::Client;
use crate::pool::{Opener, Pool};
use crate::sql::{Statements, copy_database};
use crate::workload::{FacetIndex, Share};

const VFS_NAME: &str = "lapidary";

pub(super) struct Vfs {
    setting: Setting,
    store: Arc<Store>,
    registration: Arc<Registration>,
    store_open: Duration,
    connections_open: Arc<AtomicUsize>,
}

impl Vfs {
    pub(super) fn open(setting: &Setting) -> Result<Self> {
        let doing = || format!("opening the store {}", setting.directory.display());
        let started = Instant::now();
        let mut options = StoreOptions::create();
        options.tunables.log_buffers = setting.cpus.len();
        let store = Store::open(Environment::system(&setting.directory), options).doing(doing)?;
        let registration =
            Registration::register(VFS_NAME, Arc::clone(&store), VfsOptions::default())
                .doing(doing)?;
        Ok(Self {
            setting: setting.clone(),
            store,
            registration,
            store_open: started.elapsed(),
            connections_open: Arc::default(),
        })
    }
}

impl Arm for Vfs {
    fn clients(&mut self) -> Result<Vec<Box<dyn Client>>> {
        let clients = self.setting.clients();
        (0..clients)
            .map(|client| -> Result<Box<dyn Client>> {
                let share = Share { client, clients, facets: self.setting.facets };
                let opener = Facets {
                    statements: self.setting.statements(),
                    template: super::open_template(&self.setting)?,
                    // SQLite knows the VFS as long as somebody holds the registration.
                    _registration: Arc::clone(&self.registration),
                    store: Arc::clone(&self.store),
                };
                Ok(Box::new(Pool::new(
                    opener,
                    self.setting.statements(),
                    share,
                    self.setting.open_max_per_client(),
                    Arc::clone(&self.connections_open),
                )))
            })
            .collect()
    }

    fn connections_open(&self) -> Result<u64> {
        Ok(self.connections_open.load(Ordering::Relaxed) as u64)
    }

    fn store_open(&self) -> Option<Duration> {
        Some(self.store_open)
    }

    fn disk_use(&self) -> Result<DiskUse> {
        Ok(super::store_disk_use(&self.store))
    }

    fn written(&self) -> Result<Option<Written>> {
        Ok(Some(super::store_written(&self.store)))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.store.close().doing(|| format!("closing {}", self.store.describe()))
    }
}

struct Facets {
    statements: &'static Statements,
    template: Option<Connection>,
    _registration: Arc<Registration>,
    store: Arc<Store>,
}

impl Facets {
    fn connect(&self, facet: FacetIndex, more: OpenFlags) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        Connection::open_with_flags_and_vfs(facet.name(), flags, VFS_NAME)
            .doing(|| format!("opening facet {}{}", facet.name(), self.more()))
    }

    fn more(&self) -> String {
        self.explain().map_or_else(String::new, |more| format!(" ({more})"))
    }
}

impl Opener for Facets {
    fn create(&self, facet: FacetIndex) -> Result<Connection> {
        let mut connection = self.connect(facet, OpenFlags::SQLITE_OPEN_CREATE)?;
        match &self.template {
            None => self
                .statements
                .create_tables(&connection)
                .doing(|| format!("creating the tables of {}{}", facet.name(), self.more()))?,
            Some(template) => copy_database(template, &mut connection)
                .doing(|| format!("copying the template to {}{}", facet.name(), self.more()))?,
        }
        Ok(connection)
    }

    fn open(&self, facet: FacetIndex) -> Result<Connection> {
        self.connect(facet, OpenFlags::empty())
    }

    fn fork(&self, facet: FacetIndex, _: &Connection) -> Result<Option<Connection>> {
        let fork = || -> lapidary_engine::Result<()> {
            let (from, to) = (FacetName::new(facet.name())?, FacetName::new(facet.fork_name())?);
            let (_, ticket) = self.store.fork_facet(&from, &to, ForkFrom::Latest)?;
            self.store.wait_durable(ticket)
        };
        fork().doing(|| format!("forking facet {}", facet.name())).map(|()| None)
    }

    fn delete_fork(&self, facet: FacetIndex) -> Result<()> {
        let delete = || -> lapidary_engine::Result<()> {
            let ticket = self.store.delete_facet(&FacetName::new(facet.fork_name())?)?;
            self.store.wait_durable(ticket)
        };
        delete().doing(|| format!("deleting facet {}", facet.fork_name()))
    }

    fn explain(&self) -> Option<String> {
        take_last_error()
    }
}
