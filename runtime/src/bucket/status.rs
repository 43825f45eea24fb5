//! What a bucket says of itself, for whoever looks at it: no lease is taken, and nothing is changed.

use lapidary_engine::{Lsn, StoreId};

use super::HolderId;
use super::error::Result;
use super::fetch::{newest_manifest, retried};
use super::format::object::{OBJECTS_PREFIX, ObjectKey};
use super::history::HistoryPoint;
use super::objects::Objects;

/// What [`status`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketStatus {
    /// Name of the host that holds the store, or held it last.
    pub holder: String,
    /// Identity of that host's directory.
    pub holder_id: HolderId,
    /// Its epoch.
    pub epoch: u64,
    /// Which of the manifests of that epoch it is.
    pub sequence: u64,
    /// Its lease, in milliseconds; 0 if it has given the store back.
    pub lease_ms: u32,
    /// Up to there everything is in the bucket.
    pub shipped_lsn: Lsn,
    /// The store. `None` if a host has claimed the bucket and has shipped none yet.
    pub store: Option<StoreId>,
    /// Segment files of the store.
    pub segments: u64,
    /// Objects that the manifest leads to.
    pub objects: u64,
    /// Bytes of data in those.
    pub object_bytes: u64,
    /// Bytes of them that the store's files are made of.
    pub referenced_bytes: u64,
    /// Objects that the manifest itself does not lead to. [Points of history](super::history) do, or they are on
    /// their way, or the host that has the store deletes them.
    pub other_objects: u64,
    /// Bytes of those.
    pub other_bytes: u64,
    /// Points of history, the oldest first.
    pub points: Vec<HistoryPoint>,
}

impl BucketStatus {
    /// Whether the host that had the store has given it back: who wants it need not wait.
    #[must_use]
    pub fn is_given_back(&self) -> bool {
        self.lease_ms == 0
    }
}

/// Reads the manifest of the store in `objects` and lists its objects.
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
/// # let id = host.store().id();
/// # host.shutdown()?;
/// let objects = RemoteObjects::open_to_read(&url)?;
/// let status = bucket::status(&objects)?;
/// println!("{} in epoch {}, up to LSN {}", status.holder, status.epoch, status.shipped_lsn);
/// assert!(status.is_given_back());
/// # assert_eq!(status.store, Some(id));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NoStore`](super::BucketError::NoStore); a manifest that is damaged or of a newer release; what the bucket
/// says.
pub fn status(objects: &dyn Objects) -> Result<BucketStatus> {
    // In this order, what is written in between is not taken for something that nothing leads to.
    let listed = retried(OBJECTS_PREFIX, || Ok(objects.list_with_bytes(OBJECTS_PREFIX)?))?;
    let (manifest, _) = newest_manifest(objects)?;
    let others = listed.iter().filter(|(name, _)| {
        let key = ObjectKey::of_name(name);
        key.is_some_and(|key| !manifest.objects.contains_key(&key))
    });
    let (mut other_objects, mut other_bytes) = (0, 0);
    for (_, bytes) in others {
        other_objects += 1;
        other_bytes += bytes;
    }
    Ok(BucketStatus {
        store: StoreId::of_superblock(&manifest.superblock),
        segments: manifest.files.len() as u64,
        objects: manifest.objects.len() as u64,
        object_bytes: manifest.objects.values().map(|object| object.data_bytes).sum(),
        referenced_bytes: manifest.part_bytes(),
        other_objects,
        other_bytes,
        holder: manifest.holder_name,
        holder_id: manifest.holder,
        epoch: manifest.epoch,
        sequence: manifest.sequence,
        lease_ms: manifest.lease_ms,
        shipped_lsn: manifest.shipped,
        points: manifest.points,
    })
}
