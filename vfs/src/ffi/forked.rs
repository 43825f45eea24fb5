//! `fork(2)`: what a child process must not use, and what it has of its own.
//!
//! A child has copies of its parent's files, locks and memory, but none of its threads: a mutex that
//! one of them held stays locked, and two processes that write one log destroy it. So each open file
//! knows the generation of the process that opened it, and answers no other.

use std::os::raw::c_int;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

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

extern "C" fn after_fork_in_child() {
    // Nothing but what may be done in a signal handler.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Has generations counted from now on.
///
/// # Panics
/// If the C library has no memory for it.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    type Handler = Option<extern "C" fn()>;
    // SAFETY: declared as POSIX has it.
    unsafe extern "C" {
        fn pthread_atfork(prepare: Handler, parent: Handler, child: Handler) -> c_int;
    }
    WATCHING.call_once(|| {
        // SAFETY: a function of this library, which is not unloaded while it has a VFS (1).
        let code = unsafe { pthread_atfork(None, None, Some(after_fork_in_child)) };
        assert_eq!(code, 0, "the C library has room for a fork handler");
    });
}
