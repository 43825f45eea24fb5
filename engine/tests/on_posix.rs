//! The tests of the files beside this one, on real files, through POSIX calls: the name of this binary
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
