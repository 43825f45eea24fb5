//! A whole local copy of a store in a bucket, which is then an ordinary store.
//!
//! Order. 1. The file `BUCKET` says that the directory is not whole. 2. Segment files are fetched, each
//! compared with its checksums, and synced. 3. The superblock is written and synced. 4. `BUCKET` is removed.
//! Whoever opens the directory before 4 is refused; a second pull begins anew there. If 4 came before 3 was
//! durable, a torn superblock would pass for a damaged store. What tells the note from that of a host is
//! that it claims no epoch.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use lapidary_engine::{
    DirectoryState, Environment, FileName, FileNo, Io, Lsn, SegmentUse, StoreId,
};

use super::HolderId;
use super::error::{BucketError, Result};
use super::fetch::Fetcher;
use super::files::lock_directory;
use super::format::manifest::{FileEntry, Manifest};
use super::format::note::{Note, Partial};
use super::format::object::PIECE_BYTES;
use super::history::HistoryPoint;
use super::notes::NoteFile;
use super::objects::{ObjectError, ObjectErrorKind, Objects};

/// How often it goes on with a newer manifest when the host has replaced something meanwhile.
const NEWER_MAX: u32 = 20;

/// How far a [`pull`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullProgress {
    /// Bytes that were fetched and are of use.
    pub done_bytes: u64,
    /// Bytes there are.
    pub total_bytes: u64,
    /// How often the host had replaced something, so that it went on with the newest manifest.
    pub begun_again: u32,
}

/// What a [`pull`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pulled {
    /// The store.
    pub store: Option<StoreId>,
    /// Epoch of the manifest.
    pub epoch: u64,
    /// Up to there the copy has everything.
    pub lsn: Lsn,
    /// Segment files.
    pub segments: u64,
    /// Bytes of what the files have.
    pub bytes: u64,
    /// How often it went on with a newer manifest.
    pub begun_again: u32,
}

/// Makes the directory of `environment`, which is new or empty, or that of a pull that was interrupted,
/// a copy of the store in `objects`, as of its newest manifest. No lease is taken; a host may go on meanwhile.
///
/// ```
/// # use lapidary::bucket::{self, Bucket, BucketSettings, Objects, RemoteObjects};
/// # use lapidary::{Environment, Host, HostConfig};
/// # use std::sync::Arc;
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("file://{}/bucket", directory.path().display());
/// # let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url)?);
/// # let local = Environment::system(directory.path().join("store"));
/// # let held = Bucket::attach_waiting(&objects, &local, &BucketSettings::default(), |_| false)?;
/// # let host = Host::open_from_bucket(held, HostConfig::new())?;
/// # host.facet("a")?.execute("CREATE TABLE t(x)", ()).wait()?;
/// # host.shutdown()?;
/// let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open_to_read(&url)?);
/// let copy = directory.path().join("copy");
/// let pulled = bucket::pull(&objects, &Environment::system(&copy), &mut |_| ())?;
/// println!("up to LSN {}", pulled.lsn);
/// let host = Host::open(copy, HostConfig::new())?; // without the bucket
/// # assert!(host.facet("a")?.execute("INSERT INTO t VALUES (1)", ()).wait().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NoStore`](BucketError::NoStore); [`NotEmpty`](BucketError::NotEmpty) if something else is in the directory;
/// [`Damaged`](BucketError::Damaged) if an object is damaged or missing; [`Outdated`](BucketError::Outdated)
/// if the host replaces objects faster than they are fetched; what the bucket or the local disk say.
pub fn pull(
    objects: &Arc<dyn Objects>,
    environment: &Environment,
    listener: &mut dyn FnMut(PullProgress),
) -> Result<Pulled> {
    let fetcher = Fetcher::new(Arc::clone(objects));
    let (manifest, mut tag) = fetcher.store()?;
    let mut begun_again = 0;
    copy(environment, &fetcher, manifest, listener, |manifest, missing| {
        let (newest, newest_tag) = fetcher.store()?;
        if newest_tag == tag {
            return Err(is_missing(missing));
        }
        if begun_again == NEWER_MAX {
            let bucket = objects.describe();
            return Err(BucketError::Outdated { bucket, lsn: manifest.shipped });
        }
        begun_again += 1;
        tag = newest_tag;
        Ok(newest)
    })
}

/// As [`pull`], but of the store as it was at a [point of its history](super::history).
///
/// The copy can be put into an empty bucket, by a host that is given both ([`Bucket::attach`](super::Bucket::attach)). It is
/// not to be put into the place of the store itself: what is read and deleted there now would be of two stores.
///
/// # Errors
/// As [`pull`]; [`NotKept`](BucketError::NotKept) if the point has gone, or goes meanwhile.
pub fn pull_at(
    objects: &Arc<dyn Objects>,
    environment: &Environment,
    point: &HistoryPoint,
    listener: &mut dyn FnMut(PullProgress),
) -> Result<Pulled> {
    let fetcher = Fetcher::new(Arc::clone(objects));
    let manifest = point.manifest(&**objects)?;
    copy(environment, &fetcher, manifest, listener, |_, missing| {
        if point.is_kept(&**objects)? {
            return Err(is_missing(missing));
        }
        Err(BucketError::NotKept { bucket: objects.describe(), point: *point })
    })
}

fn is_missing(error: ObjectError) -> BucketError {
    let detail = "it is missing".to_owned();
    BucketError::Damaged { name: error.name, place: error.bucket, detail }
}

/// Makes the copy that `manifest` leads to. If an object is missing, `newer` says with which manifest to go on.
fn copy(
    environment: &Environment,
    fetcher: &Fetcher,
    mut manifest: Manifest,
    listener: &mut dyn FnMut(PullProgress),
    mut newer: impl FnMut(&Manifest, ObjectError) -> Result<Manifest>,
) -> Result<Pulled> {
    let local = &*environment.io;
    let failed = |operation| BucketError::local(local, operation, None);
    let _lock = lock_directory(local)?;
    // 1.
    begin(local)?;
    // 2.
    let mut files = Files { local, fetcher, whole: BTreeMap::new() };
    let mut begun_again = 0;
    loop {
        let total_bytes = manifest.part_bytes();
        let fetched = files.fetch(&manifest, &mut |done_bytes| {
            listener(PullProgress { done_bytes, total_bytes, begun_again });
        });
        manifest = match fetched {
            Ok(()) => break,
            Err(BucketError::Objects(error)) if error.kind == ObjectErrorKind::NotFound => {
                newer(&manifest, error)?
            }
            Err(error) => return Err(error),
        };
        begun_again += 1;
    }
    local.sync_directory().map_err(failed("sync the directory of"))?;
    // 3.
    super::attach::set_up_superblock(local, &manifest)?;
    local.sync_directory().map_err(failed("sync the directory of"))?;
    // 4.
    let failed_note = BucketError::local(local, "remove", Some(FileName::Bucket));
    local.remove(FileName::Bucket).map_err(failed_note)?;
    local.sync_directory().map_err(failed("sync the directory of"))?;
    Ok(Pulled {
        store: StoreId::of_superblock(&manifest.superblock),
        epoch: manifest.epoch,
        lsn: manifest.shipped,
        segments: manifest.files.len() as u64,
        bytes: manifest.part_bytes(),
        begun_again,
    })
}

/// Step 1. Nothing is changed of a directory with something else in it.
fn begin(local: &dyn Io) -> Result<()> {
    let failed = |operation| BucketError::local(local, operation, None);
    let refused = |detail| Err(BucketError::NotEmpty { directory: local.describe(), detail });
    let segments = local.list_segments().map_err(failed("list"))?;
    let is_empty = match local.inspect().map_err(failed("look into"))? {
        DirectoryState::Foreign => return refused("it holds other files"),
        DirectoryState::Store => false,
        DirectoryState::Empty => segments.is_empty(),
    };
    if !is_empty && local.open_read_only(FileName::Bucket).is_err() {
        return refused("it has a store");
    }
    let mut notes = NoteFile::open(local)?;
    match notes.current() {
        Some(note) if !(note.is_setting_up && note.claim == 0) => {
            return refused("it is the local disk of a host with a store in a bucket");
        }
        None if !is_empty => return refused("it has a store"),
        _ => {}
    }
    notes.replace(Note {
        sequence: 0,
        holder: HolderId::default(),
        epoch: 0,
        claim: 0,
        partial: Partial::default(),
        is_setting_up: true,
    })?;
    // What a pull before this one left.
    match local.remove(FileName::Superblock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(failed("clear"))?,
    }
    for left in segments {
        local.remove(FileName::Segment(left)).map_err(failed("clear"))?;
    }
    Ok(())
}

/// The segment files that are being made.
struct Files<'a> {
    local: &'a dyn Io,
    fetcher: &'a Fetcher,
    /// Those that are as a manifest has them.
    whole: BTreeMap<FileNo, FileEntry>,
}

impl Files<'_> {
    /// Fetches what is not as `manifest` has it, and removes what that does not have.
    fn fetch(&mut self, manifest: &Manifest, listener: &mut dyn FnMut(u64)) -> Result<()> {
        let changed: Vec<FileNo> = self
            .whole
            .iter()
            .filter(|(number, entry)| manifest.files.get(number) != Some(entry))
            .map(|(&number, _)| number)
            .collect();
        for number in changed {
            self.whole.remove(&number);
            let name = FileName::Segment(number);
            let failed = BucketError::local(self.local, "remove", Some(name));
            self.local.remove(name).map_err(failed)?;
        }
        let mut done: u64 = self.whole.values().map(FileEntry::part_bytes).sum();
        listener(done);
        for (&number, entry) in &manifest.files {
            if !self.whole.contains_key(&number) {
                self.fetch_file(manifest, number, entry, &mut |bytes| {
                    done += bytes;
                    listener(done);
                })?;
                self.whole.insert(number, entry.clone());
            }
        }
        Ok(())
    }

    fn fetch_file(
        &self,
        manifest: &Manifest,
        number: FileNo,
        entry: &FileEntry,
        listener: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let name = FileName::Segment(number);
        let failed = |operation| BucketError::local(self.local, operation, Some(name));
        let file = self.local.create(name).map_err(failed("create"))?;
        file.reserve(entry.bytes).map_err(failed("reserve space for"))?;
        for (offset, part) in entry.parts.iter() {
            let info = &manifest.objects[&part.object];
            let pieces = part.at / PIECE_BYTES..(part.at + part.bytes).div_ceil(PIECE_BYTES);
            self.fetcher.each(info, pieces, |fetched| {
                let Some((at, bytes)) = fetched.of_part(offset, part) else { return Ok(()) };
                file.write_at(at, bytes).map_err(failed("write"))?;
                listener(bytes.len() as u64);
                Ok(())
            })?;
        }
        // The manifest has it, whatever a part says: it tells one use of the file from the next.
        let end = entry.bytes.min(SegmentUse::BLOCK_BYTES as u64);
        let block = &entry.block()[..usize::try_from(end).unwrap_or(usize::MAX)];
        file.write_at(0, block).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))
    }
}
