//! One transaction over several facets.
//!
//! Each facet keeps its own connection, with its own policy and meter. They begin one after the other,
//! and the gate collects their commits and makes them as one record of the log.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use lapidary_engine::{FacetName, Ticket};
use lapidary_vfs::thread_heap_bytes;

use crate::call::Call;
use crate::core_thread::{Core, panicked};
use crate::error::{HostError, Result};
use crate::facet::Start;
use crate::host::{Host, checked};
use crate::isolation::{Running, transaction as statements};
use crate::residency::Hooks;
use crate::schedule::Scope;
use crate::transaction::Transaction;
use crate::writers::Writer;

impl Host {
    /// Runs `body` in one transaction over all facets of `names`, with a [`Transaction`] for each, in
    /// that order: `Ok` commits them together, so that after a crash all of it is there or nothing;
    /// `Err` or a panic rolls all back. A facet that does not exist is created.
    ///
    /// The facets have the first level of their names in common: those are on one core. Calls made on
    /// any of them before run first, and those made after follow. It counts as a call of each. A reader
    /// that reads two of them one after the other can find one before and the other after the commit.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostError};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// for name in ["bank/alice", "bank/bob"] {
    ///     let sql = "CREATE TABLE account(balance); INSERT INTO account VALUES (100)";
    ///     host.facet(name)?.execute_batch(sql).wait()?;
    /// }
    /// let paid = host.transaction_over(["bank/alice", "bank/bob"], |accounts| {
    ///     accounts[0].execute("UPDATE account SET balance = balance - 30", ())?;
    ///     accounts[1].execute("UPDATE account SET balance = balance + 30", ())?;
    ///     let left = "SELECT balance FROM account";
    ///     Ok(accounts[0].query_row(left, (), |row| row.get::<_, i64>(0))?)
    /// });
    /// assert_eq!(paid.wait()?, 70);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The call fails with [`HostError::NotTogether`] if `names` is not as above, names one twice, or
    /// if `body` asks for the deletion of one.
    pub fn transaction_over<T, N, F>(&self, names: impl IntoIterator<Item = N>, body: F) -> Call<T>
    where
        T: Send + 'static,
        N: AsRef<str>,
        F: FnOnce(&[Transaction<'_>]) -> Result<T> + Send + 'static,
    {
        let names =
            names.into_iter().map(|name| checked(name.as_ref())).collect::<Result<Vec<_>>>();
        let names = match names.and_then(|names| fit_together(&names).map(|()| names)) {
            Ok(names) => names,
            Err(error) => return Call::failed(error),
        };
        let Some(first) = names.first() else {
            let reason = "a transaction over no facets; name at least one";
            return Call::failed(HostError::InvalidSetting { setting: "names", reason });
        };
        let target = self.target(first);
        let epoch = target.host.aborts[target.core()].epoch();
        let start = Start { epoch, schema: None };
        let scopes = names.iter().map(Scope::facet).collect();
        target.call_over(scopes, move |core: &mut Core| core.transact_over(&names, &start, body))
    }
}

fn fit_together(names: &[FacetName]) -> Result<()> {
    for (at, name) in names.iter().enumerate() {
        let reason = if name.root() != names[0].root() {
            "a transaction is over facets that have the first level of their names in common, and this \
             one has another than the first; name them below one, such as `bank/alice` and `bank/bob`"
        } else if names[..at].contains(name) {
            "it is named twice for one transaction; name it once"
        } else {
            continue;
        };
        return Err(HostError::NotTogether { facet: name.clone(), reason });
    }
    Ok(())
}

impl Core {
    fn transact_over<T>(
        &mut self,
        names: &[FacetName],
        start: &Start,
        body: impl FnOnce(&[Transaction<'_>]) -> Result<T>,
    ) -> (Result<T>, Ticket) {
        if let Some(refusal) = self.refusal() {
            return (Err(refusal), Ticket::DURABLE);
        }
        self.close_aborted();
        let admitted = names.iter().try_for_each(|name| {
            start.epoch.check(name)?;
            self.resting.check(name)
        });
        if let Err(refused) = admitted {
            return (Err(refused), Ticket::DURABLE);
        }
        let mut writers = Vec::with_capacity(names.len());
        let mut opened = Ok(());
        for name in names {
            match self.writers.take(name) {
                Ok(writer) => writers.push(writer),
                Err(error) => {
                    opened = Err(error.within(name));
                    break;
                }
            }
        }
        let heap_before = thread_heap_bytes();
        let mut keep = true;
        let outcome = match opened {
            Ok(()) => self.run_over(names, &writers, start, body, &mut keep),
            Err(error) => Err(error),
        };
        let outcome = outcome.map_err(|error| error.or_stopped(&self.shared.store));
        // Which connection has it is not known.
        if let Some(last) = writers.last_mut() {
            last.note_heap(thread_heap_bytes().wrapping_sub(heap_before));
        }
        // What errors of opening tell of can be any facet's.
        let mut ticket = match writers.len() == names.len() {
            true => Ticket::DURABLE,
            false => self.shared.store.current_ticket(),
        };
        for (name, mut writer) in names.iter().zip(writers) {
            writer.note_commits(self.gate.last_ticket());
            ticket = ticket.max(writer.observed());
            if keep {
                self.writers.put_back(name, writer);
            }
        }
        self.writers.count();
        (outcome, ticket)
    }

    /// `keep`: whether the connections are of use afterwards.
    fn run_over<T>(
        &mut self,
        names: &[FacetName],
        writers: &[Writer],
        start: &Start,
        body: impl FnOnce(&[Transaction<'_>]) -> Result<T>,
        keep: &mut bool,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let aborts = &shared.aborts[self.number];
        for (name, writer) in names.iter().zip(writers) {
            if let Err(aborted) = aborts.begin(&start.epoch, name, writer.interrupt()) {
                aborts.end();
                return Err(aborted);
            }
        }
        let running: Vec<Running> =
            writers.iter().map(|writer| writer.guard.begin(writer)).collect();
        let ran = panic::catch_unwind(AssertUnwindSafe(|| {
            in_all(names, writers, &self.hooks, start, body)
        }));
        aborts.end();
        let mut outcome = ran.unwrap_or_else(|panic| {
            *keep = false;
            Err(panicked(&self.counters, &names[0], panic))
        });
        if outcome.is_ok() {
            // From the first COMMIT on SQLite takes for done what may fail yet.
            *keep = false;
            let committed = self.commit_all(names, writers);
            *keep = committed.is_ok();
            outcome = outcome.and_then(|value| committed.map(|()| value));
        }
        for writer in writers {
            if !writer.is_autocommit() {
                *keep &= statements::rollback(writer).is_ok();
            }
            *keep &= !writer.interrupt().is_aborted();
        }
        // The innermost first.
        for ((name, writer), running) in names.iter().zip(writers).zip(running).rev() {
            let (is_new, began) = (outcome.is_ok(), running.began());
            outcome = writer.guard.end(writer, running, name, outcome);
            if is_new && let Some(rest) = writer.guard.rest(&outcome, began) {
                self.resting.rest(name, rest);
            }
        }
        if let Err(error) = &outcome {
            *keep &= !error.spoils_connection();
            if writers.iter().any(|writer| writer.interrupt().is_aborted()) {
                names.iter().try_for_each(|name| start.epoch.check(name))?;
            }
        }
        outcome
    }

    fn commit_all(&self, names: &[FacetName], writers: &[Writer]) -> Result<()> {
        // Commits of the index are not among those that are collected: they come before.
        for (name, writer) in names.iter().zip(writers) {
            writer.owner().before_commit().map_err(|error| error.within(name))?;
        }
        let collecting = self.gate.collect();
        for (name, writer) in names.iter().zip(writers) {
            statements::commit(writer).map_err(|error| HostError::from(error).within(name))?;
        }
        // The store's words name the facet.
        collecting.commit().map_err(|error| HostError::from(error).within(&names[0]))
    }
}

/// Runs `body` in a transaction on each of `writers`, and leaves them open.
fn in_all<T>(
    names: &[FacetName],
    writers: &[Writer],
    hooks: &Hooks,
    start: &Start,
    body: impl FnOnce(&[Transaction<'_>]) -> Result<T>,
) -> Result<T> {
    let mut transactions = Vec::with_capacity(writers.len());
    for (name, writer) in names.iter().zip(writers) {
        writer.bring_up(name, None, hooks).map_err(|error| error.within(name))?;
        let begun = statements::begin(writer).and_then(|()| statements::begin_call(writer));
        begun.map_err(|error| HostError::from(error).within(name))?;
        writer.owner().begin();
        writer.guard.share_commit();
        transactions.push(Transaction::new(writer));
    }
    let value = body(&transactions)?;
    for ((name, writer), transaction) in names.iter().zip(writers).zip(&transactions) {
        // The guard puts its own reason in the place of this one.
        if writer.is_autocommit() || writer.guard.has_tripped() {
            return Err(HostError::TransactionEnded { facet: name.clone() });
        }
        if writer.interrupt().is_aborted() {
            names.iter().try_for_each(|name| start.epoch.check(name))?;
        }
        if transaction.deletes_facet() {
            let reason = "a facet does not delete itself in a transaction over several; use \
                          `Host::delete`, or a transaction of its own";
            return Err(HostError::NotTogether { facet: name.clone(), reason });
        }
        // SQL cannot guess the savepoint's name: if it is there, this is the transaction it was.
        if statements::end_call(writer).is_err() {
            return Err(HostError::TransactionEnded { facet: name.clone() });
        }
    }
    Ok(value)
}
