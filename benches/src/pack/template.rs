//! `--template`: a real SQLite database that every facet starts as a copy of.
//!
//! The file the user has is only read. A working copy of it (with its `-wal` or `-journal`, so
//! that committed content waiting there counts) is brought into a single file in rollback-journal
//! format, given the tables that turns go to, and every arm copies that.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use lapidary_benches::failure::{Doing as _, Failure, Result};

use crate::sql::Statements;
use crate::workload::Work;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the header says which versions may write and read the file: 1 is a rollback journal, 2
/// is WAL. See "The Database Header" of the SQLite file format.
const FORMAT_VERSIONS_OFFSET: u64 = 18;

/// The template as the arms find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    /// In rollback-journal format, with the added tables.
    pub(crate) path: PathBuf,
    /// The same database with a header that says WAL.
    pub(crate) wal_path: PathBuf,
    pub(crate) page_bytes: u32,
    pub(crate) bytes: u64,
}

/// Checks the user's `source` and makes the template in `directory`.
pub(crate) fn prepare(source: &Path, directory: &Path) -> Result<Template> {
    let shown = source.display();
    check_magic(source)?;
    let path = directory.join("template.sqlite");
    let wal_path = directory.join("template-wal.sqlite");
    fs::copy(source, &path).doing(|| format!("copying template {shown}"))?;
    for suffix in ["-wal", "-journal"] {
        let beside = with_suffix(source, suffix);
        if beside.exists() {
            fs::copy(&beside, with_suffix(&path, suffix))
                .doing(|| format!("copying {} of the template", beside.display()))?;
        }
    }

    let connection = Connection::open_with_flags(
        &path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .doing(|| format!("opening a copy of template {shown}"))?;
    let answer: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .doing(|| format!("template {shown} is not a database SQLite can read"))?;
    if answer != "ok" {
        return Err(Failure::new(format!(
            "template {shown} is damaged: PRAGMA quick_check says: {answer}"
        )));
    }
    let journal_mode: String = connection
        .query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))
        .doing(|| format!("leaving WAL mode in a copy of template {shown}"))?;
    if journal_mode != "delete" {
        return Err(Failure::new(format!(
            "a copy of template {shown} stays in journal mode {journal_mode}"
        )));
    }
    Statements::choose(Work::AGENTS, true)
        .create_tables(&connection)
        .doing(|| format!("adding the benchmark's tables to a copy of template {shown}"))?;
    let page_bytes = connection
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .doing(|| format!("asking a copy of template {shown} for its page size"))?;
    connection
        .close()
        .map_err(|(_, error)| error)
        .doing(|| format!("closing a copy of template {shown}"))?;

    let bytes = fs::metadata(&path).doing(|| format!("looking at {}", path.display()))?.len();
    fs::copy(&path, &wal_path).doing(|| format!("copying {}", path.display()))?;
    let marked = fs::OpenOptions::new().write(true).open(&wal_path).and_then(|mut file| {
        file.seek(SeekFrom::Start(FORMAT_VERSIONS_OFFSET))?;
        file.write_all(&[2, 2])
    });
    marked.doing(|| format!("marking {} as WAL", wal_path.display()))?;
    Ok(Template { path, wal_path, page_bytes, bytes })
}

fn check_magic(source: &Path) -> Result<()> {
    let shown = source.display();
    let file = fs::File::open(source).doing(|| format!("opening template {shown}"))?;
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .doing(|| format!("reading template {shown}"))?;
    if start == MAGIC {
        Ok(())
    } else {
        Err(Failure::new(format!(
            "template {shown} is not a SQLite database: it does not begin with 'SQLite format 3'. \
             Give the database file itself, not a dump of it"
        )))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::integrity_failure;

    fn database(path: &Path, pragmas: &str) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(pragmas).unwrap();
        connection.execute_batch("CREATE TABLE goods(id INTEGER PRIMARY KEY, name TEXT)").unwrap();
        for number in 0..500 {
            connection
                .execute("INSERT INTO goods(name) VALUES (?1)", [format!("thing {number}")])
                .unwrap();
        }
        connection
    }

    fn goods(path: &Path) -> i64 {
        let connection = Connection::open(path).unwrap();
        assert_eq!(integrity_failure(&connection).unwrap(), None);
        assert_eq!(Statements::choose(Work::AGENTS, true).count(&connection).unwrap().turns, 0);
        connection.query_row("SELECT count(*) FROM goods", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn every_page_size_with_and_without_wal_even_with_content_only_in_the_wal() {
        for page_bytes in [512_u32, 1024, 4096, 65536] {
            for journal_mode in ["DELETE", "WAL"] {
                let directory = tempfile::tempdir().unwrap();
                let source = directory.path().join("source.sqlite");
                let pragmas =
                    format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode={journal_mode};");
                // Left open, so that in WAL mode the rows are in the -wal file alone.
                let connection = database(&source, &pragmas);
                let work = tempfile::tempdir().unwrap();
                let template = prepare(&source, work.path()).unwrap();
                drop(connection);
                assert_eq!(template.page_bytes, page_bytes);
                assert_eq!(fs::read(&template.path).unwrap()[18..20], [1, 1]);
                assert_eq!(fs::read(&template.wal_path).unwrap()[18..20], [2, 2]);
                assert_eq!(template.bytes, fs::metadata(&template.path).unwrap().len());
                assert_eq!(goods(&template.path), 500);
                assert_eq!(goods(&template.wal_path), 500);
            }
        }
    }

    #[test]
    fn what_is_not_a_database_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("notes.txt");
        let work = tempfile::tempdir().unwrap();
        for (content, complaint) in [
            (&b"CREATE TABLE dump(x);"[..], "not a SQLite database"),
            (&b""[..], "not a SQLite database"),
            (&b"SQLite format 3\0 and then nothing of the kind"[..], "can read"),
        ] {
            fs::write(&source, content).unwrap();
            let message = prepare(&source, work.path()).unwrap_err().to_string();
            assert!(message.contains("notes.txt") && message.contains(complaint), "{message}");
        }
        assert!(prepare(&directory.path().join("absent"), work.path()).is_err());
        assert!(prepare(directory.path(), work.path()).is_err());
    }

    #[test]
    fn a_truncated_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("cut.sqlite");
        drop(database(&source, ""));
        let file = fs::OpenOptions::new().write(true).open(&source).unwrap();
        file.set_len(4096).unwrap();
        let work = tempfile::tempdir().unwrap();
        let message = prepare(&source, work.path()).unwrap_err().to_string();
        assert!(message.contains("cut.sqlite"), "{message}");
    }

    #[test]
    fn a_template_that_has_our_tables_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("ours.sqlite");
        let connection = Connection::open(&source).unwrap();
        Statements::choose(Work::AGENTS, true).create_tables(&connection).unwrap();
        drop(connection);
        let work = tempfile::tempdir().unwrap();
        let message = prepare(&source, work.path()).unwrap_err().to_string();
        assert!(message.contains("pack_messages"), "{message}");
    }
}
