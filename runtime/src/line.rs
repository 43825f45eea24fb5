//! Calls that met a full mailbox, in line for room.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::call::Target;
use crate::mailbox::{Post, Refused};

/// The line of one handle and its clones. Whoever awaits any call of it sends as many as there is
/// room for, first come, first served: so calls enter the mailbox in the order in which they were
/// made, whatever order an executor polls them in.
#[derive(Default)]
pub(crate) struct Line {
    waiting: Mutex<Waiting>,
    /// As many as there are in `waiting`, to be read without the lock.
    len: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    /// In order of their numbers.
    tasks: VecDeque<(Place, Post)>,
    next: u64,
}

/// A call's place in the line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        // A thread sees what it lined up itself; between threads there is no order to keep.
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Puts `task` at the end.
    pub(crate) fn join(&self, post: Post) -> Place {
        let mut waiting = self.lock();
        let place = Place(waiting.next);
        waiting.next += 1;
        waiting.tasks.push_back((place, post));
        self.publish(&waiting);
        place
    }

    /// Sends from the head of the line, which is `target`'s, what there is room for, and says whether the call at
    /// `place` has left the line. If it has not, the waker will be woken when there may be room.
    ///
    /// If the mailbox is closed, the line is dropped, which closes the reply channels of its calls.
    pub(crate) fn advance(&self, target: &Target, place: Place, waker: &Waker) -> bool {
        let mut waiting = self.lock();
        while let Some((head, post)) = waiting.tasks.pop_front() {
            match target.enter(post, Some(waker)) {
                Ok(()) => {}
                Err(Refused::Full(_, post)) => {
                    waiting.tasks.push_front((head, post));
                    break;
                }
                Err(Refused::Closed) => {
                    let dropped = std::mem::take(&mut waiting.tasks);
                    self.publish(&waiting);
                    drop(waiting);
                    // Outside the lock: a closure may hold other calls of the line.
                    drop(dropped);
                    return true;
                }
            }
        }
        self.publish(&waiting);
        waiting.tasks.front().is_none_or(|(head, _)| *head > place)
    }

    /// Takes a call out of the line, if it is still there.
    pub(crate) fn leave(&self, place: Place) {
        let mut waiting = self.lock();
        let found = waiting.tasks.binary_search_by_key(&place, |(place, _)| *place);
        let task = found.ok().and_then(|at| waiting.tasks.remove(at));
        self.publish(&waiting);
        drop(waiting);
        // Outside the lock, as above.
        drop(task);
    }

    fn publish(&self, waiting: &Waiting) {
        self.len.store(waiting.tasks.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
