//! Calls of one facet that share a commit.
//!
//! When a facet has its turn and its next calls may share one, the core runs them one after the other
//! in one transaction, each in a savepoint, and hands them to the output gate when that has ended. The
//! transaction begins with the first that gets as far as its closure.
//!
//! A savepoint does not hold against everything: SQLite rolls back the whole transaction after some
//! errors, and after an interruption of a statement that writes; closures can end it by SQL. Then it is
//! lost, with what the calls before had done. So after each call the core looks whether it is still
//! there, and the savepoints have a name that SQL cannot guess, so it is the same one.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use lapidary_engine::{FacetName, Lsn, Ticket};

use crate::abort::Epoch;
use crate::core_thread::{Core, panicked};
use crate::error::{HostError, Result};
use crate::facet::Start;
use crate::isolation::transaction as statements;
use crate::mailbox::Inbox;
use crate::stat::CoreCounters;
use crate::task::Task;
use crate::transaction::{After, Transaction};
use crate::writers::Writer;

/// Most calls that share a commit: see [`FacetHandle::coalesced`](crate::FacetHandle::coalesced). It is
/// the length of a facet's turn, for which its neighbours on the core wait.
pub const COALESCED_CALLS_MAX: usize = 64;

/// Of calls whose reply waits for the shared commit, which no record of a log has.
fn shared() -> Ticket {
    Ticket::at(Lsn(u64::MAX))
}

/// A commit that calls share, from its first call to its last.
#[derive(Default)]
pub(crate) struct SharedCommit {
    progress: Progress,
    /// Whether a closure has panicked on the connection, which is not used again then.
    panicked: bool,
}

#[derive(Default)]
enum Progress {
    #[default]
    NotBegun,
    Open {
        name: FacetName,
        /// In which the first call was made.
        epoch: Arc<Epoch>,
    },
    Committed(Ticket),
    Lost(Arc<HostError>, Ticket),
}

impl SharedCommit {
    fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Committed(_) | Progress::Lost(..))
    }
}

impl Core {
    /// Runs `task` and those behind it in the lane that may share its commit.
    pub(crate) fn serve_together(&mut self, task: Box<dyn Task>, inbox: &Inbox) {
        self.shared_commit = Some(SharedCommit::default());
        let mut ran = Vec::new();
        let mut next = Some(task);
        while let Some(mut task) = next {
            let ticket = self.run_task(&mut *task);
            ran.push((ticket, task));
            let is_over = self.shared_commit.as_ref().is_none_or(SharedCommit::is_over);
            let is_full = ran.len() == COALESCED_CALLS_MAX;
            next = if is_over || is_full { None } else { inbox.next_joining() };
        }
        self.commit_shared();
        let progress = self.shared_commit.take().map(|shared| shared.progress);
        let (lost, own) = match progress {
            Some(Progress::Lost(cause, ticket)) => (Some(cause), ticket),
            Some(Progress::Committed(ticket)) => (None, ticket),
            // Nobody got as far as the transaction.
            Some(Progress::NotBegun | Progress::Open { .. }) | None => (None, Ticket::DURABLE),
        };
        for (ticket, mut task) in ran {
            if ticket != shared() {
                self.hand_over(ticket, task);
                continue;
            }
            if let Some(cause) = &lost {
                // The result that gives way has a destructor of the caller's.
                let spoilt = panic::catch_unwind(AssertUnwindSafe(|| task.spoil(cause)));
                if let Err(panic) = spoilt {
                    std::mem::forget(panic);
                    tracing::error!("the destructor of a result panicked whose commit failed");
                }
            }
            self.hand_over(own, task);
        }
    }

    /// Runs `body` in a transaction on the writer of `name`: that of the calls it shares a commit with,
    /// if there are any.
    pub(crate) fn join<T>(
        &mut self,
        name: &FacetName,
        start: &Start,
        body: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        if self.is_open() {
            self.close_aborted();
            self.look_after_shared();
            // Steps of a schema have a commit of their own.
            let writer = self.writers.opened(name);
            if writer.is_some_and(|writer| !writer.is_up(start.schema.as_ref())) {
                self.commit_shared();
            }
        }
        if self.shared_commit.as_ref().is_none_or(SharedCommit::is_over) {
            return self.transact(name, start, body);
        }
        let is_open = self.is_open();
        let counters = Arc::clone(&self.counters);
        let (outcome, ticket) = self.on_writer(name, start, true, |writer| {
            if !is_open {
                statements::begin(writer)?;
                writer.owner().begin();
            } else if writer.is_autocommit() {
                // The connection was opened anew just now.
                return Err(HostError::SharedTransactionLost { facet: name.clone() });
            }
            in_savepoint(writer, name, start, &counters, body)
        });
        if !is_open {
            let left_open = self.writers.opened(name).is_some_and(|writer| !writer.is_autocommit());
            match &mut self.shared_commit {
                Some(shared) if left_open || outcome.is_ok() => {
                    let epoch = Arc::clone(&start.epoch);
                    shared.progress = Progress::Open { name: name.clone(), epoch };
                }
                // It has left nothing behind; the next one begins.
                _ => return (outcome.map(|(value, _)| value), ticket),
            }
        }
        if matches!(outcome, Err(HostError::Panicked { .. }))
            && let Some(shared) = &mut self.shared_commit
        {
            shared.panicked = true;
        }
        self.look_after_shared();
        match outcome {
            Ok((value, After::Stays)) => (Ok(value), shared()),
            Ok((value, After::Deleted)) => {
                self.commit_shared();
                if let Some(Progress::Lost(cause, ticket)) =
                    self.shared_commit.as_ref().map(|shared| &shared.progress)
                {
                    return (Err(HostError::of_shared_commit(cause)), *ticket);
                }
                let (deleted, after) = self.delete_from_within(name);
                (deleted.map(|()| value), ticket.max(after))
            }
            Err(error) => (Err(error), shared()),
        }
    }

    fn is_open(&self) -> bool {
        let progress = self.shared_commit.as_ref().map(|shared| &shared.progress);
        matches!(progress, Some(Progress::Open { .. }))
    }

    /// Looks whether the transaction, if it is open, is still there.
    fn look_after_shared(&mut self) {
        let Some(SharedCommit { progress, .. }) = &mut self.shared_commit else { return };
        let Progress::Open { name, epoch } = progress else { return };
        let ticket = match self.writers.opened(name) {
            Some(writer) if !writer.is_autocommit() => return,
            Some(writer) => writer.observed(),
            None => self.shared.store.current_ticket(),
        };
        let lost = || HostError::SharedTransactionLost { facet: name.clone() };
        let cause = epoch.check(name).err().unwrap_or_else(lost);
        *progress = Progress::Lost(Arc::new(cause), ticket);
    }

    /// Commits what the calls so far have done, if their transaction is open.
    fn commit_shared(&mut self) {
        self.look_after_shared();
        let Some(SharedCommit { progress, panicked }) = &mut self.shared_commit else { return };
        let Progress::Open { name, epoch } = progress else { return };
        let name = name.clone();
        let Some(writer) = self.writers.opened(&name) else { return };
        // An abort reaches all calls that were made before it, and are not answered yet.
        let committed = epoch.check(&name).and_then(|()| {
            writer.guard.pardon();
            writer.owner().before_commit()?;
            Ok(statements::commit(writer)?)
        });
        let mut keep = !*panicked && !writer.interrupt().is_aborted();
        let failed = committed.err().map(|error| {
            keep &= !error.spoils_connection();
            let rolled_back = writer.is_autocommit() || statements::rollback(writer).is_ok();
            keep &= rolled_back;
            error.within(&name).or_stopped(&self.shared.store)
        });
        writer.note_commits(self.gate.last_ticket());
        let ticket = writer.observed();
        *progress = match failed {
            None => Progress::Committed(ticket),
            Some(error) => Progress::Lost(Arc::new(error), ticket),
        };
        if !keep {
            self.writers.close(&name);
        }
    }
}

/// Runs `body` in a savepoint of the transaction that is open. What failed, and what asks for the
/// facet's deletion, is taken back.
fn in_savepoint<T>(
    writer: &Writer,
    name: &FacetName,
    start: &Start,
    counters: &CoreCounters,
    body: impl FnOnce(&Transaction<'_>) -> Result<T>,
) -> Result<(T, After)> {
    statements::begin_call(writer)?;
    writer.guard.share_commit();
    let transaction = Transaction::new(writer);
    let ran = panic::catch_unwind(AssertUnwindSafe(|| body(&transaction)));
    let ran = ran.unwrap_or_else(|panic| Err(panicked(counters, name, panic)));
    let ended = ran.and_then(|value| {
        // The guard puts its own reason in the place of this one.
        if writer.is_autocommit() || writer.guard.has_tripped() {
            return Err(HostError::TransactionEnded { facet: name.clone() });
        }
        if writer.interrupt().is_aborted() {
            start.epoch.check(name)?;
        }
        if transaction.deletes_facet() {
            return Ok((value, After::Deleted));
        }
        statements::end_call(writer)?;
        Ok((value, After::Stays))
    });
    if matches!(ended, Ok((_, After::Stays))) || writer.is_autocommit() {
        return ended;
    }
    // If the savepoint is gone, it is not the same transaction any more.
    if let Err(gone) = statements::undo_call(writer) {
        statements::rollback(writer)?;
        return ended.and(Err(gone.into()));
    }
    ended
}
