//! Import and export of SQLite files, as SQLite leaves them: with logs and journals beside them, of all
//! page sizes, damaged, foreign, interrupted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use lapidary::rusqlite::Connection;
use lapidary::{
    ExportOptions, FacetName, FileStep, Host, HostConfig, HostErrorKind, ImportCheck,
    ImportOptions, Imported, Isolation, Result, root_hash_of_file,
};
use tempfile::TempDir;

struct Place {
    directory: TempDir,
    host: Host,
}

fn open(directory: &Path) -> Host {
    let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false);
    Host::open(directory.join("store"), config).unwrap()
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let host = open(directory.path());
    Place { directory, host }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn import(&self, path: &Path, name: &str) -> Result<Imported> {
        self.host.facet(name)?.import(path, ImportOptions::new())
    }

    fn count(&self, name: &str) -> i64 {
        let read = |connection: &Connection| {
            let check: String =
                connection.query_row("PRAGMA integrity_check", (), |row| row.get(0))?;
            assert_eq!(check, "ok");
            let mode: String = connection.query_row("PRAGMA journal_mode", (), |row| row.get(0))?;
            assert_ne!(mode, "wal");
            Ok(connection.query_row("SELECT count(*) FROM goods", (), |row| row.get(0))?)
        };
        self.host.facet(name).unwrap().read(read).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let listed = self.host.list(None, None, 1000).wait().unwrap();
        listed.iter().map(|info| info.name.to_string()).collect()
    }

    /// Fails to import, and leaves nothing.
    fn refused(&self, path: &Path, kind: HostErrorKind, words: &str) {
        let before = self.names();
        let error = self.import(path, "refused").unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let said = error.to_string();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(words) && said.contains(name), "{said}");
        assert_eq!(self.names(), before);
    }
}

fn database(path: &Path, pragmas: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(pragmas).unwrap();
    let sql = "CREATE TABLE goods(id INTEGER PRIMARY KEY, name TEXT);
               CREATE INDEX goods_name ON goods(name);
               WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 500)
               INSERT INTO goods(name) SELECT 'thing ' || i FROM n;";
    connection.execute_batch(sql).unwrap();
    connection
}

#[test]
fn there_and_back_is_the_same_file_in_every_page_size_and_mode() {
    let place = place();
    for page_bytes in [512_u32, 4096, 65536] {
        for mode in ["DELETE", "WAL"] {
            let name = format!("{mode}/{page_bytes}");
            let file = place.path(&format!("{mode}-{page_bytes}.sqlite"));
            let pragmas = format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode={mode};");
            drop(database(&file, &pragmas));
            let bytes = fs::read(&file).unwrap();
            let imported = place.import(&file, &name).unwrap();
            assert_eq!(imported.content.page_size.unwrap().bytes(), page_bytes as usize);
            assert_eq!(imported.content.root_hash, root_hash_of_file(&file).unwrap());
            assert!(!imported.was_there);
            assert_eq!(place.count(&name), 500);
            // The file is what it was, and nothing is beside it.
            assert_eq!(fs::read(&file).unwrap(), bytes);
            for suffix in ["-wal", "-shm", "-journal"] {
                let beside = format!("{}{suffix}", file.display());
                assert!(!Path::new(&beside).exists(), "{beside}");
            }

            let out = place.path("out.sqlite");
            let facet = place.host.facet(&name).unwrap();
            let exported = facet.export(&out, ExportOptions::new().overwrite(true)).unwrap();
            assert_eq!(exported, imported.content);
            assert_eq!(exported.bytes(), fs::metadata(&out).unwrap().len());
            let written = fs::read(&out).unwrap();
            // All but what is masked in root hashes.
            assert_eq!(written[..18], bytes[..18]);
            assert_eq!(written[28..92], bytes[28..92]);
            assert_eq!(written[100..], bytes[100..]);
        }
    }
}

#[test]
fn what_is_only_in_the_wal_is_imported_beside_its_writer() {
    let place = place();
    let file = place.path("live.sqlite");
    let writer = database(&file, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;");
    writer.execute_batch("BEGIN; INSERT INTO goods(name) VALUES ('not committed')").unwrap();
    let before = fs::read(&file).unwrap();
    assert!(root_hash_of_file(&file).is_err(), "most of it is in the log");
    place.import(&file, "live").unwrap();
    assert_eq!(place.count("live"), 500);
    assert_eq!(fs::read(&file).unwrap(), before);
    writer.execute_batch("COMMIT").unwrap();
    drop(writer);
    let out = place.path("out.sqlite");
    place.host.facet("live").unwrap().export(&out, ExportOptions::new()).unwrap();
    assert_eq!(fs::read(out).unwrap()[18..20], [1, 1], "rollback mode");
}

#[test]
fn what_lies_beside_an_empty_file_stays() {
    let place = place();
    // One byte is empty too: SQLite on Unix writes one into an empty file, and does not count it.
    for (suffix, bytes) in [("-wal", ""), ("-journal", ""), ("-wal", "S"), ("-journal", "S")] {
        let file = place.path(&format!("empty{bytes}{suffix}.sqlite"));
        let beside = PathBuf::from(format!("{}{suffix}", file.display()));
        fs::write(&file, bytes).unwrap();
        fs::write(&beside, "left by somebody").unwrap();
        let imported = place.import(&file, &format!("empty{bytes}{suffix}")).unwrap();
        assert_eq!(imported.content.page_count, 0);
        assert_eq!(fs::read(&file).unwrap(), bytes.as_bytes());
        assert_eq!(fs::read(&beside).unwrap(), b"left by somebody", "{suffix}");
    }
}

#[test]
fn a_later_format_of_sqlite_is_bad_input() {
    let place = place();
    let file = place.path("later.sqlite");
    drop(database(&file, ""));
    let mut bytes = fs::read(&file).unwrap();
    // The schema format number, of which 4 is the newest.
    bytes[44..48].copy_from_slice(&5_u32.to_be_bytes());
    fs::write(&file, bytes).unwrap();
    place.refused(&file, HostErrorKind::InvalidInput, "unsupported file format");
}

/// A database and its journal as a crash in a transaction leaves them.
fn hot(place: &Place) -> PathBuf {
    let file = place.path("writing.sqlite");
    let writer = database(&file, "PRAGMA cache_size=1;");
    writer.execute_batch("BEGIN; UPDATE goods SET name = name || ' changed'").unwrap();
    let copy = place.path("hot.sqlite");
    fs::copy(&file, &copy).unwrap();
    fs::copy(place.path("writing.sqlite-journal"), place.path("hot.sqlite-journal")).unwrap();
    copy
}

#[test]
fn an_unfinished_transaction_in_a_hot_journal_is_not_imported() {
    let place = place();
    let file = hot(&place);
    let journal = place.path("hot.sqlite-journal");
    let (before, journal_before) = (fs::read(&file).unwrap(), fs::read(&journal).unwrap());
    place.import(&file, "hot").unwrap();
    assert_eq!(place.count("hot"), 500);
    let changed = |connection: &Connection| {
        let sql = "SELECT count(*) FROM goods WHERE name LIKE '%changed'";
        Ok(connection.query_row(sql, (), |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(place.host.facet("hot").unwrap().read(changed).unwrap(), 0);
    assert_eq!(fs::read(&file).unwrap(), before, "the file is left as it is");
    assert_eq!(fs::read(&journal).unwrap(), journal_before);
}

#[test]
fn what_is_no_database_is_refused_by_path_and_reason() {
    let place = place();
    let file = place.path("notes.txt");
    for garbage in
        [&b"CREATE TABLE dump(x); -- a dump, longer than a header would be. "[..], &[0x5a; 8192]]
    {
        fs::write(&file, garbage).unwrap();
        place.refused(&file, HostErrorKind::InvalidInput, "not a SQLite database");
    }
    let folder = place.path("folder");
    fs::create_dir(&folder).unwrap();
    place.refused(&folder, HostErrorKind::InvalidInput, "directory");
    place.refused(&place.path("absent.sqlite"), HostErrorKind::NotFound, "No such file");
}

#[test]
fn a_damaged_database_is_refused_unless_the_check_is_waived() {
    let place = place();
    let file = place.path("damaged.sqlite");
    drop(database(&file, ""));
    let mut bytes = fs::read(&file).unwrap();
    // A page of the index becomes one of the table's free space: only SQLite's check can tell.
    let last = bytes.len() - 4096;
    bytes[last..last + 64].fill(0xff);
    fs::write(&file, &bytes).unwrap();
    place.refused(&file, HostErrorKind::Corruption, "damaged");
    let waived = ImportOptions::new().check(ImportCheck::None);
    place.host.facet("damaged").unwrap().import(&file, waived).unwrap();

    fs::write(&file, &bytes[..4096]).unwrap();
    place.refused(&file, HostErrorKind::Corruption, "damaged");
}

#[test]
fn an_empty_file_is_an_empty_database() {
    let place = place();
    let file = place.path("empty.sqlite");
    fs::write(&file, "").unwrap();
    let imported = place.import(&file, "empty").unwrap();
    assert_eq!((imported.content.bytes(), imported.content.page_size), (0, None));
    let out = place.path("out.sqlite");
    place.host.facet("empty").unwrap().export(&out, ExportOptions::new()).unwrap();
    assert_eq!(fs::metadata(&out).unwrap().len(), 0);
    place.host.facet("empty").unwrap().execute("CREATE TABLE goods(x)", ()).wait().unwrap();
}

#[test]
fn a_name_that_is_taken_is_refused_or_skipped_if_it_has_the_same() {
    let place = place();
    let file = place.path("a.sqlite");
    drop(database(&file, ""));
    place.import(&file, "a").unwrap();
    let error = place.import(&file, "a").unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::AlreadyExists);
    let again =
        || place.host.facet("a").unwrap().import(&file, ImportOptions::new().skip_equal(true));
    assert!(again().unwrap().was_there);
    place.host.facet("a").unwrap().execute("DELETE FROM goods", ()).wait().unwrap();
    assert_eq!(again().unwrap_err().kind(), HostErrorKind::AlreadyExists);
    assert_eq!(place.count("a"), 0);
}

#[test]
fn limits_of_size_hold_and_leave_nothing() {
    let place = place();
    let file = place.path("a.sqlite");
    drop(database(&file, ""));
    let limited = ImportOptions::new().bytes_max(8192);
    let error = place.host.facet("tenant/a").unwrap().import(&file, limited).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::InvalidInput);
    assert!(error.to_string().contains("8192"), "{error}");

    place.host.set_quota("tenant", Some(8192)).wait().unwrap();
    let error = place.import(&file, "tenant/a").unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NoSpace, "{error}");
    assert!(place.names().is_empty(), "{:?}", place.names());
    place.host.set_quota("tenant", Some(1 << 20)).wait().unwrap();
    place.import(&file, "tenant/a").unwrap();
    let used = place.host.quota("tenant").wait().unwrap().unwrap().used_bytes;
    assert_eq!(used, fs::metadata(&file).unwrap().len());
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let place = place();
    let file = place.path("a.sqlite");
    let connection = database(&file, "");
    connection.execute_batch("CREATE TABLE b AS SELECT zeroblob(4000000)").unwrap();
    drop(connection);
    for step in [FileStep::Reading, FileStep::Checking, FileStep::Writing, FileStep::Comparing] {
        let interrupted = catch_unwind(AssertUnwindSafe(|| {
            let mut stop = |progress: lapidary::FileProgress| {
                assert!(progress.step != step, "stop here");
            };
            let options = ImportOptions::new().progress(&mut stop);
            place.host.facet("a").unwrap().import(&file, options)
        }));
        assert!(interrupted.is_err(), "{step:?} is told of");
        assert!(place.names().is_empty(), "{step:?}: {:?}", place.names());
    }
    // As a crash leaves it, which runs no destructor.
    let left = format!(".importing-{}/7", place.host.store().id());
    place.host.store().create_facet(&FacetName::new(&left).unwrap()).unwrap();
    place.host.store().flush().unwrap();
    assert_eq!(place.names(), [left]);
    let Place { directory, host } = place;
    host.shutdown().unwrap();
    let place = Place { host: open(directory.path()), directory };
    assert!(place.names().is_empty());
    place.import(&file, "a").unwrap();
    assert_eq!(place.count("a"), 500);
}

#[test]
fn an_import_is_durable_and_survives_reopening() {
    let place = place();
    let file = place.path("a.sqlite");
    drop(database(&file, ""));
    let imported = place.import(&file, "a/b").unwrap();
    let Place { directory, host } = place;
    host.shutdown().unwrap();
    let place = Place { host: open(directory.path()), directory };
    let facet = place.host.facet("a/b").unwrap();
    assert_eq!(facet.root_hash().unwrap(), imported.content.root_hash);
    facet.execute("INSERT INTO goods(name) VALUES ('more')", ()).wait().unwrap();
    assert_eq!(place.count("a/b"), 501);
}

#[test]
fn an_export_of_a_facet_that_grew_and_of_its_past_opens_in_sqlite() {
    let place = place();
    let day = std::time::Duration::from_secs(24 * 3600);
    let retention = lapidary::Retention { bytes: 1 << 30, age: day };
    place.host.set_retention("a", Some(retention)).wait().unwrap();
    let facet = place.host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let before = facet.bookmark().wait().unwrap();
    for _ in 0..50 {
        facet.execute("INSERT INTO t VALUES (zeroblob(9000))", ()).wait().unwrap();
    }
    let rows = |path: &Path| {
        let file = Connection::open(path).unwrap();
        let check: String = file.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        file.execute("INSERT INTO t VALUES (1)", ()).unwrap();
        file.query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0)).unwrap()
    };
    let (now, past) = (place.path("now.sqlite"), place.path("past.sqlite"));
    facet.export(&now, ExportOptions::new()).unwrap();
    facet.export(&past, ExportOptions::new().at(before)).unwrap();
    assert_eq!((rows(&now), rows(&past)), (51, 1));
}

#[test]
fn an_export_overwrites_only_if_asked_and_never_beside_a_foreign_journal() {
    let place = place();
    let facet = place.host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let path = place.path("out.sqlite");
    fs::write(&path, "precious").unwrap();
    let error = facet.export(&path, ExportOptions::new()).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let log = place.path("out.sqlite-wal");
    fs::write(&log, "foreign").unwrap();
    let error = facet.export(&path, ExportOptions::new().overwrite(true)).unwrap_err();
    assert!(error.to_string().contains("out.sqlite-wal"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&log).unwrap();
    facet.export(&path, ExportOptions::new().overwrite(true)).unwrap();
    assert_eq!(root_hash_of_file(&path).unwrap(), facet.root_hash().unwrap());

    let lost = place.path("no/such/directory/out.sqlite");
    let error = facet.export(&lost, ExportOptions::new()).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NotFound);
    let error =
        place.host.facet("absent").unwrap().export(&lost, ExportOptions::new()).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    // No part of any of them is left.
    let left = fs::read_dir(place.directory.path()).unwrap().count();
    assert_eq!(left, 2, "the store and the one file");
}

#[test]
fn a_call_on_a_core_may_not_import() {
    let place = place();
    let file = place.path("a.sqlite");
    drop(database(&file, ""));
    let other = place.host.facet("b").unwrap();
    let refused = place
        .host
        .facet("a")
        .unwrap()
        .run(move |_| other.import(&file, ImportOptions::new()).map(drop))
        .wait()
        .unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::InvalidInput);
}

#[test]
fn names_that_are_not_utf_8_are_as_good_as_others() {
    let place = place();
    place.host.set_isolation("strangers", Some(Isolation::untrusted())).unwrap();
    let path = place.path("names.sqlite");
    let file = Connection::open(&path).unwrap();
    file.execute_batch("CREATE TABLE cities(mayor); INSERT INTO cities VALUES ('Ann')").unwrap();
    drop(file);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"mayor").unwrap();
    bytes[at..at + 5].copy_from_slice(b"m\xe4y\xffr");
    fs::write(&path, bytes).unwrap();
    for name in ["own", "strangers/one"] {
        place.import(&path, name).unwrap();
        let facet = place.host.facet(name).unwrap();
        let read = facet.read(|connection| {
            Ok(connection.query_row("SELECT * FROM cities", (), |row| row.get::<_, String>(0))?)
        });
        assert_eq!(read.unwrap(), "Ann");
        facet.execute("UPDATE cities SET rowid = 7", ()).wait().unwrap();
    }
}
