//! Pragmas, transactions, savepoints, and what rewrites the whole database.

use super::{Generator, Session};
use crate::chance::Chance;
use crate::differential::case::Family;

/// Pragmas that say what kind of database it becomes.
#[must_use]
pub fn of_database(chance: &mut Chance) -> Vec<String> {
    let mut settings = vec![
        format!("PRAGMA page_size={}", 512 << chance.below(8)),
        format!("PRAGMA auto_vacuum={}", chance.below(3)),
    ];
    if chance.one_in(6) {
        settings.push(format!("PRAGMA encoding='{}'", chance.pick(&["UTF-16le", "UTF-16be"])));
    }
    settings
}

/// Pragmas that every connection of a case starts with.
#[must_use]
pub fn of_connections(chance: &mut Chance, family: Family) -> Vec<String> {
    let mut settings = vec![
        format!("PRAGMA cache_size={}", chance.pick(&[1, 5, 10, 100, 2000])),
        format!("PRAGMA foreign_keys={}", chance.below(2)),
    ];
    if chance.one_in(4) {
        settings.push(format!("PRAGMA temp_store={}", chance.pick(&["FILE", "MEMORY"])));
    }
    if chance.one_in(6) {
        settings.push("PRAGMA recursive_triggers=1".to_owned());
    }
    if family == Family::Alone {
        let mode = chance.pick(&["DELETE", "TRUNCATE", "PERSIST", "MEMORY"]);
        settings.push(format!("PRAGMA journal_mode={mode}"));
    }
    settings
}

impl Generator {
    /// Begins and ends of transactions and savepoints, now and then out of place.
    pub(super) fn transaction_control(&mut self) -> String {
        let name = self.chance.pick(&["one", "two", "three"]);
        let out_of_place = self.chance.one_in(12);
        let Session { in_transaction, savepoints, .. } = self.session().clone();
        if out_of_place || !(in_transaction || self.chance.one_in(4)) {
            self.session().in_transaction = true;
            let begin = ["BEGIN", "BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"];
            return self.chance.pick(&begin).to_owned();
        }
        let known = if savepoints.is_empty() || self.chance.one_in(12) {
            name
        } else {
            self.chance.pick(&savepoints)
        };
        match self.chance.below(16) {
            0..5 => {
                self.sessions[self.connection].in_transaction = false;
                self.session().savepoints.clear();
                "COMMIT".to_owned()
            }
            5..7 => {
                self.sessions[self.connection].in_transaction = false;
                self.session().savepoints.clear();
                "ROLLBACK".to_owned()
            }
            7..10 if !savepoints.is_empty() => format!("ROLLBACK TO {known}"),
            10 if !savepoints.is_empty() => {
                let depth = savepoints.iter().rposition(|open| *open == known);
                self.session().savepoints.truncate(depth.unwrap_or(0));
                format!("RELEASE {known}")
            }
            _ => {
                self.session().in_transaction = true;
                self.session().savepoints.push(name);
                format!("SAVEPOINT {name}")
            }
        }
    }

    /// A pragma that sets or does something, or asks.
    pub(super) fn pragma(&mut self) -> String {
        let alone = self.family == Family::Alone;
        match self.chance.below(22) {
            0 => format!("PRAGMA cache_size={}", self.chance.pick(&[1, 3, 50, 2000, -64])),
            1 => format!("PRAGMA foreign_keys={}", self.chance.below(2)),
            2 => format!("PRAGMA incremental_vacuum({})", self.chance.below(12)),
            3 => format!("PRAGMA user_version={}", self.chance.below(1000)),
            4 => format!("PRAGMA secure_delete={}", self.chance.pick(&["0", "1", "FAST"])),
            5 => {
                format!("PRAGMA max_page_count={}", self.chance.pick(&[10, 60, 300, 1_073_741_823]))
            }
            6 => format!("PRAGMA cache_spill={}", self.chance.pick(&["0", "1", "20"])),
            7 => format!("PRAGMA temp_store={}", self.chance.pick(&["FILE", "MEMORY", "DEFAULT"])),
            8 => format!("PRAGMA defer_foreign_keys={}", self.chance.below(2)),
            9 => format!("PRAGMA auto_vacuum={}", self.chance.below(3)),
            10 => format!("PRAGMA application_id={}", self.chance.below(99)),
            11 if alone => {
                let modes = ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "OFF"];
                format!("PRAGMA journal_mode={}", self.chance.pick(&modes))
            }
            12 if alone => {
                format!(
                    "PRAGMA locking_mode={}",
                    self.chance.pick(&["NORMAL", "NORMAL", "EXCLUSIVE"])
                )
            }
            13 if alone => format!("PRAGMA page_size={}", 512 << self.chance.below(8)),
            14 => format!("PRAGMA reverse_unordered_selects={}", self.chance.below(2)),
            15 => format!("PRAGMA journal_size_limit={}", self.chance.pick(&["-1", "0", "4096"])),
            _ => self.pragma_question(),
        }
    }

    /// A pragma that only asks.
    pub(super) fn pragma_question(&mut self) -> String {
        let table = self.table();
        let name = table.bare_name();
        match self.chance.below(14) {
            // With a write-ahead log there would be something to tell.
            11 if self.family == Family::Alone => "PRAGMA wal_checkpoint".to_owned(),
            12 if self.family == Family::Alone => "PRAGMA data_version".to_owned(),
            0 => "PRAGMA integrity_check".to_owned(),
            1 => "PRAGMA quick_check".to_owned(),
            2 => "PRAGMA foreign_key_check".to_owned(),
            3 => format!("PRAGMA table_info({name})"),
            4 => format!("PRAGMA index_list({name})"),
            5 => format!("PRAGMA foreign_key_list({name})"),
            6 => "PRAGMA page_count".to_owned(),
            7 => "PRAGMA freelist_count".to_owned(),
            8 => "PRAGMA table_list".to_owned(),
            9 => "PRAGMA schema_version".to_owned(),
            10 => "PRAGMA page_size".to_owned(),
            _ => "PRAGMA user_version".to_owned(),
        }
    }

    /// What goes through the whole database.
    pub(super) fn rewrite(&mut self) -> String {
        let table = self.table();
        match self.chance.below(8) {
            0..4 if !self.session().in_transaction => "VACUUM".to_owned(),
            0 => "VACUUM".to_owned(),
            1..5 => "ANALYZE".to_owned(),
            5 => "REINDEX".to_owned(),
            6 => format!("REINDEX {}", table.name),
            _ => "PRAGMA optimize".to_owned(),
        }
    }
}
