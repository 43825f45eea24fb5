//! What a closure has between BEGIN and the end that its result decides.

use std::cell::Cell;
use std::ops::Deref;

use rusqlite::{Connection, TransactionState};

use crate::alarms::Owner;
use crate::error::{HostError, Result};
use crate::isolation::transaction as statements;
use crate::writers::Writer;

/// A transaction on the writer connection of a facet: everything a [`Connection`] has, between a
/// BEGIN and an end that the closure's result decides.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// let balance = host
///     .facet("accounts/7")?
///     .transaction(|tx| {
///         tx.execute_batch("CREATE TABLE account(balance); INSERT INTO account VALUES (100)")?;
///         tx.kv().put("opened", "2026-01-01")?;
///         Ok(tx.query_row("SELECT balance FROM account", (), |row| row.get::<_, i64>(0))?)
///     })
///     .wait()?;
/// assert_eq!(balance, 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Transaction<'connection> {
    connection: &'connection Connection,
    owner: &'connection Owner,
    deletes_facet: Cell<bool>,
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl<'connection> Transaction<'connection> {
    pub(crate) fn new(writer: &'connection Writer) -> Self {
        Self { connection: writer, owner: writer.owner(), deletes_facet: Cell::new(false) }
    }

    /// Whose alarms it sets.
    pub(crate) fn owner(&self) -> &'connection Owner {
        self.owner
    }

    /// Runs `body` in a savepoint: `Ok` keeps what it did as part of the transaction, `Err` takes
    /// it back, and the transaction goes on. Savepoints can be nested to any depth.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("imports/7")?;
    /// facet.execute("CREATE TABLE row(n INTEGER PRIMARY KEY)", ()).wait()?;
    /// let refused = facet
    ///     .transaction(|tx| {
    ///         let insert = |n: i64| tx.savepoint(|tx| Ok(tx.execute("INSERT INTO row VALUES (?1)", [n])?));
    ///         Ok([1, 2, 2, 3].map(insert).iter().filter(|outcome| outcome.is_err()).count())
    ///     })
    ///     .wait()?;
    /// assert_eq!(refused, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of `body`, and of the statements that begin and end the savepoint.
    pub fn savepoint<T>(&self, body: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        statements::savepoint(self.connection)?;
        let deletes_facet = self.deletes_facet.get();
        match body(self) {
            Ok(value) => {
                statements::release(self.connection)?;
                Ok(value)
            }
            Err(error) => {
                self.deletes_facet.set(deletes_facet);
                // After some errors, such as a full disk, SQLite has rolled everything back itself.
                if !self.connection.is_autocommit() {
                    statements::rollback_to(self.connection)?;
                    statements::release(self.connection)?;
                }
                Err(error)
            }
        }
    }

    /// Has the facet deleted, with everything below it, when the closure returns `Ok`: in place of
    /// a commit, so at once and as a whole. The reply comes when that is durable. After an `Err`
    /// the facet stays.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let job = host.facet("jobs/1")?;
    /// job.execute_batch("CREATE TABLE result(n); INSERT INTO result VALUES (42)").wait()?;
    /// let last = job
    ///     .transaction(|tx| {
    ///         tx.delete_facet();
    ///         Ok(tx.query_row("SELECT n FROM result", (), |row| row.get::<_, i64>(0))?)
    ///     })
    ///     .wait()?;
    /// assert_eq!(last, 42);
    /// assert!(host.list(Some("jobs"), None, 1).wait()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_facet(&self) {
        self.deletes_facet.set(true);
    }

    pub(crate) fn deletes_facet(&self) -> bool {
        self.deletes_facet.get()
    }
}

/// What is to become of the facet after a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Stays,
    Deleted,
}

/// Runs `body` between BEGIN and COMMIT. After an error whatever is open is left to the caller to
/// roll back; so it is when the facet is to be deleted.
pub(crate) fn transact<T>(
    writer: &Writer,
    ended: impl FnOnce() -> HostError,
    body: impl FnOnce(&Transaction<'_>) -> Result<T>,
) -> Result<(T, After)> {
    statements::begin(writer)?;
    writer.owner().begin();
    let transaction = Transaction::new(writer);
    let value = body(&transaction)?;
    if writer.is_autocommit() {
        return Err(ended());
    }
    if transaction.deletes_facet() {
        statements::rollback(writer)?;
        return Ok((value, After::Deleted));
    }
    writer.owner().before_commit()?;
    statements::commit(writer)?;
    Ok((value, After::Stays))
}

/// Runs `body` between BEGIN and ROLLBACK. If it has written, the writer's guard is told.
pub(crate) fn read_only<T>(
    writer: &Writer,
    ended: impl FnOnce() -> HostError,
    body: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    statements::begin(writer)?;
    writer.guard.forbid_writes();
    let outcome = body(writer);
    if writer.is_autocommit() {
        return outcome.and_then(|_| Err(ended()));
    }
    if writer.transaction_state(Some("main"))? == TransactionState::Write {
        writer.guard.refuse_write();
    }
    statements::rollback(writer)?;
    outcome
}
