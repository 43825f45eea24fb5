//! One alarm, on the core of its facet.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lapidary_engine::{FacetName, Ticket};

use super::facet::Alarm;
use super::handler::AlarmHandler;
use super::index::Entry;
use super::service::AlarmService;
use crate::core_thread::Core;
use crate::error::{HostError, HostErrorKind, Result};
use crate::facet::Start;
use crate::moves::{MoveError, is_hidden};
use crate::reserved::alarms as rows;

/// Most bytes of an error that are kept with an alarm.
const ERROR_BYTES_MAX: usize = 500;

impl Core {
    /// Looks at the facet of `entry`, which was called `name`, and runs the alarm that has been due
    /// longest, if there is any. An error says that the facet could not be looked at; one of the
    /// handler is noted in the facet.
    pub(super) fn look_at(
        &mut self,
        handler: &AlarmHandler,
        entry: Entry,
        name: &FacetName,
        start: &Start,
    ) -> (Result<()>, Ticket) {
        match self.shared.store.facet_of_id(entry.facet) {
            Ok(Some(facet)) if facet.is_named(name) => {}
            // Deleted or renamed meanwhile: a call would create a facet. The entry is there still.
            Ok(_) => return (Ok(()), Ticket::DURABLE),
            Err(error) => return (Err(error.into()), Ticket::DURABLE),
        }
        if is_hidden(name) {
            // On its way to another store, where the alarm runs, or from one, and not there yet.
            let hidden = MoveError::Hidden { facet: name.clone() };
            return (Err(hidden.into()), Ticket::DURABLE);
        }
        let service = Arc::clone(&self.shared.alarms);
        let now_ms = service.now_ms();
        let begun = RefCell::new(None);
        let (outcome, ticket) = self.transact(name, start, |tx| {
            let owner = tx.owner();
            if !owner.is(entry.facet) {
                return Ok(Looked::Elsewhere);
            }
            let Some(alarm) = rows::take_due(tx, owner, now_ms)? else {
                return Ok(Looked::None { next: rows::next_wake(tx, owner)? });
            };
            begun.replace(Some(alarm.clone()));
            (handler.run)(tx, name, &alarm)?;
            Ok(Looked::Ran { next: rows::next_wake(tx, owner)? })
        });
        let error = match outcome {
            Ok(looked) => {
                if let Looked::Ran { .. } = looked {
                    service.counters.run.fetch_add(1, Ordering::Relaxed);
                }
                return (looked.update(&service, entry), ticket);
            }
            Err(error) => error,
        };
        match begun.into_inner() {
            // The store has stopped: what was done shows when it is opened again.
            Some(alarm) if error.kind() != HostErrorKind::Reopen => {
                let (noted, after) = self.note_failure(handler, entry, name, &alarm, &error);
                (noted, ticket.max(after))
            }
            _ => (Err(error), ticket),
        }
    }

    fn note_failure(
        &mut self,
        handler: &AlarmHandler,
        entry: Entry,
        name: &FacetName,
        alarm: &Alarm,
        error: &HostError,
    ) -> (Result<()>, Ticket) {
        let service = Arc::clone(&self.shared.alarms);
        let attempts = alarm.attempts.saturating_add(1);
        let delay_ms = handler.delay_ms(attempts, service.chance());
        let wake = service.now_ms().saturating_add(delay_ms);
        let wake = (attempts < handler.attempts_max).then_some(wake);
        service.counters.failures.fetch_add(1, Ordering::Relaxed);
        if wake.is_some() {
            tracing::warn!(facet = %name, alarm = alarm.name, attempts, %error, "an alarm failed");
        } else {
            service.counters.given_up.fetch_add(1, Ordering::Relaxed);
            tracing::error!(facet = %name, alarm = alarm.name, attempts, %error, "an alarm is given up");
        }
        let mut error = error.to_string();
        error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
        // A call of its own: the facet may have been aborted under the one that failed.
        let start = Start { epoch: self.epoch_now(), schema: None };
        let (outcome, ticket) = self.transact(name, &start, |tx| {
            let owner = tx.owner();
            if !owner.is(entry.facet) {
                return Ok(Looked::Elsewhere);
            }
            rows::note_failure(tx, &alarm.name, attempts, &error, wake)?;
            Ok(Looked::None { next: rows::next_wake(tx, owner)? })
        });
        (outcome.and_then(|looked| looked.update(&service, entry)), ticket)
    }
}

/// What was found in a facet, and when its next alarm is to run.
enum Looked {
    /// Another facet has the name.
    Elsewhere,
    None {
        next: Option<i64>,
    },
    Ran {
        next: Option<i64>,
    },
}

impl Looked {
    /// Brings the index up to what the facet's commit has left. If it came first, a crash between the
    /// two would leave a row that nobody looks at.
    fn update(self, service: &AlarmService, entry: Entry) -> Result<()> {
        match self {
            Self::Elsewhere => Ok(()),
            Self::None { next } | Self::Ran { next } => service.set(entry, next),
        }
    }
}
