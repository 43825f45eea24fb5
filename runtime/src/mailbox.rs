//! How calls enter a core.
//!
//! A mailbox is a bounded channel, plus a list of the tasks (in the executor's sense) that wait for
//! room in it, plus a channel of one token that says "something became durable, or never will".
//!
//! No wakeup is lost:
//!
//! 1. *Calls.* The core sleeps in a `select` over both channels, so a message sent before or during
//!    it ends it.
//! 2. *Durability.* The store publishes its durable LSN, then calls the listener, which puts the
//!    token. The core takes the token, then asks the store what is durable. If the token is there
//!    already, the put does nothing, and the core has yet to take it and ask. So whatever was
//!    published is seen by an asking that follows it.
//! 3. *Room.* A waiting future puts its waker on the list, then tries to send once more. The core
//!    receives messages, then wakes everybody on the list. If that second try finds the channel
//!    full, it holds messages that the core has yet to receive, and the list is looked at after
//!    that. The lock of the list orders the two: had the core looked at the list before the waker
//!    was there, the room it had made before would be visible to the second try.
//! 4. *Closing.* The host is marked closed, then the token is put. The core takes the token, and
//!    whenever it finds no message it asks whether the host is closed: as in 2, the asking sees it.
//!    A full mailbox does not matter, since no room in it is needed.
//! 5. *End.* The core marks its mailbox ended, drops what is in it unrun, which the callers learn
//!    from the closed reply channel, then wakes the list. A sender looks at the mark before and
//!    after it sends: if the core's emptying missed its message, it finds the mark, and drops what
//!    is there itself.

mod channel;
#[cfg(all(test, lapidary_loom))]
mod interleavings;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
use std::task::Waker;

use channel::sync::atomic::{AtomicBool, Ordering, fence};
use channel::sync::{Mutex, MutexGuard};
use channel::{Either, Receiver, Sender, TryRecvError, TrySendError, channels, either};

use crate::task::Task;

/// The callers' side.
pub(crate) struct Mailbox {
    calls: Sender<Box<dyn Task>>,
    /// For calls that came too late: a channel keeps its messages when its receiver is dropped.
    leftover: Receiver<Box<dyn Task>>,
    signal: DurableSignal,
    room: Arc<Room>,
}

/// The core's side.
pub(crate) struct Inbox {
    calls: Receiver<Box<dyn Task>>,
    durable: Receiver<()>,
    room: Arc<Room>,
}

/// Puts a core's token.
#[derive(Clone)]
pub(crate) struct DurableSignal(Sender<()>);

#[derive(Default)]
struct Room {
    waiting: Mutex<Vec<Waker>>,
    has_ended: AtomicBool,
}

/// Why a task did not enter.
pub(crate) enum Refused {
    Full(Box<dyn Task>),
    Closed,
}

/// What a core is to do next.
pub(crate) enum Event {
    Task(Box<dyn Task>),
    /// The token was taken.
    Durable,
    /// Nobody can send a call any more.
    Stop,
}

/// A mailbox for `calls_max` calls.
pub(crate) fn mailbox(calls_max: usize) -> (Mailbox, Inbox, DurableSignal) {
    let ((calls, calls_out), (token, token_out)) = channels(calls_max);
    let room = Arc::<Room>::default();
    let signal = DurableSignal(token);
    (
        Mailbox {
            calls,
            leftover: calls_out.clone(),
            signal: signal.clone(),
            room: Arc::clone(&room),
        },
        Inbox { calls: calls_out, durable: token_out, room },
        signal,
    )
}

impl DurableSignal {
    pub(crate) fn put(&self) {
        // Full: the core has yet to take an earlier token. Closed: the core has ended.
        let _ = self.0.try_send(());
    }
}

impl Mailbox {
    pub(crate) fn calls_waiting(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn try_enter(&self, task: Box<dyn Task>) -> Result<(), Refused> {
        if self.room.has_ended() {
            return Err(Refused::Closed);
        }
        let entered = self.calls.try_send(task);
        if self.room.has_ended() {
            discard(&self.leftover);
            return Err(Refused::Closed);
        }
        match entered {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(task)) => Err(Refused::Full(task)),
            Err(TrySendError::Disconnected(_)) => Err(Refused::Closed),
        }
    }

    /// As `try_enter`; if it is full, `waker` is woken when there may be room.
    pub(crate) fn enter_or_register(
        &self,
        task: Box<dyn Task>,
        waker: &Waker,
    ) -> Result<(), Refused> {
        match self.try_enter(task) {
            Err(Refused::Full(task)) => {
                let mut waiting = self.room.lock();
                if !waiting.iter().any(|other| other.will_wake(waker)) {
                    waiting.push(waker.clone());
                }
                drop(waiting);
                self.try_enter(task)
            }
            entered_or_closed => entered_or_closed,
        }
    }

    /// Has the core look around, though nothing was sent.
    pub(crate) fn wake(&self) {
        self.signal.put();
    }
}

impl Inbox {
    /// The next call, if one waits.
    pub(crate) fn try_next(&self) -> Option<Event> {
        match self.calls.try_recv() {
            Ok(task) => Some(Event::Task(task)),
            Err(TryRecvError::Disconnected) => Some(Event::Stop),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Sleeps until there is something to do.
    pub(crate) fn next(&self) -> Event {
        match either(&self.calls, &self.durable) {
            Either::Message(Some(task)) => Event::Task(task),
            Either::Message(None) => Event::Stop,
            Either::Token => Event::Durable,
        }
    }

    /// Takes the token, if it is there.
    pub(crate) fn take_durable(&self) -> bool {
        self.durable.try_recv().is_ok()
    }

    /// Wakes the futures that wait for room. To be called after messages were received.
    pub(crate) fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut *self.room.lock());
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The order matters, see 5 above.
        self.room.has_ended.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        discard(&self.calls);
        self.wake_waiting();
    }
}

/// Drops the calls left in `calls`. Their closures' destructors may panic.
fn discard(calls: &Receiver<Box<dyn Task>>) {
    while let Ok(task) = calls.try_recv() {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| drop(task))) {
            std::mem::forget(panic);
            tracing::error!("the destructor of a call that was not run panicked");
        }
    }
}

impl Room {
    fn has_ended(&self) -> bool {
        fence(Ordering::SeqCst);
        self.has_ended.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
