//! The backup interface, into facets and out of them.

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::fixture::{Fixture, check_integrity, fill, number};

fn copy(from: &Connection, to: &mut Connection, pages_per_step: i32) {
    let backup = Backup::new(from, to).unwrap();
    loop {
        match backup.step(pages_per_step).unwrap() {
            StepResult::Done => return,
            StepResult::More => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A database in memory with pages of `page_size` bytes.
fn stock(page_size: u32) -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("PRAGMA page_size={page_size}")).unwrap();
    fill(&connection, 200, 700);
    connection
}

#[test]
fn into_an_empty_facet_and_out_again() {
    for mut fixture in Fixture::each() {
        for page_size in [512, 4096, 65536] {
            for pages_per_step in [7, -1] {
                let facet = format!("{page_size}/{}", pages_per_step + 1);
                let mut into = fixture.open(&facet);
                copy(&stock(page_size), &mut into, pages_per_step);
                assert_eq!(number(&into, "PRAGMA page_size"), i64::from(page_size));
                assert_eq!(number(&into, "SELECT sum(length(b)) FROM t"), 140_000);
                check_integrity(&into);
                let mut out = Connection::open_in_memory().unwrap();
                copy(&into, &mut out, pages_per_step);
                assert_eq!(number(&out, "SELECT sum(length(b)) FROM t"), 140_000);
                check_integrity(&out);
            }
        }
        fixture.reopen();
        for info in fixture.store().list_facets(None, None, 100).unwrap() {
            let connection = fixture.open(info.name.as_str());
            assert_eq!(number(&connection, "SELECT sum(length(b)) FROM t"), 140_000);
            check_integrity(&connection);
        }
    }
}

/// Over a facet of another page size, larger and smaller than the copy: SQLite then writes the
/// copy in pieces of the old size, and cuts the file at the end of the last whole page.
#[test]
fn over_a_facet_of_another_page_size() {
    let fixture = Fixture::memory();
    for old_size in [512, 4096, 65536] {
        for new_size in [512, 1024, 16384, 65536] {
            for rows in [5, 900] {
                let facet = format!("{old_size}/{new_size}/{rows}");
                let mut into = fixture.open(&facet);
                into.execute_batch(&format!("PRAGMA page_size={old_size}")).unwrap();
                fill(&into, rows, 500);
                let reader = fixture.open(&facet);
                assert_eq!(number(&reader, "SELECT count(*) FROM t"), i64::from(rows));
                reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();

                copy(&stock(new_size), &mut into, 11);
                reader.execute_batch("COMMIT").unwrap();
                for connection in [&into, &reader] {
                    assert_eq!(number(connection, "SELECT sum(length(b)) FROM t"), 140_000);
                    assert_eq!(number(connection, "PRAGMA page_size"), i64::from(new_size));
                    check_integrity(connection);
                }
                into.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
                assert_eq!(number(&reader, "SELECT count(*) FROM t"), 201);
            }
        }
    }
}

#[test]
fn from_facet_to_facet() {
    let fixture = Fixture::memory();
    let from = fixture.open("from");
    fill(&from, 100, 1000);
    let mut into = fixture.open("into");
    let backup = Backup::new(&from, &mut into).unwrap();
    backup.step(3).unwrap();
    // Nothing of it is visible before it is whole.
    let reader = fixture.open("into");
    assert_eq!(number(&reader, "SELECT count(*) FROM sqlite_schema"), 0);
    // A change of the source on the way starts the copy over, or is copied too.
    fixture.open("from").execute("DELETE FROM t WHERE a > 50", []).unwrap();
    while backup.step(3).unwrap() != StepResult::Done {}
    drop(backup);
    assert_eq!(number(&into, "SELECT count(*) FROM t"), 50);
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 50);
    check_integrity(&reader);
}

#[test]
fn a_backup_given_up_leaves_the_facet_as_it_was() {
    let fixture = Fixture::memory();
    let mut into = fixture.open("a");
    into.execute_batch("PRAGMA cache_size=2").unwrap();
    fill(&into, 50, 500);
    let from = stock(4096);
    let backup = Backup::new(&from, &mut into).unwrap();
    backup.step(20).unwrap();
    drop(backup);
    assert_eq!(number(&into, "SELECT count(*) FROM t"), 50);
    check_integrity(&into);
    check_integrity(&fixture.open("a"));
}
