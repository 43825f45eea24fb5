//! Where the cleaner put things. Whatever leads to them, page maps, forks, histories, goes on naming the
//! place where they were first written, and is never rewritten just because something moved.

use rustc_hash::FxHashMap;

use crate::format::{Identity, StoredRef};
use crate::types::SegmentId;

#[derive(Clone, Copy, Debug)]
struct Forward {
    slot: u32,
    is_live: bool,
    now: Identity,
}

/// What was moved out of one segment, in order of slot.
#[derive(Debug, Default)]
struct Moved {
    forwards: Vec<Forward>,
    dead: usize,
    /// The last checkpoint says otherwise.
    is_dirty: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    by_segment: FxHashMap<SegmentId, Moved>,
    /// Segments of which nothing is left, since the last checkpoint.
    gone: Vec<SegmentId>,
}

impl Forwards {
    /// Where something is now.
    pub(crate) fn place(&self, identity: Identity) -> Identity {
        self.find(identity).map_or(identity, |forward| forward.now)
    }

    fn find(&self, identity: Identity) -> Option<&Forward> {
        let moved = self.by_segment.get(&identity.segment)?;
        let at =
            moved.forwards.binary_search_by_key(&identity.slot, |forward| forward.slot).ok()?;
        Some(&moved.forwards[at])
    }

    /// Recovery: what a checkpoint says was moved out of `segment`.
    pub(crate) fn restore(&mut self, segment: SegmentId, forwards: Vec<(u32, Identity)>) {
        let forwards = forwards.into_iter().map(|(slot, now)| Forward { slot, is_live: true, now });
        let moved = self.by_segment.entry(segment).or_default();
        moved.forwards.extend(forwards);
        moved.forwards.sort_unstable_by_key(|forward| forward.slot);
    }

    /// Things were moved: `moves`, in any order, says what and to where.
    pub(crate) fn add(&mut self, mut moves: Vec<(StoredRef, Identity)>) {
        moves.sort_unstable_by_key(|(reference, _)| reference.identity());
        for of_one in moves.chunk_by(|(a, _), (b, _)| a.segment == b.segment) {
            let moved = self.by_segment.entry(of_one[0].0.segment).or_default();
            moved.is_dirty = true;
            let known = moved.forwards.len();
            for &(reference, now) in of_one {
                let slot = reference.slot;
                match moved.forwards[..known].binary_search_by_key(&slot, |forward| forward.slot) {
                    Ok(at) => moved.forwards[at].now = now,
                    Err(_) => moved.forwards.push(Forward { slot, is_live: true, now }),
                }
            }
            moved.forwards.sort_unstable_by_key(|forward| forward.slot);
        }
    }

    /// Nothing durable leads to it any more. Snapshots may, so its place is remembered until the
    /// segment that holds it is used for something else.
    pub(crate) fn let_go(&mut self, identity: Identity) {
        let Some(moved) = self.by_segment.get_mut(&identity.segment) else { return };
        let found = moved.forwards.binary_search_by_key(&identity.slot, |forward| forward.slot);
        if let Ok(at) = found
            && std::mem::replace(&mut moved.forwards[at].is_live, false)
        {
            moved.dead += 1;
            moved.is_dirty = true;
        }
    }

    /// `target` is about to be used for something else: what was moved there is dead.
    pub(crate) fn forget_target(&mut self, target: SegmentId) {
        let gone = &mut self.gone;
        self.by_segment.retain(|&segment, moved| {
            if moved.dead > 0 {
                moved.forwards.retain(|forward| forward.is_live || forward.now.segment != target);
                moved.dead = moved.forwards.iter().filter(|forward| !forward.is_live).count();
            }
            let is_left = !moved.forwards.is_empty();
            if !is_left {
                gone.push(segment);
            }
            is_left
        });
    }

    /// What the next checkpoint has to say anew: the live forwards of each segment that changed.
    /// Where there are none, it has nothing to say of the segment any more.
    pub(crate) fn changed(&self) -> Vec<(SegmentId, Vec<(u32, Identity)>)> {
        let dirty = self.by_segment.iter().filter(|(_, moved)| moved.is_dirty);
        let live = |moved: &Moved| {
            let live = moved.forwards.iter().filter(|forward| forward.is_live);
            live.map(|forward| (forward.slot, forward.now)).collect()
        };
        let changed = dirty.map(|(&segment, moved)| (segment, live(moved)));
        let gone = self.gone.iter().map(|&segment| (segment, Vec::new()));
        let mut all: Vec<_> = changed.chain(gone).collect();
        all.sort_unstable_by_key(|&(segment, _)| segment);
        all
    }

    /// A checkpoint has said what [`changed`](Self::changed) told.
    pub(crate) fn saved(&mut self) {
        self.gone.clear();
        for moved in self.by_segment.values_mut() {
            moved.is_dirty = false;
        }
    }

    /// The checkpoint part that has what was moved out of `segment` has to be written again.
    pub(crate) fn set_dirty(&mut self, segment: SegmentId) {
        if let Some(moved) = self.by_segment.get_mut(&segment) {
            moved.is_dirty = true;
        }
    }

    /// Forwards there are, and tables they are in.
    pub(crate) fn len(&self) -> (usize, usize) {
        let all = self.by_segment.values().map(|moved| moved.forwards.len()).sum();
        (all, self.by_segment.len())
    }

    /// Hands what every live forward is of to `each`.
    pub(crate) fn for_each_live(&self, mut each: impl FnMut(Identity)) {
        for (&segment, moved) in &self.by_segment {
            for forward in moved.forwards.iter().filter(|forward| forward.is_live) {
                each(Identity { segment, slot: forward.slot });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(segment: u32, slot: u32) -> StoredRef {
        StoredRef { segment: SegmentId(segment), slot, len: 8, crc: 0 }
    }

    fn at(segment: u32, slot: u32) -> Identity {
        reference(segment, slot).identity()
    }

    #[test]
    fn things_move_on_and_die() {
        let mut forwards = Forwards::default();
        forwards.add(vec![(reference(1, 9), at(5, 2)), (reference(1, 3), at(5, 1))]);
        assert_eq!(forwards.place(at(1, 3)), at(5, 1));
        assert_eq!(forwards.place(at(1, 4)), at(1, 4));
        assert_eq!(forwards.changed(), [(SegmentId(1), vec![(3, at(5, 1)), (9, at(5, 2))])]);
        forwards.saved();
        assert_eq!(forwards.changed(), []);

        forwards.add(vec![(reference(1, 9), at(7, 1)), (reference(1, 1), at(7, 2))]);
        assert_eq!(forwards.place(at(1, 9)), at(7, 1));
        forwards.let_go(at(1, 3));
        // A snapshot may still read it.
        assert_eq!(forwards.place(at(1, 3)), at(5, 1));
        assert_eq!(forwards.changed(), [(SegmentId(1), vec![(1, at(7, 2)), (9, at(7, 1))])]);
        forwards.forget_target(SegmentId(5));
        assert_eq!(forwards.place(at(1, 3)), at(1, 3));
        for slot in [1, 9] {
            forwards.let_go(at(1, slot));
        }
        forwards.forget_target(SegmentId(7));
        assert_eq!(forwards.len(), (0, 0));
        assert_eq!(forwards.changed(), [(SegmentId(1), vec![])]);
    }
}
