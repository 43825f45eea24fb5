//! What checkpoints write of facets' histories.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::parts::{Cell, PART_PAYLOAD_BYTES, Parts, placed};
use crate::error::Result;
use crate::facet::{Captured, CapturedContent, Edit, HistoryPart, StoredHistory};
use crate::format::StoredRef;
use crate::format::catalog::{self, VersionMeta};
use crate::format::record::{self, PartKind};
use crate::types::{FacetId, PageNo, Version};

/// A history part of fewer bytes is written again together with what is new.
const HISTORY_PART_BYTES_MIN: u32 = 2 << 10;

/// What a checkpoint wrote of a facet's history.
pub(super) struct WrittenHistory {
    pub(super) stored: StoredHistory,
    pub(super) obsolete: Vec<StoredRef>,
    pub(super) added: Vec<StoredRef>,
}

/// Bytes of a facet's history parts at most.
pub(super) fn history_bytes_max(captured: &Captured) -> usize {
    let Some(content) = &captured.content else { return 0 };
    let history = &content.history;
    if history.added.is_empty() && history.left.is_empty() {
        return 0;
    }
    let notes: u64 = history.added.iter().map(|edit| edit.note_bytes()).sum();
    let notes = usize::try_from(notes).unwrap_or(usize::MAX / 4) + HISTORY_PART_BYTES_MIN as usize;
    let parts = 2 + notes / (PART_PAYLOAD_BYTES / 2);
    let index = (history.stored.parts.len() + parts) * catalog::HISTORY_INDEX_BYTES;
    // An edit that is cut in two repeats what it says of its version.
    notes
        + parts * (record::part_bytes(catalog::HISTORY_FIXED_BYTES) + catalog::EDIT_FIXED_BYTES)
        + record::part_bytes(8)
        + index
}

/// Writes the histories that changed: their parts, then the index of each.
pub(super) fn write_histories(
    parts: &mut Parts<'_>,
    captured: &[Captured],
) -> Result<BTreeMap<FacetId, WrittenHistory>> {
    let mut written = Vec::new();
    for captured in captured {
        let Some(CapturedContent { history, .. }) = &captured.content else { continue };
        let stays = |part: &&HistoryPart| part.newest >= history.from;
        let mut kept: Vec<HistoryPart> =
            history.stored.parts.iter().filter(stays).copied().collect();
        if history.added.is_empty() && kept.len() == history.stored.parts.len() {
            continue;
        }
        let mut obsolete: Vec<StoredRef> = history
            .stored
            .parts
            .iter()
            .filter(|part| !stays(part))
            .map(|part| part.reference)
            .chain(history.stored.index)
            .collect();
        // A small part is written again, together with what is new.
        let mut edits: Vec<&Arc<Edit>> = Vec::new();
        if !history.added.is_empty()
            && let Some(small) = kept.pop_if(|part| part.reference.len < HISTORY_PART_BYTES_MIN)
        {
            let after = kept.last().map_or(Version(0), |part| part.newest.next());
            edits.extend(history.kept.iter().filter(|edit| edit.meta.version >= after));
            obsolete.push(small.reference);
        }
        edits.extend(&history.added);
        let id = captured.facet.id();
        let mut cells = Vec::new();
        for (payload, newest) in encode_edits(&edits) {
            cells.push((parts.append_in_cell(PartKind::History(id), &payload)?, newest));
        }
        written.push((id, kept, obsolete, cells));
    }
    parts.flush()?;
    let mut indexes = Vec::new();
    for (id, mut kept, obsolete, cells) in written {
        let new = cells
            .iter()
            .map(|(cell, newest)| HistoryPart { reference: placed(cell), newest: *newest });
        let mut added: Vec<StoredRef> = Vec::new();
        for part in new {
            added.push(part.reference);
            kept.push(part);
        }
        let index = if kept.is_empty() {
            None
        } else {
            let mut payload = Vec::new();
            let listed = kept.iter().map(|part| (part.reference, part.newest));
            catalog::encode_history_index(listed, &mut payload);
            Some(parts.append_in_cell(PartKind::HistoryIndex(id), &payload)?)
        };
        indexes.push((id, kept, obsolete, added, index));
    }
    parts.flush()?;
    let history =
        |(id, parts, obsolete, mut added, index): (_, _, _, Vec<StoredRef>, Option<Cell>)| {
            let index = index.map(|cell| placed(&cell));
            added.extend(index);
            (id, WrittenHistory { stored: StoredHistory { index, parts }, obsolete, added })
        };
    Ok(indexes.into_iter().map(history).collect())
}

/// An edit, or a piece of one: the version that was replaced, and pages that were.
type Piece<'a> = (&'a VersionMeta, Vec<(PageNo, Option<StoredRef>)>);

/// The payloads of history parts, each with the newest version it has an edit of.
fn encode_edits(edits: &[&Arc<Edit>]) -> Vec<(Vec<u8>, Version)> {
    const PIECE_PAGES: usize =
        (PART_PAYLOAD_BYTES / 2 - catalog::EDIT_FIXED_BYTES) / catalog::EDIT_PAGE_BYTES;
    let mut payloads = Vec::new();
    let mut group: Vec<Piece<'_>> = Vec::new();
    let mut bytes = 0;
    let mut finish = |group: &mut Vec<Piece<'_>>| {
        if let Some(newest) = group.last().map(|(meta, _)| meta.version) {
            let mut payload = Vec::new();
            let pieces = group.iter().map(|(meta, pages)| (*meta, &pages[..]));
            catalog::encode_history(pieces, &mut payload);
            group.clear();
            payloads.push((payload, newest));
        }
    };
    for edit in edits {
        let placed: Vec<_> = edit.placed().collect();
        let pieces = placed.chunks(PIECE_PAGES);
        let empty = placed.is_empty().then_some(&[][..]);
        for pages in pieces.chain(empty) {
            let more = catalog::EDIT_FIXED_BYTES + pages.len() * catalog::EDIT_PAGE_BYTES;
            if bytes + more > PART_PAYLOAD_BYTES {
                finish(&mut group);
                bytes = 0;
            }
            group.push((&edit.meta, pages.to_vec()));
            bytes += more;
        }
    }
    finish(&mut group);
    payloads
}
