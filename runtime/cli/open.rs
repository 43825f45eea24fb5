//! Which store a command works on, and how it is opened.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use lapidary::{Host, HostConfig, StoreOptions};
use lapidary_engine::Error;

use crate::failure::{Exit, Failure, Outcome};

/// A store, and perhaps the bucket it is kept in.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// Directory of the store
    store: PathBuf,
    /// The bucket that the store is kept in, `s3://BUCKET/PREFIX` or `file:///DIRECTORY`; the directory is its
    /// local disk then. When the command has ended well, the bucket has what it did
    #[cfg(feature = "bucket")]
    #[arg(long, value_name = "URL", env = "LAPIDARY_BUCKET")]
    bucket: Option<String>,
}

impl Place {
    pub(crate) fn new(store: PathBuf, #[cfg(feature = "bucket")] bucket: Option<String>) -> Self {
        Self {
            store,
            #[cfg(feature = "bucket")]
            bucket,
        }
    }

    /// The store, for whoever looks for it from elsewhere.
    pub(crate) fn full_name(&self) -> Outcome<String> {
        #[cfg(feature = "bucket")]
        if let Some(url) = self.url() {
            return Ok(url.to_owned());
        }
        let path = self.store.canonicalize().map_err(Failure::io("looking up", &self.store))?;
        Ok(path.display().to_string())
    }

    /// The bucket. A variable that is set to nothing is none.
    #[cfg(feature = "bucket")]
    fn url(&self) -> Option<&str> {
        self.bucket.as_deref().filter(|url| !url.is_empty())
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &PathBuf {
        &self.store
    }

    /// Opens the store, runs `body`, and closes it, whatever came of that.
    pub(crate) fn with_host<T>(&self, body: impl FnOnce(&Host) -> Outcome<T>) -> Outcome<T> {
        self.with_options(StoreOptions::default(), body)
    }

    /// The same for a store that is made if there is none.
    pub(crate) fn with_new_host<T>(&self, body: impl FnOnce(&Host) -> Outcome<T>) -> Outcome<T> {
        self.with_options(StoreOptions::create(), body)
    }

    fn with_options<T>(
        &self,
        options: StoreOptions,
        body: impl FnOnce(&Host) -> Outcome<T>,
    ) -> Outcome<T> {
        let host = self.open(options)?;
        let outcome = body(&host);
        let closed = host.shutdown();
        let value = outcome?;
        closed?;
        Ok(value)
    }

    fn open(&self, options: StoreOptions) -> Outcome<Host> {
        let create = options.create;
        let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false).store(options);
        #[cfg(feature = "bucket")]
        if let Some(url) = self.url() {
            let held = crate::bucket::hold(url, &self.store, create)?;
            return Ok(Host::open_from_bucket(held, config)?);
        }
        #[cfg(not(feature = "bucket"))]
        let _ = create;
        Host::open(&self.store, config).map_err(|error| match error {
            lapidary::HostError::Store(Error::Missing { path }) => no_store(&path),
            error => error.into(),
        })
    }

    /// Whether there is a store.
    pub(crate) fn has_store(&self) -> Outcome<bool> {
        #[cfg(feature = "bucket")]
        if let Some(url) = self.url() {
            return crate::bucket::has_store(url);
        }
        Ok(self.store.join("SUPERBLOCK").exists())
    }

    /// The store, for messages.
    pub(crate) fn describe(&self) -> String {
        #[cfg(feature = "bucket")]
        if let Some(url) = self.url() {
            return url.to_owned();
        }
        self.store.display().to_string()
    }
}

/// What to say where there is no store.
pub(crate) fn no_store(path: &str) -> Failure {
    let words = "no store here; check the path, or make one with `lapidary create`";
    Failure::new(Exit::NotFound, format!("{path}: {words}"))
}
