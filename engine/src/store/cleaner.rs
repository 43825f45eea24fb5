//! The cleaner: moves what is live out of segments that are mostly garbage, so that they can be used
//! again.
//!
//! It works on segments that the last checkpoint has passed, with what that checkpoint says is live, so
//! it shares the checkpointer's lock and not the log: commits go on. What it moves goes to segments of
//! *survivors*, which are no part of the log, byte by byte. Nothing that refers to it is rewritten: a
//! *forward* says where it is now (`segments/forward.rs`).
//!
//! Order, and what would break otherwise:
//! 1. What is live is copied to a segment of survivors, and synced. 2. The forwards are published, and
//!    readers go there: before the sync, a crash could leave a reader's page nowhere. 3. The next
//!    checkpoint writes the forwards down; until then a crash finds everything where it was. 4. Only
//!    after its superblock is durable the emptied segments are made ready.
//!
//! Victims are chosen by benefit over cost, after Rosenblum and Ousterhout (The Design and
//! Implementation of a Log-Structured File System, 1991): free space gained times age, over what reading
//! and writing costs. The age of a segment counts from when it was filled, also if with survivors: where
//! overwrites hit everything alike, age of data says nothing, and segments that are mostly live would be
//! moved again and again because their content is old. Survivors of the log and those that were moved before go to different segments: what
//! has stayed for long will stay longer, and so segments are mostly all live or all garbage.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Shared;
use super::checkpoint::Checkpointer;
use super::holders::{Holders, Verdict};
use super::recovery::Spot;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{self, BatchHeader};
use crate::format::catalog::{FORWARD_BYTES, OtherPart, ROOT_PART_BYTES, ROOT_SEGMENT_BYTES};
use crate::format::record::{self, ItemKind, SURVIVOR_FIXED_BYTES, SURVIVORS_FIXED_BYTES};
use crate::format::segment::{BATCHES_AT, SegmentHeader, SegmentKind};
use crate::format::{Hash, Identity, StoredRef, slot_at, stored_len};
use crate::segments::{Candidate, LiveChanges, SegmentFile, Segments, Taken, Totals, io_error};
use crate::types::{FacetId, Incarnation, Lsn, SegmentId, StoreId};

/// Bytes of survivors that are written at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes that a pass moves at most, so that a checkpoint need not wait for long.
const PASS_BYTES: u64 = 2 << 20;
/// Of what segments may take, this share is won at once.
const STEP_SHARE: u64 = 256;
/// Of what a victim could hold, at least this share must be garbage, in percent. Less is not worth
/// it, and what is left of a segment by headers and padding does not get better by moving.
const GARBAGE_PERCENT_MIN: u64 = 10;
/// How long a segment is left alone that could not be read: what its file is fetched from may not answer.
const AGAIN_NS: u64 = 10_000_000_000;

/// What a pass of the cleaner did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Segments that nothing live is in any more; the next checkpoint makes them ready.
    pub segments: u64,
    /// Bytes that were moved.
    pub moved_bytes: u64,
}

/// What the cleaner remembers from one pass to the next.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    pub(super) moved_bytes: u64,
    pub(super) segments: u64,
    /// Segments being filled: with what was moved out of the log, and out of survivors.
    outputs: [Option<Output>; 2],
    /// Segments in which something could not be read, and until when they are left alone, on the monotonic
    /// clock: for good what is damaged, for a while what could not be had.
    unreadable: FxHashMap<SegmentId, u64>,
    /// What was live in segments of survivors when they were full: they can hold no more.
    capacities: FxHashMap<SegmentId, u64>,
    /// Bytes of segments that were emptied since the last checkpoint.
    emptied_bytes: u64,
    /// Bytes of the segments that there was to choose from last time, and what is live in them.
    pub(super) settled_bytes: u64,
    pub(super) settled_live_bytes: u64,
    trimmed_ns: u64,
    /// Facets whose history has still to be looked at in this round.
    cold: Vec<FacetId>,
}

impl Cleaning {
    /// Whether histories should be looked at again.
    pub(super) fn is_trim_due(&mut self, now_ns: u64) -> bool {
        const INTERVAL_NS: u64 = 1_000_000_000;
        let is_due = now_ns.saturating_sub(self.trimmed_ns) >= INTERVAL_NS;
        if is_due {
            self.trimmed_ns = now_ns;
        }
        is_due
    }

    /// The next few of all cold facets with history.
    pub(super) fn next_cold(&mut self, all: impl FnOnce() -> Vec<FacetId>) -> Vec<FacetId> {
        const AT_ONCE: usize = 64;
        if self.cold.is_empty() {
            self.cold = all();
        }
        self.cold.split_off(self.cold.len().saturating_sub(AT_ONCE))
    }
}

/// Why the cleaner is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urge {
    /// To see whether space is beyond bounds.
    Routine,
    /// Something was refused for lack of space, or somebody wants it all.
    Space,
}

/// Told how many bytes were written, and how urgent it is (1: not at all).
pub(super) type Pace<'a> = &'a mut dyn FnMut(usize, f64);

impl Shared {
    /// One pass, if it is worth it.
    pub(super) fn clean(&self, urge: Urge, pace: Pace<'_>) -> Result<Cleaned> {
        let core = &self.core;
        let mut checkpointer = self.checkpointer();
        core.log.check_writable()?;
        let _unwinding = core.log.poison_if_unwinding();
        let replay = checkpointer.superblock.current.replay;
        let totals = core.segments.totals(replay.segment, replay.lsn);
        let now_ns = core.monotonic_ns();
        self.cleaning().unreadable.retain(|_, until_ns| *until_ns > now_ns);
        // Empty ones are as good as free: the next checkpoint takes them.
        let candidates: Vec<Candidate> = core
            .segments
            .candidates(replay.segment, replay.lsn)
            .into_iter()
            .filter(|candidate| candidate.live_bytes > 0)
            .filter(|candidate| !self.cleaning().unreadable.contains_key(&candidate.segment))
            .collect();
        let taken: u64 = candidates.iter().map(|candidate| u64::from(candidate.size)).sum();
        let live: u64 = candidates.iter().map(|candidate| candidate.live_bytes).sum();
        let bound = self.settled_bytes_max(live, totals);
        {
            let mut cleaning = self.cleaning();
            (cleaning.settled_bytes, cleaning.settled_live_bytes) = (taken, live);
        }
        if urge == Urge::Routine && taken <= bound {
            return Ok(Cleaned::default());
        }
        // Precision is of no matter here.
        #[expect(clippy::cast_precision_loss, reason = "a rough measure")]
        let urgency = (taken as f64 / bound.max(1) as f64).max(1.0);
        let now = core.log.durable_lsn();
        let victims = {
            let mut cleaning = self.cleaning();
            let known: FxHashSet<SegmentId> =
                candidates.iter().map(|candidate| candidate.segment).collect();
            cleaning.capacities.retain(|segment, _| known.contains(segment));
            choose(candidates, &cleaning.capacities, now, urge)
        };
        let mut pass = Pass {
            shared: self,
            store: self.id,
            incarnation: core.incarnation,
            moved: Moved::default(),
            copied: Vec::new(),
            full: Vec::new(),
            pace,
            urgency: if urge == Urge::Space { f64::INFINITY } else { urgency },
            now,
            needed: match urge {
                Urge::Space => u64::MAX,
                // A little more, so that what a checkpoint makes ready is worth it.
                Urge::Routine => taken - bound + bound / STEP_SHARE,
            },
        };
        let outputs = std::mem::take(&mut self.cleaning().outputs);
        let _span = tracing::debug_span!("clean").entered();
        let (outputs, result) = pass.run(&checkpointer, &victims, outputs);
        let moved = std::mem::take(&mut pass.moved);
        let cleaned = Cleaned { segments: moved.emptied, moved_bytes: moved.bytes };
        {
            let mut cleaning = self.cleaning();
            cleaning.outputs = outputs;
            cleaning.moved_bytes += cleaned.moved_bytes;
            cleaning.segments += cleaned.segments;
            let again_ns = now_ns.saturating_add(AGAIN_NS);
            let until_ns = |may_pass| if may_pass { again_ns } else { u64::MAX };
            let unreadable = moved.unreadable.into_iter();
            cleaning
                .unreadable
                .extend(unreadable.map(|(segment, may_pass)| (segment, until_ns(may_pass))));
            cleaning.capacities.extend(moved.filled);
            cleaning.emptied_bytes += moved.emptied_bytes;
        }
        for part in moved.rewrite {
            match part {
                OtherPart::Shared => checkpointer.references.set_dirty(),
                OtherPart::Settings => checkpointer.rewrite_settings = true,
                OtherPart::Forwards(segment) => {
                    core.segments.files.with_forwards(|forwards| forwards.set_dirty(segment));
                }
            }
        }
        tracing::debug!(
            segments = cleaned.segments,
            bytes = cleaned.moved_bytes,
            allocated = totals.allocated_bytes,
            "cleaned"
        );
        result.map(|()| cleaned)
    }

    /// Bytes that segments may take in which `live` bytes are, and that the cleaner can do something
    /// about: what the bound on the whole store leaves beside the log since the last checkpoint, what
    /// the cleaner is filling, and what has to be ready. Of a small store these take all of it; then half
    /// of the garbage that the bound allows is left to segments.
    ///
    /// As the log grows, so this shrinks, until the next checkpoint: then what was overwritten becomes
    /// garbage. So the cleaner works all the time, and frees segments as fast as the log takes them.
    fn settled_bytes_max(&self, live: u64, totals: Totals) -> u64 {
        let core = &self.core;
        let percent = u64::from(core.tunables.space_percent_max);
        let share = |percent: u64| live.saturating_mul(percent) / 100;
        let unsettled = totals.allocated_bytes - totals.ready_bytes - totals.settled_bytes;
        let beside = unsettled + totals.kept_bytes;
        let slack = 2 * u64::from(core.segments.format().segment_bytes_min);
        let least = share(100 + percent.saturating_sub(100) / 2) + slack;
        share(percent).saturating_sub(beside).max(least)
    }

    /// Whether so much was emptied that a checkpoint should make it ready; `is_all`: nothing more will
    /// be for now.
    pub(super) fn is_emptied(&self, is_all: bool) -> bool {
        const SHARE: u64 = 128;
        let emptied = self.cleaning().emptied_bytes;
        let is_share =
            || emptied >= self.core.segments.totals(None, Lsn(0)).allocated_bytes / SHARE;
        emptied > 0 && (is_all || is_share())
    }

    /// A checkpoint has made ready what was emptied.
    pub(super) fn reset_emptied(&self) {
        self.cleaning().emptied_bytes = 0;
    }
}

/// Victims, best first.
fn choose(
    mut candidates: Vec<Candidate>,
    capacities: &FxHashMap<SegmentId, u64>,
    now: Lsn,
    urge: Urge,
) -> Vec<Candidate> {
    candidates.retain(|candidate| {
        let capacity = capacities.get(&candidate.segment).copied();
        let capacity = capacity.unwrap_or(u64::from(candidate.size));
        capacity.saturating_sub(candidate.live_bytes) * 100 >= capacity * GARBAGE_PERCENT_MIN
    });
    // Free space gained times age, over what reading all of it and writing what is live costs.
    let score = |candidate: &Candidate| -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "only the order matters")]
        let live = candidate.live_bytes as f64 / f64::from(candidate.size.max(1));
        #[expect(clippy::cast_precision_loss, reason = "only the order matters")]
        let age = match urge {
            Urge::Routine => (now.0.saturating_sub(candidate.born.0) + 1) as f64,
            // What frees most is wanted, and at once.
            Urge::Space => 1.0,
        };
        (1.0 - live.min(1.0)) * age / (1.0 + live)
    };
    candidates.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.segment.cmp(&b.segment)));
    candidates
}

/// Bytes that a checkpoint needs to say where so many survivors went.
fn forwards_bytes_max(survivors: usize) -> usize {
    // To two segments at most, as a victim's survivors mostly go to one.
    survivors * FORWARD_BYTES + 2 * (record::part_bytes(8) + ROOT_PART_BYTES + ROOT_SEGMENT_BYTES)
}

/// What a pass has come to.
#[derive(Debug, Default)]
struct Moved {
    bytes: u64,
    emptied: u64,
    emptied_bytes: u64,
    /// Segments of survivors that are full, and what is live in them.
    filled: Vec<(SegmentId, u64)>,
    rewrite: Vec<OtherPart>,
    /// Segments in which something could not be read, and whether it may be later.
    unreadable: Vec<(SegmentId, bool)>,
}

/// Something to be moved.
struct Survivor {
    reference: StoredRef,
    is_page: bool,
    bytes: Vec<u8>,
}

/// What was copied out of a victim, and to where.
#[derive(Debug, Default)]
struct Copied {
    moves: Vec<(StoredRef, Identity)>,
    live: LiveChanges,
}

struct Pass<'a> {
    shared: &'a Shared,
    store: StoreId,
    incarnation: Incarnation,
    moved: Moved,
    /// Not published yet.
    copied: Vec<Copied>,
    /// Outputs that were filled, not synced yet.
    full: Vec<(SegmentId, SegmentFile)>,
    pace: Pace<'a>,
    urgency: f64,
    /// Where the log is.
    now: Lsn,
    /// Bytes that are to be won.
    needed: u64,
}

/// How looking at a victim ended.
enum Looked {
    Survivors(Vec<Survivor>, Vec<OtherPart>),
    /// Whether another look, later, may see more.
    Unreadable {
        may_pass: bool,
    },
}

/// What could not be read: another look may help, unless it is damaged.
fn unreadable(error: &Error) -> Looked {
    tracing::warn!(%error, "a segment cannot be cleaned");
    Looked::Unreadable { may_pass: matches!(error.kind(), ErrorKind::Io | ErrorKind::Unavailable) }
}

impl Pass<'_> {
    fn segments(&self) -> &Segments {
        &self.shared.core.segments
    }

    fn run(
        &mut self,
        checkpointer: &Checkpointer,
        victims: &[Candidate],
        mut outputs: [Option<Output>; 2],
    ) -> ([Option<Output>; 2], Result<()>) {
        let mut holders = Holders::new(self.shared, checkpointer);
        let mut result = Ok(true);
        for victim in victims {
            let won = self.moved.emptied_bytes.saturating_sub(self.moved.bytes);
            if self.moved.bytes >= PASS_BYTES || won >= self.needed {
                break;
            }
            result = self.copy(&mut holders, victim, &mut outputs);
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        let result = match result.and_then(|_| self.publish(&outputs)) {
            // What was written is half known: only recovery goes on from there.
            Err(error) if !matches!(error, Error::Poisoned { .. } | Error::Closed) => {
                Err(self.shared.core.log.poison(&error))
            }
            result => result,
        };
        (outputs, result)
    }

    /// Copies everything live out of a victim; `false` if there is no room.
    fn copy(
        &mut self,
        holders: &mut Holders<'_>,
        victim: &Candidate,
        outputs: &mut [Option<Output>; 2],
    ) -> Result<bool> {
        let kind = self.segments().kind(victim.segment);
        let (survivors, rewrite) = match self.look(holders, victim)? {
            Looked::Survivors(survivors, rewrite) => (survivors, rewrite),
            Looked::Unreadable { may_pass } => {
                self.moved.unreadable.push((victim.segment, may_pass));
                return Ok(true);
            }
        };
        let slot = usize::from(kind == SegmentKind::Survivors);
        // The checkpoint that is due will have to say where they went.
        self.segments().add_others(forwards_bytes_max(survivors.len()));
        let mut copied = Copied::default();
        for survivor in &survivors {
            let needed = Output::bytes_for(survivor.bytes.len());
            if !outputs[slot].as_ref().is_some_and(|output| output.has_room(needed)) {
                if let Some(full) = outputs[slot].take() {
                    let full = self.finish(full, &mut copied, victim.segment)?;
                    self.segments().seal(full.taken.segment, Lsn(0));
                    self.moved.filled.push((full.taken.segment, full.live_bytes));
                    self.full.push((full.taken.segment, full.file));
                }
                let buffered = || self.shared.core.log.admitted_bytes();
                let taken = self.segments().take_for_survivors(needed as u64, self.now, buffered);
                let Some(taken) = taken else {
                    // What was copied so far is not led to, and is in the way of nobody.
                    return Ok(false);
                };
                let file = self.segments().files.get(taken.segment)?;
                outputs[slot] = Some(Output::new(taken, file, self.now));
            }
            let output = outputs[slot].as_mut().expect("it was just made");
            output.push(survivor);
            if output.pending_bytes() >= CHUNK_BYTES {
                let written = output.write(self.store, self.incarnation, self.segments())?;
                (self.pace)(written, self.urgency);
            }
        }
        if let Some(output) = outputs[slot].take() {
            outputs[slot] = Some(self.finish(output, &mut copied, victim.segment)?);
        }
        let bytes: u64 = copied.moves.iter().map(|(reference, _)| u64::from(reference.len)).sum();
        self.copied.push(copied);
        self.moved.bytes += bytes;
        self.moved.emptied += 1;
        self.moved.emptied_bytes += u64::from(victim.size);
        self.moved.rewrite.extend(rewrite);
        Ok(true)
    }

    /// What was copied out of all victims 1. is synced, before 2. anybody is led there.
    fn publish(&mut self, outputs: &[Option<Output>; 2]) -> Result<()> {
        if self.copied.is_empty() {
            return Ok(());
        }
        let files = &self.shared.core.segments.files;
        let open = outputs.iter().flatten().map(|output| (output.taken.segment, &output.file));
        let full = self.full.iter().map(|(segment, file)| (*segment, file));
        for (segment, file) in full.chain(open) {
            file.sync().map_err(|source| io_error(files, "sync", segment, None, source))?;
        }
        for output in outputs.iter().flatten() {
            self.segments().set_finished(output.taken.segment, output.offset);
        }
        for Copied { moves, live } in self.copied.drain(..) {
            files.with_forwards(|forwards| forwards.add(moves));
            self.shared.core.count(&live)?;
        }
        Ok(())
    }

    /// Writes what an output has pending, and takes down where everything went.
    fn finish(
        &mut self,
        mut output: Output,
        copied: &mut Copied,
        victim: SegmentId,
    ) -> Result<Output> {
        let written = output.write(self.store, self.incarnation, self.segments())?;
        (self.pace)(written, self.urgency);
        for (reference, is_page, now) in output.placed.drain(..) {
            output.live_bytes += u64::from(reference.len);
            let count = if is_page { LiveChanges::page } else { LiveChanges::part };
            count(&mut copied.live, victim, reference.len, -1);
            count(&mut copied.live, now.segment, reference.len, 1);
            copied.moves.push((reference, now));
        }
        Ok(output)
    }

    /// Reads a victim and finds what of it is live.
    fn look(&self, holders: &mut Holders<'_>, victim: &Candidate) -> Result<Looked> {
        let (mut survivors, mut rewrite) = (Vec::new(), Vec::new());
        let mut live_bytes = 0;
        let mut offset = BATCHES_AT;
        while offset < victim.size {
            let spot = Spot {
                store: self.store,
                file: victim.file,
                segment: Some(victim.segment),
                offset,
                end: victim.size,
            };
            let batch = match spot.batch(self.segments()) {
                Ok(batch) => batch,
                Err(error) => return Ok(unreadable(&error)),
            };
            let Some((header, _, bytes)) = batch else { break };
            let Ok(items) = record::items(&bytes, header.first_lsn, header.record_count) else {
                break;
            };
            let records_at = u64::from(offset) + batch::HEADER_BYTES as u64;
            for item in items {
                let here = Identity {
                    segment: victim.segment,
                    slot: slot_at(records_at + item.at as u64),
                };
                let Identity { segment, slot } = item.moved.unwrap_or(here);
                let len = stored_len(item.bytes.len());
                let reference = StoredRef { segment, slot, len, crc: item.crc };
                // A copy may be here that nobody was ever led to: of a pass that found no room.
                if self.segments().files.place(reference.identity()) != here {
                    continue;
                }
                let verdict = match holders.verdict(item.kind, reference) {
                    Ok(verdict) => verdict,
                    Err(error @ (Error::Poisoned { .. } | Error::Closed)) => return Err(error),
                    Err(error) => return Ok(unreadable(&error)),
                };
                match verdict {
                    Verdict::Dead => continue,
                    Verdict::Live => {
                        let is_page = matches!(item.kind, ItemKind::Page { .. });
                        survivors.push(Survivor { reference, is_page, bytes: item.bytes.to_vec() });
                    }
                    Verdict::Rewrite(part) => rewrite.push(part),
                    Verdict::Root => return Ok(Looked::Unreadable { may_pass: false }),
                }
                live_bytes += u64::from(reference.len);
            }
            offset += stored_len(batch::padded_bytes(bytes.len()));
        }
        if live_bytes != victim.live_bytes {
            // A damaged batch, most likely. What can be read is left where it is.
            tracing::warn!(
                segment = victim.segment.0,
                found = live_bytes,
                counted = victim.live_bytes,
                "a segment holds other than what is counted, and is not cleaned: verify the store"
            );
            return Ok(Looked::Unreadable { may_pass: false });
        }
        Ok(Looked::Survivors(survivors, rewrite))
    }
}

/// A segment of survivors that is being filled.
#[derive(Debug)]
struct Output {
    taken: Taken,
    file: SegmentFile,
    born: Lsn,
    /// Where the next batch goes; 0 before the first.
    offset: u32,
    hash: Hash,
    /// Number of the next record.
    next: Lsn,
    /// Survivors that are not written yet, without the head of their record.
    pending: Vec<u8>,
    /// What they are, and where in `pending`.
    pending_items: Vec<(StoredRef, bool, usize)>,
    live_bytes: u64,
    /// Survivors that were written, and where.
    placed: Vec<(StoredRef, bool, Identity)>,
}

impl Output {
    fn new(taken: Taken, file: SegmentFile, born: Lsn) -> Self {
        Self {
            taken,
            file,
            born,
            offset: 0,
            hash: [0; 32],
            next: Lsn(0),
            pending: Vec::new(),
            pending_items: Vec::new(),
            live_bytes: 0,
            placed: Vec::new(),
        }
    }

    /// Bytes that a survivor takes, in a batch of its own at worst.
    fn bytes_for(len: usize) -> usize {
        batch::padded_bytes(SURVIVORS_FIXED_BYTES + SURVIVOR_FIXED_BYTES + len)
    }

    fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Whether so many bytes more fit behind what is pending.
    fn has_room(&self, bytes: usize) -> bool {
        let at = self.offset.max(BATCHES_AT) as usize;
        at + batch::padded_bytes(SURVIVORS_FIXED_BYTES + self.pending.len()) + bytes
            <= self.taken.size as usize
    }

    fn push(&mut self, survivor: &Survivor) {
        let identity = survivor.reference.identity();
        let at = record::push_survivor(identity, &survivor.bytes, &mut self.pending);
        self.pending_items.push((survivor.reference, survivor.is_page, at));
    }

    /// Writes what is pending as a batch; returns its bytes.
    fn write(
        &mut self,
        store: StoreId,
        incarnation: Incarnation,
        segments: &Segments,
    ) -> Result<usize> {
        if self.pending_items.is_empty() {
            return Ok(0);
        }
        let mut bytes = Vec::with_capacity(self.pending.len() + 3 * BATCHES_AT as usize);
        let write_at = u64::from(self.offset);
        if self.offset == 0 {
            let header = SegmentHeader {
                file: self.taken.file,
                store,
                segment: self.taken.segment,
                kind: SegmentKind::Survivors,
                incarnation,
                size: self.taken.size,
                first_lsn: self.born,
                previous_hash: [0; 32],
            };
            header.encode(&mut bytes);
            self.offset = BATCHES_AT;
        }
        let start = bytes.len();
        bytes.resize(start + batch::HEADER_BYTES, 0);
        let record = record::start_survivors(self.next, self.pending_items.len(), &mut bytes);
        bytes.append(&mut self.pending);
        record::finish(record, &mut bytes);
        let header = BatchHeader {
            store,
            segment: self.taken.segment,
            offset: self.offset,
            incarnation,
            kind: SegmentKind::Survivors,
            first_lsn: self.next,
            record_count: 1,
            durable_through: Lsn(0),
            previous_hash: self.hash,
        };
        self.hash = header.seal(&mut bytes, start);
        self.file.write_at(write_at, &bytes).map_err(|source| {
            io_error(&segments.files, "write", self.taken.segment, Some(write_at), source)
        })?;
        if write_at == 0 {
            // Before anything else is written here: were the header lost and a later batch kept, recovery
            // would not know that the segment's number was used.
            self.file.sync().map_err(|source| {
                io_error(&segments.files, "sync", self.taken.segment, None, source)
            })?;
        }
        let survivors_at = self.offset as usize + batch::HEADER_BYTES + SURVIVORS_FIXED_BYTES;
        for (reference, is_page, at) in self.pending_items.drain(..) {
            let slot = slot_at((survivors_at + at) as u64);
            let now = Identity { segment: self.taken.segment, slot };
            self.placed.push((reference, is_page, now));
        }
        self.offset += stored_len(bytes.len() - start);
        self.next = header.next_lsn();
        Ok(bytes.len())
    }
}
