//! Where the pages of a leaf were found, so that who reads them again need not ask where the cleaner
//! put them. What is noted may be out of date: the segment may be no more. It is never another thing's
//! place, since a segment's number is given out once, and a leaf that changes starts anew.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::Identity;
use crate::format::catalog::NODE_REFS;
use crate::types::SegmentId;

/// See the [module](self). It takes no memory until something is noted.
#[derive(Debug, Default)]
pub(super) struct Places {
    noted: OnceLock<Box<[AtomicU64; NODE_REFS]>>,
}

impl Places {
    pub(super) fn of(&self, slot: usize) -> Place<'_> {
        Place { places: self, slot }
    }
}

/// The note of one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    places: &'a Places,
    slot: usize,
}

impl Place<'_> {
    pub(crate) fn get(self) -> Option<Identity> {
        let noted = self.places.noted.get()?[self.slot].load(Ordering::Relaxed);
        let (segment, slot) = (u32::try_from(noted >> 32).ok()?, u32::try_from(noted & MASK).ok()?);
        // There is no segment 0.
        (segment > 0).then_some(Identity { segment: SegmentId(segment), slot })
    }

    pub(crate) fn set(self, place: Identity) {
        let noted = (u64::from(place.segment.0) << 32) | u64::from(place.slot);
        let all =
            self.places.noted.get_or_init(|| Box::new([const { AtomicU64::new(0) }; NODE_REFS]));
        all[self.slot].store(noted, Ordering::Relaxed);
    }
}

const MASK: u64 = u32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_a_note_of_its_own() {
        let places = Places::default();
        assert_eq!(places.of(3).get(), None);
        let place = Identity { segment: SegmentId(u32::MAX), slot: u32::MAX - 1 };
        places.of(3).set(place);
        places.of(NODE_REFS - 1).set(Identity { segment: SegmentId(1), slot: 0 });
        assert_eq!(places.of(3).get(), Some(place));
        assert_eq!(places.of(2).get(), None);
        assert_eq!(places.of(NODE_REFS - 1).get().map(|place| place.segment), Some(SegmentId(1)));
    }
}
