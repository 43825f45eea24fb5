//! Modes of SQLite in all their combinations, and what SQLite does to a database as a whole.

use std::fmt::Write as _;

use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

/// What a database of [`fill`] holds, whatever its pages.
const SUMS: &str =
    "SELECT count(*) || '/' || sum(a) || '/' || sum(length(b)) || '/' || max(hex(b)) FROM t";

/// Writes, rolls back, spills and rewrites; returns what is there then.
fn live(connection: &Connection) -> String {
    fill(connection, 120, 400);
    connection.execute("DELETE FROM t WHERE a % 3 = 0", []).unwrap();
    let before = text(connection, SUMS);
    connection
        .execute_batch(
            "BEGIN; UPDATE t SET b = zeroblob(70000) WHERE a < 40; SAVEPOINT s; DELETE FROM t;
             ROLLBACK TO s; DELETE FROM t WHERE a > 50; ROLLBACK",
        )
        .unwrap();
    assert_eq!(text(connection, SUMS), before);
    connection.execute("UPDATE t SET b = b || zeroblob(3000) WHERE a % 5 = 1", []).unwrap();
    text(connection, SUMS)
}

#[test]
fn every_page_size_with_every_auto_vacuum_and_journal_mode() {
    let fixture = Fixture::spilling();
    for page_size in (9..=16).map(|log2| 1_u32 << log2) {
        for auto_vacuum in ["none", "full", "incremental"] {
            for (mode, locking) in [
                ("delete", "normal"),
                ("truncate", "exclusive"),
                ("persist", "normal"),
                ("memory", "exclusive"),
            ] {
                let facet = format!("{page_size}/{auto_vacuum}/{mode}");
                let connection = fixture.open(&facet);
                connection
                    .execute_batch(&format!(
                        "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum};
                         PRAGMA cache_size=8; PRAGMA journal_mode={mode};
                         PRAGMA locking_mode={locking}"
                    ))
                    .unwrap();
                let content = live(&connection);
                connection.execute_batch("PRAGMA incremental_vacuum(3); VACUUM").unwrap();
                let reader = fixture.open(&facet);
                for connection in [&connection, &reader] {
                    assert_eq!(text(connection, SUMS), content, "{facet}");
                    assert_eq!(number(connection, "PRAGMA page_size"), i64::from(page_size));
                    assert_eq!(number(connection, "PRAGMA freelist_count"), 0);
                    check_integrity(connection);
                }
            }
        }
    }
}

#[test]
fn savepoints_a_thousand_deep() {
    const DEPTH: i64 = 1000;
    let fixture = Fixture::spilling();
    let connection = fixture.open("a");
    connection.execute_batch("PRAGMA cache_size=4").unwrap();
    fill(&connection, 50, 300);
    let before = text(&connection, SUMS);
    let mut sql = String::new();
    for level in 0..DEPTH {
        write!(sql, "SAVEPOINT s{level}; INSERT INTO t(b) VALUES (zeroblob({level}));").unwrap();
    }
    connection.execute_batch(&sql).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 50 + DEPTH);
    let reader = fixture.open("a");
    assert_eq!(text(&reader, SUMS), before);
    // What came in from level 700 on goes, what was under it stays; then all of it.
    connection.execute_batch("ROLLBACK TO s700; RELEASE s500").unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 750);
    connection.execute_batch("ROLLBACK TO s0; RELEASE s0").unwrap();
    for connection in [&connection, &reader] {
        assert_eq!(text(connection, SUMS), before);
        check_integrity(connection);
    }
}

#[test]
fn vacuum_into_a_file_and_from_one() {
    let fixture = Fixture::memory();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.db");
    let connection = fixture.open("a");
    let content = live(&connection);
    let into = format!("VACUUM INTO 'file:{}?vfs=unix'", file.display());
    connection.execute_batch(&into).unwrap();
    let error = connection.execute_batch(&into).unwrap_err();
    assert!(error.to_string().contains("output file already exists"), "{error}");

    let stock = Connection::open(&file).unwrap();
    assert_eq!(text(&stock, SUMS), content);
    check_integrity(&stock);
    let into = format!("VACUUM INTO 'file:back?vfs={}'", fixture.vfs());
    stock.execute_batch(&into).unwrap();
    let back = fixture.open("back");
    assert_eq!(text(&back, SUMS), content);
    check_integrity(&back);
    assert!(stock.execute_batch(&into).is_err(), "a facet that holds something is not overwritten");
}

#[test]
fn serialized_and_deserialized() {
    let fixture = Fixture::memory();
    for page_size in [512, 4096, 65536] {
        let mut connection = fixture.open(&format!("size/{page_size}"));
        connection.execute_batch(&format!("PRAGMA page_size={page_size}")).unwrap();
        let content = live(&connection);
        let bytes = connection.serialize(MAIN_DB).unwrap().to_vec();
        assert_eq!(bytes.len() as i64, page_size * number(&connection, "PRAGMA page_count"));
        let mut copy = Connection::open_in_memory().unwrap();
        copy.deserialize_read_exact(MAIN_DB, bytes.as_slice(), bytes.len(), false).unwrap();
        assert_eq!(text(&copy, SUMS), content);
        check_integrity(&copy);
        copy.execute("DELETE FROM t WHERE a = 1", []).unwrap();

        // Into a connection to a facet: SQLite then goes on in memory, and the facet stays.
        let bytes = copy.serialize(MAIN_DB).unwrap().to_vec();
        connection.deserialize_read_exact(MAIN_DB, bytes.as_slice(), bytes.len(), false).unwrap();
        connection.execute("DELETE FROM t", []).unwrap();
        drop(connection);
        assert_eq!(text(&fixture.open(&format!("size/{page_size}")), SUMS), content);
    }
}

/// Incremental reading and writing of one value, over many pages.
#[test]
fn an_open_blob() {
    let fixture = Fixture::spilling();
    let connection = fixture.open("a");
    connection.execute_batch("PRAGMA page_size=512; PRAGMA cache_size=3").unwrap();
    fill(&connection, 3, 100_000);
    // What is indexed cannot be written like this.
    connection.execute_batch("DROP INDEX t_b").unwrap();
    let other = fixture.open("a");
    let sum = "SELECT count(*) FROM t WHERE substr(b, 50001, 5) = x'0102030405'";
    let mut blob = connection.blob_open(MAIN_DB, "t", "b", 2, false).unwrap();
    blob.write_at(&[1, 2, 3, 4, 5], 50_000).unwrap();
    let mut back = [0; 7];
    blob.read_at_exact(&mut back, 49_999).unwrap();
    assert_eq!(back[1..6], [1, 2, 3, 4, 5]);
    assert_eq!(number(&other, sum), 0, "the transaction of a handle ends with it");
    blob.close().unwrap();
    assert_eq!(number(&other, sum), 1);

    // A handle that reads has a snapshot, which nobody's commit moves.
    let kept = other.blob_open(MAIN_DB, "t", "b", 2, true).unwrap();
    connection.execute("DELETE FROM t WHERE a = 2", []).unwrap();
    kept.read_at_exact(&mut back, 49_999).unwrap();
    assert_eq!(back[1..6], [1, 2, 3, 4, 5]);
    let error = other.execute("DELETE FROM t", []).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY_SNAPSHOT);
    kept.close().unwrap();
    assert!(other.blob_open(MAIN_DB, "t", "b", 2, true).is_err());
    check_integrity(&other);
}

#[test]
fn a_schema_changed_by_another_connection() {
    let fixture = Fixture::memory();
    let (one, other) = (fixture.open("a"), fixture.open("a"));
    fill(&one, 5, 10);
    let mut prepared = one.prepare("SELECT * FROM t WHERE a = 1").unwrap();
    let mut width = || {
        let mut rows = prepared.query([]).unwrap();
        rows.next().unwrap().map(|row| row.as_ref().column_count())
    };
    assert_eq!(width(), Some(2));
    other.execute_batch("ALTER TABLE t ADD COLUMN c DEFAULT 7").unwrap();
    assert_eq!(width(), Some(3));
    other
        .execute_batch(
            "ALTER TABLE t RENAME TO u; CREATE TABLE t(a, x, y, z); INSERT INTO t(a) VALUES (1)",
        )
        .unwrap();
    assert_eq!(width(), Some(4));
    // A transaction goes on with the schema of its snapshot, and cannot write beside the new one.
    one.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM u"), 5);
    other.execute_batch("DROP TABLE u").unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM u"), 5);
    let error = one.execute("DELETE FROM u", []).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY_SNAPSHOT);
    one.execute_batch("ROLLBACK").unwrap();
    let error = one.execute("DELETE FROM u", []).unwrap_err();
    assert!(error.to_string().contains("no such table: u"), "{error}");
    check_integrity(&one);
}

#[test]
fn the_pragma_answers_of_an_attached_facet() {
    let fixture = Fixture::memory();
    fill(&fixture.open("b"), 5, 10);
    let connection = fixture.open("a");
    connection.execute_batch(&format!("ATTACH 'file:b?vfs={}' AS b", fixture.vfs())).unwrap();
    for mode in ["delete", "truncate", "persist", "memory"] {
        assert_eq!(text(&connection, &format!("PRAGMA b.journal_mode={mode}")), mode);
        assert_eq!(text(&connection, "PRAGMA b.journal_mode=WAL"), mode, "it stays as it is");
        let error = connection.execute_batch("PRAGMA b.journal_mode=OFF").unwrap_err();
        assert!(error.to_string().contains("journal_mode=OFF is refused"), "{error}");
        let error = connection.execute_batch("PRAGMA journal_mode=OFF").unwrap_err();
        assert!(error.to_string().contains("journal_mode=OFF is refused"), "{error}");
        assert_eq!(text(&connection, "PRAGMA b.journal_mode"), mode);
        connection.execute("INSERT INTO b.t(b) VALUES (1)", []).unwrap();
    }
    assert_eq!(text(&connection, "PRAGMA b.locking_mode=EXCLUSIVE"), "exclusive");
    connection.execute("INSERT INTO b.t(b) VALUES (1)", []).unwrap();
    let other = fixture.open("b");
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    assert_eq!(code(&other.execute("DELETE FROM t", []).unwrap_err()), ffi::SQLITE_BUSY);
    assert_eq!(number(&other, "SELECT count(*) FROM t"), 10);
    connection.execute_batch("DETACH b").unwrap();
    assert_eq!(other.execute("DELETE FROM t", []).unwrap(), 10, "closing lets go of the lock");
}

/// SQLite never uses the page at 1 GiB. Values of zeros cost a log next to nothing, so this goes past
/// it in memory; with `LAPIDARY_SLOW=1` past 4 GiB, where offsets outgrow 32 bits.
#[test]
fn past_one_gibibyte() {
    const VALUE_BYTES: i64 = 200_000_000;
    let is_slow = std::env::var("LAPIDARY_SLOW").is_ok_and(|value| value == "1");
    let values = if is_slow { 22 } else { 6 };
    let mut fixture = Fixture::spilling();
    let connection = fixture.open("big");
    connection
        .execute_batch("PRAGMA page_size=65536; PRAGMA cache_size=50; CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        .unwrap();
    for value in 1..=values {
        connection
            .execute("INSERT INTO t VALUES (?1, zeroblob(?2))", [value, VALUE_BYTES])
            .unwrap();
    }
    let pages = number(&connection, "PRAGMA page_count");
    assert!(pages * 65536 > (1 << 30) * if is_slow { 4 } else { 1 });
    // What lies on both sides of the page is freed and used again.
    connection.execute("DELETE FROM t WHERE a = 5", []).unwrap();
    connection
        .execute_batch("INSERT INTO t VALUES (100, 'end'); BEGIN; INSERT INTO t VALUES (101, randomblob(9000000)); ROLLBACK")
        .unwrap();
    drop(connection);
    fixture.restart();
    let flags = OpenFlags::default();
    let connection = fixture.try_open("big", flags).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), values);
    assert_eq!(number(&connection, "SELECT sum(length(b)) FROM t"), (values - 1) * VALUE_BYTES + 3);
    assert_eq!(text(&connection, "SELECT b FROM t WHERE a = 100"), "end");
    assert_eq!(number(&connection, "PRAGMA page_count"), pages);
    check_integrity(&connection);
}
