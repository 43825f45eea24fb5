//! A simulated disk under an operating system's page cache, for the engine's `Io`.
//!
//! # Fault model
//!
//! Two things are kept of every file: what the *disk* has, and what the *page cache* shows to reads.
//!
//! 1. **A write** changes the page cache at once. Until a later good sync of the same file, each
//!    512-byte sector reaches the disk or not, on its own, in any order: after a power loss it holds
//!    what the disk had, or any of the values written to it since the last good sync. So writes are
//!    lost, reordered and torn.
//! 2. **A file's length** behaves like one more sector: after a power loss it is any of the lengths
//!    the file had since the last good sync, or any number of sectors in between. Bytes inside the
//!    length that never reached the disk are zeros, or what an earlier use of the file left there.
//! 3. **Names** (created, removed, the directory itself) behave like a sector of the directory,
//!    which only `sync_directory` makes durable. Syncing a file does not make its name durable.
//! 4. **A power loss** can come at any operation that changes something. That operation may have
//!    been carried out whole, in part, or not at all; every later operation fails.
//! 5. **The death of the process** ([`SimDisk::after_kill`]) leaves the page cache as it is: the next
//!    process reads what was written, synced or not, and loses it at a later power loss unless it
//!    writes it again or syncs it.
//! 6. **An I/O error of a write** leaves a beginning of it written, in whole sectors; so does the
//!    death of the process in the middle of one.
//! 7. **An I/O error of a sync** puts an unknown part of the unsynced sectors on the disk and marks
//!    *all* of them clean, as ext4 and XFS do: reads of the living process, and of the next, go on
//!    showing what the disk does not have, and a second sync succeeds without writing anything.
//! 8. **A full disk** refuses whatever lengthens a file or creates one, at a chosen operation or past
//!    a capacity; a refused write may have written its beginning, in whole sectors.
//! 9. **An I/O error of a read** changes nothing.
//! 10. **A lie of a write** ([`Fault::Lost`], [`Fault::Short`], [`Fault::Misdirected`]): it is reported as done, and
//!     nothing of it was written, or its beginning, or all of it in another place of this or another file, whose
//!     bytes are gone then.
//! 11. **A hole that is punched** is a write of zeros to each of its sectors, by rules 1, 4 and 5, that gives their
//!     space back at once. After a power loss all of a file takes space again.
//! 12. **Rot** ([`SimDisk::rot`]): one bit that was at rest is the other one, on the disk and in the page cache.
//!     A read can also be told a wrong bit of what is right ([`SimDisk::rot_read_at`]).
//!
//! Of 1 to 9 and 11 nothing acknowledged may be lost, whatever is combined with what, also during recovery,
//! cleaning and checkpoints. Of 10 and 12 it may, since there is one copy of it; but what is shown is a state there was, or an
//! error that names the damage, and nothing is taken back silently but the log's last batch, which looks as if
//! it were torn.
//!
//! Stale contents of recycled files need no help: what was written once stays until overwritten. Clocks that
//! jump are in [`sim_environment`](crate::sim_environment). What is not in the model: a sync that is
//! reported as done and was not, and directories that lose names that were synced.
//!
//! Everything that is not the caller's choice comes from one seed.

mod file;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapidary_engine::FileName;
use rustc_hash::FxHasher;

use crate::chance::Chance;
use file::{Inode, Survivor};

/// Bytes that reach the disk whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Writes that go astray go to a multiple of this.
const BLOCK_BYTES: u64 = 4096;

/// What an operation does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with EIO: rules 6 and 7 of the fault model.
    Io,
    /// Fails with ENOSPC, if it is one that takes space; others are carried out.
    NoSpace,
    /// A write is reported as done and was not: rule 10. Of other operations nothing is lied about.
    Lost,
    /// The same, of all but the beginning of a write.
    Short,
    /// A write is reported as done and went somewhere else.
    Misdirected,
}

/// What survives a power loss of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything: the page cache had just been written back.
    Everything,
    /// Everything but the first sector of each file, where headers are.
    Headless,
    /// Each sector, length and name on its own, decided by this seed.
    Random(u64),
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// The directory was created.
    CreateDirectory,
    /// A file was created or emptied.
    Create,
    /// Bytes were written.
    Write,
    /// A hole was punched.
    PunchHole,
    /// A file was synced.
    Sync,
    /// A file was removed.
    Remove,
    /// The directory was synced.
    SyncDirectory,
}

/// One operation that changed something, or tried to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// What it was.
    pub kind: OperationKind,
    /// The file, or none for the directory.
    pub file: Option<FileName>,
    /// Where a write began, in bytes.
    pub offset: u64,
    /// Bytes written, or of a hole.
    pub length: u64,
    /// Hash of the bytes written.
    pub content_hash: u64,
    /// Whether it needed space: it created a file or made one longer.
    pub takes_space: bool,
}

/// Bytes of a file: from where, up to where.
pub type Place = (FileName, u64, u64);

/// A store's directory on the simulated disk. Clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    shared: Arc<Mutex<State>>,
}

#[derive(Clone, Debug)]
struct State {
    chance: Chance,
    trace: Vec<Operation>,
    reads: u64,
    read_places: Option<Vec<Place>>,
    crash_at: Option<u64>,
    faults: BTreeMap<u64, Fault>,
    fail_from: Option<u64>,
    failing_reads: BTreeSet<u64>,
    rotten_reads: BTreeSet<u64>,
    capacity_bytes: Option<u64>,
    stopped: bool,
    locked: bool,
    directory: Entry<()>,
    names: BTreeMap<FileName, Entry<usize>>,
    inodes: Vec<Inode>,
}

/// A name: what lookups show, what the disk has, and what it was since the directory was synced.
#[derive(Clone, Debug)]
struct Entry<T> {
    visible: Option<T>,
    durable: Option<T>,
    since_sync: Vec<Option<T>>,
}

impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self { visible: None, durable: None, since_sync: Vec::new() }
    }
}

impl<T: Copy> Entry<T> {
    fn set(&mut self, value: Option<T>) {
        self.visible = value;
        self.since_sync.push(value);
    }

    fn sync(&mut self) {
        self.durable = self.visible;
        self.since_sync.clear();
    }

    /// Rule 7, for names.
    fn fail_sync(&mut self, survivor: &mut Survivor) {
        self.durable = self.surviving(survivor);
        self.since_sync.clear();
    }

    fn surviving(&self, survivor: &mut Survivor) -> Option<T> {
        match survivor.choose(self.since_sync.len()) {
            None => self.durable,
            Some(index) => self.since_sync[index],
        }
    }

    fn after_crash(&self, survivor: &mut Survivor) -> Self {
        let value = self.surviving(survivor);
        Self { visible: value, durable: value, since_sync: Vec::new() }
    }
}

/// What an operation is to do once its number was looked up.
enum Verdict {
    Proceed,
    Fail(Fault),
    /// Carry out, perhaps in part, then stop.
    Crash,
}

impl SimDisk {
    /// An empty disk, whose every decision is a function of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            chance: Chance::from_seed(seed),
            trace: Vec::new(),
            reads: 0,
            read_places: None,
            crash_at: None,
            faults: BTreeMap::new(),
            fail_from: None,
            failing_reads: BTreeSet::new(),
            rotten_reads: BTreeSet::new(),
            capacity_bytes: None,
            stopped: false,
            locked: false,
            directory: Entry::default(),
            names: BTreeMap::new(),
            inodes: Vec::new(),
        })
    }

    fn from_state(state: State) -> Self {
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    /// Changing operations done or tried so far. The next one has this number.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().trace.len() as u64
    }

    /// Reads done so far. The next one has this number.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Notes from now on which bytes are read, for [`take_read_places`](Self::take_read_places).
    pub fn note_reads(&self) {
        self.state().read_places = Some(Vec::new());
    }

    /// The bytes that were read since the last call.
    #[must_use]
    pub fn take_read_places(&self) -> Vec<Place> {
        self.state().read_places.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Every changing operation so far, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<Operation> {
        self.state().trace.clone()
    }

    /// Lose power during changing operation number `operation`.
    pub fn crash_at(&self, operation: u64) {
        self.state().crash_at = Some(operation);
    }

    /// Lose power now.
    pub fn crash(&self) {
        self.state().stopped = true;
    }

    /// Let changing operation number `operation` fail.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.state().faults.insert(operation, fault);
    }

    /// Let every changing operation from number `operation` on fail with EIO.
    pub fn fail_from(&self, operation: u64) {
        self.state().fail_from = Some(operation);
    }

    /// Let read number `read` fail with EIO.
    pub fn fail_read_at(&self, read: u64) {
        self.state().failing_reads.insert(read);
    }

    /// Let read number `read` be told one wrong bit.
    pub fn rot_read_at(&self, read: u64) {
        self.state().rotten_reads.insert(read);
    }

    /// Turns one bit of one file that has any; says where, in bytes.
    #[must_use]
    pub fn rot(&self, seed: u64) -> Option<(FileName, u64)> {
        let mut chance = Chance::from_seed(seed);
        let mut files = self.files();
        files.retain(|&name| self.contents(name).is_some_and(|bytes| !bytes.is_empty()));
        if files.is_empty() {
            return None;
        }
        let file = chance.pick(&files);
        let mut at = 0;
        self.change(file, |bytes| {
            at = chance.index(bytes.len());
            bytes[at] ^= 1 << chance.below(8);
        });
        Some((file, at as u64))
    }

    /// From now on, refuse what would make all files together take more than this.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// Forget planned faults and crashes.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.crash_at = None;
        state.faults.clear();
        state.fail_from = None;
        state.failing_reads.clear();
        state.rotten_reads.clear();
    }

    /// Whether power was lost.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Bytes that all files that have a name take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// A disk with what a power loss leaves; this one stays as it is.
    #[must_use]
    pub fn after_crash(&self, survival: Survival) -> Self {
        let state = self.state();
        let mut survivor = Survivor::new(survival);
        let directory = state.directory.after_crash(&mut survivor);
        // Every name and inode is decided even if the directory is gone, so that the decisions of
        // one do not hang on another.
        let mut names = BTreeMap::new();
        for (name, entry) in &state.names {
            let entry = entry.after_crash(&mut survivor);
            if entry.visible.is_some() && directory.visible.is_some() {
                names.insert(*name, entry);
            }
        }
        let inodes = state.inodes.iter().map(|inode| inode.after_crash(&mut survivor)).collect();
        Self::from_state(state.renewed(directory, names, inodes))
    }

    /// A disk as the next process finds it if this one is killed: the page cache stays.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        let names = state.names.clone();
        Self::from_state(state.renewed(state.directory.clone(), names, state.inodes.clone()))
    }

    /// What reads of a file show.
    #[must_use]
    pub fn contents(&self, name: FileName) -> Option<Vec<u8>> {
        let state = self.state();
        state.inode_of(name).map(|inode| state.inodes[inode].contents())
    }

    /// The first bytes of what reads of a file show, at most so many.
    #[must_use]
    pub(crate) fn beginning(&self, name: FileName, bytes_max: usize) -> Vec<u8> {
        let state = self.state();
        let Some(inode) = state.inode_of(name) else { return Vec::new() };
        let inode = &state.inodes[inode];
        let mut bytes = vec![0; bytes_max.min(inode.len() as usize)];
        inode.read(0, &mut bytes);
        bytes
    }

    /// The files there are.
    #[must_use]
    pub fn files(&self) -> Vec<FileName> {
        let state = self.state();
        let there = state.names.iter().filter(|(_, entry)| entry.visible.is_some());
        there.map(|(name, _)| *name).collect()
    }

    /// Damages a file on the disk and in the page cache alike. `with` gets its bytes.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn change(&self, name: FileName, with: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.inode_of(name).expect("the file to damage exists");
        let mut bytes = state.inodes[inode].contents();
        with(&mut bytes);
        state.inodes[inode] = Inode::durable(&bytes);
    }

    /// A hash of everything that happened and of everything there is.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let state = self.state();
        let mut hasher = FxHasher::default();
        state.trace.hash(&mut hasher);
        state.reads.hash(&mut hasher);
        for (name, entry) in &state.names {
            (name, entry.visible, entry.durable).hash(&mut hasher);
        }
        for inode in &state.inodes {
            inode.hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn power_lost() -> io::Error {
    io::Error::other("the simulated machine lost its power")
}

fn content_hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl State {
    fn renewed(
        &self,
        directory: Entry<()>,
        names: BTreeMap<FileName, Entry<usize>>,
        inodes: Vec<Inode>,
    ) -> Self {
        Self {
            chance: self.chance.clone(),
            trace: Vec::new(),
            reads: 0,
            read_places: None,
            crash_at: None,
            faults: BTreeMap::new(),
            fail_from: None,
            failing_reads: BTreeSet::new(),
            rotten_reads: BTreeSet::new(),
            capacity_bytes: self.capacity_bytes,
            stopped: false,
            locked: false,
            directory,
            names,
            inodes,
        }
    }

    fn inode_of(&self, name: FileName) -> Option<usize> {
        self.names.get(&name).and_then(|entry| entry.visible)
    }

    fn used_bytes(&self) -> u64 {
        let inodes = self.names.values().filter_map(|entry| entry.visible);
        inodes.map(|inode| self.inodes[inode].space()).sum()
    }

    fn check_power(&self) -> io::Result<()> {
        if self.stopped { Err(power_lost()) } else { Ok(()) }
    }

    fn check_directory(&self) -> io::Result<()> {
        self.check_power()?;
        if self.directory.visible.is_some() { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Counts an operation and says what is to become of it. `grows_by` is the space it needs.
    fn verdict(&mut self, operation: Operation, grows_by: u64) -> io::Result<Verdict> {
        self.check_power()?;
        let number = self.trace.len() as u64;
        let (takes_space, kind) = (operation.takes_space, operation.kind);
        self.trace.push(operation);
        if self.crash_at.is_some_and(|at| number >= at) {
            self.stopped = true;
            return Ok(Verdict::Crash);
        }
        if self.fail_from.is_some_and(|from| number >= from) {
            return Ok(Verdict::Fail(Fault::Io));
        }
        match self.faults.remove(&number) {
            Some(Fault::NoSpace) if !takes_space => {}
            Some(fault) if fault.is_lie() && kind != OperationKind::Write => {}
            Some(fault) => return Ok(Verdict::Fail(fault)),
            None => {}
        }
        let full = self.capacity_bytes.is_some_and(|most| self.used_bytes() + grows_by > most);
        Ok(if full && takes_space { Verdict::Fail(Fault::NoSpace) } else { Verdict::Proceed })
    }

    /// An operation on a name: all or nothing, also when it fails or power is lost.
    fn name_operation(
        &mut self,
        kind: OperationKind,
        file: Option<FileName>,
        takes_space: bool,
        apply: impl FnOnce(&mut Self),
    ) -> io::Result<()> {
        let operation =
            Operation { kind, file, offset: 0, length: 0, content_hash: 0, takes_space };
        match self.verdict(operation, 0)? {
            Verdict::Proceed => {
                apply(self);
                Ok(())
            }
            Verdict::Fail(fault) => Err(fault.error()),
            Verdict::Crash => {
                apply(self);
                Err(power_lost())
            }
        }
    }

    fn write(&mut self, name: FileName, inode: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let grows_by = self.inodes[inode].space_for(offset, bytes.len() as u64);
        let operation = Operation {
            kind: OperationKind::Write,
            file: Some(name),
            offset,
            length: bytes.len() as u64,
            content_hash: content_hash(bytes),
            takes_space: grows_by > 0,
        };
        let verdict = self.verdict(operation, grows_by)?;
        let (written, result) = match verdict {
            Verdict::Proceed => (bytes.len(), Ok(())),
            Verdict::Fail(Fault::Lost) => (0, Ok(())),
            Verdict::Fail(Fault::Short) => (self.beginning(offset, bytes.len()), Ok(())),
            Verdict::Fail(Fault::Misdirected) => {
                self.misdirect(bytes);
                (0, Ok(()))
            }
            Verdict::Fail(fault) => (self.beginning(offset, bytes.len()), Err(fault.error())),
            // Mostly whole, since the sectors of an unsynced write are lost one by one anyway;
            // sometimes its beginning only, which is what the death of a process can leave.
            Verdict::Crash if self.chance.one_in(3) => {
                (self.beginning(offset, bytes.len()), Err(power_lost()))
            }
            Verdict::Crash => (bytes.len(), Err(power_lost())),
        };
        self.inodes[inode].write(offset, &bytes[..written]);
        result
    }

    fn punch_hole(
        &mut self,
        name: FileName,
        inode: usize,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let operation = Operation {
            kind: OperationKind::PunchHole,
            file: Some(name),
            offset,
            length,
            content_hash: 0,
            takes_space: false,
        };
        let (punched, result) = match self.verdict(operation, 0)? {
            Verdict::Proceed => (length, Ok(())),
            Verdict::Fail(fault) => {
                (self.beginning(offset, length as usize) as u64, Err(fault.error()))
            }
            Verdict::Crash => (self.beginning(offset, length as usize) as u64, Err(power_lost())),
        };
        self.inodes[inode].punch_hole(offset, punched);
        result
    }

    /// Writes over some block of some file, as far as that is long enough.
    fn misdirect(&mut self, bytes: &[u8]) {
        let inodes: Vec<usize> = self.names.values().filter_map(|entry| entry.visible).collect();
        let inode = self.chance.pick(&inodes);
        let blocks = self.inodes[inode].len() / BLOCK_BYTES;
        let offset = self.chance.index(blocks as usize) as u64 * BLOCK_BYTES;
        let room = (self.inodes[inode].len() - offset) as usize;
        self.inodes[inode].write(offset, &bytes[..bytes.len().min(room)]);
    }

    /// How much of an interrupted write is written: it ends at a sector's boundary, or is whole.
    fn beginning(&mut self, offset: u64, length: usize) -> usize {
        let chosen = self.chance.index(length + 1);
        if chosen == length {
            return length;
        }
        let into_sector = (offset as usize + chosen) % SECTOR_BYTES;
        chosen.saturating_sub(into_sector)
    }

    fn sync(&mut self, name: FileName, inode: usize) -> io::Result<()> {
        let operation = Operation {
            kind: OperationKind::Sync,
            file: Some(name),
            offset: 0,
            length: 0,
            content_hash: 0,
            takes_space: false,
        };
        match self.verdict(operation, 0)? {
            Verdict::Proceed => {
                self.inodes[inode].sync();
                Ok(())
            }
            Verdict::Fail(fault) => {
                let seed = self.chance.number();
                self.inodes[inode].fail_sync(&mut Survivor::new(Survival::Random(seed)));
                Err(fault.error())
            }
            Verdict::Crash => Err(power_lost()),
        }
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let operation = Operation {
            kind: OperationKind::SyncDirectory,
            file: None,
            offset: 0,
            length: 0,
            content_hash: 0,
            takes_space: false,
        };
        match self.verdict(operation, 0)? {
            Verdict::Proceed => {
                self.directory.sync();
                self.names.values_mut().for_each(Entry::sync);
                Ok(())
            }
            Verdict::Fail(fault) => {
                let mut survivor = Survivor::new(Survival::Random(self.chance.number()));
                self.directory.fail_sync(&mut survivor);
                self.names.values_mut().for_each(|entry| entry.fail_sync(&mut survivor));
                Err(fault.error())
            }
            Verdict::Crash => Err(power_lost()),
        }
    }
}

impl Fault {
    fn is_lie(self) -> bool {
        matches!(self, Self::Lost | Self::Short | Self::Misdirected)
    }

    /// What the caller is told of one that is no lie.
    fn error(self) -> io::Error {
        if self == Self::NoSpace { no_space() } else { io_error() }
    }
}
