//! Reading objects of data, piece by piece, each compared with its checksum before it is used.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{BucketError, Result};
use super::format::manifest::{MANIFEST, Manifest, Part};
use super::format::object::{ObjectInfo, PIECE_BYTES};
use super::objects::{ObjectErrorKind, Objects, Tag};

/// An object of no more than so many bytes is read at once.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
/// Pieces that are fetched at once at most when many are asked for.
pub(super) const PIECES_MAX: u64 = 64;
/// How often a request is made that fails, or brings something damaged.
const TRIES: usize = 4;

#[derive(Debug)]
pub(super) struct Fetcher {
    objects: Arc<dyn Objects>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Pieces of an object's data, one after the other.
pub(super) struct Pieces {
    pub(super) data: Vec<u8>,
    /// Where in the object's data they begin.
    pub(super) from: u64,
    pub(super) pieces: Range<u64>,
}

impl Pieces {
    /// What they have of `part`, which is at `offset` in its file, and where in the file that is.
    pub(super) fn of_part(&self, offset: u64, part: &Part) -> Option<(u64, &[u8])> {
        let end = self.from + self.data.len() as u64;
        let (from, to) = (self.from.max(part.at), end.min(part.at + part.bytes));
        let within = |at: u64| usize::try_from(at - self.from).unwrap_or(usize::MAX);
        (from < to).then(|| (offset + (from - part.at), &self.data[within(from)..within(to)]))
    }
}

/// The manifest that `bytes` from `objects` are.
pub(super) fn decode_manifest(objects: &dyn Objects, bytes: &[u8]) -> Result<Manifest> {
    Manifest::decode(bytes).map_err(|malformed| BucketError::object(objects, MANIFEST, malformed))
}

/// The manifest that is there, and its tag.
pub(super) fn find_manifest(objects: &dyn Objects) -> Result<Option<(Manifest, Tag)>> {
    match objects.get(MANIFEST) {
        Ok((bytes, tag)) => Ok(Some((decode_manifest(objects, &bytes)?, tag))),
        Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a request again that may go better then: what was damaged on its way comes whole the next time.
pub(super) fn retried<T>(name: &str, request: impl Fn() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        let error = match request() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_worth_it = match &error {
            BucketError::Damaged { .. } => true,
            BucketError::Objects(error) => error.kind == ObjectErrorKind::Unclear,
            _ => false,
        };
        if !is_worth_it || tries == TRIES {
            return Err(error);
        }
        tracing::debug!(object = name, %error, "fetched again");
        tries += 1;
    }
}

fn no_store(objects: &dyn Objects) -> BucketError {
    BucketError::NoStore { bucket: objects.describe() }
}

/// The newest manifest, of a bucket that a host has claimed, and its tag.
pub(super) fn newest_manifest(objects: &dyn Objects) -> Result<(Manifest, Tag)> {
    retried(MANIFEST, || find_manifest(objects))?.ok_or_else(|| no_store(objects))
}

impl Fetcher {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Requests that were made, and bytes that they brought.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Fetches `pieces` of an object, and perhaps more, in one request.
    pub(super) fn fetch(&self, info: &ObjectInfo, pieces: Range<u64>) -> Result<Pieces> {
        let is_small = info.data_bytes <= WHOLE_BYTES_MAX;
        let pieces = if is_small { 0..info.pieces() } else { pieces };
        let name = info.key.name();
        let data = retried(&name, || {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let bytes = self.objects.get_range(&name, info.range(&pieces))?;
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            info.verify(&pieces, &bytes)
                .map_err(|malformed| BucketError::object(&*self.objects, &name, malformed))
        })?;
        Ok(Pieces { data, from: pieces.start * PIECE_BYTES, pieces })
    }

    /// Fetches `pieces` of an object, not all at once, and gives them to `sink`, in order.
    pub(super) fn each(
        &self,
        info: &ObjectInfo,
        pieces: Range<u64>,
        mut sink: impl FnMut(&Pieces) -> Result<()>,
    ) -> Result<()> {
        let mut next = pieces.start;
        while next < pieces.end {
            let fetched = self.fetch(info, next..pieces.end.min(next + PIECES_MAX))?;
            sink(&fetched)?;
            next = fetched.pieces.end;
        }
        Ok(())
    }

    /// The newest manifest, of a store that was shipped, and its tag.
    pub(super) fn store(&self) -> Result<(Manifest, Tag)> {
        let (manifest, tag) = newest_manifest(&*self.objects)?;
        if manifest.superblock.is_empty() {
            return Err(no_store(&*self.objects));
        }
        Ok((manifest, tag))
    }
}
