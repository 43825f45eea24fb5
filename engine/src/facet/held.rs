//! Pages that are read in place, without a copy.
//!
//! A reader asks for one at every step, so a page that was asked for before costs no lock and no
//! atomic operation but loads: which segments this reader holds is a table of its own.

use std::sync::{Arc, Weak};

use super::Snapshot;
use super::writer::Writer;
use crate::core::Core;
use crate::format::{Identity, StoredRef, page};
use crate::map::Place;
use crate::segments::Mapped;
use crate::types::{PageNo, PageSize, SegmentId};

/// Segments remembered while none is held.
const REMEMBERED_MAX: usize = 32;

/// The pages that one reader of a facet holds, one thread at a time: see [`Facet::held_pages`](super::Facet::held_pages).
///
/// Segments in which pages are held are not used for anything else, whatever becomes of the snapshot
/// and of the facet, and a store that is closed stays locked. So they should be let go of soon.
///
/// ```
/// # use std::sync::Arc;
/// # use lapidary_engine::*;
/// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
/// # let store = Store::open(environment, StoreOptions::create())?;
/// # let facet = store.create_facet(&FacetName::new("tenants/a")?)?;
/// # let mut writer = facet.begin_write_latest()?;
/// # writer.set_page_size(PageSize::from_bytes(4096).unwrap())?;
/// # writer.write_page(PageNo(1), &[7; 4096])?;
/// # store.wait_durable(writer.commit(0)?)?;
/// let snapshot = facet.snapshot(View::Durable)?;
/// let mut held = facet.held_pages();
/// match held.hold(&snapshot, PageNo(1), 0) {
///     Some(page) => {
///         assert_eq!(page, [7; 4096]);
///         held.let_go();
///     }
///     None => {
///         // It is not where it could be read in place: a copy is always to be had.
///         snapshot.read_page(PageNo(1), &mut [0; 4096])?;
///     }
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct HeldPages {
    core: Arc<Core>,
    /// In order of segment.
    windows: Vec<Window>,
    /// Where in `windows` the last page was found.
    last: usize,
    count: usize,
}

/// What is known of a segment.
#[derive(Debug)]
struct Window {
    segment: SegmentId,
    /// Present while pages are held, of any segment, once it was looked at.
    held: Option<Arc<Mapped>>,
    mapped: Weak<Mapped>,
    /// If the segment, or the rest of it, could not be mapped: the state of affairs that was so in.
    tried_at: Option<u64>,
}

enum Sight {
    /// Its place in the table; it is held.
    Held(usize),
    Refused,
    Unknown,
}

impl HeldPages {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, windows: Vec::new(), last: 0, count: 0 }
    }

    /// Whether [`mapped_segments_max`](crate::Tunables::mapped_segments_max) lets pages be read in place.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.core.segments.mappings.is_on()
    }

    /// Pages held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Holds a page of `snapshot`: its image, and `bytes_past` bytes after it, which may be anything,
    /// another facet's data too, and are only there to be no access violation. All of it stays
    /// where and as it is until as many pages were let go of as were held.
    ///
    /// `None` if the page is not stored as it is, or where it cannot be read in place: it is in memory
    /// still, in the segment that is being written, stored without its zeros, damaged; or it is of
    /// another store, or there is no such page. [`Snapshot::read_page`] has a copy, or says what is
    /// wrong.
    pub fn hold(&mut self, snapshot: &Snapshot, page: PageNo, bytes_past: usize) -> Option<&[u8]> {
        let content = snapshot.content();
        let size = content.meta.page_size?;
        if page.0 == 0 || page.0 > content.meta.page_count {
            return None;
        }
        let (reference, noted) = content.map.find(page.0 - 1)?;
        let reference = reference.stored()?;
        if !Arc::ptr_eq(&snapshot.facet().core, &self.core) {
            return None;
        }
        self.hold_stored(reference, noted, page, size, bytes_past)
    }

    /// As [`hold`](Self::hold), in the view of a transaction. What it has staged is not in place.
    pub fn hold_in(&mut self, writer: &Writer, page: PageNo, bytes_past: usize) -> Option<&[u8]> {
        if writer.is_from_base(page) { self.hold(writer.base(), page, bytes_past) } else { None }
    }

    fn hold_stored(
        &mut self,
        reference: StoredRef,
        noted: Place<'_>,
        page: PageNo,
        size: PageSize,
        bytes_past: usize,
    ) -> Option<&[u8]> {
        if !page::is_full_len(reference.len, size) || self.core.log.check_open().is_err() {
            return None;
        }
        let (at, place) = self.find(reference.identity(), noted)?;
        let mapped = self.windows[at].held.as_deref()?;
        let Some(range) = mapped.find(place, reference, page, size, bytes_past) else {
            if self.count == 0 {
                // Nobody will let go of it.
                self.windows[at].held = None;
            }
            return None;
        };
        self.last = at;
        self.count += 1;
        self.windows[at].held.as_deref().map(|mapped| mapped.bytes(range))
    }

    /// Lets go of one page. When none is held any more, neither is a segment.
    pub fn let_go(&mut self) {
        self.count = self.count.saturating_sub(1);
        if self.count > 0 {
            return;
        }
        if self.windows.len() > REMEMBERED_MAX {
            self.windows.clear();
        }
        for window in &mut self.windows {
            window.held = None;
        }
        self.core.segments.mappings.note_let_go();
    }

    /// The place in the table of the segment that something is in, and where in it. What was moved is
    /// also where it was, as long as that segment is there.
    fn find(&mut self, identity: Identity, noted: Place<'_>) -> Option<(usize, Identity)> {
        match self.look(identity.segment) {
            Sight::Held(at) => return Some((at, identity)),
            Sight::Refused => return None,
            Sight::Unknown => {}
        }
        if let Some(place) = noted.get()
            && let Some(at) = self.look_or_open(place.segment)
        {
            return Some((at, place));
        }
        let place = self.core.segments.files.place(identity);
        let at = self.look_or_open(place.segment)?;
        if place != identity {
            noted.set(place);
        }
        Some((at, place))
    }

    fn look_or_open(&mut self, segment: SegmentId) -> Option<usize> {
        match self.look(segment) {
            Sight::Held(at) => Some(at),
            Sight::Refused => None,
            Sight::Unknown => self.open(segment),
        }
    }

    fn look(&mut self, segment: SegmentId) -> Sight {
        let is_last = self.windows.get(self.last).is_some_and(|window| window.segment == segment);
        let at = if is_last {
            self.last
        } else {
            match self.windows.binary_search_by_key(&segment, |window| window.segment) {
                Ok(at) => at,
                Err(_) => return Sight::Unknown,
            }
        };
        let window = &mut self.windows[at];
        if window.held.is_some() {
            return Sight::Held(at);
        }
        let is_worth_a_try =
            window.tried_at.is_some_and(|at| at != self.core.segments.mappings.changes());
        if !is_worth_a_try {
            window.held = window.mapped.upgrade();
            if window.held.is_some() {
                return Sight::Held(at);
            }
            if window.tried_at.is_some() && window.mapped.strong_count() == 0 {
                return Sight::Refused;
            }
        }
        self.windows.remove(at);
        Sight::Unknown
    }

    /// Holds a segment that is not in the table.
    fn open(&mut self, segment: SegmentId) -> Option<usize> {
        let segments = &self.core.segments;
        // Read before the try: what happens meanwhile makes another try worth it.
        let changes = segments.mappings.changes();
        let held = segments.mapped(segment);
        let mapped = held.as_ref().map(Arc::downgrade).unwrap_or_default();
        let is_whole = held.as_ref().is_some_and(|mapped| mapped.is_whole());
        let tried_at = (!is_whole).then_some(changes);
        let is_held = held.is_some();
        if self.count == 0 && self.windows.len() >= REMEMBERED_MAX {
            self.windows.clear();
        }
        let at = self.windows.partition_point(|window| window.segment < segment);
        self.windows.insert(at, Window { segment, held, mapped, tried_at });
        is_held.then_some(at)
    }
}
