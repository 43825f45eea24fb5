//! Any bytes as a SQLite file, imported.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use lapidary::{FacetHandle, Host, HostConfig, HostErrorKind, ImportCheck, ImportOptions};
use lapidary_engine::{Environment, MemoryIo};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::chance::Chance;

/// Larger ones are refused, so that no header makes a small file a long run.
const BYTES_MAX: u64 = 1 << 20;
const NAME: &str = "imported";

/// A file, the suffix of what may lie beside it, and that.
type Database = (Vec<u8>, &'static str, Vec<u8>);

struct Place {
    host: Host,
    facet: FacetHandle,
    directory: TempDir,
    /// Databases to begin with, each with a journal or a log that may lie beside it.
    databases: Vec<Database>,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false);
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let host = Host::open_in(environment, config).expect("an empty store opens");
        let facet = host.facet(NAME).expect("it is a good name");
        // In memory, where there is such a directory.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(directory).expect("there is room for a directory");
        let databases = databases(directory.path()).expect("SQLite makes databases");
        Place { host, facet, directory, databases }
    })
}

fn databases(directory: &Path) -> rusqlite::Result<Vec<Database>> {
    let pragmas = [
        ("PRAGMA page_size=512; PRAGMA cache_size=2", "-journal"),
        ("PRAGMA page_size=1024; PRAGMA journal_mode=WAL", "-wal"),
        ("PRAGMA page_size=4096; PRAGMA auto_vacuum=FULL", "-journal"),
    ];
    let sql = "CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT, w BLOB); CREATE INDEX i ON t(v);
        CREATE TABLE u(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID;
        CREATE VIRTUAL TABLE f USING fts5(x);
        WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 40)
            INSERT INTO t SELECT i, 'value ' || i, zeroblob(i * 17) FROM n;
        INSERT INTO u SELECT v, k FROM t; INSERT INTO f SELECT v FROM t WHERE k < 5;
        DELETE FROM t WHERE k % 7 = 0;";
    let mut databases = Vec::new();
    for (pragma, suffix) in pragmas {
        let path = directory.join("made.sqlite");
        let connection = Connection::open(&path)?;
        connection.execute_batch(pragma)?;
        connection.execute_batch(sql)?;
        connection.execute_batch("BEGIN; UPDATE t SET v = v || ' changed', w = randomblob(90)")?;
        if suffix == "-wal" {
            connection.execute_batch("COMMIT")?;
        }
        let beside = fs::read(beside(&path, suffix)).unwrap_or_default();
        databases.push((fs::read(&path).unwrap_or_default(), suffix, beside));
        drop(connection);
        drop(fs::remove_file(&path));
    }
    Ok(databases)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Imports the input as a file: it is refused with an error, and nothing is in the store; or it is a facet,
/// and if SQLite checked it first, SQLite reads the same from the facet as from the file. The file is as it
/// was, and nothing is left behind.
///
/// Input: a byte that says what to begin with and what is checked, then the bytes of the file, or changes
/// of 4 to 9 bytes to one that is a database.
pub fn import(input: &[u8]) {
    let place = place();
    let mut chance = Chance::from_bytes(input);
    let kind = chance.below(4) as usize;
    let check = chance.pick(&[ImportCheck::Integrity, ImportCheck::Quick, ImportCheck::None]);
    let path = place.directory.path().join("file.sqlite");
    let mut files = match place.databases.get(kind) {
        None => vec![(path.clone(), input.get(2..).unwrap_or_default().to_vec())],
        Some((database, suffix, side)) => {
            vec![(path.clone(), database.clone()), (beside(&path, suffix), side.clone())]
        }
    };
    if kind < place.databases.len() {
        if chance.one_in(2) {
            files.truncate(1);
        }
        for _ in 0..32 {
            if chance.is_spent() {
                break;
            }
            let which = chance.index(files.len());
            change(&mut files[which].1, &mut chance);
        }
    }
    for (path, bytes) in &files {
        fs::write(path, bytes).expect("there is room for a small file");
    }
    let scratch = place.directory.path().join("scratch");
    fs::create_dir_all(&scratch).expect("there is room for a directory");
    let options =
        ImportOptions::new().check(check).bytes_max(BYTES_MAX).scratch_directory(&scratch);
    let imported = place.facet.import(&path, options);
    let left = fs::read_dir(&scratch).expect("it was just made").count();
    assert_eq!(left, 0, "something is left in the directory for copies");
    for (path, bytes) in &files {
        let now = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(now == *bytes, "the import changed {}", path.display());
    }
    match imported {
        Ok(imported) => {
            assert!(imported.content.bytes() <= BYTES_MAX, "more bytes than allowed");
            // What nobody checked may be damaged, of which SQLite says what it likes.
            if check == ImportCheck::Integrity {
                let kept = place.facet.read(|facet| Ok(content(facet)?));
                let kept = kept.expect("what passed the check can be read");
                assert_eq!(kept, stock(&path), "another content than the file's");
            } else {
                drop(place.facet.read(|facet| Ok(content(facet)?)));
            }
            place.host.delete(NAME).wait().expect("it is there");
        }
        Err(error) => assert!(
            matches!(
                error.kind(),
                HostErrorKind::InvalidInput | HostErrorKind::Corruption | HostErrorKind::Retry
            ),
            "refused as {:?}: {error}",
            error.kind()
        ),
    }
    let listed = place.host.list(None, None, 10).wait().expect("facets are listed");
    assert!(listed.is_empty(), "{} is left", listed[0].name);
    for (path, _) in &files {
        fs::remove_file(path).expect("it is still there");
    }
}

fn change(bytes: &mut Vec<u8>, chance: &mut Chance) {
    if bytes.is_empty() {
        return;
    }
    let kind = chance.below(8);
    let place = if chance.one_in(2) { chance.below(100) } else { chance.below(1 << 16) };
    let at = place as usize % bytes.len();
    let value = chance.below(256) as u8;
    match kind {
        0..=2 => bytes[at] = value,
        3 => bytes[at] ^= 1 << (value % 8),
        4 => {
            let end = bytes.len().min(at + usize::from(value));
            bytes[at..end].fill(chance.below(256) as u8);
        }
        5 => bytes.truncate(at),
        6 => bytes.extend(std::iter::repeat_n(value, 512)),
        _ => {
            let pages = bytes.len() / 512;
            let from = usize::from(value) % pages.max(1) * 512;
            if from + 512 <= bytes.len() && at + 512 <= bytes.len() {
                bytes.copy_within(from..from + 512, at);
            }
        }
    }
}

/// What stock SQLite reads from a copy of the file and what lies beside it.
fn stock(path: &Path) -> Vec<String> {
    let copy = path.with_file_name("copy.sqlite");
    let suffixes = ["", "-journal", "-wal", "-shm"];
    for suffix in ["", "-journal", "-wal"] {
        drop(fs::copy(beside(path, suffix), beside(&copy, suffix)));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let opened = Connection::open_with_flags(&copy, flags).and_then(|file| content(&file));
    for suffix in suffixes {
        drop(fs::remove_file(beside(&copy, suffix)));
    }
    opened.expect("stock SQLite reads what the import took")
}

/// The schema and all rows, as text, with errors of single tables among them.
fn content(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut schema =
        connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY rowid")?;
    let mut rows = schema.query([])?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next()? {
        let texts = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?);
        lines.push(format!("{texts:?}"));
        if let (Ok("table"), Ok(name)) = (texts.0.as_str(), texts.1.as_str()) {
            tables.push(name.to_owned());
        }
    }
    for table in tables {
        let quoted = table.replace('"', "\"\"");
        let read = read_table(connection, &quoted, &mut lines);
        lines.push(format!("{table}: {read:?}"));
    }
    Ok(lines)
}

fn read_table(connection: &Connection, name: &str, lines: &mut Vec<String>) -> Result<(), String> {
    let failed = |error: rusqlite::Error| error.to_string();
    let mut select = connection.prepare(&format!("SELECT * FROM \"{name}\"")).map_err(failed)?;
    let columns = select.column_count();
    let mut rows = select.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let line: Result<Vec<_>, _> = (0..columns).map(|column| row.get_ref(column)).collect();
        lines.push(format!("{:?}", line.map_err(failed)?));
    }
    Ok(())
}
