//! A store in memory or in files, registered with SQLite, that is small in everything.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{
    Background, Environment, FormatParams, MemoryIo, Store, StoreOptions, Tunables,
};
use lapidary_vfs::{Registration, VfsOptions};

/// Registers an empty store in memory under a name of its own. Transactions spill early, journals leave
/// memory early, and checkpoints and the cleaner, which run when the caller says so, have work.
#[must_use]
pub fn register() -> Arc<Registration> {
    register_with(Environment::with_io(Arc::new(MemoryIo::new())))
}

/// The same in files in `directory`, whose pages SQLite can read in place.
#[must_use]
pub fn register_in(directory: &Path) -> Arc<Registration> {
    register_with(Environment::system(directory))
}

fn register_with(environment: Environment) -> Arc<Registration> {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    let name = format!("small-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let options = StoreOptions {
        format: FormatParams { segment_bytes_min: 256 << 10, segment_bytes_max: 4 << 20 },
        tunables: Tunables { spill_bytes: 64 << 10, ..Tunables::default() },
        background: Background::Manual,
        ..StoreOptions::create()
    };
    let store = Store::open(environment, options).expect("an empty store opens");
    let options = VfsOptions { scratch_memory_bytes_max: 64 << 10, ..VfsOptions::default() };
    Registration::register(&name, store, options).expect("nobody else has the name")
}

/// Does what the store's threads would: segments made ahead, a checkpoint, a round of cleaning.
///
/// # Errors
/// As the engine has them.
pub fn maintain(registration: &Registration) -> lapidary_engine::Result<()> {
    let store = registration.store();
    while store.maintain()? {}
    store.checkpoint()?;
    store.clean().map(drop)
}
