//! The outside world, injected: files, clocks and randomness. A simulation replaces all three.

#![expect(clippy::disallowed_methods, reason = "this module is the outside world")]

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::io::{Io, PosixIo, UringIo};

/// Wall and monotonic time.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch. May jump.
    fn wall_ms(&self) -> u64;
    /// Nanoseconds since some point in the past. Never goes back.
    fn monotonic_ns(&self) -> u64;
}

/// Source of random identities.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `bytes` with unpredictable bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// Everything outside the store that the store touches.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The store's files.
    pub io: Arc<dyn Io>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Environment {
    /// The operating system's files below `directory`, its clocks, its random generator. Files are
    /// read and written through POSIX calls, which is what takes the log to the disk soonest.
    #[must_use]
    pub fn system(directory: impl AsRef<Path>) -> Self {
        Self::with_io(Arc::new(PosixIo::new(directory.as_ref())))
    }

    /// As [`system`](Self::system), with the log written through io_uring.
    ///
    /// # Errors
    /// As [`UringIo::new`] has them.
    pub fn uring(directory: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::with_io(Arc::new(UringIo::new(directory.as_ref())?)))
    }

    /// Other files, with the system's clocks and randomness.
    #[must_use]
    pub fn with_io(io: Arc<dyn Io>) -> Self {
        Self {
            io,
            clock: Arc::new(SystemClock { start: Instant::now() }),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

#[derive(Debug)]
struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// If the operating system has no randomness to give, which leaves no safe way on.
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}
