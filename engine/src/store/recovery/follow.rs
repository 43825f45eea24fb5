//! A store that another process writes: read as of its last batch that counts, and moved on.
//!
//! | | found | done |
//! |---|---|---|
//! | F1 | a last batch that is not known to be durable | left out: a crash of the writer may take it, which then writes another in its place |
//! | F2 | a batch before the last | it counts: the writer syncs a batch before it writes the next |
//! | F3 | no valid batch, at or below an LSN known to be durable | refused: corrupt, as R12 |
//!
//! Everything is read and checked before anything is replayed, and replaying is what recovery does.

use std::sync::PoisonError;

use super::log::{LogEnd, find_end};
use super::replay::Replay;
use super::{Read, count_quotas, read_store, scan};
use crate::config::Tunables;
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::format::superblock::{LogPosition, Superblock};
use crate::store::checkpoint::Checkpointer;
use crate::store::superblock::SuperblockFile;
use crate::store::{LockGuard, Shared};
use crate::sync::{Mutex, MutexGuard};
use crate::types::Lsn;

/// How far a store was followed.
#[derive(Debug)]
pub(in crate::store) struct Following {
    superblock: Superblock,
    /// Where the next batch is.
    position: LogPosition,
    /// Replaying was begun and has not ended: what the store shows is no batch's.
    is_spoilt: bool,
}

/// Opens the store of `environment`, in which everything up to `known` counts.
pub(in crate::store) fn open_to_follow(
    environment: Environment,
    tunables: Tunables,
    known: Lsn,
) -> Result<Shared> {
    let io = &environment.io;
    let lock = io.lock_shared().map_err(|source| Error::Io {
        operation: "lock",
        path: io.describe(),
        offset: None,
        source,
    })?;
    let lock = LockGuard(lock.ok_or_else(|| Error::Locked { path: io.describe() })?);
    let superblock = SuperblockFile::open(&**io)?;
    let id = superblock.current.store;
    let current = known_through(&superblock.current, known);
    let read = read_store(environment, tunables, &current, false)?;
    let Read { core, mut failing, root, references, catalog, images, end, .. } = read;
    core.log.follow_to(end.before_tail.lsn);
    count_quotas(&catalog);
    failing.0 = None;
    let checkpointer = Checkpointer::restored(superblock, root, references, images);
    let following = Following { superblock: current, position: end.before_tail, is_spoilt: false };
    let shared = Shared::new(core, id, catalog, checkpointer, end.read_bytes, lock);
    Ok(Shared { following: Some(Mutex::new(following)), ..shared })
}

/// The superblock, as if it knew that all up to `known` is durable.
fn known_through(superblock: &Superblock, known: Lsn) -> Superblock {
    let durable_through = superblock.durable_through.max(known);
    Superblock { durable_through, ..superblock.clone() }
}

impl Shared {
    fn following(&self) -> Result<MutexGuard<'_, Following>> {
        let Some(following) = &self.following else {
            let what = "this store was not opened to follow another process: nobody else writes it";
            return Err(Error::InvalidInput(what.to_owned()));
        };
        Ok(following.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves on to what was appended since, in which everything up to `known` counts.
    pub(in crate::store) fn follow(&self, known: Lsn) -> Result<Lsn> {
        let mut following = self.following()?;
        let core = &self.core;
        core.log.check_usable()?;
        if following.is_spoilt {
            let what = "following this store was cut short before: open it anew";
            return Err(Error::InvalidInput(what.to_owned()));
        }
        let from = known_through(&following.superblock, known);
        let found = scan::scan(&core.environment.io, self.id)?;
        let files = &core.segments.files;
        found.headers().for_each(|header| files.set_file(header.segment, header.file));
        let from = Superblock { replay: following.position, ..from };
        let LogEnd { batches, before_tail, .. } = find_end(&core.segments, &found, &from, false)?;
        if batches.is_empty() {
            return Ok(core.log.durable_lsn());
        }
        following.is_spoilt = true;
        for batch in batches {
            for record in batch.records {
                // One after the other: whoever asks for a facet meanwhile need not wait for all.
                let mut catalog = self.catalog_mut();
                let mut replay = Replay::new(core, &mut catalog, Lsn(0));
                replay.batch(vec![record], batch.place)?;
            }
        }
        count_quotas(&self.catalog());
        following.is_spoilt = false;
        following.position = before_tail;
        core.log.follow_to(before_tail.lsn);
        Ok(core.log.durable_lsn())
    }
}
