//! Page contents for tests: noise, zeros, and pages shaped like SQLite's with a gap in the middle.

use std::sync::Arc;

use lapidary_engine::{ErrorKind, PageNo, PageSize, Snapshot, Writer};

use crate::chance::Chance;
use crate::failure::Failure;

/// Smallest page first.
pub const PAGE_SIZES: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// One page; `None` stands for one never written, which reads as zeros.
pub type Page = Option<Arc<[u8]>>;

/// Whether stored bytes were changed behind the store's back, so that it may refuse to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// They were not.
    None,
    /// They may have been.
    Possible,
}

impl Damage {
    /// Whether `error` is the right answer to damage that may be there.
    #[must_use]
    pub fn explains(self, error: &lapidary_engine::Error) -> bool {
        self == Self::Possible && error.kind() == ErrorKind::Corruption
    }
}

/// What a facet holds in one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Size of every page; none while there has never been one.
    pub page_size: Option<PageSize>,
    /// The pages, page 1 first.
    pub pages: Vec<Page>,
}

impl Content {
    /// Pages in it.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        u32::try_from(self.pages.len()).expect("test contents are small")
    }

    /// Bytes in it.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.pages.len() * self.page_size.map_or(0, PageSize::bytes)
    }

    /// The bytes of page `page`.
    #[must_use]
    pub fn page_bytes(&self, page: PageNo) -> Vec<u8> {
        let size = self.page_size.map_or(0, PageSize::bytes);
        match &self.pages[page.0 as usize - 1] {
            Some(bytes) => bytes.to_vec(),
            None => vec![0; size],
        }
    }

    /// Sets a page, growing with zero pages up to it.
    pub fn set_page(&mut self, page: PageNo, bytes: Vec<u8>) {
        let index = page.0 as usize - 1;
        if self.pages.len() <= index {
            self.pages.resize(index + 1, None);
        }
        self.pages[index] = Some(Arc::from(bytes));
    }

    /// Cuts the whole content anew: its first `size_bytes` bytes in pages of `size`.
    pub fn rechunk(&mut self, size: PageSize, size_bytes: usize) {
        let mut bytes = Vec::with_capacity(self.size_bytes());
        for page in 1..=self.page_count() {
            bytes.extend(self.page_bytes(PageNo(page)));
        }
        bytes.resize(size_bytes, 0);
        bytes.resize(size_bytes.next_multiple_of(size.bytes()), 0);
        self.page_size = Some(size);
        self.pages = bytes.chunks(size.bytes()).map(|page| Some(Arc::from(page))).collect();
    }

    /// Compares with what `read` gives for each page; says where the first difference is.
    ///
    /// # Errors
    /// A sentence about the difference.
    fn compare(
        &self,
        page_size: Option<PageSize>,
        page_count: u32,
        damage: Damage,
        mut read: impl FnMut(PageNo, &mut [u8]) -> lapidary_engine::Result<()>,
    ) -> Result<(), Failure> {
        if page_count != self.page_count() {
            return Err(
                format!("{page_count} pages where {} were written", self.page_count()).into()
            );
        }
        if page_count > 0 && page_size != self.page_size {
            return Err(format!("page size {page_size:?} where it was {:?}", self.page_size).into());
        }
        let mut found = vec![0xA5; page_size.map_or(0, PageSize::bytes)];
        for page in (1..=page_count).map(PageNo) {
            found.fill(0xA5);
            match read(page, &mut found) {
                Ok(()) => {}
                Err(error) if damage.explains(&error) => continue,
                Err(error) => {
                    return Err(Failure::from(error).within(format!("page {page} cannot be read")));
                }
            }
            let expected = self.page_bytes(page);
            if let Some(at) = (0..expected.len()).find(|&at| expected[at] != found[at]) {
                return Err(format!(
                    "page {page} of {page_count}, {} bytes each, differs from byte {at} on: \
                     {:02x?} where {:02x?} was written",
                    expected.len(),
                    &found[at..expected.len().min(at + 8)],
                    &expected[at..expected.len().min(at + 8)],
                )
                .into());
            }
        }
        Ok(())
    }

    /// Compares with a snapshot.
    ///
    /// # Errors
    /// A sentence about the first difference.
    pub fn compare_snapshot(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        self.compare_damaged_snapshot(snapshot, Damage::None)
    }

    /// Compares with a snapshot of a store that may have been damaged: a page may be refused as
    /// damaged, but never be wrong.
    ///
    /// # Errors
    /// A sentence about the first difference.
    pub fn compare_damaged_snapshot(
        &self,
        snapshot: &Snapshot,
        damage: Damage,
    ) -> Result<(), Failure> {
        let (page_size, page_count) = (snapshot.page_size(), snapshot.page_count());
        self.compare(page_size, page_count, damage, |page, into| snapshot.read_page(page, into))
    }

    /// Compares with what a writer's transaction sees.
    ///
    /// # Errors
    /// A sentence about the first difference.
    pub fn compare_writer(&self, writer: &Writer) -> Result<(), Failure> {
        let (page_size, page_count) = (writer.page_size(), writer.page_count());
        self.compare(page_size, page_count, Damage::None, |page, into| writer.read_page(page, into))
    }
}

/// Bytes for a page.
#[must_use]
pub fn page_bytes(chance: &mut Chance, size: PageSize) -> Vec<u8> {
    let size = size.bytes();
    let kind = chance.below(8);
    let mut noise = chance.split();
    match kind {
        0 => vec![0; size],
        1 => vec![noise.below(256) as u8; size],
        2..=4 => b_tree_page(&mut noise, size),
        5 => b_tree_header_over_noise(&mut noise, size),
        _ => noise_bytes(&mut noise, size),
    }
}

/// The bytes of a page in which something was changed: a few stretches, or nothing.
#[must_use]
pub fn changed_bytes(chance: &mut Chance, before: &[u8]) -> Vec<u8> {
    let mut bytes = before.to_vec();
    let mut noise = chance.split();
    for _ in 0..noise.below(4) {
        let at = noise.index(bytes.len());
        let len = 1 + noise.index(40);
        for byte in bytes.iter_mut().skip(at).take(len) {
            *byte = noise.below(256) as u8;
        }
    }
    bytes
}

fn noise_bytes(noise: &mut Chance, size: usize) -> Vec<u8> {
    let words = (0..size / 8).flat_map(|_| noise.number().to_le_bytes());
    words.collect()
}

/// A page like SQLite's: header, cell pointers, a gap, cells at the end. The gap is mostly zeros;
/// sometimes there is something in it, as after a deletion without `secure_delete`.
fn b_tree_page(noise: &mut Chance, size: usize) -> Vec<u8> {
    let mut page = vec![0; size];
    let header = if noise.one_in(8) { 100.min(size / 4) } else { 0 };
    let cells = noise.index(size / 32);
    let pointers_end = header + 12 + 2 * cells;
    let cells_start = pointers_end + noise.index(size - pointers_end);
    let bytes = noise_bytes(noise, size);
    page[..pointers_end].copy_from_slice(&bytes[..pointers_end]);
    page[cells_start..].copy_from_slice(&bytes[cells_start..]);
    put_b_tree_header(noise, &mut page[header..], cells, cells_start);
    if noise.one_in(4) && cells_start > pointers_end {
        let at = pointers_end + noise.index(cells_start - pointers_end);
        page[at] = 0x5A;
    }
    page
}

fn b_tree_header_over_noise(noise: &mut Chance, size: usize) -> Vec<u8> {
    let mut page = noise_bytes(noise, size);
    let (cells, start) = (noise.index(0x1_0000), noise.index(0x1_0000));
    put_b_tree_header(noise, &mut page, cells, start);
    page
}

fn put_b_tree_header(noise: &mut Chance, header: &mut [u8], cells: usize, cells_start: usize) {
    header[0] = noise.pick(&[2, 5, 10, 13]);
    // In SQLite's format 65536 is written as 0, which is what the cut to 16 bits gives.
    header[3..5].copy_from_slice(&((cells & 0xffff) as u16).to_be_bytes());
    header[5..7].copy_from_slice(&((cells_start & 0xffff) as u16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_page_has_its_size() {
        for seed in 0..200 {
            let mut chance = Chance::from_seed(seed);
            for size in PAGE_SIZES {
                let page_size = PageSize::from_bytes(size).unwrap();
                assert_eq!(page_bytes(&mut chance, page_size).len(), size);
            }
        }
    }

    #[test]
    fn rechunking_keeps_the_bytes() {
        let size = |bytes| PageSize::from_bytes(bytes).unwrap();
        let mut content = Content { page_size: Some(size(1024)), pages: Vec::new() };
        content.set_page(PageNo(3), vec![7; 1024]);
        content.rechunk(size(2048), 3072);
        assert_eq!(content.page_count(), 2);
        assert_eq!(content.page_bytes(PageNo(1)), vec![0; 2048]);
        assert_eq!(content.page_bytes(PageNo(2))[..1024], vec![7; 1024]);
        assert_eq!(content.page_bytes(PageNo(2))[1024..], vec![0; 1024]);
    }
}
