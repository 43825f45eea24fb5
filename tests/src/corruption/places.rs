//! Sets of bytes in the files of a store.

use std::collections::BTreeMap;

use lapidary_engine::FileName;

use crate::image::Image;
use crate::sim_disk::Place;

/// A set of bytes in files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// By file: starts and ends, in order, none touching the next.
    files: BTreeMap<FileName, Vec<(u64, u64)>>,
}

impl Places {
    /// The bytes of all these.
    #[must_use]
    pub fn of(places: impl IntoIterator<Item = Place>) -> Self {
        let mut files: BTreeMap<FileName, Vec<(u64, u64)>> = BTreeMap::new();
        for (file, start, end) in places {
            if start < end {
                files.entry(file).or_default().push((start, end));
            }
        }
        for ranges in files.values_mut() {
            ranges.sort_unstable();
            let mut merged: Vec<(u64, u64)> = Vec::new();
            for &(start, end) in ranges.iter() {
                match merged.last_mut() {
                    Some((_, last)) if start <= *last => *last = end.max(*last),
                    _ => merged.push((start, end)),
                }
            }
            *ranges = merged;
        }
        Self { files }
    }

    /// The bytes that differ, and those that only one of the two has.
    #[must_use]
    pub fn differing(before: &Image, after: &Image) -> Self {
        let mut places = Vec::new();
        for file in before.keys().chain(after.keys()) {
            let none = Vec::new();
            let (old, new) = (before.get(file).unwrap_or(&none), after.get(file).unwrap_or(&none));
            let both = old.len().min(new.len());
            let differ = (0..both).filter(|&at| old[at] != new[at]);
            places.extend(differ.map(|at| (*file, at as u64, at as u64 + 1)));
            places.push((*file, both as u64, old.len().max(new.len()) as u64));
        }
        Self::of(places)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files some of whose bytes are in the set.
    pub fn files(&self) -> impl Iterator<Item = FileName> {
        self.files.keys().copied()
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Place> {
        let all = self.files.iter();
        all.flat_map(|(file, ranges)| ranges.iter().map(|&(start, end)| (*file, start, end)))
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn touch(&self, other: &Self) -> bool {
        self.files.iter().any(|(file, ranges)| {
            let others = other.files.get(file).map_or(&[][..], Vec::as_slice);
            ranges.iter().any(|&(start, end)| {
                let next = others.partition_point(|&(_, other_end)| other_end <= start);
                others.get(next).is_some_and(|&(other_start, _)| other_start < end)
            })
        })
    }

    /// Whether all bytes are in `other`.
    #[must_use]
    pub fn lie_within(&self, other: &Self) -> bool {
        self.files.iter().all(|(file, ranges)| {
            let others = other.files.get(file).map_or(&[][..], Vec::as_slice);
            ranges.iter().all(|&(start, end)| {
                let next = others.partition_point(|&(_, other_end)| other_end <= start);
                others.get(next).is_some_and(|&(first, last)| first <= start && end <= last)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use lapidary_engine::FileNo;

    use super::*;

    const A: FileName = FileName::Segment(FileNo(1));
    const B: FileName = FileName::Segment(FileNo(2));

    #[test]
    fn places_that_meet_are_one() {
        let places = Places::of([(A, 5, 9), (A, 0, 3), (A, 3, 4), (A, 7, 12), (A, 20, 20)]);
        assert_eq!(places.ranges().collect::<Vec<_>>(), [(A, 0, 4), (A, 5, 12)]);
    }

    #[test]
    fn touching_and_lying_within() {
        let places = Places::of([(A, 10, 20), (A, 30, 40)]);
        for (place, touches, within) in [
            ((A, 0, 10), false, false),
            ((A, 0, 11), true, false),
            ((A, 12, 20), true, true),
            ((A, 20, 30), false, false),
            ((A, 19, 31), true, false),
            ((A, 39, 41), true, false),
            ((A, 40, 41), false, false),
            ((B, 12, 13), false, false),
        ] {
            let other = Places::of([place]);
            assert_eq!(places.touch(&other), touches, "{place:?}");
            assert_eq!(other.touch(&places), touches, "{place:?}");
            assert_eq!(other.lie_within(&places), within, "{place:?}");
        }
    }

    #[test]
    fn what_differs_is_found() {
        let before: Image = [(A, vec![0, 1, 2, 3, 4]), (B, vec![7])].into();
        let after: Image = [(A, vec![0, 9, 9, 3])].into();
        let found = Places::differing(&before, &after);
        assert_eq!(found.ranges().collect::<Vec<_>>(), [(A, 1, 3), (A, 4, 5), (B, 0, 1)]);
        assert!(Places::differing(&before, &before).is_empty());
    }
}
