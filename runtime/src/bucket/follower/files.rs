//! The files of a store as a manifest has them, for reading.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use lapidary_engine::{DirectoryState, FileName, FileNo, Io, IoFile, SegmentUse};

use super::super::error::BucketError;
use super::super::format::manifest::{FileEntry, Manifest};
use super::super::objects::{ObjectError, ObjectErrorKind};
use super::cache::{CachedObject, ObjectCache};

/// The files of one store that is open. What they have grows from one manifest to the next.
#[derive(Clone, Debug)]
pub(super) struct FollowedIo {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: String,
    superblock: Arc<Vec<u8>>,
    segments: RwLock<BTreeMap<FileNo, Arc<FollowedSegment>>>,
    /// Something was asked for that is not in the bucket any more.
    is_gone: AtomicBool,
}

#[derive(Debug)]
struct FollowedSegment {
    entry: FileEntry,
    /// Offset in the file, and where that is, in order.
    parts: Vec<FollowedPart>,
}

#[derive(Debug)]
struct FollowedPart {
    offset: u64,
    bytes: u64,
    object: Arc<CachedObject>,
    at: u64,
}

impl FollowedIo {
    /// The files that `manifest` has.
    pub(super) fn new(bucket: String, manifest: &Manifest, cache: &ObjectCache) -> Self {
        let shared = Shared {
            bucket,
            superblock: Arc::new(manifest.superblock.clone()),
            segments: RwLock::new(segments(manifest, cache, None)),
            is_gone: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether the files of `manifest` are those that are here, and what was added since.
    pub(super) fn is_continued_by(&self, manifest: &Manifest) -> bool {
        *self.shared.superblock == manifest.superblock && !self.is_gone()
    }

    /// The files have what `manifest` says; it [continues](Self::is_continued_by) what is here. What was
    /// added to the log is fetched, with few requests.
    pub(super) fn grow(&self, manifest: &Manifest, cache: &ObjectCache) -> io::Result<()> {
        let before = self.shared.segments.read().unwrap_or_else(PoisonError::into_inner).clone();
        let after = segments(manifest, cache, Some(&before));
        for (number, segment) in &after {
            let known = before.get(number);
            if known.is_some_and(|known| Arc::ptr_eq(known, segment)) || !segment.is_log(*number) {
                continue;
            }
            let known_end = known.filter(|known| known.entry.segment == segment.entry.segment);
            let known_end = known_end.map_or(0, |known| known.entry.parts.end());
            for part in segment.parts.iter().filter(|part| part.offset >= known_end) {
                self.told(part.object.bring(part.at..part.at + part.bytes, true))?;
            }
        }
        *self.shared.segments.write().unwrap_or_else(PoisonError::into_inner) = after;
        Ok(())
    }

    /// Whether something was asked for that is not in the bucket any more.
    pub(super) fn is_gone(&self) -> bool {
        self.shared.is_gone.load(Ordering::Acquire)
    }

    fn told<T>(&self, read: io::Result<T>) -> io::Result<T> {
        self.shared.told(read)
    }
}

/// The segments of a manifest; those that are as `before` has them are the same.
fn segments(
    manifest: &Manifest,
    cache: &ObjectCache,
    before: Option<&BTreeMap<FileNo, Arc<FollowedSegment>>>,
) -> BTreeMap<FileNo, Arc<FollowedSegment>> {
    let made = manifest.files.iter().map(|(&number, entry)| {
        if let Some(known) = before.and_then(|before| before.get(&number))
            && known.entry == *entry
        {
            return (number, Arc::clone(known));
        }
        let parts = entry.parts.iter().map(|(offset, part)| FollowedPart {
            offset,
            bytes: part.bytes,
            object: cache.object(&manifest.objects[&part.object]),
            at: part.at,
        });
        (number, Arc::new(FollowedSegment { entry: entry.clone(), parts: parts.collect() }))
    });
    made.collect()
}

impl FollowedSegment {
    fn is_log(&self, number: FileNo) -> bool {
        SegmentUse::read(&self.entry.block(), number).is_some_and(|header| header.is_log)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset + into.len() as u64;
        if end > self.entry.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What no part covers is zeros.
        into.fill(0);
        let within = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
        let block_end = (SegmentUse::BLOCK_BYTES as u64).min(end);
        if offset < block_end {
            let block = &self.entry.first_block;
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let to = usize::try_from(block_end).unwrap_or(usize::MAX).min(block.len());
            if from < to {
                into[..to - from].copy_from_slice(&block[from..to]);
            }
        }
        let from = offset.max(SegmentUse::BLOCK_BYTES as u64);
        let first = self.parts.partition_point(|part| part.offset + part.bytes <= from);
        for part in &self.parts[first..] {
            let (start, end) = (part.offset.max(from), (part.offset + part.bytes).min(end));
            if start >= end {
                break;
            }
            let at = part.at + (start - part.offset);
            part.object.read(at, &mut into[within(start)..within(end)])?;
        }
        Ok(())
    }
}

impl Shared {
    fn segment(&self, number: FileNo) -> io::Result<Arc<FollowedSegment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.get(&number).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Notes whether `read` failed because an object is gone.
    fn told<T>(&self, read: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &read
            && let Some(inner) = error.get_ref()
            && let Some(BucketError::Objects(ObjectError { kind, .. })) = inner.downcast_ref()
            && *kind == ObjectErrorKind::NotFound
        {
            self.is_gone.store(true, Ordering::Release);
        }
        read
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a follower writes nothing"))
}

impl Io for FollowedIo {
    fn describe(&self) -> String {
        self.shared.bucket.clone()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        let is_empty = self.shared.superblock.is_empty();
        Ok(if is_empty { DirectoryState::Empty } else { DirectoryState::Store })
    }

    fn create_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(match name {
            FileName::Superblock => {
                Arc::new(FollowedSuperblock(Arc::clone(&self.shared.superblock)))
            }
            FileName::Segment(number) => {
                self.shared.segment(number)?;
                Arc::new(FollowedFile { shared: Arc::clone(&self.shared), number })
            }
            FileName::Bucket => return Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn create(&self, _: FileName) -> io::Result<Arc<dyn IoFile>> {
        refused()
    }

    fn remove(&self, _: FileName) -> io::Result<()> {
        refused()
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        let segments = self.shared.segments.read().unwrap_or_else(PoisonError::into_inner);
        Ok(segments.keys().copied().collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        refused()
    }
}

#[derive(Debug)]
struct FollowedFile {
    shared: Arc<Shared>,
    number: FileNo,
}

impl IoFile for FollowedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.segment(self.number)?.entry.bytes)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let segment = self.shared.segment(self.number)?;
        self.shared.told(segment.read_at(offset, bytes))
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }
}

#[derive(Debug)]
struct FollowedSuperblock(Arc<Vec<u8>>);

impl IoFile for FollowedSuperblock {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.0.get(start..start.saturating_add(bytes.len()));
        bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }
}
