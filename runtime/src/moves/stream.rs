//! The bytes of a copy on its way. Nobody else knows them.
//!
//! Integers are little-endian; a *text* is its length in 2 bytes and that many bytes of UTF-8.
//!
//! | bytes | are |
//! |---|---|
//! | 8 | `LAPIMOVE` |
//! | 4 | version: 1 |
//! | 16 | id of the move |
//! | 16 | id of the source store |
//! | text | name of the subtree's root |
//! | items | each a tag of 1 byte, a text (where in the subtree: nothing for the root, or levels below it), and what the tag says |
//! | 1 | 0: the end |
//! | 32 | BLAKE3 of all bytes before |
//!
//! | tag | is | followed by |
//! |---|---|---|
//! | 1 | facet | its id (8), bytes in a page or 0 of one without pages (4), number of pages (4), the pages, their root hash, nothing masked (32) |
//! | 2 | quota | bytes (8) |
//! | 3 | retention | bytes (8), milliseconds (8) |
//!
//! A stream is valid if and only if it is as above, every name is one that a facet can have, and both kinds
//! of hashes are right. Nothing is allocated by a length in it that is beyond 64 KiB.

use std::io::{self, Read, Write};

use lapidary_engine::{FacetId, FacetName, PageSize, RootHash, StoreId};

use super::{MoveError, MoveId};

const MAGIC: &[u8; 8] = b"LAPIMOVE";
const VERSION: u32 = 1;
const END: u8 = 0;
const FACET: u8 = 1;
const QUOTA: u8 = 2;
const RETENTION: u8 = 3;

/// What a stream begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: MoveId,
    pub(super) store: StoreId,
    pub(super) name: FacetName,
}

/// What follows, but for pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Its pages and then its root hash are to be read or written next.
    Facet {
        name: FacetName,
        id: FacetId,
        page_size: Option<PageSize>,
        page_count: u32,
    },
    Quota {
        name: FacetName,
        bytes: u64,
    },
    Retention {
        name: FacetName,
        bytes: u64,
        age_ms: u64,
    },
    /// With the digest, which was right.
    End([u8; 32]),
}

fn wrong<T>(reason: &'static str) -> Result<T, MoveError> {
    Err(MoveError::Stream { reason })
}

/// Writes a stream.
pub(super) struct Encoder<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    root: FacetName,
}

impl<'a> Encoder<'a> {
    pub(super) fn begin(out: &'a mut dyn Write, header: &Header) -> Result<Self, MoveError> {
        let mut encoder = Self { out, hasher: blake3::Hasher::new(), root: header.name.clone() };
        encoder.put(MAGIC)?;
        encoder.put(&VERSION.to_le_bytes())?;
        encoder.put(&header.id.0)?;
        encoder.put(&header.store.0)?;
        encoder.text(header.name.as_str())?;
        Ok(encoder)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), MoveError> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(writing)
    }

    fn text(&mut self, text: &str) -> Result<(), MoveError> {
        let bytes = u16::try_from(text.len()).expect("a name has at most 512 bytes");
        self.put(&bytes.to_le_bytes())?;
        self.put(text.as_bytes())
    }

    /// The tag, and where in the subtree `name` is.
    fn start(&mut self, tag: u8, name: &FacetName) -> Result<(), MoveError> {
        let below = &name.as_str()[self.root.as_str().len()..];
        let below = below.strip_prefix('/').unwrap_or(below).to_owned();
        self.put(&[tag])?;
        self.text(&below)
    }

    pub(super) fn facet(
        &mut self,
        name: &FacetName,
        id: FacetId,
        page_size: Option<PageSize>,
        page_count: u32,
    ) -> Result<(), MoveError> {
        self.start(FACET, name)?;
        self.put(&id.0.to_le_bytes())?;
        let bytes = page_size.map_or(0, PageSize::bytes);
        self.put(&u32::try_from(bytes).expect("a page has at most 64 KiB").to_le_bytes())?;
        self.put(&page_count.to_le_bytes())
    }

    pub(super) fn page(&mut self, image: &[u8]) -> Result<(), MoveError> {
        self.put(image)
    }

    pub(super) fn root_hash(&mut self, hash: &RootHash) -> Result<(), MoveError> {
        self.put(hash.as_bytes())
    }

    pub(super) fn quota(&mut self, name: &FacetName, bytes: u64) -> Result<(), MoveError> {
        self.start(QUOTA, name)?;
        self.put(&bytes.to_le_bytes())
    }

    pub(super) fn retention(
        &mut self,
        name: &FacetName,
        bytes: u64,
        age_ms: u64,
    ) -> Result<(), MoveError> {
        self.start(RETENTION, name)?;
        self.put(&bytes.to_le_bytes())?;
        self.put(&age_ms.to_le_bytes())
    }

    /// Ends it; returns its digest.
    pub(super) fn end(mut self) -> Result<[u8; 32], MoveError> {
        self.put(&[END])?;
        let digest = *self.hasher.finalize().as_bytes();
        self.out.write_all(&digest).and_then(|()| self.out.flush()).map_err(writing)?;
        Ok(digest)
    }
}

fn writing(source: io::Error) -> MoveError {
    MoveError::Io { doing: "writing", source }
}

/// Reads a stream, and nothing beyond it.
pub(super) struct Decoder<'a> {
    input: &'a mut dyn Read,
    hasher: blake3::Hasher,
    root: FacetName,
}

impl<'a> Decoder<'a> {
    pub(super) fn begin(input: &'a mut dyn Read) -> Result<(Self, Header), MoveError> {
        // The root is known soon.
        let root = FacetName::new("unknown").expect("it is a name");
        let mut decoder = Self { input, hasher: blake3::Hasher::new(), root };
        if decoder.array::<8>()? != *MAGIC {
            return wrong("it does not begin as one");
        }
        if u32::from_le_bytes(decoder.array()?) != VERSION {
            return wrong("it is of a version that this release does not know");
        }
        let (id, store) = (MoveId(decoder.array()?), StoreId(decoder.array()?));
        let Ok(name) = FacetName::new(decoder.text()?) else {
            return wrong("its name is one that no facet can have");
        };
        decoder.root = name.clone();
        Ok((decoder, Header { id, store, name }))
    }

    pub(super) fn next(&mut self) -> Result<Item, MoveError> {
        let [tag] = self.array()?;
        if tag == END {
            let expected = *self.hasher.finalize().as_bytes();
            if self.array()? != expected {
                return wrong("its bytes are not those that were sent");
            }
            return Ok(Item::End(expected));
        }
        let below = self.text()?;
        let name = if below.is_empty() {
            self.root.clone()
        } else {
            match FacetName::new(format!("{}/{below}", self.root)) {
                Ok(name) => name,
                Err(_) => return wrong("it has a name that no facet can have"),
            }
        };
        match tag {
            FACET => {
                let id = FacetId(u64::from_le_bytes(self.array()?));
                let bytes = u32::from_le_bytes(self.array()?);
                let page_count = u32::from_le_bytes(self.array()?);
                let page_size = match bytes {
                    0 if page_count > 0 => return wrong("it has pages of no size"),
                    0 => None,
                    bytes => match usize::try_from(bytes).ok().and_then(PageSize::from_bytes) {
                        Some(size) => Some(size),
                        None => return wrong("it has pages of a size that there is not"),
                    },
                };
                Ok(Item::Facet { name, id, page_size, page_count })
            }
            QUOTA => Ok(Item::Quota { name, bytes: u64::from_le_bytes(self.array()?) }),
            RETENTION => {
                let bytes = u64::from_le_bytes(self.array()?);
                Ok(Item::Retention { name, bytes, age_ms: u64::from_le_bytes(self.array()?) })
            }
            _ => wrong("it has something that is not known"),
        }
    }

    pub(super) fn page(&mut self, image: &mut [u8]) -> Result<(), MoveError> {
        self.fill(image)
    }

    pub(super) fn root_hash(&mut self) -> Result<RootHash, MoveError> {
        self.array().map(RootHash::from_bytes)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), MoveError> {
        self.input.read_exact(into).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => MoveError::Stream { reason: "it ends too early" },
            _ => MoveError::Io { doing: "reading", source },
        })?;
        self.hasher.update(into);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MoveError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, MoveError> {
        let mut bytes = vec![0; usize::from(u16::from_le_bytes(self.array()?))];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).or_else(|_| wrong("it has a name that is no UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        let name = FacetName::new("tenants/acme").unwrap();
        Header { id: MoveId([7; 16]), store: StoreId([9; 16]), name }
    }

    fn small() -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = header();
        let mut encoder = Encoder::begin(&mut bytes, &header).unwrap();
        let below = FacetName::new("tenants/acme/1").unwrap();
        encoder.facet(&below, FacetId(3), Some(PageSize::MIN), 1).unwrap();
        encoder.page(&[5; 512]).unwrap();
        encoder.root_hash(&RootHash::from_bytes([1; 32])).unwrap();
        encoder.quota(&header.name, 77).unwrap();
        encoder.retention(&below, 8, 9).unwrap();
        encoder.end().unwrap();
        bytes
    }

    /// Everything in a stream but its pages.
    fn decode(mut bytes: &[u8]) -> Result<(Header, Vec<Item>), MoveError> {
        let (mut decoder, header) = Decoder::begin(&mut bytes)?;
        let mut items = Vec::new();
        loop {
            let item = decoder.next()?;
            items.push(item.clone());
            match item {
                Item::Facet { page_size, page_count, .. } => {
                    let mut image = vec![0; page_size.map_or(0, PageSize::bytes)];
                    for _ in 0..page_count {
                        decoder.page(&mut image)?;
                    }
                    decoder.root_hash()?;
                }
                Item::End(_) => return Ok((header, items)),
                _ => {}
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let (found, items) = decode(&small()).unwrap();
        assert_eq!(found, header());
        let below = FacetName::new("tenants/acme/1").unwrap();
        let page_size = Some(PageSize::MIN);
        assert_eq!(
            items[..3],
            [
                Item::Facet { name: below.clone(), id: FacetId(3), page_size, page_count: 1 },
                Item::Quota { name: found.name, bytes: 77 },
                Item::Retention { name: below, bytes: 8, age_ms: 9 },
            ]
        );
    }

    #[test]
    fn one_wrong_bit_or_a_cut_is_found_anywhere() {
        let bytes = small();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let bytes = small();
        assert_eq!(bytes[..12], *b"LAPIMOVE\x01\0\0\0");
        assert_eq!(bytes[12..28], [7; 16]);
        assert_eq!(bytes[28..44], [9; 16]);
        assert_eq!(bytes[44..58], *b"\x0c\0tenants/acme");
        assert_eq!(bytes[58..62], *b"\x01\x01\x001");
        assert_eq!(bytes.len(), 62 + 16 + 512 + 32 + 11 + 20 + 1 + 32);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>, at in 0..600_usize, byte: u8) {
            let _ = decode(&bytes);
            let mut changed = small();
            let at = at % changed.len();
            let is_same = changed[at] == byte;
            changed[at] = byte;
            changed.truncate(changed.len().max(at));
            prop_assert_eq!(decode(&changed).is_ok(), is_same);
        }
    }
}
