//! Calls on one database.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use lapidary_engine::{FacetName, Ticket};
use rusqlite::{Connection, Params, Row};

use crate::abort::Epoch;
use crate::call::{Call, Target};
use crate::core_thread::Core;
use crate::error::{HostError, Result};
use crate::isolation::count_row;
use crate::schema::Schema;
use crate::shared::Shared;
use crate::terms::Terms;
use crate::transaction::{Transaction, read_only};
use crate::writers::Writer;

/// A way to one facet, by name. Cheap to make and to clone; it holds nothing open.
///
/// `execute`, `execute_batch`, `query`, `transaction` and `run` go to the facet's core and run there
/// one after the other, on the facet's writer connection; they see everything that ran before them.
/// A facet that does not exist is created by the first of them. [`read`](Self::read) runs on the
/// calling thread and sees what is durable.
///
/// A handle stands for the name: after a deletion or renaming it stands for the facet that has the
/// name then, and a call that runs on a core creates one.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// let facet = host.facet("agents/42")?;
/// let same = facet.clone();
/// std::thread::spawn(move || same.execute("CREATE TABLE note(body)", ()).wait()).join().unwrap()?;
/// assert_eq!(facet.name().as_str(), "agents/42");
/// assert!(facet.query("SELECT body FROM note", (), |_| Ok(())).wait()?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct FacetHandle {
    pub(crate) name: FacetName,
    pub(crate) target: Arc<Target>,
    schema: Option<Schema>,
    unconfirmed: bool,
    coalesced: bool,
    pub(crate) terms: Terms,
}

/// What a call brings along to where it runs.
pub(crate) struct Start {
    /// When the call was made.
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) schema: Option<Schema>,
}

impl FacetHandle {
    pub(crate) fn new(name: FacetName, target: Arc<Target>) -> Self {
        let coalesced = target.host.coalesce_writes;
        let terms = Terms::default();
        Self { name, target, schema: None, unconfirmed: false, coalesced, terms }
    }

    /// A handle whose calls on the core find the facet at the version of `schema`: before the first
    /// of them after a start, the steps that are missing run, all in one transaction. If one fails,
    /// so does the call, with [`HostError::Migration`](crate::HostError::Migration), and nothing is changed; a facet that is
    /// ahead of `schema` is refused with [`HostError::SchemaTooNew`](crate::HostError::SchemaTooNew).
    ///
    /// [`read`](Self::read) runs no steps: it sees what is there.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError, Schema};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let first = Schema::new().sql("CREATE TABLE note(body TEXT NOT NULL)");
    /// let agent = host.facet("agents/42")?;
    /// agent.with_schema(&first).execute("INSERT INTO note VALUES ('hello')", ()).wait()?;
    ///
    /// // A later version of the program: the step that is missing runs when the facet is next used.
    /// let second = first.clone().step(|tx| {
    ///     tx.execute_batch("ALTER TABLE note ADD COLUMN length INTEGER")?;
    ///     tx.execute("UPDATE note SET length = length(body)", ())?;
    ///     Ok(())
    /// });
    /// let length = agent
    ///     .with_schema(&second)
    ///     .query("SELECT length FROM note", (), |row| row.get::<_, i64>(0))
    ///     .wait()?;
    /// assert_eq!(length, [5]);
    /// // The earlier version is refused from then on.
    /// let behind = agent.with_schema(&first).execute("DELETE FROM note", ()).wait();
    /// assert!(matches!(behind, Err(HostError::SchemaTooNew { found: 2, known: 1, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_schema(&self, schema: &Schema) -> Self {
        Self { schema: Some(schema.clone()), ..self.clone() }
    }

    /// A handle whose calls on the core are answered at once, before what they did and saw is
    /// durable: a crash may take it. Their replies say nothing about the order of what becomes
    /// durable, except that of one facet's calls a crash takes the last ones. [`sync`](Self::sync)
    /// waits for all of them.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("sensors/1")?;
    /// facet.execute("CREATE TABLE sample(value)", ()).wait()?;
    /// let fast = facet.unconfirmed();
    /// for value in 0..100 {
    ///     fast.execute("INSERT INTO sample VALUES (?1)", [value]).wait()?;
    /// }
    /// facet.sync().wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unconfirmed(&self) -> Self {
        Self { unconfirmed: true, ..self.clone() }
    }

    /// A handle whose calls are answered when `when` says, whatever
    /// [`HostConfig::acknowledge`](crate::HostConfig::acknowledge) says; also those of
    /// [`read`](Self::read) and of what else reads on the calling thread. Each reply keeps to its own
    /// call's condition, so one that is answered [`Locally`](crate::bucket::Acknowledge::Locally) can tell
    /// of what another call, which waits for the bucket, has written.
    ///
    /// Calls of the [`Host`](crate::Host) itself, such as `fork`, `rename`, `delete` and
    /// `transaction_over`, keep to the host's condition; [`sync`](Self::sync) of such a handle waits for
    /// all that was done before. Of a host that has no bucket, calls that are to wait for it fail with
    /// [`InvalidInput`](crate::HostErrorKind::InvalidInput). A call that is
    /// [unconfirmed](Self::unconfirmed) waits for neither. With the feature `bucket`.
    ///
    /// ```
    /// # use lapidary::bucket::{Acknowledge, Bucket, BucketSettings, Objects, RemoteObjects, Watch};
    /// # use lapidary::{Environment, Host, HostConfig};
    /// # use std::sync::Arc;
    /// # let directory = tempfile::tempdir()?;
    /// # let url = format!("file://{}/bucket", directory.path().display());
    /// # let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url)?);
    /// # let local = Environment::system(directory.path().join("store"));
    /// # let bucket = Bucket::attach(&objects, &local, BucketSettings::default(), &mut Watch::default())?;
    /// # let host = Host::open_from_bucket(bucket, HostConfig::new())?;
    /// let account = host.facet("accounts/7")?;
    /// account.execute("CREATE TABLE entry(amount)", ()).wait()?; // on the local disk
    /// let surely = account.acknowledge(Acknowledge::InBucket);
    /// surely.execute("INSERT INTO entry VALUES (100)", ()).wait()?; // in the bucket, with all before
    /// # host.shutdown()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "bucket")]
    #[must_use]
    pub fn acknowledge(&self, when: crate::bucket::Acknowledge) -> Self {
        let terms = Terms { acknowledge: Some(when) };
        Self { unconfirmed: false, terms, ..self.clone() }
    }

    /// A handle whose calls of [`execute`](Self::execute), [`query`](Self::query) and
    /// [`transaction`](Self::transaction), and what is built on these, share a commit with those that
    /// wait for the facet's turn at the same time, up to [`COALESCED_CALLS_MAX`](crate::COALESCED_CALLS_MAX)
    /// in a row; or one with commits of its own, which is the default unless
    /// [`HostConfig::coalesce_writes`](crate::HostConfig::coalesce_writes) says otherwise. It saves most
    /// of the processor's time for a small write, and of the bytes written.
    ///
    /// Each call is in a savepoint of its own: one that fails or panics is rolled back alone. Each reply
    /// waits for the commit. If that fails, all fail with
    /// [`HostError::SharedCommit`](crate::HostError::SharedCommit), and nothing was done. So it is with
    /// constraints that are deferred to the commit. A call that is interrupted in a write, by its budget
    /// or an abort, or whose SQL ends the transaction, takes those before it in the same commit along:
    /// they fail with [`HostError::SharedTransactionLost`](crate::HostError::SharedTransactionLost), to
    /// be tried again.
    ///
    /// `execute` runs in a transaction then, so it does not take what cannot run in one.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("counters/1")?;
    /// facet.execute("CREATE TABLE hit(at)", ()).wait()?;
    /// let many = facet.coalesced(true);
    /// let calls: Vec<_> =
    ///     (0..100).map(|n| many.execute("INSERT INTO hit VALUES (?1)", [n])).collect();
    /// for call in calls {
    ///     assert_eq!(call.wait()?, 1);
    /// }
    /// assert!(host.meter("counters/1")?.commits <= 101);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn coalesced(&self, coalesced: bool) -> Self {
        Self { coalesced, ..self.clone() }
    }

    /// Replies when everything that ran on the facet before it is durable, also what was not
    /// [confirmed](Self::unconfirmed).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let sensor = host.facet("sensors/1")?;
    /// let fast = sensor.unconfirmed();
    /// fast.execute("CREATE TABLE sample(value)", ()).wait()?;
    /// fast.execute("INSERT INTO sample VALUES (21.5)", ()).wait()?;
    /// // So far a crash could take both.
    /// sensor.sync().wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> Call<()> {
        self.target.call_on(self.terms, |core: &mut Core| core.on_catalog(&[], |_| Ok(())))
    }

    /// The facet's name.
    #[must_use]
    pub fn name(&self) -> &FacetName {
        &self.name
    }

    /// Number of the core that serves the facet now.
    #[must_use]
    pub fn core(&self) -> usize {
        self.target.core()
    }

    /// Runs one statement that returns no rows, in a transaction of its own, and tells how many rows
    /// it changed.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("tenants/acme")?;
    /// facet.execute("CREATE TABLE t(a, b)", ()).wait()?;
    /// assert_eq!(facet.execute("INSERT INTO t VALUES (?1, ?2)", (1, "one")).wait()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn execute<P>(&self, sql: impl Into<Cow<'static, str>>, params: P) -> Call<usize>
    where
        P: Params + Send + 'static,
    {
        let sql = sql.into();
        self.statement(move |connection| Ok(connection.prepare_cached(&sql)?.execute(params)?))
    }

    /// Runs statements one after the other, each in a transaction of its own unless they hold BEGIN
    /// and COMMIT; ends at the first error.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// facet.execute_batch("CREATE TABLE a(x); CREATE TABLE b(y); INSERT INTO a VALUES (1)").wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn execute_batch(&self, sql: impl Into<Cow<'static, str>>) -> Call<()> {
        let sql = sql.into();
        self.run(move |connection| Ok(connection.execute_batch(&sql)?))
    }

    /// Runs one statement and collects what `row` makes of each of its rows. It runs on the core,
    /// after all calls before it; see [`read`](Self::read) for reading without a turn there.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("tenants/acme")?;
    /// let sum = facet.query("SELECT ?1 + ?2", (40, 2), |row| row.get::<_, i64>(0)).wait()?;
    /// assert_eq!(sum, [42]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn query<T, P, F>(
        &self,
        sql: impl Into<Cow<'static, str>>,
        params: P,
        mut row: F,
    ) -> Call<Vec<T>>
    where
        T: Send + 'static,
        P: Params + Send + 'static,
        F: FnMut(&Row<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let sql = sql.into();
        self.statement(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params)?;
            let mut values = Vec::new();
            while let Some(found) = rows.next()? {
                count_row(found)?;
                values.push(row(found)?);
            }
            Ok(values)
        })
    }

    /// Runs `body` in a transaction: `Ok` commits, `Err` or a panic rolls back. `?` works on errors
    /// of SQLite; [`HostError::abort`](crate::HostError::abort) wraps the closure's own.
    ///
    /// The closure occupies the core, so it should not wait for anything.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("accounts/7")?;
    /// facet.execute("CREATE TABLE account(balance INTEGER NOT NULL)", ()).wait()?;
    /// facet.execute("INSERT INTO account VALUES (100)", ()).wait()?;
    /// let refused = facet
    ///     .transaction(|tx| {
    ///         tx.execute("UPDATE account SET balance = balance - 500", ())?;
    ///         let left: i64 = tx.query_row("SELECT balance FROM account", (), |row| row.get(0))?;
    ///         if left < 0 { Err(HostError::abort("overdrawn")) } else { Ok(left) }
    ///     })
    ///     .wait();
    /// assert_eq!(refused.unwrap_err().kind(), HostErrorKind::Aborted);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transaction<T, F>(&self, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let name = self.name.clone();
        let (start, unconfirmed, coalesced) = (self.start(), self.unconfirmed, self.coalesced);
        let work = move |core: &mut Core| {
            let (outcome, ticket) = core.join(&name, &start, body);
            (outcome, if unconfirmed { Ticket::DURABLE } else { ticket })
        };
        if coalesced {
            self.target.call_joining(self.terms, work)
        } else {
            self.target.call_on(self.terms, work)
        }
    }

    /// Runs `body`, which runs one statement.
    fn statement<T, F>(&self, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        if self.coalesced { self.transaction(|tx| body(tx)) } else { self.run(body) }
    }

    /// Runs `body` on the core, after all calls made before, in one transaction that changes nothing.
    /// Everything it reads is of one version, the newest, durable or not; the reply comes when that is
    /// durable. See [`read`](Self::read) for reading what is durable, on the calling thread.
    ///
    /// If `body` writes to the facet, that is rolled back, and the call fails with
    /// [`HostError::ReadTransactionWrites`](crate::HostError::ReadTransactionWrites), whatever `body`
    /// returns. Temporary tables are free.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("accounts/7")?;
    /// let _sent = facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (1), (2)");
    /// let (count, sum) = facet
    ///     .read_transaction(|connection| {
    ///         let count = connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?;
    ///         let sum = connection.query_row("SELECT sum(n) FROM t", (), |row| row.get(0))?;
    ///         Ok::<(i64, i64), HostError>((count, sum))
    ///     })
    ///     .wait()?;
    /// assert_eq!((count, sum), (2, 3));
    /// let writes = facet.read_transaction(|connection| Ok(connection.execute("DELETE FROM t", ())?));
    /// assert!(matches!(writes.wait(), Err(HostError::ReadTransactionWrites { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_transaction<T, F>(&self, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let name = self.name.clone();
        let (start, unconfirmed) = (self.start(), self.unconfirmed);
        self.target.call_on(self.terms, move |core: &mut Core| {
            let ended = || HostError::TransactionEnded { facet: name.clone() };
            let reading = |writer: &Writer| read_only(writer, ended, body);
            let (outcome, ticket) = core.on_facet(&name, &start, reading);
            (outcome, if unconfirmed { Ticket::DURABLE } else { ticket })
        })
    }

    /// Runs `body` on the writer connection outside a transaction, for what cannot run in one, such
    /// as `PRAGMA`. A transaction it leaves open is rolled back, with an error.
    ///
    /// `ATTACH` is refused on a host's connections, since it would reach a facet past the core in
    /// charge; so is `VACUUM`, which attaches a database to copy to. `PRAGMA incremental_vacuum`
    /// works.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// let pages = facet
    ///     .run(|connection| {
    ///         connection.execute_batch("CREATE TABLE t(x)")?;
    ///         Ok(connection.query_row("PRAGMA page_count", (), |row| row.get::<_, i64>(0))?)
    ///     })
    ///     .wait()?;
    /// assert_eq!(pages, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run<T, F>(&self, body: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let name = self.name.clone();
        let (start, unconfirmed) = (self.start(), self.unconfirmed);
        self.target.call_on(self.terms, move |core: &mut Core| {
            let (outcome, ticket) = core.on_facet(&name, &start, |writer| body(writer));
            (outcome, if unconfirmed { Ticket::DURABLE } else { ticket })
        })
    }

    fn start(&self) -> Start {
        let epoch = self.target.host.aborts[self.target.core()].epoch();
        Start { epoch, schema: self.schema.clone() }
    }

    /// Runs `body` on the calling thread, in one read transaction on the facet's newest durable
    /// version, over a pooled read-only connection. It never waits for the writer, nor the writer
    /// for it. Every acknowledged call is seen; one that is not acknowledged yet is not.
    ///
    /// It blocks for the reads themselves alone. From a closure that runs on a core it may be called
    /// too.
    ///
    /// Where the bucket has to have what is answered for
    /// ([`Acknowledge::InBucket`](crate::bucket::Acknowledge::InBucket), the handle's or else the host's),
    /// it then waits until the bucket has what was read: until the next shipment, if the facet was written
    /// lately. From a closure on a core it fails with
    /// [`HostError::WaitOnCore`](crate::HostError::WaitOnCore) instead. So it is with all reads on the
    /// calling thread.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// facet.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('hello')").wait()?;
    /// // On this thread, in one snapshot: both statements see the same version.
    /// let (count, first) = facet.read(|connection| {
    ///     let count = connection.query_row("SELECT count(*) FROM note", (), |row| row.get::<_, i64>(0))?;
    ///     let first = connection.query_row("SELECT body FROM note", (), |row| row.get::<_, String>(0))?;
    ///     Ok((count, first))
    /// })?;
    /// assert_eq!((count, first.as_str()), (1, "hello"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of `body`; [`NotFound`](crate::HostErrorKind::NotFound) if the facet does not exist.
    pub fn read<T, F>(&self, body: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T>,
    {
        self.settled(|host| host.readers.read(&self.name, body))
    }

    /// Runs `body`, a read on the calling thread, and returns what it came to when the facet's condition
    /// holds for what it has seen. Errors tell of what was seen as well.
    pub(crate) fn settled<T>(&self, body: impl FnOnce(&Shared) -> Result<T>) -> Result<T> {
        let host = &self.target.host;
        host.check_open(Some(&self.name))?;
        let outcome = body(host);
        #[cfg(feature = "bucket")]
        host.await_bucket(&self.name, self.terms).map_err(|error| error.within(&self.name))?;
        outcome
    }
}

impl fmt::Debug for FacetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FacetHandle").field("name", &self.name).field("core", &self.core()).finish()
    }
}
