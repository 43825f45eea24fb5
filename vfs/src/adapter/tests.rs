//! What the adapter refuses, and its marks. That it stores what SQLite writes is tested against the
//! crate's own interface in `tests/`.

use std::sync::Arc;

use lapidary_engine::{Environment, MemoryIo, Store, StoreOptions};
use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenKind, Vfs};

use super::StoreVfs;
use crate::registration::VfsOptions;

fn vfs() -> StoreVfs {
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let store = Store::open(environment, StoreOptions::create()).unwrap();
    StoreVfs::new(store, VfsOptions::default())
}

#[test]
fn a_write_needs_a_journal_of_the_same_handle() {
    let vfs = vfs();
    let open = || vfs.open_kind("a", OpenKind::MainDb, OpenAccess::Create).unwrap();
    let journal = || vfs.open_kind("a-journal", OpenKind::MainJournal, OpenAccess::Create).unwrap();
    let (mut first, mut second) = (open(), open());

    assert!(first.lock(LockKind::Shared).unwrap());
    assert!(first.lock(LockKind::Reserved).unwrap());
    let error = first.write_all_at(&[1; 512], 0).unwrap_err();
    assert!(error.to_string().contains("journal_mode MEMORY and OFF"), "{error}");
    let first_journal = journal();
    first.write_all_at(&[1; 512], 0).unwrap();
    first.sync(false).unwrap();
    assert!(first.unlock(LockKind::Shared).unwrap());
    assert!(first.unlock(LockKind::None).unwrap());

    // The first handle's journal is still open, but it is not the second's.
    assert!(second.lock(LockKind::Shared).unwrap());
    assert!(second.lock(LockKind::Reserved).unwrap());
    second.write_all_at(&[2; 512], 0).unwrap_err();
    drop(first_journal);
    let _second_journal = journal();
    second.write_all_at(&[2; 512], 0).unwrap();
    assert!(first.lock(LockKind::Shared).unwrap());
    assert!(!first.lock(LockKind::Reserved).unwrap(), "one writer at a time");
}

#[test]
fn what_was_not_synced_is_not_committed() {
    let vfs = vfs();
    let mut file = vfs.open_kind("a", OpenKind::MainDb, OpenAccess::Create).unwrap();
    file.lock(LockKind::Shared).unwrap();
    file.lock(LockKind::Exclusive).unwrap();
    let mut journal =
        vfs.open_kind("a-journal", OpenKind::MainJournal, OpenAccess::Create).unwrap();
    file.write_all_at(&[1; 512], 0).unwrap();
    for ended in [journal.set_len(0), journal.write_all_at(&[0; 28], 0)] {
        assert!(ended.unwrap_err().to_string().contains("synchronous=OFF"));
    }
    let error = file.unlock(LockKind::Shared).unwrap_err();
    assert!(error.to_string().contains("synchronous=OFF"), "{error}");
    assert_eq!(file.size().unwrap(), 0);
    assert_eq!(file.current_lock().unwrap(), LockKind::Shared, "the lock is lowered all the same");

    file.lock(LockKind::Exclusive).unwrap();
    file.write_all_at(&[1; 512], 0).unwrap();
    file.write_all_at(&[2; 512], 512).unwrap();
    file.sync(false).unwrap();
    journal.set_len(0).unwrap();
    file.set_len(512).unwrap();
    file.unlock(LockKind::Shared).unwrap();
    assert_eq!(file.size().unwrap(), 512, "a truncation after the sync is committed");
}

#[test]
fn names_and_kinds() {
    let vfs = vfs();
    for (kind, words) in
        [(OpenKind::SuperJournal, "several databases"), (OpenKind::Wal, "WAL mode is refused")]
    {
        let failure = vfs.open_kind("a-x", kind, OpenAccess::Create).unwrap_err();
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let failure = vfs.open_kind("missing", OpenKind::MainDb, OpenAccess::Write).unwrap_err();
    assert!(failure.message.contains("missing"));
    assert!(vfs.full_pathname("/a").unwrap_err().to_string().contains("starts with a slash"));

    vfs.open_kind("x-journal", OpenKind::MainDb, OpenAccess::Create).unwrap();
    vfs.open_kind("x", OpenKind::MainDb, OpenAccess::CreateNew).unwrap();
    vfs.open_kind("x", OpenKind::MainDb, OpenAccess::CreateNew).unwrap_err();
    assert!(!vfs.exists("x-journal").unwrap());
    assert!(vfs.exists("x").unwrap());
    vfs.delete("x-journal").unwrap();
    vfs.open_kind("x-journal", OpenKind::MainDb, OpenAccess::Read).unwrap();
    vfs.delete("x").unwrap_err();
    let name = vfs.temporary_name();
    assert_ne!(name, vfs.temporary_name());
    vfs.delete(&name).unwrap();
}

#[test]
fn randomness_is_given() {
    let mut bytes = [0_i8; 64];
    vfs().random(&mut bytes);
    assert_ne!(bytes, [0; 64]);
}
