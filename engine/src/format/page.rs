//! A page record: one page image, readable by itself.
//!
//! A page record is valid if and only if its checksum is the one in the reference that led to it,
//! and is right.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | page number |
//! | 4 | 4 | bytes of payload, without padding |
//! | 8 | 8 | facet the page was written for (forks share pages) |
//! | 16 | 1 | encoding |
//! | 17 | 1 | binary logarithm of the page size |
//! | 18 | 2 | reserved |
//! | 20 | 4 | crc32c of bytes 0 to 19 and the payload |
//! | 24 | … | payload, padded with zeros to a multiple of 8 |
//!
//! Encodings:
//! - 0, *full*: the page as it is, so that it can be read in place.
//! - 1, *sparse*: the page without its long runs of zeros, as (2 bytes: number of extents, then per
//!   extent 2 bytes offset and 2 bytes length, both in units of 8 bytes, padded to 8), then the
//!   extents' bytes. Everything outside the extents is zero.
//! - 2, *delta* (only in commits, and no reference leads to one): where the page differs from its image
//!   in the version before, as (4 bytes: checksum of the record that made that image, 2 bytes: number
//!   of extents, then the extents and their bytes as in a sparse page). Everything outside the extents is
//!   as it was.
//!
//! Leaving out zeros, and only zeros, is exact for any content: the engine need not know what a
//! b-tree page is, and cannot mistake another page for one.

use super::{Malformed, Reader, SLOT_BYTES};
use crate::types::{FacetId, PageNo, PageSize};

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 24;
const FULL: u8 = 0;
const SPARSE: u8 = 1;
const DELTA: u8 = 2;
/// Bytes of a delta before the number of its extents.
const BASE_BYTES: usize = 4;
/// Shorter runs of zeros are kept: an extent costs 4 bytes and a copy.
const ZERO_RUN_WORDS_MIN: usize = 8;

/// Most bytes a page of this size can take as a record.
pub(crate) fn record_bytes_max(size: PageSize) -> usize {
    HEADER_BYTES + size.bytes()
}

/// Whether a record of `len` bytes has the image of a page of this size in full. Others are shorter.
pub(crate) fn is_full_len(len: u32, size: PageSize) -> bool {
    len as usize == record_bytes_max(size)
}

/// The image that a page had in the version before, and the checksum of the record that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    pub(crate) image: &'a [u8],
    pub(crate) crc: u32,
}

/// Scratch space for [`encode`].
#[derive(Debug, Default)]
pub(crate) struct Extents {
    kept: Vec<(u16, u16)>,
    changed: Vec<(u16, u16)>,
}

/// What [`encode`] made of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) crc: u32,
    /// The record means nothing without the page's base.
    pub(crate) is_delta: bool,
}

/// Appends the record of a page, choosing the encoding: with a `base`, that may be a delta.
pub(crate) fn encode(
    facet: FacetId,
    page: PageNo,
    size: PageSize,
    image: &[u8],
    base: Option<Base<'_>>,
    extents: &mut Extents,
    out: &mut Vec<u8>,
) -> Encoded {
    debug_assert_eq!(image.len(), size.bytes());
    let start = out.len();
    if let Some(base) = base.filter(|base| base.image.len() == image.len()) {
        find_changes(base.image, image, &mut extents.changed);
        let delta = BASE_BYTES + extents_bytes(BASE_BYTES, &extents.changed);
        // So short a delta is not worth a look at what else there is.
        let is_short = delta <= image.len() / 16;
        if is_short || {
            find_extents(image, &mut extents.kept);
            delta < extents_bytes(0, &extents.kept).min(image.len())
        } {
            start_page(facet, page, size, DELTA, delta, out);
            out.extend_from_slice(&base.crc.to_le_bytes());
            push_extents(start, image, &extents.changed, out);
            return Encoded { crc: seal(start, out), is_delta: true };
        }
    } else {
        find_extents(image, &mut extents.kept);
    }
    let sparse = extents_bytes(0, &extents.kept);
    if sparse <= image.len() - image.len() / 16 {
        start_page(facet, page, size, SPARSE, sparse, out);
        push_extents(start, image, &extents.kept, out);
    } else {
        start_page(facet, page, size, FULL, image.len(), out);
        out.extend_from_slice(image);
    }
    Encoded { crc: seal(start, out), is_delta: false }
}

/// Appends the header of a record, without its checksum.
fn start_page(
    facet: FacetId,
    page: PageNo,
    size: PageSize,
    encoding: u8,
    payload: usize,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&page.0.to_le_bytes());
    out.extend_from_slice(&super::stored_len(payload).to_le_bytes());
    out.extend_from_slice(&facet.0.to_le_bytes());
    out.extend_from_slice(&[encoding, size.log2(), 0, 0, 0, 0, 0, 0]);
}

/// Puts the checksum into the record that began at `start`, and pads it.
fn seal(start: usize, out: &mut Vec<u8>) -> u32 {
    let crc = checksum(&out[start..]);
    out[start + 20..start + 24].copy_from_slice(&crc.to_le_bytes());
    super::pad(out, start, SLOT_BYTES);
    crc
}

/// Bytes of the table of `extents`, which begins `before` bytes after a multiple of 8, and of what is in them.
fn extents_bytes(before: usize, extents: &[(u16, u16)]) -> usize {
    let table = (before + 2 + 4 * extents.len()).next_multiple_of(SLOT_BYTES) - before;
    table + extents.iter().map(|&(_, words)| usize::from(words) * 8).sum::<usize>()
}

/// Appends the table of `extents` and what `image` has in them, to the record that began at `start`.
fn push_extents(start: usize, image: &[u8], extents: &[(u16, u16)], out: &mut Vec<u8>) {
    let count = u16::try_from(extents.len()).expect("a page has fewer than 65,536 words");
    out.extend_from_slice(&count.to_le_bytes());
    for (offset, words) in extents {
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&words.to_le_bytes());
    }
    super::pad(out, start, SLOT_BYTES);
    for &(offset, words) in extents {
        let offset = usize::from(offset) * 8;
        out.extend_from_slice(&image[offset..offset + usize::from(words) * 8]);
    }
}

/// Checksum of a record without its padding.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..20]), &record[HEADER_BYTES..])
}

/// Words that are looked at together: a run of zeros that counts has at least one such block in it.
const BLOCK_WORDS: usize = ZERO_RUN_WORDS_MIN / 2;

/// Finds the stretches of words between runs of at least [`ZERO_RUN_WORDS_MIN`] zero words; runs at
/// the start and at the end of the page may be shorter.
fn find_extents(image: &[u8], extents: &mut Vec<(u16, u16)>) {
    extents.clear();
    let words = image.len() / 8;
    let is_zero = |word: usize| image[word * 8..word * 8 + 8] == [0; 8];
    let is_zero_block = |block: usize| {
        const BYTES: usize = BLOCK_WORDS * 8;
        image[block * BYTES..(block + 1) * BYTES] == [0; BYTES]
    };
    // The end of the run of zeros at `at`.
    let run_end = |mut at: usize| {
        while at < words && at.is_multiple_of(BLOCK_WORDS) && is_zero_block(at / BLOCK_WORDS) {
            at += BLOCK_WORDS;
        }
        while at < words && is_zero(at) {
            at += 1;
        }
        at
    };
    let narrow = |words: usize| u16::try_from(words).expect("a page has at most 8,192 words");
    let mut push = |from: usize, to: usize| extents.push((narrow(from), narrow(to - from)));

    let mut start = run_end(0);
    if start == words {
        return;
    }
    let mut block = start / BLOCK_WORDS + 1;
    while block * BLOCK_WORDS < words {
        if !is_zero_block(block) {
            block += 1;
            continue;
        }
        let mut from = block * BLOCK_WORDS;
        // It ends at `start`, which is not zero.
        while is_zero(from - 1) {
            from -= 1;
        }
        let to = run_end(block * BLOCK_WORDS);
        if to == words {
            return push(start, from);
        }
        if to - from >= ZERO_RUN_WORDS_MIN {
            push(start, from);
            start = to;
        }
        block = to / BLOCK_WORDS + 1;
    }
    let mut end = words;
    while is_zero(end - 1) {
        end -= 1;
    }
    push(start, end);
}

/// Finds the stretches of words in which `image` differs from `base`, of the same length. Two that are
/// a word apart are one: that word costs little more than an extent.
fn find_changes(base: &[u8], image: &[u8], changes: &mut Vec<(u16, u16)>) {
    const BLOCK_BYTES: usize = 64;
    const WORDS: usize = BLOCK_BYTES / 8;
    changes.clear();
    let narrow = |words: usize| u16::try_from(words).expect("a page has at most 8,192 words");
    let blocks = base.chunks_exact(BLOCK_BYTES).zip(image.chunks_exact(BLOCK_BYTES)).enumerate();
    // The last stretch, which may go on.
    let (mut from, mut to) = (0, 0);
    for (block, _) in blocks.filter(|(_, (base, image))| base != image) {
        let range = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
        let words = base[range.clone()].chunks_exact(8).zip(image[range].chunks_exact(8));
        for (at, _) in words.enumerate().filter(|(_, (base, image))| base != image) {
            let at = block * WORDS + at;
            if to == 0 {
                from = at;
            } else if at > to + 1 {
                changes.push((narrow(from), narrow(to - from)));
                from = at;
            }
            to = at + 1;
        }
    }
    if to > 0 {
        changes.push((narrow(from), narrow(to - from)));
    }
}

/// A page record as read from a log or a segment, before its checksum is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnverifiedPage<'a> {
    pub(crate) page: PageNo,
    /// The facet it was written for: the one that has it, or one that that was forked from.
    pub(crate) facet: FacetId,
    size: PageSize,
    encoding: u8,
    pub(crate) crc: u32,
    record: &'a [u8],
    /// Bytes of the record with its padding.
    pub(crate) len: usize,
}

impl<'a> UnverifiedPage<'a> {
    /// Reads the header of the record that `bytes` starts with.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let page = reader.page_no()?;
        let payload = reader.u32()? as usize;
        let facet = FacetId(reader.counter64()?);
        let encoding = reader.u8()?;
        let size = PageSize::from_log2(reader.u8()?).ok_or(Malformed("the page size is wrong"))?;
        reader.reserved(2)?;
        let crc = reader.u32()?;
        if payload > size.bytes() {
            return Err(Malformed("the payload is longer than a page"));
        }
        let len = (HEADER_BYTES + payload).next_multiple_of(SLOT_BYTES);
        if bytes.len() < len {
            return Err(Malformed("the payload ends early"));
        }
        let record = &bytes[..HEADER_BYTES + payload];
        Ok(Self { page, facet, size, encoding, crc, record, len })
    }

    pub(crate) fn size(&self) -> PageSize {
        self.size
    }

    /// Whether the payload is the image of a page of this size, as it is.
    pub(crate) fn is_full(&self, size: PageSize) -> bool {
        self.encoding == FULL
            && self.size == size
            && self.record.len() - HEADER_BYTES == size.bytes()
    }

    /// Compares the checksum.
    pub(crate) fn is_intact(&self) -> bool {
        checksum(self.record) == self.crc
    }

    /// Whether it means nothing without the page's image in the version before.
    pub(crate) fn is_delta(&self) -> bool {
        self.encoding == DELTA
    }

    /// Compares the checksum of a delta, and turns the image that it was made against, which a record of
    /// checksum `base` made, into its own.
    pub(crate) fn apply(&self, base: u32, image: &mut [u8]) -> Result<(), Malformed> {
        if !self.is_intact() {
            return Err(Malformed("the page's checksum is wrong"));
        }
        if !self.is_delta() || image.len() != self.size.bytes() {
            return Err(Malformed("it is no delta of a page of this size"));
        }
        let payload = &self.record[HEADER_BYTES..];
        let mut reader = Reader::new(payload);
        if reader.u32()? != base {
            return Err(Malformed("a delta was made against another image of the page"));
        }
        let count = usize::from(reader.u16()?);
        let mut data = Reader::new(payload);
        data.take((BASE_BYTES + 2 + 4 * count).next_multiple_of(SLOT_BYTES))?;
        for _ in 0..count {
            let offset = usize::from(reader.u16()?) * 8;
            let len = usize::from(reader.u16()?) * 8;
            let extent = image.get_mut(offset..offset + len);
            extent
                .ok_or(Malformed("an extent lies outside its page"))?
                .copy_from_slice(data.take(len)?);
        }
        if data.remaining() == 0 { Ok(()) } else { Err(Malformed("bytes follow a delta")) }
    }

    /// Compares the checksum and unpacks the image.
    pub(crate) fn unpack(&self, into: &mut [u8]) -> Result<(), Malformed> {
        if !self.is_intact() {
            return Err(Malformed("the page's checksum is wrong"));
        }
        if into.len() != self.size.bytes() {
            return Err(Malformed("the page has another size than its facet"));
        }
        let payload = &self.record[HEADER_BYTES..];
        match self.encoding {
            FULL if payload.len() == into.len() => into.copy_from_slice(payload),
            FULL => return Err(Malformed("a full image is shorter than its page")),
            SPARSE => unpack_sparse(payload, into)?,
            DELTA => return Err(Malformed("a reference leads to a delta")),
            _ => return Err(Malformed("the page's encoding is unknown")),
        }
        Ok(())
    }
}

fn unpack_sparse(payload: &[u8], into: &mut [u8]) -> Result<(), Malformed> {
    let mut table = Reader::new(payload);
    let count = usize::from(table.u16()?);
    let mut data = Reader::new(payload);
    data.take((2 + 4 * count).next_multiple_of(SLOT_BYTES))?;
    let mut filled = 0;
    for _ in 0..count {
        let offset = usize::from(table.u16()?) * 8;
        let len = usize::from(table.u16()?) * 8;
        if offset < filled || offset + len > into.len() {
            return Err(Malformed("an extent lies outside its page"));
        }
        into[filled..offset].fill(0);
        into[offset..offset + len].copy_from_slice(data.take(len)?);
        filled = offset + len;
    }
    into[filled..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(image: &[u8]) -> usize {
        let size = PageSize::from_bytes(image.len()).unwrap();
        let mut out = vec![9; 3];
        let encoded =
            encode(FacetId(1), PageNo(2), size, image, None, &mut Extents::default(), &mut out);
        assert!(!encoded.is_delta);
        let crc = encoded.crc;
        let record = &out[3..];
        assert!(record.len().is_multiple_of(8) && record.len() <= record_bytes_max(size));
        let page = UnverifiedPage::parse(record).unwrap();
        assert_eq!((page.page, page.crc), (PageNo(2), crc));
        assert_eq!(page.len, record.len());
        let mut back = vec![0xaa; image.len()];
        page.unpack(&mut back).unwrap();
        assert_eq!(back, image);
        record.len()
    }

    #[test]
    fn zeros_are_left_out() {
        assert_eq!(round_trip(&[0; 4096]), 32);
        let mut page = vec![0; 4096];
        page[..100].fill(1);
        page[4000..].fill(2);
        assert!(round_trip(&page) < 300);
        assert_eq!(round_trip(&vec![7; 65536]), 65536 + 24);
    }

    #[test]
    fn damage_is_found() {
        let mut page = vec![0; 1024];
        page[10..400].fill(3);
        let size = PageSize::from_bytes(1024).unwrap();
        let mut record = Vec::new();
        let Encoded { crc, .. } =
            encode(FacetId(1), PageNo(2), size, &page, None, &mut Extents::default(), &mut record);
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 8;
            let good = UnverifiedPage::parse(&damaged)
                .and_then(|page| page.unpack(&mut [0; 1024]).map(|()| page.crc == crc));
            // The last bytes may be padding, which is covered by nothing and means nothing.
            assert!(good != Ok(true) || at >= record.len() - 7, "{at}");
        }
    }

    fn delta(base: &[u8], image: &[u8]) -> (Encoded, Vec<u8>) {
        let size = PageSize::from_bytes(image.len()).unwrap();
        let mut out = Vec::new();
        let base = Some(Base { image: base, crc: 77 });
        let extents = &mut Extents::default();
        let encoded = encode(FacetId(1), PageNo(2), size, image, base, extents, &mut out);
        (encoded, out)
    }

    #[test]
    fn what_changed_is_a_delta_if_that_is_shorter() {
        let base: Vec<u8> = (0..4096_u32).map(|at| (at % 251) as u8 + 1).collect();
        let mut page = base.clone();
        page[100] = 0;
        page[4095] = 0;
        let (encoded, record) = delta(&base, &page);
        // A header, the base, two extents, two words.
        assert!(encoded.is_delta && record.len() == 24 + 16 + 16, "{}", record.len());
        let parsed = UnverifiedPage::parse(&record).unwrap();
        assert!(parsed.is_delta() && parsed.unpack(&mut vec![0; 4096]).is_err());
        let mut image = base.clone();
        assert!(parsed.apply(78, &mut image).is_err() && image == base);
        parsed.apply(77, &mut image).unwrap();
        assert_eq!(image, page);
        assert!(parsed.apply(77, &mut [0; 512]).is_err());

        // Everything differs, or what is there is shorter still.
        assert!(!delta(&base, &vec![0; 4096]).0.is_delta);
        assert!(!delta(&base, &[base[1..].to_vec(), vec![9]].concat()).0.is_delta);
        // Another page size.
        assert!(!delta(&base[..2048], &page).0.is_delta);
        // Nothing differs.
        let (encoded, record) = delta(&base, &base);
        assert!(encoded.is_delta && record.len() == 32);

        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 4;
            let good = UnverifiedPage::parse(&damaged)
                .and_then(|page| page.apply(77, &mut base.clone()).map(|()| page.crc));
            assert!(good != Ok(encoded.crc), "{at}");
        }
    }

    /// Word by word: what is not a long run of zeros, nor one at either end.
    fn extents_by_word(image: &[u8]) -> Vec<(u16, u16)> {
        let words: Vec<bool> = image.chunks(8).map(|word| word != [0; 8]).collect();
        let mut extents: Vec<(u16, u16)> = Vec::new();
        for (at, _) in words.iter().enumerate().filter(|&(_, &kept)| kept) {
            let at = u16::try_from(at).unwrap();
            match extents.last_mut() {
                Some((from, len)) if usize::from(at - *from - *len) < ZERO_RUN_WORDS_MIN => {
                    *len = at + 1 - *from;
                }
                _ => extents.push((at, 1)),
            }
        }
        extents
    }

    proptest! {
        #[test]
        fn any_page_round_trips(
            log2 in 9u8..=13,
            runs in prop::collection::vec((any::<u8>(), 1usize..300, any::<bool>()), 0..40),
        ) {
            let mut image = Vec::new();
            for (byte, len, zero) in runs {
                image.extend(std::iter::repeat_n(if zero { 0 } else { byte }, len));
            }
            image.resize(1 << log2, 0);
            round_trip(&image);
        }

        /// Words of zeros and others in short runs, so that all meet all the ends of blocks.
        #[test]
        fn zeros_are_found_as_word_by_word(
            runs in prop::collection::vec((0usize..20, 0usize..6), 0..60),
        ) {
            let mut image = Vec::new();
            for (zeros, others) in runs {
                image.resize(image.len() + zeros * 8, 0);
                image.resize(image.len() + others * 8, 1);
            }
            image.resize(image.len().next_power_of_two().clamp(512, 65_536), 0);
            let mut extents = Vec::new();
            find_extents(&image, &mut extents);
            prop_assert_eq!(extents, extents_by_word(&image));
        }

        /// Any two pages: what is made of the second gives it back.
        #[test]
        fn any_delta_round_trips(
            log2 in 9u8..=13,
            runs in prop::collection::vec((any::<u8>(), 1usize..200), 1..40),
            changes in prop::collection::vec((any::<u16>(), any::<u8>(), 1usize..40), 0..12),
        ) {
            let bytes = 1 << log2;
            let mut base: Vec<u8> =
                runs.iter().flat_map(|&(byte, len)| std::iter::repeat_n(byte, len)).collect();
            base.resize(bytes, 0);
            let mut page = base.clone();
            for (at, byte, len) in changes {
                let at = usize::from(at) % bytes;
                page[at..(at + len).min(bytes)].fill(byte);
            }
            let (encoded, record) = delta(&base, &page);
            let parsed = UnverifiedPage::parse(&record).unwrap();
            prop_assert_eq!(parsed.is_delta(), encoded.is_delta);
            let mut image = base.clone();
            if encoded.is_delta {
                parsed.apply(77, &mut image).unwrap();
            } else {
                parsed.unpack(&mut image).unwrap();
            }
            prop_assert_eq!(image, page);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(page) = UnverifiedPage::parse(&bytes) {
                let mut into = vec![0; page.size().bytes()];
                let _ = page.unpack(&mut into);
                let _ = unpack_sparse(&bytes, &mut into);
                let _ = page.apply(0, &mut into);
            }
        }
    }
}
