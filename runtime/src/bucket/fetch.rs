//! Reading objects of data, piece by piece, each compared with its checksum before it is used.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{BucketError, Result};
use super::format::object::{ObjectInfo, PIECE_BYTES};
use super::objects::{ObjectErrorKind, Objects};

/// An object of no more than so many bytes is read at once.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
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
        let data = self.retried(info, |this| {
            this.requests.fetch_add(1, Ordering::Relaxed);
            let bytes = this.objects.get_range(&info.key.name(), info.range(&pieces))?;
            this.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            info.verify(&pieces, &bytes).map_err(|malformed| {
                BucketError::object(&*this.objects, &info.key.name(), malformed)
            })
        })?;
        Ok(Pieces { data, from: pieces.start * PIECE_BYTES, pieces })
    }

    /// What was damaged on its way comes whole the next time.
    fn retried<T>(&self, info: &ObjectInfo, fetch: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let mut tries = 1;
        loop {
            let error = match fetch(self) {
                Ok(fetched) => return Ok(fetched),
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
            tracing::debug!(object = info.key.name(), %error, "fetched again");
            tries += 1;
        }
    }
}
