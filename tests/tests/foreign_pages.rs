//! Facets that hold what no SQLite wrote: damaged databases, other files, random bytes. SQLite meets
//! the same bytes in an ordinary file, and says the same of both. Their neighbours are not concerned.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::path::Path;

use lapidary_engine::{FacetName, PageNo, PageSize, Store};
use lapidary_tests::chance::Chance;
use lapidary_tests::differential::outcome::run;
use lapidary_tests::small_store;
use lapidary_vfs::{Registration, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

/// What is asked of each. The last ones change things, and rewrite all.
const STATEMENTS: [&str; 12] = [
    "SELECT count(*), sum(length(b)), min(b) FROM t",
    "SELECT a FROM t WHERE b > 'm' ORDER BY b LIMIT 9",
    "SELECT type, name, sql FROM sqlite_schema",
    "PRAGMA quick_check",
    "PRAGMA integrity_check",
    "PRAGMA page_count",
    "UPDATE t SET b = b || 'x' WHERE a % 3 = 0",
    "INSERT INTO t(b) SELECT b FROM t LIMIT 20",
    "DELETE FROM t WHERE a < 30",
    "CREATE TABLE u AS SELECT * FROM t",
    "VACUUM",
    "DROP TABLE t",
];

/// A sound database with pages of every kind.
fn specimen(page_bytes: usize) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("specimen.db");
    let connection = Connection::open(&file).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum=2; PRAGMA synchronous=OFF;
             CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX t_b ON t(b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
             INSERT INTO t SELECT i, printf('%.*c', 1 + i * 7 % 90, char(97 + i % 26)) FROM n;
             INSERT INTO t(b) VALUES (printf('%.*c', 9000, 'l')); DELETE FROM t WHERE a % 5 = 0;"
        ))
        .unwrap();
    drop(connection);
    std::fs::read(file).unwrap()
}

fn any_byte(chance: &mut Chance) -> u8 {
    chance.number().to_le_bytes()[0]
}

/// Puts `bytes` into a facet, page by page, as an import would.
fn put(store: &Store, name: &str, bytes: &[u8], page_bytes: usize) {
    let facet = store.create_facet(&FacetName::new(name).unwrap()).unwrap();
    let mut writer = facet.begin_write_latest().unwrap();
    writer.set_page_size(PageSize::from_bytes(page_bytes).unwrap()).unwrap();
    for (number, page) in (1..).zip(bytes.chunks(page_bytes)) {
        writer.write_page(PageNo(number), page).unwrap();
    }
    store.wait_durable(writer.commit(0).unwrap()).unwrap();
}

fn open(registration: &Registration, name: &str) -> Connection {
    let vfs = registration.name();
    Connection::open_with_flags_and_vfs(name, OpenFlags::default(), vfs).unwrap()
}

/// Runs the statements on the same bytes in a facet and in a file; how many fail.
fn compare(registration: &Registration, file: &Path, name: &str, bytes: &[u8], what: &str) -> u32 {
    let page_bytes = 512;
    put(registration.store(), name, bytes, page_bytes);
    std::fs::write(file, bytes).unwrap();
    let (facet, stock) = (open(registration, name), Connection::open(file).unwrap());
    stock.execute_batch("PRAGMA synchronous=OFF").ok();
    let mut failed = 0;
    for sql in STATEMENTS {
        let _ = take_last_error();
        let (ours, theirs) = (run(&facet, sql), run(&stock, sql));
        let words = take_last_error();
        assert!(ours == theirs, "{what}: {sql}:\nfacet: {ours:?}\nstock: {theirs:?}\n{words:?}");
        failed += u32::from(ours.error.is_some());
    }
    failed
}

#[test]
fn damaged_databases_are_what_they_are_in_a_file() {
    let registration = small_store::register();
    let neighbour = open(&registration, "neighbour");
    neighbour.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let sound = specimen(512);
    let mut chance = Chance::from_seed(11);
    let (mut failed, mut ran) = (0, 0);
    let mut try_one = |bytes: &[u8], what: &str| {
        ran += 1;
        let file = directory.path().join(format!("{ran}.db"));
        failed += compare(&registration, &file, &format!("damaged/{ran}"), bytes, what);
    };
    try_one(&sound, "sound");
    // The header, but for the bytes that ask for a write-ahead log, which a file would then have.
    for at in (0..100).filter(|at| !(18..20).contains(at)) {
        for byte in [0, 1, 0xff, sound[at] ^ 0x10] {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            try_one(&bytes, &format!("byte {at} is {byte}"));
        }
    }
    for round in 0..150 {
        let mut bytes = sound.clone();
        for _ in 0..chance.between(1, 12) {
            let at = 100 + chance.index(bytes.len() - 100);
            bytes[at] = any_byte(&mut chance);
        }
        try_one(&bytes, &format!("random bytes, round {round}"));
    }
    let pages = sound.len() / 512;
    for page in 1..pages {
        let mut bytes = sound.clone();
        let other = 1 + (page * 7) % (pages - 1);
        let copy = bytes[other * 512..][..512].to_vec();
        bytes[page * 512..][..512].copy_from_slice(if page % 2 == 0 { &copy } else { &[0; 512] });
        try_one(&bytes, &format!("page {} is another or zeros", page + 1));
        try_one(&sound[..page * 512], &format!("cut after page {page}"));
    }
    let noise: Vec<u8> = (0..4096).map(|_| any_byte(&mut chance)).collect();
    try_one(&noise, "noise");
    try_one(&[0; 2048], "zeros");
    assert!(failed > 500, "{failed} statements failed");

    assert_eq!(run(&neighbour, "SELECT a FROM t").rows.len(), 1);
    neighbour.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert!(registration.store().verify(&mut |_| ()).unwrap().is_clean());
}

/// Releases of SQLite before 3.7.0 did not keep up the size in the header, which is why it counts
/// only while the change counter beside it is the one it was written for.
#[test]
fn a_size_in_the_header_that_is_out_of_date() {
    let registration = small_store::register();
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = specimen(512);
    bytes[28..32].copy_from_slice(&2_u32.to_be_bytes());
    bytes[92..96].copy_from_slice(&1_u32.to_be_bytes());
    let file = directory.path().join("old.db");
    assert_eq!(compare(&registration, &file, "old", &bytes, "an old size"), 0);
}

/// A file would get its write-ahead log back. A facet has none, and says so.
#[test]
fn a_database_that_asks_for_a_write_ahead_log() {
    let registration = small_store::register();
    let mut bytes = specimen(512);
    bytes[18..20].copy_from_slice(&[2, 2]);
    put(registration.store(), "wal", &bytes, 512);
    let vfs = registration.name();
    let error = Connection::open_with_flags_and_vfs("wal", OpenFlags::default(), vfs).unwrap_err();
    assert_eq!(error.sqlite_error().unwrap().extended_code, ffi::SQLITE_CANTOPEN);
    let words = take_last_error().unwrap();
    assert!(words.contains("facet wal: WAL mode is refused"), "{words}");
}
