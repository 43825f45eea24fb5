//! Root hashes of real databases: equal for equal content, wherever it is.

use std::path::Path;

use lapidary_engine::{FacetName, ForkFrom, RootHash, View};
use lapidary_vfs::{ROOT_HASH_MASK, root_hash_of_file};
use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::fixture::{Fixture, number};

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

fn hash(fixture: &Fixture, facet: &str) -> RootHash {
    let facet = fixture.store().open_facet(&name(facet)).unwrap();
    facet.snapshot(View::Durable).unwrap().root_hash(&ROOT_HASH_MASK).unwrap()
}

fn run(connection: &Connection, first: u32, last: u32) {
    for n in first..=last {
        connection
            .execute("INSERT INTO t(a, b) VALUES (?1, zeroblob(?1 * 37 % 3000))", [n])
            .unwrap();
    }
}

fn export(from: &Connection, path: &Path) -> Connection {
    let page_size = number(from, "PRAGMA page_size");
    let mut to = Connection::open(path).unwrap();
    to.execute_batch(&format!("PRAGMA page_size={page_size}")).unwrap();
    Backup::new(from, &mut to).unwrap().step(-1).unwrap();
    to
}

#[test]
fn the_same_statements_make_the_same_hash() {
    let mut fixture = Fixture::memory();
    let (one, two) = (fixture.open("one"), fixture.open("two"));
    for connection in [&one, &two] {
        connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b)").unwrap();
    }
    assert_eq!(hash(&fixture, "one"), hash(&fixture, "two"));
    run(&one, 1, 100);
    assert_ne!(hash(&fixture, "one"), hash(&fixture, "two"));
    // In one transaction, and in a mode in which the change counter stands still.
    two.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN").unwrap();
    run(&two, 1, 100);
    two.execute_batch("COMMIT").unwrap();
    let same = hash(&fixture, "one");
    assert_eq!(hash(&fixture, "two"), same);
    // Another version, with the same content.
    two.execute_batch("UPDATE t SET b = b; BEGIN; DELETE FROM t; ROLLBACK").unwrap();
    assert_eq!(hash(&fixture, "two"), same);
    two.execute_batch("UPDATE t SET b = x'01' WHERE a = 50").unwrap();
    assert_ne!(hash(&fixture, "two"), same);

    drop((one, two));
    fixture.reopen();
    assert_eq!(hash(&fixture, "one"), same);
}

#[test]
fn the_past_and_forks_keep_it() {
    let fixture = Fixture::keeping_history();
    let connection = fixture.open("a");
    connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b)").unwrap();
    run(&connection, 1, 50);
    let old = hash(&fixture, "a");
    let facet = fixture.store().open_facet(&name("a")).unwrap();
    let bookmark = facet.bookmark().unwrap();
    connection.execute_batch("DELETE FROM t WHERE a > 3; VACUUM").unwrap();
    let new = hash(&fixture, "a");
    assert_ne!(new, old);

    fixture.store().fork_facet(&name("a"), &name("fork"), ForkFrom::Latest).unwrap();
    fixture.store().fork_facet(&name("a"), &name("past"), ForkFrom::Bookmark(bookmark)).unwrap();
    let undo = facet.restore(&bookmark).unwrap().undo;
    fixture.store().flush().unwrap();
    assert_eq!(hash(&fixture, "fork"), new);
    assert_eq!(hash(&fixture, "past"), old);
    assert_eq!(hash(&fixture, "a"), old, "restored");
    facet.restore(&undo).unwrap();
    fixture.store().flush().unwrap();
    assert_eq!(hash(&fixture, "a"), new, "and back");
    let fork = fixture.open("fork");
    run(&fork, 100, 100);
    assert_ne!(hash(&fixture, "fork"), new);
    assert_eq!(hash(&fixture, "a"), new);
}

#[test]
fn an_exported_file_has_it_too() {
    let directory = tempfile::tempdir().unwrap();
    for page_size in [512, 4096, 65536] {
        let fixture = Fixture::spilling();
        let connection = fixture.open("a");
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; CREATE TABLE t(a INTEGER PRIMARY KEY, b)"
            ))
            .unwrap();
        run(&connection, 1, 200);
        let path = directory.path().join(format!("{page_size}.sqlite"));
        let file = export(&connection, &path);
        assert_eq!(root_hash_of_file(&path).unwrap(), hash(&fixture, "a"), "{page_size}");
        // Back into another facet.
        let mut again = fixture.open("again");
        Backup::new(&file, &mut again).unwrap().step(-1).unwrap();
        assert_eq!(hash(&fixture, "again"), hash(&fixture, "a"), "{page_size}");

        file.execute_batch("UPDATE t SET b = 1 WHERE a = 1").unwrap();
        assert_ne!(root_hash_of_file(&path).unwrap(), hash(&fixture, "a"));
        connection.execute_batch("UPDATE t SET b = 1 WHERE a = 1").unwrap();
        assert_eq!(root_hash_of_file(&path).unwrap(), hash(&fixture, "a"), "the same change");
    }
}

/// The schema cookie is content: statements that are prepared depend on it. The backup interface
/// sets one of its own, as the documentation of the mask says.
#[test]
fn the_backup_interface_changes_the_schema_cookie() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    connection.execute_batch("CREATE TABLE t(a, b); CREATE TABLE u(a); CREATE TABLE v(a)").unwrap();
    let path = directory.path().join("a.sqlite");
    let file = export(&connection, &path);
    assert_ne!(root_hash_of_file(&path).unwrap(), hash(&fixture, "a"));
    let cookie = number(&connection, "PRAGMA schema_version");
    file.execute_batch(&format!("PRAGMA schema_version={cookie}")).unwrap();
    assert_eq!(root_hash_of_file(&path).unwrap(), hash(&fixture, "a"));
}

/// What SQL cannot see is content as well.
#[test]
fn rows_alone_do_not_make_it() {
    let fixture = Fixture::memory();
    let (one, two) = (fixture.open("one"), fixture.open("two"));
    for connection in [&one, &two] {
        connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b)").unwrap();
        run(connection, 1, 20);
    }
    run(&two, 21, 40);
    two.execute_batch("DELETE FROM t WHERE a > 20").unwrap();
    let (left, right) = (hash(&fixture, "one"), hash(&fixture, "two"));
    assert_ne!(left, right, "free pages have something in them");
}

#[test]
fn a_file_in_wal_mode_is_refused_until_it_is_settled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sqlite");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b)").unwrap();
    run(&connection, 1, 10);
    let before = root_hash_of_file(&path).unwrap();
    let mode: String =
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    run(&connection, 11, 11);
    let error = root_hash_of_file(&path).unwrap_err().to_string();
    assert!(error.contains("a.sqlite-wal"), "{error}");
    connection.execute_batch("DELETE FROM t WHERE a = 11").unwrap();
    drop(connection);
    // Closing has put it all into the file, which is marked as being in WAL mode.
    assert_eq!(std::fs::read(&path).unwrap()[18..20], [2, 2]);
    let after = root_hash_of_file(&path).unwrap();
    let fixture = Fixture::memory();
    let facet = fixture.open("a");
    facet.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b)").unwrap();
    run(&facet, 1, 10);
    assert_eq!(hash(&fixture, "a"), before);
    run(&facet, 11, 11);
    facet.execute_batch("DELETE FROM t WHERE a = 11").unwrap();
    assert_eq!(hash(&fixture, "a"), after);
}
