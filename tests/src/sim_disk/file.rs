//! One file of the simulated disk: the page cache's bytes, the disk's bytes, and what lies between.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use super::{SECTOR_BYTES, Survival};
use crate::chance::Chance;

type Sector = Box<[u8; SECTOR_BYTES]>;

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
            Survival::Everything => Some(values - 1),
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

#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Every value a sector was given since the last sync, oldest first.
    unsynced: BTreeMap<usize, Vec<Sector>>,
    /// Every length the file had since the last sync, oldest first.
    lengths: Vec<usize>,
}

impl Inode {
    /// A file that page cache and disk agree on.
    pub(crate) fn durable(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), visible: bytes, ..Self::default() }
    }

    pub(crate) fn visible(&self) -> &[u8] {
        &self.visible
    }

    pub(crate) fn len(&self) -> u64 {
        self.visible.len() as u64
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(offset).expect("offsets of simulated files fit in memory");
        let end = start + bytes.len();
        if self.visible.len() < end {
            self.visible.resize(end, 0);
            self.lengths.push(end);
        }
        self.visible[start..end].copy_from_slice(bytes);
        for index in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.unsynced.entry(index).or_default().push(sector(&self.visible, index));
        }
    }

    /// Empties the file, as creating it again does.
    pub(crate) fn truncate(&mut self) {
        let sectors = self.visible.len().max(self.durable.len()).div_ceil(SECTOR_BYTES);
        for index in 0..sectors {
            self.unsynced.entry(index).or_default().push(Box::new([0; SECTOR_BYTES]));
        }
        self.visible.clear();
        self.lengths.push(0);
    }

    pub(crate) fn sync(&mut self) {
        if self.unsynced.is_empty() && self.lengths.is_empty() {
            // Also a length that a failed sync lost stays lost: nothing is left to write.
            return;
        }
        self.durable.resize(self.visible.len(), 0);
        for (&index, values) in &self.unsynced {
            if let Some(newest) = values.last() {
                put_sector(&mut self.durable, index, newest);
            }
        }
        self.unsynced.clear();
        self.lengths.clear();
    }

    /// Rule 7 of the fault model: some of it reaches the disk, all of it counts as clean.
    pub(crate) fn fail_sync(&mut self, survivor: &mut Survivor) {
        self.durable = self.surviving(survivor);
        self.unsynced.clear();
        self.lengths.clear();
    }

    pub(crate) fn after_crash(&self, survivor: &mut Survivor) -> Self {
        Self::durable(self.surviving(survivor))
    }

    fn surviving(&self, survivor: &mut Survivor) -> Vec<u8> {
        survivor.next_file();
        let mut length = match survivor.choose(self.lengths.len()) {
            None => self.durable.len(),
            Some(index) => self.lengths[index],
        };
        if length > self.durable.len()
            && matches!(survivor.survival, Survival::Random(_))
            && survivor.chance.one_in(4)
        {
            let sectors = (length - self.durable.len()).div_ceil(SECTOR_BYTES);
            length -= (survivor.chance.index(sectors) * SECTOR_BYTES).min(length);
        }
        let mut bytes = self.durable.clone();
        bytes.resize(length, 0);
        for (&index, values) in &self.unsynced {
            if let Some(chosen) = survivor.choose(values.len()) {
                put_sector(&mut bytes, index, &values[chosen]);
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

fn sector(bytes: &[u8], index: usize) -> Sector {
    let start = index * SECTOR_BYTES;
    let source = &bytes[start..bytes.len().min(start + SECTOR_BYTES)];
    let mut sector = Box::new([0; SECTOR_BYTES]);
    sector[..source.len()].copy_from_slice(source);
    sector
}

/// Sets a sector, as far as it lies inside the file's length.
fn put_sector(bytes: &mut [u8], index: usize, sector: &[u8; SECTOR_BYTES]) {
    let start = index * SECTOR_BYTES;
    let length = bytes.len().saturating_sub(start).min(SECTOR_BYTES);
    if length > 0 {
        bytes[start..start + length].copy_from_slice(&sector[..length]);
    }
}
