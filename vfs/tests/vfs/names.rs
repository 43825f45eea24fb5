//! Names, URIs and ways of opening.

use lapidary_engine::FacetName;
use lapidary_vfs::{Registration, VfsError, VfsOptions, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

fn refusal(result: rusqlite::Result<Connection>) -> (i32, String) {
    let error = result.map(drop).unwrap_err();
    (code(&error) & 0xff, take_last_error().expect("the words are kept"))
}

#[test]
fn bad_names_are_refused_with_the_rule_they_break() {
    let fixture = Fixture::memory();
    let deep = ["d"; 17].join("/");
    let long = "x".repeat(513);
    for (name, words) in [
        ("/a", "starts with a slash"),
        ("a/", "ends with a slash"),
        ("a//b", "empty level"),
        ("a/../b", "'..'"),
        ("./a", "'.'"),
        ("a\nb", "control character"),
        (&deep, "16 levels"),
        (&long, "512 bytes"),
        ("file:///a", "starts with a slash"),
    ] {
        let (code, message) = refusal(fixture.try_open(name, OpenFlags::default()));
        assert_eq!(code, ffi::SQLITE_CANTOPEN, "{name:?}");
        assert!(message.contains(words), "{name:?}: {message}");
    }
    assert!(fixture.store().list_facets(None, None, 10).unwrap().is_empty());
}

#[test]
fn the_longest_and_the_strangest_names() {
    let mut fixture = Fixture::memory();
    let longest = format!("{}/{}", "x".repeat(255), "ü".repeat(128));
    assert_eq!(longest.len(), 512);
    let deepest = ["d"; 16].join("/");
    let names = [
        longest.as_str(),
        &deepest,
        "with space",
        "Zürich/東京",
        "a?b#c%20d&e=f",
        "'quoted\"name",
        "x-journal",
        "x",
        "x-wal",
        "x-mj12345690A",
        ":memory",
    ];
    for name in names {
        let connection = fixture
            .try_open(
                name,
                OpenFlags::SQLITE_OPEN_READ_WRITE
                    | OpenFlags::SQLITE_OPEN_CREATE
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )
            .unwrap();
        connection.execute_batch("PRAGMA journal_mode=PERSIST; PRAGMA cache_size=2").unwrap();
        fill(&connection, 100, 200);
        connection.execute_batch("BEGIN; UPDATE t SET b = 1; ROLLBACK; VACUUM").unwrap();
        connection.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
        assert!(fixture.exists(name), "{name}");
    }
    fixture.reopen();
    for name in names {
        let connection = fixture.try_open(name, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        assert_eq!(number(&connection, "SELECT sum(length(b)) FROM t"), 20_000, "{name}");
        check_integrity(&connection);
    }
    assert_eq!(fixture.store().list_facets(None, None, 100).unwrap().len(), names.len());
}

#[test]
fn uris() {
    let fixture = Fixture::memory();
    let vfs = fixture.vfs();
    let open = |uri: String| Connection::open(uri);
    let connection = open(format!("file:tenants/a%20b?vfs={vfs}")).unwrap();
    fill(&connection, 3, 3);
    assert!(fixture.exists("tenants/a b"));
    assert_eq!(number(&fixture.open("tenants/a b"), "SELECT count(*) FROM t"), 3);

    let reader = open(format!("file:tenants/a%20b?vfs={vfs}&mode=ro&nolock=0")).unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 3);
    let error = reader.execute("DELETE FROM t", []).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_READONLY);

    for (parameters, words) in [
        ("nolock=1", "`nolock` is refused"),
        ("nolock=yes", "`nolock` is refused"),
        ("immutable=1", "`immutable` is refused"),
        ("at=xyz", "no such facet"),
        ("lapidary_at=1", "`lapidary_at` is refused"),
        ("Lapidary", "`Lapidary` is refused"),
        ("AT=1", "`AT` is refused"),
        ("lapidary_gate=guess", "no gate has this token"),
    ] {
        let (code, message) = refusal(open(format!("file:a?vfs={vfs}&{parameters}")));
        assert_eq!(code, ffi::SQLITE_CANTOPEN, "{parameters}");
        assert!(message.contains(words), "{parameters}: {message}");
    }
    assert!(!fixture.exists("a"), "what is refused creates nothing");

    let (code, message) = refusal(open(format!("file:missing?vfs={vfs}&mode=rw")));
    assert_eq!(code, ffi::SQLITE_CANTOPEN);
    assert!(message.contains("facet missing: no such facet"), "{message}");
    assert!(message.contains("SQLITE_OPEN_CREATE"), "{message}");
}

#[test]
fn attach_by_uri_and_between_file_systems() {
    let fixture = Fixture::memory();
    let vfs = fixture.vfs();
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("ATTACH 'file:a/b?vfs={vfs}' AS facet")).unwrap();
    connection.execute_batch("CREATE TABLE facet.t(x); INSERT INTO t VALUES (1)").unwrap();
    connection.execute_batch("DETACH facet").unwrap();
    assert_eq!(number(&fixture.open("a/b"), "SELECT count(*) FROM t"), 1);
}

#[test]
fn exclusive_creation() {
    let fixture = Fixture::memory();
    let flags = OpenFlags::default() | OpenFlags::from_bits_retain(ffi::SQLITE_OPEN_EXCLUSIVE);
    // SQLite keeps the flag from a main database, so it makes no difference here.
    fill(&fixture.try_open("a", flags).unwrap(), 1, 1);
    assert_eq!(number(&fixture.try_open("a", flags).unwrap(), "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_read_only_connection_sees_what_others_commit() {
    let fixture = Fixture::memory();
    let writer = fixture.open("a");
    fill(&writer, 1, 1);
    let reader = fixture.try_open("a", OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    for count in 1..5 {
        assert_eq!(number(&reader, "SELECT count(*) FROM t"), count);
        writer.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
    }
}

#[test]
fn a_facet_deleted_or_renamed_under_an_open_handle() {
    let fixture = Fixture::memory();
    let name = |text: &str| FacetName::new(text).unwrap();
    let connection = fixture.open("a/b");
    fill(&connection, 10, 10);
    fixture.store().rename_facet(&name("a"), &name("c")).unwrap();
    connection.execute("DELETE FROM t WHERE a = 1", []).unwrap();
    assert_eq!(number(&fixture.open("c/b"), "SELECT count(*) FROM t"), 9);

    let reader = fixture.open("c/b");
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 9);
    connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM t").unwrap();
    fixture.store().delete_facet(&name("c/b")).unwrap();
    let error = connection.execute_batch("COMMIT").unwrap_err();
    assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{error}");
    assert!(take_last_error().unwrap().contains("facet c/b: was deleted"));
    for connection in [&connection, &reader] {
        let _ = connection.execute_batch("ROLLBACK");
        let error = connection.execute_batch("SELECT * FROM t").unwrap_err();
        assert_eq!(code(&error), ffi::SQLITE_IOERR_VNODE);
        assert!(take_last_error().unwrap().contains("facet c/b: was deleted"));
    }
    // The name is free for another facet, which the old handles have nothing to do with.
    let new = fixture.open("c/b");
    assert_eq!(number(&new, "SELECT count(*) FROM sqlite_schema"), 0);
    assert!(connection.execute_batch("SELECT 1 FROM t").is_err());
}

#[test]
fn registering_and_leaving() {
    let fixture = Fixture::memory();
    let store = fixture.store();
    let again = Registration::register(fixture.vfs(), store.clone(), VfsOptions::default());
    assert!(matches!(again, Err(VfsError::NameTaken { .. })));
    let unix = Registration::register("unix", store.clone(), VfsOptions::default());
    assert!(unix.unwrap_err().to_string().contains("\"unix\" is taken"));
    let bad = Registration::register("no spaces", store.clone(), VfsOptions::default());
    assert!(matches!(bad, Err(VfsError::InvalidVfsName { .. })));

    // One store under two names; the second leaves when its last connection does.
    let second = Registration::register("second", store.clone(), VfsOptions::default()).unwrap();
    assert_eq!(second.name(), "second");
    let flags = OpenFlags::default();
    let connection = Connection::open_with_flags_and_vfs("a", flags, "second").unwrap();
    drop(second);
    fill(&connection, 5, 5);
    assert_eq!(number(&fixture.open("a"), "SELECT count(*) FROM t"), 5);
    drop(connection);
    assert!(Connection::open_with_flags_and_vfs("a", flags, "second").is_err());
    let store = store.clone();
    drop(Registration::register("second", store, VfsOptions::default()).unwrap());
}

#[test]
fn time_and_randomness_are_real() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    let seconds = number(&connection, "SELECT CAST(strftime('%s', 'now') AS INTEGER)");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(seconds.abs_diff(i64::try_from(now.as_secs()).unwrap()) < 60);
    assert_ne!(
        text(&connection, "SELECT hex(randomblob(16))"),
        text(&connection, "SELECT hex(randomblob(16))")
    );
}
