//! The SQL of the workload. Every arm runs these very statements through the same functions.

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, Error, ffi};

use crate::workload::{Tally, Turn};

/// The statements, for databases of our own schema or for copies of a template.
#[derive(Debug)]
pub(crate) struct Statements {
    /// Makes the tables, in one batch.
    pub(crate) schema: &'static str,
    insert_message: &'static str,
    upsert_state: &'static str,
    newest_messages: &'static str,
    count_messages: &'static str,
}

macro_rules! statements {
    ($messages:literal, $state:literal) => {
        Statements {
            schema: concat!(
                "CREATE TABLE ",
                $messages,
                "(id INTEGER PRIMARY KEY, role TEXT NOT NULL, body TEXT NOT NULL, ",
                "ts INTEGER NOT NULL); CREATE INDEX ",
                $messages,
                "_ts ON ",
                $messages,
                "(ts); CREATE TABLE ",
                $state,
                "(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID"
            ),
            insert_message: concat!(
                "INSERT INTO ",
                $messages,
                "(role, body, ts) VALUES (?1, ?2, ?3)"
            ),
            upsert_state: concat!(
                "INSERT INTO ",
                $state,
                "(k, v) VALUES (?1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v"
            ),
            newest_messages: concat!("SELECT body FROM ", $messages, " ORDER BY id DESC LIMIT 10"),
            count_messages: concat!(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM ",
                $messages
            ),
        }
    };
}

static OWN_SCHEMA: Statements = statements!("messages", "state");
static ADDED_TO_TEMPLATE: Statements = statements!("pack_messages", "pack_state");

impl Statements {
    /// Those for copies of a template use table names that a real database hardly has.
    pub(crate) fn choose(with_template: bool) -> &'static Self {
        if with_template { &ADDED_TO_TEMPLATE } else { &OWN_SCHEMA }
    }

    /// Makes the tables in one transaction.
    pub(crate) fn create_tables(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(self.schema)?;
        connection.execute_batch("COMMIT")
    }

    /// One turn as a transaction of its own.
    pub(crate) fn turn(&self, connection: &Connection, turn: &Turn) -> rusqlite::Result<()> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.turn_within_transaction(connection, turn)?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// The two statements of a turn, for callers that have begun a transaction.
    pub(crate) fn turn_within_transaction(
        &self,
        connection: &Connection,
        turn: &Turn,
    ) -> rusqlite::Result<()> {
        connection.prepare_cached(self.insert_message)?.execute((
            turn.role,
            turn.body,
            turn.timestamp_ms,
        ))?;
        connection.prepare_cached(self.upsert_state)?.execute((turn.key, turn.value))?;
        Ok(())
    }

    /// The ten newest messages; returns the bytes of their bodies, so that every row is looked at.
    pub(crate) fn read(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let mut statement = connection.prepare_cached(self.newest_messages)?;
        let mut rows = statement.query([])?;
        let mut body_bytes = 0;
        while let Some(row) = rows.next()? {
            body_bytes += row.get_ref(0)?.as_bytes()?.len();
        }
        Ok(body_bytes)
    }

    /// Everything that turns left behind.
    pub(crate) fn count(&self, connection: &Connection) -> rusqlite::Result<Tally> {
        connection.query_row(self.count_messages, [], |row| {
            Ok(Tally {
                turns: u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default(),
                body_bytes: u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default(),
            })
        })
    }
}

/// `PRAGMA integrity_check`: `None` when all is well, else what it says.
pub(crate) fn integrity_failure(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let answer: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    Ok((answer != "ok").then_some(answer))
}

/// Makes `to` a copy of `from`, page for page.
pub(crate) fn copy_database(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    match Backup::new(from, to)?.step(-1)? {
        StepResult::Done => Ok(()),
        _ => Err(Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_BUSY),
            Some("a database that nobody else uses is busy".to_owned()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Texts, TurnSource};

    #[test]
    fn turns_are_counted_exactly_in_both_sets_of_tables() {
        let texts = Texts::leak(1);
        for with_template in [false, true] {
            let statements = Statements::choose(with_template);
            let connection = Connection::open_in_memory().unwrap();
            statements.create_tables(&connection).unwrap();
            assert_eq!(statements.count(&connection).unwrap(), Tally::default());
            let mut source = TurnSource::new(texts, 1, 0);
            let mut expected = Tally::default();
            let mut newest = std::collections::VecDeque::new();
            for _ in 0..25 {
                let turn = source.next_turn();
                statements.turn(&connection, &turn).unwrap();
                expected.add(&turn);
                newest.push_back(turn.body.len());
                if newest.len() > 10 {
                    newest.pop_front();
                }
            }
            assert_eq!(statements.count(&connection).unwrap(), expected);
            assert_eq!(statements.read(&connection).unwrap(), newest.iter().sum::<usize>());
            assert!(connection.is_autocommit());
            assert_eq!(integrity_failure(&connection).unwrap(), None);
        }
    }
}
