//! What can go wrong in a host, and what the caller is to do about it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{ErrorKind, FacetName, Store};
use lapidary_vfs::VfsError;
use rusqlite::{ErrorCode, ffi};

use crate::alarms::{ALARM_NAME_BYTES_MAX, ALARM_PAYLOAD_BYTES_MAX};
use crate::files::FileError;
use crate::kv::{KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX};

/// Result of a host operation.
pub type Result<T, E = HostError> = std::result::Result<T, E>;

/// What a caller can do about a [`HostError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostErrorKind {
    /// Somebody else was in the way, the mailbox was full, or what a page is fetched from does not answer:
    /// nothing was done, try again.
    Retry,
    /// The thing named does not exist.
    NotFound,
    /// The thing named exists already.
    AlreadyExists,
    /// The thing named is in another store, or on its way there: ask there.
    Moved,
    /// The request or a setting is at fault; the same request will fail again.
    InvalidInput,
    /// SQLite refused the statement or its values (syntax, constraint, type): nothing was changed.
    Statement,
    /// The facet's [`Isolation`](crate::Isolation), or the kind of transaction, does not allow the
    /// statement: nothing was done.
    NotAllowed,
    /// The call used more than the facet's [`Isolation`](crate::Isolation) grants: it was rolled back.
    BudgetExceeded,
    /// The closure asked for it, or panicked, or its facet was aborted: its transaction was rolled
    /// back.
    Aborted,
    /// The disk, or a limit set on the store, is full: free space, then try again.
    NoSpace,
    /// The store or a core stopped: shut the host down and open it again, which recovers everything
    /// that was acknowledged. Whether the failed call's own changes survive shows then.
    Reopen,
    /// Stored bytes are not what was written: keep the files, restore from a backup.
    Corruption,
    /// The operating system refused an operation.
    Io,
    /// The host was shut down: nothing was done.
    Closed,
}

/// An error of the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// SQLite reported an error.
    #[error("{}{source}{}", In(.facet.as_ref()), Detail(.detail.as_deref()))]
    Sql {
        /// The facet; `None` until the host has added it to an error made inside a closure.
        facet: Option<FacetName>,
        /// The error.
        source: rusqlite::Error,
        /// The cause in the store, where SQLite's result code has lost it.
        detail: Option<Box<str>>,
    },
    /// The store reported an error.
    #[error(transparent)]
    Store(#[from] lapidary_engine::Error),
    /// The bucket that the store is kept in.
    #[cfg(feature = "bucket")]
    #[error(transparent)]
    Bucket(#[from] crate::bucket::BucketError),
    /// The store could not be registered with SQLite.
    #[error(transparent)]
    Vfs(#[from] VfsError),
    /// A SQLite file could not be imported, exported or salvaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// A move to another store, or from one, cannot go on.
    #[error(transparent)]
    Move(#[from] crate::moves::MoveError),
    /// A closure gave its transaction up with [`HostError::abort`]; it was rolled back.
    #[error("{}aborted by the caller: {source}", In(.facet.as_ref()))]
    Aborted {
        /// The facet.
        facet: Option<FacetName>,
        /// The closure's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The facet's [`Isolation`](crate::Isolation) does not allow a statement.
    #[error(
        "facet {facet}: {what}: not allowed by the isolation of this facet; leave it out, or allow it \
         with `Host::set_isolation`"
    )]
    NotAllowed {
        /// The facet.
        facet: FacetName,
        /// What was refused.
        what: String,
    },
    /// The closure of a [`read_transaction`](crate::FacetHandle::read_transaction) changed something;
    /// it was rolled back.
    #[error(
        "facet {facet}: a statement of a read transaction writes; it was rolled back, use `transaction`"
    )]
    ReadTransactionWrites {
        /// The facet.
        facet: FacetName,
    },
    /// A call used more than the facet's [`Isolation`](crate::Isolation) grants. What it had not
    /// committed was rolled back; later calls start afresh.
    #[error(
        "{}the call exceeded its budget of {budget} and was rolled back; ask for less in one call, or \
         raise the budget with `Host::set_isolation`", In(.facet.as_ref())
    )]
    BudgetExceeded {
        /// The facet.
        facet: Option<FacetName>,
        /// Which budget.
        budget: Budget,
    },
    /// The facet has used up a budget, and rests
    /// ([`Isolation::overrun_rest`](crate::Isolation::overrun_rest)).
    #[error(
        "facet {facet}: a call has used up its budget, and the facet rests for {left:?} more; nothing was \
         done: try again then"
    )]
    Resting {
        /// The facet.
        facet: FacetName,
        /// How long it rests.
        left: Duration,
    },
    /// The facet, or one above it, was [aborted](crate::Host::abort) after the call was made.
    #[error(
        "facet {facet}: aborted: {reason}; its storage is kept, and the next call starts it anew"
    )]
    FacetAborted {
        /// The facet.
        facet: FacetName,
        /// Why, as the one who aborted it says.
        reason: String,
    },
    /// A step of a [`Schema`](crate::Schema) failed; nothing was changed.
    #[error(
        "facet {facet}: the step to schema version {version} failed, nothing was changed: {source}"
    )]
    Migration {
        /// The facet.
        facet: FacetName,
        /// The version that the step leads to.
        version: u32,
        /// What went wrong in it.
        source: Box<HostError>,
    },
    /// The facet is ahead of the [`Schema`](crate::Schema) of the call.
    #[error(
        "facet {facet}: its schema is at version {found}, this program knows {known}; use the \
         program that wrote it, or a later one"
    )]
    SchemaTooNew {
        /// The facet.
        facet: FacetName,
        /// Its version.
        found: u32,
        /// The version of the call's schema.
        known: u32,
    },
    /// A key of [`Kv`](crate::Kv) is out of bounds.
    #[error(
        "{}the key has {bytes} bytes; keys have 1 to {}", In(.facet.as_ref()), KV_KEY_BYTES_MAX
    )]
    KvKey {
        /// The facet.
        facet: Option<FacetName>,
        /// Bytes of the key.
        bytes: usize,
    },
    /// A value of [`Kv`](crate::Kv) is out of bounds.
    #[error(
        "{}the value has {bytes} bytes, the most is {}; keep it in a table of your own or in parts",
        In(.facet.as_ref()), KV_VALUE_BYTES_MAX
    )]
    KvValue {
        /// The facet.
        facet: Option<FacetName>,
        /// Bytes of the value.
        bytes: usize,
    },
    /// The name of an [alarm](crate::Alarms) is out of bounds.
    #[error(
        "{}the alarm's name has {bytes} bytes; names have 1 to {}", In(.facet.as_ref()),
        ALARM_NAME_BYTES_MAX
    )]
    AlarmName {
        /// The facet.
        facet: Option<FacetName>,
        /// Bytes of the name.
        bytes: usize,
    },
    /// The payload of an [alarm](crate::Alarms) is out of bounds.
    #[error(
        "{}the alarm's payload has {bytes} bytes, the most is {}; keep it in a table and name it here",
        In(.facet.as_ref()), ALARM_PAYLOAD_BYTES_MAX
    )]
    AlarmPayload {
        /// The facet.
        facet: Option<FacetName>,
        /// Bytes of the payload.
        bytes: usize,
    },
    /// A closure panicked; its transaction was rolled back and the core went on.
    #[error("facet {facet}: the closure panicked: {message}; its transaction was rolled back")]
    Panicked {
        /// The facet.
        facet: FacetName,
        /// What the panic said.
        message: String,
    },
    /// A change of the catalog, or a question about it, ran into a defect of the library.
    #[error(
        "{}internal error, please report it: {message}; the outcome of this call is unknown: shut \
         the host down and open it again", In(.facet.as_ref())
    )]
    Defect {
        /// The facet named by the call, if any.
        facet: Option<FacetName>,
        /// What the panic said.
        message: String,
    },
    /// Facets that were named for one transaction cannot have one.
    #[error("facet {facet}: {reason}")]
    NotTogether {
        /// The first that does not fit.
        facet: FacetName,
        /// What is wrong, and what is right.
        reason: &'static str,
    },
    /// The commit that the call shared with others of its facet failed, and all of them with it: see
    /// [`FacetHandle::coalesced`](crate::FacetHandle::coalesced).
    #[error("the commit that this call shared with others failed, nothing was done: {source}")]
    SharedCommit {
        /// What went wrong.
        source: Arc<HostError>,
    },
    /// A call that came later ended the transaction that this one shared with it, by an interruption or
    /// by SQL of its own: see [`FacetHandle::coalesced`](crate::FacetHandle::coalesced).
    #[error(
        "facet {facet}: another call ended the transaction that this one shared with it; nothing was \
         done: try again"
    )]
    SharedTransactionLost {
        /// The facet.
        facet: FacetName,
    },
    /// SQL inside [`FacetHandle::transaction`](crate::FacetHandle::transaction) ended the
    /// transaction itself.
    #[error(
        "facet {facet}: SQL inside the transaction ended it (COMMIT, ROLLBACK, or a conflict clause \
         ROLLBACK); let the closure's result decide instead"
    )]
    TransactionEnded {
        /// The facet.
        facet: FacetName,
    },
    /// A call that is not a transaction left one open; it was rolled back.
    #[error(
        "facet {facet}: the call left a transaction open, which was rolled back; use `transaction`"
    )]
    TransactionLeftOpen {
        /// The facet.
        facet: FacetName,
    },
    /// The call ran, but a write or sync failed before what it observed was durable.
    #[error(
        "{}the store stopped before this call was durable ({cause}); it may be lost: shut the host \
         down and open it again to see", In(.facet.as_ref())
    )]
    NotDurable {
        /// The facet.
        facet: Option<FacetName>,
        /// The first failure.
        cause: String,
    },
    /// The core's mailbox is full and [`MailboxFull::Error`](crate::MailboxFull::Error) was asked
    /// for.
    #[error(
        "{}core {core} has {calls_max} calls waiting, its most; nothing was done: try again later",
        In(.facet.as_ref())
    )]
    MailboxFull {
        /// The facet.
        facet: Option<FacetName>,
        /// The core.
        core: usize,
        /// Calls its mailbox holds.
        calls_max: usize,
    },
    /// The facet has its most calls waiting and
    /// [`MailboxFull::Error`](crate::MailboxFull::Error) was asked for.
    #[error(
        "facet {facet}: it has {calls_max} calls waiting, its most; nothing was done: try again later"
    )]
    FacetBusy {
        /// The facet.
        facet: FacetName,
        /// Calls of it that may wait.
        calls_max: usize,
    },
    /// A core's own thread was to block on a call, which it could be the one to run.
    #[error(
        "{}a closure running on a core may not block on another call; make that call from outside, \
         or use `read`", In(.facet.as_ref())
    )]
    WaitOnCore {
        /// The facet of the call waited for.
        facet: Option<FacetName>,
    },
    /// The host was shut down before the call ran.
    #[error("{}the host was shut down before this call ran; open it again", In(.facet.as_ref()))]
    Closed {
        /// The facet.
        facet: Option<FacetName>,
    },
    /// A core's thread ended on a defect of the library.
    #[error(
        "{}core {core} stopped unexpectedly, the outcome of this call is unknown: shut the host \
         down, open it again, and report what the log says", In(.facet.as_ref())
    )]
    CoreLost {
        /// The facet.
        facet: Option<FacetName>,
        /// The core.
        core: usize,
    },
    /// The process is a fork(2) child of the one that opened the host.
    #[error(
        "the host belongs to process {opened_by}, of which this process is a fork: use it there, or \
         open a store of its own here"
    )]
    Forked {
        /// Process that opened the host.
        opened_by: u32,
    },
    /// A core did not finish its calls in time.
    #[error(
        "cores {cores:?} were still busy after {waited:?} of shutdown; the store stays open until \
         they end: look for a closure that does not return"
    )]
    ShutdownTimeout {
        /// The cores.
        cores: Vec<usize>,
        /// How long shutdown waited.
        waited: Duration,
    },
    /// A core's thread could not be started.
    #[error("the thread of core {core} could not be started: {source}; use fewer cores")]
    Spawn {
        /// The core.
        core: usize,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A thread of the host's, other than a core's, could not be started.
    #[error("the thread {name} could not be started: {source}; the host goes on without it")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A setting is out of its range.
    #[error("setting {setting}: {reason}")]
    InvalidSetting {
        /// Its name.
        setting: &'static str,
        /// What is wrong, and what is right.
        reason: &'static str,
    },
}

impl HostError {
    /// For closures: gives the transaction up for a reason of the caller's own.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// #[derive(Debug, thiserror::Error)]
    /// #[error("only {left} left")]
    /// struct Overdrawn {
    ///     left: i64,
    /// }
    ///
    /// let account = host.facet("accounts/7")?;
    /// let refused = account.transaction(|_| Err::<(), _>(HostError::abort(Overdrawn { left: 3 }))).wait();
    /// let Err(HostError::Aborted { source, .. }) = refused else { panic!("{refused:?}") };
    /// assert_eq!(source.downcast_ref::<Overdrawn>().map(|overdrawn| overdrawn.left), Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn abort(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Aborted { facet: None, source: reason.into() }
    }

    /// What the caller can do.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// facet.execute("CREATE TABLE t(x UNIQUE)", ()).wait()?;
    /// let insert = || facet.execute("INSERT INTO t VALUES (1)", ()).wait();
    /// insert()?;
    /// match insert().unwrap_err() {
    ///     error if error.kind() == HostErrorKind::Retry => { /* later again */ }
    ///     error if error.kind() == HostErrorKind::Statement => println!("refused: {error}"),
    ///     error => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> HostErrorKind {
        match self {
            Self::Sql { source, .. } => sql_kind(source),
            Self::Store(error) => store_kind(error),
            #[cfg(feature = "bucket")]
            Self::Bucket(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Move(error) => error.kind(),
            Self::NotAllowed { .. } | Self::ReadTransactionWrites { .. } => {
                HostErrorKind::NotAllowed
            }
            Self::BudgetExceeded { .. } => HostErrorKind::BudgetExceeded,
            Self::Migration { source, .. } => source.kind(),
            Self::SharedCommit { source } => source.kind(),
            Self::Vfs(_)
            | Self::SchemaTooNew { .. }
            | Self::KvKey { .. }
            | Self::KvValue { .. }
            | Self::AlarmName { .. }
            | Self::AlarmPayload { .. }
            | Self::NotTogether { .. }
            | Self::TransactionEnded { .. }
            | Self::TransactionLeftOpen { .. }
            | Self::WaitOnCore { .. }
            | Self::Forked { .. }
            | Self::InvalidSetting { .. } => HostErrorKind::InvalidInput,
            Self::Aborted { .. } | Self::Panicked { .. } | Self::FacetAborted { .. } => {
                HostErrorKind::Aborted
            }
            Self::NotDurable { .. } | Self::CoreLost { .. } | Self::Defect { .. } => {
                HostErrorKind::Reopen
            }
            Self::MailboxFull { .. }
            | Self::FacetBusy { .. }
            | Self::SharedTransactionLost { .. }
            | Self::Resting { .. }
            | Self::ShutdownTimeout { .. } => HostErrorKind::Retry,
            Self::Closed { .. } => HostErrorKind::Closed,
            Self::Spawn { .. } | Self::Thread { .. } => HostErrorKind::Io,
        }
    }

    /// The error of one of several calls whose commit failed for `cause`.
    pub(crate) fn of_shared_commit(cause: &Arc<Self>) -> Self {
        match &**cause {
            Self::FacetAborted { facet, reason } => {
                Self::FacetAborted { facet: facet.clone(), reason: reason.clone() }
            }
            Self::SharedTransactionLost { facet } => {
                Self::SharedTransactionLost { facet: facet.clone() }
            }
            _ => Self::SharedCommit { source: Arc::clone(cause) },
        }
    }

    /// The error of SQLite, if it is one.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// use lapidary::rusqlite::ErrorCode;
    ///
    /// let error = host.facet("a")?.execute("INSERT INTO nowhere VALUES (1)", ()).wait().unwrap_err();
    /// let code = error.sqlite_error().and_then(|error| error.sqlite_error_code());
    /// assert_eq!(code, Some(ErrorCode::Unknown)); // SQLITE_ERROR
    /// assert!(error.to_string().contains("no such table: nowhere"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn sqlite_error(&self) -> Option<&rusqlite::Error> {
        match self {
            Self::Sql { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Adds the facet to an error made where it was not known.
    pub(crate) fn within(mut self, name: &FacetName) -> Self {
        if let Self::Sql { facet, source, detail } = &mut self {
            facet.get_or_insert_with(|| name.clone());
            if detail.is_none() && store_is_the_cause(source) {
                *detail = lapidary_vfs::take_last_error().map(String::into_boxed_str);
            }
        } else if let Self::Aborted { facet, .. }
        | Self::BudgetExceeded { facet, .. }
        | Self::KvKey { facet, .. }
        | Self::KvValue { facet, .. }
        | Self::AlarmName { facet, .. }
        | Self::AlarmPayload { facet, .. } = &mut self
        {
            facet.get_or_insert_with(|| name.clone());
        }
        self
    }

    /// If the store has stopped, that is the error, rather than what SQLite made of it.
    pub(crate) fn or_stopped(self, store: &Store) -> Self {
        match store.is_durable(store.current_ticket()) {
            Err(stopped) if self.is_store_failure() => Self::Store(stopped),
            _ => self,
        }
    }

    /// Whether SQLite reported a failure of the store below it, rather than of the statement.
    pub(crate) fn is_store_failure(&self) -> bool {
        match self {
            Self::Sql { source, .. } => store_is_the_cause(source),
            Self::Migration { source, .. } => source.is_store_failure(),
            _ => false,
        }
    }

    /// Whether the authorizer refused a statement. Of a function SQLite says so in words alone.
    pub(crate) fn is_refusal(&self) -> bool {
        let Self::Sql { source, .. } = self else { return false };
        source.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied)
            || source.to_string().contains("not authorized")
    }

    /// Whether the connection that it came from is not to be used again: a lock that is taken means a
    /// snapshot that is old; after a failure of the store its cache is not to be trusted; one that ran out
    /// of memory gives back what it has.
    pub(crate) fn spoils_connection(&self) -> bool {
        self.is_busy() || self.is_store_failure() || self.is_out_of_memory()
    }

    /// Whether a call was refused memory.
    fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::BudgetExceeded { budget: Budget::Memory(_), .. })
    }

    /// Whether SQLite could not take a lock.
    fn is_busy(&self) -> bool {
        match self {
            Self::Sql { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseBusy))
            }
            Self::Migration { source, .. } => source.is_busy(),
            _ => false,
        }
    }
}

/// What an [`Isolation`](crate::Isolation) grants to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Budget {
    /// Wall time on its thread.
    Time(Duration),
    /// VM steps of SQLite.
    Steps(u64),
    /// Rows of its result.
    ResultRows(u64),
    /// Bytes of its result.
    ResultBytes(u64),
    /// Bytes by which SQLite's memory grew.
    Memory(u64),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "{time:?}"),
            Self::Steps(steps) => write!(f, "{steps} VM steps"),
            Self::ResultRows(rows) => write!(f, "{rows} rows"),
            Self::Memory(bytes) => write!(f, "{bytes} bytes of memory"),
            Self::ResultBytes(bytes) => write!(f, "{bytes} bytes of result"),
        }
    }
}

impl From<rusqlite::Error> for HostError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sql { facet: None, source, detail: None }
    }
}

fn store_is_the_cause(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::DatabaseBusy
        )
    )
}

/// What the caller can do about an error of the store.
pub(crate) fn store_kind(error: &lapidary_engine::Error) -> HostErrorKind {
    match error.kind() {
        ErrorKind::Busy | ErrorKind::Unavailable => HostErrorKind::Retry,
        ErrorKind::NotFound => HostErrorKind::NotFound,
        ErrorKind::AlreadyExists => HostErrorKind::AlreadyExists,
        ErrorKind::Moved => HostErrorKind::Moved,
        ErrorKind::InvalidInput => HostErrorKind::InvalidInput,
        ErrorKind::NoSpace => HostErrorKind::NoSpace,
        ErrorKind::Reopen => HostErrorKind::Reopen,
        ErrorKind::Corruption => HostErrorKind::Corruption,
        _ => HostErrorKind::Io,
    }
}

fn sql_kind(error: &rusqlite::Error) -> HostErrorKind {
    // Damage comes as an I/O error, since SQLite passes on nothing else of what a file says of itself.
    let code = error.sqlite_error().map(|error| error.extended_code);
    if matches!(code, Some(ffi::SQLITE_IOERR_DATA | ffi::SQLITE_IOERR_CORRUPTFS)) {
        return HostErrorKind::Corruption;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => HostErrorKind::Retry,
        Some(ErrorCode::CannotOpen) => HostErrorKind::NotFound,
        Some(ErrorCode::DiskFull) => HostErrorKind::NoSpace,
        Some(ErrorCode::SystemIoFailure) if code == Some(ffi::SQLITE_IOERR_BLOCKED) => {
            HostErrorKind::Retry
        }
        Some(ErrorCode::SystemIoFailure) => HostErrorKind::Io,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => HostErrorKind::Corruption,
        _ => HostErrorKind::Statement,
    }
}

struct In<'a>(Option<&'a FacetName>);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |facet| write!(f, "facet {facet}: "))
    }
}

struct Detail<'a>(Option<&'a str>);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}
