//! Where the cleaner put things. Whatever leads to them, page maps, forks, histories, goes on naming the
//! place where they were first written, and is never rewritten just because something moved.

use rustc_hash::FxHashMap;

use crate::format::{Identity, StoredRef};
use crate::types::SegmentId;

/// What is known of something that was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Something durable leads to it.
    Live,
    /// Nothing durable does. Snapshots may, so its place is remembered until the segment that holds it
    /// is used for something else.
    Dead,
    /// As a checkpoint had it that recovery read: it was live when it was moved.
    Restored,
}

#[derive(Clone, Copy, Debug)]
struct Forward {
    slot: u32,
    state: State,
    now: Identity,
}

/// What was moved into one segment.
#[derive(Debug, Default)]
struct Arrivals {
    /// In order of arrival. Some may have moved on.
    identities: Vec<Identity>,
    /// The last checkpoint says otherwise.
    is_dirty: bool,
}

/// See the [module](self).
///
/// Looked up by where something was first written; written down by where it is now. What is in a
/// segment was moved there at about the same time, so that each checkpoint writes what arrived since the
/// last one, while the places it came from are all over the store. All that is live in a segment moves
/// on at once, if at all, and then nothing is written down of that segment any more.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    /// In order of slot.
    by_origin: FxHashMap<SegmentId, Vec<Forward>>,
    by_target: FxHashMap<SegmentId, Arrivals>,
    /// Segments in which nothing is left, since the last checkpoint.
    gone: Vec<SegmentId>,
}

impl Forwards {
    /// Where something is now.
    pub(crate) fn place(&self, identity: Identity) -> Identity {
        self.find(identity).map_or(identity, |forward| forward.now)
    }

    fn find(&self, identity: Identity) -> Option<&Forward> {
        let moved = self.by_origin.get(&identity.segment)?;
        let at = moved.binary_search_by_key(&identity.slot, |forward| forward.slot).ok()?;
        Some(&moved[at])
    }

    /// Recovery: what a checkpoint says was moved into `target`, as [`changed`](Self::changed) told it.
    /// Once all is there, [`sort`](Self::sort) it.
    pub(crate) fn restore(&mut self, target: SegmentId, arrivals: &[(u32, Identity)]) {
        for &(slot, identity) in arrivals {
            let now = Identity { segment: target, slot };
            let forward = Forward { slot: identity.slot, state: State::Restored, now };
            self.by_origin.entry(identity.segment).or_default().push(forward);
        }
        let identities = arrivals.iter().map(|&(_, identity)| identity);
        self.by_target.entry(target).or_default().identities.extend(identities);
    }

    /// Recovery: makes what was restored usable. Returns something that is in two places, if there is:
    /// then what was read is wrong.
    pub(crate) fn sort(&mut self) -> Option<Identity> {
        let mut twice = None;
        for (&segment, moved) in &mut self.by_origin {
            moved.sort_unstable_by_key(|forward| forward.slot);
            let same = moved.windows(2).find(|pair| pair[0].slot == pair[1].slot);
            twice = twice.or(same.map(|pair| Identity { segment, slot: pair[0].slot }));
        }
        twice
    }

    /// Things were moved: `moves`, in any order, says what and to where. All that was live in a segment
    /// is moved out of it at once.
    pub(crate) fn add(&mut self, mut moves: Vec<(StoredRef, Identity)>) {
        moves.sort_unstable_by_key(|(reference, _)| reference.identity());
        for of_one in moves.chunk_by(|(a, _), (b, _)| a.segment == b.segment) {
            let moved = self.by_origin.entry(of_one[0].0.segment).or_default();
            let known = moved.len();
            for &(reference, now) in of_one {
                let slot = reference.slot;
                match moved[..known].binary_search_by_key(&slot, |forward| forward.slot) {
                    Ok(at) => {
                        let before = std::mem::replace(&mut moved[at].now, now);
                        if let Some(arrivals) = self.by_target.get_mut(&before.segment) {
                            arrivals.is_dirty = true;
                        }
                    }
                    Err(_) => moved.push(Forward { slot, state: State::Live, now }),
                }
                let arrivals = self.by_target.entry(now.segment).or_default();
                arrivals.identities.push(reference.identity());
                arrivals.is_dirty = true;
            }
            moved.sort_unstable_by_key(|forward| forward.slot);
        }
    }

    /// Nothing durable leads to it any more. No checkpoint has to say so: nobody will ask.
    pub(crate) fn let_go(&mut self, identity: Identity) {
        let Some(moved) = self.by_origin.get_mut(&identity.segment) else { return };
        if let Ok(at) = moved.binary_search_by_key(&identity.slot, |forward| forward.slot) {
            moved[at].state = State::Dead;
        }
    }

    /// `target` is about to be used for something else: what is there is dead, or has moved on.
    pub(crate) fn forget_target(&mut self, target: SegmentId) {
        let Some(Arrivals { mut identities, .. }) = self.by_target.remove(&target) else { return };
        self.gone.push(target);
        identities.sort_unstable();
        for of_one in identities.chunk_by(|a, b| a.segment == b.segment) {
            let segment = of_one[0].segment;
            let Some(moved) = self.by_origin.get_mut(&segment) else { continue };
            moved.retain(|forward| forward.now.segment != target);
            if moved.is_empty() {
                self.by_origin.remove(&segment);
            }
        }
    }

    /// What the next checkpoint has to say anew: of each segment into which, or out of which,
    /// something was moved, what is there (slot, and what it is), in order of slot. Where that is
    /// nothing, it has nothing to say of the segment any more.
    pub(crate) fn changed(&self) -> Vec<(SegmentId, Vec<(u32, Identity)>)> {
        let dirty = self.by_target.iter().filter(|(_, arrivals)| arrivals.is_dirty);
        let here = |target: SegmentId, arrivals: &Arrivals| {
            let placed = arrivals.identities.iter().filter_map(|&identity| {
                let forward = self.find(identity)?;
                let is_here = forward.now.segment == target && forward.state != State::Dead;
                is_here.then_some((forward.now.slot, identity))
            });
            let mut placed: Vec<_> = placed.collect();
            placed.sort_unstable();
            placed
        };
        let changed = dirty.map(|(&target, arrivals)| (target, here(target, arrivals)));
        let gone = self.gone.iter().map(|&target| (target, Vec::new()));
        let mut all: Vec<_> = changed.chain(gone).collect();
        all.sort_unstable_by_key(|&(target, _)| target);
        all
    }

    /// Most forwards that [`changed`](Self::changed) tells of, and segments.
    pub(crate) fn changed_max(&self) -> (usize, usize) {
        let dirty = || self.by_target.values().filter(|arrivals| arrivals.is_dirty);
        (dirty().map(|arrivals| arrivals.identities.len()).sum(), dirty().count())
    }

    /// A checkpoint has said what [`changed`](Self::changed) told.
    pub(crate) fn saved(&mut self) {
        self.gone.clear();
        self.by_target.values_mut().for_each(|arrivals| arrivals.is_dirty = false);
    }

    /// The checkpoint part that says what is in `target` has to be written again.
    pub(crate) fn set_dirty(&mut self, target: SegmentId) {
        if let Some(arrivals) = self.by_target.get_mut(&target) {
            arrivals.is_dirty = true;
        }
    }

    /// Segments that something was moved to.
    pub(crate) fn targets(&self) -> Vec<SegmentId> {
        self.by_target.keys().copied().collect()
    }

    /// Forwards there are.
    pub(crate) fn len(&self) -> usize {
        self.by_origin.values().map(Vec::len).sum()
    }

    /// Hands what every forward is of that is known to be live to `each`.
    pub(crate) fn for_each_live(&self, mut each: impl FnMut(Identity)) {
        for (&segment, moved) in &self.by_origin {
            for forward in moved.iter().filter(|forward| forward.state == State::Live) {
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
        let told = (SegmentId(5), vec![(1, at(1, 3)), (2, at(1, 9))]);
        assert_eq!(forwards.changed(), [told]);
        assert_eq!(forwards.changed_max(), (2, 1));
        forwards.saved();
        assert_eq!(forwards.changed(), []);

        // What dies is nothing to write down, and a snapshot may still read it.
        forwards.let_go(at(1, 3));
        assert_eq!(forwards.changed(), []);
        assert_eq!(forwards.place(at(1, 3)), at(5, 1));

        forwards.add(vec![(reference(1, 9), at(4, 1)), (reference(2, 1), at(4, 2))]);
        assert_eq!(forwards.place(at(1, 9)), at(4, 1));
        let told = (SegmentId(4), vec![(1, at(1, 9)), (2, at(2, 1))]);
        assert_eq!(forwards.changed(), [told, (SegmentId(5), vec![])]);
        forwards.saved();
        forwards.forget_target(SegmentId(5));
        assert_eq!(forwards.place(at(1, 3)), at(1, 3));
        assert_eq!(forwards.place(at(1, 9)), at(4, 1));
        assert_eq!(forwards.changed(), [(SegmentId(5), vec![])]);
        forwards.saved();

        for identity in [at(1, 9), at(2, 1)] {
            forwards.let_go(identity);
        }
        forwards.forget_target(SegmentId(4));
        assert_eq!(forwards.len(), 0);
        assert_eq!(forwards.changed(), [(SegmentId(4), vec![])]);
    }

    #[test]
    fn what_a_checkpoint_said_is_restored() {
        let mut forwards = Forwards::default();
        forwards.restore(SegmentId(7), &[(1, at(2, 9)), (5, at(1, 4))]);
        forwards.restore(SegmentId(8), &[(1, at(2, 3))]);
        assert_eq!(forwards.sort(), None);
        assert_eq!(forwards.place(at(2, 9)), at(7, 1));
        assert_eq!(forwards.place(at(2, 3)), at(8, 1));
        assert_eq!(forwards.changed(), []);
        // It may be dead by now, so nobody is asked to know it.
        forwards.for_each_live(|identity| panic!("{identity:?}"));

        forwards.restore(SegmentId(9), &[(1, at(2, 3))]);
        assert_eq!(forwards.sort(), Some(at(2, 3)));
    }
}
