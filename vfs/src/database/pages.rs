//! A byte stream over the engine's pages. SQLite mostly reads and writes whole pages, but not
//! always of the facet's size: VACUUM with a new page size and the backup interface write in
//! another, the pager reads a few bytes of the header, `sqlite3_file_control` users read anything.

use lapidary_engine::{Error, HeldPages, PageNo, PageSize, Result, Snapshot, Writer};

use crate::file::{FETCHED_PAST_BYTES, Filled};

/// Pages that can be read.
pub(super) trait Pages {
    fn page_size(&self) -> Option<PageSize>;
    fn page_count(&self) -> u32;
    fn read_page(&self, page: PageNo, into: &mut [u8]) -> Result<()>;
    /// A page in place, as [`HeldPages::hold`] has it.
    fn hold_page<'a>(&self, held: &'a mut HeldPages, page: PageNo) -> Option<&'a [u8]>;
}

impl Pages for Snapshot {
    fn page_size(&self) -> Option<PageSize> {
        self.page_size()
    }

    fn page_count(&self) -> u32 {
        self.page_count()
    }

    fn read_page(&self, page: PageNo, into: &mut [u8]) -> Result<()> {
        self.read_page(page, into)
    }

    fn hold_page<'a>(&self, held: &'a mut HeldPages, page: PageNo) -> Option<&'a [u8]> {
        held.hold(self, page, FETCHED_PAST_BYTES)
    }
}

impl Pages for Writer {
    fn page_size(&self) -> Option<PageSize> {
        self.page_size()
    }

    fn page_count(&self) -> u32 {
        self.page_count()
    }

    fn read_page(&self, page: PageNo, into: &mut [u8]) -> Result<()> {
        self.read_page(page, into)
    }

    fn hold_page<'a>(&self, held: &'a mut HeldPages, page: PageNo) -> Option<&'a [u8]> {
        held.hold_in(self, page, FETCHED_PAST_BYTES)
    }
}

/// Bytes that `pages` hold.
pub(super) fn size_bytes(pages: &impl Pages) -> u64 {
    let page_bytes = pages.page_size().map_or(0, PageSize::bytes);
    u64::from(pages.page_count()) * page_bytes as u64
}

/// The page that holds `offset`, and where in it.
fn locate(page_size: PageSize, offset: u64) -> Result<(PageNo, usize)> {
    let within = offset & (page_size.bytes() as u64 - 1);
    let page = (offset >> page_size.log2()) + 1;
    match (u32::try_from(page), usize::try_from(within)) {
        (Ok(page), Ok(within)) => Ok((PageNo(page), within)),
        _ => Err(Error::InvalidInput(format!(
            "offset {offset} is beyond the largest database of {}-byte pages",
            page_size.bytes()
        ))),
    }
}

/// Fills `into` from `offset` of a stream that ends at `size_bytes`; zeros past the end.
pub(super) fn read(
    pages: &impl Pages,
    size_bytes: u64,
    offset: u64,
    into: &mut [u8],
) -> Result<Filled> {
    let wanted = into.len();
    let before_end = usize::try_from(size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
    let (mut rest, beyond) = into.split_at_mut(wanted.min(before_end));
    beyond.fill(0);
    let filled = if beyond.is_empty() { Filled::Whole } else { Filled::Short };
    let Some(page_size) = pages.page_size() else {
        rest.fill(0);
        return Ok(filled);
    };
    let mut at = offset;
    while !rest.is_empty() {
        let (page, within) = locate(page_size, at)?;
        let length = rest.len().min(page_size.bytes() - within);
        let (part, after) = rest.split_at_mut(length);
        if length == page_size.bytes() {
            pages.read_page(page, part)?;
        } else {
            let mut whole = vec![0; page_size.bytes()];
            pages.read_page(page, &mut whole)?;
            part.copy_from_slice(&whole[within..within + length]);
        }
        at += length as u64;
        rest = after;
    }
    Ok(filled)
}

/// The `length` bytes from `offset` in place, if they are just one page that can be read so. Never the
/// first one: its change counter is put in for each handle (`visible.rs`).
pub(super) fn fetch<'a>(
    pages: &impl Pages,
    held: &'a mut HeldPages,
    offset: u64,
    length: usize,
) -> Option<&'a [u8]> {
    let page_size = pages.page_size().filter(|page_size| page_size.bytes() == length)?;
    match locate(page_size, offset) {
        Ok((page, 0)) if page.0 > 1 => pages.hold_page(held, page),
        _ => None,
    }
}

/// Stages `bytes` at `offset`. The writer has a page size.
pub(super) fn write(
    writer: &mut Writer,
    page_size: PageSize,
    offset: u64,
    bytes: &[u8],
) -> Result<()> {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (page, within) = locate(page_size, at)?;
        let length = rest.len().min(page_size.bytes() - within);
        let (part, after) = rest.split_at(length);
        if length == page_size.bytes() {
            writer.write_page(page, part)?;
        } else {
            let mut whole = read_or_zeros(writer, page_size, page)?;
            whole[within..within + length].copy_from_slice(part);
            writer.write_page(page, &whole)?;
        }
        at += length as u64;
        rest = after;
    }
    Ok(())
}

/// Makes the stream end at `size_bytes`. What lies beyond reads as zeros if it grows again.
pub(super) fn truncate(writer: &mut Writer, page_size: PageSize, size_bytes: u64) -> Result<()> {
    let (last, within) = locate(page_size, size_bytes)?;
    if within == 0 {
        return writer.set_page_count(last.0 - 1);
    }
    writer.set_page_count(last.0)?;
    let mut whole = read_or_zeros(writer, page_size, last)?;
    if whole[within..].iter().any(|&byte| byte != 0) {
        whole[within..].fill(0);
        writer.write_page(last, &whole)?;
    }
    Ok(())
}

fn read_or_zeros(writer: &Writer, page_size: PageSize, page: PageNo) -> Result<Vec<u8>> {
    let mut whole = vec![0; page_size.bytes()];
    if page.0 <= writer.page_count() {
        writer.read_page(page, &mut whole)?;
    }
    Ok(whole)
}
