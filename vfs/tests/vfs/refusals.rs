//! What a facet does not do, and how it says so.

use lapidary_engine::FacetName;
use lapidary_vfs::{close_connection, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

#[test]
fn wal_is_declined() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 10, 10);
    assert_eq!(text(&connection, "PRAGMA journal_mode=WAL"), "delete");
    assert_eq!(text(&connection, "PRAGMA journal_mode=memory"), "memory");
    assert_eq!(text(&connection, "PRAGMA journal_mode=WAL"), "memory");
    connection.execute("DELETE FROM t WHERE a = 1", []).unwrap();

    // In exclusive mode SQLite would do without shared memory, and write WAL into the header.
    assert_eq!(text(&connection, "PRAGMA locking_mode=exclusive"), "exclusive");
    let error = connection.pragma_update(None, "journal_mode", "wal").unwrap_err();
    assert!(error.to_string().contains("WAL mode is refused"), "{error}");
    connection.execute("DELETE FROM t WHERE a = 2", []).unwrap();
    check_integrity(&connection);
    let reader = fixture.open("a");
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 8);
    assert_eq!(text(&reader, "PRAGMA journal_mode"), "delete");
}

/// Pragmas without a schema are shown to the main database alone, which here is not a facet. What
/// they do to the others is refused when it is committed.
#[test]
fn wal_is_refused_on_an_attached_facet() {
    let fixture = Fixture::memory();
    fill(&fixture.open("a"), 10, 10);
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("ATTACH 'file:a?vfs={}' AS facet", fixture.vfs())).unwrap();
    connection.execute_batch("PRAGMA locking_mode=exclusive").unwrap();
    let mut pragma = connection.prepare("PRAGMA journal_mode=WAL").unwrap();
    let answer: Result<Vec<String>, _> = pragma.query_map([], |row| row.get(0)).unwrap().collect();
    let error = answer.unwrap_err();
    assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{error}");
    assert!(take_last_error().unwrap().contains("facet a: WAL mode is refused"));
    drop(pragma);
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 10);

    connection.execute("DELETE FROM facet.t WHERE a = 1", []).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM facet.t"), 9);
    let reader = fixture.open("a");
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 9);
    check_integrity(&reader);
}

#[test]
fn a_wal_database_is_not_copied_in() {
    let directory = tempfile::tempdir().unwrap();
    let from = Connection::open(directory.path().join("wal.db")).unwrap();
    assert_eq!(text(&from, "PRAGMA journal_mode=WAL"), "wal");
    fill(&from, 10, 10);
    let fixture = Fixture::memory();
    let mut into = fixture.open("a");
    let backup = rusqlite::backup::Backup::new(&from, &mut into).unwrap();
    let error = backup.step(-1).unwrap_err();
    assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{error}");
    assert!(take_last_error().unwrap().contains("WAL mode is refused"));
    drop(backup);
    assert_eq!(number(&into, "SELECT count(*) FROM sqlite_schema"), 0);
    fill(&into, 10, 10);
    check_integrity(&fixture.open("a"));
}

#[test]
fn journal_mode_off_is_refused() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 10, 10);
    for value in ["OFF", "off", "'Off'", "of", "o"] {
        for pragma in ["journal_mode", "main.journal_mode"] {
            let error = connection.execute_batch(&format!("PRAGMA {pragma}={value}")).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("journal_mode=OFF is refused"), "{pragma}={value}: {message}");
        }
    }
    assert_eq!(text(&connection, "PRAGMA journal_mode"), "delete");
    connection.execute("DELETE FROM t WHERE a = 1", []).unwrap();
}

/// `PRAGMA journal_mode=OFF` sets the mode of every attached database, but is shown to the main one
/// alone, which here is not a facet.
#[test]
fn journal_mode_off_on_an_attached_facet_is_refused_at_the_first_write() {
    let fixture = Fixture::memory();
    fill(&fixture.open("a"), 10, 10);
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("ATTACH 'file:a?vfs={}' AS facet", fixture.vfs())).unwrap();
    connection.execute_batch("PRAGMA journal_mode=OFF").unwrap();
    assert_eq!(text(&connection, "PRAGMA facet.journal_mode"), "off");
    let error = connection.execute("DELETE FROM facet.t WHERE a = 1", []).unwrap_err();
    assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{error}");
    assert!(take_last_error().unwrap().contains("facet a: journal_mode=OFF is refused"));
    assert_eq!(number(&connection, "SELECT count(*) FROM facet.t"), 10);
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 10);

    connection.execute_batch("PRAGMA facet.journal_mode=MEMORY").unwrap();
    connection.execute("DELETE FROM facet.t WHERE a = 1", []).unwrap();
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 9);
}

/// One transaction over a facet and a database in a file: whichever of the two is the main one.
#[test]
fn transactions_over_facets_and_files_are_refused_whole() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::memory();
    for mode in ["delete", "truncate", "persist"] {
        for main_is_facet in [true, false] {
            for small_cache in [true, false] {
                let name = format!("{mode}{main_is_facet}{small_cache}");
                let file = directory.path().join(&name);
                let vfs = fixture.vfs();
                let (main, other) = if main_is_facet {
                    (fixture.open(&name), format!("file:{}?vfs=unix", file.display()))
                } else {
                    (Connection::open(&file).unwrap(), format!("file:{name}?vfs={vfs}"))
                };
                let again = || Connection::open(&other).unwrap();
                main.pragma_update(None, "journal_mode", mode).unwrap();
                fill(&main, 100, 500);
                main.execute_batch(&format!(
                    "ATTACH '{other}' AS other; PRAGMA other.journal_mode={mode};
                     CREATE TABLE other.u(a INTEGER PRIMARY KEY, b);
                     INSERT INTO other.u SELECT * FROM main.t;",
                ))
                .unwrap();
                if small_cache {
                    main.execute_batch("PRAGMA main.cache_size=2; PRAGMA other.cache_size=2")
                        .unwrap();
                }
                main.execute_batch("BEGIN; DELETE FROM t; UPDATE u SET b = zeroblob(600)").unwrap();
                main.execute_batch("COMMIT").unwrap_err();
                let words = take_last_error().unwrap();
                assert!(words.contains("facets and files"), "{words}");
                let _ = main.execute_batch("ROLLBACK");

                assert_eq!(number(&main, "SELECT sum(length(b)) FROM t"), 50_000);
                assert_eq!(number(&main, "SELECT sum(length(b)) FROM u"), 50_000);
                let other = again();
                assert_eq!(number(&other, "SELECT sum(length(b)) FROM u"), 50_000);
                // Each by itself is fine, also now.
                main.execute("DELETE FROM t WHERE a = 1", []).unwrap();
                main.execute("DELETE FROM u WHERE a = 1", []).unwrap();
                assert_eq!(number(&other, "SELECT count(*) FROM u"), 99);
                for connection in [&main, &other] {
                    check_integrity(connection);
                }
            }
        }
    }
}

/// With a journal in memory SQLite uses no super-journal of its own accord, but hands one on.
#[test]
fn a_super_journal_for_others_is_refused_at_the_sync() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::memory();
    let main = Connection::open(directory.path().join("one.db")).unwrap();
    let second = directory.path().join("two.db");
    main.execute_batch(&format!(
        "ATTACH '{}' AS second; ATTACH 'file:a?vfs={}' AS facet; PRAGMA facet.journal_mode=MEMORY;
         CREATE TABLE main.x(n); CREATE TABLE second.y(n); CREATE TABLE facet.z(n);
         BEGIN; INSERT INTO x VALUES (1); INSERT INTO y VALUES (1); INSERT INTO z VALUES (1)",
        second.display(),
        fixture.vfs(),
    ))
    .unwrap();
    main.execute_batch("COMMIT").unwrap_err();
    assert!(take_last_error().unwrap().contains("facets and files"));
    let _ = main.execute_batch("ROLLBACK");
    for table in ["x", "y", "z"] {
        assert_eq!(number(&main, &format!("SELECT count(*) FROM {table}")), 0);
    }
    main.execute_batch("INSERT INTO z VALUES (1)").unwrap();
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM z"), 1);
}

#[test]
fn exclusive_locking_is_refused_on_a_read_only_connection() {
    let fixture = Fixture::memory();
    let writer = fixture.open("a");
    fill(&writer, 10, 10);
    let reader = fixture.try_open("a", OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    for sql in ["PRAGMA locking_mode=exclusive", "PRAGMA main.locking_mode=EXCLUSIVE"] {
        let error = reader.execute_batch(sql).unwrap_err();
        assert!(error.to_string().contains("refused on a read-only connection"), "{error}");
    }
    assert_eq!(text(&reader, "PRAGMA locking_mode=NORMAL"), "normal");
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 10);
    writer.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 9);
}

/// As the crate's documentation has it.
#[test]
fn exclusive_locking_keeps_the_snapshot_of_a_read_until_it_ends() {
    let fixture = Fixture::memory();
    let other = fixture.open("a");
    fill(&other, 10, 10);
    let keeper = fixture.open("a");
    keeper.busy_timeout(std::time::Duration::ZERO).unwrap();
    assert_eq!(text(&keeper, "PRAGMA locking_mode=EXCLUSIVE"), "exclusive");
    assert_eq!(number(&keeper, "SELECT count(*) FROM t"), 10);
    other.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    assert_eq!(number(&keeper, "SELECT count(*) FROM t"), 10);
    let error = keeper.execute("DELETE FROM t WHERE a = 2", []).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY);
    assert_eq!(text(&keeper, "PRAGMA locking_mode=NORMAL"), "normal");
    number(&keeper, "SELECT count(*) FROM t");
    assert_eq!(number(&keeper, "SELECT count(*) FROM t"), 9);
    keeper.execute("DELETE FROM t WHERE a = 2", []).unwrap();
}

#[test]
fn a_gate_does_not_open_a_database_in_memory() {
    let fixture = Fixture::memory();
    let name = FacetName::new(":memory:").unwrap();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let error = fixture.registration().gate(0).open(&name, flags).unwrap_err();
    assert!(error.to_string().contains("choose another"), "{error}");
    assert!(!fixture.exists(":memory:"));
}

#[test]
fn a_connection_is_closed_though_statements_were_forgotten() {
    let fixture = Fixture::memory();
    for (schema, used) in [
        ("CREATE TABLE u(a)", "INSERT INTO u VALUES (1)"),
        ("CREATE VIRTUAL TABLE u USING fts5(a)", "INSERT INTO u VALUES ('one')"),
        ("CREATE VIRTUAL TABLE u USING rtree(a, b, c)", "INSERT INTO u VALUES (1, 2, 3)"),
    ] {
        let connection = fixture.open("a");
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; DROP TABLE IF EXISTS u").unwrap();
        connection.execute_batch(schema).unwrap();
        connection.execute_batch(used).unwrap();
        drop(connection.prepare_cached("SELECT 1").unwrap());
        drop(connection.prepare_cached("SELECT a FROM u").unwrap());
        assert!(close_connection(connection), "{schema}: nothing was forgotten");

        let connection = fixture.open("a");
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
        connection.execute_batch("BEGIN; CREATE TABLE not_committed(a)").unwrap();
        let mut busy = connection.prepare("SELECT a FROM u").unwrap();
        assert!(busy.query(()).unwrap().next().unwrap().is_some());
        let mut running = connection.prepare("SELECT a FROM u").unwrap();
        let mut rows = running.query(()).unwrap();
        rows.next().unwrap().unwrap();
        std::mem::forget(rows);
        std::mem::forget(running);
        std::mem::forget(busy);
        std::mem::forget(connection.prepare_cached("SELECT 3").unwrap());
        assert!(!close_connection(connection), "{schema}: three were forgotten");

        let other = fixture.open("a");
        assert_eq!(number(&other, "SELECT count(*) FROM u"), 1, "{schema}");
        assert!(other.prepare("SELECT * FROM not_committed").is_err(), "{schema}");
        other.execute(used.replace("(1,", "(2,").as_str(), ()).unwrap();
    }
}
