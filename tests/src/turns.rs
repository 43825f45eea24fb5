//! The load of the kill test: *turns*, each one transaction that changes two tables of a facet, so
//! that half a turn can be told from a whole one.
//!
//! Turn `n` of a facet inserts row `n` into `message` and row `n` with the matching digest into
//! `receipt`, and deletes rows older than the last [`TURNS_KEPT`] from both, so that space is freed
//! and used again.

use rusqlite::{Connection, OptionalExtension};

/// Turns whose rows are kept.
pub const TURNS_KEPT: u32 = 150;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS message(n INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS receipt(n INTEGER PRIMARY KEY, digest INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS receipt_digest ON receipt(digest);
";

/// Name of facet number `facet`.
#[must_use]
pub fn facet_name(facet: usize) -> String {
    format!("tenant-{}/agent-{facet}", facet % 5)
}

/// Creates the tables if they are not there and returns the newest turn.
///
/// # Errors
/// As SQLite has them.
pub fn prepare(connection: &Connection) -> rusqlite::Result<u32> {
    connection.execute_batch(SCHEMA)?;
    connection.query_row("SELECT coalesce(max(n), 0) FROM message", [], |row| row.get(0))
}

/// Makes turn `n`, inside a transaction of the caller's.
///
/// # Errors
/// As SQLite has them.
pub fn take_turn(connection: &Connection, facet: usize, n: u32) -> rusqlite::Result<()> {
    let body = body(facet, n);
    let oldest = n.saturating_sub(TURNS_KEPT);
    let run = |sql: &str, n: u32| connection.prepare_cached(sql)?.execute([n]).map(drop);
    connection
        .prepare_cached("INSERT INTO message(n, body) VALUES (?1, ?2)")?
        .execute(rusqlite::params![n, body])?;
    run("DELETE FROM message WHERE n <= ?1", oldest)?;
    connection
        .prepare_cached("INSERT INTO receipt(n, digest) VALUES (?1, ?2)")?
        .execute(rusqlite::params![n, digest(&body)])?;
    run("DELETE FROM receipt WHERE n <= ?1", oldest)
}

/// Checks a facet: its newest turn is `acknowledged` or at most `in_flight_max` after it, both
/// tables hold exactly the turns to keep, each row is right, and `PRAGMA integrity_check` says ok.
/// Returns the newest turn.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn check(
    connection: &Connection,
    facet: usize,
    acknowledged: u32,
    in_flight_max: u32,
) -> Result<u32, String> {
    let wrong = |what: String| format!("{}: {what}", facet_name(facet));
    let sql = |error: rusqlite::Error| wrong(format!("cannot be read: {error}"));
    let verdict: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(sql)?;
    if verdict != "ok" {
        return Err(wrong(format!("integrity_check says {verdict}")));
    }
    let has_tables = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'receipt_digest'", [], |_| Ok(()))
        .optional()
        .map_err(sql)?
        .is_some();
    if !has_tables {
        return if acknowledged == 0 {
            Ok(0)
        } else {
            Err(wrong(format!("turn {acknowledged} was acknowledged, and there are no tables")))
        };
    }
    let mut statement = connection
        .prepare("SELECT n, body, (SELECT digest FROM receipt WHERE receipt.n = message.n) FROM message ORDER BY n")
        .map_err(sql)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Option<i64>>(2)?))
        })
        .map_err(sql)?;
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(sql)?;
    let newest = rows.last().map_or(0, |(n, ..)| *n);
    if newest < acknowledged {
        return Err(wrong(format!("turn {acknowledged} was acknowledged, {newest} is the newest")));
    }
    if newest > acknowledged + in_flight_max {
        return Err(wrong(format!(
            "turn {newest} is there, but only {acknowledged} were acknowledged and \
             {in_flight_max} under way"
        )));
    }
    let expected: Vec<u32> = (newest.saturating_sub(TURNS_KEPT) + 1..=newest).collect();
    let found: Vec<u32> = rows.iter().map(|(n, ..)| *n).collect();
    if found != expected {
        return Err(wrong(format!("{} messages up to {newest}, not each once", found.len())));
    }
    for (n, found, receipt) in &rows {
        if *found != body(facet, *n) || *receipt != Some(digest(found)) {
            return Err(wrong(format!("turn {n} is half there or not what it was")));
        }
    }
    let receipts: u32 =
        connection.query_row("SELECT count(*) FROM receipt", [], |row| row.get(0)).map_err(sql)?;
    if receipts as usize != rows.len() {
        return Err(wrong(format!("{receipts} receipts for {} messages", rows.len())));
    }
    Ok(newest)
}

fn body(facet: usize, n: u32) -> Vec<u8> {
    let mut chance = crate::chance::Chance::from_seed(u64::from(n) << 8 | facet as u64);
    // Now and then one that needs overflow pages.
    let words = if n.is_multiple_of(37) { 1200 } else { 8 + chance.index(40) };
    (0..words).flat_map(|_| chance.number().to_le_bytes()).collect()
}

fn digest(body: &[u8]) -> i64 {
    body.iter()
        .fold(7, |digest: i64, &byte| digest.wrapping_mul(1_000_003).wrapping_add(i64::from(byte)))
}
