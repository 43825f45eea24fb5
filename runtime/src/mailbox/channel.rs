//! The two channels of a mailbox: crossbeam's. Under `--cfg lapidary_loom` a plain pair of queues takes
//! their place, which loom can run in every interleaving; then the protocol around the channels is what is
//! searched through, not crossbeam.

#[cfg(not(lapidary_loom))]
pub(super) use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
#[cfg(not(lapidary_loom))]
pub(super) use std::sync;

#[cfg(lapidary_loom)]
pub(super) use loom::sync;
#[cfg(lapidary_loom)]
pub(super) use queue::{Receiver, Sender, TryRecvError, TrySendError, channels, either};

/// What came first.
pub(super) enum Either<T> {
    /// A message, or that there will be none any more.
    Message(Option<T>),
    Token,
}

#[cfg(not(lapidary_loom))]
type Ends<T> = (Sender<T>, Receiver<T>);

/// A channel for so many messages, and one for a token.
#[cfg(not(lapidary_loom))]
pub(super) fn channels<T>(messages_max: usize) -> (Ends<T>, Ends<()>) {
    (crossbeam_channel::bounded(messages_max), crossbeam_channel::bounded(1))
}

/// Sleeps until one of the two has something.
#[cfg(not(lapidary_loom))]
pub(super) fn either<T>(messages: &Receiver<T>, token: &Receiver<()>) -> Either<T> {
    crossbeam_channel::select! {
        recv(messages) -> message => Either::Message(message.ok()),
        recv(token) -> _ => Either::Token,
    }
}

#[cfg(lapidary_loom)]
mod queue {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use loom::sync::{Condvar, Mutex, MutexGuard};

    use super::Either;

    pub(in super::super) enum TrySendError<T> {
        Full(T),
        #[expect(dead_code, reason = "a mailbox has a receiver as long as it lives")]
        Disconnected(T),
    }

    pub(in super::super) enum TryRecvError {
        Empty,
        Disconnected,
    }

    struct Queue<T> {
        items: Mutex<Items<T>>,
        items_max: usize,
        /// Rings for both queues.
        bell: Arc<(Mutex<u64>, Condvar)>,
    }

    struct Items<T> {
        waiting: VecDeque<T>,
        senders: usize,
    }

    impl<T> Queue<T> {
        fn items(&self) -> MutexGuard<'_, Items<T>> {
            self.items.lock().expect("no panic under the lock")
        }

        fn ring(&self) {
            *self.bell.0.lock().expect("no panic under the lock") += 1;
            self.bell.1.notify_all();
        }
    }

    pub(in super::super) struct Sender<T>(Arc<Queue<T>>);

    pub(in super::super) struct Receiver<T>(Arc<Queue<T>>);

    type Ends<T> = (Sender<T>, Receiver<T>);

    pub(in super::super) fn channels<T>(messages_max: usize) -> (Ends<T>, Ends<()>) {
        let bell = Arc::new((Mutex::new(0), Condvar::new()));
        (ends(messages_max, &bell), ends(1, &bell))
    }

    fn ends<T>(items_max: usize, bell: &Arc<(Mutex<u64>, Condvar)>) -> Ends<T> {
        let items = Mutex::new(Items { waiting: VecDeque::new(), senders: 1 });
        let queue = Arc::new(Queue { items, items_max, bell: Arc::clone(bell) });
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }

    pub(in super::super) fn either<T>(messages: &Receiver<T>, token: &Receiver<()>) -> Either<T> {
        let bell = &messages.0.bell;
        loop {
            let rung = *bell.0.lock().expect("no panic under the lock");
            match messages.try_recv() {
                Ok(message) => return Either::Message(Some(message)),
                Err(TryRecvError::Disconnected) => return Either::Message(None),
                Err(TryRecvError::Empty) => {}
            }
            if token.try_recv().is_ok() {
                return Either::Token;
            }
            let mut now = bell.0.lock().expect("no panic under the lock");
            while *now == rung {
                now = bell.1.wait(now).expect("no panic under the lock");
            }
        }
    }

    impl<T> Sender<T> {
        pub(in super::super) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
            let mut items = self.0.items();
            if items.waiting.len() >= self.0.items_max {
                return Err(TrySendError::Full(item));
            }
            items.waiting.push_back(item);
            drop(items);
            self.0.ring();
            Ok(())
        }

        pub(in super::super) fn len(&self) -> usize {
            self.0.items().waiting.len()
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.items().senders += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.items().senders -= 1;
            self.0.ring();
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Receiver<T> {
        pub(in super::super) fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut items = self.0.items();
            let closed = items.senders == 0;
            items.waiting.pop_front().ok_or(if closed {
                TryRecvError::Disconnected
            } else {
                TryRecvError::Empty
            })
        }
    }
}
