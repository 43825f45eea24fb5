//! The bytes in a bucket, and of the file `BUCKET` beside a store. Each kind of byte has one owner
//! among the modules here. All integers are little-endian. `docs/FORMAT.md` has the story.
//!
//! The engine's bytes go through here as they are: nothing in this crate knows an offset in them.

pub(super) mod manifest;
pub(super) mod note;
pub(super) mod object;

/// Newest version of these formats that this build reads, and the one it writes.
pub(super) const VERSION: u32 = 1;

/// blake3 digest.
pub(super) type Hash = [u8; 32];

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Intact, but of a later version.
    TooNew(u32),
    /// Not what was written.
    Damaged(&'static str),
}

/// Reads fields one after the other, and never beyond the end.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(Malformed::Damaged("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes that a later version may give a meaning.
    pub(super) fn reserved(&mut self, len: usize) -> Result<(), Malformed> {
        let zeros = self.take(len)?.iter().all(|&byte| byte == 0);
        if zeros { Ok(()) } else { Err(Malformed::Damaged("reserved bytes are in use")) }
    }

    /// How many items of `bytes` bytes at least there are, if so many can be there.
    pub(super) fn count(&mut self, bytes: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.at_least(count, bytes)?;
        Ok(count)
    }

    fn at_least(&self, count: usize, bytes: usize) -> Result<(), Malformed> {
        let fits = count.checked_mul(bytes).is_some_and(|needed| needed <= self.rest.len());
        if fits { Ok(()) } else { Err(Malformed::Damaged("it counts more than it holds")) }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

/// A length or count as the formats store it.
///
/// # Panics
/// If it is beyond 2^32 - 1, which bounds elsewhere keep it from.
pub(super) fn stored(len: usize) -> u32 {
    u32::try_from(len).expect("what is kept in a bucket has fewer than 2 to the 32nd parts")
}

/// Checks magic, checksum and version of something that ends in the blake3 of all before it. What is
/// returned lies between version and checksum.
pub(super) fn unseal<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Result<Reader<'a>, Malformed> {
    let sealed = bytes.len().checked_sub(32).ok_or(Malformed::Damaged("it ends early"))?;
    let (sealed, checksum) = bytes.split_at(sealed);
    let mut reader = Reader::new(sealed);
    if reader.take(8)? != magic {
        return Err(Malformed::Damaged("the magic number is wrong"));
    }
    if checksum != blake3::hash(sealed).as_bytes() {
        return Err(Malformed::Damaged("the checksum is wrong"));
    }
    match reader.u32()? {
        VERSION => Ok(reader),
        newer => Err(Malformed::TooNew(newer)),
    }
}

/// Appends the blake3 of `out`.
pub(super) fn seal(out: &mut Vec<u8>) {
    let checksum = blake3::hash(out);
    out.extend_from_slice(checksum.as_bytes());
}
