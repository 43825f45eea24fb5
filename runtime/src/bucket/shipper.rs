//! Telling the bucket: cuts become objects of data, and then a manifest.
//!
//! Order. 1. Objects of data are written, under names that nobody ever used. 2. The manifest that
//! refers to them replaces the one that this host wrote last, if that is still the one there. 3. What
//! the cut had counts as shipped. If 2 came before 1, a host lost between them would leave a manifest
//! that leads to nothing. If 3 came before 2, a commit could be acknowledged that no manifest has.
//!
//! A request whose answer was lost may be done, now or later. So until it is known what became of a
//! manifest, the same bytes are sent again, never others: then it does not matter which of the requests
//! was done. That it was done is seen from the answer, or, when the condition fails, from the bytes that
//! are there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lapidary_engine::{Clock, FileName, Io, Lsn};

use super::error::{BucketError, Result};
use super::format::manifest::{MANIFEST, Manifest};
use super::format::object::{self, Extent, ObjectInfo, ObjectKey};
use super::garbage::Garbage;
use super::history::{HistoryPoint, Keeper};
use super::journal::{Cut, FromFile, Journal};
use super::lease::Lease;
use super::local_disk::SEALED_PARTS_MAX;
use super::objects::{Condition, ObjectErrorKind, Objects, Tag};
use super::settings::BucketSettings;

/// Any file is from more than this: it bounds the manifest.
const PARTS_MAX: usize = 48;

/// Figures of what was sent.
#[derive(Debug, Default)]
pub(super) struct ShipCounters {
    pub(super) puts: AtomicU64,
    pub(super) put_bytes: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) manifest_bytes: AtomicU64,
    pub(super) deletes: AtomicU64,
    pub(super) is_under_way: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Shipper {
    objects: Arc<dyn Objects>,
    /// The local files, past the journal.
    local: Arc<dyn Io>,
    journal: Arc<Journal>,
    lease: Arc<Lease>,
    clock: Arc<dyn Clock>,
    counters: Arc<ShipCounters>,
    /// The manifest that is in the bucket, and its tag.
    published: Manifest,
    tag: Tag,
    lease_ms: u32,
    next_object: u64,
    under_way: Option<UnderWay>,
    keeper: Keeper,
    garbage: Garbage,
    /// When the manifest that is there was sent first.
    renewed_ns: u64,
}

/// A cut on its way, or nothing but a new lease.
#[derive(Debug)]
struct UnderWay {
    cut: Option<Cut>,
    shipped: Lsn,
    /// Its object, until that is written.
    data: Option<(ObjectInfo, Vec<u8>)>,
    manifest: Option<Sent>,
}

#[derive(Debug)]
struct Sent {
    manifest: Manifest,
    bytes: Vec<u8>,
    /// When it was sent first.
    at_ns: u64,
}

/// What a shipper starts from.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) settings: &'a BucketSettings,
    pub(super) objects: Arc<dyn Objects>,
    pub(super) local: Arc<dyn Io>,
    pub(super) journal: Arc<Journal>,
    pub(super) lease: Arc<Lease>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) published: Manifest,
    pub(super) tag: Tag,
    /// When the manifest that is there was sent first.
    pub(super) renewed_ns: u64,
}

impl Shipper {
    pub(super) fn new(start: Start<'_>) -> Self {
        let Start { settings, objects, local, journal, lease, clock, published, tag, .. } = start;
        let (now_ns, wall_ms) = (lease.now_ns(), clock.wall_ms());
        let keep_replaced_ns = settings.keep_replaced.as_nanos();
        Self {
            objects,
            local,
            journal,
            lease,
            clock,
            counters: Arc::default(),
            next_object: published.next_object,
            keeper: Keeper::new(settings, published.points.clone(), now_ns, wall_ms),
            garbage: Garbage::new(u64::try_from(keep_replaced_ns).unwrap_or(u64::MAX)),
            lease_ms: published.lease_ms,
            published,
            tag,
            under_way: None,
            renewed_ns: start.renewed_ns,
        }
    }

    pub(super) fn counters(&self) -> &Arc<ShipCounters> {
        &self.counters
    }

    pub(super) fn epoch(&self) -> u64 {
        self.published.epoch
    }

    /// Up to there everything is in the bucket.
    pub(super) fn shipped(&self) -> Lsn {
        self.published.shipped
    }

    /// Whether a cut is on its way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.cut.is_some())
    }

    /// When the lease is to be renewed, on the monotonic clock: after a quarter of it.
    pub(super) fn renewal_due_ns(&self) -> u64 {
        self.renewed_ns.saturating_add(u64::from(self.lease_ms) * 250_000)
    }

    /// Brings the bucket to where the store is now, or a step nearer if there is a cut under way. `durable`
    /// is asked before a cut is taken: everything up to it was written by then.
    ///
    /// # Errors
    /// `Fenced`; or a request failed, and the same call may be made again.
    pub(super) fn ship(&mut self, durable: impl Fn() -> Lsn) -> Result<Lsn> {
        self.lease.check()?;
        if !self.is_under_way() {
            // A new lease may be on its way: it has to arrive before anything else is sent.
            self.send_manifest(self.lease_ms)?;
            while let Some(read) = self.journal.next_to_catch_up() {
                self.send_from_file(&read)?;
                if self.lease.now_ns() >= self.renewal_due_ns() {
                    // There may be much to send before there is anything new to say.
                    self.renew()?;
                }
            }
            if let Some(read) = self.journal.next_to_join(SEALED_PARTS_MAX, PARTS_MAX) {
                self.send_from_file(&read)?;
            }
            let shipped = durable().max(self.published.shipped);
            let mut cut = self.journal.cut();
            let data = self.pack(&mut cut);
            self.under_way = Some(UnderWay { cut: Some(cut), shipped, data, manifest: None });
            self.counters.is_under_way.store(true, Ordering::Relaxed);
        }
        self.send_data()?;
        self.send_manifest(self.lease_ms)?;
        Ok(self.published.shipped)
    }

    /// Renews the lease, and says nothing new.
    ///
    /// # Errors
    /// As [`ship`](Self::ship).
    pub(super) fn renew(&mut self) -> Result<()> {
        self.lease.check()?;
        if self.under_way.is_none() {
            self.under_way = Some(self.nothing_new());
        }
        self.send_data()?;
        self.send_manifest(self.lease_ms)
    }

    /// Gives the lease back: another host may take over at once. The last thing to be done.
    pub(super) fn give_back(&mut self) -> Result<()> {
        self.send_manifest(0)?;
        if self.published.lease_ms != 0 {
            self.under_way = Some(self.nothing_new());
            self.send_manifest(0)?;
        }
        Ok(())
    }

    fn nothing_new(&self) -> UnderWay {
        UnderWay { cut: None, shipped: self.published.shipped, data: None, manifest: None }
    }

    fn new_key(&mut self) -> ObjectKey {
        let key = ObjectKey { epoch: self.published.epoch, sequence: self.next_object };
        self.next_object += 1;
        key
    }

    /// The object of what is pending in a cut, if anything is.
    fn pack(&mut self, cut: &mut Cut) -> Option<(ObjectInfo, Vec<u8>)> {
        if cut.pending.is_empty() {
            return None;
        }
        let mut data = Vec::with_capacity(cut.pending.iter().map(|it| it.bytes.len()).sum());
        let mut extents = Vec::new();
        for pending in &cut.pending {
            data.extend_from_slice(&pending.bytes);
            extents.push(Extent {
                file: pending.file,
                segment: pending.segment,
                offset: pending.offset,
                bytes: pending.bytes.len() as u64,
            });
        }
        let (info, object) = object::encode(self.new_key(), &extents, &data);
        cut.place(&info);
        cut.pending = Vec::new();
        Some((info, object))
    }

    /// Writes what a local file has into an object of its own.
    fn send_from_file(&mut self, read: &FromFile) -> Result<()> {
        let mut data = vec![0; usize::try_from(read.to - read.from).unwrap_or(usize::MAX)];
        let filled = self
            .local
            .open(FileName::Segment(read.file))
            .and_then(|file| file.read_at(read.from, &mut data));
        if let Err(source) = filled {
            // It was removed, or put to use anew and is shorter now: then it is not asked for again.
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
                && !self.journal.is_still(read)
            {
                return Ok(());
            }
            let file = Some(FileName::Segment(read.file));
            return Err(BucketError::local(&*self.local, "read", file)(source));
        }
        let used = super::journal::without_zeros(&data).len();
        data.truncate(used);
        let key = self.new_key();
        let bytes = data.len() as u64;
        let extent = Extent { file: read.file, segment: read.segment, offset: read.from, bytes };
        let (info, object) = object::encode(key, &[extent], &data);
        if bytes > 0 {
            self.put(&key.name(), &object, Condition::Always)?;
        }
        self.journal.place_read(read, bytes, &info);
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8], condition: Condition<'_>) -> Result<Tag> {
        // Not even a request is made by a host that may not: it could be done much later.
        self.lease.check()?;
        self.counters.puts.fetch_add(1, Ordering::Relaxed);
        self.counters.put_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.objects.put(name, bytes, condition).map_err(|error| {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            BucketError::Objects(error)
        })
    }

    /// Step 1.
    fn send_data(&mut self) -> Result<()> {
        let Some(under_way) = &self.under_way else { return Ok(()) };
        if let Some((info, data)) = &under_way.data {
            self.put(&info.key.name(), data, Condition::Always)?;
        }
        if let Some(under_way) = &mut self.under_way {
            under_way.data = None;
        }
        Ok(())
    }

    /// Steps 2 and 3.
    fn send_manifest(&mut self, lease_ms: u32) -> Result<()> {
        let now_ns = self.lease.now_ns();
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        let sent = under_way.manifest.get_or_insert_with(|| {
            let mut manifest = self.published.clone();
            manifest.lease_ms = lease_ms;
            manifest.sequence += 1;
            manifest.shipped = under_way.shipped;
            manifest.next_object = self.next_object;
            manifest.points = self.keeper.points().to_vec();
            if let Some(cut) = &under_way.cut {
                manifest.superblock.clone_from(&cut.superblock);
                manifest.objects.clone_from(&cut.objects);
                manifest.files = cut.entries();
                manifest.drop_unused_objects();
            }
            let bytes = manifest.encode();
            Sent { manifest, bytes, at_ns: now_ns }
        });
        let bytes = sent.bytes.clone();
        let written = self.put(MANIFEST, &bytes, Condition::Unchanged(&self.tag));
        let tag = match written {
            Ok(tag) => tag,
            Err(BucketError::Objects(error))
                if matches!(error.kind, ObjectErrorKind::Condition | ObjectErrorKind::NotFound) =>
            {
                self.find_own(&bytes)?
            }
            Err(error) => return Err(error),
        };
        self.landed(tag);
        Ok(())
    }

    /// The tag of the manifest that is there, if it is `sent`; else this host is fenced.
    fn find_own(&self, sent: &[u8]) -> Result<Tag> {
        let cause = match self.objects.get(MANIFEST) {
            Ok((found, tag)) if found == sent => return Ok(tag),
            Ok((_, tag)) if tag == self.tag => {
                // What was there when the condition failed is not what is there now, or the answer is an
                // old one. Another look will tell.
                return Err(BucketError::Objects(super::objects::ObjectError {
                    kind: ObjectErrorKind::Unclear,
                    operation: "put",
                    name: MANIFEST.to_owned(),
                    bucket: self.objects.describe(),
                    detail: "its condition failed, and yet it holds".to_owned(),
                }));
            }
            Ok((found, _)) => match Manifest::decode(&found) {
                Ok(other) => format!(
                    "host {} ({}) took over the store in {}, in epoch {}: this host served it in epoch \
                     {} and may not any more",
                    other.holder_name,
                    other.holder,
                    self.objects.describe(),
                    other.epoch,
                    self.published.epoch
                ),
                Err(_) => format!(
                    "the manifest in {} was replaced by something else: nobody may go on from there",
                    self.objects.describe()
                ),
            },
            Err(error) if error.kind == ObjectErrorKind::NotFound => format!(
                "the manifest in {} was deleted: nobody may go on from there",
                self.objects.describe()
            ),
            Err(error) => return Err(error.into()),
        };
        self.lease.fence(cause.clone());
        Err(BucketError::Fenced { cause })
    }

    fn landed(&mut self, tag: Tag) {
        let Some(UnderWay { cut, manifest: Some(sent), .. }) = self.under_way.take() else {
            return;
        };
        self.lease.renew(sent.at_ns, sent.manifest.lease_ms);
        self.renewed_ns = sent.at_ns;
        if let Some(cut) = cut {
            self.journal.landed(&cut, &sent.manifest.objects);
            self.counters.is_under_way.store(false, Ordering::Relaxed);
        }
        self.counters.manifest_bytes.store(sent.bytes.len() as u64, Ordering::Relaxed);
        self.garbage.landed(&self.published, &sent.manifest, self.lease.now_ns());
        self.published = sent.manifest;
        self.tag = tag;
    }

    /// What is to be done and has time: makes a point of history if one is due, looks for garbage and deletes some,
    /// in `most` requests at most, and none when the lease is to be renewed.
    ///
    /// # Errors
    /// A request failed; what it was for is tried again.
    pub(super) fn tidy(&mut self, most: usize) -> Result<()> {
        let now_ns = self.lease.now_ns();
        if self.under_way.is_none() && self.keeper.is_due(&self.published, now_ns) {
            self.keep_point()?;
        }
        for _ in 0..most {
            let now_ns = self.lease.now_ns();
            if !self.garbage.is_due(now_ns) || now_ns >= self.renewal_due_ns() {
                break;
            }
            if self.garbage.step(&*self.objects, &self.published, now_ns)? {
                self.counters.deletes.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Copies the manifest that is there, unless it was. The next one lists the copy.
    fn keep_point(&mut self) -> Result<HistoryPoint> {
        let point = self.keeper.point(&self.published, self.clock.wall_ms());
        if let Some(last) = self.keeper.points().last().filter(|last| last.id() == point.id()) {
            return Ok(*last);
        }
        self.put(&point.name(), &self.published.encode(), Condition::Always)?;
        self.keeper.made(point, self.lease.now_ns());
        Ok(point)
    }

    /// Makes a point of history of what is in the bucket now, and has it listed. If a request fails after the copy
    /// was written, a later manifest lists it.
    ///
    /// # Errors
    /// As [`ship`](Self::ship); and if this host keeps no history.
    pub(super) fn keep_point_now(&mut self) -> Result<HistoryPoint> {
        if !self.keeper.is_on() {
            let what = "this host keeps no history; set `BucketSettings::history_for`".to_owned();
            return Err(BucketError::InvalidInput(what));
        }
        // The copy is to be of the manifest that is there, and the next one has to say so.
        self.send_data()?;
        self.send_manifest(self.lease_ms)?;
        let point = self.keep_point()?;
        self.renew()?;
        Ok(point)
    }
}
