//! What runs when an alarm is due.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::FacetName;

use super::facet::Alarm;
use super::service::to_ms;
use crate::error::Result;
use crate::schema::Schema;
use crate::transaction::Transaction;

type Run = Arc<dyn Fn(&Transaction<'_>, &FacetName, &Alarm) -> Result<()> + Send + Sync>;
type SchemaOf = Arc<dyn Fn(&FacetName) -> Option<Schema> + Send + Sync>;

/// What a host runs when an [alarm](crate::Alarms) is due, and how it tries again.
///
/// The closure runs on the core of the alarm's facet, as a
/// [transaction](crate::FacetHandle::transaction) there, under the facet's
/// [`Isolation`](crate::Isolation). The alarm is taken away by the same commit: what the closure
/// changes in the facet is done once. It may set the alarm anew, or others. What it does outside of the
/// facet may be done again after a crash; so keep in a table what is to be done, and do it from there.
///
/// After an `Err` or a panic nothing is changed but that the alarm has one attempt more, and waits: 1,
/// 2, 4, … times [`retry_after`](Self::retry_after) up to [`retry_after_max`](Self::retry_after_max),
/// less up to a half of it by chance, so that what failed together is not tried together. After
/// [`attempts_max`](Self::attempts_max) it is kept as [`Failed`](crate::AlarmState::Failed), told to
/// `tracing` as an error and counted in [`HostStat::alarms`](crate::HostStat::alarms).
///
/// A facet that cannot be opened, or whose schema cannot be brought up, is looked at again in the same
/// way and without a last time; that counts as no attempt of its alarms.
///
/// ```
/// use std::time::Duration;
/// use lapidary::AlarmHandler;
///
/// let handler = AlarmHandler::new(|tx, facet, alarm| {
///     tx.execute("INSERT INTO outbox(body) VALUES (?1)", [&alarm.payload])?;
///     tx.alarms().set_after(&alarm.name, Duration::from_secs(3_600), &alarm.payload)
/// })
/// .attempts_max(5)
/// .retry_after(Duration::from_secs(2));
/// ```
#[derive(Clone)]
#[must_use]
pub struct AlarmHandler {
    pub(super) run: Run,
    schema_of: Option<SchemaOf>,
    pub(super) attempts_max: u32,
    retry_after: Duration,
    retry_after_max: Duration,
    pub(super) running_max: usize,
}

impl AlarmHandler {
    /// A handler that runs `run` with the transaction, the facet's name and the alarm.
    pub fn new<F>(run: F) -> Self
    where
        F: Fn(&Transaction<'_>, &FacetName, &Alarm) -> Result<()> + Send + Sync + 'static,
    {
        Self {
            run: Arc::new(run),
            schema_of: None,
            attempts_max: 8,
            retry_after: Duration::from_secs(1),
            retry_after_max: Duration::from_secs(600),
            running_max: 32,
        }
    }

    /// The schema that a facet is to have when its alarms run, as in
    /// [`with_schema`](crate::FacetHandle::with_schema). Default: none.
    pub fn schema<F>(mut self, schema_of: F) -> Self
    where
        F: Fn(&FacetName) -> Option<Schema> + Send + Sync + 'static,
    {
        self.schema_of = Some(Arc::new(schema_of));
        self
    }

    /// How often an alarm is tried, at least once. Default 8.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// How long a failed alarm waits the first time. Default 1 second.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = delay;
        self
    }

    /// How long a failed alarm waits at most. Default 10 minutes.
    pub fn retry_after_max(mut self, delay: Duration) -> Self {
        self.retry_after_max = delay;
        self
    }

    /// Alarms that are under way at a time on each core, one for each facet. Default 32. They enter
    /// the mailbox like other calls, so a call waits behind so many of them at most; more let many
    /// alarms that are due at once pass sooner.
    pub fn running_max(mut self, alarms: NonZeroUsize) -> Self {
        self.running_max = alarms.get();
        self
    }

    pub(super) fn schema_of(&self, name: &FacetName) -> Option<Schema> {
        self.schema_of.as_ref().and_then(|schema_of| schema_of(name))
    }

    /// How long to wait after so many failures, from 1 on, in milliseconds. `chance` is random.
    pub(super) fn delay_ms(&self, failures: u32, chance: u64) -> i64 {
        let doubled = to_ms(self.retry_after).max(1);
        let doubled = doubled.saturating_mul(1 << (failures.max(1) - 1).min(40));
        let longest = doubled.min(to_ms(self.retry_after_max)).max(1);
        let half = u64::try_from(longest / 2).unwrap_or(0);
        longest - i64::try_from(chance % (half + 1)).unwrap_or(0)
    }
}

impl fmt::Debug for AlarmHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlarmHandler")
            .field("attempts_max", &self.attempts_max)
            .field("retry_after", &self.retry_after)
            .field("retry_after_max", &self.retry_after_max)
            .field("running_max", &self.running_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_vary_by_half() {
        let handler = AlarmHandler::new(|_, _, _| Ok(()))
            .retry_after(Duration::from_millis(100))
            .retry_after_max(Duration::from_secs(1));
        let longest = |failures| handler.delay_ms(failures, 0);
        assert_eq!([1, 2, 3, 4, 5, 4_000_000_000].map(longest), [100, 200, 400, 800, 1_000, 1_000]);
        for chance in [1, 7, 50, 51, u64::MAX] {
            assert!((50..=100).contains(&handler.delay_ms(1, chance)), "{chance}");
        }
        let endless = handler.retry_after(Duration::MAX).retry_after_max(Duration::MAX);
        assert!(endless.delay_ms(9, 0) > 0);
        let none = endless.retry_after(Duration::ZERO).retry_after_max(Duration::ZERO);
        assert_eq!(none.delay_ms(1, 3), 1, "never at once");
    }
}
