//! `fork(2)`: what a child process must not use, and what it has of its own.
//!
//! A child has copies of its parent's files, locks and memory, but none of its threads: a mutex that
//! one of them held stays locked, and two processes that write one log destroy it. So each open file
//! knows the generation of the process that opened it, and answers no other.

use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// What an error says of something that was opened before a fork.
pub(crate) const OPENED_BEFORE_FORK: &str = "this process is a fork of the one that opened it, and may not use it; \
     open connections after the fork (Python: multiprocessing with the start method `spawn`)";

/// Forks between the process that first asked and this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

static GENERATION: AtomicU32 = AtomicU32::new(0);

impl Generation {
    /// That of this process.
    pub(crate) fn current() -> Self {
        Self(GENERATION.load(Ordering::Relaxed))
    }
}

/// Calls of `fork(2)` between this process and the one that first registered a VFS, as the C library counts them: a process
/// and its fork are told apart without a system call.
#[must_use]
pub fn fork_generation() -> u32 {
    Generation::current().0
}

unsafe extern "C" fn after_fork_in_child() {
    // Nothing but what may be done in a signal handler.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Has generations counted from now on.
///
/// # Panics
/// If the C library has no memory for it.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // SAFETY: a function of this library, which is not unloaded while it has a VFS (1).
        let code = unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
        assert_eq!(code, 0, "the C library has room for a fork handler");
    });
}

/// A value that each process has of its own: a child begins with a new one, whatever its parent's other
/// threads were doing with theirs. Values are never freed, as a fork is a rare thing.
pub(crate) struct PerProcess<T: 'static> {
    newest: AtomicPtr<Node<T>>,
}

struct Node<T> {
    generation: Generation,
    value: T,
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self { newest: AtomicPtr::new(ptr::null_mut()) }
    }
}

impl<T> std::fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PerProcess")
    }
}

impl<T: Default + Send + Sync> PerProcess<T> {
    /// This process's.
    pub(crate) fn get(&self) -> &'static T {
        let generation = Generation::current();
        let mut found = self.newest.load(Ordering::Acquire);
        loop {
            // SAFETY: null, or from Box::into_raw below, filled in before it was stored and never freed.
            if let Some(node) = unsafe { found.as_ref() }
                && node.generation == generation
            {
                return &node.value;
            }
            let new = Box::into_raw(Box::new(Node { generation, value: T::default() }));
            match self.newest.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: just made, and never freed from now on.
                Ok(_) => return unsafe { &(*new).value },
                Err(other) => {
                    // SAFETY: from Box::into_raw above; nobody else has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    found = other;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn threads_of_a_process_share_one_value() {
        static VALUE: PerProcess<Mutex<Vec<u32>>> =
            PerProcess { newest: AtomicPtr::new(ptr::null_mut()) };
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || VALUE.get().lock().unwrap().push(number));
            }
        });
        assert_eq!(VALUE.get().lock().unwrap().len(), 8);
    }
}
