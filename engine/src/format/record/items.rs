//! What is in a batch that references can lead to, wherever it stands: what the cleaner moves, and what
//! verification and salvage look at.

use super::commit::{COMMIT_FIXED_BYTES, REFERRED_BYTES};
use super::{
    CATALOG, COMMIT, FORK, HEADER_BYTES, IMAGES, IMAGES_BYTES, PART, PartKind, SPILL, SURVIVORS,
    UnverifiedPart, split, walk,
};
use crate::format::page::UnverifiedPage;
use crate::format::{Identity, Malformed, Reader};
use crate::types::{FacetId, Lsn, PageNo, SegmentId};

/// Something in a batch that a reference can lead to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    /// Offset from the start of the records, where its bytes are.
    pub(crate) at: usize,
    pub(crate) bytes: &'a [u8],
    pub(crate) crc: u32,
    /// Where a survivor was first written; `None` for what is still there.
    pub(crate) moved: Option<Identity>,
    pub(crate) kind: ItemKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// A page, as it was written for a facet.
    Page {
        facet: FacetId,
        page: PageNo,
    },
    Part(PartKind),
}

/// All that references can lead to in a batch whose hash has been verified.
pub(crate) fn items(
    records: &[u8],
    first_lsn: Lsn,
    count: u32,
) -> Result<Vec<Item<'_>>, Malformed> {
    let mut items = Vec::new();
    walk(records, first_lsn, count, |header, body, at| {
        let body_at = at + HEADER_BYTES;
        match header.kind {
            COMMIT => {
                let mut reader = Reader::new(body);
                reader.take(COMMIT_FIXED_BYTES - HEADER_BYTES - 16)?;
                let (referred, inline) = (reader.u32()? as usize, reader.u32()?);
                reader.take(8)?;
                reader.take(referred.saturating_mul(REFERRED_BYTES))?;
                page_items(body, body.len() - reader.remaining(), inline, body_at, &mut items)
            }
            SPILL => {
                let mut reader = Reader::new(body);
                reader.take(8)?;
                let count = reader.u32()?;
                page_items(body, 16, count, body_at, &mut items)
            }
            IMAGES => {
                let mut reader = Reader::new(body);
                reader.take(8)?;
                let count = reader.u32()?;
                page_items(body, IMAGES_BYTES - HEADER_BYTES, count, body_at, &mut items)
            }
            PART => {
                let part = UnverifiedPart::parse(body)?;
                let kind = ItemKind::Part(part.verify()?.0);
                let bytes = &records[at..at + header.len];
                items.push(Item { at, bytes, crc: part.crc, moved: None, kind });
                Ok(())
            }
            SURVIVORS => {
                let mut reader = Reader::new(body);
                let count = reader.u32()?;
                reader.reserved(4)?;
                for _ in 0..count {
                    let segment = SegmentId(reader.u32()?);
                    let moved = Some(Identity { segment, slot: reader.u32()? });
                    let at = body_at + (body.len() - reader.remaining());
                    let (crc, kind, len) = survivor(&records[at..at + reader.remaining()])?;
                    items.push(Item { at, bytes: reader.take(len)?, crc, moved, kind });
                }
                Ok(())
            }
            CATALOG | FORK => Ok(()),
            _ => Err(Malformed("a record's kind is unknown")),
        }
    })?;
    Ok(items)
}

/// What a survivor is, and how long.
fn survivor(bytes: &[u8]) -> Result<(u32, ItemKind, usize), Malformed> {
    // Where a part has its kind and its length, a page record has the number of its page and the
    // length of its payload, which is never that of the record.
    if let Ok((header, body)) = split(bytes)
        && header.kind == PART
        && let Ok(part) = UnverifiedPart::parse(body)
        && let Ok((kind, _)) = part.verify()
    {
        return Ok((part.crc, ItemKind::Part(kind), header.len));
    }
    let page = UnverifiedPage::parse(bytes)?;
    Ok((page.crc, page_kind(bytes)?, page.len))
}

fn page_kind(bytes: &[u8]) -> Result<ItemKind, Malformed> {
    let page = UnverifiedPage::parse(bytes)?;
    Ok(ItemKind::Page { facet: page.facet, page: page.page })
}

fn page_items<'a>(
    body: &'a [u8],
    mut at: usize,
    count: u32,
    body_at: usize,
    items: &mut Vec<Item<'a>>,
) -> Result<(), Malformed> {
    for _ in 0..count {
        let rest = body.get(at..).ok_or(Malformed("it ends early"))?;
        let page = UnverifiedPage::parse(rest)?;
        items.push(Item {
            at: body_at + at,
            bytes: &rest[..page.len],
            crc: page.crc,
            moved: None,
            kind: page_kind(rest)?,
        });
        at += page.len;
    }
    Ok(())
}
