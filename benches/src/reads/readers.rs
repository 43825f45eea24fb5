//! Memory of many connections to one facet.

use std::fs;

use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::numbers::{float, rounded, short};
use lapidary_benches::process::field;
use lapidary_benches::sheet::{Sheet, Target};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::database::{Answer, Arm, COUNT_ROWS, Place, ask, check};
use crate::step;

/// A query that every connection has run before it is called open: the schema is read.
const TOUCH: &str = "SELECT id, 0, 0 FROM message WHERE id = 1";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Readers {
    pub(crate) arm: Arm,
    pub(crate) count: u32,
    pub(crate) expected: Answer,
}

/// What connections take that is theirs alone: anonymous memory and page tables. Pages of mapped
/// files are the kernel's page cache, which all of them, and other processes, have in common.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    anonymous_kib: f64,
    page_tables_kib: f64,
}

impl Memory {
    fn now() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")
            .doing(|| "reading /proc/self/status".to_owned())?;
        Ok(Self {
            anonymous_kib: float(field(&status, "RssAnon:")?),
            page_tables_kib: float(field(&status, "VmPTE:")?),
        })
    }

    fn since(self, before: Self, count: u32) -> Self {
        let per = |now: f64, before: f64| rounded((now - before) / f64::from(count), 2);
        Self {
            anonymous_kib: per(self.anonymous_kib, before.anonymous_kib),
            page_tables_kib: per(self.page_tables_kib, before.page_tables_kib),
        }
    }

    fn sum_kib(self) -> f64 {
        self.anonymous_kib + self.page_tables_kib
    }
}

/// Of one arm, for each connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ArmFigures {
    pub(crate) arm: Arm,
    pub(crate) open: Memory,
    /// More, after each has read every page.
    pub(crate) read: Memory,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) mib: u32,
    pub(crate) readers: u32,
    pub(crate) arms: Vec<ArmFigures>,
}

pub(crate) fn read(place: &Place, readers: Readers) -> Result<ArmFigures> {
    let Readers { arm, count, expected } = readers;
    let _registration = place.serve()?;
    // What the store itself takes is not a connection's.
    ask(&place.open(arm)?, COUNT_ROWS)?;
    let before = Memory::now()?;
    let mut connections: Vec<Connection> = Vec::new();
    for _ in 0..count {
        let connection = place.open(arm)?;
        check(arm, ask(&connection, TOUCH)?, (1, 0, 0))?;
        connections.push(connection);
    }
    let open = Memory::now()?;
    for (number, connection) in (0..).zip(&connections) {
        check(arm, ask(connection, COUNT_ROWS)?, (expected.0, 0, 0))?;
        if number % 10 == 0 {
            step::tell(number, count, "connections");
        }
    }
    let read = Memory::now()?;
    Ok(ArmFigures { arm, open: open.since(before, count), read: read.since(open, count) })
}

impl Figures {
    pub(crate) fn sheet(&self) -> Sheet {
        let title = format!(
            "{} connections that have read the same {} MiB, KiB of each that are its own",
            self.readers, self.mib
        );
        let columns = ["open", "of which page tables", "reading adds", "of which page tables"];
        let mut sheet = Sheet::new(title, &columns);
        for ArmFigures { arm, open, read } in &self.arms {
            let figures =
                [open.sum_kib(), open.page_tables_kib, read.sum_kib(), read.page_tables_kib];
            sheet.row(arm.label(), figures.map(short).to_vec());
        }
        sheet
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        let lapidary = self.arms.iter().find(|figures| figures.arm == Arm::Lapidary);
        let kib = lapidary.map_or(f64::INFINITY, |figures| figures.read.sum_kib());
        vec![Target::new("KiB that reading adds to each connection", kib, 32.0)]
    }
}
