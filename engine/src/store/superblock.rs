//! Reading and replacing the superblock.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::superblock::{FILE_BYTES, SLOT_OFFSETS, SlotError, Superblock};
use crate::format::{BLOCK_BYTES, FORMAT_VERSION};
use crate::io::{FileName, Io, IoFile};

/// The superblock's file and what it says.
#[derive(Debug)]
pub(super) struct SuperblockFile {
    file: Arc<dyn IoFile>,
    path: String,
    pub(super) current: Superblock,
    /// Slot that `current` is in for certain; the other may be damaged.
    good_slot: usize,
}

fn failed(
    path: &str,
    operation: &'static str,
    offset: Option<u64>,
) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), offset, source }
}

fn path(io: &dyn Io) -> String {
    format!("{}/{}", io.describe(), FileName::Superblock)
}

impl SuperblockFile {
    /// Writes the superblock of a new store.
    pub(super) fn create(io: &dyn Io, first: Superblock) -> Result<Self> {
        let path = path(io);
        let file = io.create(FileName::Superblock).map_err(failed(&path, "create", None))?;
        let mut this = Self { file, path, current: first, good_slot: 1 };
        this.write()?;
        io.sync_directory().map_err(failed(&this.path, "sync the directory of", None))?;
        Ok(this)
    }

    /// Reads the superblock of a store.
    pub(super) fn open(io: &dyn Io) -> Result<Self> {
        let path = path(io);
        let file = io.open(FileName::Superblock).map_err(failed(&path, "open", None))?;
        let len = file.len().map_err(failed(&path, "find the length of", None))?;
        let mut best: Option<(usize, Superblock)> = None;
        let mut too_new = None;
        let mut damage = None;
        for (slot_number, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            if len < offset + BLOCK_BYTES as u64 {
                damage = damage.or(Some((len, format!("it has {len} of {FILE_BYTES} bytes"))));
                continue;
            }
            let mut slot = vec![0; BLOCK_BYTES];
            file.read_at(offset, &mut slot).map_err(failed(&path, "read", Some(offset)))?;
            match Superblock::decode(&slot) {
                Ok(found) => {
                    if best.as_ref().is_none_or(|(_, best)| best.sequence < found.sequence) {
                        best = Some((slot_number, found));
                    }
                }
                Err(SlotError::TooNew(version)) => too_new = Some(version),
                Err(SlotError::Damaged(reason)) => {
                    tracing::warn!(path, offset, reason, "a superblock slot is damaged");
                    damage = damage.or(Some((offset, reason.to_owned())));
                }
            }
        }
        if let Some(found) = too_new {
            return Err(Error::FormatTooNew { path, found, supported: FORMAT_VERSION });
        }
        match best {
            Some((good_slot, current)) => Ok(Self { file, path, current, good_slot }),
            None => {
                let (offset, detail) =
                    damage.unwrap_or_else(|| (0, "it has no valid slot".to_owned()));
                Err(Error::Corrupt { path, offset, detail })
            }
        }
    }

    /// Replaces what the superblock says; durable when it returns.
    ///
    /// First the slot that may be damaged or old is written and synced, then the other. In the other
    /// order a crash could leave both damaged. Nothing may be recycled or acknowledged on the
    /// strength of the new one before both are done: then either slot alone is enough to open the
    /// store, so no single damaged one loses anything.
    pub(super) fn replace(&mut self, mut next: Superblock) -> Result<()> {
        next.sequence = self.current.sequence + 1;
        let before = std::mem::replace(&mut self.current, next);
        self.write().inspect_err(|_| self.current = before)
    }

    fn write(&mut self) -> Result<()> {
        let slot = self.current.encode();
        for number in [1 - self.good_slot, self.good_slot] {
            let offset = SLOT_OFFSETS[number];
            self.file.write_at(offset, &slot).map_err(failed(&self.path, "write", Some(offset)))?;
            self.file.sync().map_err(failed(&self.path, "sync", None))?;
        }
        Ok(())
    }
}
