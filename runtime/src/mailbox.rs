//! How calls enter a core.
//!
//! A mailbox is what waits ([`Schedule`]) under a lock, and a bell. The core alone takes from it.
//!
//! No wakeup is lost:
//!
//! 1. *Calls.* The core looks for a call and says that it sleeps under the lock, in one; who puts a
//!    call in under the lock finds it asleep and rings, or awake, and then it has yet to look.
//! 2. *Durability.* The store publishes its durable LSN, then puts the token. The core takes the
//!    token, then asks the store what is durable. If the token is there already, the put does
//!    nothing, and the core has yet to take it and ask. So whatever was published is seen by an
//!    asking that follows it. The putting rings under the lock, as in 1.
//! 3. *Room.* A future that finds no room leaves its waker in the same hold of the lock. The lane that
//!    refused it has calls waiting; the core, when it takes one of those, takes the wakers too.
//! 4. *Closing.* The host is marked closed, then the token is put. The core takes the token, and
//!    whenever it finds no call it asks whether the host is closed: as in 2, the asking sees it.
//! 5. *End.* The core marks the mailbox ended under the lock, and takes out what is in it; what comes
//!    later finds the mark. What was taken out is dropped unrun, which its callers learn from the
//!    closed reply channel.

#[cfg(all(test, lapidary_loom))]
mod interleavings;
mod sync;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use lapidary_engine::FacetName;
use sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};

use crate::schedule::{self, Bounds, Full, LaneKey, Schedule, Scope};
use crate::task::Task;

pub(crate) type Post = schedule::Post<Box<dyn Task>>;

/// The callers' side.
pub(crate) struct Mailbox {
    shared: Arc<Shared>,
    calls_max: usize,
}

/// The core's side.
pub(crate) struct Inbox(Arc<Shared>);

/// Puts a core's token.
#[derive(Clone)]
pub(crate) struct DurableSignal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
    durable: AtomicBool,
    /// Whether a call was put in since the core last found none: to be looked at without the lock.
    stirred: AtomicBool,
}

#[derive(Default)]
struct State {
    schedule: Schedule<Box<dyn Task>>,
    is_asleep: bool,
    has_ended: bool,
    /// Who knows of an earlier state of the placement looks again: something has moved away.
    placement: u64,
}

/// Why a call did not enter.
pub(crate) enum Refused {
    Full(Full, Post),
    Closed,
}

/// A call whose facet may have moved to another core since that was looked up.
pub(crate) struct Moved(pub(crate) Post);

/// What a core is to do next.
pub(crate) enum Event {
    Task(Box<dyn Task>),
    /// The token was taken.
    Durable,
}

/// A mailbox for some `calls_max` calls; see [`Bounds::all`].
pub(crate) fn mailbox(calls_max: usize) -> (Mailbox, Inbox, DurableSignal) {
    let shared = Arc::<Shared>::default();
    let signal = DurableSignal(Arc::clone(&shared));
    (Mailbox { shared: Arc::clone(&shared), calls_max }, Inbox(shared), signal)
}

impl DurableSignal {
    pub(crate) fn put(&self) {
        self.0.put_token();
    }
}

impl Mailbox {
    pub(crate) fn calls_waiting(&self) -> usize {
        self.shared.lock().schedule.len()
    }

    /// Puts a call into `lane`, unless `lane_max` calls wait there. If there is no room, `waker` is
    /// woken when there may be. `placement` is the state of it by which this core was found.
    pub(crate) fn enter(
        &self,
        lane: &LaneKey,
        lane_max: usize,
        placement: u64,
        post: Post,
        waker: Option<&Waker>,
    ) -> Result<Result<(), Refused>, Moved> {
        let bounds = Bounds { lane: lane_max, all: self.calls_max };
        let mut state = self.shared.lock();
        if state.has_ended {
            drop(state);
            return Ok(Err(Refused::Closed));
        }
        if placement < state.placement {
            return Err(Moved(post));
        }
        if let Err((full, post)) = state.schedule.push(lane, bounds, post) {
            if let Some(waker) = waker {
                state.schedule.await_room(lane, waker);
            }
            return Ok(Err(Refused::Full(full, post)));
        }
        self.shared.stir(state);
        Ok(Ok(()))
    }

    /// Stops what is within `root`, behind what is there, until the hold is dropped.
    pub(crate) fn hold(&self, root: &FacetName) -> Hold {
        let number = self.shared.lock().schedule.hold(Box::new([Scope::subtree(root)]));
        Hold { shared: Arc::clone(&self.shared), number }
    }

    /// Puts `call` behind all that is there within `root`. From now on who does not know of the state
    /// `placement` is told that something has moved. Returns whether it will run.
    pub(crate) fn leave(&self, root: &FacetName, placement: u64, call: Box<dyn Task>) -> bool {
        let mut state = self.shared.lock();
        if state.has_ended {
            // The call's destructor ends the hold of another mailbox.
            drop(state);
            return false;
        }
        state.placement = placement;
        state.schedule.push_beyond(Box::new([Scope::subtree(root)]), call);
        self.shared.stir(state);
        true
    }

    /// Has the core look around, though nothing was sent.
    pub(crate) fn wake(&self) {
        self.shared.put_token();
    }
}

/// See [`Mailbox::hold`].
pub(crate) struct Hold {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.schedule.let_go(self.number);
        self.shared.stir(state);
    }
}

impl Inbox {
    /// Whether nothing waits, not even for a [`Hold`] to end.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().schedule.is_empty()
    }

    /// The next call, if one waits.
    pub(crate) fn try_next(&self) -> Option<Box<dyn Task>> {
        Self::take(self.0.lock()).ok()
    }

    /// The next call of the facet that is being served, if it may share a commit.
    pub(crate) fn next_joining(&self) -> Option<Box<dyn Task>> {
        let mut state = self.0.lock();
        let next = state.schedule.next_of_turn(|task| task.joins());
        let woken = state.schedule.take_woken();
        drop(state);
        wake_all(woken);
        next
    }

    /// Whether [`next_joining`](Self::next_joining) would find one.
    pub(crate) fn has_joining(&self) -> bool {
        self.0.lock().schedule.has_next_of_turn(|task| task.joins())
    }

    /// Looks out for something to do for as long as `poll`, then sleeps until there is.
    pub(crate) fn next(&self, poll: Duration) -> Event {
        let mut polled = poll.is_zero();
        loop {
            let mut state = match Self::take(self.0.lock()) {
                Ok(task) => return Event::Task(task),
                Err(state) => state,
            };
            if self.take_durable() {
                return Event::Durable;
            }
            if !polled {
                self.0.stirred.store(false, Ordering::Relaxed);
                drop(state);
                polled = true;
                self.poll(poll);
                continue;
            }
            state.is_asleep = true;
            while state.is_asleep {
                state = self.0.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Waits up to `time` for something to do: who sends a call and finds the core awake need not ask
    /// the system to wake it. Lets others have the processor meanwhile.
    fn poll(&self, time: Duration) {
        let began = Instant::now();
        while !self.0.stirred.load(Ordering::Relaxed) && !self.0.durable.load(Ordering::Relaxed) {
            if began.elapsed() >= time {
                return;
            }
            thread::yield_now();
        }
    }

    /// The next call; the hold of the lock, if there is none.
    fn take(mut state: MutexGuard<'_, State>) -> Result<Box<dyn Task>, MutexGuard<'_, State>> {
        let Some(task) = state.schedule.next() else { return Err(state) };
        let woken = state.schedule.take_woken();
        drop(state);
        wake_all(woken);
        Ok(task)
    }

    /// Takes the token, if it is there.
    pub(crate) fn take_durable(&self) -> bool {
        self.0.durable.load(Ordering::Relaxed) && self.0.durable.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_ended = true;
        let (calls, wakers) = state.schedule.drain();
        drop(state);
        for call in calls {
            // Its closure's destructor may panic.
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| drop(call))) {
                std::mem::forget(panic);
                tracing::error!("the destructor of a call that was not run panicked");
            }
        }
        wake_all(wakers);
    }
}

impl Shared {
    /// Lets the core know that something has come.
    fn stir(&self, mut state: MutexGuard<'_, State>) {
        self.stirred.store(true, Ordering::Relaxed);
        let is_asleep = std::mem::take(&mut state.is_asleep);
        drop(state);
        if is_asleep {
            self.bell.notify_one();
        }
    }

    fn put_token(&self) {
        if self.durable.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.lock();
        let is_asleep = std::mem::take(&mut state.is_asleep);
        drop(state);
        if is_asleep {
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's waker may panic: the core must outlive it.
fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            std::mem::forget(panic);
            tracing::error!("a waker panicked");
        }
    }
}
