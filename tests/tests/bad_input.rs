//! Bad input: each gives an error that names the thing and says what to do, and loses nothing that
//! was acknowledged.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::fs;
use std::path::Path;

use lapidary_engine::{
    Environment, Error, ErrorKind, FacetName, FileName, PageNo, PageSize, Store, StoreOptions,
    Tunables, View,
};
use lapidary_tests::chance::Chance;
use lapidary_tests::content::Damage;
use lapidary_tests::driver::{Driver, Progress, name};
use lapidary_tests::sim_disk::{SimDisk, Survival};
use lapidary_tests::world::{Life, World};

const BLOCK: usize = 4096;
const PAGE: usize = 1024;

fn open(path: &Path, create: bool) -> Result<std::sync::Arc<Store>, Error> {
    Store::open(Environment::system(path), StoreOptions { create, ..StoreOptions::default() })
}

fn refusal(path: &Path, create: bool) -> Error {
    open(path, create).map(drop).expect_err("it must be refused")
}

fn assert_says(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// Commits a page of `byte` to `facet`, and flushes.
fn put(store: &Store, facet: &str, byte: u8) {
    let facet = store.open_or_create_facet(&name(facet)).unwrap();
    let mut writer = facet.begin_write(&facet.snapshot(View::Latest).unwrap()).unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
    }
    writer.write_page(PageNo(1), &[byte; PAGE]).unwrap();
    writer.commit(0).unwrap();
    store.flush().unwrap();
}

fn get(store: &Store, facet: &str) -> Result<u8, Error> {
    let snapshot = store.open_facet(&name(facet))?.snapshot(View::Durable)?;
    let mut page = [0; PAGE];
    snapshot.read_page(PageNo(1), &mut page)?;
    assert_eq!(page, [page[0]; PAGE]);
    Ok(page[0])
}

#[test]
fn a_directory_that_is_not_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter.txt"), "dear reader").unwrap();
    for create in [false, true] {
        let error = refusal(&foreign, create);
        let path = foreign.display().to_string();
        assert_says(&error, ErrorKind::InvalidInput, &[&path, "not a store", "choose"]);
    }
    assert_eq!(fs::read_to_string(foreign.join("letter.txt")).unwrap(), "dear reader");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing was put there");

    let nothing = directory.path().join("nothing");
    let error = refusal(&nothing, false);
    assert_says(&error, ErrorKind::NotFound, &["nothing", "no store here", "create"]);
    assert!(!nothing.exists());

    let file = foreign.join("letter.txt");
    let error = refusal(&file, true);
    assert!(error.to_string().contains("letter.txt"), "{error}");
}

#[test]
fn a_file_that_only_looks_like_a_superblock() {
    let sqlite = [b"SQLite format 3\0".as_slice(), &[7; 2 * BLOCK]].concat();
    for bytes in [vec![b'x'; 2 * BLOCK], b"dear reader".to_vec(), sqlite] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("SUPERBLOCK"), &bytes).unwrap();
        let error = refusal(directory.path(), true);
        assert!(error.to_string().contains("SUPERBLOCK"), "{error}");
        assert_eq!(fs::read(directory.path().join("SUPERBLOCK")).unwrap(), bytes);
    }
}

/// What a crash in the middle of creating a store leaves is no obstacle to creating it.
#[test]
fn a_superblock_that_was_never_written() {
    for bytes in [Vec::new(), vec![0; 100], vec![0; 2 * BLOCK]] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("SUPERBLOCK"), &bytes).unwrap();
        let error = refusal(directory.path(), false);
        assert!(error.to_string().contains("SUPERBLOCK"), "{error}");
        put(&open(directory.path(), true).unwrap(), "a", 1);
        assert_eq!(get(&open(directory.path(), false).unwrap(), "a").unwrap(), 1);
    }
}

#[test]
fn segments_without_a_superblock() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(directory.path(), true).unwrap(), "a", 1);
    let (path, kept) = (directory.path().join("SUPERBLOCK"), directory.path().join("kept"));
    fs::rename(&path, &kept).unwrap();
    for create in [false, true] {
        let error = refusal(directory.path(), create);
        assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    }
    fs::rename(&kept, &path).unwrap();
    assert_eq!(get(&open(directory.path(), false).unwrap(), "a").unwrap(), 1);
}

#[test]
fn a_store_opened_twice_in_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), true).unwrap();
    assert_eq!(refusal(directory.path(), true).kind(), ErrorKind::Busy);
    put(&store, "a", 1);
    drop(store);
    assert_eq!(get(&open(directory.path(), false).unwrap(), "a").unwrap(), 1);
}

/// Format versions lie at byte 8 of a superblock slot, sealed by a blake3 of the slot's beginning.
#[test]
fn a_newer_format_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), true).unwrap();
    put(&store, "a", 1);
    store.close().unwrap();
    drop(store);
    let path = directory.path().join("SUPERBLOCK");
    let old = fs::read(&path).unwrap();
    let version = u32::from_le_bytes(old[8..12].try_into().unwrap());
    let mut newer = old.clone();
    for slot in newer.chunks_exact_mut(BLOCK) {
        slot[8..12].copy_from_slice(&(version + 1).to_le_bytes());
        let checksum = blake3::hash(&slot[..BLOCK - 32]);
        slot[BLOCK - 32..].copy_from_slice(checksum.as_bytes());
    }
    fs::write(&path, &newer).unwrap();
    let error = refusal(directory.path(), true);
    let words = ["SUPERBLOCK", &format!("version {}", version + 1), "newer release"];
    assert_says(&error, ErrorKind::InvalidInput, &words);
    assert_eq!(fs::read(&path).unwrap(), newer, "left as it is");
    fs::write(&path, &old).unwrap();
    assert_eq!(get(&open(directory.path(), false).unwrap(), "a").unwrap(), 1);
}

/// How the specimen's life went on after its commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything is in the log; the superblock knows of nothing.
    Log,
    /// A checkpoint was taken after the first of three rounds of commits.
    Checkpoint,
    /// The store was closed.
    Close,
}

/// A store on a simulated disk with commits in several batches, its model, and how it ended.
fn specimen(end: End) -> (World, SimDisk, Life) {
    let mut world = World::new(5);
    world.options.tunables = Tunables::default();
    let disk = SimDisk::new(5);
    let store = world.open(&disk, true).unwrap();
    let mut driver = Driver::new(store, world.model(), disk.clone(), Chance::from_seed(5));
    for facet in ["a", "b", "c"] {
        driver.create_named(&name(facet)).unwrap();
    }
    for round in 1..4 {
        for (facet, page) in [("a", 1), ("b", round), ("c", 3)] {
            driver.put(&name(facet), PageNo(page), 0x11 * round as u8).unwrap();
        }
        driver.store.flush().unwrap();
        if end == End::Checkpoint && round == 1 {
            driver.store.checkpoint().unwrap();
        }
    }
    let life = if end == End::Close {
        let log = driver.log();
        Life { created: true, progress: Progress::Going, model: driver.close().unwrap(), log }
    } else {
        Life::ended(driver, Progress::Going)
    };
    (world, disk.after_crash(Survival::Nothing), life)
}

fn damaged(disk: &SimDisk, file: FileName, damage: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let copy = disk.after_kill();
    copy.change(file, damage);
    copy
}

#[test]
fn a_superblock_with_one_bad_slot_opens_and_with_two_is_refused() {
    for end in [End::Log, End::Checkpoint, End::Close] {
        let (world, disk, life) = specimen(end);
        let file = FileName::Superblock;
        let length = disk.contents(file).unwrap().len();
        assert_eq!(length, 2 * BLOCK);
        let interesting = (0..160).chain((160..BLOCK).step_by(61)).chain(BLOCK - 40..BLOCK);
        for at in interesting {
            for slot in 0..2 {
                let one = damaged(&disk, file, |bytes| bytes[slot * BLOCK + at] ^= 0x10);
                world
                    .recover(&one, &life, Chance::from_seed(0))
                    .unwrap_or_else(|failure| panic!("slot {slot}, byte {at}: {failure}"));
            }
            let both = damaged(&disk, file, |bytes| {
                bytes[at] ^= 0x10;
                bytes[BLOCK + at] ^= 0x10;
            });
            let error = world.open(&both, true).map(drop).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Corruption | ErrorKind::InvalidInput),
                "byte {at}: {error}"
            );
            assert!(error.to_string().contains("SUPERBLOCK"), "byte {at}: {error}");
        }
        for length in [0, 1, 511, BLOCK - 1] {
            let cut = damaged(&disk, file, |bytes| bytes.truncate(length));
            let error = world.open(&cut, true).map(drop).unwrap_err();
            assert!(error.to_string().contains("SUPERBLOCK"), "{length} bytes: {error}");
        }
        let half = damaged(&disk, file, |bytes| bytes.truncate(BLOCK));
        world.recover(&half, &life, Chance::from_seed(0)).expect("one slot is enough");
        let grown = damaged(&disk, file, |bytes| bytes.resize(3 * BLOCK, 0xcc));
        world.recover(&grown, &life, Chance::from_seed(0)).expect("what follows has no meaning");
    }
}

/// Starts of the batches in a segment, and the end of the last.
fn batches(bytes: &[u8]) -> Vec<usize> {
    let blocks = (BLOCK..bytes.len()).step_by(BLOCK);
    blocks.filter(|&at| bytes[at..].starts_with(b"LBAT")).collect()
}

/// The segment that recovery replays: the one with the most batches.
fn tail_segment(disk: &SimDisk) -> (FileName, Vec<usize>) {
    let segments = disk.files().into_iter().filter(|file| *file != FileName::Superblock);
    segments
        .map(|file| (file, batches(&disk.contents(file).unwrap())))
        .max_by_key(|(_, batches)| batches.len())
        .unwrap()
}

/// Opening is refused, and the refusal names the file and an offset in it.
fn assert_refused_as_damage(world: &World, disk: &SimDisk, file: FileName, what: &str) {
    let error = match world.open(disk, true) {
        Ok(_) => panic!("{what}: the store opened"),
        Err(error) => error,
    };
    assert_says(&error, ErrorKind::Corruption, &[&file.to_string(), "offset", "keep a copy"]);
}

#[test]
fn a_damaged_header_of_a_segment_in_use_is_refused() {
    let (world, disk, _) = specimen(End::Log);
    let (file, starts) = tail_segment(&disk);
    assert!(starts.len() >= 3, "{starts:?}");
    for at in 0..128 {
        for flip in [0x01, 0x80, 0xff] {
            let copy = damaged(&disk, file, |bytes| bytes[at] ^= flip);
            assert_refused_as_damage(&world, &copy, file, &format!("header byte {at} ^ {flip:#x}"));
        }
    }
}

/// Even where the superblock knows of nothing: the batches behind the header say that it was in use.
#[test]
fn a_zeroed_header_of_a_segment_in_use_is_refused() {
    for end in [End::Log, End::Checkpoint] {
        let (world, disk, _) = specimen(end);
        let (file, _) = tail_segment(&disk);
        for bytes in [512, BLOCK] {
            let zeroed = damaged(&disk, file, |contents| contents[..bytes].fill(0));
            assert_refused_as_damage(&world, &zeroed, file, &format!("{end:?}: zeroed header"));
        }
    }
}

#[test]
fn damage_at_or_below_durable_through_is_refused() {
    let (world, disk, _) = specimen(End::Log);
    let (file, starts) = tail_segment(&disk);
    let last = starts[starts.len() - 1];
    let bytes = disk.contents(file).unwrap();
    for pair in starts.windows(2) {
        let records = u32::from_le_bytes(bytes[pair[0] + 4..pair[0] + 8].try_into().unwrap());
        let end = pair[0] + 128 + records as usize;
        assert!(end <= pair[1]);
        let header = pair[0]..pair[0] + 128;
        for at in header.chain((pair[0] + 128..end).step_by(97)).chain([end - 1]) {
            let copy = damaged(&disk, file, |bytes| bytes[at] ^= 0x04);
            assert_refused_as_damage(&world, &copy, file, &format!("byte {at}"));
        }
    }
    for length in [BLOCK, last - 1] {
        let cut = damaged(&disk, file, |bytes| bytes.truncate(length));
        let error = world.open(&cut, true).map(drop).unwrap_err();
        assert_says(&error, ErrorKind::Corruption, &[&file.to_string()]);
    }
}

/// What the superblock leads to must be there.
#[test]
fn a_missing_or_cut_segment_is_refused() {
    let (world, disk, _) = specimen(End::Checkpoint);
    let (file, _) = tail_segment(&disk);
    for length in [0, 100, BLOCK - 1, BLOCK] {
        let cut = damaged(&disk, file, |bytes| bytes.truncate(length));
        let error = world.open(&cut, true).map(drop).unwrap_err();
        assert_says(&error, ErrorKind::Corruption, &[&file.to_string()]);
        assert_eq!(cut.contents(file).unwrap().len(), length, "the file was left as it was");
    }
    let missing = disk.after_kill();
    lapidary_engine::Io::remove(&missing, file).unwrap();
    let error = world.open(&missing, true).map(drop).unwrap_err();
    assert_says(&error, ErrorKind::Corruption, &[&file.to_string()]);
}

/// The last batch may have been torn by the power loss, so what follows the one before it goes.
#[test]
fn a_torn_tail_is_discarded() {
    let (world, disk, life) = specimen(End::Log);
    let (file, starts) = tail_segment(&disk);
    let last = starts[starts.len() - 1];
    // What the store held before its last flush is one of the states the model knows, if it is
    // told that nothing was acknowledged.
    let mut discarded = 0;
    for at in (last..last + 128).step_by(7).chain([last + 200]) {
        let copy = damaged(&disk, file, |bytes| bytes[at] ^= 0x04);
        let store = world.open(&copy, false).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert!(life.model.check_recovered(&store).is_err(), "byte {at} means nothing");
        let names: Vec<String> = store
            .list_facets(None, None, usize::MAX)
            .unwrap()
            .iter()
            .map(|facet| facet.name.to_string())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        discarded += 1;
    }
    assert!(discarded > 10);
}

#[test]
fn a_damaged_page_concerns_its_facet_alone() {
    let (world, disk, life) = specimen(End::Close);
    let mut refused = 0;
    for file in disk.files().into_iter().filter(|file| *file != FileName::Superblock) {
        let length = disk.contents(file).unwrap().len();
        for at in (0..length.min(96 << 10)).step_by(509) {
            let copy = damaged(&disk, file, |bytes| bytes[at] ^= 0x20);
            match world.open(&copy, false) {
                Ok(store) => {
                    life.model
                        .check_damaged(&store, Damage::Possible)
                        .unwrap_or_else(|failure| panic!("{file}, byte {at}: {failure}"));
                    refused += refused_pages(&store, life.model.latest().keys());
                }
                Err(error) => assert_says(&error, ErrorKind::Corruption, &[&file.to_string()]),
            }
        }
    }
    assert!(refused > 3, "{refused} pages were refused");
}

/// Pages refused as damaged; all of one facet, since one byte is damaged.
fn refused_pages<'a>(store: &Store, facets: impl Iterator<Item = &'a FacetName>) -> usize {
    let mut concerned = Vec::new();
    for facet in facets {
        let snapshot = match store.open_facet(facet).and_then(|facet| facet.snapshot(View::Durable))
        {
            Ok(snapshot) => snapshot,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
                concerned.push((facet, error.to_string()));
                continue;
            }
        };
        let mut page = vec![0; snapshot.page_size().map_or(0, PageSize::bytes)];
        for number in 1..=snapshot.page_count() {
            if let Err(error) = snapshot.read_page(PageNo(number), &mut page) {
                let words = [facet.as_str(), &format!("page {number}"), "segment", "offset"];
                assert_says(&error, ErrorKind::Corruption, &words);
                concerned.push((facet, error.to_string()));
            }
        }
    }
    let one = concerned.iter().all(|(facet, _)| *facet == concerned[0].0);
    assert!(one, "one damaged byte, several facets: {concerned:?}");
    concerned.len()
}

#[test]
fn facet_names() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), true).unwrap();
    put(&store, "good", 1);
    let long = "x".repeat(513);
    let deep = ["d"; 17].join("/");
    for bad in ["", &long, &deep, "a\0b", "a/../b", "..", "/a", "a/", "a//b", "a\nb"] {
        let error = FacetName::new(bad).unwrap_err();
        assert_says(&error, ErrorKind::InvalidInput, &["facet name", "is refused", "use levels"]);
    }
    let error = store.open_facet(&name("absent")).map(drop).unwrap_err();
    assert_says(&error, ErrorKind::NotFound, &["absent", "create it first"]);
    let error = store.create_facet(&name("good")).map(drop).unwrap_err();
    assert_says(&error, ErrorKind::AlreadyExists, &["good", "exists already"]);
    assert_eq!(get(&store, "good").unwrap(), 1);
}
