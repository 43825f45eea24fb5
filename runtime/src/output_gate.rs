//! Replies held until everything they observed is durable.
//!
//! A core runs calls on the newest versions, which a crash could still take. The gate stands
//! between the core and the callers: a reply carries the ticket of the newest commit that its call
//! could have observed, and leaves when that ticket is durable. Errors and reads are held like
//! results, since they tell of what they saw.
//!
//! A flush asked for may begin before or after a commit that follows the asking. So the gate asks
//! once when it begins to hold replies, and again after each flush that has left some behind.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use lapidary_engine::{Error, Store, Ticket};

use crate::error::HostError;
use crate::stat::CoreCounters;
use crate::task::Task;

pub(crate) struct OutputGate {
    store: Arc<Store>,
    counters: Arc<CoreCounters>,
    /// Of a host whose store is in a bucket: where replies go on to.
    #[cfg(feature = "bucket")]
    bucket: Option<Arc<crate::bucket::BucketGate>>,
    held: VecDeque<Held>,
    /// The store's first failure, once it is known.
    poison: Option<String>,
}

struct Held {
    ticket: Ticket,
    task: Box<dyn Task>,
}

impl OutputGate {
    pub(crate) fn new(store: Arc<Store>, counters: Arc<CoreCounters>) -> Self {
        Self {
            store,
            counters,
            #[cfg(feature = "bucket")]
            bucket: None,
            held: VecDeque::new(),
            poison: None,
        }
    }

    /// What is locally durable goes on to `bucket`.
    #[cfg(feature = "bucket")]
    pub(crate) fn leading_to(self, bucket: Option<Arc<crate::bucket::BucketGate>>) -> Self {
        Self { bucket, ..self }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.poison.is_some()
    }

    /// The error of every call on a stopped store.
    pub(crate) fn refusal(&self) -> Option<HostError> {
        let cause = self.poison.clone()?;
        Some(HostError::Store(Error::Poisoned { cause }))
    }

    /// Takes a reply that may leave when `ticket` is durable.
    pub(crate) fn push(&mut self, ticket: Ticket, task: Box<dyn Task>) {
        if ticket == Ticket::DURABLE {
            return self.reply(ticket, task, None);
        }
        if let Some(cause) = &self.poison {
            // Nothing new becomes durable, but what was durable stays so.
            let lost = !matches!(self.store.is_durable(ticket), Ok(true));
            return self.reply(ticket, task, lost.then_some(cause));
        }
        // A ticket beyond that of a held reply cannot be durable: no need to ask.
        let pending = self.held.back().is_some_and(|held| held.ticket <= ticket);
        if pending {
            return self.held.push_back(Held { ticket, task });
        }
        match self.store.is_durable(ticket) {
            Ok(true) => self.reply(ticket, task, None),
            Ok(false) => {
                if self.held.is_empty() {
                    self.store.request_flush();
                }
                self.held.push_back(Held { ticket, task });
            }
            Err(error) => {
                self.held.push_back(Held { ticket, task });
                self.fail(&error);
            }
        }
    }

    /// Lets go what has become durable; everything, with an error, if the store has stopped. To be
    /// called when the store has signalled.
    pub(crate) fn release(&mut self) {
        loop {
            let ticket =
                self.held.front().map_or_else(|| self.store.current_ticket(), |held| held.ticket);
            match self.store.is_durable(ticket) {
                Ok(true) => {
                    let durable = self.store.durable_lsn();
                    while let Some(held) = self.held.pop_front() {
                        self.reply(held.ticket, held.task, None);
                        if self.held.front().is_none_or(|next| next.ticket.lsn() > durable) {
                            break;
                        }
                    }
                    if self.held.is_empty() {
                        return;
                    }
                }
                Ok(false) => {
                    if !self.held.is_empty() {
                        self.store.request_flush();
                    }
                    return;
                }
                Err(error) => return self.fail(&error),
            }
        }
    }

    /// Blocks until nothing is held.
    pub(crate) fn drain(&mut self) {
        while let Some(ticket) = self.held.iter().map(|held| held.ticket).max() {
            if let Err(error) = self.store.wait_durable(ticket) {
                self.fail(&error);
            } else {
                self.release();
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        if self.poison.is_some() {
            return;
        }
        let cause = match error {
            Error::Poisoned { cause } => cause.clone(),
            other => other.to_string(),
        };
        tracing::error!(held = self.held.len(), %cause, "the store has stopped");
        for Held { ticket, task } in std::mem::take(&mut self.held) {
            let lost = !matches!(self.store.is_durable(ticket), Ok(true));
            self.reply(ticket, task, lost.then_some(&cause));
        }
        self.poison = Some(cause);
    }

    fn reply(&self, ticket: Ticket, task: Box<dyn Task>, lost: Option<&String>) {
        #[cfg(feature = "bucket")]
        if let (Some(bucket), None) = (&self.bucket, lost) {
            return bucket.push(ticket, task, &self.counters);
        }
        let _ = ticket;
        send(&self.counters, task, lost.map(String::as_str));
    }
}

/// Sends a reply. A caller's waker, or a discarded result's destructor, may panic: the thread must
/// outlive it.
pub(crate) fn send(counters: &CoreCounters, task: Box<dyn Task>, lost: Option<&str>) {
    counters.latency.record(task.made().elapsed());
    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| task.release(lost))) {
        // What it carries has a destructor of the caller's as well.
        std::mem::forget(panic);
        tracing::error!("a waker or the destructor of a result panicked while a reply was sent");
    }
}
