//! Opening a store after crashes that came while it was being opened, or at a bad moment before.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use lapidary_engine::{ErrorKind, FileName};
use support::{BLOCK_BYTES, FaultyIo, Image, name, open, read, try_open, write};

/// Two crashes in a row: the log's end is on the disk in two forms, and has to be told apart from
/// what is acknowledged afterwards.
struct Interrupted {
    /// The disk after the second crash.
    disk: Image,
    /// The segment that the interrupted recovery wrote the last batch to again.
    rewritten: FileName,
}

/// 1. A process is killed when it has written a batch, the first of a segment, and not synced it.
/// 2. Recovery reads the batch from the page cache, writes it again to another segment and syncs
///    it.
/// 3. The power goes out before recovery has replaced the superblock. The batch of 1 is gone, that
///    of 2 is there, as far as `survives` leaves it.
///
/// Of the segments that are ready the first is put to use, so that the segment of 2 has to come
/// after that of 1: then the next recovery finds the latter ready again, and leaves the former.
fn interrupt_recovery(survives: impl Fn(&mut Vec<u8>)) -> Interrupted {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let facet = store.create_facet(&name("a")).unwrap();
    let header = |image: &Image, name: &FileName| {
        image
            .get(name)
            .map_or([0; BLOCK_BYTES], |content| content[..BLOCK_BYTES].try_into().unwrap())
    };
    for _ in 0..1000 {
        write(&store, &facet, 100);
        store.checkpoint().unwrap();
        let synced = disk.image();
        write(&store, &facet, 101);
        let written = disk.image();
        let mut segments = written.keys().filter(|&name| *name != FileName::Superblock);
        let Some(begun) = segments.find(|name| header(&synced, name) != header(&written, name))
        else {
            continue;
        };

        let cache = FaultyIo::holding(&written);
        cache.tear_superblock();
        try_open(&cache).unwrap_err();
        let mut changed = cache.image();
        changed.retain(|name, content| {
            *name != FileName::Superblock && written.get(name) != Some(content)
        });
        assert_eq!(changed.len(), 1, "recovery writes the last batch again");
        let (rewritten, mut content) = changed.pop_first().unwrap();
        if rewritten > *begun {
            survives(&mut content);
            let mut disk = synced;
            disk.insert(rewritten, content);
            return Interrupted { disk, rewritten };
        }
    }
    panic!("some batch is the first of its segment");
}

/// Opens the store, acknowledges two commits, and looks for them after another crash.
fn acknowledge_after(interrupted: &Interrupted) {
    let Interrupted { disk: image, rewritten } = interrupted;
    let disk = FaultyIo::holding(image);
    let store = open(&disk);
    let facet = store.open_facet(&name("a")).unwrap();
    assert_eq!(read(&facet), 100);
    write(&store, &facet, 200);
    write(&store, &facet, 201);
    drop((facet, store));
    let is_there = disk.image()[rewritten] == image[rewritten];
    assert!(is_there, "what is to be told apart has to be there still");
    let store = open(&disk);
    assert_eq!(read(&store.open_facet(&name("a")).unwrap()), 201);
}

/// If this fails, commits that were acknowledged after an interrupted recovery are lost: the next
/// one finds what the interrupted one wrote in their place, with the same LSN, and goes on there.
#[test]
fn what_an_interrupted_recovery_wrote_does_not_hide_later_commits() {
    acknowledge_after(&interrupt_recovery(|_| {}));
}

/// As above, where the power went out in the middle of the write: the segment has a header, and
/// nothing that follows it. If this fails, the log is taken to end there, and all that was
/// acknowledged since is lost.
#[test]
fn a_header_of_an_interrupted_recovery_does_not_hide_later_commits() {
    acknowledge_after(&interrupt_recovery(|content| content[BLOCK_BYTES..].fill(0)));
}

/// A process is killed between its writes of the superblock's two slots, and the power goes out
/// while the next open writes one of them. Of the new slot nothing was synced, so it may be torn;
/// the open must have begun with that one. If this fails, both slots are torn, and with them the
/// whole store is lost.
#[test]
fn the_slot_that_may_not_be_on_the_disk_is_written_first() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let facet = store.create_facet(&name("a")).unwrap();
    write(&store, &facet, 7);
    let before = disk.image();
    store.checkpoint().unwrap();
    let after = disk.image();
    drop((facet, store));

    let superblock = FileName::Superblock;
    for new in [0..BLOCK_BYTES, BLOCK_BYTES..2 * BLOCK_BYTES] {
        let mut image = after.clone();
        let mut slots = before[&superblock].clone();
        slots[new.clone()].copy_from_slice(&after[&superblock][new.clone()]);
        image.insert(superblock, slots);
        let cache = FaultyIo::holding(&image);
        cache.tear_superblock();
        try_open(&cache).unwrap_err();

        let mut image = cache.image();
        let torn = &mut image.get_mut(&superblock).unwrap()[new.clone()];
        torn[BLOCK_BYTES / 2..].fill(0);
        let store = open(&FaultyIo::holding(&image));
        assert_eq!(read(&store.open_facet(&name("a")).unwrap()), 7, "slot at {new:?}");
    }
}

/// A file that was never put to use has zeros, and may be short; one with a header in it was in use, and had
/// its whole length before. If this fails, what was acknowledged in it is taken for a file that was not
/// filled to its end, and the file is removed.
#[test]
fn a_segment_that_was_cut_within_its_header_block_is_damage() {
    let disk = FaultyIo::default();
    let store = open(&disk);
    let facet = store.create_facet(&name("a")).unwrap();
    write(&store, &facet, 7);
    drop((facet, store));
    let whole = disk.image();
    let in_use =
        whole.iter().filter(|(name, bytes)| **name != FileName::Superblock && bytes[0] != 0);
    for (&file, bytes) in in_use {
        for cut in [1, 100, 511, 2666] {
            let mut image = whole.clone();
            image.insert(file, bytes[..cut].to_vec());
            let disk = FaultyIo::holding(&image);
            let error = try_open(&disk).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            assert!(error.to_string().contains(&file.to_string()), "{error}");
            assert!(disk.image() == image, "a store that is refused is left as it is");
        }
    }
}
