//! Root hashes of SQLite databases, in facets and in files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lapidary_engine::{RootHash, RootHasher};

use crate::header::{self, HEADER_BYTES};

/// The bytes of page 1 that tell of a database's history rather than of its content: to be given to
/// [`Snapshot::root_hash`](lapidary_engine::Snapshot::root_hash) for a facet.
///
/// | bytes | SQLite's field |
/// |---|---|
/// | 18, 19 | whether it is in WAL mode |
/// | 24 to 27 | change counter |
/// | 92 to 99 | counter for which the size is valid; version of SQLite that wrote last |
///
/// All else is content, also what SQL cannot see: what is left in free pages, which page a row is in,
/// and the schema cookie, which counts changes of the schema. So the same statements on the same
/// start make the same hash, and so do a fork, a restore and a copy page by page. Other statements
/// that lead to the same rows need not, nor does `VACUUM`. SQLite's backup interface copies page by
/// page, but then sets a schema cookie of its own; `PRAGMA schema_version` can set it back.
///
/// ```
/// # use std::sync::Arc;
/// # use lapidary_engine::{Environment, FacetName, MemoryIo, Store, StoreOptions, View};
/// use lapidary_vfs::{ROOT_HASH_MASK, Registration, VfsOptions, root_hash_of_reader};
/// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
/// # let store = Store::open(environment, StoreOptions::create())?;
/// # let _registration = Registration::register("doc-root-hash", Arc::clone(&store), VfsOptions::default())?;
/// let a = rusqlite::Connection::open("file:a?vfs=doc-root-hash")?;
/// a.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)")?;
///
/// let snapshot = store.open_facet(&FacetName::new("a")?)?.snapshot(View::Durable)?;
/// let mut file = Vec::new();
/// let mut page = vec![0; snapshot.page_size().unwrap().bytes()];
/// for number in 1..=snapshot.page_count() {
///     snapshot.read_page(lapidary_engine::PageNo(number), &mut page)?;
///     file.extend_from_slice(&page);
/// }
/// assert_eq!(snapshot.root_hash(&ROOT_HASH_MASK)?, root_hash_of_reader(file.as_slice())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const ROOT_HASH_MASK: [Range<usize>; 3] = [18..20, 24..28, 92..100];

/// First bytes of a rollback journal that is to be played back.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Why the root hash of a database file could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootHashError {
    /// It could not be read.
    #[error("{}: reading failed: {source}", Named(.path.as_deref()))]
    Io {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was read is not a whole SQLite database.
    #[error("{}: not a SQLite database: {reason}", Named(.path.as_deref()))]
    NotADatabase {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are changes beside the file that belong to the database, or a transaction in it that
    /// does not.
    #[error(
        "{}: its content is not in that file alone: {} is beside it; open the database with SQLite, \
         run `PRAGMA journal_mode=DELETE`, and close it", .path.display(), .beside.display()
    )]
    Unsettled {
        /// The database.
        path: PathBuf,
        /// Its write-ahead log or journal.
        beside: PathBuf,
    },
}

impl RootHashError {
    fn named(mut self, name: &Path) -> Self {
        if let Self::Io { path, .. } | Self::NotADatabase { path, .. } = &mut self {
            *path = Some(name.to_owned());
        }
        self
    }
}

struct Named<'a>(Option<&'a Path>);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("database"),
        }
    }
}

/// The root hash of the SQLite database in a file, which nobody may be writing to: that of a facet
/// with the same pages, under [`ROOT_HASH_MASK`].
///
/// ```no_run
/// let hash = lapidary_vfs::root_hash_of_file("export.sqlite")?;
/// println!("{hash}");
/// # Ok::<(), lapidary_vfs::RootHashError>(())
/// ```
///
/// # Errors
/// [`RootHashError`].
pub fn root_hash_of_file(path: impl AsRef<Path>) -> Result<RootHash, RootHashError> {
    let path = path.as_ref();
    let failed = |source| RootHashError::Io { path: Some(path.to_owned()), source };
    let file = File::open(path).map_err(failed)?;
    for (suffix, magic) in [("-wal", &[][..]), ("-journal", &JOURNAL_MAGIC)] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        let beside = PathBuf::from(beside);
        let mut start = Vec::new();
        match File::open(&beside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found
                .and_then(|file| file.take(JOURNAL_MAGIC.len() as u64).read_to_end(&mut start))
                .map_err(|source| RootHashError::Io { path: Some(beside.clone()), source })?,
        };
        if !start.is_empty() && start.starts_with(magic) {
            return Err(RootHashError::Unsettled { path: path.to_owned(), beside });
        }
    }
    root_hash_of_reader(BufReader::with_capacity(1 << 16, file)).map_err(|error| error.named(path))
}

/// The root hash of the SQLite database whose bytes `reader` gives, from the first to the last; see
/// [`root_hash_of_file`]. No bytes at all are the empty database.
///
/// # Errors
/// [`RootHashError::Io`] and [`RootHashError::NotADatabase`].
pub fn root_hash_of_reader(mut reader: impl Read) -> Result<RootHash, RootHashError> {
    let not = |reason| RootHashError::NotADatabase { path: None, reason };
    let mut header = [0; HEADER_BYTES];
    let filled = fill(&mut reader, &mut header)?;
    if filled == 0 {
        return Ok(RootHasher::new(lapidary_engine::PageSize::MIN, &ROOT_HASH_MASK).finish());
    }
    if filled < HEADER_BYTES || !header::has_magic(&header) {
        return Err(not("it does not begin with SQLite's header"));
    }
    let page_size =
        header::page_size(&header).ok_or_else(|| not("its header names no page size"))?;
    let mut hasher = RootHasher::new(page_size, &ROOT_HASH_MASK);
    let mut page = vec![0; page_size.bytes()];
    page[..HEADER_BYTES].copy_from_slice(&header);
    let mut at = HEADER_BYTES;
    loop {
        let filled = at + fill(&mut reader, &mut page[at..])?;
        if filled == 0 {
            return Ok(hasher.finish());
        }
        if filled < page.len() {
            return Err(not("it ends within a page"));
        }
        hasher.page(&page).map_err(|_| not("it has more pages than SQLite can count"))?;
        at = 0;
    }
}

/// Reads until `into` is full or there is no more; returns the bytes read.
fn fill(reader: &mut impl Read, into: &mut [u8]) -> Result<usize, RootHashError> {
    let mut filled = 0;
    while filled < into.len() {
        match reader.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(RootHashError::Io { path: None, source }),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, with interruptions.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = into.len().min(1);
            self.0.read(&mut into[..len])
        }
    }

    fn database(pages: usize) -> Vec<u8> {
        let mut bytes = vec![3; 512 * pages];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..18].copy_from_slice(&[2, 0]);
        bytes
    }

    #[test]
    fn masked_bytes_alone_make_no_difference() {
        let bytes = database(3);
        let hash = root_hash_of_reader(bytes.as_slice()).unwrap();
        assert_eq!(root_hash_of_reader(Trickle(&bytes, false)).unwrap(), hash);
        for at in (18..1536).filter(|at| !(40..90).contains(at)) {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let masked = [18, 19, 24, 25, 26, 27].contains(&at) || (92..100).contains(&at);
            let same = root_hash_of_reader(changed.as_slice()).unwrap() == hash;
            assert_eq!(same, masked, "byte {at}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let refusal = |bytes: &[u8]| root_hash_of_reader(bytes).unwrap_err().to_string();
        assert!(refusal(b"SQLite format 3\0").contains("header"));
        assert!(refusal(&[0; 4096]).contains("header"));
        assert!(refusal(&database(2)[..1000]).contains("within a page"));
        let mut bytes = database(1);
        bytes[16..18].copy_from_slice(&[3, 7]);
        assert!(refusal(&bytes).contains("page size"));
        root_hash_of_reader(&[][..]).unwrap();
    }

    #[test]
    fn what_is_beside_the_file_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sqlite");
        let missing = root_hash_of_file(&path).unwrap_err().to_string();
        assert!(missing.contains("a.sqlite"), "{missing}");
        std::fs::write(&path, database(2)).unwrap();
        let hash = root_hash_of_file(&path).unwrap();
        for (suffix, harmless, bad) in
            [("-wal", &[][..], &[1][..]), ("-journal", &[0; 28][..], &JOURNAL_MAGIC[..])]
        {
            let beside = directory.path().join(format!("a.sqlite{suffix}"));
            std::fs::write(&beside, harmless).unwrap();
            assert_eq!(root_hash_of_file(&path).unwrap(), hash);
            std::fs::write(&beside, bad).unwrap();
            let error = root_hash_of_file(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("a.sqlite{suffix} is beside it")), "{error}");
            std::fs::remove_file(beside).unwrap();
        }
        std::fs::write(&path, "dear reader").unwrap();
        let error = root_hash_of_file(&path).unwrap_err().to_string();
        assert!(error.contains("a.sqlite: not a SQLite database"), "{error}");
    }
}
