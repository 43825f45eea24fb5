//! What SQLite does with one connection: commits, rollbacks, journals, page sizes, VACUUM.

use rusqlite::Connection;

use crate::fixture::{Fixture, check_integrity, fill, number, text};

const JOURNAL_MODES: [&str; 4] = ["delete", "truncate", "persist", "memory"];

#[test]
fn rows_survive_closing_and_reopening() {
    for mut fixture in Fixture::each() {
        let connection = fixture.open("tenants/acme/notes");
        fill(&connection, 500, 100);
        drop(connection);
        for clean in [true, false] {
            if clean {
                fixture.reopen();
            } else {
                fixture.restart();
            }
            let connection = fixture.open("tenants/acme/notes");
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), 500);
            assert_eq!(number(&connection, "SELECT sum(length(b)) FROM t"), 50_000);
            check_integrity(&connection);
        }
    }
}

#[test]
fn every_page_size() {
    for mut fixture in Fixture::each() {
        let sizes = (9..=16).map(|log2| 1_u32 << log2);
        for size in sizes.clone() {
            let connection = fixture.open(&format!("size/{size}"));
            connection.execute_batch(&format!("PRAGMA page_size={size}")).unwrap();
            fill(&connection, 300, 700);
            assert_eq!(number(&connection, "PRAGMA page_size"), i64::from(size));
            connection.execute("DELETE FROM t WHERE a % 3 = 0", []).unwrap();
            check_integrity(&connection);
        }
        for info in fixture.store().list_facets(None, None, 100).unwrap() {
            assert_eq!(info.name.as_str(), format!("size/{}", info.page_size.unwrap().bytes()));
        }
        fixture.reopen();
        for size in sizes {
            let connection = fixture.open(&format!("size/{size}"));
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), 200);
            assert_eq!(number(&connection, "PRAGMA page_size"), i64::from(size));
            check_integrity(&connection);
        }
    }
}

/// Runs `steps` under each journal mode, with each locking mode.
fn in_each_mode(steps: impl Fn(&Fixture, &Connection, &str)) {
    let fixture = Fixture::memory();
    for locking in ["normal", "exclusive"] {
        for mode in JOURNAL_MODES {
            let facet = format!("{locking}/{mode}");
            let connection = fixture.open(&facet);
            assert_eq!(text(&connection, &format!("PRAGMA locking_mode={locking}")), locking);
            assert_eq!(text(&connection, &format!("PRAGMA journal_mode={mode}")), mode);
            steps(&fixture, &connection, &facet);
            check_integrity(&connection);
        }
    }
}

#[test]
fn commit_and_rollback_in_every_journal_and_locking_mode() {
    in_each_mode(|fixture, connection, facet| {
        fill(connection, 100, 50);
        for round in 0..5 {
            connection.execute_batch("BEGIN").unwrap();
            connection.execute("INSERT INTO t(b) VALUES (zeroblob(3000))", []).unwrap();
            connection.execute("DELETE FROM t WHERE a < 50", []).unwrap();
            connection.execute_batch("ROLLBACK").unwrap();
            assert_eq!(number(connection, "SELECT count(*) FROM t"), 100 + round);
            connection.execute("INSERT INTO t(b) VALUES ('x')", []).unwrap();
            let reader = fixture.open(facet);
            assert_eq!(number(&reader, "SELECT count(*) FROM t"), 101 + round);
            check_integrity(&reader);
        }
    });
}

#[test]
fn rollback_after_the_cache_spilled() {
    in_each_mode(|fixture, connection, facet| {
        connection.execute_batch("PRAGMA cache_size=5").unwrap();
        fill(connection, 200, 800);
        let sum = "SELECT sum(a * length(b)) || hex(substr(group_concat(hex(substr(b, 1, 2))), 1, 99)) FROM t";
        let before = text(connection, sum);
        let version = fixture_version(fixture, facet);
        connection.execute_batch("BEGIN; UPDATE t SET b = randomblob(900)").unwrap();
        connection.execute_batch("DELETE FROM t WHERE a % 2 = 0").unwrap();
        fill(connection, 300, 1000);
        // Pages are staged by now, and nobody else sees them.
        let reader = fixture.open(facet);
        assert_eq!(text(&reader, sum), before);
        connection.execute_batch("ROLLBACK").unwrap();
        assert_eq!(text(connection, sum), before);
        check_integrity(connection);
        assert_eq!(fixture_version(fixture, facet), version, "a rollback commits nothing");
        connection.execute("DELETE FROM t WHERE a = 1", []).unwrap();
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), 199);
        check_integrity(&reader);
    });
}

fn fixture_version(fixture: &Fixture, facet: &str) -> u64 {
    let name = lapidary_engine::FacetName::new(facet).unwrap();
    fixture.store().open_facet(&name).unwrap().latest_version().0
}

#[test]
fn a_failed_statement_in_a_transaction_is_taken_back_alone() {
    in_each_mode(|_, connection, _| {
        connection
            .execute_batch(
                "PRAGMA cache_size=5; CREATE TABLE u(a INTEGER PRIMARY KEY, b UNIQUE);
                 INSERT INTO u VALUES (1, 'one');",
            )
            .unwrap();
        connection.execute_batch("BEGIN; INSERT INTO u VALUES (2, 'two')").unwrap();
        connection
            .execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                 INSERT INTO u SELECT i, CASE i WHEN 1999 THEN 'one' ELSE hex(randomblob(100)) END
                 FROM n",
            )
            .unwrap_err();
        connection.execute_batch("COMMIT").unwrap();
        assert_eq!(number(connection, "SELECT sum(a) FROM u"), 3);
    });
}

#[test]
fn savepoints() {
    in_each_mode(|fixture, connection, facet| {
        connection.execute_batch("PRAGMA cache_size=5").unwrap();
        fill(connection, 100, 500);
        connection
            .execute_batch(
                "BEGIN;
                 UPDATE t SET b = zeroblob(600) WHERE a <= 10;
                 SAVEPOINT one;
                 UPDATE t SET b = randomblob(2000);
                 SAVEPOINT two;
                 DELETE FROM t;
                 ROLLBACK TO two;
                 DELETE FROM t WHERE a > 90;
                 ROLLBACK TO one;
                 RELEASE one;
                 UPDATE t SET b = 'kept' WHERE a = 100;
                 COMMIT",
            )
            .unwrap();
        let reader = fixture.open(facet);
        for connection in [connection, &reader] {
            assert_eq!(number(connection, "SELECT count(*) FROM t"), 100);
            assert_eq!(number(connection, "SELECT sum(length(b)) FROM t"), 6000 + 89 * 500 + 4);
        }
    });
}

#[test]
fn vacuum_and_auto_vacuum() {
    for mut fixture in Fixture::each() {
        for (auto_vacuum, facet) in [(0, "none"), (1, "full"), (2, "incremental")] {
            let connection = fixture.open(facet);
            connection.execute_batch(&format!("PRAGMA auto_vacuum={auto_vacuum}")).unwrap();
            fill(&connection, 1000, 500);
            let full = number(&connection, "PRAGMA page_count");
            connection.execute_batch("DELETE FROM t WHERE a > 100").unwrap();
            let after_delete = number(&connection, "PRAGMA page_count");
            assert_eq!(after_delete < full / 2, auto_vacuum == 1, "{facet}: {after_delete}/{full}");
            let mut pragma = connection.prepare("PRAGMA incremental_vacuum").unwrap();
            pragma.query_map([], |_| Ok(())).unwrap().for_each(|row| row.unwrap());
            drop(pragma);
            let after_incremental = number(&connection, "PRAGMA page_count");
            assert_eq!(after_incremental < full / 2, auto_vacuum > 0, "{facet}");
            connection.execute_batch("VACUUM").unwrap();
            assert!(number(&connection, "PRAGMA page_count") < full / 2);
            check_integrity(&connection);
            let reader = fixture.open(facet);
            let pages = number(&reader, "PRAGMA page_count");
            let name = lapidary_engine::FacetName::new(facet).unwrap();
            let info = &fixture.store().list_facets(Some(&name), None, 1).unwrap()[0];
            assert_eq!(i64::from(info.page_count), pages, "the facet shrank with the database");
        }
        fixture.reopen();
        for facet in ["none", "full", "incremental"] {
            let connection = fixture.open(facet);
            assert_eq!(number(&connection, "SELECT count(*) FROM t"), 100);
            check_integrity(&connection);
        }
    }
}

#[test]
fn vacuum_changes_the_page_size() {
    for mut fixture in [Fixture::memory(), Fixture::posix(), Fixture::spilling()] {
        let connection = fixture.open("a");
        connection.execute_batch("PRAGMA page_size=4096").unwrap();
        fill(&connection, 333, 1234);
        let reader = fixture.open("a");
        let sum = "SELECT sum(a) || '/' || sum(length(b)) || hex(max(b)) FROM t";
        let before = text(&connection, sum);
        assert_eq!(text(&reader, sum), before);
        for size in [512, 65536, 1024, 32768, 4096, 8192] {
            connection.execute_batch(&format!("PRAGMA page_size={size}; VACUUM")).unwrap();
            for connection in [&connection, &reader] {
                assert_eq!(text(connection, sum), before);
                assert_eq!(number(connection, "PRAGMA page_size"), size);
                check_integrity(connection);
            }
            let info = &fixture.store().list_facets(None, None, 1).unwrap()[0];
            assert_eq!(info.page_size.unwrap().bytes(), usize::try_from(size).unwrap());
            assert_eq!(i64::from(info.page_count), number(&connection, "PRAGMA page_count"));
            connection.execute("UPDATE t SET b = b WHERE a % 10 = 0", []).unwrap();
        }
        // A rollback in the middle of a change of size leaves the old one.
        connection.execute_batch("PRAGMA page_size=512").unwrap();
        connection.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
        assert_eq!(text(&reader, sum), before);
        drop((connection, reader));
        fixture.reopen();
        let connection = fixture.open("a");
        assert_eq!(text(&connection, sum), before);
        check_integrity(&connection);
    }
}

#[test]
fn vacuum_into_another_facet() {
    let fixture = Fixture::memory();
    let connection = fixture.open("from");
    fill(&connection, 100, 100);
    connection.execute_batch("VACUUM INTO 'a/copy'").unwrap();
    let copy = fixture.open("a/copy");
    assert_eq!(number(&copy, "SELECT count(*) FROM t"), 100);
    check_integrity(&copy);
}

#[test]
fn large_transactions_spill_in_the_engine_and_in_scratch_files() {
    let mut fixture = Fixture::spilling();
    let connection = fixture.open("big");
    connection.execute_batch("PRAGMA cache_size=20; PRAGMA temp_store=file").unwrap();
    fill(&connection, 3000, 1000);
    let before = text(&connection, "SELECT hex(max(b)) FROM t");
    connection.execute_batch("BEGIN; UPDATE t SET b = randomblob(1100); ROLLBACK").unwrap();
    assert_eq!(text(&connection, "SELECT hex(max(b)) FROM t"), before);
    connection
        .execute_batch(
            "CREATE TEMP TABLE copy AS SELECT * FROM t ORDER BY b;
             DELETE FROM t WHERE a <= 1000;
             INSERT INTO t(b) SELECT b FROM copy ORDER BY b DESC LIMIT 10;",
        )
        .unwrap();
    check_integrity(&connection);
    drop(connection);
    fixture.restart();
    let connection = fixture.open("big");
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 2010);
    check_integrity(&connection);
}

#[test]
fn synchronous_settings_change_nothing() {
    let mut fixture = Fixture::memory();
    for setting in ["off", "normal", "full", "extra"] {
        let connection = fixture.open(setting);
        connection.execute_batch(&format!("PRAGMA synchronous={setting}")).unwrap();
        fill(&connection, 10, 10);
    }
    fixture.restart();
    for setting in ["off", "normal", "full", "extra"] {
        assert_eq!(number(&fixture.open(setting), "SELECT count(*) FROM t"), 10, "{setting}");
    }
}

#[test]
fn changing_the_journal_mode_on_the_way() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 10, 10);
    for (count, mode) in (11..).zip(JOURNAL_MODES.iter().cycle().take(12)) {
        assert_eq!(text(&connection, &format!("PRAGMA journal_mode={mode}")), *mode);
        connection.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
        connection.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
        assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), count);
    }
}

#[test]
fn an_uncommitted_transaction_ends_with_its_connection() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 10, 10);
    connection.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
    fill(&connection, 500, 1000);
    drop(connection);
    let connection = fixture.open("a");
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 10);
    connection.execute("DELETE FROM t", []).unwrap();
}

#[test]
fn full_text_and_rtree_tables() {
    let mut fixture = Fixture::posix();
    let connection = fixture.open("a");
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE words USING fts5(body);
             CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO words SELECT 'word' || i || ' common' FROM n;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO boxes SELECT i, i, i + 1, i, i + 1 FROM n;",
        )
        .unwrap();
    drop(connection);
    fixture.reopen();
    let connection = fixture.open("a");
    assert_eq!(number(&connection, "SELECT count(*) FROM words('common')"), 300);
    assert_eq!(number(&connection, "SELECT count(*) FROM boxes WHERE x0 < 10"), 9);
    check_integrity(&connection);
}
