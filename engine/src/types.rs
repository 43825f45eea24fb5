//! Newtypes for every unit the engine counts in, so that no two of them can be mixed up.

use std::fmt;

/// Counts the cuts of checkpoints since the store was opened: an image may only be built on in the
/// epoch in which it was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(pub(crate) u64);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Identity of a facet for its whole life; never reused, unchanged by a rename.
    FacetId(u64)
}
number! {
    /// Number of a page in a facet, counted from 1 as SQLite does.
    PageNo(u32)
}
number! {
    /// Number of a segment file; also its file name.
    FileNo(u32)
}
number! {
    /// One use of a segment file. Each time a file is put to use it gets a number higher than all
    /// before it, and never used again: so what was ever stored keeps its address, and bytes of an
    /// earlier use cannot be mistaken for it.
    SegmentId(u32)
}
number! {
    /// Log sequence number: the position of a record in the store's one log. Dense, from 1.
    Lsn(u64)
}
number! {
    /// Version of a facet: 0 is the empty facet, each commit adds one.
    Version(u64)
}
number! {
    /// How many times the store was opened for writing. Versions lost in a crash and the new ones
    /// that take their numbers differ in it.
    Incarnation(u32)
}

impl Lsn {
    /// The record after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Version {
    /// The version the next commit makes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Random identity of a store, written into everything it stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Size of a facet's pages in bytes: a power of two from 512 to 65,536.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    log2: u8,
}

impl PageSize {
    /// Smallest page size.
    pub const MIN: Self = Self { log2: 9 };
    /// Largest page size.
    pub const MAX: Self = Self { log2: 16 };

    /// The page size of `bytes`, if that is one.
    #[must_use]
    pub fn from_bytes(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() {
            Self::from_log2(u8::try_from(bytes.trailing_zeros()).ok()?)
        } else {
            None
        }
    }

    /// The page size of two to the power of `log2` bytes, if that is one.
    #[must_use]
    pub fn from_log2(log2: u8) -> Option<Self> {
        (Self::MIN.log2..=Self::MAX.log2).contains(&log2).then_some(Self { log2 })
    }

    /// Bytes in a page.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.log2
    }

    /// Binary logarithm of the bytes in a page.
    #[must_use]
    pub fn log2(self) -> u8 {
        self.log2
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.bytes())
    }
}

/// Which of a facet's versions an observer is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The newest commit, even if a crash could still take it. For the facet's own writer, whose
    /// owner holds every reply back until what it observed is durable.
    Latest,
    /// The newest commit that no crash can take. For everybody else.
    Durable,
}

/// A receipt for appended records: durable when the store's durable LSN has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub(crate) Lsn);

impl Ticket {
    /// The ticket that is always durable.
    pub const DURABLE: Self = Self(Lsn(0));

    /// LSN of the last record the ticket stands for.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }

    /// The ticket for the record at `lsn`.
    #[must_use]
    pub fn at(lsn: Lsn) -> Self {
        Self(lsn)
    }
}
