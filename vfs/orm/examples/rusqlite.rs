//! rusqlite on facets. Nothing but the name of the database differs from one in a file.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SCHEMA: &str = "
    CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT NOT NULL UNIQUE, cents INTEGER NOT NULL CHECK(cents >= 0));
    CREATE TABLE transfer(id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES account, target INTEGER NOT NULL REFERENCES account, cents INTEGER NOT NULL);
";

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("store");

    {
        let _registration = orm_examples::register(&store)?;
        for tenant in 0..20 {
            // A URI names the VFS; `Connection::open_with_flags_and_vfs` does as well.
            let mut bank = Connection::open(format!("file:banks/{tenant}?vfs=lapidary"))?;
            bank.pragma_update(None, "foreign_keys", true)?;
            bank.execute_batch(SCHEMA)?;
            fill(&mut bank, tenant)?;
        }
        write_ahead_log_is_declined()?;
    }

    // All is there when the store is opened again.
    let _registration = orm_examples::register(&store)?;
    for tenant in 0..20 {
        let bank = Connection::open(format!("file:banks/{tenant}?vfs=lapidary"))?;
        let (sum, transfers): (i64, i64) = bank.query_row(
            "SELECT (SELECT sum(cents) FROM account), (SELECT count(*) FROM transfer)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        assert_eq!((sum, transfers), (100 * (1_000 + tenant), 99));
        let answer: String = bank.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
        assert_eq!(answer, "ok");
    }
    println!("rusqlite: 20 databases of 100 accounts, read again");
    Ok(())
}

/// Opens a hundred accounts and moves money from each to the next.
fn fill(bank: &mut Connection, tenant: i64) -> Result<()> {
    let tx = bank.transaction()?;
    {
        let mut insert = tx.prepare_cached("INSERT INTO account(owner, cents) VALUES (?1, ?2)")?;
        for owner in 0..100 {
            insert.execute(params![format!("owner {owner}"), 1_000 + tenant])?;
        }
    }
    tx.commit()?;

    let tx = bank.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for source in 1..100 {
        transfer(&tx, source, source + 1, 10)?;
    }
    tx.commit()?;

    // A failed statement fails by itself, and what is not committed is gone.
    let tx = bank.transaction()?;
    assert!(transfer(&tx, 1, 2, 1_000_000).is_err());
    transfer(&tx, 1, 2, 5)?;
    drop(tx);
    let left: Option<i64> = bank
        .query_row("SELECT cents FROM account WHERE id = 1", [], |row| row.get(0))
        .optional()?;
    assert_eq!(left, Some(990 + tenant));
    Ok(())
}

fn transfer(connection: &Connection, source: i64, target: i64, cents: i64) -> rusqlite::Result<()> {
    let mut change =
        connection.prepare_cached("UPDATE account SET cents = cents + ?2 WHERE id = ?1")?;
    change.execute([source, -cents])?;
    change.execute([target, cents])?;
    connection.execute(
        "INSERT INTO transfer(source, target, cents) VALUES (?1, ?2, ?3)",
        [source, target, cents],
    )?;
    Ok(())
}

/// Who asks for a write-ahead log is told which journal mode stays, and goes on with that: readers
/// and a writer are side by side without it.
fn write_ahead_log_is_declined() -> Result<()> {
    let writer = Connection::open("file:banks/0?vfs=lapidary")?;
    let mode: String =
        writer.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    assert_eq!(mode, "delete");

    let reader = Connection::open("file:banks/0?vfs=lapidary")?;
    let count = || reader.query_row("SELECT count(*) FROM account", [], |row| row.get::<_, i64>(0));
    writer
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO account(owner, cents) VALUES ('late', 0)")?;
    assert_eq!(count()?, 100);
    writer.execute_batch("DELETE FROM account WHERE owner = 'late'; COMMIT")?;
    assert_eq!(count()?, 100);
    Ok(())
}
