//! Facets that move to another store, with all below them.
//!
//! | module | is |
//! |---|---|
//! | `departure` | sealing a name, copying what it had, the commit point, cancelling |
//! | `arrival` | storing a copy, and giving it its name |
//! | `resume` | all of it between two hosts of one process, from wherever it was |
//! | `stream` | the bytes that go from one to the other |
//! | `table` | what each host has to remember |
//! | `token` | ids, receipts and proofs |
//! | `error` | what can go wrong |
//!
//! The order of the steps matters:
//! 1. The source notes that the name goes, durably. Without that a crash after 2 would leave a name that a
//!    call creates anew.
//! 2. It renames the subtree to one that nobody is served, in one record, when all calls made before have
//!    ended: what is acknowledged is in it, and nothing more comes.
//! 3. The destination stores a copy under a name that nobody is served, compares it, and gives a receipt when it is
//!    durable, and in the bucket if there is one.
//! 4. The source notes that the name has gone, durably, and in its bucket. This is the commit point: it
//!    never serves the name again, and says so with a proof. Before it, the destination may not serve.
//! 5. The destination, given the proof, renames the copy to its name.
//! 6. The source deletes what it had. If that came before 5 was durable, one disk less had it.
//!
//! | a crash after | source | destination | goes on with |
//! |---|---|---|---|
//! | 1 | serves; the note is dropped when it opens | nothing | 1, or nothing |
//! | 2, 3 | refuses, has the content | nothing, a part, or a copy | 3, or cancelling |
//! | 4 | refuses, has the content | a copy | 5 |
//! | 5 | refuses, has the content | serves | 6 |

mod arrival;
mod departure;
mod error;
mod resume;
mod stream;
mod table;
mod token;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapidary_engine::{FacetName, Store, Writer};
use lapidary_vfs::Registration;

pub use arrival::Arrival;
pub use departure::{Departed, Departure, DepartureState};
pub use error::MoveError;
pub use token::{ArrivalReceipt, DepartureProof, MoveId};

use crate::error::Result;
use crate::shared::Shared;
use table::Table;

const DEPARTING: &str = ".departing-";
const ARRIVING: &str = ".arriving-";

/// Where a subtree that departs is.
fn departing(id: MoveId) -> FacetName {
    hidden(DEPARTING, id)
}

/// Where a copy is until it has its name.
fn arriving(id: MoveId) -> FacetName {
    hidden(ARRIVING, id)
}

fn hidden(prefix: &str, id: MoveId) -> FacetName {
    FacetName::new(format!("{prefix}{id}")).expect("a level of letters and digits is a name")
}

/// Whether a facet of that name is on its way, and served to nobody.
pub(crate) fn is_hidden(name: &FacetName) -> bool {
    let root = name.root();
    let id = root.strip_prefix(DEPARTING).or_else(|| root.strip_prefix(ARRIVING));
    id.is_some_and(|id| id.parse::<MoveId>().is_ok())
}

/// Whether there is a facet of that name or below it.
fn is_there(store: &Store, root: &FacetName) -> Result<bool> {
    Ok(!store.list_facets(Some(root), None, 1)?.is_empty())
}

/// The moves of a host.
pub(crate) struct Moves {
    table: Table,
    under_way: Mutex<UnderWay>,
}

/// What is known of moves beside the table. Its lock orders all steps but the copying.
#[derive(Default)]
struct UnderWay {
    /// The writers of what departs. While they are there nobody else has one, be it through a connection that
    /// was open before the name was sealed.
    sealed: HashMap<MoveId, Vec<Writer>>,
    /// Copies that are being stored.
    arriving: HashSet<MoveId>,
}

impl Moves {
    /// Before anybody is served: refuses the names that have gone or are going.
    pub(crate) fn open(registration: &Arc<Registration>) -> Result<Self> {
        let moves = Self { table: Table::new(registration)?, under_way: Mutex::default() };
        departure::recover(registration.store(), &moves)?;
        Ok(moves)
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until all that was done so far is durable, and in the bucket if the store is in one.
fn settle(shared: &Shared) -> Result<()> {
    let ticket = shared.store.current_ticket();
    shared.store.wait_durable(ticket)?;
    #[cfg(feature = "bucket")]
    if let Some(gate) = &shared.bucket {
        gate.bucket().wait_shipped(ticket)?;
    }
    Ok(())
}

/// Has the alarms of a subtree looked at that came due while nobody was served.
fn wake_alarms(shared: &Shared, root: &FacetName) -> Result<()> {
    let shard = shared.placement.core_of(root);
    for info in shared.store.list_facets(Some(root), None, usize::MAX)? {
        shared.alarms.look_soon(shard, info.id)?;
    }
    Ok(())
}
