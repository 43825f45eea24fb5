//! The tests of the files beside this one, on real files, through io_uring: the name of this binary
//! says so to `support::Disk`.

#![expect(clippy::duplicate_mod, reason = "each file of tests brings what it needs")]

#[path = "checkpoint.rs"]
mod checkpoint;
#[path = "full_disk.rs"]
mod full_disk;
#[path = "overlay.rs"]
mod overlay;
#[path = "publication.rs"]
mod publication;
#[path = "recovery.rs"]
mod recovery;
#[path = "store.rs"]
mod store;

use lapidary_engine::{Environment, Store, StoreOptions};

#[test]
fn the_store_says_what_it_runs_on() {
    let directory = tempfile::tempdir().unwrap();
    match Environment::uring(directory.path()) {
        Ok(uring) => {
            let store = Store::open(uring, StoreOptions::create()).unwrap();
            assert_eq!(store.stat().io_backend, "io_uring");
            store.close().unwrap();
        }
        Err(error) => println!("no io_uring here: {error}"),
    }
    let store = Store::open(Environment::system(directory.path()), StoreOptions::create()).unwrap();
    assert_eq!(store.stat().io_backend, "posix");
}
