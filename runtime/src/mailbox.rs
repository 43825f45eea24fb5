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
//! 4. *End.* The core drops its receiver, then wakes the list: the try of a future that was on the
//!    list, or comes later, finds the channel closed.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

use crossbeam_channel::{
    Receiver, SendTimeoutError, Sender, TryRecvError, TrySendError, bounded, select,
};

use crate::task::Task;

enum Message {
    Task(Box<dyn Task>),
    Stop,
}

/// The callers' side.
pub(crate) struct Mailbox {
    calls: Sender<Message>,
    room: Arc<Room>,
}

/// The core's side.
pub(crate) struct Inbox {
    calls: Option<Receiver<Message>>,
    durable: Receiver<()>,
    room: Arc<Room>,
}

/// Puts a core's token.
pub(crate) struct DurableSignal(Sender<()>);

#[derive(Default)]
struct Room {
    waiting: Mutex<Vec<Waker>>,
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
    /// No more calls are to be taken than those that are there.
    Stop,
}

/// A mailbox for `calls_max` calls.
pub(crate) fn mailbox(calls_max: usize) -> (Mailbox, Inbox, DurableSignal) {
    let (calls, calls_out) = bounded(calls_max);
    let (token, token_out) = bounded(1);
    let room = Arc::<Room>::default();
    (
        Mailbox { calls, room: Arc::clone(&room) },
        Inbox { calls: Some(calls_out), durable: token_out, room },
        DurableSignal(token),
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
        match self.calls.try_send(Message::Task(task)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Message::Task(task))) => Err(Refused::Full(task)),
            Err(TrySendError::Full(Message::Stop) | TrySendError::Disconnected(_)) => {
                Err(Refused::Closed)
            }
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

    /// Asks the core to end; `false` if there was no room by `deadline`.
    pub(crate) fn stop(&self, deadline: Instant) -> bool {
        match self.calls.send_deadline(Message::Stop, deadline) {
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => true,
            Err(SendTimeoutError::Timeout(_)) => false,
        }
    }
}

impl Inbox {
    /// The next call, if one waits.
    pub(crate) fn try_next(&self) -> Option<Event> {
        match self.calls.as_ref()?.try_recv() {
            Ok(Message::Task(task)) => Some(Event::Task(task)),
            Ok(Message::Stop) | Err(TryRecvError::Disconnected) => Some(Event::Stop),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Sleeps until there is something to do.
    pub(crate) fn next(&self) -> Event {
        let Some(calls) = &self.calls else { return Event::Stop };
        select! {
            recv(calls) -> message => match message {
                Ok(Message::Task(task)) => Event::Task(task),
                Ok(Message::Stop) | Err(_) => Event::Stop,
            },
            recv(self.durable) -> _ => Event::Durable,
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
        // The order matters, see 4 above. Calls left in the channel are dropped unrun, which their
        // callers learn from the closed reply channel.
        self.calls = None;
        self.wake_waiting();
    }
}

impl Room {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
