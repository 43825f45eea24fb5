//! A page damaged on the disk, met by SQL: an error that names it, and only where it is needed.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::Arc;

use lapidary_engine::{Background, Environment, FileName, Store, StoreOptions};
use lapidary_tests::differential::outcome::{Outcome, run};
use lapidary_tests::sim_disk::SimDisk;
use lapidary_vfs::{Registration, VfsOptions, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

fn register(disk: &SimDisk, vfs: &str, create: bool) -> Arc<Registration> {
    let options =
        StoreOptions { create, background: Background::Manual, ..StoreOptions::default() };
    let store = Store::open(Environment::with_io(Arc::new(disk.clone())), options).unwrap();
    Registration::register(vfs, store, VfsOptions::default()).unwrap()
}

fn open(registration: &Registration, facet: &str) -> Connection {
    let vfs = registration.name();
    Connection::open_with_flags_and_vfs(facet, OpenFlags::default(), vfs).unwrap()
}

const NEIGHBOURS: [&str; 2] = ["tenant/before", "tenant/damaged/below"];

#[test]
fn a_damaged_page_fails_what_needs_it_and_nothing_else() {
    let disk = SimDisk::new(1);
    let registration = register(&disk, "damage", true);
    for (facet, byte) in [(NEIGHBOURS[0], 'a'), ("tenant/damaged", 'd'), (NEIGHBOURS[1], 'b')] {
        open(&registration, facet)
            .execute_batch(&format!(
                "CREATE TABLE small(n); INSERT INTO small VALUES (1);
                 CREATE TABLE large(n INTEGER PRIMARY KEY, body TEXT);
                 INSERT INTO large VALUES (1, 'one'), (2, printf('%.*c', 20000, '{byte}'))"
            ))
            .unwrap();
    }
    registration.store().checkpoint().unwrap();
    registration.store().close().unwrap();
    drop(registration);
    // The last page of the long value, which no other row is on.
    let mut found = 0;
    for file in disk.files().into_iter().filter(|file| *file != FileName::Superblock) {
        disk.change(file, |bytes| {
            if let Some(at) = bytes.windows(3000).rposition(|window| window == [b'd'; 3000]) {
                bytes[at + 7] ^= 1;
                found += 1;
            }
        });
    }
    assert!(found > 0);

    let registration = register(&disk, "damage", false);
    let connection = open(&registration, "tenant/damaged");
    for sql in [
        "SELECT sum(length(body)) FROM large WHERE body LIKE '%x'",
        "UPDATE large SET body = body || 'x' WHERE n = 2",
        "VACUUM",
        "CREATE INDEX i ON large(body)",
    ] {
        let Outcome { error, .. } = run(&connection, sql);
        assert_eq!(error.unwrap().code, ffi::SQLITE_IOERR_DATA, "{sql}");
        let words = take_last_error().unwrap();
        for word in ["tenant/damaged", "page ", "segment", "offset", "is damaged"] {
            assert!(words.contains(word), "{sql}: no {word:?} in: {words}");
        }
    }
    let works = |connection: &Connection, sql: &str| {
        let Outcome { error, .. } = run(connection, sql);
        assert_eq!(error, None, "{sql}: {:?}", take_last_error());
    };
    for sql in [
        "SELECT n FROM small",
        "SELECT body FROM large WHERE n = 1",
        "INSERT INTO small VALUES (2)",
        "INSERT INTO large VALUES (3, 'three')",
    ] {
        works(&connection, sql);
    }
    for facet in NEIGHBOURS {
        let neighbour = open(&registration, facet);
        let check: String =
            neighbour.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{facet}");
        works(&neighbour, "UPDATE large SET body = body || 'x'");
        works(&neighbour, "VACUUM");
    }
}
