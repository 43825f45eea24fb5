//! Cases made of a seed.
//!
//! Content is a function of the statements alone: nothing that is generated asks for the time, for
//! randomness, or for names of files. Statements are made ahead of the run, from a rough idea of
//! the schema that takes every statement for a success. So some of them meet tables that are not
//! there, or not like that: errors are compared like rows.
//!
//! - [`schema`]: tables, indexes, views, triggers, and changes of them.
//! - [`rows`]: INSERT, UPDATE, DELETE; values and expressions.
//! - [`queries`]: what asks.
//! - [`settings`]: pragmas, transactions, savepoints, VACUUM.

pub mod queries;
pub mod rows;
pub mod schema;
pub mod settings;

use self::schema::Table;
use super::case::{Action, Case, Family, Step};
use crate::chance::Chance;

/// Makes the steps of one case.
#[derive(Debug)]
pub struct Generator {
    chance: Chance,
    family: Family,
    /// The tables that are thought to be there.
    tables: Vec<Table>,
    /// Names of indexes, views and triggers that were created.
    others: Vec<(&'static str, String)>,
    /// What each connection is thought to be in the middle of.
    sessions: Vec<Session>,
    /// Numbers for names.
    names: u32,
    /// The connection that the statement is for.
    connection: usize,
}

/// What a connection is thought to be in the middle of.
#[derive(Clone, Debug, Default)]
struct Session {
    in_transaction: bool,
    savepoints: Vec<&'static str>,
    has_side: bool,
}

/// The case of `seed`.
#[must_use]
pub fn case(family: Family, seed: u64) -> Case {
    let mut chance = Chance::from_seed(seed);
    let database = settings::of_database(&mut chance);
    let settings = settings::of_connections(&mut chance, family);
    let count = chance.between(10, 60);
    let mut generator = Generator {
        chance,
        family,
        tables: Vec::new(),
        others: Vec::new(),
        sessions: vec![Session::default(); family.connections()],
        names: 0,
        connection: 0,
    };
    let mut steps = Vec::new();
    for _ in 0..generator.chance.between(1, 4) {
        let sql = generator.create_table();
        steps.push(Step { connection: 0, action: Action::Sql(sql) });
    }
    steps.extend((0..count).map(|_| generator.step()));
    Case { family, database, settings, steps }
}

impl Generator {
    fn step(&mut self) -> Step {
        let connection = match self.family {
            Family::Alone => usize::from(self.chance.one_in(8)),
            Family::Together => self.chance.index(self.family.connections()),
        };
        self.connection = connection;
        let reads_only = self.family == Family::Alone && connection > 0;
        let action = match self.chance.below(60) {
            0 => {
                self.sessions[connection] = Session::default();
                self.tables.retain(|table| table.owner != Some(connection));
                Action::Reopen
            }
            1 => Action::Maintain,
            _ if reads_only => Action::Sql(self.question()),
            2..5 => self.around(),
            _ => Action::Sql(self.statement()),
        };
        Step { connection, action }
    }

    fn statement(&mut self) -> String {
        match self.chance.below(100) {
            0..32 => self.change_rows(),
            32..54 => self.query(),
            54..64 => self.change_schema(),
            64..84 => self.transaction_control(),
            84..96 => self.pragma(),
            _ => self.rewrite(),
        }
    }

    /// A query with other statements amid it, which change what it reads.
    fn around(&mut self) -> Action {
        let table = self.table();
        let rowid = if table.has_rowid { "rowid, " } else { "" };
        let order = if self.chance.one_in(3) {
            format!(" ORDER BY {}", self.column(&table.columns))
        } else {
            String::new()
        };
        let sql = format!("SELECT {rowid}* FROM {}{order} LIMIT 100", table.name);
        let rows = self.chance.between(1, 20) as usize;
        let count = self.chance.between(1, 4);
        let inner = (0..count).map(|_| match self.chance.below(10) {
            0..5 => self.change_rows(),
            5 => self.change_schema(),
            6 => self.query(),
            7 => self.rewrite(),
            _ => self.transaction_control(),
        });
        Action::Around { inner: inner.collect(), sql, rows }
    }

    /// Something that changes nothing.
    fn question(&mut self) -> String {
        if self.chance.one_in(4) { self.pragma_question() } else { self.query() }
    }

    /// A table that the connection can see, or one that is not there.
    fn table(&mut self) -> Table {
        let mine = |table: &&Table| table.owner.is_none_or(|owner| owner == self.connection);
        let seen: Vec<&Table> = self.tables.iter().filter(mine).collect();
        if seen.is_empty() || self.chance.one_in(150) {
            return Table::missing();
        }
        seen[self.chance.index(seen.len())].clone()
    }

    fn session(&mut self) -> &mut Session {
        &mut self.sessions[self.connection]
    }

    fn new_name(&mut self, kind: &str) -> String {
        // Now and then a name that is taken.
        if !self.chance.one_in(20) {
            self.names += 1;
        }
        let number = self.names;
        match self.chance.below(12) {
            0 => format!("\"{kind} {number}\""),
            _ => format!("{kind}{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_case() {
        for family in [Family::Alone, Family::Together] {
            let text = |seed| case(family, seed).to_string();
            assert_eq!(text(3), text(3));
            assert_ne!(text(3), text(4));
            // And any seed is one.
            assert!((0..3000).all(|seed| case(family, seed).steps.len() > 10));
        }
    }

    /// Cases are worth something only while most of their statements succeed.
    #[test]
    fn most_statements_succeed_and_some_do_not() {
        let (mut good, mut bad) = (0, 0);
        for seed in 0..40 {
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            for step in case(Family::Alone, seed).steps {
                if let Action::Sql(sql) = step.action {
                    let outcome = super::super::outcome::run(&connection, &sql);
                    *if outcome.error.is_none() { &mut good } else { &mut bad } += 1;
                }
            }
        }
        assert!(bad > 40 && good > 3 * bad, "{good} succeed, {bad} do not");
    }
}
