//! What the host, its handles and its cores share.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lapidary_engine::{FacetName, Store, Ticket};
use lapidary_vfs::{ProcessSetup, Registration, fork_generation};

use crate::abort::Aborts;
use crate::alarms::AlarmService;
use crate::config::MailboxFull;
use crate::error::{HostError, Result};
use crate::isolation::Policies;
use crate::mailbox::Mailbox;
use crate::meter::Meters;
use crate::moves::Moves;
use crate::placement::Placement;
use crate::readers::Readers;
use crate::residency::Pins;
use crate::stat::CoreCounters;
use crate::terms::Terms;
use crate::ticker::Tickers;

pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) registration: Arc<Registration>,
    pub(crate) mailboxes: Box<[Mailbox]>,
    pub(crate) placement: Placement,
    pub(crate) mailbox_calls_max: usize,
    pub(crate) mailbox_full: MailboxFull,
    pub(crate) facet_calls_max: usize,
    pub(crate) coalesce_writes: bool,
    pub(crate) readers: Readers,
    pub(crate) policies: Arc<Policies>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) counters: Box<[Arc<CoreCounters>]>,
    pub(crate) aborts: Box<[Aborts]>,
    pub(crate) alarms: Arc<AlarmService>,
    pub(crate) moves: Moves,
    pub(crate) pins: Pins,
    pub(crate) names: Names,
    pub(crate) tickers: Tickers,
    /// Of a host whose store is in a bucket.
    #[cfg(feature = "bucket")]
    pub(crate) bucket: Option<Arc<crate::bucket::BucketGate>>,
    #[cfg(feature = "metrics")]
    pub(crate) told: crate::exported::Told,
    pub(crate) process_setup: ProcessSetup,
    /// Process that opened it.
    pub(crate) opened_by: u32,
    /// Of the process that opened it. Never changes outside tests.
    pub(crate) fork_generation: AtomicU32,
    pub(crate) closed: AtomicBool,
    /// Which cores have ended on a panic.
    pub(crate) lost: Box<[AtomicBool]>,
}

impl Shared {
    /// Refuses new calls and has each core end when it has run those that are there.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Refuses what comes after shutdown or from a forked child.
    pub(crate) fn check_open(&self, facet: Option<&FacetName>) -> Result<()> {
        self.check_process()?;
        if self.is_closed() {
            return Err(HostError::Closed { facet: facet.cloned() });
        }
        Ok(())
    }

    /// Refuses terms that this host cannot keep.
    #[cfg_attr(
        not(feature = "bucket"),
        expect(clippy::unused_self, reason = "there are no such terms")
    )]
    pub(crate) fn check_terms(&self, terms: Terms) -> Result<()> {
        #[cfg(feature = "bucket")]
        if terms.acknowledge == Some(crate::bucket::Acknowledge::InBucket) && self.bucket.is_none()
        {
            return Err(crate::bucket::no_bucket().into());
        }
        let _ = terms;
        Ok(())
    }

    /// Waits until the bucket has what a read of the facet `name` on the calling thread has shown, if
    /// `terms` or else the host ask for that.
    #[cfg(feature = "bucket")]
    pub(crate) fn await_bucket(&self, name: &FacetName, terms: Terms) -> Result<()> {
        self.check_terms(terms)?;
        let Some(gate) = self.bucket.as_ref().filter(|gate| gate.waits_for_bucket(terms)) else {
            return Ok(());
        };
        // Whatever of the name was shown, the facet that has it now has tickets that are no older. That
        // nothing has it may tell of any change before.
        let shown = match self.store.open_facet(name) {
            Ok(facet) => facet.latest_ticket().max(facet.name_ticket()),
            Err(_) => self.store.current_ticket(),
        };
        if gate.bucket().is_shipped(shown)? {
            return Ok(());
        }
        if crate::core_thread::is_current() {
            return Err(HostError::WaitOnCore { facet: Some(name.clone()) });
        }
        Ok(gate.bucket().wait_shipped(shown)?)
    }

    /// Refuses a forked child: the cores' threads do not exist in it, so a call would wait for ever,
    /// and two processes writing to one store would destroy it.
    pub(crate) fn check_process(&self) -> Result<()> {
        if fork_generation() == self.fork_generation.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(HostError::Forked { opened_by: self.opened_by })
    }
}

/// The ticket of the newest rename.
///
/// A facet that is opened under its new name tells of the rename, and the rename may have run on
/// another core. The lock orders the two: opening holds it shared, renaming exclusively, so a core
/// that finds the new name finds the ticket to hold its replies for.
#[derive(Default)]
pub(crate) struct Names(RwLock<Ticket>);

impl Names {
    pub(crate) fn for_open(&self) -> RwLockReadGuard<'_, Ticket> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn for_rename(&self) -> RwLockWriteGuard<'_, Ticket> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
