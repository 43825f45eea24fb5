//! Appending the parts of a checkpoint to the log.

use std::sync::{Arc, OnceLock};

use crate::core::Core;
use crate::error::Result;
use crate::format::record::{self, PartKind};
use crate::format::{StoredRef, stored_len};
use crate::log::{Effect, PartPlace};
use crate::types::Ticket;

/// Bytes of parts appended before they are flushed, so that a checkpoint does not fill the buffers.
pub(super) const PART_BYTES_PER_FLUSH: usize = 1 << 20;
/// Most bytes of a history or forwards part: small enough for the smallest segment.
pub(super) const PART_PAYLOAD_BYTES: usize = 16 << 10;

/// Where a part is, once it is there.
pub(super) type Cell = Arc<OnceLock<StoredRef>>;

pub(super) fn placed(cell: &OnceLock<StoredRef>) -> StoredRef {
    *cell.get().expect("a durable part has its place")
}

/// Appends checkpoint parts.
pub(super) struct Parts<'a> {
    core: &'a Core,
    pending_bytes: usize,
    ticket: Ticket,
}

impl<'a> Parts<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self { core, pending_bytes: 0, ticket: Ticket::DURABLE }
    }

    pub(super) fn append(
        &mut self,
        kind: PartKind,
        payload: &[u8],
        place: PartPlace,
    ) -> Result<()> {
        let log = &self.core.log;
        let bytes = record::part_bytes(payload.len());
        let admission = log.admit_ensured(bytes)?;
        // The last buffer: cores use the first ones.
        let buffer = self.core.tunables.log_buffers.max(1) - 1;
        self.ticket = log.append(admission, buffer, |lsn, out| {
            let at = out.len();
            let crc = record::encode_part(lsn, kind, payload, out);
            Effect::Part { at, len: stored_len(out.len() - at), crc, place }
        });
        self.pending_bytes += bytes;
        if self.pending_bytes >= PART_BYTES_PER_FLUSH {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn append_in_cell(&mut self, kind: PartKind, payload: &[u8]) -> Result<Cell> {
        let cell = Arc::new(OnceLock::new());
        self.append(kind, payload, PartPlace::Cell(Arc::clone(&cell)))?;
        Ok(cell)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        self.core.log.wait_durable(&self.core.segments, self.ticket)
    }
}
