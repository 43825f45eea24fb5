//! Verification: every checksum, and whether all that refers to something, and all that is counted,
//! is right.
//!
//! It looks at one checkpoint, taken for it if need be. While it runs, commits go on, but no other
//! checkpoint is taken and nothing is cleaned, so that what the checkpoint leads to stays where it is.
//!
//! 1. *From the root down*: catalog, page maps, histories, and every page, each read and compared with
//!    its checksum. What several facets share is looked at once, and its holders are counted.
//! 2. *Counts*: what was reached must be what is counted as live in each segment, and as shared.
//! 3. *Along the log*: every record in every segment in use, whether or not anything leads to it.

mod reached;
mod report;
mod walk;

use std::sync::Arc;

pub use report::{Finding, FindingKind, VerifyProgress, VerifyReport};

use super::Store;
use super::recovery::Spot;
use crate::config::{Background, StoreOptions};
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::format::batch::{self, BatchHeader};
use crate::format::catalog::SegmentEntry;
use crate::format::record;
use crate::format::segment::{BATCHES_AT, SegmentKind};
use crate::format::{BLOCK_BYTES_STORED, Identity, slot_at, stored_len};
use crate::io::OverlayIo;
use walk::Walk;

impl Store {
    /// Reads everything there is, compares every checksum, and checks that what refers to something,
    /// what is shared and what is counted is right. Commits go on meanwhile; checkpoints and cleaning
    /// wait. `progress` is told now and then how far it has come.
    ///
    /// What is damaged is reported, not mended, and stays an error of the facets concerned.
    ///
    /// # Errors
    /// [`Error::Poisoned`] or [`Error::Closed`]; [`Error::NoSpace`] if the checkpoint that it begins
    /// with finds no room. Damage is no error: it is in the report.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport> {
        let shared = &self.shared;
        let mut checkpointer = shared.checkpointer();
        // Also of what is not in any checkpoint yet.
        shared.checkpoint_with(&mut checkpointer)?;
        let segments = shared.core.segments.entries();
        let mut walk = Walk::new(shared, &checkpointer, &segments, progress);
        walk.down()?;
        walk.check_counts();
        for entry in &segments {
            let end = match shared.core.log.active_end(entry.segment) {
                Some(offset) => offset,
                None => entry.size,
            };
            walk.along(entry, end)?;
        }
        Ok(walk.report)
    }

    /// Verifies a store that no process has open, without changing a byte of it: as
    /// [`verify`](Self::verify) after the recovery that the next open would do.
    ///
    /// # Errors
    /// As [`Store::open`], if the store cannot be opened: [`Store::salvage`](Store::salvage) gets out
    /// of such a store what can be read.
    pub fn verify_offline(
        environment: Environment,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<VerifyReport> {
        let io = Arc::new(OverlayIo::new(Arc::clone(&environment.io)));
        let environment = Environment { io, ..environment };
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        Self::open(environment, options)?.verify(progress)
    }
}

impl Walk<'_> {
    /// Step 3: the records of a segment, which end before `end`.
    fn along(&mut self, entry: &SegmentEntry, end: u32) -> Result<()> {
        let mut offset = BATCHES_AT;
        let mut bad = None;
        while offset < end.min(entry.size) {
            let spot = Spot {
                store: self.shared.id,
                file: entry.file,
                segment: Some(entry.segment),
                offset,
                end: entry.size,
            };
            let found = match spot.batch(&self.shared.core.segments) {
                Ok(found) => found,
                Err(error @ (Error::Poisoned { .. } | Error::Closed)) => return Err(error),
                Err(error) => {
                    self.damaged(entry, offset, error.to_string());
                    None
                }
            };
            let Some((header, _, bytes)) = found else {
                // Where the log left the segment, or damage: only a batch further on tells.
                bad.get_or_insert(offset);
                offset += BLOCK_BYTES_STORED;
                continue;
            };
            // What the cleaner had not published when the power was lost, a crash leaves in parts.
            let is_remains = entry.kind == SegmentKind::Survivors
                && !self.is_led_to(entry, offset, &header, &bytes);
            if let Some(bad) = bad.take_if(|_| !is_remains) {
                let detail = "no valid batch starts here, though one follows further on";
                self.damaged(entry, bad, detail.to_owned());
            }
            let count = header.record_count;
            let good = match entry.kind {
                SegmentKind::Log => record::decode_all(&bytes, header.first_lsn, count).map(drop),
                SegmentKind::Survivors => record::items(&bytes, header.first_lsn, count).map(drop),
            };
            if let Err(malformed) = good {
                self.damaged(entry, offset, format!("a record makes no sense: {}", malformed.0));
            }
            let len = batch::padded_bytes(bytes.len());
            self.read(len as u64);
            offset += stored_len(len);
        }
        self.report.segments += 1;
        Ok(())
    }

    /// Whether something leads to a survivor in the batch at `offset`.
    fn is_led_to(
        &self,
        entry: &SegmentEntry,
        offset: u32,
        header: &BatchHeader,
        bytes: &[u8],
    ) -> bool {
        let records_at = u64::from(offset) + batch::HEADER_BYTES as u64;
        let Ok(items) = record::items(bytes, header.first_lsn, header.record_count) else {
            return true;
        };
        items.into_iter().any(|item| {
            let slot = slot_at(records_at + item.at as u64);
            let here = Identity { segment: entry.segment, slot };
            self.shared.core.segments.files.place(item.moved.unwrap_or(here)) == here
        })
    }

    fn damaged(&mut self, entry: &SegmentEntry, offset: u32, detail: String) {
        self.report.push(Finding {
            kind: FindingKind::Record,
            facet: None,
            page: None,
            path: self.shared.core.segments.files.path_of(entry.file),
            segment: Some(entry.segment),
            offset: u64::from(offset),
            detail,
        });
    }
}
