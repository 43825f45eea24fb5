//! Pages that are committed and on their way into a segment.

use std::sync::PoisonError;

use crate::format::StoredRef;
use crate::sync::{Mutex, MutexGuard};

/// A committed page: its image until its record is durable, from then on the place of that.
///
/// Who holds an older version holds the page, but not its memory.
#[derive(Debug)]
pub(crate) struct PendingPage(Mutex<Whereabouts>);

#[derive(Debug)]
enum Whereabouts {
    Memory(Box<[u8]>),
    Segment(StoredRef),
}

impl PendingPage {
    pub(crate) fn new(image: &[u8]) -> Self {
        Self(Mutex::new(Whereabouts::Memory(image.into())))
    }

    /// Puts another image in, of the same length, into a page that is not committed yet.
    pub(crate) fn replace(&mut self, image: &[u8]) {
        match self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Whereabouts::Memory(bytes) => bytes.copy_from_slice(image),
            settled @ Whereabouts::Segment(_) => *settled = Whereabouts::Memory(image.into()),
        }
    }

    /// Hands the image to `read` if it is in memory; if not, says where it is.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Result<T, StoredRef> {
        match &*self.lock() {
            Whereabouts::Memory(image) => Ok(read(image)),
            Whereabouts::Segment(reference) => Err(*reference),
        }
    }

    /// The record is durable: the image is let go of.
    pub(crate) fn settle(&self, reference: StoredRef) {
        let before = std::mem::replace(&mut *self.lock(), Whereabouts::Segment(reference));
        // Freed without the lock.
        drop(before);
    }

    /// Where it is, if its record is durable.
    pub(crate) fn stored(&self) -> Option<StoredRef> {
        self.read(|_| ()).err()
    }

    fn lock(&self) -> MutexGuard<'_, Whereabouts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stored;
    use super::*;

    #[test]
    fn an_image_gives_way_to_its_place() {
        let mut page = PendingPage::new(&[7; 512]);
        page.replace(&[8; 512]);
        assert_eq!(page.read(<[u8]>::to_vec), Ok(vec![8; 512]));
        assert_eq!(page.stored(), None);
        page.settle(stored(3));
        assert_eq!(page.read(|_| ()), Err(stored(3)));
        assert_eq!(page.stored(), Some(stored(3)));
    }
}
