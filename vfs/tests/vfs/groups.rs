//! Transactions over several facets of one connection: all of it, or nothing.

use lapidary_engine::{FacetName, Lsn, Version};
use lapidary_vfs::take_last_error;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, number, text};

/// Journal mode and `synchronous`: with a super-journal as SQLite sees it, and without.
const WAYS: [(&str, &str); 5] = [
    ("delete", "FULL"),
    ("truncate", "NORMAL"),
    ("persist", "EXTRA"),
    ("memory", "FULL"),
    ("delete", "OFF"),
];

fn version(fixture: &Fixture, facet: &str) -> Version {
    fixture.store().open_facet(&FacetName::new(facet).unwrap()).unwrap().latest_version()
}

fn last_lsn(fixture: &Fixture) -> Lsn {
    fixture.store().current_ticket().lsn()
}

/// A connection to the facets `main` and `other`, each with a table of a hundred rows.
fn pair(fixture: &Fixture, way: (&str, &str)) -> Connection {
    let connection = fixture.open("main");
    attach(fixture, &connection, "other");
    for schema in ["main", "other"] {
        connection
            .execute_batch(&format!(
                "PRAGMA {schema}.journal_mode={}; PRAGMA {schema}.synchronous={};
                 CREATE TABLE {schema}.{schema}_rows(a INTEGER PRIMARY KEY, b);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 100)
                 INSERT INTO {schema}.{schema}_rows SELECT i, randomblob(400) FROM n",
                way.0, way.1
            ))
            .unwrap();
    }
    connection
}

fn attach(fixture: &Fixture, connection: &Connection, facet: &str) {
    connection
        .execute_batch(&format!("ATTACH 'file:{facet}?vfs={}' AS {facet}", fixture.vfs()))
        .unwrap();
}

const COUNTS: &str =
    "SELECT (SELECT count(*) FROM main_rows) * 1000 + (SELECT count(*) FROM other_rows)";

/// What a connection of its own finds in both.
fn counts(fixture: &Fixture) -> i64 {
    let connection = fixture.open("main");
    attach(fixture, &connection, "other");
    for schema in ["main", "other"] {
        assert_eq!(text(&connection, &format!("PRAGMA {schema}.integrity_check")), "ok");
    }
    number(&connection, COUNTS)
}

#[test]
fn one_record_for_all() {
    for way in WAYS {
        for spills in [false, true] {
            let mut fixture = if spills { Fixture::spilling() } else { Fixture::memory() };
            let connection = pair(&fixture, way);
            if spills {
                connection
                    .execute_batch("PRAGMA main.cache_size=2; PRAGMA other.cache_size=2")
                    .unwrap();
            }
            let before = [version(&fixture, "main"), version(&fixture, "other")];
            connection
                .execute_batch(
                    "BEGIN; DELETE FROM main_rows WHERE a <= 10;
                     INSERT INTO other_rows SELECT a + 200, randomblob(500) FROM main_rows",
                )
                .unwrap();
            assert_eq!(counts(&fixture), 100_100);
            let lsn = last_lsn(&fixture);
            connection.execute_batch("COMMIT").unwrap();
            if !spills {
                assert_eq!(last_lsn(&fixture), lsn.next(), "{way:?}: one record");
            }
            assert_eq!(fixture.store().durable_lsn(), last_lsn(&fixture));
            let after = [version(&fixture, "main"), version(&fixture, "other")];
            assert_eq!(after, before.map(Version::next), "{way:?}");
            assert_eq!(number(&connection, COUNTS), 90_190);
            assert_eq!(counts(&fixture), 90_190);

            // The connection goes on, with both and with each.
            connection
                .execute_batch("BEGIN; DELETE FROM main_rows; DELETE FROM other_rows; ROLLBACK")
                .unwrap();
            assert_eq!(number(&connection, COUNTS), 90_190);
            connection.execute_batch("DELETE FROM main_rows WHERE a = 11").unwrap();
            connection
                .execute_batch("BEGIN IMMEDIATE; DELETE FROM other_rows WHERE a = 1; COMMIT")
                .unwrap();
            assert_eq!(counts(&fixture), 89_189);
            drop(connection);
            fixture.reopen();
            assert_eq!(counts(&fixture), 89_189);
        }
    }
}

/// A quota of one of them refuses at the COMMIT: nothing of the other is committed either, and the
/// connection sees what was there before, also if it never lets go of its locks.
#[test]
fn refused_by_one_refused_by_all() {
    for way in WAYS {
        for locking_mode in ["NORMAL", "EXCLUSIVE"] {
            for limited in ["main", "other"] {
                let fixture = Fixture::memory();
                let connection = pair(&fixture, way);
                connection
                    .execute_batch(&format!(
                        "PRAGMA locking_mode={locking_mode}; BEGIN IMMEDIATE; COMMIT"
                    ))
                    .unwrap();
                let name = FacetName::new(limited).unwrap();
                fixture.store().set_quota(&name, Some(1)).unwrap();
                let before = [version(&fixture, "main"), version(&fixture, "other")];
                let write = "BEGIN; UPDATE main_rows SET b = randomblob(700);
                             UPDATE other_rows SET b = randomblob(700); DELETE FROM main_rows WHERE a = 5";
                connection.execute_batch(write).unwrap();
                let error = connection.execute_batch("COMMIT").unwrap_err();
                assert_eq!(code(&error) & 0xff, ffi::SQLITE_FULL, "{way:?} {error}");
                assert!(take_last_error().unwrap().contains("quota"), "{way:?}");
                assert!(connection.is_autocommit(), "{way:?}: it was rolled back");
                assert_eq!([version(&fixture, "main"), version(&fixture, "other")], before);
                let what = format!("{way:?} {locking_mode} {limited}");
                assert_eq!(number(&connection, COUNTS), 100_100, "{what}");
                for schema in ["main", "other"] {
                    let sql = format!("SELECT sum(length(b)) FROM {schema}_rows");
                    assert_eq!(number(&connection, &sql), 40_000, "{what}");
                    let sql = format!("PRAGMA {schema}.integrity_check");
                    assert_eq!(text(&connection, &sql), "ok", "{what}");
                }
                // And with room it can be done again.
                fixture.store().set_quota(&name, None).unwrap();
                connection.execute_batch(write).unwrap();
                connection.execute_batch("COMMIT").unwrap();
                drop(connection);
                assert_eq!(counts(&fixture), 99_100, "{what}");
            }
        }
    }
}

/// SQLite cuts a file that shrank off after the commit; the version committed is as long as it should
/// be all the same.
#[test]
fn facets_that_shrink() {
    for way in WAYS {
        let fixture = Fixture::memory();
        let connection = fixture.open("main");
        attach(&fixture, &connection, "other");
        connection
            .execute_batch("PRAGMA main.auto_vacuum=FULL; PRAGMA other.auto_vacuum=FULL")
            .unwrap();
        drop(connection);
        for facet in ["main", "other"] {
            fixture
                .open(facet)
                .execute_batch("PRAGMA auto_vacuum=FULL; CREATE TABLE x(a)")
                .unwrap();
        }
        let connection = pair(&fixture, way);
        let lsn = last_lsn(&fixture);
        connection
            .execute_batch("BEGIN; DELETE FROM main_rows; DELETE FROM other_rows; COMMIT")
            .unwrap();
        assert_eq!(last_lsn(&fixture), lsn.next(), "{way:?}: one record");
        for facet in ["main", "other"] {
            let open = fixture.store().open_facet(&FacetName::new(facet).unwrap()).unwrap();
            let pages = open.snapshot(lapidary_engine::View::Durable).unwrap().page_count();
            let told = number(&connection, &format!("PRAGMA {facet}.page_count"));
            assert_eq!(i64::from(pages), told, "{way:?} {facet}");
            assert!(pages < 8, "{way:?} {facet}: {pages} pages");
        }
        assert_eq!(counts(&fixture), 0);
    }
}

/// With a main database in memory SQLite uses no super-journal: in files it would not be atomic.
#[test]
fn a_main_database_in_memory() {
    let fixture = Fixture::memory();
    let connection = Connection::open_in_memory().unwrap();
    for facet in ["a", "b", "c"] {
        attach(&fixture, &connection, facet);
        connection.execute_batch(&format!("CREATE TABLE {facet}.{facet}_rows(n)")).unwrap();
    }
    connection.execute_batch("CREATE TABLE own(n); CREATE TEMP TABLE passing(n)").unwrap();
    let lsn = last_lsn(&fixture);
    connection
        .execute_batch(
            "BEGIN; INSERT INTO own VALUES (1); INSERT INTO passing VALUES (1);
             INSERT INTO a_rows VALUES (1); INSERT INTO b_rows VALUES (1); INSERT INTO c_rows VALUES (1);
             COMMIT",
        )
        .unwrap();
    assert_eq!(last_lsn(&fixture), lsn.next());
    for facet in ["a", "b", "c"] {
        assert_eq!(number(&fixture.open(facet), &format!("SELECT count(*) FROM {facet}_rows")), 1);
    }
}

#[test]
fn facets_of_two_stores_are_refused_together() {
    let (one, two) = (Fixture::memory(), Fixture::memory());
    for mode in ["delete", "persist"] {
        let connection = one.open("a");
        connection
            .execute_batch(&format!(
                "ATTACH 'file:a?vfs={}' AS second; PRAGMA main.journal_mode={mode};
                 PRAGMA second.journal_mode={mode};
                 CREATE TABLE IF NOT EXISTS main.x(n); CREATE TABLE IF NOT EXISTS second.y(n);
                 BEGIN; INSERT INTO x VALUES (1); INSERT INTO y VALUES (1)",
                two.vfs()
            ))
            .unwrap();
        connection.execute_batch("COMMIT").unwrap_err();
        assert!(take_last_error().unwrap().contains("several stores"));
        let _ = connection.execute_batch("ROLLBACK");
        assert_eq!(
            number(&connection, "SELECT (SELECT count(*) FROM x) + (SELECT count(*) FROM y)"),
            0
        );
        connection.execute_batch("INSERT INTO x VALUES (1); DELETE FROM x").unwrap();
        check_integrity(&connection);
    }
}

/// Two connections use the same handles in turns.
#[test]
fn connections_that_share_a_cache() {
    let fixture = Fixture::memory();
    drop(pair(&fixture, WAYS[0]));
    let vfs = fixture.vfs();
    let open = || {
        let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_SHARED_CACHE;
        let name = format!("file:main?vfs={vfs}&cache=shared");
        let connection = Connection::open_with_flags(name, flags).unwrap();
        connection
            .execute_batch(&format!("ATTACH 'file:other?vfs={vfs}&cache=shared' AS other"))
            .unwrap();
        connection
    };
    let (first, second) = (open(), open());
    for (round, connection) in [&first, &second, &first, &second].into_iter().enumerate() {
        for mode in ["memory", "delete"] {
            let lsn = last_lsn(&fixture);
            connection
                .execute_batch(&format!(
                    "PRAGMA main.journal_mode={mode}; PRAGMA other.journal_mode={mode};
                     BEGIN; DELETE FROM main_rows WHERE a = {round} * 2 + ('{mode}' = 'memory') + 1;
                     DELETE FROM other_rows WHERE a = {round} * 2 + ('{mode}' = 'memory') + 1; COMMIT"
                ))
                .unwrap();
            assert_eq!(last_lsn(&fixture), lsn.next(), "{mode}");
        }
    }
    drop(second);
    assert_eq!(counts(&fixture), 92_092);
}

/// A gate answers for its own connection; what is attached without one is waited for.
#[test]
fn behind_a_gate() {
    let fixture = Fixture::memory();
    drop(pair(&fixture, WAYS[0]));
    let gate = fixture.registration().gate(1);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    for mode in ["delete", "memory"] {
        let connection = gate.open(&FacetName::new("main").unwrap(), flags).unwrap();
        attach(&fixture, &connection, "other");
        connection
            .execute_batch(&format!(
                "PRAGMA main.journal_mode={mode}; PRAGMA other.journal_mode={mode};
                 BEGIN; DELETE FROM main_rows WHERE a = (SELECT min(a) FROM main_rows);
                 DELETE FROM other_rows WHERE a = (SELECT min(a) FROM other_rows); COMMIT"
            ))
            .unwrap();
        assert_eq!(gate.last_ticket(), fixture.store().current_ticket(), "{mode}");
        assert_eq!(fixture.store().durable_lsn(), last_lsn(&fixture));
    }
    assert_eq!(counts(&fixture), 98_098);
}
