//! The adapter's files.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlite_vfs::{DatabaseHandle, LockKind, WalDisabled};

use super::io_error;
use super::link::{HandleId, Link};
use crate::database::{DatabaseFile, NO_WRITE_AHEAD_LOG};
use crate::error::{Failure, Operation};
use crate::file::{File, Filled, LockLevel};
use crate::scratch::ScratchFile;

const NEEDS_SYNC: &str = "PRAGMA synchronous=OFF is refused by this VFS: it commits when SQLite syncs; use NORMAL or \
     FULL";
const NEEDS_JOURNAL: &str = "journal_mode MEMORY and OFF are refused by this VFS; use DELETE, TRUNCATE or PERSIST (a journal \
     costs no disk writes here)";

#[derive(Debug)]
struct Database {
    file: DatabaseFile,
    id: HandleId,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Journal {
    file: ScratchFile,
    /// The database handle it belongs to.
    owner: Option<(Arc<Link>, HandleId)>,
}

#[derive(Debug)]
enum Kind {
    Database(Database),
    Journal(Journal),
    Temporary(ScratchFile),
}

/// A file of a [`StoreVfs`](super::StoreVfs): a facet, a journal or a temporary file.
#[derive(Debug)]
pub struct StoreFile(Mutex<Kind>);

impl StoreFile {
    pub(super) fn database(file: DatabaseFile, link: Arc<Link>) -> Self {
        Self::new(Kind::Database(Database { file, id: HandleId::new(), link }))
    }

    pub(super) fn journal(file: ScratchFile, link: Option<Arc<Link>>) -> Self {
        let owner = link.and_then(|link| {
            let mut state = link.lock();
            let owner = state.writer?;
            state.journaled.insert(owner);
            drop(state);
            Some((link, owner))
        });
        Self::new(Kind::Journal(Journal { file, owner }))
    }

    pub(super) fn temporary(file: ScratchFile) -> Self {
        Self::new(Kind::Temporary(file))
    }

    fn new(kind: Kind) -> Self {
        Self(Mutex::new(kind))
    }

    fn kind(&self) -> MutexGuard<'_, Kind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind_mut(&mut self) -> &mut Kind {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    fn file(&self) -> &dyn File {
        match self {
            Self::Database(database) => &database.file,
            Self::Journal(journal) => &journal.file,
            Self::Temporary(file) => file,
        }
    }

    fn file_mut(&mut self) -> &mut dyn File {
        match self {
            Self::Database(database) => &mut database.file,
            Self::Journal(journal) => &mut journal.file,
            Self::Temporary(file) => file,
        }
    }
}

impl Database {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut state = self.link.lock();
        if !state.journaled.contains(&self.id) {
            return Err(Failure::of(Operation::Write, NEEDS_JOURNAL));
        }
        state.unsynced = true;
        drop(state);
        self.file.write(offset, bytes)
    }

    fn set_len(&mut self, size_bytes: u64) -> Result<(), Failure> {
        // A database grows by being written. A longer length is a hint (SQLITE_FCNTL_SIZE_HINT,
        // which the crate turns into this), and would settle the page size of a new one too early.
        if size_bytes >= self.file.size_bytes()? {
            return Ok(());
        }
        self.file.truncate(size_bytes)
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.file.commit()?;
        self.link.lock().unsynced = false;
        Ok(())
    }

    fn lock(&mut self, level: LockLevel) -> Result<(), Failure> {
        self.file.lock(level)?;
        if self.file.lock_level() >= LockLevel::Reserved {
            self.link.lock().writer = Some(self.id);
        }
        Ok(())
    }

    fn unlock(&mut self, level: LockLevel) -> Result<(), Failure> {
        let unsynced = self.link.lock().unsynced;
        let committed = if level == LockLevel::None || !self.file.is_dirty() {
            Ok(())
        } else if unsynced {
            Err(Failure::of(Operation::Lock, NEEDS_SYNC))
        } else {
            self.file.commit()
        };
        // Before the writer is let go, lest the next one's marks be taken away.
        let mut state = self.link.lock();
        if state.writer == Some(self.id) {
            state.writer = None;
            state.unsynced = false;
        }
        drop(state);
        // Whatever became of the commit; what is still staged is given up.
        self.file.unlock(level);
        committed
    }
}

impl Journal {
    /// Before the journal is finished with, whereupon SQLite takes its transaction for done.
    fn before_end(&self) -> Result<(), Failure> {
        let Some((link, owner)) = &self.owner else {
            return Ok(());
        };
        let state = link.lock();
        if state.writer == Some(*owner) && state.unsynced {
            return Err(Failure::of(Operation::Write, NEEDS_SYNC));
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        // The end of a journal that stays open: its header becomes zeros (`zeroJournalHdr`).
        if offset == 0 && bytes.iter().all(|&byte| byte == 0) {
            self.before_end()?;
        }
        self.file.write(offset, bytes)
    }

    fn set_len(&mut self, size_bytes: u64) -> Result<(), Failure> {
        if size_bytes == 0 {
            self.before_end()?;
        }
        self.file.truncate(size_bytes)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some((link, owner)) = &self.owner {
            link.lock().journaled.remove(owner);
        }
    }
}

fn level(kind: LockKind) -> LockLevel {
    match kind {
        LockKind::None => LockLevel::None,
        LockKind::Shared => LockLevel::Shared,
        LockKind::Reserved => LockLevel::Reserved,
        LockKind::Pending => LockLevel::Pending,
        LockKind::Exclusive => LockLevel::Exclusive,
    }
}

impl DatabaseHandle for StoreFile {
    type WalIndex = WalDisabled;

    fn size(&self) -> io::Result<u64> {
        self.kind().file_mut().size_bytes().map_err(io_error)
    }

    fn read_exact_at(&mut self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self.kind_mut().file_mut().read(offset, into).map_err(io_error)? {
            Filled::Whole => Ok(()),
            Filled::Short => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.kind_mut() {
            Kind::Database(database) => database.write(offset, bytes),
            Kind::Journal(journal) => journal.write(offset, bytes),
            Kind::Temporary(file) => file.write(offset, bytes),
        }
        .map_err(io_error)
    }

    fn sync(&mut self, _data_only: bool) -> io::Result<()> {
        match self.kind_mut() {
            Kind::Database(database) => database.sync().map_err(io_error),
            Kind::Journal(_) | Kind::Temporary(_) => Ok(()),
        }
    }

    fn set_len(&mut self, size_bytes: u64) -> io::Result<()> {
        match self.kind_mut() {
            Kind::Database(database) => database.set_len(size_bytes),
            Kind::Journal(journal) => journal.set_len(size_bytes),
            Kind::Temporary(file) => file.truncate(size_bytes),
        }
        .map_err(io_error)
    }

    fn lock(&mut self, lock: LockKind) -> io::Result<bool> {
        let locked = match self.kind_mut() {
            Kind::Database(database) => database.lock(level(lock)),
            Kind::Journal(_) | Kind::Temporary(_) => Ok(()),
        };
        match locked {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_busy() => {
                crate::error::keep_last_error(&failure);
                Ok(false)
            }
            Err(failure) => Err(io_error(failure)),
        }
    }

    fn unlock(&mut self, lock: LockKind) -> io::Result<bool> {
        match self.kind_mut() {
            Kind::Database(database) => database.unlock(level(lock)).map_err(io_error)?,
            Kind::Journal(_) | Kind::Temporary(_) => {}
        }
        Ok(true)
    }

    fn reserved(&mut self) -> io::Result<bool> {
        Ok(self.kind_mut().file().is_reserved())
    }

    fn current_lock(&self) -> io::Result<LockKind> {
        Ok(match self.kind().file().lock_level() {
            LockLevel::None => LockKind::None,
            LockLevel::Shared => LockKind::Shared,
            LockLevel::Reserved => LockKind::Reserved,
            LockLevel::Pending => LockKind::Pending,
            LockLevel::Exclusive => LockKind::Exclusive,
        })
    }

    fn moved(&self) -> io::Result<bool> {
        Ok(self.kind().file().has_moved())
    }

    fn wal_index(&self, _readonly: bool) -> io::Result<WalDisabled> {
        Err(io::Error::new(io::ErrorKind::Unsupported, NO_WRITE_AHEAD_LOG))
    }
}
