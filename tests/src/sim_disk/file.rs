//! One file of the simulated disk: the page cache's bytes, the disk's bytes, and what lies between.
//!
//! Bytes are kept by sector, and sectors are shared, so that a copy of a file costs a pointer for each and no
//! bytes: a simulation makes several copies of the disk for each crash.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{SECTOR_BYTES, Survival};
use crate::chance::Chance;

/// The bytes of a sector; none stands for zeros.
type Sector = Option<Arc<[u8; SECTOR_BYTES]>>;

/// Decides which of the values that something had since the last sync is the one that survives.
#[derive(Debug)]
pub(crate) struct Survivor {
    survival: Survival,
    chance: Chance,
    /// Of eight unsynced things, how many survive.
    eighths: u32,
}

impl Survivor {
    pub(crate) fn new(survival: Survival) -> Self {
        let seed = if let Survival::Random(seed) = survival { seed } else { 0 };
        let mut chance = Chance::from_seed(seed);
        let eighths = chance.pick(&[1, 4, 7]);
        Self { survival, chance, eighths }
    }

    /// The index of the surviving one of `values` newer values, or none if the old one survives.
    pub(crate) fn choose(&mut self, values: usize) -> Option<usize> {
        if values == 0 {
            return None;
        }
        match self.survival {
            Survival::Nothing => None,
            Survival::Everything | Survival::Headless => Some(values - 1),
            Survival::Random(_) if self.chance.below(8) >= self.eighths => None,
            Survival::Random(_) if self.chance.one_in(2) => Some(values - 1),
            Survival::Random(_) => Some(self.chance.index(values)),
        }
    }

    /// Sectors written in one go tend to share their fate; this changes the odds for a file.
    fn next_file(&mut self) {
        self.eighths = self.chance.pick(&[0, 1, 4, 7, 8]);
    }
}

/// So many bytes in sectors. Past its end the last sector is zeros.
#[derive(Clone, Debug, Default, Hash)]
struct Bytes {
    len: usize,
    sectors: Vec<Sector>,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let mut this = Self::default();
        this.resize(bytes.len());
        this.write(0, bytes, |_, _| ());
        this
    }

    /// Cuts or lengthens with zeros.
    fn resize(&mut self, len: usize) {
        self.sectors.resize(len.div_ceil(SECTOR_BYTES), None);
        let into_last = len % SECTOR_BYTES;
        if len < self.len
            && into_last > 0
            && let Some(Some(last)) = self.sectors.last_mut()
        {
            Arc::make_mut(last)[into_last..].fill(0);
        }
        self.len = len;
    }

    /// Writes within the length, and tells `wrote` each sector that this made.
    fn write(&mut self, start: usize, bytes: &[u8], mut wrote: impl FnMut(usize, &Sector)) {
        let end = start + bytes.len();
        for index in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let at = index * SECTOR_BYTES;
            let (from, to) = (start.max(at), end.min(at + SECTOR_BYTES));
            let source = &bytes[from - start..to - start];
            let place = &mut self.sectors[index];
            let is_whole = source.len() == SECTOR_BYTES;
            *place = if (is_whole || place.is_none()) && is_zeros(source) {
                None
            } else {
                let mut sector = match place {
                    Some(old) if !is_whole => **old,
                    _ => [0; SECTOR_BYTES],
                };
                sector[from - at..to - at].copy_from_slice(source);
                Some(Arc::new(sector))
            };
            wrote(index, place);
        }
    }

    /// Sets a sector, as far as it lies inside the length.
    fn put(&mut self, index: usize, sector: &Sector) {
        let Some(place) = self.sectors.get_mut(index) else { return };
        place.clone_from(sector);
        let inside = self.len - index * SECTOR_BYTES;
        if inside < SECTOR_BYTES
            && let Some(sector) = place
        {
            Arc::make_mut(sector)[inside..].fill(0);
        }
    }

    fn read(&self, start: usize, into: &mut [u8]) {
        let end = start + into.len();
        for index in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let at = index * SECTOR_BYTES;
            let (from, to) = (start.max(at), end.min(at + SECTOR_BYTES));
            let target = &mut into[from - start..to - start];
            match &self.sectors[index] {
                Some(sector) => target.copy_from_slice(&sector[from - at..to - at]),
                None => target.fill(0),
            }
        }
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    visible: Bytes,
    durable: Bytes,
    /// Sectors and the values they were given since the last sync, in the order of the writes.
    unsynced: Vec<(usize, Sector)>,
    /// Every length the file had since the last sync, oldest first.
    lengths: Vec<usize>,
    /// Sectors that take no space, until something is written there.
    holes: BTreeSet<usize>,
}

impl Inode {
    /// A file of these bytes that page cache and disk agree on.
    pub(crate) fn durable(bytes: &[u8]) -> Self {
        Self::agreed(Bytes::of(bytes))
    }

    fn agreed(bytes: Bytes) -> Self {
        Self { durable: bytes.clone(), visible: bytes, ..Self::default() }
    }

    /// The bytes that reads show.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.visible.len];
        self.visible.read(0, &mut bytes);
        bytes
    }

    /// Fills `into` from `offset`; whether the file has so many bytes.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some((start, start.checked_add(into.len())?)));
        match range {
            Some((start, end)) if end <= self.visible.len => {
                self.visible.read(start, into);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.visible.len as u64
    }

    /// Bytes of the disk that it takes.
    pub(crate) fn space(&self) -> u64 {
        let sectors = self.visible.sectors.len() - self.holes.len();
        ((sectors * SECTOR_BYTES) as u64).min(self.len())
    }

    /// Bytes of the disk that a write takes.
    pub(crate) fn space_for(&self, offset: u64, length: u64) -> u64 {
        let end = offset + length;
        let sectors = offset as usize / SECTOR_BYTES..(end as usize).div_ceil(SECTOR_BYTES);
        let filled = self.holes.range(sectors).count() * SECTOR_BYTES;
        // What lies between the end of the file and the write is a hole.
        end.saturating_sub(self.len().max(offset)) + filled as u64
    }

    /// Gives back the space of whole sectors.
    pub(crate) fn punch_hole(&mut self, offset: u64, length: u64) {
        let end = (offset + length).min(self.len()) as usize;
        let last =
            if end == self.visible.len { end.div_ceil(SECTOR_BYTES) } else { end / SECTOR_BYTES };
        for index in (offset as usize).div_ceil(SECTOR_BYTES)..last {
            self.visible.put(index, &None);
            self.unsynced.push((index, None));
            self.holes.insert(index);
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(offset).expect("offsets of simulated files fit in memory");
        let end = start + bytes.len();
        if self.visible.len < end {
            self.holes.extend(self.visible.sectors.len()..start / SECTOR_BYTES);
            self.visible.resize(end);
            self.lengths.push(end);
        }
        for index in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.holes.remove(&index);
        }
        let unsynced = &mut self.unsynced;
        self.visible.write(start, bytes, |index, sector| unsynced.push((index, sector.clone())));
    }

    /// Empties the file, as creating it again does.
    pub(crate) fn truncate(&mut self) {
        let sectors = self.visible.sectors.len().max(self.durable.sectors.len());
        self.unsynced.extend((0..sectors).map(|index| (index, None)));
        self.visible.resize(0);
        self.holes.clear();
        self.lengths.push(0);
    }

    pub(crate) fn sync(&mut self) {
        if self.unsynced.is_empty() && self.lengths.is_empty() {
            // Also a length that a failed sync lost stays lost: nothing is left to write.
            return;
        }
        self.durable.resize(self.visible.len);
        for (index, newest) in self.unsynced.drain(..) {
            self.durable.put(index, &newest);
        }
        self.lengths.clear();
    }

    /// Rule 7 of the fault model: some of it reaches the disk, all of it counts as clean.
    pub(crate) fn fail_sync(&mut self, survivor: &mut Survivor) {
        self.durable = self.surviving(survivor);
        self.unsynced.clear();
        self.lengths.clear();
    }

    pub(crate) fn after_crash(&self, survivor: &mut Survivor) -> Self {
        Self::agreed(self.surviving(survivor))
    }

    fn surviving(&self, survivor: &mut Survivor) -> Bytes {
        survivor.next_file();
        let mut length = match survivor.choose(self.lengths.len()) {
            None => self.durable.len,
            Some(index) => self.lengths[index],
        };
        if length > self.durable.len
            && matches!(survivor.survival, Survival::Random(_))
            && survivor.chance.one_in(4)
        {
            let sectors = (length - self.durable.len).div_ceil(SECTOR_BYTES);
            length -= (survivor.chance.index(sectors) * SECTOR_BYTES).min(length);
        }
        let mut bytes = self.durable.clone();
        bytes.resize(length);
        // By sector, and each sector's values as they were written: the sort keeps their order.
        let mut unsynced: Vec<&(usize, Sector)> = self.unsynced.iter().collect();
        unsynced.sort_by_key(|(index, _)| *index);
        for values in unsynced.chunk_by(|one, next| one.0 == next.0) {
            if survivor.survival == Survival::Headless && values[0].0 == 0 {
                continue;
            }
            if let Some(chosen) = survivor.choose(values.len()) {
                let (index, sector) = values[chosen];
                bytes.put(*index, sector);
            }
        }
        bytes
    }
}

impl Hash for Inode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.visible.hash(state);
        self.durable.hash(state);
        self.unsynced.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_no_space_and_read_as_zeros() {
        let mut inode = Inode::default();
        inode.write(0, &[1; 3 * SECTOR_BYTES]);
        assert_eq!((inode.space(), inode.len()), (1536, 1536));
        // Behind a gap.
        assert_eq!(inode.space_for(8192, 100), 100);
        inode.write(8192, &[2; 512]);
        assert_eq!((inode.space(), inode.len()), (2048, 8704));
        assert_eq!(inode.space_for(4096, 512), 512);
        inode.sync();
        inode.punch_hole(512, 8192);
        assert_eq!((inode.space(), inode.len()), (512, 8704));
        let contents = inode.contents();
        assert!(contents[..512] == [1; 512] && contents[512..].iter().all(|&byte| byte == 0));
        // It is lost with the power, or not.
        let kept = |survival| inode.after_crash(&mut Survivor::new(survival)).contents();
        assert_eq!(kept(Survival::Everything), contents);
        assert_eq!(kept(Survival::Nothing)[8192..], [2; 512]);
        inode.write(1024, &[3; 512]);
        assert_eq!(inode.space(), 1024);
    }

    /// Against a plain vector: writes of any place and length, cuts, and what is read back.
    #[test]
    fn bytes_are_as_in_a_vector() {
        for seed in 0..200 {
            let mut chance = Chance::from_seed(seed);
            let (mut bytes, mut plain) = (Bytes::default(), Vec::new());
            for _ in 0..40 {
                if chance.one_in(4) {
                    let len = chance.index(3000);
                    bytes.resize(len);
                    plain.resize(len, 0);
                } else if !plain.is_empty() {
                    let start = chance.index(plain.len());
                    let end = start + chance.index(plain.len() - start + 1);
                    let value = chance.pick(&[0, 0, 7]);
                    plain[start..end].fill(value);
                    bytes.write(start, &plain[start..end], |_, _| ());
                }
                let mut read = vec![1; plain.len()];
                bytes.read(0, &mut read);
                assert_eq!(read, plain, "seed {seed}");
                Bytes::of(&plain).read(0, &mut read);
                assert_eq!(read, plain, "seed {seed}");
            }
        }
    }
}
