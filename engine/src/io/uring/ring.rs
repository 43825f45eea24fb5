//! A ring that runs one linked pair at a time: a write, and the sync after it.
//!
//! What the kernel may touch behind the borrow checker's back, and who sees to it that it may:
//!
//! 1. The bytes to write and the descriptor are in use from the moment an entry is pushed until its
//!    completion was reaped, or until it is certain that the kernel never took it. A [`Flight`]
//!    borrows both for that time and ends no sooner, whether it is dropped after an error, by a
//!    panic, or at its end.
//! 2. Nothing is in the ring when a flight begins. A ring that cannot be emptied is given up.
//! 3. One thread uses the ring: it is behind a mutex. Which thread does not matter.
//! 4. One process uses it: a child of fork(2) shares the queues with its parent, and is refused.

#![expect(unsafe_code, reason = "only this module lends memory to the kernel beyond a call")]

use std::fmt::{self, Debug};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;

use io_uring::squeue::Flags;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;
use rustix::process::Pid;

/// The most bytes of one write. The kernel takes a little less than 2 GiB.
pub(super) const WRITE_BYTES_MAX: usize = 1 << 30;

/// A pair is two entries.
const ENTRIES: u32 = 2;
const WRITE: u64 = 1;
const SYNC: u64 = 2;

/// How often a kernel that is short of memory is asked again.
const TRIES_MAX: u32 = 1000;

/// What the kernel said of a write and of the sync linked to it: bytes or 0, or a negated errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) write: i32,
    /// `-ECANCELED` if it was not begun, as after a write that failed or was short.
    pub(super) sync: i32,
}

/// Why no pair was begun.
#[derive(Debug)]
pub(super) enum Refused {
    /// This process is a child of the one that made the ring.
    Forked,
    /// The kernel took nothing.
    Kernel(io::Error),
}

/// See the [module](self).
pub(super) struct Ring {
    process: Pid,
    /// `None` after it was given up, until it is needed again.
    ring: Mutex<Option<IoUring>>,
}

impl Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring of which it is known that it works.
    ///
    /// # Errors
    /// As the kernel has them if it refuses a ring; `Unsupported` if it cannot do what is needed.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Write::CODE) || !probe.is_supported(opcode::Fsync::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ring = Self { process: rustix::process::getpid(), ring: Mutex::new(Some(ring)) };
        ring.try_out()?;
        Ok(ring)
    }

    /// Runs a pair on a file in memory: what a filter of system calls lets a process set up, it may
    /// still not let it use.
    fn try_out(&self) -> io::Result<()> {
        const TEXT: &[u8] = b"written by way of a ring";
        let file = rustix::fs::memfd_create("lapidary-probe", rustix::fs::MemfdFlags::CLOEXEC)?;
        let pair = match self.write_and_sync(file.as_fd(), 0, TEXT) {
            Ok(pair) => pair,
            Err(Refused::Kernel(error)) => return Err(error),
            Err(Refused::Forked) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let mut found = [0; TEXT.len()];
        rustix::io::pread(&file, &mut found, 0)?;
        let expected = Pair { write: i32::try_from(TEXT.len()).unwrap_or(i32::MAX), sync: 0 };
        if pair == expected && found == TEXT {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, "a linked write and sync did not work"))
        }
    }

    /// Writes the first [`WRITE_BYTES_MAX`] of `bytes` at `offset`, syncs the file if all of them
    /// were written, and returns when the kernel is done with both.
    ///
    /// # Errors
    /// [`Refused`]: nothing was begun.
    pub(super) fn write_and_sync(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Pair, Refused> {
        // Before the lock, which a thread of the parent may have held during the fork.
        if rustix::process::getpid() != self.process {
            return Err(Refused::Forked);
        }
        // What a panic left here is in order: the flight ended first, by rule 1.
        let mut slot = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ring = match slot.take() {
            Some(ring) => ring,
            None => IoUring::new(ENTRIES).map_err(Refused::Kernel)?,
        };
        let mut flight = Flight::begin(&mut ring, file, offset, bytes)?;
        flight.land();
        let (write, sync, refusal) = (flight.write, flight.sync, flight.refusal.take());
        drop(flight);
        match (refusal, write) {
            // Entries are left in its queue: it is given up.
            (Some(error), None) => Err(Refused::Kernel(error)),
            (Some(_), Some(write)) => Ok(Pair { write, sync: sync.unwrap_or(NOT_BEGUN) }),
            (None, write) => {
                *slot = Some(ring);
                Ok(Pair { write: write.unwrap_or(NOT_BEGUN), sync: sync.unwrap_or(NOT_BEGUN) })
            }
        }
    }
}

const NOT_BEGUN: i32 = -Errno::CANCELED.raw_os_error();

/// A pair that the kernel may be working on. It borrows what the kernel uses, and its end waits for
/// the kernel.
struct Flight<'a> {
    ring: &'a mut IoUring,
    /// Entries that were pushed and of which no completion was reaped.
    pending: usize,
    write: Option<i32>,
    sync: Option<i32>,
    /// Why the kernel does not take the entries that are left.
    refusal: Option<io::Error>,
    lent: PhantomData<(BorrowedFd<'a>, &'a [u8])>,
}

impl<'a> Flight<'a> {
    fn begin(
        ring: &'a mut IoUring,
        file: BorrowedFd<'a>,
        offset: u64,
        bytes: &'a [u8],
    ) -> Result<Self, Refused> {
        let fd = types::Fd(file.as_raw_fd());
        let len = u32::try_from(bytes.len().min(WRITE_BYTES_MAX)).unwrap_or(u32::MAX);
        let write = opcode::Write::new(fd, bytes.as_ptr(), len)
            .offset(offset)
            .build()
            .flags(Flags::IO_LINK)
            .user_data(WRITE);
        let sync =
            opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC);
        // The flight made below borrows `bytes` and `file` for `'a`, and cannot end before `land` has
        // seen to it. From here to there nothing can panic, and nobody enters the ring. No one forgets
        // a flight: it does not leave this module.
        // SAFETY: so what the entries point to is valid until the kernel is done with it (rule 1).
        let pushed = unsafe { ring.submission().push_multiple(&[write, sync]) };
        match pushed {
            Ok(()) => Ok(Self {
                ring,
                pending: 2,
                write: None,
                sync: None,
                refusal: None,
                lent: PhantomData,
            }),
            // Never, by rule 2. Nothing was pushed.
            Err(full) => Err(Refused::Kernel(io::Error::other(full))),
        }
    }

    /// Returns when the kernel uses neither bytes nor file any more.
    fn land(&mut self) {
        let mut tries_left = TRIES_MAX;
        while self.pending > 0 {
            let entered = self.ring.submit_and_wait(self.pending);
            self.reap();
            let Err(error) = entered else { continue };
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            tries_left = tries_left.saturating_sub(1);
            let is_short = matches!(Errno::from_io_error(&error), Some(Errno::AGAIN | Errno::BUSY));
            // What the kernel has not taken it will not take, since nobody enters the ring again;
            // for what it has taken there is nothing but to wait.
            if !(is_short && tries_left > 0) && self.ring.submission().len() >= self.pending {
                self.pending = 0;
                self.refusal = Some(error);
                return;
            }
            thread::yield_now();
        }
    }

    fn reap(&mut self) {
        for completion in self.ring.completion() {
            let result = match completion.user_data() {
                WRITE => &mut self.write,
                _ => &mut self.sync,
            };
            *result = Some(completion.result());
            self.pending = self.pending.saturating_sub(1);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.land();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_the_process_is_refused() {
        let Ok(mut ring) = Ring::new() else { return };
        ring.process = Pid::INIT;
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let refused = ring.write_and_sync(file.as_fd(), 0, b"text");
        assert!(matches!(refused, Err(Refused::Forked)), "{refused:?}");
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 0);
    }

    /// If this fails, the kernel may go on reading bytes that were freed.
    #[test]
    fn a_flight_that_is_dropped_waits_for_the_kernel() {
        let Ok(mut ring) = IoUring::new(ENTRIES) else { return };
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let bytes = vec![7; 1 << 20];
        drop(Flight::begin(&mut ring, file.as_fd(), 0, &bytes).unwrap());
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 1 << 20);
        assert!(ring.submission().is_empty());
        assert!(ring.completion().is_empty());
    }
}
