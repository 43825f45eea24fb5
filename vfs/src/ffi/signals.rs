//! Signals are for the threads of the program, not for those of a store that it has opened.

use std::mem::MaybeUninit;
use std::ptr;

/// Signals that a thread brings upon itself. Blocked, they would end the process without a handler.
const OWN: [libc::c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Calls `body` with all signals blocked, which threads that it starts have from it. A signal for the
/// process then reaches a thread of the program, which may be the one that waits for it.
pub(crate) fn with_signals_blocked<T>(body: impl FnOnce() -> T) -> T {
    let _restored_at_the_end = block();
    body()
}

/// The thread's mask as it was; set again when dropped.
struct Before(libc::sigset_t);

impl Drop for Before {
    fn drop(&mut self) {
        // SAFETY: a mask that the system gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Blocks signals in this thread; `None` if the system refuses, which leaves all as it was.
fn block() -> Option<Before> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: room for a mask, which the call fills in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    for signal in OWN {
        // SAFETY: a mask that was filled in.
        unsafe { libc::sigdelset(all.as_mut_ptr(), signal) };
    }
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a mask that was filled in, and room for another.
    let code =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: filled in if the call succeeded.
    (code == 0).then(|| Before(unsafe { before.assume_init() }))
}
