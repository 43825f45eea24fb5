//! Checkpoints that fail, and what they have to get right all the same.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lapidary_engine::{Error, ErrorKind, Lsn, Store, Ticket};
use support::{FaultyIo, name, open, read, try_write, write};

/// If this fails, all pages of the facet are lost: the checkpoint takes the page map that is not in
/// memory for an empty one, and the log that could tell is not replayed any more.
#[test]
fn a_facet_renamed_while_it_is_not_in_memory_keeps_its_pages() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    write(&store, &store.create_facet(&name("a")).unwrap(), 7);
    store.close().unwrap();

    let store = open(&disk);
    store.rename_facet(&name("a"), &name("b")).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(read(&store.open_facet(&name("b")).unwrap()), 7);
    drop(store);
    let store = open(&disk);
    assert_eq!(read(&store.open_facet(&name("b")).unwrap()), 7);
}

/// Parts of the catalog that [`overwhelm`] makes a checkpoint write, about 17 KiB each.
const CHUNKS: u32 = 30;

/// Renames so many facets with one record that the checkpoint that is due takes much room, and lets somebody
/// remove the files that were ready for it while the store is closed and the disk gets full.
fn overwhelm() -> (FaultyIo, Arc<Store>) {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let log = store.create_facet(&name("log")).unwrap();
    for chunk in 0..CHUNKS {
        for number in 0..64 {
            store.create_facet(&name(format!("old/{chunk:0>100}/{number:0>100}"))).unwrap();
        }
        // One by one, so that the store never has room for all of them at once.
        store.checkpoint().unwrap();
    }
    write(&store, &log, 1);
    store.rename_facet(&name("old"), &name("new")).unwrap();
    store.flush().unwrap();
    drop((log, store));

    let mut image = disk.image();
    image.retain(|_, content| content[0] != 0);
    let disk = FaultyIo::holding(&image);
    // Opening takes one, for the end of the log.
    disk.leave_free(300 << 10);
    let store = open(&disk);
    disk.leave_free(0);
    (disk, store)
}

/// If this fails, space is lost for good each time a checkpoint fails: what it had written counts
/// as live, and no checkpoint will ever count it out.
#[test]
fn checkpoints_that_fail_leave_nothing_behind() {
    let (disk, store) = overwhelm();
    disk.leave_all_free();
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let expected = store.stat().live_bytes;

    let (disk, store) = overwhelm();
    // With a little more space each time, so that attempts come further and further.
    let mut failures = 0;
    for free_bytes in (0..32).map(|step| step << 20) {
        disk.leave_free(free_bytes);
        match store.checkpoint() {
            Ok(()) => break,
            Err(Error::NoSpace { .. }) => failures += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failures > 0);
    disk.leave_all_free();
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let found = store.stat().live_bytes;
    // The segment table, which is live too, may differ by a few segments.
    assert!(found.abs_diff(expected) < 1024, "{found} bytes are live, not {expected}");
}

/// If this fails, attempts that cannot succeed use up the room kept for the one that would: a store
/// that asks for space on a full disk asks for more the more often it tries.
#[test]
fn checkpoints_that_fail_use_up_no_room() {
    let (disk, store) = overwhelm();
    let before = store.stat();
    for _ in 0..20 {
        assert_eq!(store.checkpoint().unwrap_err().kind(), ErrorKind::NoSpace);
    }
    let mut after = store.stat();
    // Nothing that comes after a cut is built on what was before, whatever becomes of the checkpoint.
    assert_eq!(std::mem::replace(&mut after.image_bytes, before.image_bytes), 0);
    assert_eq!(after, before);
    disk.leave_all_free();
    store.checkpoint().unwrap();
    write(&store, &store.open_facet(&name("log")).unwrap(), 2);
}

/// If this fails, whoever sleeps until a commit is durable sleeps for ever: the store has stopped,
/// and nothing will flush any more.
#[test]
fn listeners_are_told_that_a_failed_superblock_write_stopped_the_store() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let facet = store.create_facet(&name("a")).unwrap();
    write(&store, &facet, 7);
    let told = Arc::new(AtomicU32::new(0));
    let listener = {
        let (store, told) = (Arc::downgrade(&store), Arc::clone(&told));
        // A commit still to come, as far as the store knows.
        let waited_for = Ticket::at(Lsn(1000));
        move || {
            if let Some(store) = store.upgrade()
                && store.is_durable(waited_for).is_err()
            {
                told.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    store.on_durable(Box::new(listener));
    disk.tear_superblock();
    assert!(matches!(store.checkpoint(), Err(Error::Poisoned { .. })));
    assert!(told.load(Ordering::Relaxed) > 0, "the listener was not told");
    assert!(matches!(try_write(&facet, 8), Err(Error::Poisoned { .. })));
    drop((facet, store));

    let store = open(&FaultyIo::holding(&disk.image()));
    assert_eq!(read(&store.open_facet(&name("a")).unwrap()), 7);
}
