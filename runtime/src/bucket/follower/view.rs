//! A store as a manifest has it, open for reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{Environment, Lsn, Store};
use lapidary_vfs::{Registration, VfsOptions};

use super::super::error::{BucketError, Result};
use super::super::format::manifest::Manifest;
use super::cache::ObjectCache;
use super::files::FollowedIo;
use crate::config::HostConfig;
use crate::host::unique_vfs_name;
use crate::isolation::Policies;
use crate::meter::Meters;
use crate::readers::Readers;

/// It moves on with what is added to the log. After a checkpoint another takes its place, and this one
/// stays for as long as somebody reads in it.
pub(super) struct View {
    // Dropped in this order: connections, then what they are connections to.
    readers: Readers,
    _registration: Arc<Registration>,
    store: Arc<Store>,
    io: FollowedIo,
    epoch: AtomicU64,
}

impl View {
    /// Opens what `manifest` has.
    pub(super) fn open(
        bucket: String,
        manifest: &Manifest,
        cache: &ObjectCache,
        environment: &Environment,
        config: &HostConfig,
    ) -> Result<Self> {
        let io = FollowedIo::new(bucket, manifest, cache);
        let environment = Environment { io: Arc::new(io.clone()), ..environment.clone() };
        let store =
            Store::open_to_follow(environment, config.store.tunables.clone(), manifest.shipped)?;
        let vfs_name = unique_vfs_name();
        let registration =
            Registration::register(&vfs_name, Arc::clone(&store), VfsOptions::default());
        let registration = registration.map_err(|error| {
            BucketError::InvalidInput(format!("a follower is not opened: {error}"))
        })?;
        let policies = Arc::new(Policies::new(config.isolation.clone()));
        let readers =
            Readers::new(Arc::clone(&store), &vfs_name, config, policies, Arc::<Meters>::default());
        let epoch = AtomicU64::new(manifest.epoch);
        Ok(Self { readers, _registration: registration, store, io, epoch })
    }

    /// Moves on to `manifest`, if that can be done without opening it anew; says whether it was done.
    ///
    /// # Errors
    /// What was added cannot be fetched now; nothing has changed.
    pub(super) fn advance(&self, manifest: &Manifest, cache: &ObjectCache) -> Result<bool> {
        if !self.io.is_continued_by(manifest) {
            return Ok(false);
        }
        if let Err(source) = self.io.grow(manifest, cache) {
            let (operation, path) = ("fetch what was added to the log of", self.store.describe());
            let is_gone = self.io.is_gone();
            return if is_gone {
                Ok(false)
            } else {
                Err(BucketError::Local { operation, path, source })
            };
        }
        if let Err(error) = self.store.follow(manifest.shipped) {
            tracing::debug!(%error, "the log cannot be followed on; the store is opened anew");
            return Ok(false);
        }
        self.epoch.store(manifest.epoch, Ordering::Release);
        Ok(true)
    }

    /// Up to there everything is shown.
    pub(super) fn lsn(&self) -> Lsn {
        self.store.durable_lsn()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether something that is needed of it is not in the bucket any more.
    pub(super) fn is_gone(&self) -> bool {
        self.io.is_gone()
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.readers
    }
}
