//! What the cores and the alarm thread share.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapidary_engine::{Facet, FacetId, Store, StoreId};
use lapidary_vfs::Registration;
use rusqlite::Connection;

use super::handler::AlarmHandler;
use super::index::{Entry, Shard};
use super::thread::Signal;
use crate::error::Result;
use crate::reserved::alarms as rows;

/// What has become of alarms since the host was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlarmStat {
    /// Alarms whose handler succeeded.
    pub run: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Alarms given up after the last attempt.
    pub given_up: u64,
    /// Facets that could not be looked at when an alarm was due, each time.
    pub put_off: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) run: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) put_off: AtomicU64,
}

/// Alarms of a host.
pub(crate) struct AlarmService {
    store: Arc<Store>,
    shards: Box<[Shard]>,
    pub(super) handler: Option<AlarmHandler>,
    pub(super) signal: Arc<Signal>,
    pub(super) counters: Counters,
}

impl AlarmService {
    pub(crate) fn open(
        registration: &Arc<Registration>,
        cores: usize,
        handler: Option<AlarmHandler>,
    ) -> Result<Self> {
        let shards = (0..cores).map(|number| Shard::new(registration, number));
        let shards = shards.collect::<Result<Box<[_]>>>()?;
        Shard::take_over(&shards, registration)?;
        Ok(Self {
            store: Arc::clone(registration.store()),
            shards,
            handler,
            signal: Arc::default(),
            counters: Counters::default(),
        })
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The host's wall clock, in milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> i64 {
        i64::try_from(self.store.environment().clock.wall_ms()).unwrap_or(i64::MAX)
    }

    pub(super) fn chance(&self) -> u64 {
        let mut bytes = [0; 8];
        self.store.environment().entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Has the facet looked at at `wake`. To be called before the commit that asks for it.
    fn look_at(&self, shard: usize, facet: FacetId, wake: i64) -> Result<()> {
        // Who sets an alarm for long ago does not pass by those who wait.
        let wake = wake.max(self.now_ms());
        if self.shards[shard].look_at(facet, wake)? {
            self.signal.note(wake);
        }
        Ok(())
    }

    /// Has the facet looked at soon, whose rows are about to be replaced.
    pub(crate) fn look_soon(&self, shard: usize, facet: FacetId) -> Result<()> {
        // Where no facet was ever given an alarm of its own, none comes back.
        if self.shards.iter().any(Shard::exists) {
            self.look_at(shard, facet, 0)?;
        }
        Ok(())
    }

    /// Gives the alarms that were `from`'s to the facet, on a connection of its own to it. The index is told first:
    /// if the commit came first, a crash between the two would leave a row that nobody looks at.
    pub(crate) fn pass_on(
        self: &Arc<Self>,
        shard: usize,
        facet: &Facet,
        from: (StoreId, FacetId),
        connection: &Connection,
    ) -> Result<()> {
        let owner = Owner::new(self, shard, facet);
        if rows::has_any(connection)? {
            self.look_at(shard, facet.id(), 0)?;
            rows::pass_on(connection, &owner_bytes(from.0, from.1), &owner)?;
        }
        Ok(())
    }

    /// Has the facet of `entry` looked at at `wake` and not before. To be called after the commit that
    /// allows it.
    pub(super) fn set(&self, entry: Entry, wake: Option<i64>) -> Result<()> {
        // Behind those who have waited meanwhile.
        let wake = wake.map(|wake| wake.max(self.now_ms()));
        self.shards[entry.shard].set(entry.facet, wake)?;
        wake.inspect(|wake| self.signal.note(*wake));
        Ok(())
    }

    /// Has the alarm thread look at the clock.
    pub(crate) fn check(&self) {
        self.signal.poke();
    }

    /// Closes the index connections.
    pub(crate) fn close(&self) {
        self.shards.iter().for_each(Shard::close);
    }

    pub(crate) fn stat(&self) -> AlarmStat {
        let Counters { run, failures, given_up, put_off } = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AlarmStat {
            run: read(run),
            failures: read(failures),
            given_up: read(given_up),
            put_off: read(put_off),
        }
    }
}

/// Whose alarms a writer connection sets.
pub(crate) struct Owner {
    service: Arc<AlarmService>,
    /// Of the core that the connection belongs to.
    shard: usize,
    facet: FacetId,
    /// The store's id and the facet's: no copy has both.
    bytes: [u8; 24],
    /// The earliest that the transaction asked for.
    earliest: Cell<Option<i64>>,
}

impl Owner {
    pub(crate) fn new(service: &Arc<AlarmService>, shard: usize, facet: &Facet) -> Self {
        let bytes = owner_bytes(service.store.id(), facet.id());
        let (service, facet) = (Arc::clone(service), facet.id());
        Self { service, shard, facet, bytes, earliest: Cell::new(None) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is(&self, facet: FacetId) -> bool {
        self.facet == facet
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.service.now_ms()
    }

    /// The transaction has a row for `wake`.
    pub(super) fn will_wake(&self, wake: i64) {
        let earliest = self.earliest.get().map_or(wake, |earliest| earliest.min(wake));
        self.earliest.set(Some(earliest));
    }

    /// A transaction begins.
    pub(crate) fn begin(&self) {
        self.earliest.set(None);
    }

    /// Lets the index know what the transaction asked for. If the commit came first, a crash between
    /// the two would leave a row that nobody knows of, until the facet's next alarm is set.
    pub(crate) fn before_commit(&self) -> Result<()> {
        match self.earliest.take() {
            Some(wake) => self.service.look_at(self.shard, self.facet, wake),
            None => Ok(()),
        }
    }
}

fn owner_bytes(store: StoreId, facet: FacetId) -> [u8; 24] {
    let mut bytes = [0; 24];
    let (first, number) = bytes.split_at_mut(16);
    first.copy_from_slice(&store.0);
    number.copy_from_slice(&facet.0.to_be_bytes());
    bytes
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("facet", &self.facet).finish_non_exhaustive()
    }
}

pub(super) fn to_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
