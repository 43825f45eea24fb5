//! The alarms of a facet.

use std::fmt;
use std::time::Duration;

use rusqlite::Connection;

use super::service::{Owner, to_ms};
use crate::call::Call;
use crate::error::{HostError, Result};
use crate::facet::FacetHandle;
use crate::reserved;
use crate::transaction::Transaction;

/// Most bytes of an alarm's name; it has at least one.
pub const ALARM_NAME_BYTES_MAX: usize = 512;
/// Most bytes of an alarm's payload.
pub const ALARM_PAYLOAD_BYTES_MAX: usize = 128 << 10;

/// An alarm, as it is kept in its facet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Alarm {
    /// Its name, which no other alarm of the facet has.
    pub name: String,
    /// When it was set for, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// What was given along.
    pub payload: Vec<u8>,
    /// How often its handler has failed.
    pub attempts: u32,
    /// What the handler failed with the last time.
    pub error: Option<String>,
    /// What is to become of it.
    pub state: AlarmState,
}

/// What is to become of an [`Alarm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AlarmState {
    /// It runs.
    Waiting {
        /// Not before, in milliseconds since the Unix epoch: when it is due, or is tried again.
        wake_ms: u64,
    },
    /// Its handler failed too often: it is kept as it is, until it is set again or deleted.
    Failed,
    /// It was set in another facet, of which this one is a fork or an imported copy. It does not run here
    /// unless it is [adopted](Alarms::adopt).
    Inherited,
}

/// The alarms of a facet: names, each with a time at which
/// [`HostConfig::on_alarm`](crate::HostConfig::on_alarm) runs. Every call is a transaction of its own;
/// see [`Transaction::alarms`] for alarms that are set together with other changes.
///
/// Times are wall time in milliseconds since the Unix epoch, as the host's clock has it. An alarm runs
/// when the clock shows its time or a later one: at once if that is past, sooner if the clock is set
/// forward, later if it is set back.
///
/// An alarm that was acknowledged runs at least once, whatever happens to the process; its handler's
/// changes are made exactly once. It outlives the closing of the facet and of the host, goes along
/// with a renaming, and is gone with the facet. A [restore](FacetHandle::restore) brings back the
/// alarms of that version in place of those of the present, also those that have run since. A fork has
/// those of its source, but they rest: two facets would do what was asked for once.
///
/// ```
/// # use std::sync::mpsc::channel;
/// use lapidary::{AlarmHandler, Host, HostConfig};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("store");
/// # let (tell, told) = channel();
/// let handler = AlarmHandler::new(move |tx, facet, alarm| {
///     tx.execute("INSERT INTO ran VALUES (?1, ?2)", (&alarm.name, &alarm.payload))?;
/// #   let _ = tell.send(facet.clone());
///     Ok(())
/// });
/// let host = Host::open(&path, HostConfig::new().on_alarm(handler))?;
/// let agent = host.facet("agents/42")?;
/// agent.execute("CREATE TABLE ran(name, payload)", ()).wait()?;
/// agent.alarms().set_after("remind", std::time::Duration::from_millis(5), "buy milk").wait()?;
/// # assert_eq!(told.recv()?.as_str(), "agents/42");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Alarms {
    facet: FacetHandle,
}

/// As [`Alarms`], inside a transaction.
#[derive(Clone, Copy)]
pub struct AlarmsTransaction<'transaction> {
    connection: &'transaction Connection,
    owner: &'transaction Owner,
}

impl FacetHandle {
    /// The alarms of this facet.
    #[must_use]
    pub fn alarms(&self) -> Alarms {
        Alarms { facet: self.clone() }
    }
}

impl Transaction<'_> {
    /// The facet's alarms, as part of this transaction: what it sets, runs if it commits.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let order = host.facet("orders/7")?;
    /// order
    ///     .transaction(|tx| {
    ///         tx.execute_batch("CREATE TABLE t(state); INSERT INTO t VALUES ('reserved')")?;
    ///         tx.alarms().set("expire", 4_102_444_800_000, "")
    ///     })
    ///     .wait()?;
    /// assert_eq!(order.alarms().get("expire").wait()?.map(|alarm| alarm.due_ms), Some(4_102_444_800_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn alarms(&self) -> AlarmsTransaction<'_> {
        AlarmsTransaction { connection: self, owner: self.owner() }
    }
}

impl Alarms {
    /// Sets the alarm `name` for `due_ms`, in place of what was set for that name before.
    pub fn set(
        &self,
        name: impl Into<String>,
        due_ms: u64,
        payload: impl Into<Vec<u8>>,
    ) -> Call<()> {
        let (name, payload) = (name.into(), payload.into());
        self.facet.transaction(move |tx| tx.alarms().set(name, due_ms, payload))
    }

    /// Sets the alarm `name` for so long after the moment at which the call runs.
    pub fn set_after(
        &self,
        name: impl Into<String>,
        delay: Duration,
        payload: impl Into<Vec<u8>>,
    ) -> Call<()> {
        let (name, payload) = (name.into(), payload.into());
        self.facet.transaction(move |tx| tx.alarms().set_after(name, delay, payload))
    }

    /// The alarm `name`, after all calls before this one.
    pub fn get(&self, name: impl Into<String>) -> Call<Option<Alarm>> {
        let name = name.into();
        self.facet.transaction(move |tx| tx.alarms().get(name))
    }

    /// Takes the alarm `name` away, and says whether it was there. One that runs at that moment has run
    /// when this does.
    pub fn delete(&self, name: impl Into<String>) -> Call<bool> {
        let name = name.into();
        self.facet.transaction(move |tx| tx.alarms().delete(name))
    }

    /// At most `limit` alarms in order of their names, from the one that follows `after`, whatever their
    /// state.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Call<Vec<Alarm>> {
        let after = after.map(str::to_owned);
        self.facet.transaction(move |tx| tx.alarms().list(after.as_deref(), limit))
    }

    /// Makes the [inherited](AlarmState::Inherited) alarms the facet's own, and tells how many there
    /// were. Those that are past run at once.
    pub fn adopt(&self) -> Call<usize> {
        self.facet.transaction(|tx| tx.alarms().adopt())
    }
}

impl AlarmsTransaction<'_> {
    /// Sets the alarm `name` for `due_ms`, in place of what was set for that name before.
    ///
    /// # Errors
    /// A name or payload out of bounds; those of SQLite.
    pub fn set(&self, name: impl AsRef<str>, due_ms: u64, payload: impl AsRef<[u8]>) -> Result<()> {
        let payload = payload.as_ref();
        if payload.len() > ALARM_PAYLOAD_BYTES_MAX {
            return Err(HostError::AlarmPayload { facet: None, bytes: payload.len() });
        }
        let name = checked(name.as_ref())?;
        let due_ms = i64::try_from(due_ms).unwrap_or(i64::MAX);
        reserved::alarms::set(self.connection, self.owner, name, due_ms, payload)?;
        self.owner.will_wake(due_ms);
        Ok(())
    }

    /// Sets the alarm `name` for so long from now.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_after(
        &self,
        name: impl AsRef<str>,
        delay: Duration,
        payload: impl AsRef<[u8]>,
    ) -> Result<()> {
        let due_ms = self.owner.now_ms().saturating_add(to_ms(delay));
        self.set(name, u64::try_from(due_ms).unwrap_or(0), payload)
    }

    /// The alarm `name`.
    ///
    /// # Errors
    /// A name out of bounds; those of SQLite.
    pub fn get(&self, name: impl AsRef<str>) -> Result<Option<Alarm>> {
        reserved::alarms::get(self.connection, self.owner, checked(name.as_ref())?)
    }

    /// Takes the alarm `name` away, and says whether it was there.
    ///
    /// # Errors
    /// A name out of bounds; those of SQLite.
    pub fn delete(&self, name: impl AsRef<str>) -> Result<bool> {
        reserved::alarms::delete(self.connection, checked(name.as_ref())?)
    }

    /// At most `limit` alarms in order of their names, from the one that follows `after`, whatever their
    /// state.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Alarm>> {
        // Rows that came in past the host, as by a restore with the engine alone, are known from here on.
        if let Some(wake) = reserved::alarms::next_wake(self.connection, self.owner)? {
            self.owner.will_wake(wake);
        }
        reserved::alarms::list(self.connection, self.owner, after, limit)
    }

    /// Makes the [inherited](AlarmState::Inherited) alarms the facet's own, and tells how many there
    /// were. Those that are past run at once.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn adopt(&self) -> Result<usize> {
        let adopted = reserved::alarms::adopt(self.connection, self.owner)?;
        if let Some(wake) = reserved::alarms::next_wake(self.connection, self.owner)? {
            self.owner.will_wake(wake);
        }
        Ok(adopted)
    }
}

impl fmt::Debug for AlarmsTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlarmsTransaction").finish_non_exhaustive()
    }
}

fn checked(name: &str) -> Result<&str> {
    if (1..=ALARM_NAME_BYTES_MAX).contains(&name.len()) {
        Ok(name)
    } else {
        Err(HostError::AlarmName { facet: None, bytes: name.len() })
    }
}
