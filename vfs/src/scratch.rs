//! Journals and temporary files: private to the connection that opened them, in memory up to a
//! bound, then in an unlinked file.
//!
//! A rollback journal here is never hot and never found by anybody: what it would protect, the
//! engine protects already (staged pages are not in the store before the commit). SQLite still
//! needs it to take back a transaction or a statement from its own cache.

use std::fs;
use std::io;
use std::os::raw::c_int;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::FacetName;
use rusqlite::ffi as sqlite;

use crate::database::SuperJournalIsOpen;
use crate::error::{Failure, Operation};
use crate::file::{File, Filled, LockLevel};
use crate::registration::VfsOptions;
use crate::side_files::KnownFacets;

/// First and last bytes of a super-journal's name in a journal, and of a journal's header:
/// `aJournalMagic` in SQLite's `pager.c`.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What an error says about a transaction over files of several kinds.
pub(crate) const SEVERAL_FILES: &str = "a transaction that writes databases of several stores, or facets and files, is refused: it could \
     not be made atomic; only facets opened through one VFS can be committed together";

/// What an error says where facets are not committed together at all.
pub(crate) const NO_SUPER_JOURNAL: &str = "a transaction that writes several databases is refused: through this VFS each facet is committed \
     by itself";

/// Where scratch files live.
#[derive(Clone, Debug)]
pub(crate) struct ScratchSpace {
    /// Bytes of one file that stay in memory.
    pub(crate) memory_bytes_max: usize,
    /// Directory of spilled files; the system's if absent.
    pub(crate) directory: Option<Arc<PathBuf>>,
}

impl From<VfsOptions> for ScratchSpace {
    fn from(options: VfsOptions) -> Self {
        let VfsOptions { scratch_memory_bytes_max, scratch_directory, .. } = options;
        Self {
            memory_bytes_max: scratch_memory_bytes_max,
            directory: scratch_directory.map(Arc::new),
        }
    }
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    Spilled { file: fs::File, size_bytes: u64 },
}

/// A journal or temporary file.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    place: Place,
    space: ScratchSpace,
    watch: Watch,
}

/// What is looked at when it is written.
#[derive(Clone, Debug)]
pub(crate) enum Watch {
    Nothing,
    /// The name of a super-journal in the rollback journal of a main database. A ROLLBACK that finds
    /// the name of a super-journal that no longer exists takes nothing back. So it does not get
    /// there: whether the transaction is committed is for nobody to find in a journal.
    SuperJournalName,
    /// The same, which is refused.
    NoSuperJournal,
    /// The names in a super-journal: all must be of journals of these facets.
    Names {
        known: KnownFacets,
        _open: Arc<SuperJournalIsOpen>,
    },
}

impl ScratchFile {
    /// An empty file.
    pub(crate) fn new(space: ScratchSpace, watch: Watch) -> Self {
        Self { place: Place::Memory(Vec::new()), space, watch }
    }

    /// What is written in place of `bytes`.
    fn watched<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
        let refused = |words: &str| Err(Failure::of(Operation::Write, words));
        match &self.watch {
            // The record that names a super-journal ends in the magic, written by itself
            // (`writeSuperJournal`). Without it the record means nothing.
            Watch::SuperJournalName if bytes == JOURNAL_MAGIC => Ok(&[0; JOURNAL_MAGIC.len()]),
            Watch::NoSuperJournal if bytes == JOURNAL_MAGIC => refused(NO_SUPER_JOURNAL),
            Watch::Names { known, .. } if !is_journal_of_facet(bytes, known) => {
                refused(SEVERAL_FILES)
            }
            _ => Ok(bytes),
        }
    }

    fn failure(&self, operation: Operation, error: &io::Error) -> Failure {
        let directory = match &self.space.directory {
            Some(directory) => directory.display().to_string(),
            None => std::env::temp_dir().display().to_string(),
        };
        let what = format!(
            "journal or temporary file spilled to {directory} (free space there, or raise \
             scratch_memory_bytes_max)"
        );
        Failure::from_io(operation, &what, error)
    }

    fn spill(space: &ScratchSpace, memory: &[u8]) -> io::Result<Place> {
        let file = match &space.directory {
            Some(directory) => tempfile::tempfile_in(directory.as_path())?,
            None => tempfile::tempfile()?,
        };
        file.write_all_at(memory, 0)?;
        Ok(Place::Spilled { file, size_bytes: memory.len() as u64 })
    }

    /// Moves to a file if `end_bytes` is more than memory may hold.
    fn make_room(&mut self, end_bytes: u64) -> io::Result<()> {
        if let Place::Memory(memory) = &self.place
            && end_bytes > self.space.memory_bytes_max as u64
        {
            self.place = Self::spill(&self.space, memory)?;
        }
        Ok(())
    }

    #[cfg(test)]
    fn is_spilled(&self) -> bool {
        matches!(self.place, Place::Spilled { .. })
    }
}

/// Whether `bytes` are the name of a facet's rollback journal, as `vdbeCommit` writes one into a
/// super-journal. Paths of files are absolute, and so are no names of facets.
fn is_journal_of_facet(bytes: &[u8], known: &KnownFacets) -> bool {
    let name = bytes.strip_suffix(b"-journal\0").and_then(|name| std::str::from_utf8(name).ok());
    name.and_then(|name| FacetName::new(name).ok()).is_some_and(|name| known.has(&name))
}

fn to_index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl File for ScratchFile {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<Filled, Failure> {
        let available = match &self.place {
            Place::Memory(memory) => {
                let start = memory.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
                let available = into.len().min(memory.len() - start);
                into[..available].copy_from_slice(&memory[start..start + available]);
                available
            }
            Place::Spilled { file, size_bytes } => {
                let rest = usize::try_from(size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
                let available = into.len().min(rest);
                file.read_exact_at(&mut into[..available], offset)
                    .map_err(|error| self.failure(Operation::Read, &error))?;
                available
            }
        };
        into[available..].fill(0);
        Ok(if available == into.len() { Filled::Whole } else { Filled::Short })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let bytes = self.watched(bytes)?;
        let end = offset.saturating_add(bytes.len() as u64);
        let written = self.make_room(end).and_then(|()| match &mut self.place {
            Place::Memory(memory) => {
                let (start, end) = (to_index(offset)?, to_index(end)?);
                if memory.len() < end {
                    memory.resize(end, 0);
                }
                memory[start..end].copy_from_slice(bytes);
                Ok(())
            }
            Place::Spilled { file, size_bytes } => {
                file.write_all_at(bytes, offset)?;
                *size_bytes = end.max(*size_bytes);
                Ok(())
            }
        });
        written.map_err(|error| self.failure(Operation::Write, &error))
    }

    fn truncate(&mut self, size_bytes: u64) -> Result<(), Failure> {
        let truncated = self.make_room(size_bytes).and_then(|()| match &mut self.place {
            // An emptied journal is done with; its memory, or its place on disk, is given back.
            place if size_bytes == 0 => {
                *place = Place::Memory(Vec::new());
                Ok(())
            }
            Place::Memory(memory) => {
                memory.resize(to_index(size_bytes)?, 0);
                Ok(())
            }
            Place::Spilled { file, size_bytes: size } => {
                file.set_len(size_bytes)?;
                *size = size_bytes;
                Ok(())
            }
        });
        truncated.map_err(|error| self.failure(Operation::Truncate, &error))
    }

    fn size_bytes(&mut self) -> Result<u64, Failure> {
        Ok(match &self.place {
            Place::Memory(memory) => memory.len() as u64,
            Place::Spilled { size_bytes, .. } => *size_bytes,
        })
    }

    fn lock(&mut self, _level: LockLevel) -> Result<(), Failure> {
        Ok(())
    }

    fn unlock(&mut self, _level: LockLevel) {}

    fn lock_level(&self) -> LockLevel {
        LockLevel::None
    }

    fn device_characteristics(&self) -> c_int {
        // Writing a byte range does not change bytes beside it. The file dies with the process, so
        // this is not about power loss: it keeps SQLite from journaling whole "sectors".
        sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(memory_bytes_max: usize) -> ScratchSpace {
        ScratchSpace { memory_bytes_max, directory: None }
    }

    #[test]
    fn same_bytes_in_memory_and_spilled() {
        for memory_bytes_max in [0, 10, 1000, 1 << 20] {
            let mut file = ScratchFile::new(space(memory_bytes_max), Watch::Nothing);
            let mut model = Vec::new();
            for step in 0_usize..50 {
                let offset = step * 37 % 1500;
                let bytes = vec![u8::try_from(step).unwrap() + 1; step * 13 % 97];
                file.write(offset as u64, &bytes).unwrap();
                if model.len() < offset + bytes.len() {
                    model.resize(offset + bytes.len(), 0);
                }
                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                if step % 7 == 6 {
                    let size = model.len() / 2;
                    file.truncate(size as u64).unwrap();
                    model.truncate(size);
                }
                assert_eq!(file.size_bytes().unwrap(), model.len() as u64);
                let mut all = vec![0xaa; model.len() + 5];
                assert_eq!(file.read(0, &mut all).unwrap(), Filled::Short);
                assert_eq!(all[..model.len()], model[..]);
                assert_eq!(all[model.len()..], [0; 5]);
            }
            assert_eq!(file.is_spilled(), memory_bytes_max < 1500);
        }
    }

    #[test]
    fn reading_past_the_end_gives_zeros() {
        for memory_bytes_max in [0, 100] {
            let mut file = ScratchFile::new(space(memory_bytes_max), Watch::Nothing);
            file.write(0, b"abc").unwrap();
            let mut bytes = [9; 4];
            assert_eq!(file.read(1, &mut bytes).unwrap(), Filled::Short);
            assert_eq!(&bytes, b"bc\0\0");
            assert_eq!(file.read(u64::MAX / 4, &mut bytes).unwrap(), Filled::Short);
            assert_eq!(bytes, [0; 4]);
            let mut exact = [9; 3];
            assert_eq!(file.read(0, &mut exact).unwrap(), Filled::Whole);
        }
    }

    #[test]
    fn emptying_gives_the_disk_back() {
        let mut file = ScratchFile::new(space(4), Watch::Nothing);
        file.write(0, b"12345").unwrap();
        assert!(file.is_spilled());
        file.truncate(0).unwrap();
        assert!(!file.is_spilled());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = Some(Arc::new(PathBuf::from("/nonexistent/scratch")));
        let mut file =
            ScratchFile::new(ScratchSpace { memory_bytes_max: 2, directory }, Watch::Nothing);
        let failure = file.write(0, b"abc").unwrap_err();
        assert_eq!(failure.code, sqlite::SQLITE_IOERR_WRITE);
        assert!(failure.message.contains("/nonexistent/scratch"), "{}", failure.message);
    }

    #[test]
    fn no_name_of_a_super_journal_gets_into_a_main_journal() {
        let mut header = [0; 512];
        header[..8].copy_from_slice(&JOURNAL_MAGIC);
        let mut refusing = ScratchFile::new(space(1 << 10), Watch::NoSuperJournal);
        let failure = refusing.write(512, &JOURNAL_MAGIC).unwrap_err();
        assert_eq!(failure.code & 0xff, sqlite::SQLITE_IOERR);
        assert!(failure.message.contains("by itself"));
        refusing.write(0, &header).unwrap();
        let written = |watch| {
            let mut journal = ScratchFile::new(space(1 << 10), watch);
            journal.write(0, &header).unwrap();
            journal.write(512, &JOURNAL_MAGIC).unwrap();
            let mut found = [1; 520];
            assert_eq!(journal.read(0, &mut found).unwrap(), Filled::Whole);
            assert_eq!(found[..512], header);
            found[512..] == JOURNAL_MAGIC
        };
        assert!(written(Watch::Nothing));
        assert!(!written(Watch::SuperJournalName));
    }

    #[test]
    fn a_super_journal_has_facets_alone() {
        let known = KnownFacets::new(|name| name.as_str() == "a/b");
        let mut names = ScratchFile::new(
            space(1 << 10),
            Watch::Names { known, _open: Arc::new(SuperJournalIsOpen) },
        );
        names.write(0, b"a/b-journal\0").unwrap();
        for other in ["/a/b-journal\0", "a/b-journal", "a/c-journal\0", "a/b\0", "-journal\0"] {
            let failure = names.write(12, other.as_bytes()).unwrap_err();
            assert!(failure.message.contains("facets and files"), "{other}");
        }
    }
}
