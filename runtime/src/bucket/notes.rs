//! The file `BUCKET`: reading and replacing what it says.

use std::io;
use std::sync::Arc;

use lapidary_engine::{FileName, Io, IoFile};

use super::error::{BucketError, Result};
use super::format::Malformed;
use super::format::note::{Note, SLOT_BYTES};

/// Bytes of the file.
const FILE_BYTES: u64 = 2 * SLOT_BYTES as u64;

#[derive(Debug)]
pub(super) struct NoteFile {
    file: Arc<dyn IoFile>,
    path: String,
    current: Option<Note>,
}

impl NoteFile {
    /// Opens it, or creates it with nothing noted.
    pub(super) fn open(io: &dyn Io) -> Result<Self> {
        let path = format!("{}/{}", io.describe(), FileName::Bucket);
        let failed = |operation| BucketError::local(io, operation, Some(FileName::Bucket));
        let found = match io.open(FileName::Bucket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened.map_err(failed("open"))?),
        };
        let len = found.as_ref().map_or(Ok(0), |file| file.len());
        let len = len.map_err(failed("find the length of"))?;
        let file = match found {
            // Nothing is noted before the file has its length.
            Some(file) if len >= FILE_BYTES => file,
            _ => {
                let file = io.create(FileName::Bucket).map_err(failed("create"))?;
                // With all its blocks: what it is about to say may be what frees space on a full disk.
                file.reserve(FILE_BYTES).map_err(failed("reserve space for"))?;
                file.sync().map_err(failed("sync"))?;
                io.sync_directory().map_err(failed("sync the directory of"))?;
                file
            }
        };
        let mut current: Option<Note> = None;
        let mut is_damaged = false;
        for slot in 0..2 {
            let at = slot * SLOT_BYTES as u64;
            let mut bytes = vec![0; SLOT_BYTES];
            file.read_at(at, &mut bytes).map_err(failed("read"))?;
            match Note::decode(&bytes) {
                Ok(note) if current.as_ref().is_none_or(|best| best.sequence < note.sequence) => {
                    current = Some(note);
                }
                Ok(_) => {}
                Err(newer @ Malformed::TooNew(_)) => {
                    return Err(BucketError::malformed("BUCKET", io.describe(), newer));
                }
                // The first slot may be torn when it is written first. The second is not touched before
                // the first is whole.
                Err(_) => is_damaged |= slot == 1 && bytes.iter().any(|&byte| byte != 0),
            }
        }
        if current.is_none() && is_damaged {
            let malformed = Malformed::Damaged("neither of its slots is whole");
            return Err(BucketError::malformed("BUCKET", io.describe(), malformed));
        }
        let notes = Self { file, path, current };
        // A process that was killed may have left it in the page cache only, and the next one overwrites the slot
        // that is on the disk. Written over itself, it cannot be torn.
        if let Some(current) = &notes.current {
            notes.write(current)?;
        }
        Ok(notes)
    }

    /// What is noted.
    pub(super) fn current(&self) -> Option<&Note> {
        self.current.as_ref()
    }

    /// Notes something else, durably.
    pub(super) fn replace(&mut self, note: Note) -> Result<()> {
        let sequence = self.current.as_ref().map_or(1, |current| current.sequence + 1);
        let note = Note { sequence, ..note };
        self.write(&note)?;
        self.current = Some(note);
        Ok(())
    }

    /// Writes a note to its slot. The slots take turns, so the other one is not touched.
    fn write(&self, note: &Note) -> Result<()> {
        let at = (note.sequence + 1) % 2 * SLOT_BYTES as u64;
        self.file.write_and_sync(at, &note.encode()).map_err(|error| {
            let (operation, source) = error.into_parts();
            BucketError::Local { operation, path: self.path.clone(), source }
        })
    }
}
