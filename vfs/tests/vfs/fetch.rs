//! Pages read in place (`PRAGMA mmap_size`): the same content, for as long as SQLite holds them,
//! whatever becomes of where they are.

use std::io::Read as _;

use lapidary_engine::{Background, Environment, Error, FacetName, FileName, Store, StoreOptions};
use lapidary_vfs::take_last_error;
use rusqlite::{Connection, OpenFlags};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

const ALL: &str = "SELECT group_concat(a || hex(b)) FROM t";

fn map(connection: &Connection) {
    connection.execute_batch("PRAGMA mmap_size=1000000000").unwrap();
}

fn open_mapped(fixture: &Fixture, facet: &str) -> Connection {
    let connection = fixture.open(facet);
    map(&connection);
    connection
}

/// Makes garbage of what there is, and has everything moved that is live.
fn churn(fixture: &Fixture) {
    let store = fixture.store();
    for _ in 0..2 {
        let other = fixture.open("churn");
        other.execute_batch("DROP TABLE IF EXISTS t; VACUUM").unwrap();
        fill(&other, 1000, 1000);
        while store.clean().unwrap().segments > 0 {
            store.checkpoint().unwrap();
        }
        while store.maintain().unwrap() {}
    }
    store.checkpoint().unwrap();
}

/// Whether pages of the store are held: then it stays locked when it is closed.
fn closes_while_held(fixture: &Fixture) -> bool {
    fixture.store().close().unwrap();
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    match Store::open(Environment::with_io(fixture.io().clone()), options) {
        Err(Error::Locked { .. }) => true,
        opened => {
            opened.unwrap();
            false
        }
    }
}

#[test]
fn the_same_rows_in_place_and_copied() {
    let fixture = Fixture::small_segments();
    for page_size in [512, 4096, 65536] {
        let facet = format!("f{page_size}");
        let plain = fixture.open(&facet);
        plain.execute_batch(&format!("PRAGMA page_size={page_size}")).unwrap();
        fill(&plain, 3000, 300);
        let expected = text(&plain, ALL);
        churn(&fixture);
        let mapped = open_mapped(&fixture, &facet);
        assert_eq!(text(&mapped, ALL), expected);
        check_integrity(&mapped);
        // Others commit and things are moved, so that its next transaction is on other pages.
        plain
            .execute_batch("DELETE FROM t WHERE a % 7 = 0; UPDATE t SET b = a WHERE a % 5 = 0")
            .unwrap();
        assert_eq!(text(&mapped, ALL), text(&plain, ALL));
        churn(&fixture);
        assert_eq!(text(&mapped, ALL), text(&plain, ALL));
        check_integrity(&mapped);
    }
}

/// If this fails, SQLite follows pointers into other databases' pages.
#[test]
fn held_pages_outlive_everything() {
    let fixture = Fixture::small_segments();
    let writer = fixture.open("a");
    fill(&writer, 2000, 1000);
    let expected = text(&writer, ALL);
    churn(&fixture);

    let reader = open_mapped(&fixture, "a");
    let mut statement = reader.prepare("SELECT a || hex(b) FROM t ORDER BY a").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut read = vec![rows.next().unwrap().unwrap().get::<_, String>(0).unwrap()];
    let blob_reader = open_mapped(&fixture, "a");
    let mut blob = blob_reader.blob_open("main", "t", "b", 1000, true).unwrap();
    let mut half = [0; 500];
    blob.read_exact(&mut half).unwrap();

    for step in 0..4 {
        for _ in 0..200 {
            read.push(rows.next().unwrap().unwrap().get(0).unwrap());
        }
        match step {
            0 => writer.execute_batch("UPDATE t SET b = randomblob(1000)").unwrap(),
            1 => churn(&fixture),
            2 => {
                fixture.store().delete_facet(&FacetName::new("a").unwrap()).unwrap();
                churn(&fixture);
            }
            _ => assert!(closes_while_held(&fixture), "it reads in place"),
        }
    }
    // The store is closed: what is held stays, and nothing more is to be had.
    let mut error = None;
    loop {
        match rows.next() {
            Ok(Some(row)) => read.push(row.get(0).unwrap()),
            Ok(None) => break,
            Err(closed) => {
                error = Some(closed);
                break;
            }
        }
    }
    assert!(expected.starts_with(&read.join(",")), "after {} rows", read.len());
    assert!(read.len() > 800 && error.is_some());
    assert!(take_last_error().unwrap().contains("closed"));
    drop(blob);
}

#[test]
fn an_open_blob_reads_what_it_was() {
    let fixture = Fixture::small_segments();
    let writer = fixture.open("a");
    fill(&writer, 20, 100_000);
    let expected: Vec<u8> =
        writer.query_row("SELECT b FROM t WHERE a = 10", [], |row| row.get(0)).unwrap();
    churn(&fixture);
    let reader = open_mapped(&fixture, "a");
    let mut blob = reader.blob_open("main", "t", "b", 10, true).unwrap();
    let mut read = vec![0; 50_000];
    blob.read_exact(&mut read).unwrap();
    writer.execute_batch("UPDATE t SET b = randomblob(100000)").unwrap();
    churn(&fixture);
    let mut rest = vec![0; 50_000];
    blob.read_exact(&mut rest).unwrap();
    assert_eq!([read, rest].concat(), expected);
}

/// With a page cache of next to nothing, so that pages are staged, read back and fetched in turns.
#[test]
fn a_writer_that_fetches_sees_its_own_changes() {
    let fixture = Fixture::small_segments();
    let run = |facet: &str, setup: &str| {
        let connection = fixture.open(facet);
        fill(&connection, 1, 8);
        churn(&fixture);
        connection.execute_batch(setup).unwrap();
        let mut answers = Vec::new();
        for seed in 1..=12 {
            let sql = format!(
                "BEGIN;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
                 INSERT OR REPLACE INTO t SELECT (i * {seed} * 7919) % 2003,
                    zeroblob(0) || printf('%0*d', 100 + (i * {seed}) % 900, i * {seed}) FROM n;
                 DELETE FROM t WHERE a % 11 = {seed} % 11;
                 UPDATE t SET b = b || 'x' WHERE a IN
                    (SELECT a FROM t WHERE substr(b, 1, 8) >= '0' ORDER BY a LIMIT 40);"
            );
            connection.execute_batch(&sql).unwrap();
            answers.push(text(&connection, "SELECT group_concat(a || b) FROM t"));
            let end = if seed % 3 == 0 { "ROLLBACK" } else { "COMMIT" };
            connection.execute_batch(end).unwrap();
            answers.push(text(&connection, "SELECT group_concat(a || b) FROM t"));
            if seed % 4 == 0 {
                fixture.store().checkpoint().unwrap();
                fixture.store().clean().unwrap();
            }
        }
        check_integrity(&connection);
        answers
    };
    let plain = run("plain", "");
    let small = "PRAGMA cache_size=5; PRAGMA mmap_size=100000000";
    assert_eq!(run("mapped", small), plain);
    assert_eq!(run("exclusive", &format!("{small}; PRAGMA locking_mode=EXCLUSIVE")), plain);
}

#[test]
fn nothing_is_held_between_statements_also_with_a_lock_that_stays() {
    let fixture = Fixture::small_segments();
    let connection = open_mapped(&fixture, "a");
    connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    fill(&connection, 2000, 1000);
    churn(&fixture);
    assert_eq!(number(&connection, "SELECT count(*) FROM t WHERE length(b) = 1000"), 2000);
    assert!(!closes_while_held(&fixture));
}

#[test]
fn damage_is_an_error_of_that_facet_alone() {
    let mut fixture = Fixture::small_segments();
    for facet in ["a", "b"] {
        fill(&fixture.open(facet), 500, 1000);
    }
    let needle: Vec<u8> = fixture
        .open("a")
        .query_row("SELECT substr(b, 100, 64) FROM t WHERE a = 250", [], |row| row.get(0))
        .unwrap();
    churn(&fixture);
    fixture.store().close().unwrap();
    for file in fixture.io().list_segments().unwrap() {
        let file = fixture.io().open(FileName::Segment(file)).unwrap();
        let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut content).unwrap();
        for at in 0..content.len() - needle.len() {
            if content[at..at + needle.len()] == needle {
                file.write_at(at as u64, &[!needle[0]]).unwrap();
            }
        }
    }
    fixture.restart();
    let damaged = open_mapped(&fixture, "a");
    let sum = "SELECT sum(length(b)) FROM t WHERE hex(b) <> ''";
    for _ in 0..2 {
        let error = damaged.query_row(sum, [], |row| row.get::<_, i64>(0)).unwrap_err();
        assert_eq!(code(&error), rusqlite::ffi::SQLITE_IOERR_DATA, "{error}");
        let words = take_last_error().unwrap();
        assert!(words.contains("facet a") && words.contains(".seg"), "{words}");
    }
    assert_eq!(number(&damaged, "SELECT length(b) FROM t WHERE a = 1"), 1000);
    let whole = open_mapped(&fixture, "b");
    assert_eq!(number(&whole, sum), 500_000);
    check_integrity(&whole);
}

#[test]
fn the_past_is_read_in_place_too() {
    let fixture = Fixture::small_segments();
    let name = FacetName::new("a").unwrap();
    let writer = fixture.open("a");
    let day = std::time::Duration::from_secs(24 * 3600);
    let retention = lapidary_engine::Retention { bytes: u64::MAX, age: day };
    fixture.store().set_retention(&name, Some(retention)).unwrap();
    fill(&writer, 1000, 1000);
    let expected = text(&writer, ALL);
    let bookmark = fixture.store().open_facet(&name).unwrap().bookmark().unwrap();
    writer.execute_batch("UPDATE t SET b = randomblob(500)").unwrap();
    churn(&fixture);
    let uri = format!("file:a?vfs={}&at={bookmark}", fixture.vfs());
    let past = Connection::open_with_flags(uri, OpenFlags::default()).unwrap();
    map(&past);
    assert_eq!(text(&past, ALL), expected);
    let mut statement = past.prepare("SELECT b FROM t").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap().unwrap();
    assert!(closes_while_held(&fixture));
}

#[test]
fn mmap_size_is_asked_and_set() {
    let fixture = Fixture::small_segments();
    let connection = fixture.open("a");
    fill(&connection, 2000, 1000);
    churn(&fixture);
    assert_eq!(number(&connection, "PRAGMA mmap_size"), 0, "SQLite's default");
    assert_eq!(number(&connection, "PRAGMA mmap_size=5000000000"), 5_000_000_000);
    assert_eq!(number(&connection, "PRAGMA mmap_size"), 5_000_000_000);
    assert_eq!(number(&connection, "PRAGMA mmap_size=0"), 0);
    let mut statement = connection.prepare("SELECT b FROM t").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap().unwrap();
    assert!(!closes_while_held(&fixture), "0 turns it off");
}

/// Where there is nothing to map, it is not an error to ask for it.
#[test]
fn stores_in_memory_go_on_copying() {
    let fixture = Fixture::memory();
    let connection = open_mapped(&fixture, "a");
    fill(&connection, 2000, 1000);
    fixture.store().checkpoint().unwrap();
    let reader = open_mapped(&fixture, "a");
    assert_eq!(text(&reader, ALL), text(&connection, ALL));
    check_integrity(&reader);
    assert!(!closes_while_held(&fixture));
}
