//! Requests that are answered once.

use crate::call::Call;
use crate::error::Result;
use crate::facet::FacetHandle;
use crate::reserved::requests;
use crate::transaction::Transaction;

/// Replies that a facet remembers of [`FacetHandle::once`].
pub const REQUESTS_REMEMBERED_MAX: u32 = 1_024;

impl FacetHandle {
    /// Runs `body` in a transaction unless a request of this key was answered before: then that
    /// reply is returned, and `body` is not run. The reply, in bytes of the caller's making, is
    /// remembered in the facet with the same commit, so that a request which is sent again, after
    /// a crash as well, is done once.
    ///
    /// After an `Err` nothing is remembered. The facet remembers the last
    /// [`REQUESTS_REMEMBERED_MAX`] replies.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let account = host.facet("accounts/7")?;
    /// account.execute_batch("CREATE TABLE t(balance); INSERT INTO t VALUES (100)").wait()?;
    /// let pay = || {
    ///     account.once("request-1", |tx| {
    ///         tx.execute("UPDATE t SET balance = balance - 30", ())?;
    ///         let left: i64 = tx.query_row("SELECT balance FROM t", (), |row| row.get(0))?;
    ///         Ok(left.to_string().into_bytes())
    ///     })
    /// };
    /// assert_eq!(pay().wait()?, b"70");
    /// assert_eq!(pay().wait()?, b"70");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn once<F>(&self, key: impl Into<Vec<u8>>, body: F) -> Call<Vec<u8>>
    where
        F: FnOnce(&Transaction<'_>) -> Result<Vec<u8>> + Send + 'static,
    {
        let key = key.into();
        self.transaction(move |tx| {
            if let Some(reply) = requests::reply(tx, &key)? {
                return Ok(reply);
            }
            let reply = body(tx)?;
            requests::remember(tx, &key, &reply, REQUESTS_REMEMBERED_MAX)?;
            Ok(reply)
        })
    }
}
