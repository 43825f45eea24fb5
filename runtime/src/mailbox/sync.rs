//! What the threads of a mailbox meet at: the standard library's. Under `--cfg lapidary_loom` loom's take their
//! place, and what the mailbox does with them is searched through in every interleaving.

#[cfg(lapidary_loom)]
pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(lapidary_loom)]
pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(lapidary_loom))]
pub(super) use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(lapidary_loom))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
