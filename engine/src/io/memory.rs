//! Files in memory, for tests and for stores that need not outlive the process.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{DirectoryState, FileName, Io, IoFile};
use crate::types::FileNo;

/// A directory in memory. Clones share it, so that a store can be closed and opened again.
#[derive(Clone, Debug, Default)]
pub struct MemoryIo {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<BTreeMap<FileName, Arc<MemoryFile>>>,
    locked: Arc<Mutex<bool>>,
}

impl MemoryIo {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn files<T>(&self, with: impl FnOnce(&mut BTreeMap<FileName, Arc<MemoryFile>>) -> T) -> T {
        with(&mut self.shared.files.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Io for MemoryIo {
    fn describe(&self) -> String {
        "(memory)".to_owned()
    }

    fn backend(&self) -> &'static str {
        "memory"
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        let found = self.files(|files| files.contains_key(&FileName::Superblock));
        Ok(if found { DirectoryState::Store } else { DirectoryState::Empty })
    }

    fn create_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut locked = self.shared.locked.lock().unwrap_or_else(PoisonError::into_inner);
        if *locked {
            return Ok(None);
        }
        *locked = true;
        Ok(Some(Box::new(MemoryLock(Arc::clone(&self.shared.locked)))))
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        match self.files(|files| files.get(&name).cloned()) {
            Some(file) => Ok(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        let file = Arc::new(MemoryFile::default());
        self.files(|files| files.insert(name, Arc::clone(&file)));
        Ok(file)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.files(|files| files.remove(&name))
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        let segment = |name: &FileName| match name {
            FileName::Segment(id) => Some(*id),
            FileName::Superblock | FileName::Bucket => None,
        };
        Ok(self.files(|files| files.keys().filter_map(segment).collect()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryLock(Arc<Mutex<bool>>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

#[derive(Debug, Default)]
struct MemoryFile {
    content: RwLock<Vec<u8>>,
}

impl IoFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        let source = usize::try_from(offset)
            .ok()
            .and_then(|start| content.get(start..start.checked_add(bytes.len())?));
        match source {
            Some(source) => {
                bytes.copy_from_slice(source);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
