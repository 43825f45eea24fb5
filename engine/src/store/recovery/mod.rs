//! Opening a store: finding the end of the log, and making it true.
//!
//! What may be found, and what is done about it:
//!
//! | | found | done |
//! |---|---|---|
//! | R1 | no directory, or an empty one | created, if asked for; else refused |
//! | R2 | somebody else's files | refused |
//! | R3 | no valid superblock slot, and no segments: creation was interrupted | as R1 |
//! | R4 | no valid superblock slot, and segments | refused: corrupt |
//! | R5 | one valid slot | opened; both are rewritten |
//! | R6 | a later format version | refused |
//! | R7 | a damaged segment header, a file that ends before its header says, or none before batches that were acknowledged | refused: corrupt (it fits a sector, so it cannot be torn) |
//! | R8 | a segment the checkpoint needs is missing, short or was put to use anew | refused: corrupt |
//! | R9 | the next batch is valid and continues the log | replayed |
//! | R10 | a segment of a later incarnation starts with the expected LSN | replay goes on there: an earlier recovery did |
//! | R11 | a segment of the same incarnation does, and the next batch here is not valid | replay goes on there: the log went on there |
//! | R12 | no valid batch, at or below an LSN known to be durable | refused: corrupt |
//! | R13 | no valid batch, but a later one of this incarnation is | refused: corrupt |
//! | R14 | no valid batch otherwise | the log ends here; a torn batch is discarded |
//! | R15 | the last batch is not known to be durable | its records are written again and synced before they count |
//! | R16 | a segment of an incarnation the superblock does not know | made ready: an earlier recovery was interrupted |
//! | R17 | a file without a header that is no whole segment, and that nothing needs | removed: filling it was interrupted |
//! | R18 | a first batch that is whole, of a later segment than the file's header says | its segment and incarnation are not used again: a crash took the header that was written with it |
//!
//! Order of the end: 0. if replacing the superblock was cut off, what was read of it is written to both slots:
//! until then the disk may have another, which needs what is overwritten from here on; 1. the tail (R15) is written and synced in a segment of the new incarnation,
//! and everything is replayed in memory; 2. the superblock says the new incarnation; 3. the store
//! serves. If 2 came before 1, a crash
//! between them would leave R10 pointing at nothing, and the tail would be lost after it had been
//! shown to nobody, or worse, to somebody. If 3 came before 2, commits of this incarnation would be
//! taken for R16 and overwritten.

mod follow;
mod log;
mod replay;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use follow::{Following, open_to_follow};
pub(super) use log::Spot;
pub(super) use scan::readable_headers;

use super::catalog::Catalog;
use super::checkpoint::Checkpointer;
use super::references::References;
use super::settings::Settings;
use super::superblock::SuperblockFile;
use super::{LockGuard, Shared};
use crate::config::{FormatParams, Tunables};
use crate::core::{Changed, Core, HistoryBudget, read_part};
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::format::catalog::{self as parts, ChunkNo, FacetEntry, OtherPart, Root, SegmentEntry};
use crate::format::record::PartKind;
use crate::format::segment::SegmentKind;
use crate::format::superblock::{FILE_BYTES, LogPosition, Superblock};
use crate::format::{Identity, Malformed, StoredRef};
use crate::io::{DirectoryState, FileName, Io};
use crate::log::{Log, LogWriter};
use crate::map::ImageMemory;
use crate::segments::{Damage, SegmentFiles, Segments};
use crate::sync::Mutex;
use crate::types::{FacetId, FileNo, Incarnation, Lsn, SegmentId, StoreId};
use log::LogEnd;
use replay::Replay;
use rustc_hash::FxHashSet;
use scan::Files;

/// Opens the store of `environment`, or creates it.
pub(super) fn open(
    environment: Environment,
    create: bool,
    format: FormatParams,
    tunables: Tunables,
) -> Result<Shared> {
    let path = environment.io.describe();
    open_or_create(environment, create, format, tunables).map_err(|error| {
        if error.is_disk_full() {
            Error::NoSpace { path, needed_bytes: FILE_BYTES as u64 }
        } else {
            error
        }
    })
}

fn open_or_create(
    environment: Environment,
    create: bool,
    format: FormatParams,
    tunables: Tunables,
) -> Result<Shared> {
    check_format(format)?;
    let io = Arc::clone(&environment.io);
    let failed = |operation| {
        let path = io.describe();
        move |source| Error::Io { operation, path, offset: None, source }
    };
    let state = io.inspect().map_err(|source| {
        if source.kind() == std::io::ErrorKind::NotADirectory {
            Error::NotAStore { path: io.describe(), reason: "it is a file".to_owned() }
        } else {
            failed("look into")(source)
        }
    })?;
    match state {
        DirectoryState::Foreign => {
            let reason = "it holds other files and no SUPERBLOCK".to_owned();
            return Err(Error::NotAStore { path: io.describe(), reason });
        }
        DirectoryState::Empty if !create => {
            let has_segments = io.list_segments().is_ok_and(|segments| !segments.is_empty());
            return Err(if has_segments {
                superblock_is_missing(&*io)
            } else {
                Error::Missing { path: io.describe() }
            });
        }
        DirectoryState::Empty | DirectoryState::Store => {}
    }
    // Also for a store that is there: its directory may have been created by a process that was
    // killed before the name was durable.
    io.create_directory().map_err(failed("create"))?;
    let lock =
        io.lock().map_err(failed("lock"))?.ok_or_else(|| Error::Locked { path: io.describe() })?;
    // Looked at again under the lock: another process may just have created the store.
    let state = io.inspect().map_err(failed("look into"))?;
    let has_segments = !io.list_segments().map_err(failed("list"))?.is_empty();
    let superblock = if state == DirectoryState::Store {
        match SuperblockFile::open(&*io) {
            Err(Error::Corrupt { .. })
                if create && !has_segments && SuperblockFile::is_unfinished(&*io)? =>
            {
                create_superblock(&environment, format)?
            }
            opened => opened?,
        }
    } else if has_segments {
        return Err(superblock_is_missing(&*io));
    } else {
        create_superblock(&environment, format)?
    };
    recover(environment, tunables, superblock, LockGuard(lock))
}

fn superblock_is_missing(io: &dyn Io) -> Error {
    let path = format!("{}/{}", io.describe(), FileName::Superblock);
    let detail = "it is missing, though there are segments".to_owned();
    Error::Corrupt { path, offset: 0, detail }
}

fn check_format(format: FormatParams) -> Result<()> {
    let FormatParams { segment_bytes_min: min, segment_bytes_max: max } = format;
    let range = 64 << 10..=1 << 30;
    let is_good = |bytes: u32| bytes.is_power_of_two() && range.contains(&bytes);
    if is_good(min) && is_good(max) && min <= max {
        return Ok(());
    }
    Err(Error::InvalidInput(format!(
        "segment sizes from {min} to {max} bytes: both must be powers of two from 64 KiB to 1 GiB, \
         the smaller one first"
    )))
}

fn create_superblock(environment: &Environment, format: FormatParams) -> Result<SuperblockFile> {
    let mut id = [0; 16];
    environment.entropy.fill(&mut id);
    let first = Superblock {
        store: StoreId(id),
        sequence: 1,
        incarnation: Incarnation(0),
        format,
        replay: LogPosition::START,
        replay_file: FileNo(0),
        root_file: FileNo(0),
        durable_through: Lsn(0),
        checkpoint: None,
    };
    SuperblockFile::create(&*environment.io, first)
}

/// A store as its files have it: the checkpoint, and the log replayed but for a last batch of which it is
/// not known whether it counts. Nothing was written or removed.
struct Read {
    core: Arc<Core>,
    /// Facets know the core, and the core knows the facets that changed: if anything fails before the
    /// store is there, this guard breaks that circle.
    failing: BreakCircle,
    found: Files,
    table: Vec<SegmentEntry>,
    root: Option<Root>,
    references: References,
    catalog: Catalog,
    /// The cut of the checkpoint.
    cut: Lsn,
    /// See [`Replay::images`].
    images: FxHashSet<Identity>,
    /// Its batches are replayed, and not here any more.
    end: LogEnd,
}

/// `writes`: whether it is read to be written.
fn read_store(
    environment: Environment,
    tunables: Tunables,
    current: &Superblock,
    writes: bool,
) -> Result<Read> {
    check_format(current.format)?;
    let files = SegmentFiles::new(Arc::clone(&environment.io), tunables.open_segments_max);
    let found = scan::scan(&environment.io, current.store)?;
    let segments = Segments::new(files, current.format, tunables.mapped_segments_max);
    // Only where the headers say that segments are can anything be read.
    found.headers().for_each(|header| segments.files.set_file(header.segment, header.file));
    let needed = [
        (current.replay.segment, current.replay_file, "the log to replay starts in"),
        (current.checkpoint.map(|root| root.segment), current.root_file, "the checkpoint needs"),
    ];
    for (segment, file, what) in needed {
        if let Some(segment) = segment.filter(|&segment| found.header(segment).is_none()) {
            let is_there = found.by_number.contains_key(&file);
            let but = if is_there { "the file holds another" } else { "there is no such file" };
            let detail = format!("{what} segment {segment} of it, but {but}");
            return Err(corrupt(&*environment.io, file, 0, detail));
        }
    }
    let root = load_root(&segments, current)?;
    let table = scan::checkpoint_table(&found, root.as_ref(), current.checkpoint);
    scan::restore_needed(&segments, &found, &table)?;
    let last_segment = found.headers().map(|header| header.segment).max().unwrap_or_default();
    let last_file = found.by_number.keys().copied().max().unwrap_or_default();
    segments.reserve_numbers(last_segment, last_file);
    segments.reserve_numbers(environment.io.segments_known_through(), FileNo(0));
    if let Some(root) = &root {
        segments.reserve_numbers(root.next_segment, FileNo(0));
    }

    // Also above those of recoveries that were cut off: what they wrote must not be taken for what
    // this one writes. Of a segment that was put to use just before a crash, the first batch may be there
    // and the header not: with the same numbers, it would be a batch of whatever is put there next.
    let headless =
        if writes { found.headless(&segments, current.store, &table)? } else { Vec::new() };
    for &(segment, _) in &headless {
        segments.reserve_numbers(segment, FileNo(0));
    }
    let headers = found.headers().map(|header| header.incarnation);
    let seen = headers.chain(headless.into_iter().map(|(_, incarnation)| incarnation)).max();
    let incarnation = Incarnation(seen.unwrap_or_default().max(current.incarnation).0 + 1);
    let log = found.headers().filter(|header| {
        header.kind == SegmentKind::Log && Some(header.segment) >= current.replay.segment
    });
    let log = log.map(|header| (FileName::Segment(header.file), 0..u64::from(header.size)));
    segments.files.will_read_files(&log.collect::<Vec<_>>());
    let mut end = log::find_end(&segments, &found, current, false)?;
    let references = load_others(&segments, root.as_ref())?;
    let mut catalog = load_catalog(&segments, root.as_ref())?;
    catalog.settings = references.settings;

    let writer = LogWriter::new(current.store, incarnation, end.before_tail);
    let opened_ns = environment.clock.monotonic_ns();
    let log = Log::new(writer, tunables.log_buffers, tunables.buffered_bytes_max);
    let history = HistoryBudget::new(catalog.cold_history_bytes(), tunables.history_bytes_max);
    let images = ImageMemory::new(tunables.delta_memory_bytes_max);
    let core = Arc::new(Core {
        environment,
        tunables,
        incarnation,
        segments,
        log,
        history,
        images,
        opened_ns,
        changed: Mutex::new(Changed::default()),
    });
    let failing = BreakCircle(Some(Arc::clone(&core)));
    let cut = root.as_ref().map_or(Lsn(0), |root| root.lsn);
    let mut replay = Replay::new(&core, &mut catalog, cut);
    for batch in std::mem::take(&mut end.batches) {
        replay.batch(batch.records, batch.place)?;
    }
    let images = replay.images;
    let references = references.references;
    Ok(Read { core, failing, found, table, root, references, catalog, cut, images, end })
}

/// Counts anew what is used of each quota.
fn count_quotas(catalog: &Catalog) {
    for quota in catalog.settings.quotas() {
        quota.reset();
        let facets = catalog.subtree(&quota.name);
        facets.for_each(|(_, id)| quota.add(catalog.logical_bytes(id)));
    }
}

fn recover(
    environment: Environment,
    tunables: Tunables,
    mut superblock: SuperblockFile,
    lock: LockGuard,
) -> Result<Shared> {
    let current = superblock.current.clone();
    let read = read_store(environment, tunables, &current, true)?;
    let Read { core, mut failing, found, table, root, references, mut catalog, cut, images, end } =
        read;
    let mut replay = Replay::new(&core, &mut catalog, cut);
    replay.images = images;
    if let Some(tail) = &end.tail {
        replay.prepare(&tail.records)?;
    }
    // Until here nothing was written or removed: a store that is refused is left as it is.
    superblock.settle()?;
    restore_rest(&core.segments, &found, &end.visited, &table)?;
    if let Some(tail) = end.tail {
        let place =
            core.log.rewrite_tail(&core.segments, end.durable_through, tail.count, &tail.bytes)?;
        replay.batch(tail.records, place)?;
    }
    let images = replay.images;
    let durable_through = core.log.durable_lsn();
    count_quotas(&catalog);
    // Spilled pages of replayed commits are pinned; what nothing needs, neither the checkpoint nor
    // a replayed commit, is ready.
    core.segments.recycle(current.replay.segment, current.replay.lsn, &FxHashSet::default());

    core.segments.forget_unused_targets();

    // Files that are found may have been created by a process that was killed before their names
    // were durable.
    let io = &core.environment.io;
    io.sync_directory().map_err(|source| Error::Io {
        operation: "sync the directory of",
        path: io.describe(),
        offset: None,
        source,
    })?;
    let next = Superblock { incarnation: core.incarnation, durable_through, ..current.clone() };
    superblock.replace(next)?;
    let tail_bytes = &core.log.counters.tail_bytes;
    tail_bytes.store(end.read_bytes, std::sync::atomic::Ordering::Relaxed);
    tracing::info!(
        store = %current.store,
        incarnation = core.incarnation.0,
        facets = catalog.len(),
        replayed_bytes = end.read_bytes,
        "store opened"
    );
    failing.0 = None;
    let checkpointer = Checkpointer::restored(superblock, root, references, images);
    checkpointer.publish_others(&core);
    Ok(Shared::new(core, current.store, catalog, checkpointer, end.read_bytes, lock))
}

struct BreakCircle(Option<Arc<Core>>);

impl Drop for BreakCircle {
    fn drop(&mut self) {
        if let Some(core) = &self.0 {
            core.with_changed(|changed| *changed = Changed::default());
        }
    }
}

/// Whether a read failed because the file is too short, or gone.
fn is_cut_off(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::NotFound)
}

/// Reads a checkpoint part that the whole store depends on.
fn read_needed<T>(
    segments: &Segments,
    reference: StoredRef,
    decode: impl Fn(PartKind, &[u8]) -> Result<T, Malformed>,
) -> Result<T> {
    let read = read_part(segments, reference, decode).map_err(|error| match error {
        Error::Io { path, source, .. } if is_cut_off(&source) => {
            let detail = "the file ends before a part of the checkpoint, or is missing".to_owned();
            Error::Corrupt { path, offset: reference.offset(), detail }
        }
        other => other,
    })?;
    read.map_err(|Damage { place, path, malformed }| Error::Corrupt {
        path,
        offset: place.offset(),
        detail: format!("a part of the checkpoint: {}", malformed.0),
    })
}

/// What a part is, is not what leads to it.
fn expect(is_expected: bool) -> Result<(), Malformed> {
    if is_expected { Ok(()) } else { Err(Malformed("it is another part than is expected here")) }
}

fn load_root(segments: &Segments, current: &Superblock) -> Result<Option<Root>> {
    let read = |root| {
        read_needed(segments, root, |kind, payload| {
            expect(kind == PartKind::Root)?;
            parts::decode_root(payload)
        })
    };
    current.checkpoint.map(read).transpose()
}

#[derive(Default)]
struct Others {
    references: References,
    settings: Settings,
}

/// Loads what the root leads to besides the catalog; what was moved comes first, since what follows
/// may have been.
fn load_others(segments: &Segments, root: Option<&Root>) -> Result<Others> {
    let mut loaded = Others::default();
    for &(part, reference) in root.iter().flat_map(|root| &root.others) {
        match part {
            OtherPart::Forwards(segment) => {
                let forwards = read_needed(segments, reference, |kind, payload| {
                    expect(kind == PartKind::Forwards(segment))?;
                    parts::decode_forwards(payload)
                })?;
                segments.files.with_forwards(|all| all.restore(segment, &forwards));
            }
            OtherPart::Shared => {
                loaded.references.restore(read_needed(segments, reference, |kind, payload| {
                    expect(kind == PartKind::Shared)?;
                    parts::decode_shared(payload)
                })?);
            }
            OtherPart::Settings => {
                loaded.settings.restore(read_needed(segments, reference, |kind, payload| {
                    expect(kind == PartKind::Settings)?;
                    parts::decode_settings(payload)
                })?);
            }
        }
    }
    match segments.files.with_forwards(crate::segments::Forwards::sort) {
        None => Ok(loaded),
        Some(identity) => Err(Error::Corrupt {
            path: segments.files.path(identity.segment),
            offset: identity.offset(),
            detail: "the checkpoint says that this was moved to two places".to_owned(),
        }),
    }
}

fn load_catalog(segments: &Segments, root: Option<&Root>) -> Result<Catalog> {
    let Some(root) = root else { return Ok(Catalog::new(FacetId(1))) };
    segments.files.will_read(root.chunks.iter().map(|&(_, reference)| reference));
    let mut chunks: Vec<(ChunkNo, Vec<FacetEntry>)> = Vec::with_capacity(root.chunks.len());
    for &(chunk, reference) in &root.chunks {
        let entries = read_needed(segments, reference, |kind, payload| {
            expect(kind == PartKind::Chunk(chunk))?;
            parts::decode_chunk(chunk, payload)
        })?;
        chunks.push((chunk, entries));
    }
    Catalog::restored(root.next_facet, chunks.into_iter()).map_err(|name| Error::Corrupt {
        path: segments.files.describe(),
        offset: 0,
        detail: format!("two facets of the catalog have the name {name}"),
    })
}

/// Makes ready what neither the checkpoint nor the log needs (R16), and removes what is no segment
/// (R17).
fn restore_rest(
    segments: &Segments,
    found: &Files,
    visited: &BTreeSet<FileNo>,
    table: &[SegmentEntry],
) -> Result<()> {
    let needed: BTreeMap<FileNo, SegmentId> =
        table.iter().map(|entry| (entry.file, entry.segment)).collect();
    for (&file, found) in &found.by_number {
        let segment = found.header.as_ref().map(|header| header.segment);
        let is_needed = segment.is_some() && needed.get(&file).copied() == segment;
        if is_needed || visited.contains(&file) {
            continue;
        }
        if let Some(segment) = segment {
            segments.files.forget(segment);
        }
        match found.as_ready(segments.format()) {
            Some(ready) => {
                if found.header.is_none() {
                    // Whether it was synced when it was made, and whether that failed, is not known.
                    segments.files.confirm_length(file, ready.size)?;
                }
                segments.restore_ready(file, ready);
            }
            None => {
                tracing::info!(file = file.0, "removing a segment file whose filling was cut off");
                segments.files.remove(file)?;
            }
        }
    }
    Ok(())
}

/// Damage in a segment file.
fn corrupt(io: &dyn Io, file: FileNo, offset: u64, detail: impl Into<String>) -> Error {
    let path = format!("{}/{}", io.describe(), FileName::Segment(file));
    Error::Corrupt { path, offset, detail: detail.into() }
}

/// Damage in a segment.
fn corrupt_at(segments: &Segments, segment: SegmentId, offset: u64, detail: String) -> Error {
    Error::Corrupt { path: segments.files.path(segment), offset, detail }
}
