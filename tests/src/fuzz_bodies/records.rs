//! Records that are not what they should be, in batches that are.

use lapidary_engine::{ErrorKind, PageNo, Snapshot, Store, View};

use super::recovery::specimen;
use super::sealed::{Batch, Image};
use crate::chance::Chance;
use crate::sim_disk::SimDisk;

/// Values that lengths, counts and numbers are at fault with.
const ODD: [u64; 12] =
    [0, 1, 2, 7, 8, 24, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFF8, 1 << 63, u64::MAX];
/// Room on the disk.
const DISK_FREE_BYTES: u64 = 4 << 20;
/// Pages that are read of each version, from its start and from its end.
const PAGES_READ_MAX: u32 = 40;

/// Changes records of a store and seals everything around them, so that no checksum says so. Opening
/// it and reading everything never panics, hangs or takes memory that its files do not account for; what is
/// shown may be anything, since somebody who seals it can write anything.
///
/// Input: some 8 bytes a change; they choose the record, the field and the value.
pub fn records(input: &[u8]) {
    let specimen = specimen();
    let disk = specimen.disk.after_kill();
    let mut chance = Chance::from_bytes(input);
    let mut image = Image::of(&disk);
    let batches = image.batches();
    for _ in 0..16 {
        if chance.is_spent() {
            break;
        }
        change(&mut image, &batches, &mut chance);
    }
    image.seal(&batches);
    image.put(&disk);
    survive(&disk);
}

/// Opens what is on `disk` as the store it was and uses it.
pub(super) fn survive(disk: &SimDisk) {
    // It may say that its segments are of 2 GiB, which a disk in memory has no room for.
    disk.set_capacity(Some(disk.used_bytes() + DISK_FREE_BYTES));
    match specimen().world.open(disk, false) {
        Ok(store) => use_everything(&store),
        Err(error) => assert!(
            matches!(
                error.kind(),
                ErrorKind::Corruption
                    | ErrorKind::InvalidInput
                    | ErrorKind::NotFound
                    | ErrorKind::NoSpace
            ),
            "refused as {:?}: {error}",
            error.kind()
        ),
    }
}

fn change(image: &mut Image, batches: &[Batch], chance: &mut Chance) {
    let batch = &batches[chance.index(batches.len())];
    let starts = image.records(batch);
    if starts.is_empty() {
        return;
    }
    let record = starts[chance.index(starts.len())];
    let kind = chance.below(6);
    // The fields are at the beginning, pages and payloads further on.
    let near = chance.below(4) < 3;
    let at = record + chance.below(if near { 96 } else { 4096 }) as usize;
    let end = batch.records.end;
    let bytes = image.file(batch.file);
    let mut put = |at: usize, value: &[u8]| {
        if at + value.len() <= end {
            bytes[at..at + value.len()].copy_from_slice(value);
        }
    };
    match kind {
        0 => put(at, &[chance.below(256) as u8]),
        1 => put(at & !3, &(chance.pick(&ODD) as u32).to_le_bytes()),
        2 => put(at & !7, &chance.pick(&ODD).to_le_bytes()),
        3 => put(at & !1, &(chance.pick(&ODD) as u16).to_le_bytes()),
        4 => put(at & !3, &chance.below(u32::MAX).to_le_bytes()),
        _ => put(record, &[chance.below(10) as u8]),
    }
}

/// Reads, verifies, writes, checkpoints and cleans. Errors are as good an answer as any.
fn use_everything(store: &Store) {
    let listed = store.list_facets(None, None, 1000).unwrap_or_default();
    for info in &listed {
        let Ok(facet) = store.open_facet(&info.name) else { continue };
        if let Ok(snapshot) = facet.snapshot(View::Durable) {
            read(&snapshot);
        }
        for version in facet.versions().unwrap_or_default().iter().take(8) {
            if let Ok(snapshot) = facet.snapshot_at(&version.bookmark) {
                read(&snapshot);
            }
        }
        let written = facet.begin_write_latest().and_then(|mut writer| {
            let image = vec![7; writer.page_size().map_or(512, |size| size.bytes())];
            writer.write_page(PageNo(1), &image)?;
            writer.commit(0)
        });
        drop(written);
    }
    drop(store.verify(&mut |_| {}));
    drop(store.flush());
    drop(store.checkpoint());
    drop(store.clean());
    drop(store.checkpoint());
    drop(store.close());
}

fn read(snapshot: &Snapshot) {
    let Some(size) = snapshot.page_size() else { return };
    let mut image = vec![0; size.bytes()];
    let count = snapshot.page_count();
    let first = 1..=count.min(PAGES_READ_MAX);
    let last = count.saturating_sub(PAGES_READ_MAX).max(PAGES_READ_MAX)..count;
    for page in first.chain(last.map(|page| page + 1)) {
        drop(snapshot.read_page(PageNo(page), &mut image));
    }
}
