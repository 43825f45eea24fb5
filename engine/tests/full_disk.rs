//! A disk without space: what is there stays usable, and space comes back.

mod support;

use std::sync::Arc;

use lapidary_engine::{Error, ErrorKind, Facet, Store, View};
use support::{FaultyIo, name, open, read, try_write, write};

/// A store with one facet, whose disk has no space left beyond what the store has allocated.
#[expect(clippy::unwrap_used, reason = "it is part of tests")]
fn on_a_full_disk() -> (Arc<Store>, Arc<Facet>) {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let facet = store.create_facet(&name("a")).unwrap();
    write(&store, &facet, 1);
    while store.maintain().unwrap() {}
    disk.leave_free(0);
    (store, facet)
}

/// If this fails, a store on a full disk never takes a commit again by itself, though nearly all of
/// its space is garbage that one checkpoint would free.
#[test]
fn maintenance_frees_space_on_a_full_disk() {
    let (store, facet) = on_a_full_disk();
    let refused = (0..1000).find_map(|_| match try_write(&facet, 2) {
        Ok(()) => store.flush().map(|()| None).unwrap(),
        Err(error) => Some(error),
    });
    assert_eq!(refused.expect("space runs out").kind(), ErrorKind::NoSpace);
    assert!(store.maintain().unwrap());
    write(&store, &facet, 3);
    assert_eq!(read(&facet), 3);
}

/// The disk is full, and of the segments that are ready all were in use before. If this fails, the
/// store cannot be opened and all its data is out of reach until somebody frees space: recovery
/// writes the end of the log again, and finds no room.
#[test]
fn a_store_opens_on_a_full_disk() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let facet = store.create_facet(&name("a")).unwrap();
    // Snapshots keep segments from being used again, so that several get their turn.
    let snapshots: Vec<_> = (0..100)
        .map(|_| {
            write(&store, &facet, 1);
            facet.snapshot(View::Durable).unwrap()
        })
        .collect();
    drop(snapshots);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    write(&store, &facet, 2);
    let ready = store.stat().ready_segments as usize;
    drop((facet, store));

    let mut image = disk.image();
    let all = image.len();
    image.retain(|_, content| content[0] != 0);
    assert!(ready > all - image.len(), "some segment that was in use is ready");
    let disk = FaultyIo::holding(&image);
    disk.leave_free(0);
    let store = open(&disk);
    assert_eq!(read(&store.open_facet(&name("a")).unwrap()), 2);
}

/// As much space as the error asks for is enough: an operator who frees it is not asked again.
#[test]
fn the_space_asked_for_is_enough() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let log = store.create_facet(&name("log")).unwrap();
    for chunk in 0..30 {
        for number in 0..64 {
            store.create_facet(&name(format!("old/{chunk:0>100}/{number:0>100}"))).unwrap();
        }
        store.checkpoint().unwrap();
    }
    disk.leave_free(0);
    let needed = (0..10_000).find_map(|_| match try_write(&log, 1) {
        Ok(()) => store.flush().map(|()| None).unwrap(),
        Err(Error::NoSpace { needed_bytes, .. }) => Some(needed_bytes),
        Err(error) => panic!("{error}"),
    });
    disk.leave_free(needed.unwrap());
    write(&store, &log, 1);
    disk.leave_free(0);
    // A change that makes the next checkpoint a long one asks for all that this takes.
    let refused = store.rename_facet(&name("old"), &name("new"));
    let Err(Error::NoSpace { needed_bytes, .. }) = refused else { panic!("{refused:?}") };
    disk.leave_free(needed_bytes);
    store.rename_facet(&name("old"), &name("new")).unwrap();
    store.flush().unwrap();
    disk.leave_free(0);
    store.checkpoint().unwrap();
}

/// Checkpoints alone never use up the space that they free.
#[test]
fn checkpoints_on_a_full_disk_go_on() {
    let (store, facet) = on_a_full_disk();
    while try_write(&facet, 1).is_ok() {
        store.flush().unwrap();
    }
    for round in 0..300 {
        store.checkpoint().unwrap();
        while try_write(&facet, 1).is_ok() {
            store.flush().unwrap();
            if store.stat().commits % 7 == round % 7 {
                break;
            }
        }
    }
    store.delete_facet(&name("a")).unwrap();
}
