//! The one log: records appended to per-core buffers, taken together by a flush, written as one
//! batch and synced once.
//!
//! Order. A record gets its LSN from one counter while its buffer is locked, and a flush locks all
//! buffers before it takes what is in them. So what a flush takes is a consistent cut: every LSN up
//! to some number and none above it. If one operation had ended before another began, its LSN is
//! lower, whatever buffers the two went to. Batches are written in order of LSN, so a crash leaves a
//! prefix of the history.

mod buffer;
mod workers;
mod writer;

use std::sync::{OnceLock, PoisonError};

use crossbeam_utils::CachePadded;

pub(crate) use buffer::{CommitEffect, Effect, ForkEffect, PageEffect, PartPlace, SpillPlace};
pub(crate) use writer::LogWriter;

use crate::error::{Error, Result};
use crate::format::BLOCK_BYTES;
use crate::segments::{Purpose, Segments};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::{Condvar, Mutex, MutexGuard, RwLock, Thread, yield_now};
use crate::types::{Epoch, Lsn, SegmentId, Ticket};
use buffer::Buffer;
use workers::Workers;

/// Figures since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct LogCounters {
    pub(crate) flushes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    /// Bytes written since the last checkpoint was cut.
    pub(crate) tail_bytes: AtomicU64,
}

type Listener = Box<dyn Fn() + Send + Sync>;

/// See the [module](self).
pub(crate) struct Log {
    buffers: Vec<CachePadded<Mutex<Buffer>>>,
    /// LSN of the next record.
    next_lsn: CachePadded<AtomicU64>,
    /// Bytes appended or admitted, and not yet written.
    buffered_bytes: CachePadded<AtomicUsize>,
    buffered_bytes_max: usize,
    durable: CachePadded<AtomicU64>,
    /// Whether a flush is in flight. Whoever sets it leads: at most one flush is in flight, and
    /// nothing else touches the writer.
    in_flight: Mutex<bool>,
    landed: Condvar,
    writer: Mutex<LogWriter>,
    poison: OnceLock<String>,
    closed: AtomicBool,
    /// It is another process that appends.
    is_followed: AtomicBool,
    /// See [`Epoch`]; changes while all buffers are locked.
    epoch: AtomicU64,
    /// A flush was asked for and has not begun.
    requested: AtomicBool,
    flusher: OnceLock<Thread>,
    pub(crate) workers: Workers,
    listeners: RwLock<Vec<Listener>>,
    pub(crate) counters: LogCounters,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("durable", &self.durable_lsn()).finish_non_exhaustive()
    }
}

/// The right to flush; see [`Log::lead`].
#[derive(Debug)]
pub(crate) struct Lead<'a> {
    log: &'a Log,
    writer: MutexGuard<'a, LogWriter>,
}

impl Log {
    pub(crate) fn new(writer: LogWriter, buffers: usize, buffered_bytes_max: usize) -> Self {
        let next = writer.position().lsn;
        Self {
            buffers: (0..buffers.max(1)).map(|_| CachePadded::default()).collect(),
            next_lsn: CachePadded::new(AtomicU64::new(next.0)),
            buffered_bytes: CachePadded::default(),
            buffered_bytes_max,
            durable: CachePadded::new(AtomicU64::new(next.0 - 1)),
            in_flight: Mutex::new(false),
            landed: Condvar::new(),
            writer: Mutex::new(writer),
            poison: OnceLock::new(),
            closed: AtomicBool::new(false),
            is_followed: AtomicBool::new(false),
            epoch: AtomicU64::new(1),
            requested: AtomicBool::new(false),
            flusher: OnceLock::new(),
            workers: Workers::default(),
            listeners: RwLock::default(),
            counters: LogCounters::default(),
        }
    }

    /// Recovery: writes the records of the last batch again, in a segment of this incarnation, and
    /// syncs them. Returns where the records are now. Nobody else may know of the log yet.
    pub(crate) fn rewrite_tail(
        &self,
        segments: &Segments,
        durable_through: Lsn,
        count: u32,
        records: &[u8],
    ) -> Result<(SegmentId, u64)> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let place = writer.rewrite_tail(segments, durable_through, count, records)?;
        let next = writer.position().lsn;
        self.next_lsn.store(next.0, Ordering::Release);
        self.durable.store(next.0 - 1, Ordering::Release);
        Ok(place)
    }

    /// Fails if the store was closed or poisoned.
    pub(crate) fn check_usable(&self) -> Result<()> {
        if let Some(cause) = self.poison.get() {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        self.check_open()
    }

    /// The same, and fails if it is another process that writes the store.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_followed.load(Ordering::Acquire) {
            let what = "this store is opened to follow what another process writes: nothing can be written";
            return Err(Error::InvalidInput(what.to_owned()));
        }
        self.check_usable()
    }

    /// Another process has appended everything before `next`, and appends what comes; nothing is appended
    /// here.
    pub(crate) fn follow_to(&self, next: Lsn) {
        self.is_followed.store(true, Ordering::Release);
        self.next_lsn.store(next.0, Ordering::Release);
        self.durable.store(next.0 - 1, Ordering::Release);
        self.wake_all();
    }

    /// Fails if the store was closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake_all();
    }

    pub(crate) fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// A ticket for all that was appended so far.
    pub(crate) fn current_ticket(&self) -> Ticket {
        Ticket(Lsn(self.next_lsn.load(Ordering::Acquire) - 1))
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes.load(Ordering::Relaxed)
    }

    /// The same, after what the caller has changed: who is admitted later than this says sees that.
    pub(crate) fn admitted_bytes(&self) -> usize {
        self.buffered_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn is_durable(&self, ticket: Ticket) -> Result<bool> {
        if ticket.lsn() <= self.durable_lsn() {
            return Ok(true);
        }
        self.check_usable()?;
        Ok(false)
    }

    pub(crate) fn on_durable(&self, listener: Listener) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Admits a record of at most `bytes` bytes: waits while too much is buffered, and sees to it
    /// that there is room in segments, also for the checkpoint that is due, to which the record adds at
    /// most `growth` bytes.
    ///
    /// Must be called before any lock is taken that publication takes, since it may flush.
    pub(crate) fn admit<'a>(
        &'a self,
        segments: &'a Segments,
        bytes: usize,
        growth: u64,
        purpose: Purpose,
    ) -> Result<Admission<'a>> {
        self.check_writable()?;
        while self.buffered_bytes() > self.buffered_bytes_max {
            self.flush(segments)?;
            // What is left may be admitted and not yet appended: that takes a moment of others.
            yield_now();
        }
        // A record that is admitted and not yet appended may end up in a batch of its own.
        let bytes_max = bytes + BLOCK_BYTES;
        let admission = Admission { log: self, bytes: bytes_max, growth: Some((segments, growth)) };
        segments.grow_reserve(growth);
        // See `admitted_bytes`.
        let buffered = self.buffered_bytes.fetch_add(admission.bytes, Ordering::SeqCst);
        segments.ensure_room(buffered + admission.bytes, bytes, purpose)?;
        Ok(admission)
    }

    /// Admits a record for which room was ensured together with others'.
    pub(crate) fn admit_ensured(&self, bytes: usize) -> Result<Admission<'_>> {
        self.check_writable()?;
        let admission = Admission { log: self, bytes: bytes + BLOCK_BYTES, growth: None };
        self.buffered_bytes.fetch_add(admission.bytes, Ordering::AcqRel);
        Ok(admission)
    }

    /// The epoch: of the record that is being appended, if a buffer is locked.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// Appends the record that `encode` makes, to the buffer of number `buffer` (modulo their
    /// number). The caller holds the lock that orders this record among those of its kind.
    pub(crate) fn append(
        &self,
        admission: Admission<'_>,
        buffer: usize,
        encode: impl FnOnce(Lsn, &mut Vec<u8>) -> Effect,
    ) -> Ticket {
        let mut buffer = self.buffers[buffer % self.buffers.len()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _unwinding = self.poison_if_unwinding();
        // Under the buffer's lock, so that a flush that holds all locks sees every LSN given out.
        let lsn = Lsn(self.next_lsn.fetch_add(1, Ordering::AcqRel));
        let growth = admission.growth.map_or(0, |(_, growth)| growth);
        let len = buffer.push(lsn, growth, encode);
        drop(buffer);
        debug_assert!(len + BLOCK_BYTES <= admission.bytes, "a record is no longer than admitted");
        self.buffered_bytes.fetch_sub(admission.bytes.saturating_sub(len), Ordering::Release);
        std::mem::forget(admission);
        Ticket(lsn)
    }

    /// Waits until no flush is in flight and takes the right to the next one.
    pub(crate) fn lead(&self) -> Lead<'_> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        while *in_flight {
            in_flight = self.landed.wait(in_flight).unwrap_or_else(PoisonError::into_inner);
        }
        *in_flight = true;
        drop(in_flight);
        Lead { log: self, writer: self.writer.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Where the log goes on, if that is in `segment`, in bytes.
    pub(crate) fn active_end(&self, segment: SegmentId) -> Option<u32> {
        let position = self.lead().writer().position();
        (position.segment == Some(segment)).then_some(position.offset)
    }

    /// Makes all that was appended before the call durable.
    pub(crate) fn flush(&self, segments: &Segments) -> Result<()> {
        self.wait_durable(segments, self.current_ticket())
    }

    /// Waits until `ticket` is durable. The thread that finds no flush in flight leads one; those
    /// that come while it is in flight share the next.
    pub(crate) fn wait_durable(&self, segments: &Segments, ticket: Ticket) -> Result<()> {
        if ticket > self.current_ticket() {
            let what = format!("LSN {} was not given out by this store", ticket.lsn());
            return Err(Error::InvalidInput(what));
        }
        loop {
            if self.is_durable(ticket)? {
                return Ok(());
            }
            let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            if *in_flight {
                // The leader clears the flag under this lock after it has published, so the wait
                // cannot miss it.
                drop(self.landed.wait(in_flight).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            *in_flight = true;
            drop(in_flight);
            let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            Lead { log: self, writer }.flush(segments)?;
        }
    }

    /// Asks the flusher thread for a flush.
    pub(crate) fn request_flush(&self) {
        // With the fence in `clear_request`: either this sees that the request was cleared, or the
        // flush that follows sees what the caller has appended.
        fence(Ordering::SeqCst);
        if !self.requested.load(Ordering::Relaxed)
            && !self.requested.swap(true, Ordering::AcqRel)
            && let Some(flusher) = self.flusher.get()
        {
            flusher.unpark();
        }
    }

    /// Has the flusher thread look again whether it has to wait.
    pub(crate) fn hurry(&self) {
        if self.is_requested()
            && self.workers.all_rest()
            && let Some(flusher) = self.flusher.get()
        {
            flusher.unpark();
        }
    }

    /// Says which thread is to be woken when a flush is asked for. To be called before anybody can ask.
    pub(crate) fn set_flusher(&self, thread: Thread) {
        // A second flusher would be a mistake, but a harmless one.
        let _ = self.flusher.set(thread);
    }

    /// Whether a flush was asked for.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// The flusher is about to flush: later requests are for the next one.
    pub(crate) fn clear_request(&self) {
        self.requested.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Stops the store for good after a failed write or sync; returns what callers are told.
    pub(crate) fn poison(&self, error: &Error) -> Error {
        self.poison_because(error.to_string())
    }

    /// Stops the store for good, for a reason that is none of its own.
    pub(crate) fn stop(&self, cause: String) {
        let _ = self.poison_because(cause);
    }

    fn poison_because(&self, cause: String) -> Error {
        if self.poison.set(cause.clone()).is_ok() {
            tracing::error!(cause, "the store stops");
            self.wake_all();
        }
        Error::Poisoned { cause: self.poison.get().cloned().unwrap_or(cause) }
    }

    /// Stops the store if the guard is dropped by a panic: what was under way is then half done.
    pub(crate) fn poison_if_unwinding(&self) -> PoisonIfUnwinding<'_> {
        PoisonIfUnwinding { log: self }
    }

    fn wake_all(&self) {
        drop(self.in_flight.lock().unwrap_or_else(PoisonError::into_inner));
        self.landed.notify_all();
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener();
        }
    }

    /// Drops what was appended and not written, and so the facets it holds.
    pub(crate) fn discard_buffers(&self) {
        for buffer in &self.buffers {
            *buffer.lock().unwrap_or_else(PoisonError::into_inner) = Buffer::default();
        }
    }
}

/// See [`Log::poison_if_unwinding`].
#[derive(Debug)]
pub(crate) struct PoisonIfUnwinding<'a> {
    log: &'a Log,
}

impl Drop for PoisonIfUnwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.poison_because("a panic in the storage engine".to_owned());
        }
    }
}

/// Room for a record, given back if it is not appended.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    log: &'a Log,
    bytes: usize,
    growth: Option<(&'a Segments, u64)>,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some((segments, growth)) = self.growth {
            segments.reserve_grown(growth);
        }
        self.log.buffered_bytes.fetch_sub(self.bytes, Ordering::Release);
    }
}

impl Lead<'_> {
    /// Takes what all buffers hold, writes and syncs it, publishes it, and wakes those who wait.
    pub(crate) fn flush(mut self, segments: &Segments) -> Result<()> {
        self.flush_in_lead(segments)
        // Dropping the lead lets the next one in and wakes everybody.
    }

    /// As [`flush`](Self::flush), keeping the lead: nothing becomes durable until it is dropped.
    pub(crate) fn flush_in_lead(&mut self, segments: &Segments) -> Result<()> {
        self.flush_buffers(segments, false)
    }

    /// As [`flush_in_lead`](Self::flush_in_lead), and what is appended from then on is of the next
    /// epoch.
    pub(crate) fn flush_for_cut(&mut self, segments: &Segments) -> Result<()> {
        self.flush_buffers(segments, true)
    }

    fn flush_buffers(&mut self, segments: &Segments, is_cut: bool) -> Result<()> {
        let _span = tracing::debug_span!("flush").entered();
        self.log.check_usable()?;
        let _unwinding = self.log.poison_if_unwinding();
        self.writer.flush(self.log, segments, is_cut).map_err(|error| self.log.poison(&error))
    }

    pub(crate) fn writer(&self) -> &LogWriter {
        &self.writer
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        *self.log.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.log.wake_all();
    }
}
