//! The store's own threads: one flushes when asked to, at a pace; one fills segments ahead and takes
//! checkpoints.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Builder, JoinHandle, park, park_timeout};

/// How often the maintenance thread looks for work.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(2);
/// Longest rest between two writes of the cleaner.
const PACE_MAX: Duration = Duration::from_secs(1);
/// How far it may be behind its pace and still catch up.
const PACE_BEHIND_NS: u64 = 50_000_000;
/// How long it rests after an error, such as a full disk.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

type Run = fn(&Shared, &AtomicBool);

#[derive(Debug)]
pub(super) struct Threads {
    stopping: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Self { stopping, handles: Vec::new() };
        for (name, run) in [("lapidary-flush", flush as Run), ("lapidary-maint", maintain)] {
            if let Err(error) = threads.spawn(name, shared, run) {
                threads.stop();
                return Err(error);
            }
        }
        // By this thread, which hands out the store: said by the flush thread itself, it could come too
        // late for a request that the flush thread does not see yet either.
        shared.core.log.set_flusher(threads.handles[0].thread().clone());
        Ok(threads)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where the engine starts threads")]
    fn spawn(&mut self, name: &'static str, shared: &Arc<Shared>, run: Run) -> Result<()> {
        let (shared, stopping) = (Arc::clone(shared), Arc::clone(&self.stopping));
        let handle = Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&shared, &stopping))
            .map_err(|source| Error::Io {
                operation: "start a thread for",
                path: name.to_owned(),
                offset: None,
                source,
            })?;
        self.handles.push(handle);
        Ok(())
    }

    pub(super) fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        for handle in self.handles {
            handle.thread().unpark();
            // A thread that panicked has said so; nothing is left to do for it.
            let _ = handle.join();
        }
    }
}

/// Flushes when asked: at once if the last flush began an interval ago or nobody is at work who could
/// add to it, else when one of the two will be so.
pub(super) fn flush(shared: &Shared, stopping: &AtomicBool) {
    let core = &shared.core;
    let clock = &core.environment.clock;
    let interval = u64::try_from(core.tunables.flush_interval.as_nanos()).unwrap_or(u64::MAX);
    let mut began_ns = None;
    while !stopping.load(Ordering::Acquire) {
        if !core.log.is_requested() {
            park();
            continue;
        }
        let now_ns = clock.monotonic_ns();
        let rest_ns = began_ns.map_or(0, |began: u64| interval.saturating_sub(now_ns - began));
        if rest_ns > 0 && !core.log.workers.all_rest() {
            park_timeout(Duration::from_nanos(rest_ns));
            continue;
        }
        began_ns = Some(now_ns);
        // Cleared before the buffers are taken: what is appended later asks again.
        core.log.clear_request();
        if let Err(error) = core.log.flush(&core.segments) {
            // Whoever waits for it is told; this thread has nothing left to do.
            tracing::debug!(%error, "the flush thread ends");
            return;
        }
    }
}

fn maintain(shared: &Shared, stopping: &AtomicBool) {
    // Cleaning writes so many bytes a second, and more the further space is beyond bounds. The time that
    // the work itself takes counts, also what comes between two writes.
    let clock = &shared.core.environment.clock;
    let mut due_ns = 0_u64;
    let mut pace = |bytes: usize, urgency: f64| {
        let per_second = shared.core.tunables.clean_bytes_per_second.max(1);
        #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
        let seconds = bytes as f64 / (per_second as f64 * urgency.powi(64));
        // What the log needs next does not wait for the cleaner. Errors are seen by the next round.
        let now_ns = clock.monotonic_ns();
        while matches!(shared.core.segments.fill_ahead(now_ns), Ok(true)) {}
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default().min(PACE_MAX);
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(0);
        let now_ns = clock.monotonic_ns();
        due_ns = due_ns.max(now_ns.saturating_sub(PACE_BEHIND_NS)) + took_ns;
        if due_ns > now_ns && !stopping.load(Ordering::Acquire) {
            park_timeout(Duration::from_nanos(due_ns - now_ns));
        }
    };
    while !stopping.load(Ordering::Acquire) {
        match shared.maintain(&mut pace) {
            Ok(true) => {}
            Ok(false) => park_timeout(MAINTENANCE_INTERVAL),
            Err(error @ (Error::Poisoned { .. } | Error::Closed)) => {
                tracing::debug!(%error, "the maintenance thread ends");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "background work failed; it will be tried again");
                park_timeout(ERROR_PAUSE);
            }
        }
    }
}
