//! The VFS that opens stores by their paths.

use std::sync::Arc;

use lapidary_vfs::{PathVfs, VfsError, VfsOptions, take_last_error};
use rusqlite::{Connection, ErrorCode, ffi};

use crate::fixture::{code, number, text};

/// Directory of stores, with a VFS of that name.
struct Stores {
    vfs: PathVfs,
    name: &'static str,
    directory: tempfile::TempDir,
}

impl Stores {
    fn new(name: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let default = directory.path().join("default");
        let vfs = PathVfs::register(name, Some(default), VfsOptions::default()).unwrap();
        Self { vfs, name, directory }
    }

    fn uri(&self, store: &str, facet: &str) -> String {
        let store = self.directory.path().join(store);
        format!("file:{facet}?vfs={}&store={}", self.name, store.display())
    }

    fn open(&self, store: &str, facet: &str) -> Connection {
        Connection::open(self.uri(store, facet)).unwrap()
    }
}

#[test]
fn a_store_is_shared_and_closed_with_the_last_connection() {
    let stores = Stores::new("paths-shared");
    let one = stores.open("s", "a");
    one.execute_batch("CREATE TABLE t(x)").unwrap();
    let two = stores.open("s", "/x/../a");
    two.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 1);

    let (first, second) =
        (stores.vfs.opened_facet(&one, "main"), stores.vfs.opened_facet(&two, "main"));
    let store = Arc::clone(first.as_ref().unwrap().store.store());
    assert!(Arc::ptr_eq(&store, second.as_ref().unwrap().store.store()));
    assert!(stores.vfs.opened_facet(&one, "temp").is_none());
    assert!(stores.vfs.opened_facet(&one, "nothing").is_none());
    let memory = Connection::open_in_memory().unwrap();
    assert!(stores.vfs.opened_facet(&memory, "main").is_none());

    drop((one, two, first));
    assert!(store.flush().is_ok(), "a use is left");
    drop(second);
    assert!(store.checkpoint().is_err(), "closed");
    let again = stores.open("s", "a");
    assert_eq!(number(&again, "SELECT count(*) FROM t"), 1);
}

#[test]
fn facets_of_one_store_are_committed_together_and_of_two_not() {
    let stores = Stores::new("paths-groups");
    let a = stores.open("one", "a");
    for (schema, uri) in [
        ("b", stores.uri("one", "b")),
        ("other", stores.uri("two", "a")),
        ("plain", format!("file:{}?vfs=unix", stores.directory.path().join("f").display())),
    ] {
        a.execute_batch(&format!("ATTACH '{uri}' AS {schema}; CREATE TABLE {schema}.t(x)"))
            .unwrap();
    }
    a.execute_batch("CREATE TABLE t(x)").unwrap();
    let insert = |schema: &str| format!("INSERT INTO {schema}.t VALUES (1);");
    let transaction = |schemas: &[&str]| {
        let inserts: String = schemas.iter().map(|schema| insert(schema)).collect();
        a.execute_batch(&format!("BEGIN; {inserts} COMMIT"))
    };
    let counts = || {
        ["main", "b", "other", "plain"]
            .map(|schema| number(&a, &format!("SELECT count(*) FROM {schema}.t")))
    };

    let store = stores.vfs.opened_facet(&a, "main").unwrap().store;
    let before = store.store().current_ticket().lsn();
    transaction(&["main", "b"]).unwrap();
    assert_eq!(store.store().current_ticket().lsn().0, before.0 + 1, "one record");
    assert_eq!(counts(), [1, 1, 0, 0]);
    for schemas in
        [&["main", "other"][..], &["b", "other"], &["main", "plain"], &["main", "b", "other"]]
    {
        let error = transaction(schemas).unwrap_err();
        assert_eq!(code(&error) & 0xff, ffi::SQLITE_IOERR, "{schemas:?}");
        assert!(take_last_error().unwrap().contains("several stores"), "{schemas:?}");
        if !a.is_autocommit() {
            a.execute_batch("ROLLBACK").unwrap();
        }
        assert_eq!(counts(), [1, 1, 0, 0], "{schemas:?}");
    }
    transaction(&["other"]).unwrap();
    transaction(&["plain"]).unwrap();
    assert_eq!(counts(), [1, 1, 1, 1]);
}

#[test]
fn refusals() {
    let stores = Stores::new("paths-refusals");
    let held = stores.directory.path().join("held");
    let environment = lapidary_engine::Environment::system(&held);
    let options = lapidary_engine::StoreOptions::create();
    let _holder = lapidary_engine::Store::open(environment, options).unwrap();
    let error = Connection::open(stores.uri("held", "a")).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    assert!(take_last_error().unwrap().contains("is locked by another process"));

    assert!(matches!(stores.vfs.default_store(), Err(VfsError::Store(_))), "not created by that");
    assert!(matches!(PathVfs::facet_name(".."), Err(VfsError::InvalidPath(_))));
    let default = Connection::open(format!("file:a?vfs={}", stores.name)).unwrap();
    default.execute_batch("CREATE TABLE t(x)").unwrap();
    assert_eq!(text(&default, "PRAGMA integrity_check"), "ok");
    assert!(stores.vfs.default_store().is_ok());

    let none = PathVfs::register("paths-none", None, VfsOptions::default()).unwrap();
    assert!(matches!(none.default_store(), Err(VfsError::NoStoreNamed)));
    assert!(Connection::open("file:a?vfs=paths-none").is_err());
    assert!(take_last_error().unwrap().contains("no store is named"));
    let taken = PathVfs::register("paths-none", None, VfsOptions::default());
    assert!(matches!(taken, Err(VfsError::NameTaken { .. })));
}
