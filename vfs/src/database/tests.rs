//! A handle without SQLite: bytes over pages against a plain vector, counters, refusals.

use std::sync::Arc;

use lapidary_engine::{Environment, Facet, FacetName, MemoryIo, PageSize, Store, StoreOptions};
use rusqlite::ffi as sqlite;

use super::{DatabaseFile, Durability};
use crate::file::{File, Filled, LockLevel};

fn facet() -> (Arc<Store>, Arc<Facet>) {
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let store = Store::open(environment, StoreOptions::create()).unwrap();
    let facet = store.create_facet(&FacetName::new("a").unwrap()).unwrap();
    (store, facet)
}

fn open((store, facet): &(Arc<Store>, Arc<Facet>)) -> DatabaseFile {
    let groups = Arc::default();
    DatabaseFile::new(Arc::clone(store), groups, Arc::clone(facet), Durability::Sync, false)
}

fn begin(file: &mut DatabaseFile) {
    file.lock(LockLevel::Shared).unwrap();
    file.lock(LockLevel::Reserved).unwrap();
    file.lock(LockLevel::Exclusive).unwrap();
}

/// A first page of `size` bytes whose header says `names_size`, with `counter`.
fn page_one(size: usize, names_size: usize, counter: u32) -> Vec<u8> {
    let mut page = vec![0; size];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    let field = if names_size == 65536 { 1 } else { u16::try_from(names_size).unwrap() };
    page[16..18].copy_from_slice(&field.to_be_bytes());
    page[18..20].copy_from_slice(&[1, 1]);
    page[24..28].copy_from_slice(&counter.to_be_bytes());
    page[92..96].copy_from_slice(&counter.to_be_bytes());
    page
}

fn counter(file: &mut DatabaseFile) -> u32 {
    let mut bytes = [0; 16];
    assert_eq!(file.read(24, &mut bytes).unwrap(), Filled::Whole);
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// Writes, truncations and reads of any offset and length, staged and after commits.
#[test]
fn a_file_is_a_run_of_bytes() {
    for page_bytes in [512, 4096, 65536] {
        let facet = facet();
        let mut file = open(&facet);
        begin(&mut file);
        let mut model = page_one(page_bytes, page_bytes, 1);
        file.write(0, &model).unwrap();
        let mut seed = page_bytes as u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        for step in 0..400 {
            let limit = 5 * page_bytes;
            match random(10) {
                0..5 => {
                    // The header stays as it is: its counter is not the model's to say.
                    let offset = 100 + random(limit);
                    let length = if random(2) == 0 { page_bytes } else { random(3 * page_bytes) };
                    let bytes = vec![u8::try_from(step % 255).unwrap() + 1; length];
                    file.write(offset as u64, &bytes).unwrap();
                    if length > 0 {
                        model.resize(model.len().max(offset + length), 0);
                        model[offset..offset + length].copy_from_slice(&bytes);
                    }
                }
                5..7 => {
                    let size = 100 + random(limit);
                    file.truncate(size as u64).unwrap();
                    model.resize(size, 0);
                }
                7 => {
                    file.commit().unwrap();
                    // A commit ends on a whole page.
                    model.resize(model.len().next_multiple_of(page_bytes), 0);
                }
                _ => {
                    let offset = 100 + random(limit);
                    let mut bytes = vec![0xaa; random(2 * page_bytes)];
                    let filled = file.read(offset as u64, &mut bytes).unwrap();
                    let mut expected = vec![0; bytes.len()];
                    let end = model.len().min(offset + bytes.len());
                    if end > offset {
                        expected[..end - offset].copy_from_slice(&model[offset..end]);
                    }
                    assert!(bytes == expected, "step {step}: {} at {offset}", bytes.len());
                    let whole = offset + bytes.len() <= model.len() || bytes.is_empty();
                    assert_eq!(filled == Filled::Whole, whole, "step {step}");
                }
            }
            assert_eq!(file.size_bytes().unwrap(), model.len() as u64, "step {step}");
        }
    }
}

#[test]
fn the_header_decides_the_page_size() {
    let facet = facet();
    let mut file = open(&facet);
    begin(&mut file);
    // Nine pages of 1024 written in pieces of 4096, the last of them cut short.
    let mut content = page_one(9 * 1024, 1024, 1);
    for (index, byte) in content.iter_mut().enumerate().skip(100) {
        *byte = u8::try_from(index % 251).unwrap();
    }
    for (index, piece) in content.chunks(4096).enumerate() {
        file.write(index as u64 * 4096, piece).unwrap();
    }
    file.commit().unwrap();
    assert_eq!(file.size_bytes().unwrap(), 9 * 1024);
    file.unlock(LockLevel::Shared);
    let mut back = vec![0; content.len()];
    assert_eq!(file.read(0, &mut back).unwrap(), Filled::Whole);
    assert!(back == content);
    let info = &facet.0.list_facets(None, None, 1).unwrap()[0];
    assert_eq!(info.page_size, PageSize::from_bytes(1024));
    assert_eq!(info.page_count, 9);
}

#[test]
fn the_counter_shown_is_the_version() {
    let facet = facet();
    let (mut writer, mut reader) = (open(&facet), open(&facet));
    for version in 1..5 {
        begin(&mut writer);
        writer.write(0, &page_one(512, 512, version)).unwrap();
        writer.commit().unwrap();
        writer.unlock(LockLevel::None);
        assert_eq!(u64::from(version), facet.1.latest_version().0);

        reader.lock(LockLevel::Shared).unwrap();
        assert_eq!(counter(&mut reader), version);
        let mut page = vec![0; 512];
        reader.read(0, &mut page).unwrap();
        assert_eq!(page[24..28], version.to_be_bytes());
        assert_eq!(page[92..96], version.to_be_bytes());
        reader.unlock(LockLevel::None);
        assert_eq!(counter(&mut reader), version, "also without a lock");
    }
    // Exclusive mode: page 1 is not written any more, and the counter in it stays.
    begin(&mut writer);
    for version in 5..9 {
        writer.write(512, &[u8::try_from(version).unwrap(); 512]).unwrap();
        writer.commit().unwrap();
        assert_eq!(counter(&mut writer), 4, "the pager's cache is good");
        reader.lock(LockLevel::Shared).unwrap();
        assert_eq!(counter(&mut reader), version, "others see every commit");
        reader.unlock(LockLevel::None);
    }
    // Another's commit, which happens to make the number that this pager has, or had.
    writer.unlock(LockLevel::None);
    assert_eq!(counter(&mut writer), 4);
    begin(&mut reader);
    reader.write(512, &[77; 512]).unwrap();
    reader.commit().unwrap();
    reader.unlock(LockLevel::None);
    writer.lock(LockLevel::Shared).unwrap();
    assert_ne!(counter(&mut writer), 4);
}

#[test]
fn a_transaction_given_up_leaves_nothing() {
    let facet = facet();
    let mut file = open(&facet);
    begin(&mut file);
    file.write(0, &page_one(512, 512, 1)).unwrap();
    file.commit().unwrap();
    file.unlock(LockLevel::None);

    begin(&mut file);
    file.write(0, &page_one(512, 512, 2)).unwrap();
    file.write(512, &[1; 512]).unwrap();
    let mut bytes = [0; 4];
    file.read(24, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 0, 2], "a writer reads its own page 1");
    file.unlock(LockLevel::Shared);
    assert_eq!(file.lock_level(), LockLevel::Shared);
    assert_eq!(file.size_bytes().unwrap(), 512);
    assert_ne!(counter(&mut file), 2, "nothing was replayed: the pager's cache must go");
    assert!(!facet.1.has_writer());
    assert_eq!(facet.1.latest_version().0, 1);
    file.commit().unwrap();
    assert_eq!(facet.1.latest_version().0, 1, "nothing staged, nothing committed");
}

#[test]
fn a_write_ahead_log_in_the_header_is_refused_and_discarded() {
    let facet = facet();
    let mut file = open(&facet);
    begin(&mut file);
    for place in [18, 19] {
        let mut page = page_one(512, 512, 1);
        page[place] = 2;
        file.write(0, &page).unwrap();
        let failure = file.commit().unwrap_err();
        assert_eq!(failure.code, sqlite::SQLITE_IOERR_FSYNC);
        assert!(failure.message.contains("WAL mode is refused"), "{}", failure.message);
        assert!(!file.is_dirty());
        assert_eq!(file.size_bytes().unwrap(), 0);
    }
    file.write(0, &page_one(512, 512, 1)).unwrap();
    file.commit().unwrap();
    assert_eq!(facet.1.latest_version().0, 1);
}

#[test]
fn locks() {
    let facet = facet();
    let (mut one, mut two) = (open(&facet), open(&facet));
    assert_eq!(one.write(0, &[0; 512]).unwrap_err().code, sqlite::SQLITE_IOERR_WRITE);
    begin(&mut one);
    assert_eq!(one.lock_level(), LockLevel::Exclusive);
    assert!(two.is_reserved());
    two.lock(LockLevel::Shared).unwrap();
    assert_eq!(two.lock(LockLevel::Reserved).unwrap_err().code, sqlite::SQLITE_BUSY);
    assert_eq!(two.lock_level(), LockLevel::Shared);
    one.write(0, &page_one(512, 512, 1)).unwrap();
    one.commit().unwrap();
    one.unlock(LockLevel::None);
    for level in [LockLevel::Reserved, LockLevel::Exclusive] {
        assert_eq!(two.lock(level).unwrap_err().code, sqlite::SQLITE_BUSY_SNAPSHOT);
    }
    two.unlock(LockLevel::None);
    begin(&mut two);
    drop(two);
    assert!(!facet.1.has_writer(), "closing lets go of the writer");

    let groups = Arc::default();
    let mut reader = DatabaseFile::new(facet.0, groups, facet.1, Durability::Sync, true);
    reader.lock(LockLevel::Shared).unwrap();
    assert_eq!(reader.lock(LockLevel::Reserved).unwrap_err().code, sqlite::SQLITE_READONLY);
}
