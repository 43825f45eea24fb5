//! Alarms: calls that a facet asks to be made later.
//!
//! | module | is |
//! |---|---|
//! | `facet` | setting, listing and deleting the alarms of a facet |
//! | `handler` | what runs when one is due, and how it is tried again |
//! | `index` | which facet to look at when, across the store |
//! | `service` | what cores and the alarm thread share |
//! | `run` | one alarm, on the core of its facet |
//! | `thread` | the thread that waits for the next one |
//!
//! The rows in the facet are the truth: they are committed, rolled back, restored and deleted with
//! everything else in it. So that nobody has to open a facet to learn whether it has any, *index*
//! facets of the host's own hold the times at which a facet is to be looked at. An entry goes into
//! the log before the commit that needs it, and is taken out after the commit that has no more need
//! of it. The log keeps that order, so a crash can leave an entry that nothing needs, and costs a look,
//! and never a row without an entry.

mod facet;
mod handler;
mod index;
mod run;
mod service;
mod thread;

pub use facet::{
    ALARM_NAME_BYTES_MAX, ALARM_PAYLOAD_BYTES_MAX, Alarm, AlarmState, Alarms, AlarmsTransaction,
};
pub use handler::AlarmHandler;
pub(crate) use index::is_reserved;
pub use service::AlarmStat;
pub(crate) use service::{AlarmService, Owner};
pub(crate) use thread::AlarmThread;
