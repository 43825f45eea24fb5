//! What goes from here: sealed, copied, gone; or cancelled.

use std::collections::hash_map::Entry;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use lapidary_engine::{FacetName, PageNo, PageSize, Refusal, Store, Writer};

use super::stream::{Encoder, Header};
use super::table::DepartingRow;
use super::{
    ArrivalReceipt, DepartureProof, MoveError, MoveId, Moves, UnderWay, departing, is_there,
    settle, wake_alarms,
};
use crate::core_thread::Core;
use crate::error::Result;
use crate::host::{Host, checked};
use crate::schedule::Scope;

/// How far a departure has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DepartureState {
    /// Sealed: it can be copied, depart or be cancelled.
    Sealed,
    /// Gone for good. What it had is still there, until the destination serves it.
    Gone,
}

/// A subtree that is on its way from a host's store to another, and that nobody is served here.
///
/// It goes on being so when this is dropped, and after a crash: [`Host::departures`] has it then.
pub struct Departure<'h> {
    host: &'h Host,
    row: DepartingRow,
}

/// A name whose facets are in another store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Departed {
    /// The id of the move.
    pub id: MoveId,
    /// The name.
    pub name: FacetName,
    /// Where it went, as its mover said.
    pub destination: String,
}

impl Host {
    /// Seals the facet `name` and all below it, so that they can go to another store: calls made before
    /// run first, and from then on the name is refused here with
    /// [`Moved`](crate::HostErrorKind::Moved), which tells of `destination`. A crash leaves it sealed or not.
    /// Nothing is copied yet. See [`move_to_store`](Self::move_to_store) for two stores in one process.
    ///
    /// History does not go along. A connection past the host that was open before shows the content as of
    /// now, and cannot write.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let here = Host::open(directory.path().join("here"), HostConfig::new())?;
    /// # let there = Host::open(directory.path().join("there"), HostConfig::new())?;
    /// here.facet("acme")?.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (7)").wait()?;
    /// let departure = here.seal("acme", "host-2")?;
    /// let mut copy = Vec::new(); // or a socket
    /// departure.write_to(&mut copy)?;
    /// let arrival = there.arrive(&mut copy.as_slice())?;
    /// let proof = departure.depart(&arrival.receipt()?)?; // there is no way back from here
    /// arrival.activate(&proof)?;
    /// departure.forget_content()?;
    ///
    /// let found = there.facet("acme")?.query("SELECT x FROM t", (), |row| row.get::<_, i64>(0));
    /// assert_eq!(found.wait()?, [7]);
    /// let refused = here.facet("acme")?.execute("INSERT INTO t VALUES (8)", ()).wait().unwrap_err();
    /// assert_eq!(refused.kind(), HostErrorKind::Moved);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Nothing is changed: [`NotFound`](crate::HostErrorKind::NotFound) if there is nothing;
    /// [`Retry`](crate::HostErrorKind::Retry) if a connection past the host is writing to it;
    /// [`MoveError::AlreadyDeparting`]; those of a store.
    pub fn seal(
        &self,
        name: impl AsRef<str>,
        destination: impl Into<String>,
    ) -> Result<Departure<'_>> {
        let name = checked(name.as_ref())?;
        let target = self.target(&name);
        self.shared.check_open(Some(&name))?;
        target.check_wait()?;
        let (store, moves) = (&self.shared.store, &self.shared.moves);
        let mut under_way = moves.lock();
        if let Some(row) = moves.table.departing()?.into_iter().find(|row| row.name == name) {
            let DepartingRow { name: facet, destination, is_gone, .. } = row;
            return Err(if is_gone {
                MoveError::HasDeparted { facet, destination }.into()
            } else {
                MoveError::AlreadyDeparting { facet, destination }.into()
            });
        }
        if !is_there(store, &name)? {
            store.open_facet(&name)?;
        }
        let mut bytes = [0; 16];
        store.environment().entropy.fill(&mut bytes);
        let id = MoveId(bytes);
        let destination = destination.into();
        let row = DepartingRow { id, name, destination, is_gone: false, digest: None };

        // What came from elsewhere and goes on has arrived.
        let mut served = Vec::new();
        for arrived in moves.table.arrived()? {
            let overlaps = arrived.name.is_within(&row.name) || row.name.is_within(&arrived.name);
            if overlaps && !is_there(store, &super::arriving(arrived.id))? {
                served.push(arrived.id);
            }
        }
        // Step 1.
        moves.table.depart(&row, &served)?;
        // Step 2.
        let hidden = departing(id);
        let scopes = vec![Scope::subtree(&row.name), Scope::subtree(&hidden)];
        let sealing = row.clone();
        let sealed = target.call_over(scopes, move |core: &mut Core| core.seal(&sealing)).wait();
        match sealed {
            Ok(writers) => drop(under_way.sealed.insert(id, writers)),
            Err(error) => {
                // If it was sealed and is not durable, the store has stopped, and opening it decides.
                if !is_there(store, &hidden)? {
                    moves.table.forget_departing(&[id])?;
                }
                return Err(error);
            }
        }
        Ok(Departure { host: self, row })
    }

    /// What is sealed, or has gone and left its content here, in the order of names: what a crash has
    /// interrupted, too.
    ///
    /// # Errors
    /// Those of a store.
    pub fn departures(&self) -> Result<Vec<Departure<'_>>> {
        self.shared.check_open(None)?;
        let moves = &self.shared.moves;
        let _under_way = moves.lock();
        let mut found = Vec::new();
        for row in moves.table.departing()? {
            if is_there(&self.shared.store, &departing(row.id))? {
                found.push(Departure { host: self, row });
            }
        }
        Ok(found)
    }

    /// Names that are refused since they have gone to other stores, in order.
    ///
    /// # Errors
    /// Those of a store.
    pub fn departed(&self) -> Result<Vec<Departed>> {
        self.shared.check_open(None)?;
        let rows = self.shared.moves.table.departing()?.into_iter();
        let gone = rows.filter(|row| row.is_gone);
        Ok(gone
            .map(|DepartingRow { id, name, destination, .. }| Departed { id, name, destination })
            .collect())
    }

    /// Forgets that `name` has gone to another store: a call on it creates a facet here from then on.
    ///
    /// # Errors
    /// [`NotFound`](crate::HostErrorKind::NotFound) if it has not gone; [`MoveError::ContentLeft`]; those of
    /// a store.
    pub fn forget_departed(&self, name: impl AsRef<str>) -> Result<()> {
        let name = checked(name.as_ref())?;
        self.shared.check_open(Some(&name))?;
        let (store, moves) = (&self.shared.store, &self.shared.moves);
        let _under_way = moves.lock();
        let rows = moves.table.departing()?;
        let Some(row) = rows.into_iter().find(|row| row.name == name && row.is_gone) else {
            return Err(lapidary_engine::Error::FacetNotFound { name: name.to_string() }.into());
        };
        if is_there(store, &departing(row.id))? {
            return Err(MoveError::ContentLeft { facet: name }.into());
        }
        moves.table.forget_departing(&[row.id])?;
        store.refuse_name(&name, None);
        Ok(())
    }
}

impl Departure<'_> {
    /// The id of the move.
    #[must_use]
    pub fn id(&self) -> MoveId {
        self.row.id
    }

    /// The name that goes.
    #[must_use]
    pub fn name(&self) -> &FacetName {
        &self.row.name
    }

    /// Where it goes, as its mover said.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.row.destination
    }

    /// How far it has come.
    ///
    /// # Errors
    /// Those of a store; [`MoveError::Unknown`] of one that was cancelled.
    pub fn state(&self) -> Result<DepartureState> {
        let is_gone = self.row_now()?.is_gone;
        Ok(if is_gone { DepartureState::Gone } else { DepartureState::Sealed })
    }

    /// The digest of the copy that was sent last.
    pub(super) fn sent(&self) -> Result<Option<[u8; 32]>> {
        Ok(self.row_now()?.digest)
    }

    fn row_now(&self) -> Result<DepartingRow> {
        self.host.shared.check_open(Some(&self.row.name))?;
        let rows = self.host.shared.moves.table.departing()?;
        let found = rows.into_iter().find(|row| row.id == self.row.id);
        Ok(found.ok_or(MoveError::Unknown { id: self.row.id })?)
    }

    /// Writes the copy, for [`Host::arrive`], on the calling thread. It can be done again, and is the
    /// same each time.
    ///
    /// # Errors
    /// [`MoveError::Io`] if `out` does not take it; [`MoveError::HasDeparted`]; those of a store.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        let (store, moves) = (&self.host.shared.store, &self.host.shared.moves);
        let hidden = departing(self.row.id);
        let pinned: Vec<_> = {
            let mut under_way = moves.lock();
            self.check_here(&self.row_now()?)?;
            let writers = under_way.writers(store, self.row.id)?;
            writers.iter().map(|writer| writer.base().clone()).collect()
        };
        let name = self.row.name.clone();
        let own = |hidden_name: &FacetName| -> Result<FacetName> {
            // All of these are below what is hidden.
            let id = self.row.id;
            Ok(hidden_name.moved(&hidden, &name)?.ok_or(MoveError::Unknown { id })?)
        };
        let header = Header { id: self.row.id, store: store.id(), name: name.clone() };
        let mut encoder = Encoder::begin(out, &header)?;
        for snapshot in pinned {
            let facet = snapshot.facet();
            let page_count = snapshot.page_count();
            let page_size = snapshot.page_size().filter(|_| page_count > 0);
            encoder.facet(&own(&facet.name())?, facet.id(), page_size, page_count)?;
            let mut image = vec![0; page_size.map_or(0, PageSize::bytes)];
            for page in 1..=page_count {
                snapshot.read_page(PageNo(page), &mut image)?;
                encoder.page(&image)?;
            }
            encoder.root_hash(&snapshot.root_hash(&[])?)?;
        }
        for limits in store.limits_within(&hidden) {
            let name = own(&limits.name)?;
            if let Some(bytes) = limits.quota_bytes {
                encoder.quota(&name, bytes)?;
            }
            if let Some(retention) = limits.retention {
                let age_ms = u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX);
                encoder.retention(&name, retention.bytes, age_ms)?;
            }
        }
        let digest = encoder.end()?;
        let _under_way = moves.lock();
        self.check_here(&self.row_now()?)?;
        moves.table.note_sent(self.row.id, &digest)
    }

    fn check_here(&self, row: &DepartingRow) -> Result<()> {
        if row.is_gone {
            let DepartingRow { name: facet, destination, .. } = row.clone();
            return Err(MoveError::HasDeparted { facet, destination }.into());
        }
        Ok(())
    }

    /// Lets it go for good, given the receipt of the destination: when this returns, it is durable here, and
    /// in the bucket if the store is in one, that this host never serves the content again. Doing it again
    /// returns the same proof.
    ///
    /// # Errors
    /// [`MoveError::NotOfThis`] if the receipt is not of the copy sent last; those of a store and of a
    /// bucket, after which it may have gone: do it again.
    pub fn depart(&self, receipt: &ArrivalReceipt) -> Result<DepartureProof> {
        let shared = &self.host.shared;
        let mut under_way = shared.moves.lock();
        let row = self.row_now()?;
        let id = self.row.id;
        if receipt.id != id || row.digest != Some(receipt.digest) {
            return Err(MoveError::NotOfThis { id }.into());
        }
        if !row.is_gone {
            under_way.writers(&shared.store, id)?;
            shared.moves.table.note_gone(id)?;
            refuse(&shared.store, &DepartingRow { is_gone: true, ..row });
        }
        settle(shared)?;
        Ok(DepartureProof { id, digest: receipt.digest })
    }

    /// The proof of what has gone, as [`depart`](Self::depart) returned it.
    ///
    /// # Errors
    /// [`MoveError::HasNotDeparted`]; those of a store and of a bucket.
    pub fn proof(&self) -> Result<DepartureProof> {
        let row = self.row_now()?;
        match row.digest {
            Some(digest) if row.is_gone => {
                settle(&self.host.shared)?;
                Ok(DepartureProof { id: row.id, digest })
            }
            _ => Err(MoveError::HasNotDeparted { facet: row.name }.into()),
        }
    }

    /// Gives the subtree its name back. A copy that has arrived elsewhere is to be
    /// [discarded](super::Arrival::discard).
    ///
    /// # Errors
    /// [`MoveError::HasDeparted`]; [`NoSpace`](crate::HostErrorKind::NoSpace) if what has come meanwhile
    /// leaves it no room under a quota; those of a store.
    pub fn cancel(self) -> Result<()> {
        let shared = &self.host.shared;
        let (name, hidden) = (self.row.name.clone(), departing(self.row.id));
        let target = self.host.target(&name);
        target.check_wait()?;
        let mut under_way = shared.moves.lock();
        self.check_here(&self.row_now()?)?;
        let scopes = vec![Scope::subtree(&name), Scope::subtree(&hidden)];
        let (from, to) = (hidden, name.clone());
        let writers = under_way.sealed.remove(&self.row.id);
        let renamed = target.call_over(scopes, move |core: &mut Core| {
            let (renamed, ticket) = core.rename(&from, &to);
            // Let go of before the next call, and kept if it stays sealed.
            (Ok(renamed.map_err(|error| (error, writers))), ticket)
        });
        if let Err((error, writers)) = renamed.wait()? {
            under_way.sealed.extend(writers.map(|writers| (self.row.id, writers)));
            return Err(error);
        }
        shared.moves.table.forget_departing(&[self.row.id])?;
        shared.store.refuse_name(&name, None);
        wake_alarms(shared, &name)
    }

    /// Deletes what the subtree had here, after the destination has [activated](super::Arrival::activate) its copy. The
    /// name goes on being refused, until [`Host::forget_departed`].
    ///
    /// # Errors
    /// [`MoveError::HasNotDeparted`]; those of a store.
    pub fn forget_content(&self) -> Result<()> {
        let (store, moves) = (&self.host.shared.store, &self.host.shared.moves);
        let mut under_way = moves.lock();
        let row = self.row_now()?;
        if !row.is_gone {
            return Err(MoveError::HasNotDeparted { facet: row.name }.into());
        }
        let hidden = departing(row.id);
        if is_there(store, &hidden)? {
            store.wait_durable(store.delete_facet(&hidden)?)?;
        }
        // Only now: in between, a connection that was open before could commit.
        under_way.sealed.remove(&row.id);
        Ok(())
    }
}

impl fmt::Debug for Departure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departure")
            .field("id", &self.row.id)
            .field("name", &self.row.name)
            .field("destination", &self.row.destination)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Step 2. Returns the writers that keep others from writing.
    fn seal(&mut self, row: &DepartingRow) -> (Result<Vec<Writer>>, lapidary_engine::Ticket) {
        let shared = Arc::clone(&self.shared);
        self.on_catalog(&[&row.name], |store| {
            let hidden = departing(row.id);
            // Nothing comes into being there from now on.
            refuse(store, row);
            let sealed = writers_of(store, &row.name).and_then(|writers| {
                let mut newest = shared.names.for_rename();
                *newest = store.rename_facet(&row.name, &hidden)?;
                Ok(writers)
            });
            if sealed.is_err() {
                store.refuse_name(&row.name, None);
            }
            sealed
        })
    }
}

impl UnderWay {
    /// The writers of what departs, which are there already unless the host was opened since.
    fn writers(&mut self, store: &Store, id: MoveId) -> Result<&[Writer]> {
        if let Entry::Vacant(vacant) = self.sealed.entry(id) {
            vacant.insert(writers_of(store, &departing(id))?);
        }
        Ok(self.sealed.get(&id).map_or(&[], Vec::as_slice))
    }
}

/// A writer for each facet of a subtree, in order of name.
fn writers_of(store: &Store, root: &FacetName) -> Result<Vec<Writer>> {
    let found = store.list_facets(Some(root), None, usize::MAX)?;
    found.into_iter().map(|info| Ok(store.open_facet(&info.name)?.begin_write_latest()?)).collect()
}

fn refuse(store: &Store, row: &DepartingRow) {
    let refusal = Refusal {
        destination: row.destination.clone(),
        is_gone: row.is_gone,
        admits: (!row.is_gone).then(|| departing(row.id)),
    };
    store.refuse_name(&row.name, Some(refusal));
}

/// Goes on with what the store has after an opening, before anybody is served.
pub(super) fn recover(store: &Store, moves: &Moves) -> Result<()> {
    let rows = moves.table.departing()?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut back = Vec::new();
    for arrived in moves.table.arrived()? {
        if !is_there(store, &super::arriving(arrived.id))? {
            back.push(arrived.name);
        }
    }
    let mut forgotten = Vec::new();
    for row in rows {
        let is_back = row.is_gone && back.iter().any(|back| row.name.is_within(back));
        let is_unsealed = !row.is_gone && !is_there(store, &departing(row.id))?;
        if is_back || is_unsealed {
            forgotten.push(row.id);
        } else {
            refuse(store, &row);
        }
    }
    moves.table.forget_departing(&forgotten)
}
