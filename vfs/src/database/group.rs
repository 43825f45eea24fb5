//! Transactions over several facets of one connection: one commit for all of them.
//!
//! SQLite commits the databases of a connection in two passes, every phase one before the first phase
//! two, and does so in one of two ways (`vdbeCommit` in SQLite's `vdbeaux.c`):
//!
//! - With a super-journal, if at least two have a rollback journal on disk, as SQLite sees it. The
//!   moment of the commit is the deletion of the super-journal, with `syncDir` set. An error of it
//!   takes all back; errors of any phase two after it are ignored.
//! - Without one (`journal_mode=MEMORY`, `synchronous=OFF`, a main database in memory). The first
//!   phase two that fails takes all back.
//!
//! So a handle that has been through phase one (`SQLITE_FCNTL_SYNC`, its last event) gives its
//! transaction to the [`Family`] of its connection, and whichever comes first, the deletion of the
//! super-journal or a phase two, commits all that are there. Whatever else SQLite asks of the handle
//! takes the transaction back first, with what has become of it: a ROLLBACK finds it as it was.
//!
//! A host's transaction over several connections has a family of its own, for as long as its gate
//! collects: each connection's phase two gives its transaction there, and the host commits them. SQLite
//! takes them for committed by then, so if that fails the handles are broken, and are to be closed.
//!
//! Tests: `tests/vfs/groups.rs`, `tests/vfs/collecting.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lapidary_engine::{Facet, FacetId, Store, Ticket, Writer};

use super::transaction::{Committed, Transaction};
use super::{Durability, thread_log_buffer};
use crate::error::{Failure, Operation};

/// The connections of a file system, and their super-journals.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    families: Mutex<Families>,
    super_journals: Mutex<HashMap<String, SuperJournal>>,
}

/// A super-journal that was opened and is not deleted.
#[derive(Debug)]
struct SuperJournal {
    /// Held by the open file.
    open: Weak<SuperJournalIsOpen>,
    /// Of those that have named it.
    family: Option<Arc<Family>>,
}

/// To be kept for as long as the file is open.
#[derive(Debug)]
pub(crate) struct SuperJournalIsOpen;

impl SuperJournal {
    /// Whether it may yet be deleted by a commit. SQLite leaves one behind whose transaction failed in
    /// phase one.
    fn is_in_use(&self) -> bool {
        let has_members = |family: &Arc<Family>| !locked(&family.members).is_empty();
        self.open.strong_count() > 0 || self.family.as_ref().is_some_and(has_members)
    }
}

#[derive(Debug, Default)]
struct Families {
    /// By the addresses of a connection and of a store.
    by_connection: HashMap<(usize, usize), Weak<Family>>,
    /// Number of entries at which those of closed connections are let go of.
    sweep_at: usize,
}

/// What an error says when a transaction is not what its connection believes it to be.
const COLLECTED_WAS_USED: &str = "a connection was used between its COMMIT and the commit it was \
     collected for, which is refused: it needs `locking_mode=EXCLUSIVE`";

/// The open databases of one connection in one store.
#[derive(Debug)]
pub(crate) struct Family {
    store: Arc<Store>,
    /// Address of the `sqlite3`; 0 for what a gate collects from several.
    pub(super) connection: usize,
    members: Mutex<Vec<Member>>,
    /// Whether a member was taken back before the commit, which is not to be made then.
    left: AtomicBool,
}

/// A transaction that has been through phase one.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) facet: Arc<Facet>,
    pub(super) durability: Durability,
    pub(super) transaction: Box<Transaction>,
    /// `None`: nothing yet.
    pub(super) outcome: Option<Outcome>,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Outcome {
    Unchanged,
    Committed(Committed),
    /// It is in the engine, but will never be durable.
    Broken(Committed, String),
    Failed,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Groups {
    /// The family of what the connection at that address has in `store`.
    pub(super) fn family(&self, connection: usize, store: &Arc<Store>) -> Arc<Family> {
        const SWEEP_AT_LEAST: usize = 64;
        // A family that is alive keeps the store that it is of, and so its address.
        let key = (connection, Arc::as_ptr(store).addr());
        let mut families = locked(&self.families);
        if let Some(family) = families.by_connection.get(&key).and_then(Weak::upgrade) {
            return family;
        }
        if families.by_connection.len() >= families.sweep_at {
            families.by_connection.retain(|_, family| family.strong_count() > 0);
            families.sweep_at = SWEEP_AT_LEAST.max(2 * families.by_connection.len());
        }
        let store = Arc::clone(store);
        let family = Arc::new(Family::new(store, connection));
        families.by_connection.insert(key, Arc::downgrade(&family));
        family
    }

    /// A super-journal is begun.
    pub(crate) fn open_super_journal(&self, name: &str) -> Arc<SuperJournalIsOpen> {
        let is_open = Arc::new(SuperJournalIsOpen);
        let new = SuperJournal { open: Arc::downgrade(&is_open), family: None };
        let mut super_journals = locked(&self.super_journals);
        super_journals.retain(|_, left| left.is_in_use());
        super_journals.insert(name.to_owned(), new);
        is_open
    }

    /// A transaction of `family` names a super-journal; `false` if that is not one of this file
    /// system's, or has been named by what is in another store.
    pub(super) fn join_super_journal(&self, name: &str, family: &Arc<Family>) -> bool {
        let mut super_journals = locked(&self.super_journals);
        let Some(named) = super_journals.get_mut(name) else { return false };
        Arc::ptr_eq(named.family.get_or_insert_with(|| Arc::clone(family)), family)
    }

    /// A super-journal is deleted. `commits`: as the commit of those that named it; otherwise they are
    /// rolled back, each by itself.
    pub(crate) fn delete_super_journal(&self, name: &str, commits: bool) -> Result<(), Failure> {
        let deleted = locked(&self.super_journals).remove(name);
        match deleted.and_then(|deleted| deleted.family) {
            Some(family) if commits => family.commit(),
            _ => Ok(()),
        }
    }
}

impl Family {
    pub(crate) fn new(store: Arc<Store>, connection: usize) -> Self {
        Self { store, connection, members: Mutex::default(), left: AtomicBool::new(false) }
    }

    /// A member was taken back, and with it what the others were to be committed with.
    pub(super) fn note_left(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Commits what a gate has collected, or gives it all up.
    pub(crate) fn commit_collected(&self) -> Result<(), Failure> {
        if self.left.load(Ordering::Relaxed) {
            self.give_up();
            return Err(Failure::of(Operation::Commit, COLLECTED_WAS_USED));
        }
        self.commit()
    }

    /// Gives up all that wait for the commit.
    pub(crate) fn give_up(&self) {
        let mut members = locked(&self.members);
        for member in members.iter_mut().filter(|member| member.outcome.is_none()) {
            member.transaction.discard();
            member.outcome = Some(Outcome::Failed);
        }
    }

    /// Whether the connection may have other databases than the one that asks.
    pub(super) fn is_shared(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    /// Whether any transaction waits for the commit.
    pub(super) fn is_waiting(&self) -> bool {
        locked(&self.members).iter().any(|member| member.outcome.is_none())
    }

    pub(super) fn add(&self, member: Member) {
        locked(&self.members).push(member);
    }

    /// Takes back the transaction of a facet.
    pub(super) fn take(&self, facet: FacetId) -> Option<Member> {
        let mut members = locked(&self.members);
        let at = members.iter().position(|member| member.facet.id() == facet)?;
        Some(members.swap_remove(at))
    }

    /// Commits all that wait for it, together. On return they are durable, except those behind a gate,
    /// which is told.
    pub(super) fn commit(&self) -> Result<(), Failure> {
        let mut members = locked(&self.members);
        let mut waiting = Vec::new();
        for member in members.iter_mut().filter(|member| member.outcome.is_none()) {
            if member.transaction.is_dirty() {
                waiting.push(member);
            } else {
                member.transaction.discard();
                member.outcome = Some(Outcome::Unchanged);
            }
        }
        let committed = match self.append(&mut waiting) {
            Ok(committed) => committed,
            Err(failure) => {
                for member in waiting {
                    member.transaction.discard();
                    member.outcome = Some(Outcome::Failed);
                }
                return Err(failure);
            }
        };
        let Some(ticket) = committed.first().map(|committed| committed.ticket) else {
            return Ok(());
        };
        let durable = self.acknowledge(&waiting, ticket);
        for (member, committed) in waiting.into_iter().zip(committed) {
            member.outcome = Some(match &durable {
                Ok(()) => Outcome::Committed(committed),
                Err(failure) => Outcome::Broken(committed, failure.message.clone()),
            });
        }
        durable
    }

    fn append(&self, members: &mut [&mut Member]) -> Result<Vec<Committed>, Failure> {
        let mut sealed = Vec::with_capacity(members.len());
        for Member { transaction, facet, .. } in members.iter_mut().map(|member| &mut **member) {
            sealed.push(transaction.seal_in_group().map_err(|error| error.failure(facet))?);
        }
        let log_buffer = match members.first().map(|member| &member.durability) {
            Some(Durability::Gated(gate)) => gate.log_buffer(),
            _ => thread_log_buffer(),
        };
        let mut writers: Vec<&mut Writer> =
            members.iter_mut().map(|member| member.transaction.writer()).collect();
        let ticket = self
            .store
            .commit_together(&mut writers, log_buffer)
            .map_err(|error| Failure::from_engine(Operation::Commit, &error))?;
        let ended = members.iter_mut().zip(sealed);
        Ok(ended.map(|(member, sealed)| member.transaction.end(sealed, ticket)).collect())
    }

    /// Waits for those who must, and tells the gates of the others.
    fn acknowledge(&self, members: &[&mut Member], ticket: Ticket) -> Result<(), Failure> {
        let mut wait = false;
        for member in members {
            match &member.durability {
                Durability::Gated(gate) => gate.record(ticket),
                Durability::Sync => wait = true,
            }
        }
        if !wait {
            return Ok(());
        }
        let durable = self.store.wait_durable(ticket);
        durable.map_err(|error| Failure::from_engine(Operation::Commit, &error))
    }
}

#[cfg(test)]
mod tests {
    use lapidary_engine::{Environment, MemoryIo, StoreOptions};

    use super::*;

    #[test]
    fn super_journals_that_are_left_behind_are_forgotten() {
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let store = Store::open(environment, StoreOptions::create()).unwrap();
        let groups = Groups::default();
        let family = groups.family(1, &store);
        for number in 0..10 {
            let name = format!("a-mj00000090{number}");
            let file = groups.open_super_journal(&name);
            if number % 2 == 0 {
                assert!(groups.join_super_journal(&name, &family));
            }
            // The transaction fails, and SQLite closes the file and does not delete it.
            drop(file);
        }
        let open = groups.open_super_journal("b-mj000000901");
        assert_eq!(locked(&groups.super_journals).len(), 1);
        let other = groups.open_super_journal("c-mj000000901");
        assert_eq!(locked(&groups.super_journals).len(), 2, "one that is open stays");
        assert!(groups.join_super_journal("b-mj000000901", &family));
        drop((open, other));
        groups.delete_super_journal("b-mj000000901", true).unwrap();
        assert!(!groups.join_super_journal("b-mj000000901", &family), "it is gone");
        assert_eq!(Arc::strong_count(&family), 1, "nobody else holds it");
    }
}
