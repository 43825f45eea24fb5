//! Aborting facets: what runs is interrupted, what waits is refused, storage stays.
//!
//! Every call keeps the *epoch* in which it was made. An abort ends the epoch of its core and says
//! in it which subtree and why; a call that finds such a word between its epoch and the present is
//! refused. So an abort reaches exactly the calls made before it, wherever they wait, and is
//! forgotten when the last of them is gone.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lapidary_engine::FacetName;
use rusqlite::{Connection, InterruptHandle};

use crate::call::Call;
use crate::core_thread::Core;
use crate::error::HostError;
use crate::host::{Host, checked};
use crate::schedule::Scope;

/// The time between two aborts on one core.
#[derive(Default)]
pub(crate) struct Epoch {
    end: OnceLock<End>,
}

struct End {
    root: FacetName,
    reason: Arc<str>,
    next: Arc<Epoch>,
}

impl Epoch {
    /// The error of a call made on `name` in this epoch, if it was aborted since.
    pub(crate) fn check(&self, name: &FacetName) -> Result<(), HostError> {
        let mut epoch = self;
        while let Some(end) = epoch.end.get() {
            if name.is_within(&end.root) {
                return Err(aborted(name, &end.reason));
            }
            epoch = &end.next;
        }
        Ok(())
    }

    /// What ended this epoch, and the one that follows.
    pub(crate) fn ended(&self) -> Option<(&FacetName, &Arc<Epoch>)> {
        self.end.get().map(|end| (&end.root, &end.next))
    }
}

impl Drop for Epoch {
    /// One after the other: an old call can hold on to a chain that would overflow the stack.
    fn drop(&mut self) {
        let mut next = self.end.take().map(|end| end.next);
        while let Some(epoch) = next {
            next =
                Arc::into_inner(epoch).and_then(|mut epoch| epoch.end.take()).map(|end| end.next);
        }
    }
}

/// How the call that runs on a connection is stopped.
pub(crate) struct Interrupt {
    handle: InterruptHandle,
    is_aborted: AtomicBool,
}

impl Interrupt {
    /// Of `connection`, whose [`Guard`](crate::isolation::Guard) has to ask it: SQLite forgets an
    /// interruption that comes between two statements.
    pub(crate) fn of(connection: &Connection) -> Arc<Self> {
        let handle = connection.get_interrupt_handle();
        Arc::new(Self { handle, is_aborted: AtomicBool::new(false) })
    }

    /// Whether the call that runs was aborted.
    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("is_aborted", &self.is_aborted).finish_non_exhaustive()
    }
}

/// The present of one core.
#[derive(Default)]
pub(crate) struct Aborts(Mutex<Present>);

#[derive(Default)]
struct Present {
    epoch: Arc<Epoch>,
    /// The call that runs, on each facet that it is on.
    running: Vec<(FacetName, Arc<Interrupt>)>,
}

impl Aborts {
    pub(crate) fn epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.lock().epoch)
    }

    /// Lets a call made in `epoch` begin on one more facet, if it was not aborted. Until [`end`](Self::end) it can be
    /// interrupted.
    pub(crate) fn begin(
        &self,
        epoch: &Epoch,
        name: &FacetName,
        interrupt: &Arc<Interrupt>,
    ) -> Result<(), HostError> {
        // Under the lock: an abort comes either before this and is found, or after it and
        // interrupts.
        let mut present = self.lock();
        epoch.check(name)?;
        present.running.push((name.clone(), Arc::clone(interrupt)));
        Ok(())
    }

    /// No interruption meant for the call can reach the connection after this.
    pub(crate) fn end(&self) {
        self.lock().running.clear();
    }

    /// Ends the epoch.
    fn end_epoch(&self, root: &FacetName, reason: &Arc<str>) {
        let mut present = self.lock();
        let next = Arc::<Epoch>::default();
        let end = End { root: root.clone(), reason: Arc::clone(reason), next: Arc::clone(&next) };
        // The present epoch has no end, and the lock is held: this sets it.
        present.epoch.end.get_or_init(|| end);
        present.epoch = next;
    }

    fn interrupt(&self, root: &FacetName) {
        let present = self.lock();
        if present.running.iter().any(|(name, _)| name.is_within(root)) {
            for (_, interrupt) in &present.running {
                interrupt.is_aborted.store(true, Ordering::Release);
                interrupt.handle.interrupt();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Aborts everything within `root` on `cores`. If facets move that is all: a call can then run on another core than the one whose
/// epoch it was made in, if its facet has moved.
fn abort(cores: &[Aborts], root: &FacetName, reason: &str) {
    let reason = reason.into();
    cores.iter().for_each(|core| core.end_epoch(root, &reason));
    // After all epochs: what begins from now on is refused.
    cores.iter().for_each(|core| core.interrupt(root));
}

fn aborted(name: &FacetName, reason: &Arc<str>) -> HostError {
    HostError::FacetAborted { facet: name.clone(), reason: reason.as_ref().to_owned() }
}

impl Host {
    /// Stops the facet `name` and everything below it: the call that runs is interrupted, the calls
    /// that were made before and wait fail, all with
    /// [`HostError::FacetAborted`] and `reason`, and their connections are closed. What was
    /// committed stays. Calls made after this returns start the facet anew; the abort's own reply
    /// says that the old ones have ended.
    ///
    /// The statement that runs is interrupted, and a [transaction](crate::FacetHandle::transaction)
    /// is rolled back when its closure returns. A closure that goes on without asking SQLite for
    /// anything is not stopped: nothing can. A call that fails so outside a transaction keeps what
    /// its earlier statements have committed. Reads on callers' threads go on.
    ///
    /// If the mailbox is full and [`MailboxFull::Error`](crate::MailboxFull::Error) holds, the reply
    /// says so; the abort holds all the same.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// let endless = facet.query(
    ///     "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    ///     (),
    ///     |row| row.get::<_, i64>(0),
    /// );
    /// host.abort("agents", "the tenant has not paid").wait()?;
    /// assert!(matches!(endless.wait(), Err(HostError::FacetAborted { .. })));
    /// facet.execute("CREATE TABLE t(x)", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(&self, name: impl AsRef<str>, reason: &str) -> Call<()> {
        let name = match checked(name.as_ref()) {
            Ok(name) => name,
            Err(error) => return Call::failed(error),
        };
        let target = self.target(&name);
        if let Err(error) = target.host.check_open(Some(&name)) {
            return Call::failed(error);
        }
        let all = &target.host.aborts;
        if target.host.placement.has_moved() {
            abort(all, &name, reason);
        } else {
            abort(std::slice::from_ref(&all[target.core()]), &name, reason);
        }
        tracing::info!(facet = %name, reason, "aborted");
        target.call_over(vec![Scope::subtree(&name)], |core: &mut Core| {
            core.close_aborted();
            core.on_catalog(&[], |_| Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_old_call_holds_on_to_any_number_of_aborts() {
        let aborts = Aborts::default();
        let first = aborts.epoch();
        let (other, name) = (FacetName::new("other").unwrap(), FacetName::new("a/b").unwrap());
        for _ in 0..200_000 {
            abort(std::slice::from_ref(&aborts), &other, "why");
        }
        first.check(&name).unwrap();
        abort(std::slice::from_ref(&aborts), &FacetName::new("a").unwrap(), "because");
        let error = first.check(&name).unwrap_err();
        assert!(error.to_string().contains("because"), "{error}");
        aborts.epoch().check(&name).unwrap();
        drop(first);
    }
}
