//! Replies held until the bucket has everything they observed.
//!
//! It stands behind a core's output gate: what that lets go is locally durable. Under
//! [`Acknowledge::InBucket`], the call's own or else the host's, a reply then waits here for the shipment that has its ticket, and is sent
//! by the thread that ships, so that no core has to look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapidary_engine::{Lsn, Ticket};

use super::Bucket;
use super::attach::may_pass;
use super::error::Result;
use crate::output_gate;
use crate::stat::CoreCounters;
use crate::task::Task;
use crate::terms::Terms;

/// Between two attempts to give the store back.
const AGAIN: Duration = Duration::from_millis(100);

/// When a call is answered, by a host whose store is in a bucket: set for the
/// [host](crate::HostConfig::acknowledge), and for [single calls](crate::FacetHandle::acknowledge) if
/// that is to differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledge {
    /// When what it observed is durable on the local disk. If the host is lost, so is what was committed
    /// within [`interval`](super::BucketSettings::interval) or a little more.
    #[default]
    Locally,
    /// When the bucket has what it observed. Then no loss of a host takes it.
    InBucket,
}

pub(crate) struct BucketGate {
    bucket: Bucket,
    acknowledge: Acknowledge,
    held: Mutex<Held>,
}

/// A reply, and the figures of its core.
type Reply = (Box<dyn Task>, Arc<CoreCounters>);

#[derive(Default)]
struct Held {
    replies: BTreeMap<(Lsn, u64), Reply>,
    count: u64,
}

impl BucketGate {
    pub(crate) fn new(bucket: Bucket, acknowledge: Acknowledge) -> Arc<Self> {
        let gate = Arc::new(Self { bucket, acknowledge, held: Mutex::default() });
        let weak = Arc::downgrade(&gate);
        gate.bucket.on_shipped(Box::new(move || {
            if let Some(gate) = weak.upgrade() {
                gate.release();
            }
        }));
        gate
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is answered on these terms has to be in the bucket.
    pub(crate) fn waits_for_bucket(&self, terms: Terms) -> bool {
        terms.acknowledge.unwrap_or(self.acknowledge) == Acknowledge::InBucket
    }

    /// Takes a reply that is locally durable, or sends it if it need not wait.
    pub(crate) fn push(&self, ticket: Ticket, task: Box<dyn Task>, counters: &Arc<CoreCounters>) {
        let waits = self.waits_for_bucket(task.terms())
            && !matches!(self.bucket.is_shipped(ticket), Ok(true));
        if !waits {
            return output_gate::send(counters, task, None);
        }
        let mut held = self.held();
        held.count += 1;
        let place = (ticket.lsn(), held.count);
        let is_first = held.replies.is_empty();
        held.replies.insert(place, (task, Arc::clone(counters)));
        drop(held);
        if is_first {
            self.bucket.hurry();
        }
        // What was shipped before it was held, or the end of the lease, was told to nobody.
        self.release();
    }

    /// Sends what the bucket has; everything, as lost, if it will have no more.
    fn release(&self) {
        let shipped = self.bucket.shipped_lsn();
        let is_over = self.bucket.is_shipped(Ticket::at(shipped.next()));
        let mut held = self.held();
        let beyond = held.replies.split_off(&(shipped.next(), 0));
        let (sent, lost) = match &is_over {
            Ok(_) => (std::mem::replace(&mut held.replies, beyond), BTreeMap::new()),
            Err(_) => (std::mem::take(&mut held.replies), beyond),
        };
        let is_anything_held = !held.replies.is_empty();
        drop(held);
        if is_anything_held && !sent.is_empty() {
            // They came while that shipment was on its way.
            self.bucket.hurry();
        }
        for (task, counters) in sent.into_values() {
            output_gate::send(&counters, task, None);
        }
        if let Err(error) = is_over {
            let cause = error.to_string();
            for (task, counters) in lost.into_values() {
                output_gate::send(&counters, task, Some(&cause));
            }
        }
    }

    /// After the store was closed: ships the rest, gives the lease back, and sends what was held. A
    /// bucket that does not answer is asked again for as long as the lease lasts.
    pub(crate) fn close(&self) -> Result<()> {
        loop {
            match self.bucket.close() {
                Err(error) if may_pass(&error) => std::thread::sleep(AGAIN),
                closed => {
                    self.release();
                    return closed;
                }
            }
        }
    }
}
