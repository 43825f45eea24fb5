//! The thread that waits for the next alarm and sends it to its core.
//!
//! It runs nothing of a facet itself: each alarm is a call on the facet's core like any other. It sends
//! so many at a time as the handler allows for each core, one for each facet, those that have waited
//! longest first; the next follows when a reply has come, and so when what it did is durable.
//!
//! No alarm is missed while it goes to sleep: it lets everybody know that it wants to hear of any new
//! entry, then reads the indexes, then tells the time it will sleep until. An entry that it has not
//! read was put after the first step, and whoever put it looks at what it told after that.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::handler::AlarmHandler;
use super::index::Entry;
use super::service::AlarmService;
use crate::call::{Call, Target};
use crate::core_thread::Core;
use crate::error::{HostError, HostErrorKind, Result};
use crate::facet::Start;
use crate::shared::Shared;

/// The wall clock is looked at so often while an alarm is waited for: it may be set.
const CLOCK_CHECKED: Duration = Duration::from_secs(1);
/// How long the thread rests after the index could not be read.
const INDEX_RETRY_MS: i64 = 1_000;

/// What wakes the thread.
#[derive(Debug)]
pub(super) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
    /// An entry for a time before this is news.
    until: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    poked: bool,
    stop: bool,
}

impl Default for Signal {
    fn default() -> Self {
        let until = AtomicI64::new(i64::MAX);
        Self { state: Mutex::default(), changed: Condvar::new(), until }
    }
}

impl Signal {
    /// There is an entry for `wake`.
    pub(super) fn note(&self, wake: i64) {
        if wake < self.until.load(Ordering::SeqCst) {
            self.poke();
        }
    }

    pub(super) fn poke(&self) {
        self.lock().poked = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// Begins to listen, and says whether to go on.
    fn listen(&self) -> bool {
        self.until.store(i64::MAX, Ordering::SeqCst);
        let mut state = self.lock();
        state.poked = false;
        !state.stop
    }

    /// Sleeps until the clock shows `until`, if that is ever, or something is heard.
    fn sleep(&self, until: Option<i64>, now_ms: impl Fn() -> i64) {
        self.until.store(until.unwrap_or(i64::MAX), Ordering::SeqCst);
        let mut state = self.lock();
        while !state.poked && !state.stop {
            let Some(until) = until else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = u64::try_from(until.saturating_sub(now_ms())).unwrap_or(0);
            if left == 0 {
                return;
            }
            let nap = CLOCK_CHECKED.min(Duration::from_millis(left));
            let woken = self.changed.wait_timeout(state, nap);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.poke();
    }
}

/// The thread, if there is a handler.
pub(crate) struct AlarmThread {
    handle: JoinHandle<()>,
    signal: Arc<Signal>,
}

impl AlarmThread {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Option<Self>> {
        let Some(handler) = shared.alarms.handler.clone() else { return Ok(None) };
        let signal = Arc::clone(&shared.alarms.signal);
        let mut waiting = Waiting {
            alarms: Arc::clone(&shared.alarms),
            shared: Arc::clone(shared),
            handler,
            sent: Vec::new(),
            pause_until: 0,
        };
        let named = thread::Builder::new().name("lapidary-alarms".to_owned());
        let handle = named
            .spawn(move || waiting.run())
            .map_err(|source| HostError::Thread { name: "lapidary-alarms", source })?;
        Ok(Some(Self { handle, signal }))
    }

    /// Sends no more alarms. Those that were sent run.
    pub(crate) fn stop(self) {
        self.signal.stop();
        if self.handle.join().is_err() {
            tracing::error!(
                "the alarm thread has panicked; alarms run again when the host is opened"
            );
        }
    }
}

struct Waiting {
    shared: Arc<Shared>,
    alarms: Arc<AlarmService>,
    handler: AlarmHandler,
    sent: Vec<(Entry, Call<()>)>,
    /// After the index has failed: nothing is sent before this.
    pause_until: i64,
}

/// The store or the host has ended.
struct Ended;

impl Waiting {
    fn run(&mut self) {
        let waker = Waker::from(Arc::clone(&self.alarms.signal));
        while self.alarms.signal.listen() {
            let next = self.collect(&waker).and_then(|()| self.send_due(&waker));
            let Ok(next) = next else { return };
            let alarms = &self.alarms;
            alarms.signal.sleep(next, || alarms.now_ms());
        }
    }

    /// Takes the replies that are there.
    fn collect(&mut self, waker: &Waker) -> Result<(), Ended> {
        let mut failed = Vec::new();
        let mut context = Context::from_waker(waker);
        self.sent.retain_mut(|(entry, call)| match Pin::new(call).poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                failed.push((*entry, error));
                false
            }
        });
        failed.into_iter().try_for_each(|(entry, error)| self.put_off(entry, &error))
    }

    /// A facet could not be looked at.
    fn put_off(&mut self, entry: Entry, error: &HostError) -> Result<(), Ended> {
        if matches!(error.kind(), HostErrorKind::Closed | HostErrorKind::Reopen) {
            return Err(Ended);
        }
        let alarms = &self.alarms;
        alarms.counters.put_off.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%error, failures = entry.failures + 1, "a facet with an alarm is looked at later");
        let delay_ms = self.handler.delay_ms(entry.failures.saturating_add(1), alarms.chance());
        let wake = alarms.now_ms().saturating_add(delay_ms);
        let outcome = alarms.shards()[entry.shard].put_off(entry, wake);
        outcome.or_else(|error| self.index_failed(&error))
    }

    /// Sends what is due, as far as there is room; returns when more will be.
    fn send_due(&mut self, waker: &Waker) -> Result<Option<i64>, Ended> {
        let now_ms = self.alarms.now_ms();
        if now_ms < self.pause_until {
            return Ok(Some(self.pause_until));
        }
        let mut next: Option<i64> = None;
        for shard in 0..self.alarms.shards().len() {
            let sent: Vec<_> = self
                .sent
                .iter()
                .map(|(entry, _)| *entry)
                .filter(|entry| entry.shard == shard)
                .collect();
            let limit = self.handler.running_max;
            // Those that are under way may be among the first, and are not to be sent twice.
            let due = self.alarms.shards()[shard].due(now_ms, limit.saturating_add(sent.len()));
            let (due, shard_next) = match due {
                Ok(found) => found,
                Err(error) => {
                    self.index_failed(&error)?;
                    (Vec::new(), Some(self.pause_until))
                }
            };
            next = next.into_iter().chain(shard_next).min();
            let is_new = |entry: &Entry| !sent.iter().any(|sent| sent.facet == entry.facet);
            for entry in due.into_iter().filter(is_new).take(limit.saturating_sub(sent.len())) {
                self.send(entry, waker)?;
            }
        }
        Ok(next)
    }

    fn send(&mut self, entry: Entry, waker: &Waker) -> Result<(), Ended> {
        let facet = match self.shared.store.facet_of_id(entry.facet) {
            Ok(Some(facet)) => facet,
            Ok(None) => {
                // Deleted, and what takes the entry out follows that in the log.
                let outcome = self.alarms.shards()[entry.shard].set(entry.facet, None);
                // There may be more of them than were asked for.
                self.alarms.signal.poke();
                return outcome.or_else(|error| self.index_failed(&error));
            }
            Err(_) => return Err(Ended),
        };
        let name = facet.name();
        let target = Target::facet_of(&self.shared, name.clone());
        let start = Start {
            epoch: self.shared.aborts[target.core()].epoch(),
            schema: self.handler.schema_of(&name),
        };
        let handler = self.handler.clone();
        let call = target.call(move |core: &mut Core| core.look_at(&handler, entry, &name, &start));
        self.sent.push((entry, call));
        // At once, so that its reply wakes this thread.
        let at = self.sent.len() - 1;
        let (_, call) = &mut self.sent[at];
        if let Poll::Ready(outcome) = Pin::new(call).poll(&mut Context::from_waker(waker)) {
            self.sent.pop();
            // There is a slot again.
            self.alarms.signal.poke();
            return outcome.or_else(|error| self.put_off(entry, &error));
        }
        Ok(())
    }

    fn index_failed(&mut self, error: &HostError) -> Result<(), Ended> {
        if error.kind() == HostErrorKind::Reopen {
            return Err(Ended);
        }
        tracing::error!(%error, "the index of alarms failed; it is tried again");
        self.pause_until = self.alarms.now_ms().saturating_add(INDEX_RETRY_MS);
        Ok(())
    }
}
