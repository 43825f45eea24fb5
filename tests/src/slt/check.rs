//! Runs a script on a facet and on stock SQLite.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use lapidary_vfs::{Registration, take_last_error};
use rusqlite::{Connection, OpenFlags};

use super::script::{Kind, Record};
use super::values::{are_expected, to_hash_line, to_lines};
use crate::differential::outcome::{Outcome, run};
use crate::small_store;

/// Whose answer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The facet's is not what the script expects.
    Facet,
    /// Stock SQLite's is not what the script expects.
    Stock,
    /// They are not the same, whatever the script expects.
    NotTheSame,
}

/// A record that did not go as it should.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The line of the record.
    pub line: usize,
    /// Whose answer is wrong.
    pub wrong: Wrong,
    /// What came and what should have.
    pub words: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = match self.wrong {
            Wrong::Facet => "the facet does not do as the script has it",
            Wrong::Stock => "stock SQLite does not do as the script has it",
            Wrong::NotTheSame => "the facet and stock SQLite differ",
        };
        write!(f, "{}: {wrong}: {}", self.line, self.words)
    }
}

/// Databases for scripts: facets of one store in memory, and files.
#[derive(Debug)]
pub struct Sides {
    registration: Arc<Registration>,
    directory: tempfile::TempDir,
    scripts: u64,
}

impl Sides {
    /// An empty store, and an empty directory.
    ///
    /// # Errors
    /// No temporary directory can be made.
    pub fn new() -> std::io::Result<Self> {
        let directory = tempfile::tempdir()?;
        Ok(Self { registration: small_store::register(), directory, scripts: 0 })
    }

    /// A new database on each side.
    fn open(&mut self) -> rusqlite::Result<[Connection; 2]> {
        self.scripts += 1;
        let name = format!("script/{}", self.scripts);
        let vfs = self.registration.name();
        let facet = Connection::open_with_flags_and_vfs(name, OpenFlags::default(), vfs)?;
        let stock = Connection::open(self.directory.path().join(self.scripts.to_string()))?;
        stock.execute_batch("PRAGMA synchronous=OFF")?;
        Ok([facet, stock])
    }

    /// Runs `records` on a new database on each side. Returns how many were run, and what did not go
    /// as it should.
    ///
    /// # Errors
    /// The databases cannot be opened.
    pub fn check(&mut self, records: &[Record]) -> rusqlite::Result<(usize, Vec<Failure>)> {
        let [facet, stock] = self.open()?;
        let mut labels = [HashMap::new(), HashMap::new()];
        let mut failures = Vec::new();
        let before_halt = records.iter().take_while(|record| record.kind != Kind::Halt);
        let mut count = 0;
        for record in before_halt {
            count += 1;
            let mut fail = |wrong, words| {
                failures.push(Failure { line: record.line, wrong, words });
            };
            let outcomes = [run(&facet, &record.sql), run(&stock, &record.sql)];
            for (side, wrong) in [Wrong::Facet, Wrong::Stock].into_iter().enumerate() {
                if let Err(words) = as_expected(record, &outcomes[side], &mut labels[side]) {
                    fail(wrong, words);
                }
            }
            let [ours, theirs] = outcomes;
            if ours != theirs {
                let last = take_last_error();
                fail(Wrong::NotTheSame, format!("{ours:?}\nstock: {theirs:?}\nlast: {last:?}"));
            }
        }
        let check = run(&facet, "PRAGMA integrity_check");
        if check != run(&stock, "PRAGMA integrity_check") {
            let line = records.last().map_or(1, |record| record.line);
            let words = format!("after the last record: {check:?}");
            failures.push(Failure { line, wrong: Wrong::NotTheSame, words });
        }
        Ok((count, failures))
    }
}

/// Compares an outcome with what the record expects, and with the results of its label.
fn as_expected(
    record: &Record,
    outcome: &Outcome,
    labels: &mut HashMap<String, String>,
) -> Result<(), String> {
    let error = outcome.error.as_ref();
    let failed = error.map(|error| format!("error {}: {}", error.code, error.message));
    match &record.kind {
        Kind::Halt => Ok(()),
        Kind::Statement { succeeds: true } => failed.map_or(Ok(()), Err),
        Kind::Statement { succeeds: false } => match failed {
            Some(_) => Ok(()),
            None => Err("it succeeds, and should fail".to_owned()),
        },
        Kind::Query { types, sort, label, expected } => {
            if let Some(failed) = failed {
                return Err(failed);
            }
            let columns = outcome.rows.first().map_or(types.len(), Vec::len);
            if columns != types.len() {
                return Err(format!("{columns} columns, and should have {}", types.len()));
            }
            let lines = to_lines(&outcome.rows, types, *sort);
            if let Some(expected) = expected
                && !are_expected(&lines, expected)
            {
                return Err(difference(&lines, expected));
            }
            let hash = to_hash_line(&lines);
            match label
                .as_ref()
                .map(|label| (label, labels.entry(label.clone()).or_insert(hash.clone())))
            {
                Some((label, first)) if *first != hash => {
                    Err(format!("{hash}, but the first query of label {label} has {first}"))
                }
                _ => Ok(()),
            }
        }
    }
}

fn difference(lines: &[String], expected: &[String]) -> String {
    if let [hash] = expected
        && hash.contains(" values hashing to ")
    {
        return format!("{}, and should have {hash}", to_hash_line(lines));
    }
    let at = lines.iter().zip(expected).take_while(|(one, other)| one == other).count();
    let shown = |lines: &[String]| lines.get(at).map_or("nothing".to_owned(), |l| format!("{l:?}"));
    let (ours, theirs) = (shown(lines), shown(expected));
    format!(
        "value {} is {ours}, and should be {theirs} ({} values, and should be {})",
        at + 1,
        lines.len(),
        expected.len()
    )
}

#[cfg(test)]
mod tests {
    use super::super::script::parse;
    use super::*;

    fn failures(script: &str) -> Vec<(usize, Wrong)> {
        let records = parse(script, "sqlite").unwrap();
        let (_, failures) = Sides::new().unwrap().check(&records).unwrap();
        failures.iter().map(|failure| (failure.line, failure.wrong)).collect()
    }

    #[test]
    fn what_does_not_go_as_the_script_has_it_is_found() {
        let table =
            "statement ok\nCREATE TABLE t(a)\n\nstatement ok\nINSERT INTO t VALUES (1), (2)\n\n";
        let both = |line| vec![(line, Wrong::Facet), (line, Wrong::Stock)];
        for (rest, failing) in [
            ("query I rowsort\nSELECT a FROM t\n----\n1\n2\n", vec![]),
            ("query I rowsort\nSELECT a FROM t\n----\n1\n3\n", both(7)),
            ("query I rowsort\nSELECT a FROM t\n----\n1\n", both(7)),
            ("query II rowsort\nSELECT a FROM t\n", both(7)),
            ("query I rowsort\nSELECT b FROM t\n----\n", both(7)),
            ("statement ok\nINSERT INTO u VALUES (1)\n", both(7)),
            ("statement error\nINSERT INTO t VALUES (1)\n", both(7)),
            ("query I nosort x\nSELECT 1\n\nquery I nosort x\nSELECT 2\n", both(10)),
            ("halt\n\nstatement error\nSELECT 1\n", vec![]),
        ] {
            assert_eq!(failures(&format!("{table}{rest}")), failing, "{rest}");
        }
        let differing = failures("query T\nPRAGMA journal_mode=WAL\n----\ndelete\n");
        assert_eq!(differing, [(1, Wrong::Stock), (1, Wrong::NotTheSame)]);
    }
}
