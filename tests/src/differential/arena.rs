//! The two sides: stock SQLite on an ordinary file, and a facet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{FacetName, PageNo, Store, View};
use lapidary_vfs::{Registration, take_last_error};
use rusqlite::{Connection, OpenFlags};

use super::case::{Action, Case, Family};
use super::content::logical_hash;
use super::known::{self, Check};
use super::outcome::{run, run_around};
use super::pages::{Compared, first_difference, pages_of};
use crate::small_store;

/// Where the sides differ.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// The step, or `None` if it is what is there at the end.
    pub step: Option<usize>,
    /// What differs.
    pub words: String,
}

/// A store and a directory, in which case after case is run.
#[derive(Debug)]
pub struct Arena {
    /// `PRAGMA mmap_size` of both sides.
    mmap_bytes: u64,
    registration: Arc<Registration>,
    directory: tempfile::TempDir,
    cases: u64,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// An empty store in memory and an empty directory.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { mmap_bytes: 0, registration: small_store::register(), directory, cases: 0 }
    }

    /// An empty store in files, pages of which both sides read in place where they can.
    #[must_use]
    pub fn in_place() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let registration = small_store::register_in(&directory.path().join("store"));
        Self { mmap_bytes: 1 << 30, registration, directory, cases: 0 }
    }

    fn store(&self) -> &Arc<Store> {
        self.registration.store()
    }

    fn maintain(&self) -> Result<(), String> {
        let done = small_store::maintain(&self.registration);
        done.map_err(|error| format!("maintenance failed: {error}"))
    }

    /// Runs a case on both sides.
    ///
    /// # Errors
    /// The first difference that is not meant to be.
    pub fn run(&mut self, case: &Case) -> Result<(), Divergence> {
        self.cases += 1;
        let file = self.directory.path().join(format!("{}.db", self.cases));
        let facet = format!("case/{}", self.cases);
        let result = Run::new(self, case, &file, &facet).go();
        let at_end = |words| Divergence { step: None, words };
        let name = FacetName::new(facet).expect("a valid name");
        self.store().delete_facet(&name).map_err(|error| at_end(error.to_string()))?;
        if self.cases.is_multiple_of(16) {
            self.maintain().map_err(at_end)?;
        }
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut path = file.clone().into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(PathBuf::from(path));
        }
        result
    }

    /// Has the store read all that it holds.
    ///
    /// # Errors
    /// What it finds wrong.
    pub fn verify(&self) -> Result<(), String> {
        let report = self.store().verify(&mut |_| ()).map_err(|error| error.to_string())?;
        if report.is_clean() { Ok(()) } else { Err(format!("{:?}", report.findings)) }
    }
}

/// One case on its way.
struct Run<'a> {
    arena: &'a Arena,
    case: &'a Case,
    file: &'a Path,
    facet: &'a str,
    stock: Vec<Option<Connection>>,
    facets: Vec<Option<Connection>>,
}

impl<'a> Run<'a> {
    fn new(arena: &'a Arena, case: &'a Case, file: &'a Path, facet: &'a str) -> Self {
        let nothing = || (0..case.family.connections()).map(|_| None).collect();
        Self { arena, case, file, facet, stock: nothing(), facets: nothing() }
    }

    fn open_facet(&self) -> Result<Connection, String> {
        let vfs = self.arena.registration.name();
        without_waiting(Connection::open_with_flags_and_vfs(self.facet, OpenFlags::default(), vfs))
    }

    fn open_stock(&self) -> Result<Connection, String> {
        without_waiting(Connection::open(self.file))
    }

    /// Opens a connection on both sides, with the case's settings.
    fn open(&mut self, connection: usize) -> Result<(), String> {
        let first = self.stock.iter().all(Option::is_none);
        self.stock[connection] = None;
        self.facets[connection] = None;
        let (stock, facet) = (self.open_stock()?, self.open_facet()?);
        // The sides differ in what they owe the disk, and files are to be fast.
        let _ = run(&stock, "PRAGMA synchronous=OFF");
        let in_place = format!("PRAGMA mmap_size={}", self.arena.mmap_bytes);
        for connection in [&stock, &facet] {
            let _ = run(connection, &in_place);
        }
        let of_database = self.case.database.iter().filter(|_| first);
        for setting in of_database.chain(&self.case.settings) {
            let (ours, theirs) = (run(&facet, setting), run(&stock, setting));
            // To whom somebody keeps out it does not matter how it would read.
            if ours != theirs && known::of_answer(self.case.family, &theirs).is_none() {
                return Err(format!("{setting}: {ours:?} is not {theirs:?}"));
            }
        }
        if self.case.family == Family::Together {
            let _ = run(&stock, "PRAGMA journal_mode=WAL");
        }
        self.stock[connection] = Some(stock);
        self.facets[connection] = Some(facet);
        Ok(())
    }

    fn pair(&self, connection: usize) -> (&Connection, &Connection) {
        let open = "connections are open from the start";
        (
            self.stock[connection].as_ref().expect(open),
            self.facets[connection].as_ref().expect(open),
        )
    }

    fn go(mut self) -> Result<(), Divergence> {
        let at_end = |words| Divergence { step: None, words };
        for connection in 0..self.case.family.connections() {
            self.open(connection).map_err(at_end)?;
            // A write-ahead log is begun by writing page 1, so there is one on both sides.
            if self.case.family == Family::Together && connection == 0 {
                self.statement(connection, "PRAGMA user_version=1").map_err(at_end)?;
            }
        }
        for (index, step) in self.case.steps.iter().enumerate() {
            let is_reader = self.case.family == Family::Alone && step.connection > 0;
            let done = match &step.action {
                Action::Maintain => self.arena.maintain(),
                _ if is_reader && self.is_blocked().map_err(at_end)? => Ok(()),
                Action::Sql(sql) => self.statement(step.connection, sql),
                Action::Around { sql, rows, inner } => {
                    self.around(step.connection, sql, *rows, inner)
                }
                Action::Reopen => self.open(step.connection),
            };
            done.map_err(|words| Divergence {
                step: Some(index),
                words: format!("{step}\n{words}"),
            })?;
        }
        self.compare_ends().map_err(at_end)
    }

    fn statement(&self, connection: usize, sql: &str) -> Result<(), String> {
        let (stock, facet) = self.pair(connection);
        let known = known::of_statement(self.case.family, sql);
        let in_its_place = match known.map(|known| known.check) {
            Some(Check::Declined { stock_runs, .. }) => Some(stock_runs),
            Some(Check::Refused(_)) => None,
            _ => Some(sql),
        };
        let theirs = in_its_place.map(|sql| run(stock, sql));
        let ours = run(facet, sql);
        let agreed = match known {
            Some(known) => known::is_as_known(known.check, theirs.as_ref(), &ours),
            None => theirs.as_ref() == Some(&ours),
        };
        if agreed {
            return Ok(());
        }
        let words = take_last_error();
        Err(format!("facet: {ours:?}\nstock: {theirs:?}\nthe facet's last error: {words:?}"))
    }

    fn around(
        &self,
        connection: usize,
        sql: &str,
        rows: usize,
        inner: &[String],
    ) -> Result<(), String> {
        let all = |connection: &Connection| {
            let mut outcomes = Vec::new();
            let amid = || outcomes.extend(inner.iter().map(|sql| run(connection, sql)));
            let outer = run_around(connection, sql, rows, amid);
            outcomes.push(outer);
            outcomes
        };
        let (stock, facet) = self.pair(connection);
        let (theirs, ours) = (all(stock), all(facet));
        if ours == theirs {
            return Ok(());
        }
        let words = take_last_error();
        Err(format!("facet: {ours:#?}\nstock: {theirs:#?}\nthe facet's last error: {words:?}"))
    }

    /// Whether readers of the file are kept out, which those of a facet never are. A reader's steps are
    /// then left out on both sides: being busy does not always show in its errors, since a schema that
    /// cannot be read again is taken for the newest.
    fn is_blocked(&self) -> Result<bool, String> {
        let probe = "SELECT count(*) FROM sqlite_schema";
        let theirs = run(&self.open_stock()?, probe);
        let Some(known) = known::of_answer(self.case.family, &theirs) else {
            return Ok(false);
        };
        let ours = run(&self.open_facet()?, probe);
        if known::is_as_known(known.check, Some(&theirs), &ours) {
            Ok(true)
        } else {
            Err(format!("a reader is kept out: {ours:?}"))
        }
    }

    /// Ends what is open on both sides, and compares what each holds.
    fn compare_ends(&mut self) -> Result<(), String> {
        for connection in 0..self.case.family.connections() {
            if !self.pair(connection).0.is_autocommit() {
                self.statement(connection, "ROLLBACK")?;
            }
        }
        self.stock.clear();
        self.facets.clear();
        let (stock, facet) = (self.open_stock()?, self.open_facet()?);
        for sql in ["PRAGMA integrity_check", "PRAGMA page_size", "PRAGMA page_count"] {
            let (ours, theirs) = (run(&facet, sql), run(&stock, sql));
            if ours != theirs {
                return Err(format!("{sql}: facet: {ours:?}\nstock: {theirs:?}"));
            }
        }
        let (ours, theirs) = (logical_hash(&facet)?, logical_hash(&stock)?);
        if ours != theirs {
            return Err("schema and rows are not the same at the end".to_owned());
        }
        drop((stock, facet));
        // The file of a database with a write-ahead log is not all of it.
        match self.case.family {
            Family::Alone => self.compare_pages(),
            Family::Together => Ok(()),
        }
    }

    fn compare_pages(&self) -> Result<(), String> {
        let engine = |error: lapidary_engine::Error| error.to_string();
        let mut theirs = std::fs::read(self.file).map_err(|error| error.to_string())?;
        let name = FacetName::new(self.facet).map_err(engine)?;
        let facet = self.arena.store().open_facet(&name).map_err(engine)?;
        let snapshot = facet.snapshot(View::Durable).map_err(engine)?;
        let Some(page_size) = snapshot.page_size() else {
            return Ok(());
        };
        // To map a file SQLite makes it as long as the transaction is to be. What was taken back to a
        // savepoint meanwhile stays in the file, past the end of the database.
        if self.arena.mmap_bytes > 0 {
            theirs.truncate(pages_of(&theirs) * page_size.bytes());
        }
        let mut ours = vec![0; snapshot.page_count() as usize * page_size.bytes()];
        for (number, page) in (1..).zip(ours.chunks_mut(page_size.bytes())) {
            snapshot.read_page(PageNo(number), page).map_err(engine)?;
        }
        let compared = match self.arena.mmap_bytes {
            0 => Compared::Bytes,
            _ => Compared::Readable,
        };
        match first_difference(&theirs, &ours, page_size.bytes(), compared) {
            None => Ok(()),
            Some(page) => Err(format!("page {page} is not the same at the end")),
        }
    }
}

/// A connection that says that it is busy rather than wait for what the same thread holds.
fn without_waiting(opened: rusqlite::Result<Connection>) -> Result<Connection, String> {
    opened
        .and_then(|connection| connection.busy_timeout(Duration::ZERO).map(|()| connection))
        .map_err(|error| format!("a connection cannot be opened: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::case::Step;
    use super::*;

    fn case(family: Family, steps: &[(usize, &str)]) -> Case {
        let step = |&(connection, sql): &(usize, &str)| Step {
            connection,
            action: Action::Sql(sql.to_owned()),
        };
        let (database, settings) = (Vec::new(), Vec::new());
        Case { family, database, settings, steps: steps.iter().map(step).collect() }
    }

    #[test]
    fn what_differs_is_found() {
        let mut arena = Arena::new();
        // The paths differ, and so does what the pager locks, in ways that no statement of a case asks.
        let paths = case(Family::Alone, &[(0, "PRAGMA database_list")]);
        assert_eq!(arena.run(&paths).unwrap_err().step, Some(0));
        let blocked = [
            (0, "CREATE TABLE t(a)"),
            (1, "BEGIN"),
            (1, "SELECT * FROM t"),
            (0, "INSERT INTO t VALUES (1)"),
        ];
        assert_eq!(arena.run(&case(Family::Alone, &blocked)).unwrap_err().step, Some(3));
        arena.run(&case(Family::Together, &blocked)).unwrap();
    }

    #[test]
    fn known_differences_are_as_they_are_listed() {
        let mut arena = Arena::new();
        let steps = [
            (0, "CREATE TABLE t(a)"),
            (0, "PRAGMA journal_mode=WAL"),
            (0, "PRAGMA journal_mode=OFF"),
            (0, "PRAGMA locking_mode=EXCLUSIVE"),
            (0, "PRAGMA journal_mode=WAL"),
            (0, "INSERT INTO t VALUES (1)"),
            (1, "SELECT * FROM t"),
        ];
        arena.run(&case(Family::Alone, &steps)).unwrap();
        assert!(known::of_statement(Family::Together, steps[1].1).is_none());
    }
}
