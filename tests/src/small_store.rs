//! A store in memory, registered with SQLite, that is small in everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{
    Background, Environment, FormatParams, MemoryIo, Store, StoreOptions, Tunables,
};
use lapidary_vfs::{Registration, VfsOptions};

/// Registers an empty store under a name of its own. Transactions spill early, journals leave
/// memory early, and checkpoints and the cleaner, which run when the caller says so, have work.
#[must_use]
pub fn register() -> Arc<Registration> {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    let name = format!("small-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let options = StoreOptions {
        format: FormatParams { segment_bytes_min: 256 << 10, segment_bytes_max: 4 << 20 },
        tunables: Tunables { spill_bytes: 64 << 10, ..Tunables::default() },
        background: Background::Manual,
        ..StoreOptions::create()
    };
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let store = Store::open(environment, options).expect("a store in memory opens");
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
