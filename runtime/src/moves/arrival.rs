//! What comes here: a copy that is stored, and served when its source has let it go.

use std::fmt;
use std::io::Read;

use lapidary_engine::{
    Error, FacetId, FacetName, PageNo, PageSize, Refusal, Retention, RootHash, StoreId, View,
};
use lapidary_vfs::facet_uri;
use rusqlite::{Connection, OpenFlags};

use super::stream::{Decoder, Item};
use super::table::ArrivedRow;
use super::{
    ARRIVING, ArrivalReceipt, DepartureProof, MoveError, MoveId, Moves, arriving, is_there, settle,
    wake_alarms,
};
use crate::core_thread::Core;
use crate::error::Result;
use crate::host::{Host, checked};
use crate::schedule::Scope;
use crate::shared::Shared;

/// What a database of SQLite begins with.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// A copy of a subtree of another store, which nobody is served until it is activated.
///
/// It stays when this is dropped, and after a crash: [`Host::arrivals`] has it then.
pub struct Arrival<'h> {
    host: &'h Host,
    id: MoveId,
    /// Of a copy that is complete.
    row: Option<ArrivedRow>,
}

impl Host {
    /// Stores the copy that [`Departure::write_to`](super::Departure::write_to) writes, on the calling
    /// thread, compares what is durable of it, and returns when it is in the bucket too if the store is in one.
    /// There is an example at [`seal`](Self::seal).
    ///
    /// # Errors
    /// Nothing of it is kept: [`Corruption`](crate::HostErrorKind::Corruption) if it is damaged or cut;
    /// [`MoveError::SameStore`]; [`MoveError::AlreadyArrived`]; [`NoSpace`](crate::HostErrorKind::NoSpace);
    /// those of a store and of a bucket.
    pub fn arrive(&self, input: &mut dyn Read) -> Result<Arrival<'_>> {
        let shared = &self.shared;
        shared.check_open(None)?;
        let (mut decoder, header) = Decoder::begin(input)?;
        let name = checked(header.name.as_str())?;
        if header.store == shared.store.id() {
            return Err(MoveError::SameStore { facet: name }.into());
        }
        let id = header.id;
        let begun = Begun::new(&shared.moves, id)?;
        let hidden = arriving(id);
        if is_there(&shared.store, &hidden)? {
            // What an earlier try has left.
            shared.store.delete_facet(&hidden)?;
        }
        let stored = store_copy(shared, &mut decoder, header.store, &name, id);
        let digest = match stored {
            Ok(digest) => digest,
            Err(error) => {
                if is_there(&shared.store, &hidden).unwrap_or(false)
                    && let Err(left) = shared.store.delete_facet(&hidden)
                {
                    tracing::warn!(%hidden, error = %left, "left of a copy that is not complete");
                }
                return Err(error);
            }
        };
        let row = ArrivedRow { id, name, digest };
        shared.moves.table.arrive(&row)?;
        drop(begun);
        settle(shared)?;
        Ok(Arrival { host: self, id, row: Some(row) })
    }

    /// Copies that wait to be activated, and those of which a crash has left a part.
    ///
    /// # Errors
    /// Those of a store.
    pub fn arrivals(&self) -> Result<Vec<Arrival<'_>>> {
        let shared = &self.shared;
        shared.check_open(None)?;
        let under_way = shared.moves.lock();
        let rows = shared.moves.table.arrived()?;
        let mut ids = Vec::new();
        // Those whose names begin so are together.
        let mut after = Some(FacetName::new(ARRIVING)?);
        while let Some(info) = shared.store.list_facets(None, after.as_ref(), 1)?.pop() {
            let Some(id) = info.name.root().strip_prefix(ARRIVING) else { break };
            if let Ok(id) = id.parse()
                && !under_way.arriving.contains(&id)
                && ids.last() != Some(&id)
            {
                ids.push(id);
            }
            after = Some(info.name);
        }
        let row_of = |id| rows.iter().find(|row| row.id == id).cloned();
        Ok(ids.into_iter().map(|id| Arrival { host: self, id, row: row_of(id) }).collect())
    }

    /// The copy of a move, complete, be it served already or not.
    pub(super) fn arrived(&self, id: MoveId) -> Result<Option<Arrival<'_>>> {
        let rows = self.shared.moves.table.arrived()?;
        let row = rows.into_iter().find(|row| row.id == id);
        Ok(row.map(|row| Arrival { host: self, id, row: Some(row) }))
    }

    /// Forgets that the copy of a move was activated, when the source knows.
    ///
    /// # Errors
    /// Those of a store; [`MoveError::AlreadyArrived`] if it is not activated.
    pub fn forget_arrived(&self, id: MoveId) -> Result<()> {
        self.shared.check_open(None)?;
        let _under_way = self.shared.moves.lock();
        if is_there(&self.shared.store, &arriving(id))? {
            return Err(MoveError::AlreadyArrived { id }.into());
        }
        self.shared.moves.table.forget_arrived(id)
    }
}

impl Arrival<'_> {
    /// The id of the move.
    #[must_use]
    pub fn id(&self) -> MoveId {
        self.id
    }

    /// The name it is to have, of a copy that is complete.
    #[must_use]
    pub fn name(&self) -> Option<&FacetName> {
        self.row.as_ref().map(|row| &row.name)
    }

    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        self.row.as_ref().map(|row| row.digest)
    }

    /// For the source: the copy is complete and durable here, and in the bucket if the store is in one.
    ///
    /// # Errors
    /// [`MoveError::Unknown`] of a copy that is not complete; those of a store and of a bucket.
    pub fn receipt(&self) -> Result<ArrivalReceipt> {
        let row = self.row.as_ref().ok_or(MoveError::Unknown { id: self.id })?;
        settle(&self.host.shared)?;
        Ok(ArrivalReceipt { id: self.id, digest: row.digest })
    }

    /// Gives the copy its name, given the proof that the source never serves it again. Doing it again does
    /// nothing. That the name was here before and had gone is forgotten.
    ///
    /// # Errors
    /// [`MoveError::NotOfThis`]; [`MoveError::Unknown`] of a copy that is not complete or was discarded;
    /// [`AlreadyExists`](crate::HostErrorKind::AlreadyExists) if there is something of that name or
    /// below it; [`NoSpace`](crate::HostErrorKind::NoSpace) if a quota has no room for it; those of a
    /// store and of a bucket. It waits here then, and can be activated later.
    pub fn activate(&self, proof: &DepartureProof) -> Result<()> {
        let shared = &self.host.shared;
        let (store, moves) = (&shared.store, &shared.moves);
        let _under_way = moves.lock();
        let id = self.id;
        let rows = moves.table.arrived()?;
        let row = rows.into_iter().find(|row| row.id == id).ok_or(MoveError::Unknown { id })?;
        if proof.id != id || proof.digest != row.digest {
            return Err(MoveError::NotOfThis { id }.into());
        }
        let hidden = arriving(id);
        let name = row.name;
        if is_there(store, &hidden)? {
            let target = self.host.target(&name);
            target.check_wait()?;
            // It may have been here before.
            let rows = moves.table.departing()?.into_iter();
            let before: Vec<_> =
                rows.filter(|row| row.is_gone && row.name.is_within(&name)).collect();
            let admit = |admits: Option<FacetName>| {
                for row in &before {
                    let destination = row.destination.clone();
                    let refusal = Refusal { destination, is_gone: true, admits: admits.clone() };
                    store.refuse_name(&row.name, Some(refusal));
                }
            };
            admit(Some(hidden.clone()));
            let (from, to) = (hidden.clone(), name.clone());
            let scopes = vec![Scope::subtree(&from), Scope::subtree(&to)];
            let call = target.call_over(scopes, move |core: &mut Core| {
                match is_there(&core.shared.store, &to) {
                    Ok(false) => core.rename(&from, &to),
                    Ok(true) => {
                        let exists = Error::FacetExists { name: to.to_string() };
                        (Err(exists.into()), core.shared.store.current_ticket())
                    }
                    Err(error) => (Err(error), core.shared.store.current_ticket()),
                }
            });
            call.wait().inspect_err(|_| admit(None))?;
            let ids: Vec<MoveId> = before.iter().map(|row| row.id).collect();
            moves.table.forget_departing(&ids)?;
            before.iter().for_each(|row| store.refuse_name(&row.name, None));
        }
        wake_alarms(shared, &name)?;
        settle(shared)
    }

    /// Deletes the copy. Only of a move that was cancelled, or is to be copied again: of one that has departed it is the only one
    /// but what the source has left.
    ///
    /// # Errors
    /// [`MoveError::Unknown`] of one that was activated; those of a store.
    pub fn discard(self) -> Result<()> {
        let shared = &self.host.shared;
        shared.check_open(None)?;
        let _under_way = shared.moves.lock();
        let hidden = arriving(self.id);
        if !is_there(&shared.store, &hidden)? {
            return Err(MoveError::Unknown { id: self.id }.into());
        }
        // If the content went first, the row would say that it was activated.
        shared.moves.table.forget_arrived(self.id)?;
        shared.store.wait_durable(shared.store.delete_facet(&hidden)?)?;
        Ok(())
    }
}

impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival")
            .field("id", &self.id)
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}

/// Keeps two from storing the copy of one move.
struct Begun<'a> {
    moves: &'a Moves,
    id: MoveId,
}

impl<'a> Begun<'a> {
    fn new(moves: &'a Moves, id: MoveId) -> Result<Self> {
        let mut under_way = moves.lock();
        let is_complete = moves.table.arrived()?.iter().any(|row| row.id == id);
        if is_complete || !under_way.arriving.insert(id) {
            return Err(MoveError::AlreadyArrived { id }.into());
        }
        Ok(Self { moves, id })
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.moves.lock().arriving.remove(&self.id);
    }
}

/// A facet that was stored.
struct Stored {
    name: FacetName,
    hidden: FacetName,
    source: FacetId,
    root_hash: RootHash,
    is_sqlite: bool,
}

/// Stores a copy below its hidden name, durably; returns its digest.
fn store_copy(
    shared: &Shared,
    decoder: &mut Decoder<'_>,
    source: StoreId,
    root: &FacetName,
    id: MoveId,
) -> Result<[u8; 32]> {
    let store = &shared.store;
    let hidden_root = arriving(id);
    let hidden = |name: &FacetName| -> Result<FacetName> {
        Ok(name.moved(root, &hidden_root)?.expect("it is within the root"))
    };
    let (mut stored, mut limits) = (Vec::new(), Vec::new());
    let digest = loop {
        match decoder.next()? {
            Item::Facet { name, id, page_size, page_count } => {
                let hidden = hidden(&name)?;
                let (root_hash, is_sqlite) =
                    store_facet(shared, decoder, &hidden, page_size, page_count)?;
                stored.push(Stored { name, hidden, source: id, root_hash, is_sqlite });
            }
            other @ (Item::Quota { .. } | Item::Retention { .. }) => limits.push(other),
            Item::End(digest) => break digest,
        }
    };
    store.wait_durable(store.current_ticket())?;
    for facet in &stored {
        let durable = store.open_facet(&facet.hidden)?.snapshot(View::Durable)?;
        if durable.root_hash(&[])? != facet.root_hash {
            return Err(MoveError::Differs { facet: facet.name.clone() }.into());
        }
    }
    for facet in stored.iter().filter(|facet| facet.is_sqlite) {
        pass_alarms_on(shared, facet, (source, facet.source), root)?;
    }
    // Last: what is over its quota may be so.
    for limit in limits {
        match limit {
            Item::Quota { name, bytes } => drop(store.set_quota(&hidden(&name)?, Some(bytes))?),
            Item::Retention { name, bytes, age_ms } => {
                let age = std::time::Duration::from_millis(age_ms);
                store.set_retention(&hidden(&name)?, Some(Retention { bytes, age }))?;
            }
            Item::Facet { .. } | Item::End(_) => {}
        }
    }
    store.wait_durable(store.current_ticket())?;
    Ok(digest)
}

/// Stores the pages of a facet; returns the root hash that was sent, and whether it is a database of SQLite.
fn store_facet(
    shared: &Shared,
    decoder: &mut Decoder<'_>,
    hidden: &FacetName,
    page_size: Option<PageSize>,
    page_count: u32,
) -> Result<(RootHash, bool)> {
    let facet = shared.store.create_facet(hidden)?;
    let mut is_sqlite = false;
    if let Some(page_size) = page_size {
        let mut writer = facet.begin_write_latest()?;
        writer.set_page_size(page_size)?;
        let mut image = vec![0; page_size.bytes()];
        for page in 1..=page_count {
            decoder.page(&mut image)?;
            is_sqlite |= page == 1 && image.starts_with(SQLITE);
            writer.write_page(PageNo(page), &image)?;
        }
        writer.commit(shared.mailboxes.len())?;
    }
    Ok((decoder.root_hash()?, is_sqlite))
}

/// The alarms that were the source facet's become its copy's.
fn pass_alarms_on(
    shared: &Shared,
    stored: &Stored,
    from: (StoreId, FacetId),
    root: &FacetName,
) -> Result<()> {
    let facet = shared.store.open_facet(&stored.hidden)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    let uri = facet_uri(&stored.hidden);
    let connection = Connection::open_with_flags_and_vfs(uri, flags, shared.registration.name())?;
    let shard = shared.placement.core_of(root);
    let passed = shared.alarms.pass_on(shard, &facet, from, &connection);
    passed.map_err(|error| error.within(&stored.name).or_stopped(&shared.store))
}
