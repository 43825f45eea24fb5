//! The outside world, injected: files, clocks and randomness. A simulation replaces all three.

#![expect(clippy::disallowed_methods, reason = "this module is the outside world")]

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::{Arc, Once};
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
    /// The operating system's files below `directory`, its clocks, its random generator. The log is
    /// written through io_uring if the kernel lets this process use it, and as by
    /// [`posix`](Self::posix) if not; a `tracing` event says so, once in the life of the process.
    #[must_use]
    pub fn system(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self::with_io(uring_or_posix(UringIo::new(directory), directory))
    }

    /// As [`system`](Self::system), with POSIX calls alone.
    #[must_use]
    pub fn posix(directory: impl AsRef<Path>) -> Self {
        Self::with_io(Arc::new(PosixIo::new(directory.as_ref())))
    }

    /// As [`system`](Self::system), with io_uring or not at all.
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

fn uring_or_posix(probed: io::Result<UringIo>, directory: &Path) -> Arc<dyn Io> {
    static SAID: Once = Once::new();
    match probed {
        Ok(uring) => Arc::new(uring),
        Err(error) => {
            SAID.call_once(|| tracing::info!(%error, "no io_uring: files go through POSIX calls"));
            Arc::new(PosixIo::new(directory))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_io_uring_is_refused_files_go_through_posix() {
        let directory = tempfile::tempdir().unwrap();
        for refusal in [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported] {
            let io = uring_or_posix(Err(refusal.into()), directory.path());
            assert_eq!(io.backend(), "posix");
        }
        let expected = if UringIo::new(directory.path()).is_ok() { "io_uring" } else { "posix" };
        assert_eq!(Environment::system(directory.path()).io.backend(), expected);
        assert_eq!(Environment::posix(directory.path()).io.backend(), "posix");
    }
}
