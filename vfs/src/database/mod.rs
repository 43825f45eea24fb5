//! A main database: a handle to one facet.
//!
//! | SQLite | here |
//! |---|---|
//! | lock `SHARED` | pins a snapshot; every read until the unlock comes from it |
//! | lock `RESERVED` (or straight to `EXCLUSIVE`) | takes the facet's one writer, at the snapshot |
//! | lock `EXCLUSIVE` | nothing more: readers have their own snapshots |
//! | write, truncate | staged in the writer |
//! | `SYNC` (end of phase one) | if the connection has other databases: the transaction waits with theirs |
//! | `COMMIT_PHASETWO` | commits what is staged; the handle goes on at its own new version |
//! | open with `at=` | pins one version for the life of the handle; no lock is ever asked for |
//! | unlock | gives up what is staged, then the writer, then the snapshot |
//!
//! `COMMIT_PHASETWO` is the commit because it is the last event of every committing transaction in
//! rollback mode (`pager_end_transaction`): after the journal's end and after the truncation of a
//! file that shrank, and never part of a ROLLBACK. `xSync` is neither: a transaction that rolls
//! back syncs too, and one with `synchronous=OFF` never does.
//!
//! Source: `pager_end_transaction`, `sqlite3PagerCommitPhaseOne` and `pager_playback` in SQLite
//! 3.54's `pager.c`. Tests: `tests/vfs/transactions.rs` (what is committed and what is not),
//! `tests/vfs/durability.rs` (when), `tests/vfs/concurrency.rs` (who sees it).

mod group;
mod pages;
mod pragma;
mod stamp;
mod transaction;
mod visible;

use std::os::raw::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapidary_engine::{Facet, HeldPages, Snapshot, Store, Ticket, View};
use rusqlite::ffi as sqlite;

pub(crate) use self::group::{Family, Groups, SuperJournalIsOpen};
use self::group::{Member, Outcome};
use self::transaction::{Committed, Transaction};
use self::visible::VisibleHeader;
use crate::error::{Failure, Operation};
use crate::file::{File, Filled, LockLevel, PragmaAnswer};
use crate::gate::GateState;
use crate::header;
use crate::scratch::SEVERAL_FILES;
use crate::stores::{OpenStore, OpenedFacet};
use crate::thread_use::{add_read, add_written};

/// What an error says about a rollback journal that is switched off.
const NO_JOURNAL: &str = "journal_mode=OFF is refused: SQLite could not take a failed statement back, and a half-done \
     one would be committed; use DELETE or MEMORY (a journal costs no disk writes here)";

/// What an error says about WAL mode.
pub(crate) const NO_WRITE_AHEAD_LOG: &str = "WAL mode is refused: readers and a writer go side by side here without it; use \
     `PRAGMA journal_mode=DELETE`";

/// What an error says about a handle whose transaction was given up after its COMMIT.
const COLLECTED_FAILED: &str = "the commit of several connections failed after SQLite had ended this \
     one's transaction: close the connection";

/// What an error says about a reader that asks to keep its lock.
const NO_EXCLUSIVE_READER: &str = "locking_mode=EXCLUSIVE is refused on a read-only connection: it \
     would keep its first snapshot and see no later commit; leave the locking mode NORMAL";

/// `SQLITE_IOCAP_SUBPAGE_READ`, since SQLite 3.48. Older ones do not look at it.
const IOCAP_SUBPAGE_READ: c_int = 0x8000;

/// When a commit returns, and what the handle reads.
#[derive(Clone, Debug)]
pub(crate) enum Durability {
    /// When it is durable; reads durable versions.
    Sync,
    /// At once; reads the latest version. The host behind the gate holds the replies.
    Gated(Arc<GateState>),
}

#[derive(Debug)]
enum Hold {
    Nothing,
    Shared(Snapshot),
    Writing(Box<Transaction>),
    /// Through phase one: the transaction is with the connection's other ones.
    Prepared(LockLevel),
}

/// An open main database.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    store: Arc<Store>,
    facet: Arc<Facet>,
    durability: Durability,
    read_only: bool,
    hold: Hold,
    groups: Arc<Groups>,
    /// Of the connection that opened the file, or was the last to end a phase one.
    family: Option<Arc<Family>>,
    /// What the gate collects, if the transaction is there.
    collected_in: Option<Arc<Family>>,
    visible: VisibleHeader,
    /// The version of the past that is read, if it is not the newest.
    fixed: Option<Snapshot>,
    /// Pages that SQLite reads in place.
    held: HeldPages,
    /// `PRAGMA mmap_size`.
    mmap_limit: u64,
    /// Whether `PRAGMA locking_mode=EXCLUSIVE` was asked for.
    exclusive_locking: bool,
    /// Why the handle is of no use any more.
    broken: Option<String>,
    /// The use of a store that was opened for its files. Dropped last, as that may close it.
    used: Option<OpenStore>,
}

impl DatabaseFile {
    pub(crate) fn new(
        store: Arc<Store>,
        groups: Arc<Groups>,
        facet: Arc<Facet>,
        durability: Durability,
        read_only: bool,
    ) -> Self {
        Self {
            groups,
            family: None,
            collected_in: None,
            held: facet.held_pages(),
            mmap_limit: 0,
            store,
            facet,
            durability,
            read_only,
            hold: Hold::Nothing,
            visible: VisibleHeader::default(),
            fixed: None,
            exclusive_locking: false,
            broken: None,
            used: None,
        }
    }

    /// As a use of a store that is shared by those that use it.
    pub(crate) fn using(mut self, store: OpenStore) -> Self {
        self.used = Some(store);
        self
    }

    /// A handle that reads `version` of the facet, and nothing else.
    pub(crate) fn at_version(
        store: Arc<Store>,
        groups: Arc<Groups>,
        facet: Arc<Facet>,
        version: Snapshot,
    ) -> Self {
        let mut this = Self::new(store, groups, facet, Durability::Sync, true);
        this.fixed = Some(version);
        this
    }

    /// Whether anything is staged.
    pub(crate) fn is_dirty(&self) -> bool {
        matches!(&self.hold, Hold::Writing(transaction) if transaction.is_dirty())
    }

    fn view(&self) -> View {
        match self.durability {
            Durability::Sync => View::Durable,
            Durability::Gated(_) => View::Latest,
        }
    }

    fn log_buffer(&self) -> usize {
        match &self.durability {
            Durability::Sync => thread_log_buffer(),
            Durability::Gated(gate) => gate.log_buffer(),
        }
    }

    fn check_usable(&self, operation: Operation) -> Result<(), Failure> {
        match &self.broken {
            Some(reason) => Err(Failure::of(operation, reason.as_str())),
            None => Ok(()),
        }
    }

    fn snapshot(&self, operation: Operation) -> Result<Snapshot, Failure> {
        if let Some(version) = &self.fixed {
            return Ok(version.clone());
        }
        self.facet.snapshot(self.view()).map_err(|error| Failure::from_engine(operation, &error))
    }

    /// Takes the facet's writer at the version pinned.
    fn begin(&mut self, level: LockLevel) -> Result<(), Failure> {
        if self.read_only {
            return Err(Failure::new(
                sqlite::SQLITE_READONLY,
                format!("facet {}: this connection is read-only", self.facet.name()),
            ));
        }
        let snapshot = match &self.hold {
            Hold::Shared(snapshot) => snapshot.clone(),
            _ => self.snapshot(Operation::Lock)?,
        };
        let writer = self
            .facet
            .begin_write(&snapshot)
            .map_err(|error| Failure::from_engine(Operation::Lock, &error))?;
        self.hold = Hold::Writing(Box::new(Transaction::begin(writer, level, self.visible.stamp)));
        Ok(())
    }

    fn transaction(&mut self, operation: Operation) -> Result<&mut Transaction, Failure> {
        match &mut self.hold {
            Hold::Writing(transaction) => Ok(transaction),
            _ => Err(Failure::of(
                operation,
                format!("facet {}: write without a RESERVED lock", self.facet.name()),
            )),
        }
    }

    /// Gives the transaction to the family, to be committed with the others there.
    fn prepare(&mut self, family: &Family) {
        match std::mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Writing(transaction) => {
                self.hold = Hold::Prepared(transaction.level());
                family.add(Member {
                    facet: Arc::clone(&self.facet),
                    durability: self.durability.clone(),
                    transaction,
                    outcome: None,
                });
            }
            other => self.hold = other,
        }
    }

    /// Takes the transaction back from the family, if it is there, with what has become of it.
    fn resume(&mut self) {
        let Hold::Prepared(_) = self.hold else { return };
        let collected_in = self.collected_in.take();
        let family = collected_in.as_ref().or(self.family.as_ref());
        let family = family.expect("who is prepared has a family");
        let member = family.take(self.facet.id()).expect("who is prepared is in the family");
        let mut transaction = member.transaction;
        if collected_in.is_some() {
            match member.outcome {
                None => family.note_left(),
                // SQLite's cache has what was not committed, and takes it for committed.
                Some(Outcome::Failed) => self.broken = Some(COLLECTED_FAILED.to_owned()),
                Some(_) => {}
            }
        }
        match member.outcome {
            None | Some(Outcome::Unchanged) => {}
            Some(Outcome::Committed(committed)) => {
                note_committed(&mut self.visible, &mut transaction, &committed);
            }
            Some(Outcome::Broken(committed, reason)) => {
                note_committed(&mut self.visible, &mut transaction, &committed);
                self.broken = Some(reason);
            }
            Some(Outcome::Failed) => {
                self.visible.stamp.discarded(transaction.stamp_before());
            }
        }
        self.hold = Hold::Writing(transaction);
    }

    /// Waits, or leaves waiting to the gate.
    fn acknowledge(&mut self, ticket: Ticket) -> Result<(), Failure> {
        match &self.durability {
            Durability::Gated(gate) => {
                gate.record(ticket);
                Ok(())
            }
            Durability::Sync => self.store.wait_durable(ticket).map_err(|error| {
                let failure = Failure::from_engine(Operation::Commit, &error);
                // The version is in the engine but will never be durable: nobody may see it, this
                // connection's other statements included.
                self.broken = Some(failure.message.clone());
                failure
            }),
        }
    }
}

impl File for DatabaseFile {
    fn opened_by(&mut self, connection: usize) {
        self.family = Some(self.groups.family(connection, &self.store));
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<Filled, Failure> {
        self.resume();
        self.check_usable(Operation::Read)?;
        let filled = match &self.hold {
            // SQLite reads the header before it has ever locked the file, for the page size.
            Hold::Nothing | Hold::Prepared(_) => {
                let snapshot = self.snapshot(Operation::Read)?;
                self.visible.read(&snapshot, offset, into)
            }
            Hold::Shared(snapshot) => self.visible.read(snapshot, offset, into),
            Hold::Writing(transaction) if !transaction.is_dirty() => {
                self.visible.read(transaction.base(), offset, into)
            }
            Hold::Writing(transaction) => transaction.read(offset, into).inspect(|&filled| {
                if transaction.header_is_base() {
                    let base = transaction.base().version();
                    self.visible.show_counter(base, offset, into, filled);
                } else {
                    self.visible.wrote(offset, into);
                }
            }),
        };
        let filled = filled.map_err(|error| Failure::from_engine(Operation::Read, &error))?;
        add_read(into.len());
        // No commit of this crate lets such a page in, but the engine takes any. SQLite would refuse
        // it too, without a word.
        if offset == 0 && !self.is_dirty() && into.first_chunk().is_some_and(header::is_wal) {
            return Err(write_ahead_log_refused(&self.facet, Operation::Open));
        }
        Ok(filled)
    }

    fn fetch(&mut self, offset: u64, length: usize) -> Result<Option<&[u8]>, Failure> {
        self.resume();
        self.check_usable(Operation::Read)?;
        if offset.saturating_add(length as u64) > self.mmap_limit {
            return Ok(None);
        }
        let held = &mut self.held;
        Ok(match (&self.hold, &self.fixed) {
            (Hold::Shared(snapshot), _) | (Hold::Nothing, Some(snapshot)) => {
                pages::fetch(snapshot, held, offset, length)
            }
            (Hold::Writing(transaction), _) => transaction.fetch(held, offset, length),
            (Hold::Nothing | Hold::Prepared(_), _) => None,
        })
    }

    fn unfetch(&mut self) {
        self.held.let_go();
    }

    fn mmap_limit(&mut self, limit: Option<u64>) -> u64 {
        let limit = limit.filter(|_| self.held.is_allowed());
        limit.map_or(self.mmap_limit, |limit| std::mem::replace(&mut self.mmap_limit, limit))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.resume();
        self.check_usable(Operation::Write)?;
        self.transaction(Operation::Write)?
            .write(offset, bytes)
            .map_err(|error| Failure::from_engine(Operation::Write, &error))?;
        self.visible.wrote(offset, bytes);
        add_written(bytes.len());
        Ok(())
    }

    fn truncate(&mut self, size_bytes: u64) -> Result<(), Failure> {
        self.resume();
        self.check_usable(Operation::Truncate)?;
        self.transaction(Operation::Truncate)?
            .truncate(size_bytes)
            .map_err(|error| Failure::from_engine(Operation::Truncate, &error))
    }

    fn size_bytes(&mut self) -> Result<u64, Failure> {
        self.resume();
        self.check_usable(Operation::Size)?;
        Ok(match &self.hold {
            Hold::Nothing | Hold::Prepared(_) => {
                pages::size_bytes(&self.snapshot(Operation::Size)?)
            }
            Hold::Shared(snapshot) => pages::size_bytes(snapshot),
            Hold::Writing(transaction) => transaction.size_bytes(),
        })
    }

    fn lock(&mut self, level: LockLevel) -> Result<(), Failure> {
        self.resume();
        self.check_usable(Operation::Lock)?;
        match (&mut self.hold, level) {
            (_, LockLevel::None) => Ok(()),
            (Hold::Nothing, LockLevel::Shared) => {
                self.hold = Hold::Shared(self.snapshot(Operation::Lock)?);
                Ok(())
            }
            (_, LockLevel::Shared) => Ok(()),
            (Hold::Writing(transaction), level) => {
                transaction.raise(level);
                Ok(())
            }
            (_, level) => self.begin(level),
        }
    }

    fn unlock(&mut self, level: LockLevel) {
        if level >= LockLevel::Reserved {
            return;
        }
        self.resume();
        if let Hold::Writing(transaction) = &mut self.hold {
            // Reached with pages staged by a ROLLBACK, which has put back what was there, and by
            // the pager's error state, which has dropped its cache.
            if transaction.is_dirty() {
                transaction.discard();
                self.visible.stamp.discarded(transaction.stamp_before());
            }
            self.hold = Hold::Shared(transaction.base().clone());
        }
        if level == LockLevel::None {
            self.hold = Hold::Nothing;
        }
    }

    fn lock_level(&self) -> LockLevel {
        match &self.hold {
            Hold::Nothing => LockLevel::None,
            Hold::Shared(_) => LockLevel::Shared,
            Hold::Writing(transaction) => transaction.level(),
            Hold::Prepared(level) => *level,
        }
    }

    fn is_reserved(&self) -> bool {
        self.fixed.is_none() && self.facet.has_writer()
    }

    fn before_sync(
        &mut self,
        connection: Option<usize>,
        super_journal: Option<&str>,
    ) -> Result<(), Failure> {
        self.resume();
        let several = || Err(Failure::of(Operation::Sync, SEVERAL_FILES));
        let Some(connection) = connection else {
            return if super_journal.is_some() { several() } else { Ok(()) };
        };
        // With a shared cache, another connection than the one that opened the file.
        let is_own = self.family.as_ref().is_some_and(|family| family.connection == connection);
        if !is_own {
            self.family = Some(self.groups.family(connection, &self.store));
        }
        let Some(family) = &self.family else { return Ok(()) };
        if let Some(name) = super_journal {
            // Of another file system: what it stands for is not committed here.
            if !self.groups.join_super_journal(name, family) {
                return several();
            }
        } else if is_own && !family.is_shared() {
            return Ok(());
        }
        let family = Arc::clone(family);
        self.prepare(&family);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.check_usable(Operation::Commit)?;
        // A file that shrank was cut off after phase one.
        if self.is_dirty()
            && let Some(family) = &self.family
            && family.is_shared()
            && family.is_waiting()
        {
            let family = Arc::clone(family);
            self.prepare(&family);
        }
        if let Durability::Gated(gate) = &self.durability
            && let Some(collecting) = gate.collecting()
            && self.is_dirty()
        {
            self.prepare(&collecting);
            self.collected_in = Some(collecting);
            return Ok(());
        }
        if let (Hold::Prepared(_), Some(family)) = (&self.hold, &self.family) {
            let committed = family.commit();
            self.resume();
            return committed;
        }
        let log_buffer = self.log_buffer();
        let Hold::Writing(transaction) = &mut self.hold else {
            return Ok(());
        };
        if !transaction.is_dirty() {
            // Nothing to commit; a length that ends within the last page is forgotten.
            transaction.discard();
            return Ok(());
        }
        let committed = match transaction.commit(log_buffer) {
            Ok(committed) => committed,
            Err(error) => {
                self.visible.stamp.discarded(transaction.stamp_before());
                return Err(error.failure(&self.facet));
            }
        };
        note_committed(&mut self.visible, transaction, &committed);
        self.acknowledge(committed.ticket)
    }

    fn pragma(&mut self, name: &str, value: Option<&str>) -> PragmaAnswer {
        self.answer_pragma(name, value)
    }

    fn wants_journal_check(&self) -> bool {
        // `PRAGMA journal_mode=OFF` is shown to the main database alone, but sets the mode of all
        // that are attached. A host sets the modes of its own connections, and need not pay.
        matches!(self.durability, Durability::Sync)
            && matches!(&self.hold, Hold::Writing(transaction) if !transaction.journal_seen())
    }

    fn journal_is_open(&mut self, open: bool) -> Result<(), Failure> {
        if !open {
            return Err(Failure::of(
                Operation::Write,
                format!("facet {}: {NO_JOURNAL}", self.facet.name()),
            ));
        }
        self.transaction(Operation::Write).map(Transaction::set_journal_seen)
    }

    fn opened_facet(&self) -> Option<OpenedFacet> {
        let store = self.used.clone()?;
        Some(OpenedFacet { facet: Arc::clone(&self.facet), store })
    }

    fn has_moved(&self) -> bool {
        self.facet.is_deleted()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn device_characteristics(&self) -> c_int {
        // Claimed because they hold whatever the disk does: a write changes the bytes it names and
        // no others, and any range can be read (test: `a_file_is_a_run_of_bytes`). The atomic-write flags would hold too, but the
        // SQLite builds that know them change how they commit; the append, sequential and
        // undeletable flags speak of journals, which are scratch here.
        let flags = sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE | IOCAP_SUBPAGE_READ;
        match self.fixed {
            // A version of the past is pinned by the handle: SQLite then takes no locks, looks for
            // no journal, and keeps its cache.
            Some(_) => flags | sqlite::SQLITE_IOCAP_IMMUTABLE,
            None => flags,
        }
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        self.resume();
    }
}

/// The handle goes on at the version that its transaction became.
fn note_committed(
    visible: &mut VisibleHeader,
    transaction: &mut Transaction,
    committed: &Committed,
) {
    visible.committed(committed.from, committed.to, committed.header.as_ref());
    transaction.set_stamp_before(visible.stamp);
}

fn write_ahead_log_refused(facet: &Facet, operation: Operation) -> Failure {
    Failure::of(operation, format!("facet {}: {NO_WRITE_AHEAD_LOG}", facet.name()))
}

/// A log buffer for a thread that has none of its own: threads take turns.
fn thread_log_buffer() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static BUFFER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    BUFFER.with(|buffer| *buffer)
}

#[cfg(test)]
mod tests;
