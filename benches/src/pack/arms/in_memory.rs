//! `:memory:` databases: what SQLite's own work costs when nothing is stored anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{Arm, Setting, Written};
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::process::DiskUse;

use crate::load::Client;
use crate::pool::{Opener, Pool};
use crate::sql::{Statements, copy_database};
use crate::workload::{FacetIndex, Share};

pub(super) struct InMemory {
    setting: Setting,
    connections_open: Arc<AtomicUsize>,
}

impl InMemory {
    pub(super) fn new(setting: &Setting) -> Self {
        Self { setting: setting.clone(), connections_open: Arc::default() }
    }
}

impl Arm for InMemory {
    fn clients(&mut self) -> Result<Vec<Box<dyn Client>>> {
        let clients = self.setting.clients();
        (0..clients)
            .map(|client| -> Result<Box<dyn Client>> {
                let share = Share { client, clients, facets: self.setting.facets };
                Ok(Box::new(Pool::new(
                    Memory {
                        statements: self.setting.statements(),
                        template: super::open_template(&self.setting)?,
                    },
                    self.setting.statements(),
                    share,
                    usize::MAX,
                    Arc::clone(&self.connections_open),
                )))
            })
            .collect()
    }

    fn connections_open(&self) -> Result<u64> {
        Ok(self.connections_open.load(Ordering::Relaxed) as u64)
    }

    fn store_open(&self) -> Option<Duration> {
        None
    }

    fn disk_use(&self) -> Result<DiskUse> {
        Ok(DiskUse::default())
    }

    fn written(&self) -> Result<Option<Written>> {
        Ok(Some(Written::default()))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Memory {
    statements: &'static Statements,
    template: Option<Connection>,
}

fn open_empty(facet: FacetIndex) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_in_memory_with_flags(flags)
        .doing(|| format!("opening {} in memory", facet.name()))
}

impl Opener for Memory {
    fn create(&self, facet: FacetIndex) -> Result<Connection> {
        let mut connection = open_empty(facet)?;
        match &self.template {
            None => self
                .statements
                .create_tables(&connection)
                .doing(|| format!("creating the tables of {}", facet.name()))?,
            Some(template) => copy_database(template, &mut connection)
                .doing(|| format!("copying the template to {}", facet.name()))?,
        }
        Ok(connection)
    }

    fn open(&self, facet: FacetIndex) -> Result<Connection> {
        Err(Failure::new(format!("{} was in memory and is gone", facet.name())))
    }

    fn fork(&self, facet: FacetIndex, open: &Connection) -> Result<Option<Connection>> {
        let mut fork = open_empty(facet)?;
        copy_database(open, &mut fork).doing(|| format!("forking {}", facet.name()))?;
        Ok(Some(fork))
    }

    fn delete_fork(&self, _: FacetIndex) -> Result<()> {
        Ok(())
    }
}
