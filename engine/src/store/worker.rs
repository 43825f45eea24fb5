//! Threads that tell when they have nothing to do.

use std::sync::Arc;

use super::Store;
use crate::core::Core;

/// A thread that commits to the store and asks it for flushes. While any of them is at work, flushes
/// keep [`flush_interval`](crate::Tunables::flush_interval) apart, so that one flush takes in what
/// several commit; when all rest, nothing more can come, and a flush that was asked for begins at once.
///
/// ```
/// # use lapidary_engine::*;
/// # use std::sync::Arc;
/// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
/// # let store = Store::open(environment, StoreOptions::create())?;
/// let mut worker = store.worker();
/// // … commits, then:
/// store.request_flush();
/// worker.rest();
/// // … sleeps until there is something to do, then:
/// worker.resume();
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Worker {
    core: Arc<Core>,
    rests: bool,
}

impl Store {
    /// Makes the calling thread known as one that commits. It is at work until it says otherwise.
    #[must_use]
    pub fn worker(&self) -> Worker {
        let core = Arc::clone(&self.shared.core);
        core.log.workers.add();
        Worker { core, rests: false }
    }
}

impl Worker {
    /// The thread has nothing to do for now.
    pub fn rest(&mut self) {
        if !self.rests {
            self.rests = true;
            self.core.log.workers.rest();
            self.core.log.hurry();
        }
    }

    /// Flushes on the calling thread, which rests, and returns `true`: in place of
    /// [`Store::request_flush`], for a thread that can do nothing else until what it appended is
    /// durable. It is spared the way to the store's thread and back.
    ///
    /// Does nothing and returns `false` if another thread is at work and may append more, if a flush is
    /// in flight or was asked for, or if the last one took a millisecond or more: then the way there
    /// and back hardly counts, and a thread that is not in a flush can serve what comes meanwhile.
    ///
    /// What becomes of it is told as after any flush; see [`Store::on_durable`].
    pub fn flush_here(&self) -> bool {
        let (core, log) = (&self.core, &self.core.log);
        if !self.rests || !log.workers.all_rest() || !log.is_quick() || log.is_requested() {
            return false;
        }
        let Some(lead) = log.try_lead() else { return false };
        let began_ns = core.monotonic_ns();
        if let Err(error) = lead.flush(&core.segments) {
            tracing::debug!(%error, "a flush by the thread that needed it failed");
        }
        log.note_time(core.monotonic_ns() - began_ns);
        true
    }

    /// The thread has something to do.
    pub fn resume(&mut self) {
        if self.rests {
            self.rests = false;
            self.core.log.workers.resume();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.rest();
        self.core.log.workers.remove();
    }
}
