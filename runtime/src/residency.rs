//! Which facets stay open: pins, and what runs when one is opened and closed.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lapidary_engine::FacetName;

use crate::error::{HostError, Result};
use crate::host::{Host, checked};
use crate::isolation::transaction as statements;
use crate::transaction::{Transaction, transact};
use crate::writers::Writer;

type Hook = Arc<dyn Fn(&Transaction<'_>, &FacetName) -> Result<()> + Send + Sync>;

/// What the embedder wants to run.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) on_wake: Option<Hook>,
    pub(crate) on_hibernate: Option<Hook>,
}

impl Hooks {
    /// To be called inside the first call on a connection.
    pub(crate) fn wake(&self, name: &FacetName, writer: &Writer) -> Result<()> {
        self.on_wake.as_ref().map_or(Ok(()), |hook| run(hook, name, writer))
    }

    /// To be called before `writer` is closed, between calls. Whether it has run.
    pub(crate) fn hibernate(&self, name: &FacetName, writer: &Writer) -> bool {
        let Some(hook) = &self.on_hibernate else { return false };
        let running = writer.guard.begin(writer);
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(hook, name, writer)));
        if !writer.is_autocommit()
            && let Err(error) = statements::rollback(writer)
        {
            tracing::warn!(facet = %name, %error, "the hook before closing left a transaction");
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(panic) => {
                // Its destructor is the hook's code, and could panic in turn.
                std::mem::forget(panic);
                Err(HostError::abort("it panicked"))
            }
        };
        if let Err(error) = writer.guard.end(writer, running, name, outcome) {
            let error = error.within(name);
            tracing::warn!(facet = %name, %error, "the hook before closing failed");
        }
        true
    }
}

fn run(hook: &Hook, name: &FacetName, writer: &Writer) -> Result<()> {
    let ended = || HostError::TransactionEnded { facet: name.clone() };
    transact(writer, ended, |tx| hook(tx, name)).map(drop)
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_wake", &self.on_wake.is_some())
            .field("on_hibernate", &self.on_hibernate.is_some())
            .finish()
    }
}

/// Facets of a core that have used up a budget, each until when it rests.
#[derive(Default)]
pub(crate) struct Resting {
    until: HashMap<FacetName, Instant>,
    /// When so many are known, those whose time is over are forgotten.
    looked_over_at: usize,
}

impl Resting {
    pub(crate) fn check(&mut self, name: &FacetName) -> Result<()> {
        // Mostly nobody does.
        if self.until.is_empty() {
            return Ok(());
        }
        let Some(until) = self.until.get(name) else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.until.remove(name);
            return Ok(());
        }
        Err(HostError::Resting { facet: name.clone(), left })
    }

    pub(crate) fn rest(&mut self, name: &FacetName, time: Duration) {
        let now = Instant::now();
        if self.until.len() >= self.looked_over_at {
            self.until.retain(|_, until| *until > now);
            self.looked_over_at = (2 * self.until.len()).max(64);
        }
        if let Some(until) = now.checked_add(time) {
            self.until.insert(name.clone(), until);
        }
    }
}

/// Facets that are not closed to make room.
#[derive(Default)]
pub(crate) struct Pins(RwLock<HashSet<FacetName>>);

impl Pins {
    pub(crate) fn holds(&self, name: &FacetName) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn set(&self, name: FacetName, pinned: bool) {
        let mut pins = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if pinned {
            pins.insert(name);
        } else {
            pins.remove(&name);
        }
    }
}

impl Host {
    /// Keeps the facet `name` open once it is: its writer connection is not closed to make room for
    /// others. It counts among them all the same, and beyond a bound if too many are pinned. A pin is of
    /// the name, and holds until [`unpin`](Self::unpin) or as long as the host does.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.pin("directory")?;
    /// host.facet("directory")?.execute("CREATE TABLE IF NOT EXISTS t(a)", ()).wait()?;
    /// host.unpin("directory")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A name that no facet can have.
    pub fn pin(&self, name: impl AsRef<str>) -> Result<()> {
        self.shared.pins.set(checked(name.as_ref())?, true);
        Ok(())
    }

    /// Takes back [`pin`](Self::pin). Nothing is closed by it.
    ///
    /// # Errors
    /// A name that no facet can have.
    pub fn unpin(&self, name: impl AsRef<str>) -> Result<()> {
        self.shared.pins.set(checked(name.as_ref())?, false);
        Ok(())
    }
}
