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
