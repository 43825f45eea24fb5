//! What the examples share: a store in a directory, registered as the VFS `lapidary`.

use std::path::Path;
use std::sync::Arc;

use lapidary_engine::{Environment, Store, StoreOptions};
use lapidary_vfs::{Registration, VfsOptions};

/// Opens or creates the store in `directory`, for SQLite's `vfs=lapidary`, until what is returned is dropped.
pub fn register(directory: &Path) -> Result<Arc<Registration>, Box<dyn std::error::Error>> {
    let store = Store::open(Environment::system(directory), StoreOptions::create())?;
    Ok(Registration::register("lapidary", store, VfsOptions::default())?)
}
