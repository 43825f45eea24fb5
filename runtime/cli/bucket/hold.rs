//! Getting hold of a store in a bucket, for commands that may change it.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use lapidary::Environment;
use lapidary::bucket::{self, Bucket, BucketError, BucketSettings, Objects, RemoteObjects};

use crate::failure::{Exit, Failure, Outcome, say};

/// Whether a store was shipped to the bucket at `url`.
pub(crate) fn has_store(url: &str) -> Outcome<bool> {
    let looked = RemoteObjects::open_to_read(url).and_then(|objects| bucket::status(&objects));
    match looked {
        Ok(status) => Ok(status.store.is_some()),
        Err(BucketError::NoStore { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gets hold of the store at `url`, with `directory` as its local disk, and waits for the host that has it.
/// An empty bucket is left alone, but to `create`.
pub(crate) fn hold(url: &str, directory: &Path, create: bool) -> Outcome<Bucket> {
    if !create && !has_store(url)? {
        let words =
            "no store here; check the address, or begin one with `lapidary create --bucket`";
        return Err(Failure::new(Exit::NotFound, format!("{url}: {words}")));
    }
    let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(url)?);
    let local = Environment::system(directory);
    // Ctrl-C ends the command: nothing is held yet.
    let told = Cell::new(false);
    let held = Bucket::attach_waiting(&objects, &local, &BucketSettings::default(), |error| {
        if let BucketError::Held { holder, epoch, lease_ms, .. } = error
            && !told.replace(true)
        {
            say(format_args!(
                "{url}: host {holder} has the store, in epoch {epoch}; waiting until it gives it back, or has \
                 not renewed its lease for {lease_ms} ms"
            ));
        }
        // Whatever else may pass is not waited for at a terminal.
        !matches!(error, BucketError::Held { .. })
    });
    Ok(held?)
}
