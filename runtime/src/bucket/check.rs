//! Whether a bucket has all that its manifest leads to, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use lapidary_engine::{Lsn, SegmentId};

use super::error::{BucketError, Result};
use super::fetch::Fetcher;
use super::format::manifest::Manifest;
use super::format::object::{ObjectInfo, ObjectKey};
use super::objects::{ObjectErrorKind, Objects};

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketReport {
    /// Epoch of the manifest.
    pub epoch: u64,
    /// Up to there it has everything.
    pub shipped_lsn: Lsn,
    /// Segment files of the store.
    pub segments: u64,
    /// Points of history that the manifest lists.
    pub points: u64,
    /// Objects that were compared with their checksums.
    pub objects: u64,
    /// Bytes of data in them.
    pub bytes: u64,
    /// Objects that the host replaced meanwhile, and so were not there to be compared.
    pub replaced: u64,
    /// What is wrong.
    pub findings: Vec<BucketFinding>,
}

/// An object that is damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketFinding {
    /// Its name in the bucket.
    pub object: String,
    /// Whether it is not there at all.
    pub is_missing: bool,
    /// The segments of which a part is in it; none if it is the copy of a manifest.
    pub segments: Vec<SegmentId>,
    /// What is wrong with it.
    pub detail: String,
}

impl BucketReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for BucketFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return write!(
                f,
                "{}: {}; a point of history is lost with it",
                self.object, self.detail
            );
        }
        let plural = if self.segments.len() == 1 { "" } else { "s" };
        write!(f, "{}: {}; it has parts of segment{plural} ", self.object, self.detail)?;
        for (number, segment) in self.segments.iter().enumerate() {
            write!(f, "{}{segment}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Fetches every object that the manifest in `objects` leads to and compares it with its checksums.
/// Nothing is kept and no lease is taken; a host may go on meanwhile. `listener` is told how many bytes of
/// how many were compared.
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
/// let report = bucket::verify(&objects, &mut |done, total| println!("{done} of {total}"))?;
/// assert!(report.is_clean() && report.objects > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NoStore`](BucketError::NoStore); a manifest that is damaged or of a newer release; what the bucket
/// says.
pub fn verify(
    objects: &Arc<dyn Objects>,
    listener: &mut dyn FnMut(u64, u64),
) -> Result<BucketReport> {
    let fetcher = Fetcher::new(Arc::clone(objects));
    let (manifest, _) = fetcher.store()?;
    let mut wanted = Wanted::default();
    wanted.add(&manifest);
    check(objects, &fetcher, &manifest, wanted, Vec::new(), listener)
}

/// As [`verify`], and also everything that the [points of history](super::history) lead to.
///
/// # Errors
/// As [`verify`].
pub fn verify_history(
    objects: &Arc<dyn Objects>,
    listener: &mut dyn FnMut(u64, u64),
) -> Result<BucketReport> {
    let fetcher = Fetcher::new(Arc::clone(objects));
    let (manifest, _) = fetcher.store()?;
    let mut wanted = Wanted::default();
    wanted.add(&manifest);
    let mut findings = Vec::new();
    for point in &manifest.points {
        let object = point.name();
        let (is_missing, detail) = match point.find(&**objects) {
            Ok(Some(copy)) => {
                wanted.add(&copy);
                continue;
            }
            Ok(None) if point.is_kept(&**objects)? => (true, "it is missing".to_owned()),
            // The host has dropped it meanwhile.
            Ok(None) => continue,
            Err(BucketError::Damaged { detail, .. }) => (false, detail),
            Err(error) => return Err(error),
        };
        findings.push(BucketFinding { object, is_missing, segments: Vec::new(), detail });
    }
    check(objects, &fetcher, &manifest, wanted, findings, listener)
}

/// Objects, and the segments of which there are parts in them.
#[derive(Default)]
struct Wanted(BTreeMap<ObjectKey, (ObjectInfo, BTreeSet<SegmentId>)>);

impl Wanted {
    /// What `manifest` leads to.
    fn add(&mut self, manifest: &Manifest) {
        for file in manifest.files.values() {
            for (_, part) in file.parts.iter() {
                let info = manifest.objects[&part.object];
                let (_, segments) = self.0.entry(info.key).or_insert((info, BTreeSet::new()));
                segments.insert(file.segment);
            }
        }
    }
}

fn check(
    objects: &Arc<dyn Objects>,
    fetcher: &Fetcher,
    manifest: &Manifest,
    wanted: Wanted,
    findings: Vec<BucketFinding>,
    listener: &mut dyn FnMut(u64, u64),
) -> Result<BucketReport> {
    let Wanted(wanted) = wanted;
    let mut report = BucketReport {
        epoch: manifest.epoch,
        shipped_lsn: manifest.shipped,
        segments: manifest.files.len() as u64,
        points: manifest.points.len() as u64,
        findings,
        ..BucketReport::default()
    };
    let total: u64 = wanted.values().map(|(object, _)| object.data_bytes).sum();
    let mut before = 0;
    let mut missing = Vec::new();
    for (info, segments) in wanted.into_values() {
        let mut done = before;
        let compared = fetcher.each(&info, 0..info.pieces(), |fetched| {
            done += fetched.data.len() as u64;
            listener(done, total);
            Ok(())
        });
        before += info.data_bytes;
        listener(before, total);
        let finding = |is_missing, detail| BucketFinding {
            object: info.key.name(),
            is_missing,
            segments: segments.iter().copied().collect(),
            detail,
        };
        match compared {
            Ok(()) => {
                report.objects += 1;
                report.bytes += info.data_bytes;
            }
            Err(BucketError::Damaged { detail, .. }) => {
                report.findings.push(finding(false, detail));
            }
            Err(BucketError::Objects(error)) if error.kind == ObjectErrorKind::NotFound => {
                missing.push((info.key, finding(true, "it is missing".to_owned())));
            }
            Err(error) => return Err(error),
        }
    }
    if !missing.is_empty() {
        // A host may have replaced them since; neither the newest manifest nor what it lists leads to them then.
        let (newest, _) = fetcher.store()?;
        for (key, finding) in missing {
            if is_led_to(&**objects, &newest, key)? {
                report.findings.push(finding);
            } else {
                report.replaced += 1;
            }
        }
    }
    Ok(report)
}

fn is_led_to(objects: &dyn Objects, newest: &Manifest, key: ObjectKey) -> Result<bool> {
    if newest.objects.contains_key(&key) {
        return Ok(true);
    }
    for point in newest.points.iter().filter(|point| point.may_need(key)) {
        match point.find(objects) {
            Ok(Some(copy)) if copy.objects.contains_key(&key) => return Ok(true),
            Ok(_) | Err(BucketError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
