//! Pages that are committed and whose images are in memory: on their way into a segment, or kept there
//! for deltas (`docs/adr/0035-delta-records.md`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use crate::format::StoredRef;
use crate::format::page::{Base, Encoded};
use crate::sync::{Mutex, MutexGuard};
use crate::types::Epoch;

/// A committed page: its image as long as that is needed in memory, from then on its place.
///
/// Who holds an older version holds the page, but not its memory.
#[derive(Debug)]
pub(crate) struct PendingPage(Mutex<Whereabouts>);

#[derive(Debug)]
enum Whereabouts {
    Memory(Image),
    Segment(StoredRef),
}

#[derive(Debug)]
struct Image {
    bytes: Box<[u8]>,
    /// Where its bytes are from, and go to.
    memory: Arc<ImageMemory>,
    /// The record that made it, once there is one: in which epoch it was appended, and its checksum.
    logged: Option<(Epoch, u32)>,
    /// Where it is stored as an image, if it is, durably.
    place: Option<StoredRef>,
    /// With a share it stays in memory when its record is durable.
    share: Option<Share>,
}

impl Image {
    fn new(memory: &Arc<ImageMemory>, image: &[u8]) -> Self {
        let bytes = memory.buffers.copy(image);
        Self { bytes, memory: Arc::clone(memory), logged: None, place: None, share: None }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.memory.buffers.give_back(std::mem::take(&mut self.bytes));
    }
}

impl PendingPage {
    pub(crate) fn new(memory: &Arc<ImageMemory>, image: &[u8]) -> Self {
        Self(Mutex::new(Whereabouts::Memory(Image::new(memory, image))))
    }

    /// Recovery: a page that is logged as a delta, and so is in memory alone.
    pub(crate) fn replayed(
        memory: &Arc<ImageMemory>,
        image: &[u8],
        epoch: Epoch,
        crc: u32,
    ) -> Self {
        let mut image = Image::new(memory, image);
        image.logged = Some((epoch, crc));
        image.share = Some(memory.share_at_least(image.bytes.len()));
        Self(Mutex::new(Whereabouts::Memory(image)))
    }

    /// Puts another image in, of the same length, into a page that is not committed yet.
    ///
    /// # Panics
    /// If it is committed, and its image was let go of.
    pub(crate) fn replace(&mut self, image: &[u8]) {
        match self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Whereabouts::Memory(memory) => memory.bytes.copy_from_slice(image),
            Whereabouts::Segment(_) => panic!("a page that is staged is in memory"),
        }
    }

    /// Hands the image to `read` if it is in memory; if not, says where it is.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Result<T, StoredRef> {
        match &*self.lock() {
            Whereabouts::Memory(image) => Ok(read(&image.bytes)),
            Whereabouts::Segment(reference) => Err(*reference),
        }
    }

    /// The record of the page is appended, by `encode`, in that epoch.
    ///
    /// # Panics
    /// If the image is not in memory: it is until its record is durable.
    pub(crate) fn log(
        &self,
        epoch: Epoch,
        share: Option<Share>,
        encode: impl FnOnce(&[u8]) -> Encoded,
    ) -> Encoded {
        match &mut *self.lock() {
            Whereabouts::Memory(image) => {
                let encoded = encode(&image.bytes);
                image.logged = Some((epoch, encoded.crc));
                image.share = share;
                encoded
            }
            Whereabouts::Segment(_) => panic!("a page that is not in the log yet is in memory"),
        }
    }

    /// The image as the base of a delta, if it is in memory and was logged in this epoch.
    pub(crate) fn with_base<T>(&self, epoch: Epoch, with: impl FnOnce(Option<Base<'_>>) -> T) -> T {
        match &*self.lock() {
            Whereabouts::Memory(Image { bytes, logged: Some((logged, crc)), .. })
                if *logged == epoch =>
            {
                with(Some(Base { image: bytes, crc: *crc }))
            }
            _ => with(None),
        }
    }

    /// The image is durable there. It is let go of, unless it has a share of memory; says whether it
    /// stays.
    pub(crate) fn settle(&self, reference: StoredRef) -> bool {
        let mut whereabouts = self.lock();
        if let Whereabouts::Memory(image @ Image { share: Some(_), .. }) = &mut *whereabouts {
            image.place = Some(reference);
            return true;
        }
        let before = std::mem::replace(&mut *whereabouts, Whereabouts::Segment(reference));
        drop(whereabouts);
        // Freed without the lock.
        drop(before);
        false
    }

    /// Lets go of an image that is stored: nothing is to be built on it any more.
    pub(crate) fn let_go(&self) {
        let mut whereabouts = self.lock();
        if let Whereabouts::Memory(Image { place: Some(place), .. }) = &*whereabouts {
            let place = *place;
            let before = std::mem::replace(&mut *whereabouts, Whereabouts::Segment(place));
            drop(whereabouts);
            drop(before);
        }
    }

    /// Where it is stored as an image, if it is, durably.
    pub(crate) fn stored(&self) -> Option<StoredRef> {
        match &*self.lock() {
            Whereabouts::Memory(image) => image.place,
            Whereabouts::Segment(reference) => Some(*reference),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Whereabouts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory for images, and how much of it is for those that stay though their records are durable.
#[derive(Debug)]
pub(crate) struct ImageMemory {
    bytes: AtomicUsize,
    bytes_max: usize,
    buffers: Buffers,
}

/// Buffers of images that are gone. Images are made on one thread and mostly go on another, which
/// costs an allocator more than all else about them.
#[derive(Debug, Default)]
struct Buffers {
    /// All of one length.
    free: std::sync::Mutex<Vec<Box<[u8]>>>,
}

impl Buffers {
    const BYTES_MAX: usize = 4 << 20;

    fn copy(&self, image: &[u8]) -> Box<[u8]> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.pop_if(|buffer| buffer.len() == image.len());
        drop(free);
        match found {
            Some(mut buffer) => {
                buffer.copy_from_slice(image);
                buffer
            }
            None => image.into(),
        }
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let is_alike = free.last().is_none_or(|last| last.len() == buffer.len());
        if is_alike && (free.len() + 1) * buffer.len() <= Self::BYTES_MAX {
            free.push(buffer);
        } else if !is_alike {
            // Pages of another size are in use by now, perhaps.
            drop(free.pop());
        }
    }
}

impl ImageMemory {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max, buffers: Buffers::default() })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Memory for an image of so many bytes, if there is some left. One that `replaces` another may take
    /// a quarter more than there is: the other goes when the new one is durable, if nobody holds it.
    pub(crate) fn share(self: &Arc<Self>, bytes: usize, replaces: bool) -> Option<Share> {
        let more = if replaces { self.bytes_max / 4 } else { 0 };
        let is_left = self.bytes().saturating_add(bytes) <= self.bytes_max.saturating_add(more);
        is_left.then(|| self.share_at_least(bytes))
    }

    /// Recovery: the same, whatever is left.
    pub(crate) fn share_at_least(self: &Arc<Self>, bytes: usize) -> Share {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Share { memory: Arc::clone(self), bytes }
    }
}

/// Bytes of [`ImageMemory`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<ImageMemory>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stored;
    use super::*;

    fn encoded(crc: u32) -> Encoded {
        Encoded { crc, is_delta: false }
    }

    #[test]
    fn an_image_gives_way_to_its_place() {
        let mut page = PendingPage::new(&ImageMemory::new(0), &[7; 512]);
        page.replace(&[8; 512]);
        assert_eq!(page.read(<[u8]>::to_vec), Ok(vec![8; 512]));
        assert_eq!(page.stored(), None);
        assert!(!page.settle(stored(3)));
        assert_eq!(page.read(|_| ()), Err(stored(3)));
        assert_eq!(page.stored(), Some(stored(3)));
    }

    #[test]
    fn an_image_with_a_share_stays_until_it_is_let_go_of() {
        let memory = ImageMemory::new(1000);
        let page = PendingPage::new(&memory, &[7; 512]);
        page.log(Epoch(2), memory.share(512, false), |_| encoded(9));
        assert_eq!((memory.bytes(), memory.share(512, false).is_none()), (512, true));
        assert!(memory.share(512, true).is_some());
        // Not stored yet: it cannot be let go of.
        page.let_go();
        let base = |epoch| page.with_base(epoch, |base| base.map(|base| (base.image[0], base.crc)));
        assert_eq!((base(Epoch(2)), base(Epoch(3))), (Some((7, 9)), None));
        assert!(page.settle(stored(3)));
        assert_eq!((base(Epoch(2)), page.stored()), (Some((7, 9)), Some(stored(3))));
        assert_eq!(page.read(<[u8]>::to_vec), Ok(vec![7; 512]));
        page.let_go();
        assert_eq!((base(Epoch(2)), page.read(|_| ())), (None, Err(stored(3))));
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn buffers_are_used_again() {
        let memory = ImageMemory::new(0);
        let free = || memory.buffers.free.lock().unwrap().len();
        let pages: Vec<_> = (0..3).map(|byte| PendingPage::new(&memory, &[byte; 512])).collect();
        drop(pages);
        assert_eq!(free(), 3);
        let page = PendingPage::new(&memory, &[9; 512]);
        assert_eq!((free(), page.read(<[u8]>::to_vec)), (2, Ok(vec![9; 512])));
        // Another size takes the place of what is there, one by one, and then is used again.
        for left in [1, 0, 1, 1] {
            drop(PendingPage::new(&memory, &[1; 1024]));
            assert_eq!(free(), left);
        }
    }
}
