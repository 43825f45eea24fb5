//! The loop of a core: calls in, replies out.
//!
//! The thread owns the writer connections of its facets and an output gate. It never waits for the
//! disk while it serves: it runs a call, hands the reply to the gate, and takes the next. Between
//! calls it looks whether the store has signalled, and lets go of the replies that became durable.

use std::any::Any;
use std::cell::Cell;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use lapidary_engine::{Facet, FacetName, Store, Ticket, Worker};
use lapidary_vfs::{Gate, thread_heap_bytes};
use tracing::debug_span;

use crate::abort::Epoch;
use crate::config::HostConfig;
use crate::error::{HostError, Result};
use crate::facet::Start;
use crate::isolation::transaction;
use crate::mailbox::{Event, Inbox};
use crate::output_gate::OutputGate;
use crate::residency::{Hooks, Resting};
use crate::shared::Shared;
use crate::shared_commit::SharedCommit;
use crate::stat::{CoreCounters, add};
use crate::task::Task;
use crate::transaction::{After, Transaction, transact};
use crate::writers::{Writer, Writers};

thread_local! {
    static IS_CORE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is a core's, of any host.
pub(crate) fn is_current() -> bool {
    IS_CORE.get()
}

/// Tells that a core has ended on a panic.
struct LostOnPanic {
    shared: Arc<Shared>,
    core: usize,
}

impl Drop for LostOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.lost[self.core].store(true, Ordering::Release);
        }
    }
}

/// What a task works with.
pub(crate) struct Core {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) writers: Writers,
    pub(crate) gate: Gate,
    output: OutputGate,
    /// Tells the store when there is nothing to do.
    worker: Worker,
    pub(crate) counters: Arc<CoreCounters>,
    idle_poll: Duration,
    /// Aborts up to this one are done.
    epoch: Arc<Epoch>,
    pub(crate) hooks: Hooks,
    pub(crate) resting: Resting,
    /// While calls run that share a commit.
    pub(crate) shared_commit: Option<SharedCommit>,
}

impl Core {
    pub(crate) fn new(number: usize, shared: Arc<Shared>, config: &HostConfig) -> Self {
        let counters = Arc::clone(&shared.counters[number]);
        let gate = shared.registration.gate(number);
        let writers =
            Writers::new(number, Arc::clone(&shared), gate.clone(), Arc::clone(&counters), config);
        let output = OutputGate::new(Arc::clone(&shared.store), Arc::clone(&counters));
        #[cfg(feature = "bucket")]
        let output = output.leading_to(shared.bucket.clone());
        let worker = shared.store.worker();
        let epoch = shared.aborts[number].epoch();
        let (hooks, resting) = (config.hooks.clone(), Resting::default());
        let shared_commit = None;
        Self {
            number,
            writers,
            gate,
            output,
            worker,
            shared,
            counters,
            idle_poll: config.idle_poll,
            epoch,
            hooks,
            resting,
            shared_commit,
        }
    }

    /// Serves `inbox` until the host is closed and nothing is left, then what is in it, then waits for the disk.
    pub(crate) fn run(mut self, inbox: Inbox) {
        IS_CORE.set(true);
        // Dropped before `self` and `inbox`, so before those who wait for replies are told.
        let _lost = LostOnPanic { shared: Arc::clone(&self.shared), core: self.number };
        let mut event = self.sleep(&inbox);
        loop {
            match event {
                Event::Task(task) => {
                    self.serve(task, &inbox);
                    if inbox.take_durable() {
                        self.release();
                    }
                }
                Event::Durable => self.release(),
            }
            event = match inbox.try_next() {
                Some(task) => Event::Task(task),
                // What was sent before the host was closed is in the mailbox by now, and served
                // below.
                None if self.shared.is_closed() && inbox.is_empty() => break,
                None => self.sleep(&inbox),
            };
        }
        while let Some(task) = inbox.try_next() {
            self.serve(task, &inbox);
        }
        if !self.output.has_failed() {
            self.writers.hibernate_all();
        }
        self.output.drain();
        self.note_held();
        self.writers.close_all();
        // Last: until now a call that came late found the mailbox open; from now on it is refused.
        drop(inbox);
    }

    /// Sleeps until there is something to do. What is to be flushed need not wait for more of it.
    fn sleep(&mut self, inbox: &Inbox) -> Event {
        self.worker.rest();
        let event = inbox.next(self.idle_poll);
        self.worker.resume();
        event
    }

    fn serve(&mut self, mut task: Box<dyn Task>, inbox: &Inbox) {
        if task.joins() && inbox.has_joining() {
            return self.serve_together(task, inbox);
        }
        let ticket = self.run_task(&mut *task);
        self.hand_over(ticket, task);
    }

    pub(crate) fn run_task(&mut self, task: &mut dyn Task) -> Ticket {
        self.counters.wait.record(task.made().elapsed());
        let ran = panic::catch_unwind(AssertUnwindSafe(|| task.run(self)));
        let ticket = ran.unwrap_or_else(|panic| {
            // A defect here: what the core was about to do is not known. The flag goes up before
            // the task is dropped, which tells its caller.
            self.shared.lost[self.number].store(true, Ordering::Release);
            panic::resume_unwind(panic)
        });
        add(&self.counters.calls, 1);
        ticket
    }

    /// Hands a task that has run to the output gate.
    pub(crate) fn hand_over(&mut self, ticket: Ticket, task: Box<dyn Task>) {
        let was_well = !self.output.has_failed();
        self.output.push(ticket, task);
        self.after_output(was_well);
    }

    fn release(&mut self) {
        // Of a core that has no calls meanwhile.
        self.close_aborted();
        let was_well = !self.output.has_failed();
        self.output.release();
        self.after_output(was_well);
    }

    fn after_output(&mut self, was_well: bool) {
        if was_well && self.output.has_failed() {
            // They show versions that are lost.
            self.writers.close_all();
            self.shared.readers.close_all();
        }
        self.note_held();
    }

    fn note_held(&self) {
        self.counters.replies_held.store(self.output.held() as u64, Ordering::Relaxed);
    }

    /// The error of every call on a stopped store.
    pub(crate) fn refusal(&self) -> Option<HostError> {
        self.output.refusal()
    }

    /// Runs `body` on the writer of `name`. Returns its outcome, and the ticket of everything it
    /// could have observed.
    pub(crate) fn on_facet<T>(
        &mut self,
        name: &FacetName,
        start: &Start,
        body: impl FnOnce(&Writer) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        self.on_writer(name, start, false, body)
    }

    /// As [`on_facet`](Self::on_facet); `open` says whether `body` may leave a transaction open.
    pub(crate) fn on_writer<T>(
        &mut self,
        name: &FacetName,
        start: &Start,
        open: bool,
        body: impl FnOnce(&Writer) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        if let Some(refusal) = self.refusal() {
            return (Err(refusal), Ticket::DURABLE);
        }
        self.close_aborted();
        // Before the facet is opened, which could create it.
        if let Err(aborted) = start.epoch.check(name) {
            return (Err(aborted), Ticket::DURABLE);
        }
        if let Err(resting) = self.resting.check(name) {
            return (Err(resting), Ticket::DURABLE);
        }
        let writer = match self.writers.get(name) {
            Ok(writer) => writer,
            // The error may tell of anything, such as damage done by a commit before it.
            Err(error) => return (Err(error.within(name)), self.shared.store.current_ticket()),
        };
        let aborts = &self.shared.aborts[self.number];
        if let Err(aborted) = aborts.begin(&start.epoch, name, writer.interrupt()) {
            return (Err(aborted), Ticket::DURABLE);
        }
        let heap_before = thread_heap_bytes();
        let running = writer.guard.begin(writer);
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            writer.bring_up(name, start.schema.as_ref(), &self.hooks)?;
            body(writer)
        }));
        aborts.end();
        let mut keep = true;
        let mut outcome = outcome.unwrap_or_else(|panic| {
            // What it left half done is gone with the connection.
            keep = false;
            Err(panicked(&self.counters, name, panic))
        });
        if !open && !writer.is_autocommit() {
            if transaction::rollback(writer).is_err() {
                keep &= writer.is_autocommit();
            }
            if outcome.is_ok() {
                outcome = Err(HostError::TransactionLeftOpen { facet: name.clone() });
            }
        }
        let began = running.began();
        outcome = writer.guard.end(writer, running, name, outcome);
        if let Some(rest) = writer.guard.rest(&outcome, began) {
            self.resting.rest(name, rest);
        }
        if writer.interrupt().is_aborted() {
            keep = false;
            // One that succeeded had come to its end, and its commit stands.
            if outcome.is_err()
                && let Err(aborted) = start.epoch.check(name)
            {
                outcome = Err(aborted);
            }
        }
        if let Err(error) = &outcome {
            keep &= !error.spoils_connection();
        }
        let outcome = outcome.map_err(|error| error.within(name).or_stopped(&self.shared.store));
        writer.note_commits(self.gate.last_ticket());
        let ticket = writer.observed();
        if keep {
            self.writers.note_heap(name, thread_heap_bytes().wrapping_sub(heap_before));
        } else {
            self.writers.close(name);
        }
        (outcome, ticket)
    }

    /// Runs `body` in a transaction on the writer of `name`, which it may have deleted at the end.
    pub(crate) fn transact<T>(
        &mut self,
        name: &FacetName,
        start: &Start,
        body: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        let _span = debug_span!("transaction", facet = %name).entered();
        let (outcome, ticket) = self.on_facet(name, start, |writer| {
            let ended = || HostError::TransactionEnded { facet: name.clone() };
            transact(writer, ended, |tx| {
                let value = body(tx)?;
                // In a closure that ran on after the interruption.
                if writer.interrupt().is_aborted() {
                    start.epoch.check(name)?;
                }
                Ok(value)
            })
        });
        match outcome {
            Ok((value, After::Stays)) => (Ok(value), ticket),
            Ok((value, After::Deleted)) => {
                let (deleted, after) = self.delete_from_within(name);
                (deleted.map(|()| value), ticket.max(after))
            }
            Err(error) => (Err(error), ticket),
        }
    }

    /// The epoch of a call that is made now.
    pub(crate) fn epoch_now(&self) -> Arc<Epoch> {
        self.shared.aborts[self.number].epoch()
    }

    /// Deletes the facet `name` and everything below it, as its own transaction asked for.
    pub(crate) fn delete_from_within(&mut self, name: &FacetName) -> (Result<()>, Ticket) {
        self.on_catalog(&[name], |store| {
            store.delete_facet(name)?;
            Ok(())
        })
    }

    /// Closes the connections of what was aborted since the last time.
    pub(crate) fn close_aborted(&mut self) {
        while let Some((root, next)) = self.epoch.ended() {
            self.writers.close_subtree(root);
            let next = Arc::clone(next);
            self.epoch = next;
        }
    }

    /// Runs `body` on the versions of the facet `name`, which must exist. If `alone`, its writer
    /// connection is closed before, which holds the facet's lock.
    pub(crate) fn on_versions<T>(
        &mut self,
        name: &FacetName,
        alone: bool,
        body: impl FnOnce(&Arc<Facet>) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        if alone {
            self.writers.close(name);
        }
        self.on_catalog(&[], |store| body(&store.open_facet(name)?))
    }

    /// Gives the facet `from` and everything below it the name `to`, after closing the connections
    /// of its subtree.
    pub(crate) fn rename(&mut self, from: &FacetName, to: &FacetName) -> (Result<()>, Ticket) {
        let shared = Arc::clone(&self.shared);
        self.on_catalog(&[from], |store| {
            let mut newest = shared.names.for_rename();
            *newest = store.rename_facet(from, to)?;
            Ok(())
        })
    }

    /// Runs `body`, which changes or tells of the catalog, after closing the connections of the
    /// subtrees in `closing`.
    pub(crate) fn on_catalog<T>(
        &mut self,
        closing: &[&FacetName],
        body: impl FnOnce(&Store) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        if let Some(refusal) = self.refusal() {
            return (Err(refusal), Ticket::DURABLE);
        }
        for root in closing {
            self.writers.close_subtree(root);
            self.shared.readers.close_subtree(root);
        }
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| body(&self.shared.store)));
        let outcome = outcome.unwrap_or_else(|panic| {
            add(&self.counters.panics, 1);
            let facet = closing.first().map(|&name| name.clone());
            Err(HostError::Defect { facet, message: message(panic) })
        });
        (outcome, self.shared.store.current_ticket())
    }
}

/// The error of a call on `name` whose closure panicked.
pub(crate) fn panicked(
    counters: &CoreCounters,
    name: &FacetName,
    panic: Box<dyn Any + Send>,
) -> HostError {
    add(&counters.panics, 1);
    HostError::Panicked { facet: name.clone(), message: message(panic) }
}

/// What a panic said.
fn message(panic: Box<dyn Any + Send>) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned());
    // Its destructor is the closure's code, and could panic in turn.
    mem::forget(panic);
    message
}
