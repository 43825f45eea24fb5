//! Where a facet is meant to answer otherwise than a database in a file. This is the whole list;
//! everything else that differs is a defect.

use super::case::Family;
use super::outcome::{Cell, Outcome};

/// How a known difference is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Stock SQLite runs this in its place; a facet gives the same answer, or is refused with these
    /// words.
    Declined {
        /// What stock SQLite runs.
        stock_runs: &'static str,
        /// What the refusal says.
        or_refused: &'static str,
    },
    /// Stock SQLite does not run it; a facet is refused with these words.
    Refused(&'static str),
    /// Stock SQLite is busy; a facet need not be.
    OnlyStockIsBusy,
}

/// A difference that is meant to be.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// What is done.
    pub what: &'static str,
    /// Why a facet answers otherwise.
    pub reason: &'static str,
    /// How it is told by the SQL, in lower case; `None` if it is told by stock SQLite's answer.
    sql: Option<&'static str>,
    /// Where it applies.
    family: Family,
    /// What is checked.
    pub check: Check,
}

/// All of them.
pub const KNOWN: [Known; 3] = [
    Known {
        what: "PRAGMA journal_mode=WAL",
        reason: "readers and a writer go side by side in a facet without a write-ahead log, so the \
                 pragma stays with the mode there is; where SQLite would do without shared memory \
                 (a lock is kept), it is refused",
        sql: Some("pragma journal_mode=wal"),
        family: Family::Alone,
        check: Check::Declined {
            stock_runs: "PRAGMA journal_mode",
            or_refused: "WAL mode is refused",
        },
    },
    Known {
        what: "PRAGMA journal_mode=OFF",
        reason: "SQLite could not take a failed statement back, and a half-done one would be \
                 committed",
        sql: Some("pragma journal_mode=off"),
        family: Family::Alone,
        check: Check::Refused("journal_mode=OFF is refused"),
    },
    Known {
        what: "reading while somebody else writes",
        reason: "with a rollback journal stock SQLite keeps readers out while a writer changes the \
                 file or keeps an exclusive lock; a facet's reader has a snapshot of its own",
        sql: None,
        family: Family::Alone,
        check: Check::OnlyStockIsBusy,
    },
];

/// What is known of a statement before it is run.
#[must_use]
pub fn of_statement(family: Family, sql: &str) -> Option<&'static Known> {
    let sql = sql.to_ascii_lowercase();
    KNOWN.iter().find(|known| known.family == family && known.sql == Some(sql.as_str()))
}

/// What is known of a statement that stock SQLite answered with `stock`.
#[must_use]
pub fn of_answer(family: Family, stock: &Outcome) -> Option<&'static Known> {
    let is_known = |known: &&Known| known.family == family && known.check == Check::OnlyStockIsBusy;
    if stock.is_busy() { KNOWN.iter().find(is_known) } else { None }
}

/// Whether a facet's answer to a statement with a known difference is as the list has it.
#[must_use]
pub fn is_as_known(check: Check, stock: Option<&Outcome>, facet: &Outcome) -> bool {
    let refused_with = |words: &str| {
        facet.rows.iter().all(Vec::is_empty)
            && facet.error.as_ref().is_some_and(|error| error.message.contains(words))
    };
    match check {
        Check::Declined { or_refused, .. } => {
            let rows = |outcome: &Outcome| -> Vec<Cell> { outcome.rows.concat() };
            refused_with(or_refused)
                || (facet.error.is_none() && stock.map(rows) == Some(rows(facet)))
        }
        Check::Refused(words) => refused_with(words),
        Check::OnlyStockIsBusy => facet.error.is_none(),
    }
}
