//! Files that begin as those of another directory, and whose changes stay in memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{DirectoryState, FileName, Io, IoFile};
use crate::types::FileNo;

/// What is copied when a byte of it is written.
const BLOCK_BYTES: usize = 4096;

type Block = Box<[u8; BLOCK_BYTES]>;

/// A directory over another one, the base, which it never changes: reads fall through, writes stay
/// in memory and go with the overlay. A store opened through it recovers, commits and takes
/// checkpoints as ever, and not a byte of the base changes.
///
/// Memory: a copy of each block of 4 KiB that was written. Space that was only reserved, or filled
/// with zeros, costs none.
///
/// The base's files are opened for reading only, so it may be on a file system that is mounted
/// so. Nobody may change the base meanwhile: [`Io::lock_shared`] of it is taken with
/// the lock of the overlay.
#[derive(Debug)]
pub struct OverlayIo {
    base: Arc<dyn Io>,
    /// Files that were opened, created or removed here; of all others the base knows.
    entries: Mutex<BTreeMap<FileName, Entry>>,
}

#[derive(Debug)]
enum Entry {
    Removed,
    Opened(Arc<RwLock<Changes>>),
    /// There may be one of that name in the base, with which it has nothing to do.
    Created(Arc<RwLock<Changes>>),
}

impl OverlayIo {
    /// An overlay without changes over `base`.
    #[must_use]
    pub fn new(base: Arc<dyn Io>) -> Self {
        Self { base, entries: Mutex::default() }
    }

    fn entries<T>(&self, with: impl FnOnce(&mut BTreeMap<FileName, Entry>) -> T) -> T {
        with(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Io for OverlayIo {
    fn describe(&self) -> String {
        self.base.describe()
    }

    fn backend(&self) -> &'static str {
        "overlay"
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        let state = self.base.inspect()?;
        Ok(self.entries(|entries| match entries.get(&FileName::Superblock) {
            None => state,
            Some(Entry::Removed) => DirectoryState::Empty,
            Some(Entry::Opened(_) | Entry::Created(_)) => DirectoryState::Store,
        }))
    }

    fn create_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.base.lock_shared()
    }

    fn lock_shared(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.base.lock_shared()
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.entries(|entries| {
            let (base, changes) = match entries.get(&name) {
                Some(Entry::Removed) => return Err(io::ErrorKind::NotFound.into()),
                Some(Entry::Created(changes)) => (None, Arc::clone(changes)),
                Some(Entry::Opened(changes)) => {
                    (Some(self.base.open_read_only(name)?), Arc::clone(changes))
                }
                None => {
                    let base = self.base.open_read_only(name)?;
                    let changes = Arc::new(RwLock::new(Changes::of(base.len()?)));
                    entries.insert(name, Entry::Opened(Arc::clone(&changes)));
                    (Some(base), changes)
                }
            };
            Ok(Arc::new(OverlayFile { base, changes }) as Arc<dyn IoFile>)
        })
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        let changes = Arc::new(RwLock::new(Changes::of(0)));
        self.entries(|entries| entries.insert(name, Entry::Created(Arc::clone(&changes))));
        Ok(Arc::new(OverlayFile { base: None, changes }))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.entries(|entries| {
            match entries.get(&name) {
                Some(Entry::Removed) => return Err(io::ErrorKind::NotFound.into()),
                Some(Entry::Opened(_) | Entry::Created(_)) => {}
                None => drop(self.base.open_read_only(name)?),
            }
            entries.insert(name, Entry::Removed);
            Ok(())
        })
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        let mut segments = match self.base.list_segments() {
            // The base may be a directory still to be created.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        self.entries(|entries| {
            segments.retain(|&segment| !entries.contains_key(&FileName::Segment(segment)));
            segments.extend(entries.iter().filter_map(|(name, entry)| match (name, entry) {
                (_, Entry::Removed) | (FileName::Superblock | FileName::Bucket, _) => None,
                (FileName::Segment(segment), _) => Some(*segment),
            }));
        });
        Ok(segments)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A handle. The changes are those of all handles to the file.
#[derive(Debug)]
struct OverlayFile {
    /// `None` if it was created here.
    base: Option<Arc<dyn IoFile>>,
    changes: Arc<RwLock<Changes>>,
}

/// What differs from the file of the base.
///
/// A byte below `len` is that of its block, if there is one; else that of the base, if it has so
/// many; else zero.
#[derive(Debug)]
struct Changes {
    base_len: u64,
    /// Never less than `base_len`.
    len: u64,
    /// By number: offset / `BLOCK_BYTES`.
    blocks: BTreeMap<u64, Block>,
}

impl Changes {
    fn of(base_len: u64) -> Self {
        Self { base_len, len: base_len, blocks: BTreeMap::new() }
    }

    /// Fills `bytes` with what is there without any blocks.
    fn read_below(
        &self,
        base: Option<&dyn IoFile>,
        offset: u64,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        let there = self.base_len.saturating_sub(offset);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(bytes.len());
        let (from_base, beyond) = bytes.split_at_mut(there);
        beyond.fill(0);
        match base {
            Some(base) if !from_base.is_empty() => base.read_at(offset, from_base),
            _ => Ok(()),
        }
    }
}

/// The part of the file from `offset` that lies in one block: its number, the part of the block, and
/// how many bytes that is, at most `len_max`.
fn within_block(offset: u64, len_max: usize) -> (u64, Range<usize>) {
    let start = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or_default();
    (offset / BLOCK_BYTES as u64, start..BLOCK_BYTES.min(start.saturating_add(len_max)))
}

fn end_of(offset: u64, len: usize) -> io::Result<u64> {
    let end = offset.checked_add(len as u64).filter(|&end| i64::try_from(end).is_ok());
    end.ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl IoFile for OverlayFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read_at(&self, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= changes.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut blocks = changes.blocks.range(offset / BLOCK_BYTES as u64..);
        while !bytes.is_empty() {
            let next = blocks.next().map(|(number, block)| (number * BLOCK_BYTES as u64, block));
            let next_at = next.map_or(end, |(at, _)| at.clamp(offset, end));
            let below;
            (below, bytes) = bytes.split_at_mut(narrow(next_at - offset));
            changes.read_below(self.base.as_deref(), offset, below)?;
            offset = next_at;
            if let Some((_, block)) = next.filter(|_| !bytes.is_empty()) {
                let (_, part) = within_block(offset, bytes.len());
                offset += part.len() as u64;
                let here;
                (here, bytes) = bytes.split_at_mut(part.len());
                here.copy_from_slice(&block[part]);
            }
        }
        Ok(())
    }

    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let end = end_of(offset, bytes.len())?;
        let mut guard = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let changes = &mut *guard;
        while !bytes.is_empty() {
            let (number, part) = within_block(offset, bytes.len());
            let (here, rest) = bytes.split_at(part.len());
            if let Some(block) = changes.blocks.get_mut(&number) {
                block[part].copy_from_slice(here);
            } else {
                let block_at = number * BLOCK_BYTES as u64;
                // Zeros where there are zeros anyhow: so a segment may be filled for nothing.
                if block_at < changes.base_len || here.iter().any(|&byte| byte != 0) {
                    let mut block = Box::new([0; BLOCK_BYTES]);
                    if part.len() < BLOCK_BYTES {
                        changes.read_below(self.base.as_deref(), block_at, &mut block[..])?;
                    }
                    block[part].copy_from_slice(here);
                    changes.blocks.insert(number, block);
                }
            }
            offset += here.len() as u64;
            bytes = rest;
        }
        changes.len = changes.len.max(end);
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        changes.len = changes.len.max(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A length within a slice.
fn narrow(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::io::MemoryIo;

    const LEN_MAX: u64 = 5 * BLOCK_BYTES as u64;

    fn segment(number: u32) -> FileName {
        FileName::Segment(FileNo(number))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Create(u32),
        Remove(u32),
        Write { file: u32, offset: u64, len: usize, byte: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let file = 0..3u32;
        let len = prop_oneof![0..100usize, 0..3 * BLOCK_BYTES, Just(BLOCK_BYTES)];
        let offset = prop_oneof![0..LEN_MAX, (0..5u64).prop_map(|n| n * BLOCK_BYTES as u64)];
        prop_oneof![
            1 => file.clone().prop_map(Step::Create),
            1 => file.clone().prop_map(Step::Remove),
            6 => (file, offset, len, 0..3u8)
                .prop_map(|(file, offset, len, byte)| Step::Write { file, offset, len, byte }),
        ]
    }

    fn take(step: &Step, io: &dyn Io) -> Result<(), io::ErrorKind> {
        match *step {
            Step::Create(file) => io.create(segment(file)).map(drop),
            Step::Remove(file) => io.remove(segment(file)),
            Step::Write { file, offset, len, byte } => {
                io.open(segment(file)).and_then(|file| file.write_at(offset, &vec![byte; len]))
            }
        }
        .map_err(|error| error.kind())
    }

    type Image = Vec<(FileNo, Vec<u8>)>;

    fn image(io: &dyn Io) -> Image {
        let mut segments = io.list_segments().unwrap();
        segments.sort();
        let content = |id| {
            let file = io.open(FileName::Segment(id)).unwrap();
            let mut content = vec![0xee; narrow(file.len().unwrap())];
            file.read_at(0, &mut content).unwrap();
            (id, content)
        };
        segments.into_iter().map(content).collect()
    }

    proptest! {
        #[test]
        fn it_is_as_if_the_base_were_changed(
            base_len in 0..LEN_MAX,
            steps in prop::collection::vec(step(), 0..20),
            read in (0..2 * LEN_MAX, 0..2 * BLOCK_BYTES),
        ) {
            let (base, model) = (MemoryIo::new(), MemoryIo::new());
            for io in [&base, &model] {
                for number in 0..2 {
                    let file = io.create(segment(number)).unwrap();
                    file.write_at(0, &vec![9; narrow(base_len)]).unwrap();
                }
            }
            let before = image(&base);
            let overlay = OverlayIo::new(Arc::new(base.clone()));
            for step in &steps {
                prop_assert_eq!(take(step, &overlay), take(step, &model), "{:?}", step);
            }
            prop_assert_eq!(image(&overlay), image(&model));
            prop_assert_eq!(image(&base), before);
            for number in 0..3 {
                let read = |io: &dyn Io| {
                    let mut bytes = vec![0xee; read.1];
                    let file = io.open(segment(number))?;
                    file.read_at(read.0, &mut bytes).map(|()| bytes)
                };
                let (found, expected) = (read(&overlay), read(&model));
                prop_assert_eq!(found.map_err(|e| e.kind()), expected.map_err(|e| e.kind()));
            }
        }
    }

    #[test]
    fn handles_share_changes_and_outlive_the_name() {
        let base = MemoryIo::new();
        base.create(segment(1)).unwrap().write_at(0, b"base").unwrap();
        let overlay = OverlayIo::new(Arc::new(base.clone()));
        let early = overlay.open(segment(1)).unwrap();
        overlay.open(segment(1)).unwrap().write_at(1, b"O").unwrap();
        overlay.remove(segment(1)).unwrap();
        assert_eq!(overlay.open(segment(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(overlay.remove(segment(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut found = [0; 4];
        early.read_at(0, &mut found).unwrap();
        assert_eq!(&found, b"bOse");
        assert_eq!(overlay.create(segment(1)).unwrap().len().unwrap(), 0);
        assert_eq!(base.open(segment(1)).unwrap().len().unwrap(), 4);
    }

    #[test]
    fn space_without_content_costs_no_memory() {
        const LEN: u64 = 64 << 20;
        let file = OverlayFile { base: None, changes: Arc::new(RwLock::new(Changes::of(0))) };
        file.reserve(LEN).unwrap();
        crate::io::fill(&file, 2 * LEN).unwrap();
        file.write_at(LEN - 1, b"ab").unwrap();
        assert_eq!(file.len().unwrap(), 2 * LEN);
        assert_eq!(file.changes.read().unwrap().blocks.len(), 2);
        let mut found = [9; 4];
        file.read_at(LEN - 2, &mut found).unwrap();
        assert_eq!(&found, b"\0ab\0");
        assert_eq!(file.write_at(u64::MAX, b"a").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
