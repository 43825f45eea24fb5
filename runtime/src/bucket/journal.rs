//! What was written to a store's files since the bucket was told.
//!
//! The journal hears of every write after it was done, in an order in which a write that waited for
//! another comes after it. So what it knows at any moment, a *cut*, is a state that the files of a
//! crashed process could be in: recovery makes a store of it, as it does of any. That is all that the
//! bucket has to be given, and why nothing here knows what the bytes mean.
//!
//! A segment file is used again and again. A *use* begins where a first block with another segment's
//! header is written; all that is known of the use before is then forgotten.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapidary_engine::{FileNo, SegmentId, SegmentUse};

use super::error::BucketError;
use super::format::manifest::{FileEntry, Part, Parts};
use super::format::object::{ObjectInfo, ObjectKey};
use super::lease::Lease;

/// How long a write that waits for room looks away from the lease.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Journal {
    state: Mutex<State>,
    /// Something was taken out of `pending`.
    room: Condvar,
    /// What was taken is in the bucket.
    has_landed: Condvar,
    pending_bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileNo, Known>,
    superblock: Vec<u8>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// Something is not as in the last cut.
    is_changed: bool,
    uses: u64,
    /// Cuts that landed.
    landings: u64,
    /// Highest segments of the log, and of others.
    newest: [SegmentId; 2],
    objects: BTreeMap<ObjectKey, ObjectInfo>,
}

/// A segment file.
#[derive(Clone, Debug)]
struct Known {
    /// Which use of a file this is, of all there ever were here.
    use_no: u64,
    entry: FileEntry,
    /// From there on the local file has what the bucket was never given.
    catch_up_from: Option<u64>,
    /// What the bucket has, the local file may have in part only.
    is_partial: bool,
    /// Counts changes of what the bucket is to have, and as of which of them it has all.
    changes: u64,
    landed: u64,
}

impl Known {
    /// Whether the manifest that landed last has all of it.
    fn is_landed(&self) -> bool {
        self.entry.segment != SegmentId(0)
            && self.changes == self.landed
            && self.catch_up_from.is_none()
    }
}

/// Bytes that were written and not shipped.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) file: FileNo,
    pub(super) segment: SegmentId,
    use_no: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What a local file has that the bucket may not have, to be read from the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FromFile {
    pub(super) file: FileNo,
    pub(super) segment: SegmentId,
    use_no: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    /// What the bucket has of it is to be forgotten.
    is_all: bool,
}

impl FromFile {
    fn is_of(&self, known: &Known) -> bool {
        known.use_no == self.use_no && !known.is_partial
    }
}

/// A state of the files at one moment.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) superblock: Vec<u8>,
    pub(super) pending: Vec<Pending>,
    files: BTreeMap<FileNo, InCut>,
    pub(super) objects: BTreeMap<ObjectKey, ObjectInfo>,
}

/// A file in a cut.
#[derive(Debug)]
struct InCut {
    use_no: u64,
    changes: u64,
    entry: FileEntry,
}

/// A segment that the bucket has, and of which the local file has more than a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Landed {
    pub(super) segment: SegmentId,
    /// In so many parts that it is to be brought together, which takes the local file.
    pub(super) is_scattered: bool,
}

impl Cut {
    /// What was pending is in the object `info`, from `at` on in its data, in order.
    pub(super) fn place(&mut self, info: &ObjectInfo) {
        let mut at = 0;
        for pending in &self.pending {
            let bytes = pending.bytes.len() as u64;
            let file = self.files.get_mut(&pending.file);
            if let Some(file) = file.filter(|file| file.use_no == pending.use_no) {
                file.entry.parts.put(pending.offset, Part { bytes, object: info.key, at });
            }
            at += bytes;
        }
        self.objects.insert(info.key, *info);
    }

    /// The files, as the manifest has them.
    pub(super) fn entries(&self) -> BTreeMap<FileNo, FileEntry> {
        self.files.iter().map(|(&number, file)| (number, file.entry.clone())).collect()
    }
}

impl Journal {
    pub(super) fn new(pending_bytes_max: usize) -> Self {
        Self { pending_bytes_max, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anything is written: a segment file that is there.
    pub(super) fn begin_with(&self, file: FileNo, found: Found) {
        let mut state = self.state();
        state.uses += 1;
        let use_no = state.uses;
        let Found { entry, is_log, catch_up_from, is_partial } = found;
        state.note_newest(entry.segment, is_log);
        // What is found whole counts as landed when it has been shipped by this host.
        let known = Known { use_no, entry, catch_up_from, is_partial, changes: 1, landed: 0 };
        state.files.insert(file, known);
        state.is_changed = true;
    }

    /// Before anything is written: the superblock file, and what the manifest says of objects.
    pub(super) fn begin(&self, superblock: Vec<u8>, objects: BTreeMap<ObjectKey, ObjectInfo>) {
        let mut state = self.state();
        state.superblock = superblock;
        state.objects = objects;
    }

    /// Waits until `bytes` more may be pending, or the lease is over.
    pub(super) fn wait_for_room(&self, bytes: usize, lease: &Lease) -> Result<(), BucketError> {
        let mut state = self.state();
        loop {
            lease.check()?;
            if state.pending_bytes == 0 || state.pending_bytes + bytes <= self.pending_bytes_max {
                return Ok(());
            }
            let waited = self.room.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The superblock file was created, and has no bytes.
    pub(super) fn create_superblock(&self) {
        self.state().superblock.clear();
    }

    pub(super) fn write_superblock(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if state.superblock.len() < end {
            state.superblock.resize(end, 0);
        }
        state.superblock[start..end].copy_from_slice(bytes);
        state.is_changed = true;
    }

    /// A segment file was created: it is empty.
    pub(super) fn create(&self, file: FileNo) {
        let mut state = self.state();
        let entry = FileEntry {
            segment: SegmentId(0),
            bytes: 0,
            first_block: Vec::new(),
            parts: Parts::default(),
        };
        state.put_to_use(file, entry, false);
    }

    /// A segment file is so long at least.
    pub(super) fn lengthen(&self, file: FileNo, bytes: u64) {
        if let Some(known) = self.state().files.get_mut(&file) {
            known.entry.bytes = known.entry.bytes.max(bytes);
        }
    }

    /// Bytes were written to a segment file.
    pub(super) fn write(&self, file: FileNo, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let first_block = bytes.get(..SegmentUse::BLOCK_BYTES).filter(|_| offset == 0);
        let header =
            first_block.and_then(|block| SegmentUse::read(block, file).map(|use_| (block, use_)));
        let Some(known) = state.files.get(&file) else { return };
        if let Some((block, header)) =
            header.filter(|(_, header)| header.segment != known.entry.segment)
        {
            let entry = FileEntry {
                segment: header.segment,
                bytes: known.entry.bytes,
                first_block: without_zeros(block).to_vec(),
                parts: Parts::default(),
            };
            state.put_to_use(file, entry, header.is_log);
        }
        let Some(known) = state.files.get_mut(&file) else { return };
        known.entry.bytes = known.entry.bytes.max(offset + bytes.len() as u64);
        if known.entry.segment == SegmentId(0) && bytes.iter().all(|&byte| byte == 0) {
            // A file that is being filled: zeros are what the bucket has anyway.
            return;
        }
        known.changes += 1;
        let (use_no, segment) = (known.use_no, known.entry.segment);
        state.is_changed = true;
        state.pending_bytes += bytes.len();
        if let Some(last) = state.pending.last_mut()
            && last.use_no == use_no
            && last.offset + last.bytes.len() as u64 == offset
        {
            return last.bytes.extend_from_slice(bytes);
        }
        state.pending.push(Pending { file, segment, use_no, offset, bytes: bytes.to_vec() });
    }

    /// A segment file was removed.
    pub(super) fn remove(&self, file: FileNo) {
        let mut state = self.state();
        if let Some(known) = state.files.remove(&file) {
            state.forget_pending(known.use_no);
            state.is_changed = true;
        }
        drop(state);
        self.room.notify_all();
    }

    /// Bytes that were written and not taken by a cut.
    pub(super) fn pending_bytes(&self) -> usize {
        self.state().pending_bytes
    }

    /// Whether something is not as in the last cut.
    pub(super) fn is_changed(&self) -> bool {
        self.state().is_changed
    }

    /// The next file that has what the bucket was never given.
    pub(super) fn next_to_catch_up(&self) -> Option<FromFile> {
        self.state().files.iter().find_map(|(&file, known)| {
            let from = known.catch_up_from?;
            let (segment, use_no) = (known.entry.segment, known.use_no);
            let to = known.entry.bytes;
            Some(FromFile { file, segment, use_no, from, to, is_all: from == 0 })
        })
    }

    /// A file that is in many parts: of more than `sealed_max` if it is not written any more, or of more
    /// than `parts_max`.
    pub(super) fn next_to_join(&self, sealed_max: usize, parts_max: usize) -> Option<FromFile> {
        let state = self.state();
        let is_due = |known: &Known| {
            let is_newest = state.newest.contains(&known.entry.segment);
            let most = if is_newest { parts_max } else { sealed_max };
            known.entry.parts.len() > most && !known.is_partial && known.catch_up_from.is_none()
        };
        let due = state.files.iter().filter(|(_, known)| is_due(known));
        let (&file, known) = due.max_by_key(|(_, known)| known.entry.parts.len())?;
        let (segment, use_no) = (known.entry.segment, known.use_no);
        Some(FromFile { file, segment, use_no, from: 0, to: known.entry.parts.end(), is_all: true })
    }

    /// Whether the file is still in the use that was to be read, and all of it is there.
    pub(super) fn is_still(&self, read: &FromFile) -> bool {
        self.state().files.get(&read.file).is_some_and(|known| read.is_of(known))
    }

    /// What was read from a file, `bytes` of it, is in the object `info`. If the file has been put to
    /// another use since, or evicted, it is not known what was read; then it is of no use.
    pub(super) fn place_read(&self, read: &FromFile, bytes: u64, info: &ObjectInfo) {
        let mut state = self.state();
        let Some(known) = state.files.get_mut(&read.file).filter(|known| read.is_of(known)) else {
            return;
        };
        known.catch_up_from = None;
        known.changes += 1;
        if read.is_all {
            known.entry.parts = Parts::default();
        }
        if bytes > 0 {
            known.entry.parts.put(read.from, Part { bytes, object: info.key, at: 0 });
            state.objects.insert(info.key, *info);
        }
        state.is_changed = true;
    }

    /// Takes what is pending, and the state that all of it makes.
    pub(super) fn cut(&self) -> Cut {
        let mut state = self.state();
        state.is_changed = false;
        state.pending_bytes = 0;
        let pending = std::mem::take(&mut state.pending);
        let is_in_use =
            |known: &&Known| known.entry.segment != SegmentId(0) || known.entry.parts.len() > 0;
        let files = state.files.iter().filter(|(_, known)| is_in_use(known));
        let in_cut = |known: &Known| InCut {
            use_no: known.use_no,
            changes: known.changes,
            entry: known.entry.clone(),
        };
        let files = files.map(|(&file, known)| (file, in_cut(known))).collect();
        let cut = Cut {
            superblock: state.superblock.clone(),
            pending,
            files,
            objects: state.objects.clone(),
        };
        drop(state);
        self.room.notify_all();
        cut
    }

    /// The manifest says what the cut says.
    pub(super) fn landed(&self, cut: &Cut, used: &BTreeMap<ObjectKey, ObjectInfo>) {
        let mut state = self.state();
        for (number, file) in &cut.files {
            let known = state.files.get_mut(number);
            if let Some(known) = known.filter(|known| known.use_no == file.use_no) {
                known.entry.parts = file.entry.parts.clone();
                known.landed = file.changes;
            }
        }
        state.objects.clone_from(used);
        state.landings += 1;
        drop(state);
        self.has_landed.notify_all();
    }

    /// Files of which the manifest that landed last has everything, and that are here whole, but for the
    /// newest of each kind.
    pub(super) fn landed_files(&self, scattered_from: usize) -> BTreeMap<FileNo, Landed> {
        let state = self.state();
        let is_one = |known: &Known| {
            known.is_landed() && !known.is_partial && !state.newest.contains(&known.entry.segment)
        };
        let found = state.files.iter().filter(|(_, known)| is_one(known));
        let landed = |known: &Known| Landed {
            segment: known.entry.segment,
            is_scattered: known.entry.parts.len() > scattered_from,
        };
        found.map(|(&file, known)| (file, landed(known))).collect()
    }

    /// From now on the file may have a part only of what the bucket has of it, which is returned: nothing
    /// is read from the file any more to be shipped. `None` if the bucket has not all of `segment`.
    pub(super) fn make_partial(
        &self,
        file: FileNo,
        segment: SegmentId,
    ) -> Option<(FileEntry, BTreeMap<ObjectKey, ObjectInfo>)> {
        let mut state = self.state();
        let known = state.files.get_mut(&file)?;
        if known.entry.segment != segment || !known.is_landed() || known.is_partial {
            return None;
        }
        known.is_partial = true;
        let entry = known.entry.clone();
        let used = entry.parts.iter().map(|(_, part)| part.object);
        let objects = used.map(|key| (key, state.objects[&key])).collect();
        Some((entry, objects))
    }

    /// It was not done: the file is whole.
    pub(super) fn make_whole(&self, file: FileNo, segment: SegmentId) {
        let mut state = self.state();
        let known = state.files.get_mut(&file);
        if let Some(known) = known.filter(|known| known.entry.segment == segment) {
            known.is_partial = false;
        }
    }

    /// Whether a landing could make a file that is not written any more one of
    /// [`landed_files`](Self::landed_files), and how often something has landed.
    pub(super) fn is_landing_awaited(
        &self,
        is_finished: impl Fn(SegmentId) -> bool,
    ) -> Option<u64> {
        let state = self.state();
        let waits = |known: &Known| {
            known.entry.segment != SegmentId(0)
                && !known.is_landed()
                && !state.newest.contains(&known.entry.segment)
        };
        let mut segments = Vec::new();
        segments.extend(
            state.files.values().filter(|known| waits(known)).map(|known| known.entry.segment),
        );
        let landings = state.landings;
        drop(state);
        segments.into_iter().any(is_finished).then_some(landings)
    }

    /// Waits, for `time` at most, until something has landed since it had so `often`; whether it has.
    pub(super) fn wait_for_landing(&self, often: u64, time: Duration) -> bool {
        let waited =
            self.has_landed.wait_timeout_while(self.state(), time, |state| state.landings == often);
        waited.unwrap_or_else(PoisonError::into_inner).0.landings != often
    }
}

/// A segment file that is there before anything is written.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: FileEntry,
    pub(super) is_log: bool,
    pub(super) catch_up_from: Option<u64>,
    pub(super) is_partial: bool,
}

impl State {
    fn put_to_use(&mut self, file: FileNo, entry: FileEntry, is_log: bool) {
        if let Some(known) = self.files.get(&file) {
            self.forget_pending(known.use_no);
        }
        self.uses += 1;
        self.note_newest(entry.segment, is_log);
        let use_no = self.uses;
        let known =
            Known { use_no, entry, catch_up_from: None, is_partial: false, changes: 1, landed: 0 };
        self.files.insert(file, known);
    }

    fn note_newest(&mut self, segment: SegmentId, is_log: bool) {
        let newest = &mut self.newest[usize::from(is_log)];
        *newest = segment.max(*newest);
    }

    fn forget_pending(&mut self, use_no: u64) {
        self.pending.retain(|pending| pending.use_no != use_no);
        self.pending_bytes = self.pending.iter().map(|pending| pending.bytes.len()).sum();
    }
}

/// A block without the zeros at its end.
pub(super) fn without_zeros(block: &[u8]) -> &[u8] {
    let len = block.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &block[..len]
}
