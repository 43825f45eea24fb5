//! Pragmas: SQLite's own that mean something else here, and this crate's.

use super::{DatabaseFile, NO_EXCLUSIVE_READER, NO_JOURNAL, NO_WRITE_AHEAD_LOG};
use crate::file::{File as _, LockLevel, PragmaAnswer};
use crate::stat;

/// How the names of this crate's pragmas begin, now and in later releases.
const OWN_PREFIX: &str = "lapidary_";

impl DatabaseFile {
    pub(super) fn answer_pragma(&mut self, name: &str, value: Option<&str>) -> PragmaAnswer {
        let name = name.to_ascii_lowercase();
        match (name.as_str(), value) {
            ("lapidary_stat", None) => match stat::facet_json(&self.facet) {
                Ok(json) => PragmaAnswer::Row(json),
                Err(error) => PragmaAnswer::Refuse(error.to_string()),
            },
            ("lapidary_verify", None) => self.verify(),
            ("locking_mode", Some(value)) => self.locking_mode(value),
            ("journal_mode", Some(value)) => self.journal_mode(value),
            // SQLite takes a pragma that nobody knows for one with nothing to say.
            (name, _) if name.starts_with(OWN_PREFIX) => PragmaAnswer::Refuse(format!(
                "no such pragma: {name}; this release has lapidary_stat and lapidary_verify, without \
                 a value"
            )),
            _ => PragmaAnswer::PassOn,
        }
    }

    /// Verifies the store: `ok`, or a line for each thing that is wrong.
    fn verify(&self) -> PragmaAnswer {
        let report = match self.store.verify(&mut |_| ()) {
            Ok(report) if report.is_clean() => return PragmaAnswer::Row("ok".into()),
            Ok(report) => report,
            Err(error) => return PragmaAnswer::Refuse(error.to_string()),
        };
        let mut lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        if report.more_findings > 0 {
            lines.push(format!("and {} more", report.more_findings));
        }
        PragmaAnswer::Row(lines.join("\n"))
    }

    fn locking_mode(&mut self, value: &str) -> PragmaAnswer {
        let exclusive = value.eq_ignore_ascii_case("exclusive");
        // Where there is one version alone there is nothing to miss.
        if exclusive && self.read_only && self.fixed.is_none() {
            return PragmaAnswer::Refuse(NO_EXCLUSIVE_READER.into());
        }
        self.exclusive_locking = exclusive;
        PragmaAnswer::PassOn
    }

    fn journal_mode(&mut self, value: &str) -> PragmaAnswer {
        if is_journal_mode(value, "off") {
            return PragmaAnswer::Refuse(NO_JOURNAL.into());
        }
        // In normal locking mode SQLite finds that there is no shared memory and stays with
        // the mode it has. In exclusive mode it would do without, and learn of the refusal
        // only from the commit that follows the pragma's answer.
        let keeps_locks = self.exclusive_locking || self.lock_level() != LockLevel::None;
        if is_journal_mode(value, "wal") && keeps_locks {
            return PragmaAnswer::Refuse(NO_WRITE_AHEAD_LOG.into());
        }
        PragmaAnswer::PassOn
    }
}

/// Whether SQLite takes `value` for the journal mode `mode`, as it does any beginning of its name.
fn is_journal_mode(value: &str, mode: &str) -> bool {
    !value.is_empty() && mode.starts_with(value.to_ascii_lowercase().as_str())
}
