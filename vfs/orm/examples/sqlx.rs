//! sqlx on facets: a pool of connections on their worker threads, migrations, transactions, with
//! sqlx's own defaults. Nothing but the URL differs from a database in a file.

use std::str::FromStr;

use futures_util::TryStreamExt as _;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{Connection as _, Row as _};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

static MIGRATIONS: Migrator = sqlx::migrate!();

const URL: &str = "sqlite://notes/acme?vfs=lapidary&mode=rwc";
const TASKS: i64 = 8;
const NOTES_PER_TASK: i64 = 25;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("store");

    {
        let _registration = orm_examples::register(&store)?;
        let pool = SqlitePoolOptions::new().max_connections(4).connect(URL).await?;
        MIGRATIONS.run(&pool).await?;
        write_from_many_tasks(&pool).await?;
        rolled_back(&pool).await?;
        foreign_keys_are_on(&pool).await?;
        pool.close().await;
        write_ahead_log_is_declined().await?;
    }

    // All is there when the store is opened again, and no migration runs twice.
    let _registration = orm_examples::register(&store)?;
    let pool = SqlitePool::connect(URL).await?;
    MIGRATIONS.run(&pool).await?;
    assert_eq!(count(&pool, "note").await?, TASKS * NOTES_PER_TASK);
    assert_eq!(count(&pool, "_sqlx_migrations").await?, 2);
    let answer: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&pool).await?;
    assert_eq!(answer, "ok");
    pool.close().await;
    println!("sqlx: {TASKS} tasks wrote {NOTES_PER_TASK} notes each, read again");
    Ok(())
}

async fn count(pool: &SqlitePool, table: &'static str) -> Result<i64> {
    let sql = match table {
        "note" => "SELECT count(*) FROM note",
        "notebook" => "SELECT count(*) FROM notebook",
        _ => "SELECT count(*) FROM _sqlx_migrations",
    };
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

/// Tasks that share the pool, each with transactions that read first and then write.
async fn write_from_many_tasks(pool: &SqlitePool) -> Result<()> {
    sqlx::query("INSERT INTO notebook(title) VALUES (?)").bind("diary").execute(pool).await?;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for number in 0..NOTES_PER_TASK {
                    add_note(&pool, &format!("note {number} of task {task}")).await?;
                    // Reads beside the writers wait for nobody.
                    let notes: Vec<(i64, String)> =
                        sqlx::query_as("SELECT words, body FROM note").fetch_all(&pool).await?;
                    assert!(notes.iter().all(|(words, _)| *words == 5), "never half a transaction");
                }
                Ok::<(), sqlx::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let mut bodies = sqlx::query("SELECT body FROM note ORDER BY id").fetch(pool);
    let mut streamed = 0;
    while let Some(row) = bodies.try_next().await? {
        assert!(row.try_get::<String, _>("body")?.starts_with("note "));
        streamed += 1;
    }
    assert_eq!(streamed, TASKS * NOTES_PER_TASK);
    Ok(())
}

/// As with a write-ahead log, a transaction that reads and then writes is begun as a writer: the
/// busy timeout, which is five seconds by default, then waits for its turn.
async fn add_note(pool: &SqlitePool, body: &str) -> sqlx::Result<()> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let notebook: i64 = sqlx::query_scalar("SELECT id FROM notebook WHERE title = 'diary'")
        .fetch_one(&mut *tx)
        .await?;
    let id = sqlx::query("INSERT INTO note(notebook, body) VALUES (?, ?)")
        .bind(notebook)
        .bind(body)
        .execute(&mut *tx)
        .await?
        .last_insert_rowid();
    sqlx::query("UPDATE note SET words = 5 WHERE id = ?").bind(id).execute(&mut *tx).await?;
    tx.commit().await
}

async fn rolled_back(pool: &SqlitePool) -> Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query("DELETE FROM note").execute(&mut *tx).await?;
    // A transaction within it is a savepoint.
    let mut inner = tx.begin().await?;
    sqlx::query("INSERT INTO notebook(title) VALUES ('never')").execute(&mut *inner).await?;
    inner.rollback().await?;
    tx.rollback().await?;

    // One that is dropped is rolled back as well.
    let mut tx = pool.begin().await?;
    sqlx::query("DELETE FROM notebook").execute(&mut *tx).await?;
    drop(tx);

    assert_eq!(count(pool, "note").await?, TASKS * NOTES_PER_TASK);
    assert_eq!(count(pool, "notebook").await?, 1);
    Ok(())
}

/// sqlx turns them on when it connects.
async fn foreign_keys_are_on(pool: &SqlitePool) -> Result<()> {
    let orphan =
        sqlx::query("INSERT INTO note(notebook, body) VALUES (77, 'orphan')").execute(pool).await;
    let error = orphan.expect_err("there is no notebook 77");
    assert!(
        error.as_database_error().is_some_and(|error| error.is_foreign_key_violation()),
        "{error}"
    );
    Ok(())
}

/// Who asks for a write-ahead log keeps the journal mode there is, without an error: readers and a
/// writer are side by side without it.
async fn write_ahead_log_is_declined() -> Result<()> {
    let options = SqliteConnectOptions::from_str(URL)?.journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await?;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await?;
    assert_eq!(mode, "delete");

    let mut writer = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM note").execute(&mut *writer).await?;
    assert_eq!(count(&pool, "note").await?, TASKS * NOTES_PER_TASK);
    writer.rollback().await?;
    pool.close().await;
    Ok(())
}
