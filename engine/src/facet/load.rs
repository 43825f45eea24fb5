//! Reading a facet's page map and history from the last checkpoint, when they are needed.

use super::history::{History, HistoryPart, StoredHistory};
use super::{Facet, State};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::catalog::{
    FacetEntry, StoredEdit, decode_history, decode_history_index, decode_node,
};
use crate::format::record::PartKind;
use crate::format::{Malformed, StoredRef};
use crate::map::{self, NodeSource};
use crate::name::FacetName;
use crate::segments::Damage;
use crate::sync::MutexGuard;
use crate::types::FacetId;

impl Facet {
    /// The state, with the page map and the history in memory.
    pub(super) fn loaded(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if !state.is_loaded {
            let entry = state.checkpoint.as_ref().expect("what is not loaded is in a checkpoint");
            let source = Nodes { core: &self.core, facet: &state.name };
            let map = map::load(&source, entry.map_root, entry.map_levels)?;
            let history = source.history(entry)?;
            state.latest.map = map.clone();
            state.durable.map = map.clone();
            state.checkpoint_map = map;
            state.history = history;
            state.is_loaded = true;
        }
        Ok(state)
    }
}

/// Reads page-map nodes and histories of a facet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nodes<'a> {
    pub(crate) core: &'a Core,
    pub(crate) facet: &'a FacetName,
}

impl Nodes<'_> {
    fn read<T>(
        &self,
        reference: StoredRef,
        decode: impl Fn(PartKind, &[u8]) -> Result<T, Malformed>,
    ) -> Result<T> {
        self.core.read_part(reference, decode)?.map_err(|Damage { place, path, malformed }| {
            Error::MapCorrupt {
                facet: self.facet.to_string(),
                path,
                segment: place.segment,
                offset: place.offset(),
                detail: malformed.0.to_owned(),
            }
        })
    }

    fn history(&self, entry: &FacetEntry) -> Result<History> {
        let (edits, stored) = self.stored_history(entry)?;
        Ok(History::restored(edits, stored, entry.meta.version))
    }

    /// What a checkpoint has of a facet's history, and where.
    pub(crate) fn stored_history(
        &self,
        entry: &FacetEntry,
    ) -> Result<(Vec<StoredEdit>, StoredHistory)> {
        let Some(index) = entry.history else { return Ok(Default::default()) };
        let parts = self.read(index, |kind, payload| match kind {
            PartKind::HistoryIndex(_) => decode_history_index(payload),
            _ => Err(Malformed("it is not the index of a history")),
        })?;
        let mut edits = Vec::new();
        for &(reference, _) in &parts {
            edits.extend(self.read(reference, |kind, payload| match kind {
                PartKind::History(_) => decode_history(payload),
                _ => Err(Malformed("it is not a part of a history")),
            })?);
        }
        edits.retain(|edit: &StoredEdit| edit.meta.version >= entry.history_from);
        let part = |(reference, newest)| HistoryPart { reference, newest };
        let parts = parts.into_iter().map(part).collect();
        Ok((edits, StoredHistory { index: Some(index), parts }))
    }
}

impl NodeSource for Nodes<'_> {
    fn node(&self, reference: StoredRef) -> Result<(FacetId, Vec<Option<StoredRef>>)> {
        self.read(reference, |kind, payload| match kind {
            PartKind::Node { owner, .. } => Ok((owner, decode_node(payload)?)),
            _ => Err(Malformed("it is not a page-map node")),
        })
    }
}
