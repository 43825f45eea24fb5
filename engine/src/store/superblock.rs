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
    /// Slot that is written first: the one that may not be on the disk as it was read.
    first_slot: usize,
    /// Replacing what it says was begun and has not ended: what the disk has may be another than what was
    /// read, since that may be in the page cache only.
    is_unsettled: bool,
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
        let mut this = Self { file, path, current: first, first_slot: 0, is_unsettled: false };
        this.write()?;
        io.sync_directory().map_err(failed(&this.path, "sync the directory of", None))?;
        Ok(this)
    }

    /// Reads the superblock of a store.
    pub(super) fn open(io: &dyn Io) -> Result<Self> {
        let path = path(io);
        let file = io.open(FileName::Superblock).map_err(failed(&path, "open", None))?;
        let len = file.len().map_err(failed(&path, "find the length of", None))?;
        let mut valid: Vec<(usize, Superblock)> = Vec::new();
        let mut too_new = None;
        let mut damage = None;
        for (number, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            if len < offset + BLOCK_BYTES as u64 {
                damage = damage.or(Some((len, format!("it has {len} of {FILE_BYTES} bytes"))));
                continue;
            }
            let mut slot = vec![0; BLOCK_BYTES];
            let decoded = match file.read_at(offset, &mut slot) {
                Ok(()) => Superblock::decode(&slot),
                // The other slot may be good.
                Err(_) => Err(SlotError::Damaged("it cannot be read")),
            };
            match decoded {
                Ok(found) => valid.push((number, found)),
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
        let is_damaged = valid.len() < SLOT_OFFSETS.len();
        // A slot is synced before the other is written with the same, and the next sequence.
        let is_unsettled = match &valid[..] {
            [(_, one), (_, other)] => one.sequence.abs_diff(other.sequence) != 1,
            _ => true,
        };
        match valid.into_iter().max_by_key(|(_, superblock)| superblock.sequence) {
            // A damaged slot is written first, since the other is all there is. Of two valid ones
            // the newer is: what was read of it may be in the page cache only, while the older was
            // synced before the newer was written.
            Some((newest, current)) => {
                let first_slot = if is_damaged { 1 - newest } else { newest };
                Ok(Self { file, path, current, first_slot, is_unsettled })
            }
            None => {
                let (offset, detail) =
                    damage.unwrap_or_else(|| (0, "it has no valid slot".to_owned()));
                Err(Error::Corrupt { path, offset, detail })
            }
        }
    }

    /// Whether what is there can be the remains of a creation that was cut off: nothing but zeros
    /// and beginnings of slots.
    pub(super) fn is_unfinished(io: &dyn Io) -> Result<bool> {
        let path = path(io);
        let file = io.open(FileName::Superblock).map_err(failed(&path, "open", None))?;
        let len = file.len().map_err(failed(&path, "find the length of", None))?;
        if len > FILE_BYTES as u64 {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_at(0, &mut bytes).map_err(failed(&path, "read", Some(0)))?;
        bytes.resize(FILE_BYTES, 0);
        Ok(bytes.chunks(BLOCK_BYTES).all(Superblock::may_be_torn))
    }

    /// Replaces what the superblock says; durable when it returns.
    ///
    /// First the slot that may be damaged is written and synced, then the other. In the other order a
    /// crash could leave both damaged. Nothing may be recycled or acknowledged on the strength of the
    /// new one before both are done: then either slot alone is enough to open the store, so no single
    /// damaged one loses anything.
    pub(super) fn replace(&mut self, mut next: Superblock) -> Result<()> {
        next.sequence = self.current.sequence + 1;
        self.current = next;
        self.write()
    }

    /// Makes sure that the disk has what was read, and nothing else that is valid.
    ///
    /// A slot that is being replaced when the process dies is in the page cache, whole or torn, while the
    /// disk has what it was before, or what it was to become. If it is torn and a later crash brings back
    /// what it was to become, that counts again. So nothing may be overwritten that either needs before this.
    pub(super) fn settle(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_unsettled) {
            self.replace(self.current.clone())?;
        }
        Ok(())
    }

    /// Writes both slots, each with a sequence of its own, so that the order can be told later.
    fn write(&mut self) -> Result<()> {
        for number in [self.first_slot, 1 - self.first_slot] {
            let offset = SLOT_OFFSETS[number];
            self.file.write_at(offset, &self.current.encode()).map_err(failed(
                &self.path,
                "write",
                Some(offset),
            ))?;
            self.file.sync().map_err(failed(&self.path, "sync", None))?;
            self.current.sequence += 1;
        }
        Ok(())
    }
}
