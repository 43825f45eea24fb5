//! Values by key, beside SQL.

use std::fmt;

use rusqlite::Connection;

use crate::call::Call;
use crate::error::{HostError, Result};
use crate::facet::FacetHandle;
use crate::reserved;
use crate::transaction::Transaction;

/// Most bytes of a key; it has at least one.
pub const KV_KEY_BYTES_MAX: usize = 2_048;
/// Most bytes of a value.
pub const KV_VALUE_BYTES_MAX: usize = 2 << 20;

/// Which entries a list has, and in which order. Default: all, by key.
///
/// ```
/// use lapidary::KvList;
///
/// let newest = KvList::new().prefix("event/").reverse().limit(10);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct KvList {
    prefix: Vec<u8>,
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    pub(crate) limit: usize,
    pub(crate) reverse: bool,
}

impl Default for KvList {
    fn default() -> Self {
        Self { prefix: Vec::new(), start: None, end: None, limit: usize::MAX, reverse: false }
    }
}

impl KvList {
    /// All entries, by key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Keys from `key` on, itself included.
    pub fn start(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.start = Some(key.into());
        self
    }

    /// Keys below `key`, itself not included.
    pub fn end(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.end = Some(key.into());
        self
    }

    /// At most so many entries.
    pub fn limit(mut self, entries: usize) -> Self {
        self.limit = entries;
        self
    }

    /// From the last key down; the limit then keeps the last ones.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// The first key, and the one that follows the last.
    pub(crate) fn range(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let start = self.start.clone().unwrap_or_default().max(self.prefix.clone());
        let end = match (self.end.clone(), after_prefix(&self.prefix)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        (start, end)
    }
}

/// The least key above all that begin with `prefix`; `None` if there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Values by key in a facet, in a table of the host's own. Every call is a transaction of its own;
/// see [`Transaction::kv`] for several at once, and for keys together with SQL.
///
/// Keys have 1 to [`KV_KEY_BYTES_MAX`] bytes and are ordered by them; values have at most
/// [`KV_VALUE_BYTES_MAX`].
///
/// ```
/// use lapidary::KvList;
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// let kv = host.facet("agents/42")?.kv();
/// kv.put("user/1", "ada").wait()?;
/// kv.put("user/2", "grace").wait()?;
/// assert_eq!(kv.get("user/1").wait()?.as_deref(), Some(&b"ada"[..]));
/// let last = kv.list(KvList::new().prefix("user/").reverse().limit(1)).wait()?;
/// assert_eq!(last, [(b"user/2".to_vec(), b"grace".to_vec())]);
/// assert!(kv.delete("user/1").wait()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Kv {
    facet: FacetHandle,
}

/// As [`Kv`], inside a transaction.
///
/// ```
/// # use lapidary::{Host, HostConfig, KvList};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// host.facet("agents/42")?
///     .transaction(|tx| {
///         let kv = tx.kv();
///         let count = kv.get("count")?.map_or(0, |bytes| bytes[0]);
///         kv.put("count", [count + 1])?;
///         kv.delete("absent")?;
///         assert_eq!(kv.list(&KvList::new().prefix("co"))?.len(), 1);
///         Ok(())
///     })
///     .wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct KvTransaction<'transaction> {
    connection: &'transaction Connection,
}

impl FacetHandle {
    /// Values by key in this facet.
    #[must_use]
    pub fn kv(&self) -> Kv {
        Kv { facet: self.clone() }
    }
}

impl Transaction<'_> {
    /// Values by key, as part of this transaction.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// facet
    ///     .transaction(|tx| {
    ///         tx.execute_batch("CREATE TABLE note(body); INSERT INTO note VALUES ('hello')")?;
    ///         tx.kv().put("notes", "1")
    ///     })
    ///     .wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn kv(&self) -> KvTransaction<'_> {
        KvTransaction { connection: self }
    }
}

impl Kv {
    /// The value of `key`, after all calls before this one.
    pub fn get(&self, key: impl Into<Vec<u8>>) -> Call<Option<Vec<u8>>> {
        let key = key.into();
        self.facet.transaction(move |tx| tx.kv().get(key))
    }

    /// Gives `key` a value, in place of the one it had.
    pub fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Call<()> {
        let (key, value) = (key.into(), value.into());
        self.facet.transaction(move |tx| tx.kv().put(key, value))
    }

    /// Takes `key` away, and says whether it was there.
    pub fn delete(&self, key: impl Into<Vec<u8>>) -> Call<bool> {
        let key = key.into();
        self.facet.transaction(move |tx| tx.kv().delete(key))
    }

    /// Keys and their values, after all calls before this one.
    pub fn list(&self, list: KvList) -> Call<Vec<(Vec<u8>, Vec<u8>)>> {
        self.facet.transaction(move |tx| tx.kv().list(&list))
    }
}

impl KvTransaction<'_> {
    /// The value of `key`.
    ///
    /// # Errors
    /// A key out of bounds; those of SQLite.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        reserved::kv::get(self.connection, checked(key.as_ref())?)
    }

    /// Gives `key` a value, in place of the one it had.
    ///
    /// # Errors
    /// A key or value out of bounds; those of SQLite.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let value = value.as_ref();
        if value.len() > KV_VALUE_BYTES_MAX {
            return Err(HostError::KvValue { facet: None, bytes: value.len() });
        }
        reserved::kv::put(self.connection, checked(key.as_ref())?, value)
    }

    /// Takes `key` away, and says whether it was there.
    ///
    /// # Errors
    /// A key out of bounds; those of SQLite.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        reserved::kv::delete(self.connection, checked(key.as_ref())?)
    }

    /// Keys and their values.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn list(&self, list: &KvList) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        reserved::kv::list(self.connection, list)
    }
}

impl fmt::Debug for KvTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvTransaction").finish_non_exhaustive()
    }
}

fn checked(key: &[u8]) -> Result<&[u8]> {
    if (1..=KV_KEY_BYTES_MAX).contains(&key.len()) {
        Ok(key)
    } else {
        Err(HostError::KvKey { facet: None, bytes: key.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_after_the_prefix() {
        let range = |list: KvList| list.range();
        assert_eq!(range(KvList::new()), (vec![], None));
        assert_eq!(range(KvList::new().prefix("a")), (b"a".to_vec(), Some(b"b".to_vec())));
        assert_eq!(range(KvList::new().prefix([1, 255])), (vec![1, 255], Some(vec![2])));
        assert_eq!(range(KvList::new().prefix([255])), (vec![255], None));
        let both = KvList::new().prefix("a").start("ab").end("ac");
        assert_eq!(range(both), (b"ab".to_vec(), Some(b"ac".to_vec())));
        let outside = KvList::new().prefix("a").start("A").end("z");
        assert_eq!(range(outside), (b"a".to_vec(), Some(b"b".to_vec())));
    }
}
