//! The statements of a connection as they run: counted, looked at for reserved names, and told of when
//! they were slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapidary_engine::FacetName;
use lapidary_vfs::{RunningStatement, StatementWatch};

use super::guard::State;
use crate::meter::Count;

/// Bytes of SQL in the log.
const SQL_BYTES_MAX: usize = 1_000;

pub(super) struct Statements {
    state: Arc<State>,
    facet: FacetName,
    slow: Option<Duration>,
    running: Vec<Run>,
}

/// A run of a statement. Several can be amid their rows at a time.
struct Run {
    statement: usize,
    began: Option<Instant>,
    steps_before: u32,
    rows: u64,
}

impl Statements {
    pub(super) fn new(state: Arc<State>, facet: FacetName, slow: Option<Duration>) -> Self {
        Self { state, facet, slow, running: Vec::new() }
    }
}

impl StatementWatch for Statements {
    fn begins(&mut self, statement: &RunningStatement<'_>, sql: &[u8]) {
        self.state.begins(sql);
        let id = statement.id();
        match self.running.iter().position(|run| run.statement == id) {
            // Of a trigger, in a statement that runs.
            Some(_) if sql.starts_with(b"--") => return,
            // What had this place before was never told to end.
            Some(at) => drop(self.running.swap_remove(at)),
            None => {}
        }
        self.running.push(Run {
            statement: id,
            began: self.slow.map(|_| Instant::now()),
            steps_before: statement.vm_steps(),
            rows: 0,
        });
    }

    fn row(&mut self, statement: &RunningStatement<'_>) {
        let id = statement.id();
        if let Some(run) = self.running.iter_mut().rfind(|run| run.statement == id) {
            run.rows += 1;
        }
    }

    fn ends(&mut self, statement: &RunningStatement<'_>) {
        let id = statement.id();
        let Some(at) = self.running.iter().rposition(|run| run.statement == id) else { return };
        let run = self.running.swap_remove(at);
        let steps = statement.vm_steps().wrapping_sub(run.steps_before);
        let scanned = statement.take_full_scan_steps();
        let meter = &self.state.meter;
        meter.add(Count::VmSteps, steps.into());
        meter.add(Count::RowsRead, run.rows);
        meter.add(Count::RowsScanned, scanned.into());
        if let (Some(slow), Some(began)) = (self.slow, run.began) {
            let elapsed = began.elapsed();
            if elapsed >= slow {
                tracing::warn!(
                    facet = %self.facet,
                    sql = shown(statement.sql()),
                    ?elapsed,
                    steps,
                    rows = run.rows,
                    "slow statement"
                );
            }
        }
    }
}

/// The beginning of a text, with three dots for the rest.
fn shown(sql: &[u8]) -> String {
    let text = String::from_utf8_lossy(sql);
    if text.len() <= SQL_BYTES_MAX {
        return text.into_owned();
    }
    let end = text.floor_char_boundary(SQL_BYTES_MAX);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shown(b"SELECT 1"), "SELECT 1");
        let long = "ü".repeat(SQL_BYTES_MAX);
        let cut = shown(format!("x{long}").as_bytes());
        assert!(cut.len() <= SQL_BYTES_MAX + '…'.len_utf8(), "{}", cut.len());
        assert!(cut.ends_with("ü…"), "{cut}");
    }
}
