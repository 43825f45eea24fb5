//! An end for tests that do not end: an endless loop is a failure with words, not a job that is killed.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Ends the process if it is not dropped in time.
#[derive(Debug)]
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    /// Ends the process in `limit`, saying `what` did not end, unless it is dropped before. The limit must be
    /// far above what the work takes on a busy machine.
    ///
    /// # Panics
    /// If no thread can be had.
    #[must_use]
    #[allow(
        clippy::print_stderr,
        reason = "the test's output is captured and lost with the process"
    )]
    pub fn new(limit: Duration, what: impl Into<String>) -> Self {
        let (alive, ends) = mpsc::channel::<()>();
        let what = what.into();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                if ends.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("no end after {limit:?}: {what}");
                    std::process::abort();
                }
            })
            .expect("a thread can be had");
        Self { _alive: alive }
    }
}
