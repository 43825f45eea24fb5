//! Getting hold of a store in a bucket.
//!
//! What may be found, and what is done about it:
//!
//! | | in the bucket | in the directory | done |
//! |---|---|---|---|
//! | A1 | no manifest | nothing | claimed with a first manifest; the store is created by whoever opens it |
//! | A2 | no manifest | a store | claimed; all of the store is shipped before anything else |
//! | A3 | a manifest of this directory | the store | claimed; what is beyond the manifest is shipped first |
//! | A4 | a manifest of this directory | set up in part | set up again, from the manifest |
//! | A5 | a manifest of another | nothing, or set up in part | after its lease: claimed, and set up |
//! | A6 | a manifest of another | a store that was in this bucket | refused: it may have what no other has |
//! | A7 | a manifest of another | a store that never was in a bucket | refused: two stores |
//! | A8 | no manifest, but there was one | a store that was in this bucket | refused: somebody deleted the manifest |
//!
//! Order. 1. The local lock. 2. The note says which epoch is about to be claimed, and for an empty
//! directory that it is being set up. 3. The claim: the manifest names this directory in the next epoch.
//! 4. For an empty directory: first blocks of all segments and the superblock are written, the superblock is synced.
//! 5. The note says that the epoch is held and the directory whole. If 3 came before 2, a crash between
//! them would leave a manifest of nobody, and its lease to be waited for, or a store taken for somebody
//! else's. If 5 came before 4, a directory set up in part would pass for the store.
//!
//! *Set up* means that no data is fetched: segment files get their lengths and first blocks, which the
//! manifest has, and the rest is fetched when it is read. Those files are not synced, which would take most of the
//! time of a takeover. So whoever comes back to a directory with segments that are there in part writes the first blocks
//! that power took. It leaves those alone that say anything: such a file has been put to another use since.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use lapidary_engine::{DirectoryState, Environment, FileName, FileNo, Io, SegmentId, SegmentUse};

use super::cached_file::Cached;
use super::error::{BucketError, Result};
use super::fetch::{Fetcher, decode_manifest, find_manifest};
use super::files::{self, BucketIo, LockGuard, Taken};
use super::format::manifest::{FileEntry, MANIFEST, Manifest, Part, Parts};
use super::format::note::{Note, Partial};
use super::journal::{Found, Journal, without_zeros};
use super::lease::{HolderId, Lease};
use super::local_disk::{self, LocalDisk, LocalFile};
use super::notes::NoteFile;
use super::objects::{Condition, ObjectError, ObjectErrorKind, Objects, Tag};
use super::settings::BucketSettings;
use super::shipper::{Shipper, Start};

/// How often the claim is sent when no answer comes.
const CLAIM_TRIES: usize = 5;

/// What a host that wants to take over has seen of the lease of another: keep it from one attempt to
/// the next.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// A manifest, and since when it has been the one there, on this host's monotonic clock.
    seen: Option<(Tag, u64)>,
}

/// The parts of a store that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) io: Arc<BucketIo>,
    pub(super) shipper: Shipper,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) disk: Arc<LocalDisk>,
}

struct Claimed {
    manifest: Manifest,
    tag: Tag,
    sent_ns: u64,
}

pub(super) fn attach(
    objects: &Arc<dyn Objects>,
    environment: &Environment,
    settings: &BucketSettings,
    watch: &mut Watch,
) -> Result<Held> {
    settings.check()?;
    let local = &environment.io;
    let failed = |operation| BucketError::local(&**local, operation, None);
    // 1.
    let lock = files::lock_directory(&**local)?;
    let has_store = match local.inspect().map_err(failed("look into"))? {
        DirectoryState::Store => true,
        DirectoryState::Empty => false,
        DirectoryState::Foreign => {
            let detail = "it holds other files and no store; choose an empty directory".to_owned();
            return Err(BucketError::Directory { directory: local.describe(), detail });
        }
    };
    let mut notes = NoteFile::open(&**local)?;
    let note = notes.current().cloned();
    let found = find_manifest(&**objects)?;
    let is_own = |manifest: &Manifest| {
        note.as_ref().is_some_and(|note| {
            note.holder == manifest.holder
                && (manifest.epoch == note.epoch || manifest.epoch == note.claim)
        })
    };
    let has_whole_store = has_store && !note.as_ref().is_some_and(|note| note.is_setting_up);
    if let Some((manifest, tag)) = &found {
        if !is_own(manifest) {
            check_empty(&**objects, &**local, manifest, note.is_some(), has_whole_store)?;
            wait_for_lease(&**objects, environment, manifest, tag, watch)?;
        }
    } else if has_whole_store && note.as_ref().is_some_and(|note| note.epoch > 0) {
        let detail = format!(
            "its store was in {}, but the manifest is gone from there; if that bucket is to be filled \
             anew, remove the file BUCKET",
            objects.describe()
        );
        return Err(BucketError::Directory { directory: local.describe(), detail });
    }

    // 2.
    let set_up = !has_whole_store && found.is_some();
    let holder = note.as_ref().map_or_else(|| new_holder(environment), |note| note.holder);
    let next = found.as_ref().map_or(1, |(manifest, _)| manifest.epoch + 1);
    let newest = |manifest: &Manifest| manifest.files.values().map(|file| file.segment).max();
    let partial = if set_up {
        let through = found.as_ref().and_then(|(manifest, _)| newest(manifest)).unwrap_or_default();
        Partial { through, ..Partial::default() }
    } else {
        note.as_ref().map(|note| note.partial.clone()).unwrap_or_default()
    };
    let epoch = note.as_ref().map_or(0, |note| note.epoch);
    let mut noted =
        Note { sequence: 0, holder, epoch, claim: next, partial, is_setting_up: set_up };
    notes.replace(noted.clone())?;
    // 3.
    let claimed = claim(objects, environment, settings, found, holder, next)?;
    let manifest = &claimed.manifest;
    // 4.
    if set_up {
        set_up_directory(&**local, manifest)?;
    } else {
        complete_directory(&**local, manifest, &noted.partial)?;
    }
    // 5.
    noted.epoch = manifest.epoch;
    noted.is_setting_up = false;
    notes.replace(noted)?;
    tracing::info!(
        bucket = objects.describe(),
        epoch = manifest.epoch,
        set_up,
        segments = manifest.files.len(),
        "holds the store"
    );
    hold(objects, environment, settings, claimed, notes, lock, set_up)
}

fn new_holder(environment: &Environment) -> HolderId {
    let mut id = [0; 16];
    environment.entropy.fill(&mut id);
    HolderId(id)
}

/// A6, A7.
fn check_empty(
    objects: &dyn Objects,
    local: &dyn Io,
    manifest: &Manifest,
    has_note: bool,
    has_whole_store: bool,
) -> Result<()> {
    let directory = local.describe();
    if has_whole_store && has_note {
        return Err(BucketError::StaleDirectory {
            directory,
            bucket: objects.describe(),
            holder: manifest.holder_name.clone(),
            epoch: manifest.epoch,
        });
    }
    if has_whole_store {
        let detail = format!(
            "it has a store that was never kept in {}, where there is one; choose an empty directory",
            objects.describe()
        );
        return Err(BucketError::Directory { directory, detail });
    }
    Ok(())
}

/// A5: fails until the lease that `manifest` gives has been seen to run out.
fn wait_for_lease(
    objects: &dyn Objects,
    environment: &Environment,
    manifest: &Manifest,
    tag: &Tag,
    watch: &mut Watch,
) -> Result<()> {
    if manifest.lease_ms == 0 {
        return Ok(());
    }
    let now_ns = environment.clock.monotonic_ns();
    let since_ns = match &watch.seen {
        Some((seen, since_ns)) if seen == tag => *since_ns,
        _ => {
            watch.seen = Some((tag.clone(), now_ns));
            now_ns
        }
    };
    if now_ns - since_ns >= u64::from(manifest.lease_ms) * 1_000_000 {
        return Ok(());
    }
    Err(held(objects, manifest))
}

fn held(objects: &dyn Objects, manifest: &Manifest) -> BucketError {
    BucketError::Held {
        bucket: objects.describe(),
        holder: manifest.holder_name.clone(),
        epoch: manifest.epoch,
        lease_ms: manifest.lease_ms,
    }
}

/// Replaces the manifest that was found by one that names this directory in epoch `epoch`.
fn claim(
    objects: &Arc<dyn Objects>,
    environment: &Environment,
    settings: &BucketSettings,
    found: Option<(Manifest, Tag)>,
    holder: HolderId,
    epoch: u64,
) -> Result<Claimed> {
    let (before, tag) = found.map_or((None, None), |(manifest, tag)| (Some(manifest), Some(tag)));
    let manifest = Manifest {
        lease_ms: settings.lease_ms(),
        epoch,
        sequence: 0,
        holder,
        holder_name: settings.name.clone(),
        next_object: 0,
        ..before.unwrap_or_default()
    };
    let bytes = manifest.encode();
    let sent_ns = environment.clock.monotonic_ns();
    let condition = tag.as_ref().map_or(Condition::Absent, Condition::Unchanged);
    let mut tries = 1;
    loop {
        let error = match objects.put(MANIFEST, &bytes, condition) {
            Ok(tag) => return Ok(Claimed { manifest, tag, sent_ns }),
            Err(error) => error,
        };
        match error.kind {
            // The answer to an earlier one of these requests may have been lost.
            ObjectErrorKind::Condition | ObjectErrorKind::NotFound => {
                let (there, tag) = objects.get(MANIFEST)?;
                if there == bytes {
                    return Ok(Claimed { manifest, tag, sent_ns });
                }
                let other = decode_manifest(&**objects, &there)?;
                return Err(held(&**objects, &other));
            }
            ObjectErrorKind::Unclear if tries < CLAIM_TRIES => tries += 1,
            _ => return Err(error.into()),
        }
    }
}

/// Step 4 for an empty directory, and one that was set up in part.
fn set_up_directory(local: &dyn Io, manifest: &Manifest) -> Result<()> {
    let failed = |operation| BucketError::local(local, operation, None);
    for left in local.list_segments().map_err(failed("list"))? {
        local.remove(FileName::Segment(left)).map_err(failed("clear"))?;
    }
    for (number, entry) in &manifest.files {
        set_up_segment(local, *number, entry)?;
    }
    if !manifest.superblock.is_empty() {
        set_up_superblock(local, manifest)?;
    }
    local.sync_directory().map_err(failed("sync the directory of"))
}

pub(super) fn set_up_superblock(local: &dyn Io, manifest: &Manifest) -> Result<()> {
    let made = local.create(FileName::Superblock).and_then(|file| {
        file.write_at(0, &manifest.superblock)?;
        file.sync()
    });
    made.map_err(BucketError::local(local, "set up", Some(FileName::Superblock)))
}

/// Step 4 for a directory that is whole, but for what power took of the files of `partial`.
fn complete_directory(local: &dyn Io, manifest: &Manifest, partial: &Partial) -> Result<()> {
    for (number, entry) in &manifest.files {
        if !partial.contains(entry.segment) {
            continue;
        }
        let (bytes, block) = match first_block(local, *number) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, Vec::new()),
            read => {
                read.map_err(BucketError::local(local, "read", Some(FileName::Segment(*number))))?
            }
        };
        let is_whole = match SegmentUse::read(&block, *number) {
            Some(header) => header.segment != entry.segment || bytes >= entry.bytes,
            None => false,
        };
        if !is_whole {
            set_up_segment(local, *number, entry)?;
        }
    }
    Ok(())
}

/// A file with its length and first block, and no others.
fn set_up_segment(local: &dyn Io, number: FileNo, entry: &FileEntry) -> Result<()> {
    let name = FileName::Segment(number);
    let made = local.create(name).and_then(|file| {
        let block = entry.block();
        file.write_at(0, &block)?;
        match entry.bytes.checked_sub(1) {
            Some(last) if last >= block.len() as u64 => file.write_at(last, &[0]),
            _ => Ok(()),
        }
    });
    made.map_err(BucketError::local(local, "set up", Some(name)))
}

/// The files as they are now, told to a journal.
fn hold(
    objects: &Arc<dyn Objects>,
    environment: &Environment,
    settings: &BucketSettings,
    claimed: Claimed,
    notes: NoteFile,
    lock: LockGuard,
    is_just_set_up: bool,
) -> Result<Held> {
    let Claimed { manifest, tag, sent_ns } = claimed;
    let local = Arc::clone(&environment.io);
    let journal = Arc::new(Journal::new(settings.unshipped_bytes_max));
    let fetcher = Arc::new(Fetcher::new(Arc::clone(objects)));
    let partial = notes.current().map(|note| note.partial.clone()).unwrap_or_default();
    let mut local_files = BTreeMap::new();
    journal.begin(read_superblock(&*local)?, manifest.objects.clone());
    let failed = |operation, number: FileNo| {
        BucketError::local(&*local, operation, Some(FileName::Segment(number)))
    };
    let listed = local.list_segments();
    let mut numbers = listed.map_err(BucketError::local(&*local, "list", None))?;
    numbers.sort_unstable();
    let mut files = Vec::new();
    for number in numbers {
        let (bytes, block) = first_block(&*local, number).map_err(failed("read", number))?;
        let header = SegmentUse::read(&block, number);
        let segment = header.map_or(SegmentId(0), |header| header.segment);
        let known = manifest.files.get(&number).filter(|entry| entry.segment == segment);
        let local_file = if header.is_some() && partial.contains(segment) {
            let Some(known) = known else {
                // The bucket had it, and it was let go since, which the bucket knows: nothing needs
                // it, and nothing has what was in it.
                local.remove(FileName::Segment(number)).map_err(failed("remove", number))?;
                continue;
            };
            // What is there may not be what was fetched: it is not known what was synced.
            if !is_just_set_up {
                match local_disk::punch(&*local, number) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                    punched => punched.map_err(failed("punch a hole into", number))?,
                }
            }
            let object = |part: &Part| manifest.objects[&part.object];
            LocalFile::partial(segment, Cached::new(Arc::clone(&fetcher), known, object))
        } else {
            LocalFile::whole(bytes)
        };
        local_files.insert(number, Arc::new(local_file));
        files.push((number, bytes, block, header, known));
    }
    // A power failure may have taken from the local files what was on its way to the disk and reached
    // the bucket. That can be in the newest segments only: they are shipped anew, as they are.
    let newest = |is_log| {
        let of_kind = files.iter().filter_map(|file| file.3).filter(|use_| use_.is_log == is_log);
        of_kind.map(|use_| use_.segment).max()
    };
    let newest = [newest(true), newest(false)];
    for (number, bytes, block, header, known) in files {
        let segment = header.map_or(SegmentId(0), |header| header.segment);
        let is_partial = local_files[&number].is_partial();
        let parts = known.map_or_else(Parts::default, |known| known.parts.clone());
        let catch_up_from = if header.is_none() || is_partial {
            None
        } else if newest.contains(&Some(segment)) {
            Some(0)
        } else {
            Some(parts.end())
        };
        let first_block =
            if header.is_some() { without_zeros(&block).to_vec() } else { Vec::new() };
        let entry = FileEntry { segment, bytes, first_block, parts };
        let is_log = header.is_some_and(|header| header.is_log);
        journal.begin_with(number, Found { entry, is_log, catch_up_from, is_partial });
    }
    let lease = Arc::new(Lease::new(
        Arc::clone(&environment.clock),
        objects.describe(),
        manifest.epoch,
        sent_ns,
        manifest.lease_ms,
    ));
    let disk = Arc::new(LocalDisk::new(local_disk::Start {
        io: Arc::clone(&local),
        journal: Arc::clone(&journal),
        lease: Arc::clone(&lease),
        fetcher: Arc::clone(&fetcher),
        files: local_files,
        notes,
        bytes_max: settings.local_bytes_max,
        is_shipped_in_background: settings.background,
    }));
    let io = Arc::new(BucketIo {
        local: Arc::clone(&local),
        journal: Arc::clone(&journal),
        lease: Arc::clone(&lease),
        disk: Arc::clone(&disk),
        lock: Taken(Mutex::new(Some(lock))),
    });
    let shipper = Shipper::new(Start {
        settings,
        objects: Arc::clone(objects),
        local,
        journal,
        lease,
        clock: Arc::clone(&environment.clock),
        published: manifest,
        tag,
        renewed_ns: sent_ns,
    });
    Ok(Held { io, shipper, fetcher, disk })
}

fn read_superblock(local: &dyn Io) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let file = match local.open(FileName::Superblock) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    read().map_err(BucketError::local(local, "read", Some(FileName::Superblock)))
}

fn first_block(local: &dyn Io, number: FileNo) -> io::Result<(u64, Vec<u8>)> {
    let file = local.open(FileName::Segment(number))?;
    let bytes = file.len()?;
    let mut block = vec![0; SegmentUse::BLOCK_BYTES];
    let there = usize::try_from(bytes).unwrap_or(usize::MAX).min(block.len());
    file.read_at(0, &mut block[..there])?;
    Ok((bytes, block))
}

/// Whether a failed attempt may go well when it is made again, without anybody doing anything.
pub(super) fn may_pass(error: &BucketError) -> bool {
    match error {
        BucketError::Held { .. } => true,
        BucketError::Objects(ObjectError { kind, .. }) => *kind == ObjectErrorKind::Unclear,
        _ => false,
    }
}
