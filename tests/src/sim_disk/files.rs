//! The simulated disk as the engine's files.

use std::io;
use std::sync::{Arc, Mutex};

use lapidary_engine::{DirectoryState, FileName, FileNo, Io, IoFile};

use super::file::Inode;
use super::{OperationKind, SimDisk, State, io_error, lock};

impl Io for SimDisk {
    fn describe(&self) -> String {
        "(simulated disk)".to_owned()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        let state = self.state();
        state.check_power()?;
        let found = state.inode_of(FileName::Superblock).is_some();
        Ok(if found { DirectoryState::Store } else { DirectoryState::Empty })
    }

    fn create_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.directory.visible.is_some() {
            return state.check_power();
        }
        state.name_operation(OperationKind::CreateDirectory, None, true, |state| {
            state.directory.set(Some(()));
        })
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.state();
        state.check_directory()?;
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(Box::new(SimLock { shared: Arc::clone(&self.shared) })))
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        let state = self.state();
        state.check_directory()?;
        match state.inode_of(name) {
            Some(inode) => Ok(Arc::new(SimFile { shared: Arc::clone(&self.shared), name, inode })),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        let mut state = self.state();
        state.check_directory()?;
        let inode = state.inode_of(name).unwrap_or(state.inodes.len());
        state.name_operation(OperationKind::Create, Some(name), true, |state| {
            if inode < state.inodes.len() {
                state.inodes[inode].truncate();
            } else {
                state.inodes.push(Inode::default());
                state.names.entry(name).or_default().set(Some(inode));
            }
        })?;
        Ok(Arc::new(SimFile { shared: Arc::clone(&self.shared), name, inode }))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let mut state = self.state();
        state.check_directory()?;
        if state.inode_of(name).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name_operation(OperationKind::Remove, Some(name), false, |state| {
            state.names.entry(name).or_default().set(None);
        })
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.state().check_directory()?;
        let segment = |name| match name {
            FileName::Segment(id) => Some(id),
            FileName::Superblock | FileName::Bucket => None,
        };
        Ok(self.files().into_iter().filter_map(segment).collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.check_directory()?;
        state.sync_directory()
    }
}

struct SimLock {
    shared: Arc<Mutex<State>>,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        lock(&self.shared).locked = false;
    }
}

struct SimFile {
    shared: Arc<Mutex<State>>,
    name: FileName,
    inode: usize,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl IoFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let state = lock(&self.shared);
        state.check_power()?;
        Ok(state.inodes[self.inode].len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = lock(&self.shared);
        state.check_power()?;
        let number = state.reads;
        state.reads += 1;
        let place = (self.name, offset, offset + bytes.len() as u64);
        if let Some(places) = &mut state.read_places {
            places.push(place);
        }
        if state.failing_reads.remove(&number) {
            return Err(io_error());
        }
        if !state.inodes[self.inode].read(offset, bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if state.rotten_reads.remove(&number) && !bytes.is_empty() {
            let at = state.chance.index(bytes.len());
            bytes[at] ^= 1 << state.chance.below(8);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        lock(&self.shared).write(self.name, self.inode, offset, bytes)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        lock(&self.shared).punch_hole(self.name, self.inode, offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.shared).sync(self.name, self.inode)
    }
}
