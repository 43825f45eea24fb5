//! The SQL of the workload. Every arm runs these very statements through the same functions.

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, Error, ffi};

use crate::workload::{ROW_BYTES, Tally, Turn, Work};

/// The statements, for databases of our own schema or for copies of a template.
#[derive(Debug)]
pub(crate) struct Statements {
    /// Makes the tables and what is in them from the beginning, in one batch.
    pub(crate) schema: &'static str,
    insert_message: &'static str,
    upsert_state: &'static str,
    update_row: &'static str,
    read: &'static str,
    count: &'static str,
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
            update_row: "",
            read: concat!("SELECT body FROM ", $messages, " ORDER BY id DESC LIMIT 10"),
            count: concat!("SELECT count(*), coalesce(sum(length(body)), 0) FROM ", $messages),
        }
    };
}

static OWN_SCHEMA: Statements = statements!("messages", "state");
static ADDED_TO_TEMPLATE: Statements = statements!("pack_messages", "pack_state");

impl Statements {
    /// Those for copies of a template use table names that a real database hardly has.
    pub(crate) fn choose(work: Work, with_template: bool) -> &'static Self {
        match work.rows() {
            Some(rows) => Self::of_rows(rows),
            None if with_template => &ADDED_TO_TEMPLATE,
            None => &OWN_SCHEMA,
        }
    }

    /// For databases of so many rows. What it makes lives until the process ends.
    fn of_rows(rows: u32) -> &'static Self {
        // Random bytes: what compresses well would be another workload.
        let schema = format!(
            "CREATE TABLE row(id INTEGER PRIMARY KEY, edits INTEGER NOT NULL, written INTEGER NOT NULL, \
             value BLOB NOT NULL);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO row SELECT i, 0, 0, randomblob({ROW_BYTES}) FROM n"
        );
        let read = format!(
            "SELECT value FROM row WHERE id > (SELECT abs(random() % {rows})) ORDER BY id LIMIT 10"
        );
        Box::leak(Box::new(Self {
            schema: schema.leak(),
            insert_message: "",
            upsert_state: "",
            update_row: "UPDATE row SET value = ?2, edits = edits + 1, written = written + length(?2) \
                         WHERE id = ?1",
            read: read.leak(),
            count: "SELECT sum(edits), sum(written) FROM row",
        }))
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

    /// The statements of a turn, for callers that have begun a transaction.
    pub(crate) fn turn_within_transaction(
        &self,
        connection: &Connection,
        turn: &Turn,
    ) -> rusqlite::Result<()> {
        match turn {
            Turn::Message(message) => {
                connection.prepare_cached(self.insert_message)?.execute((
                    message.role,
                    message.body,
                    message.timestamp_ms,
                ))?;
                connection
                    .prepare_cached(self.upsert_state)?
                    .execute((message.key, message.value))?;
            }
            Turn::Update { row, value } => {
                let changed = connection.prepare_cached(self.update_row)?.execute((row, value))?;
                if changed != 1 {
                    return Err(Error::StatementChangedRows(changed));
                }
            }
        }
        Ok(())
    }

    /// Ten rows: the newest messages, or some at random. Returns their bytes, so that every one is looked at.
    pub(crate) fn read(&self, connection: &Connection) -> rusqlite::Result<usize> {
        let mut statement = connection.prepare_cached(self.read)?;
        let mut rows = statement.query([])?;
        let mut body_bytes = 0;
        while let Some(row) = rows.next()? {
            body_bytes += row.get_ref(0)?.as_bytes()?.len();
        }
        Ok(body_bytes)
    }

    /// Everything that turns left behind.
    pub(crate) fn count(&self, connection: &Connection) -> rusqlite::Result<Tally> {
        connection.query_row(self.count, [], |row| {
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
    use crate::workload::tests::LARGE;
    use crate::workload::{Texts, TurnSource};

    #[test]
    fn turns_are_counted_exactly_in_both_sets_of_tables() {
        let texts = Texts::leak(1);
        for with_template in [false, true] {
            let statements = Statements::choose(Work::AGENTS, with_template);
            let connection = Connection::open_in_memory().unwrap();
            statements.create_tables(&connection).unwrap();
            assert_eq!(statements.count(&connection).unwrap(), Tally::default());
            let mut source = TurnSource::new(texts, Work::AGENTS, 1, 0);
            let mut expected = Tally::default();
            let mut newest = std::collections::VecDeque::new();
            for _ in 0..25 {
                let turn = source.next_turn();
                statements.turn(&connection, &turn).unwrap();
                expected.add(&turn);
                let Turn::Message(message) = turn else { panic!("{turn:?}") };
                newest.push_back(message.body.len());
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
    #[test]
    fn updates_are_counted_exactly_in_a_database_of_the_size_that_was_asked_for() {
        let statements = Statements::choose(LARGE, false);
        let connection = Connection::open_in_memory().unwrap();
        statements.create_tables(&connection).unwrap();
        assert_eq!(statements.count(&connection).unwrap(), Tally::default());
        let bytes: u32 = connection
            .query_row(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!((1 << 20..(1 << 20) * 11 / 10).contains(&bytes), "{bytes}");
        let mut source = TurnSource::new(Texts::leak(1), LARGE, 1, 0);
        let mut expected = Tally::default();
        for _ in 0..50 {
            let turn = source.next_turn();
            statements.turn(&connection, &turn).unwrap();
            expected.add(&turn);
            let read = statements.read(&connection).unwrap();
            assert!(read > 0 && read.is_multiple_of(ROW_BYTES), "{read}");
        }
        assert_eq!(statements.count(&connection).unwrap(), expected);
        let elsewhere = Turn::Update { row: 1_000_000, value: b"" };
        statements.turn(&connection, &elsewhere).unwrap_err();
    }
}
