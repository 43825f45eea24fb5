//! What the engine's threads meet in: locks, atomics, parking. The standard library's; under
//! `--cfg lapidary_loom` those of loom, which runs every interleaving of a test's threads up to a
//! bound (`interleavings.rs`).
//!
//! Cells that are written once, and counters that nothing hangs on, are the standard library's in
//! either case.

#[cfg(not(lapidary_loom))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread::{Builder, JoinHandle, Thread, park, park_timeout, yield_now},
    thread_local,
};

#[cfg(lapidary_loom)]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread::{Builder, JoinHandle, Thread, park, yield_now},
    thread_local,
};

/// Time does not pass in a model: it is up at once.
#[cfg(lapidary_loom)]
pub(crate) fn park_timeout(_: std::time::Duration) {
    yield_now();
}
