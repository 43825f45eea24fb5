//! Quotas: a transaction that needs more is refused whole, and all else goes on.

use lapidary_engine::FacetName;
use lapidary_vfs::take_last_error;
use rusqlite::{Connection, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number};

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

fn used(fixture: &Fixture, quota: &str) -> i64 {
    i64::try_from(fixture.store().quota(&name(quota)).unwrap().used_bytes).unwrap()
}

fn size(connection: &Connection) -> i64 {
    number(connection, "PRAGMA page_count") * number(connection, "PRAGMA page_size")
}

const COUNT: &str = "SELECT count(*) FROM t";

#[test]
fn a_transaction_over_the_quota_is_refused_at_its_commit() {
    for fixture in [Fixture::memory(), Fixture::spilling()] {
        for (mode, quota) in [("delete", "one"), ("truncate", "two"), ("memory", "three")] {
            let facet = |part: &str| format!("{quota}/{part}");
            fixture.store().set_quota(&name(quota), Some(400_000)).unwrap();
            let connection = fixture.open(&facet("a"));
            connection.pragma_update(None, "journal_mode", mode).unwrap();
            // So that pages are written, and in one of the stores spilled, ahead of the commit.
            connection.execute_batch("PRAGMA cache_size=5").unwrap();
            fill(&connection, 100, 1000);
            let sibling = fixture.open(&facet("b"));
            fill(&sibling, 50, 1000);
            let reader = fixture.open(&facet("a"));
            let before = size(&connection);
            assert_eq!(used(&fixture, quota), before + size(&sibling));

            connection.execute_batch("BEGIN").unwrap();
            fill(&connection, 1000, 1000);
            connection.execute_batch("UPDATE t SET b = zeroblob(10) WHERE a = 1").unwrap();
            let error = connection.execute_batch("COMMIT").unwrap_err();
            assert_eq!(code(&error), ffi::SQLITE_FULL, "{error}");
            let words = take_last_error().unwrap();
            assert!(words.contains(&format!("{quota}: its quota of 400000 bytes")), "{words}");
            let _ = connection.execute_batch("ROLLBACK");
            // And one that is a transaction of its own.
            let error =
                connection.execute("INSERT INTO t(b) VALUES (zeroblob(400000))", []).unwrap_err();
            assert_eq!(code(&error), ffi::SQLITE_FULL, "{error}");

            for connection in [&connection, &reader] {
                assert_eq!(number(connection, COUNT), 100);
                assert_eq!(number(connection, "SELECT sum(length(b)) FROM t"), 100_000);
                assert_eq!(size(connection), before);
                check_integrity(connection);
            }
            assert_eq!(used(&fixture, quota), before + size(&sibling));
            // It goes on, its sibling too, and others know nothing of it.
            connection.execute("UPDATE t SET b = randomblob(1000) WHERE a = 1", []).unwrap();
            fill(&connection, 10, 1000);
            fill(&sibling, 10, 1000);
            fill(&fixture.open("other"), 800, 1000);
            assert_eq!(number(&reader, COUNT), 110);
        }
    }
}

#[test]
fn what_is_taken_back_before_the_commit_is_not_counted() {
    let fixture = Fixture::spilling();
    fixture.store().set_quota(&name("a"), Some(300_000)).unwrap();
    let connection = fixture.open("a");
    connection.execute_batch("PRAGMA cache_size=5").unwrap();
    fill(&connection, 100, 1000);
    connection.execute_batch("BEGIN").unwrap();
    fill(&connection, 1000, 1000);
    connection.execute_batch("ROLLBACK").unwrap();
    assert_eq!(number(&connection, COUNT), 100);
    connection
        .execute_batch("BEGIN; SAVEPOINT s; UPDATE t SET b = randomblob(9000); ROLLBACK TO s")
        .unwrap();
    connection.execute_batch("INSERT INTO t(b) VALUES (zeroblob(1000)); COMMIT").unwrap();
    assert_eq!(number(&fixture.open("a"), COUNT), 101);
    check_integrity(&connection);
}

#[test]
fn deleting_and_vacuuming_make_room() {
    for mut fixture in [Fixture::memory(), Fixture::spilling()] {
        fixture.store().set_quota(&name("a"), Some(400_000)).unwrap();
        let (a, b) = (fixture.open("a"), fixture.open("a/b"));
        fill(&a, 300, 1000);
        let grow = |connection: &Connection| {
            connection.execute_batch("CREATE TABLE IF NOT EXISTS u(x)").and_then(|()| {
                connection.execute("INSERT INTO u VALUES (zeroblob(150000))", []).map(drop)
            })
        };
        assert_eq!(code(&grow(&b).unwrap_err()), ffi::SQLITE_FULL);
        a.execute_batch("DELETE FROM t WHERE a > 100").unwrap();
        // The pages are still the facet's own, which can use them.
        assert_eq!(code(&grow(&b).unwrap_err()), ffi::SQLITE_FULL);
        grow(&a).unwrap();
        a.execute_batch("DROP TABLE u; VACUUM").unwrap();
        grow(&b).unwrap();
        assert_eq!(used(&fixture, "a"), size(&a) + size(&b));

        // A quota below what there is refuses growth alone.
        fixture.store().set_quota(&name("a"), Some(1000)).unwrap();
        a.execute("UPDATE t SET b = randomblob(1000)", []).unwrap();
        assert_eq!(code(&grow(&a).unwrap_err()), ffi::SQLITE_FULL);
        a.execute_batch("DELETE FROM t WHERE a > 50; VACUUM").unwrap();
        drop((a, b));
        fixture.reopen();
        let a = fixture.open("a");
        assert_eq!(number(&a, COUNT), 50);
        assert_eq!(code(&grow(&a).unwrap_err()), ffi::SQLITE_FULL);
        fixture.store().set_quota(&name("a"), None).unwrap();
        grow(&a).unwrap();
        check_integrity(&a);
    }
}

/// `VACUUM` into other page sizes, `auto_vacuum` and the backup interface, all within what there is.
#[test]
fn ways_to_write_a_whole_database_anew() {
    let fixture = Fixture::spilling();
    fixture.store().set_quota(&name("a"), Some(400_000)).unwrap();
    let mut connection = fixture.open("a");
    connection.execute_batch("PRAGMA auto_vacuum=FULL").unwrap();
    fill(&connection, 200, 1000);
    for page_size in [1024, 8192, 4096] {
        connection.execute_batch(&format!("PRAGMA page_size={page_size}; VACUUM")).unwrap();
        assert_eq!(used(&fixture, "a"), size(&connection));
    }
    connection.execute_batch("DELETE FROM t WHERE a > 100").unwrap();
    assert!(used(&fixture, "a") < 200_000, "auto_vacuum gives it back");

    let from = Connection::open_in_memory().unwrap();
    fill(&from, 1000, 1000);
    let backup = rusqlite::backup::Backup::new(&from, &mut connection).unwrap();
    let error = backup.step(-1).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_FULL, "{error}");
    drop(backup);
    assert_eq!(number(&connection, COUNT), 100);
    check_integrity(&connection);
}
