//! A write transaction: pages staged in the engine's writer, under a byte-stream view.

use lapidary_engine::{
    Error, Facet, HeldPages, PageSize, Result, Snapshot, Ticket, Version, Writer,
};

use super::pages;
use super::stamp::CacheStamp;
use super::write_ahead_log_refused;
use crate::error::{Failure, Operation};
use crate::file::{Filled, LockLevel};
use crate::header::{self, HEADER_BYTES, Header};

/// Page size of a facet whose first write does not tell one: SQLite's default.
const PAGE_BYTES_DEFAULT: usize = 4096;

/// What is known of the first bytes of the file, as the transaction leaves them.
#[derive(Debug)]
enum FileHeader {
    /// As in the base version.
    Untouched,
    /// Written whole.
    Written(Header),
    /// Changed in part: read again when needed.
    Changed,
}

/// What came of a commit.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) ticket: Ticket,
    pub(super) from: Version,
    pub(super) to: Version,
    /// The header, where the transaction wrote it.
    pub(super) header: Option<Header>,
}

/// A transaction that is ready for the commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    from: Version,
    header: Option<Header>,
}

/// Why a commit was not made.
#[derive(Debug)]
pub(super) enum CommitError {
    Engine(Error),
    /// The first page asks for a write-ahead log.
    WriteAheadLog,
}

impl CommitError {
    /// As SQLite is told.
    pub(super) fn failure(&self, facet: &Facet) -> Failure {
        match self {
            Self::Engine(error) => Failure::from_engine(Operation::Commit, error),
            Self::WriteAheadLog => write_ahead_log_refused(facet, Operation::Commit),
        }
    }
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// A handle's hold of a facet's one writer, for one transaction or, with
/// `locking_mode=EXCLUSIVE`, for several.
#[derive(Debug)]
pub(super) struct Transaction {
    writer: Writer,
    level: LockLevel,
    /// Bytes in the file as SQLite sees it: not always a whole number of pages.
    size_bytes: u64,
    header: FileHeader,
    journal_seen: bool,
    stamp_before: CacheStamp,
}

impl Transaction {
    pub(super) fn begin(writer: Writer, level: LockLevel, stamp: CacheStamp) -> Self {
        let size_bytes = pages::size_bytes(&writer);
        Self {
            writer,
            level,
            size_bytes,
            header: FileHeader::Untouched,
            journal_seen: false,
            stamp_before: stamp,
        }
    }

    pub(super) fn level(&self) -> LockLevel {
        self.level
    }

    pub(super) fn raise(&mut self, level: LockLevel) {
        self.level = self.level.max(level);
    }

    pub(super) fn base(&self) -> &Snapshot {
        self.writer.base()
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.writer.is_dirty()
    }

    /// Whether the start of the file is still that of the base version.
    pub(super) fn header_is_base(&self) -> bool {
        matches!(self.header, FileHeader::Untouched)
    }

    pub(super) fn stamp_before(&self) -> CacheStamp {
        self.stamp_before
    }

    /// Whether the rollback journal was seen open since the transaction's first write.
    pub(super) fn journal_seen(&self) -> bool {
        self.journal_seen
    }

    pub(super) fn set_journal_seen(&mut self) {
        self.journal_seen = true;
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<Filled> {
        pages::read(&self.writer, self.size_bytes, offset, into)
    }

    /// See [`pages::fetch`].
    pub(super) fn fetch<'a>(
        &self,
        held: &'a mut HeldPages,
        offset: u64,
        length: usize,
    ) -> Option<&'a [u8]> {
        // A length that ends within the last page is that of the file, not of what is staged.
        let end = offset.checked_add(length as u64)?;
        if end > self.size_bytes {
            return None;
        }
        pages::fetch(&self.writer, held, offset, length)
    }

    /// Stages `bytes`. On error nothing is staged any more: a write that fails is never followed
    /// by a commit, but by a ROLLBACK's replay, or by the pager's error state and an unlock.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let page_size = self.page_size_for(bytes.len())?;
        pages::write(&mut self.writer, page_size, offset, bytes).inspect_err(|_| self.discard())?;
        self.size_bytes = self.size_bytes.max(offset + bytes.len() as u64);
        if offset < HEADER_BYTES as u64 {
            self.header = match bytes.first_chunk::<HEADER_BYTES>() {
                Some(header) if offset == 0 => FileHeader::Written(*header),
                _ => FileHeader::Changed,
            };
        }
        Ok(())
    }

    /// Makes the file `size_bytes` long; on error as [`write`](Self::write).
    pub(super) fn truncate(&mut self, size_bytes: u64) -> Result<()> {
        if size_bytes == self.size_bytes {
            return Ok(());
        }
        let page_size = self.page_size_for(PAGE_BYTES_DEFAULT)?;
        pages::truncate(&mut self.writer, page_size, size_bytes).inspect_err(|_| self.discard())?;
        self.size_bytes = size_bytes;
        if size_bytes < HEADER_BYTES as u64 {
            self.header = FileHeader::Changed;
        }
        Ok(())
    }

    /// The facet's page size; an empty facet gets that of its first write.
    fn page_size_for(&mut self, write_bytes: usize) -> Result<PageSize> {
        if let Some(page_size) = self.writer.page_size() {
            return Ok(page_size);
        }
        let page_size = PageSize::from_bytes(write_bytes)
            .or(PageSize::from_bytes(PAGE_BYTES_DEFAULT))
            .unwrap_or(PageSize::MIN);
        self.writer.set_page_size(page_size)?;
        Ok(page_size)
    }

    /// Commits what is staged; on error nothing is committed and nothing is staged any more.
    pub(super) fn commit(&mut self, log_buffer: usize) -> Result<Committed, CommitError> {
        let committed = self.try_commit(log_buffer);
        if committed.is_err() {
            self.discard();
        }
        committed
    }

    fn try_commit(&mut self, log_buffer: usize) -> Result<Committed, CommitError> {
        let sealed = self.seal()?;
        let ticket = self.writer.commit(log_buffer)?;
        Ok(self.end(sealed, ticket))
    }

    /// What was sealed is committed: the next transaction of the same writer begins.
    pub(super) fn end(&mut self, sealed: Sealed, ticket: Ticket) -> Committed {
        let Sealed { from, header } = sealed;
        let to = self.writer.base().version();
        self.start_over();
        Committed { ticket, from, to, header }
    }

    /// As [`seal`](Self::seal), where SQLite cuts off the end of a file that shrank only after the
    /// commit: the header says already how long it is to be.
    pub(super) fn seal_in_group(&mut self) -> Result<Sealed, CommitError> {
        let sealed = self.seal()?;
        if let Some(pages) = sealed.header.as_ref().and_then(header::page_count)
            && pages < self.writer.page_count()
        {
            self.writer.set_page_count(pages)?;
        }
        Ok(sealed)
    }

    /// Makes what is staged ready for the commit.
    fn seal(&mut self) -> Result<Sealed, CommitError> {
        let header = match std::mem::replace(&mut self.header, FileHeader::Untouched) {
            FileHeader::Untouched => None,
            FileHeader::Written(header) => Some(header),
            FileHeader::Changed => {
                let mut header = [0; HEADER_BYTES];
                self.read(0, &mut header)?;
                Some(header)
            }
        };
        if let Some(header) = &header {
            if header::is_wal(header) {
                return Err(CommitError::WriteAheadLog);
            }
            // SQLite changes a database's page size (VACUUM, a copy over it) by writing the same
            // bytes in pieces of the old size. The header says what they have become.
            if let Some(page_size) = header::page_size(header)
                && Some(page_size) != self.writer.page_size()
            {
                self.writer.rechunk(page_size, self.size_bytes)?;
            }
        }
        Ok(Sealed { from: self.writer.base().version(), header })
    }

    /// What is staged, to be committed together with others' after
    /// [`seal_in_group`](Self::seal_in_group); [`end`](Self::end) follows.
    pub(super) fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The next transaction of the same writer starts with `stamp`.
    pub(super) fn set_stamp_before(&mut self, stamp: CacheStamp) {
        self.stamp_before = stamp;
    }

    /// Gives up what is staged.
    pub(super) fn discard(&mut self) {
        self.writer.discard();
        self.start_over();
    }

    fn start_over(&mut self) {
        self.size_bytes = pages::size_bytes(&self.writer);
        self.header = FileHeader::Untouched;
        self.journal_seen = false;
    }
}
