//! Space: nothing leaks and nothing is counted twice, whatever was forked, restored, deleted, cleaned
//! and recovered on the way. (A count below zero stops the engine.)
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::sync::Arc;

use lapidary_engine::{
    Facet, FacetName, ForkFrom, PageNo, PageSize, Retention, Store, StoreStat, View,
};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, name};
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_disk::SimDisk;
use lapidary_tests::world::{Life, World};

const PAGE: usize = 8192;
/// What an empty store has live: its checkpoint root and its parts, of which the table of segments
/// grows with their number; and what the cleaner put into the segments that it is still filling.
/// Less than any page of these tests and its leaf take.
fn empty_bytes(stat: &StoreStat) -> u64 {
    200 + 64 * u64::from(stat.segments) + 24 * stat.forwards
}

fn check_empty(store: &Store, when: &str) {
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let stat = store.stat();
    assert_eq!((stat.facets, stat.history_bytes, stat.shared_references), (0, 0, 0), "{when}");
    assert!(stat.live_bytes <= empty_bytes(&stat), "{when}: {stat:?}");
}

fn delete_everything(store: &Store, chance: &mut Chance) {
    loop {
        let listed = store.list_facets(None, None, usize::MAX).unwrap();
        if listed.is_empty() {
            return;
        }
        let victim = &listed[chance.index(listed.len())];
        store.delete_facet(&victim.name).unwrap();
        if chance.one_in(4) {
            store.checkpoint().unwrap();
        }
    }
}

/// After random lives with crashes between them, deleting everything leaves what an empty store has,
/// and so it is after the next recovery.
#[test]
fn nothing_is_left_when_everything_is_deleted() {
    for seed in SIMULATION.seeds(40) {
        let repeat = SIMULATION.replay(seed, "--test space nothing_is_left");
        let fail = |failure| -> ! { panic!("{failure}\nto repeat: {repeat}") };
        let world = World::new(seed);
        let mut chance = Chance::from_seed(seed);
        let mut disk = SimDisk::new(seed);
        let store = world.open(&disk, true).unwrap();
        let mut driver = Driver::new(store, world.model(), disk.clone(), chance.split());
        for _ in 0..chance.between(1, 3) {
            let progress = driver.run(chance.between(20, 60)).unwrap_or_else(|f| fail(f));
            assert_eq!(progress, Progress::Going);
            driver.check_held().unwrap_or_else(|f| fail(f));
            let life = Life::ended(driver, progress);
            disk = disk.after_kill();
            driver = world.recover(&disk, &life, chance.split()).unwrap_or_else(|f| fail(f));
        }
        driver.run(10).unwrap_or_else(|f| fail(f));
        let store = Arc::clone(&driver.store);
        drop(driver);
        delete_everything(&store, &mut chance);
        for setting in ["a", "a/b", "a/b/c", "b", "b/x", "c", "d/e", "zürich"] {
            store.set_quota(&name(setting), None).unwrap();
            store.set_retention(&name(setting), None).unwrap();
        }
        check_empty(&store, &format!("deleted; {repeat}"));
        while store.maintain().unwrap() || store.clean().unwrap().segments > 0 {
            store.checkpoint().unwrap();
        }
        check_empty(&store, &format!("cleaned; {repeat}"));
        drop(store);
        let store = world.open(&disk, false).unwrap();
        check_empty(&store, &format!("recovered; {repeat}"));
        assert!(store.verify(&mut |_| ()).unwrap().is_clean(), "{repeat}");
    }
}

/// Forks of one template, as plain vectors of bytes: page 1 first.
struct Herd {
    store: Arc<Store>,
    contents: Vec<(FacetName, Vec<u8>)>,
}

impl Herd {
    fn put(&self, facet: &Arc<Facet>, pages: &[(u32, u8)]) {
        let mut writer = facet.begin_write_latest().unwrap();
        if writer.page_size().is_none() {
            writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
        }
        for &(page, byte) in pages {
            let noise = page_of(page, byte);
            writer.write_page(PageNo(page), &noise).unwrap();
        }
        writer.commit(0).unwrap();
    }

    fn check(&self) {
        for (name, content) in &self.contents {
            let facet = self.store.open_facet(name).unwrap();
            let snapshot = facet.snapshot(View::Durable).unwrap();
            assert_eq!(snapshot.page_count() as usize, content.len(), "{name}");
            let mut page = vec![0; PAGE];
            for (number, &byte) in (1..).zip(content) {
                snapshot.read_page(PageNo(number), &mut page).unwrap();
                assert_eq!(page, page_of(number, byte), "page {number} of {name}");
            }
        }
    }
}

/// A page that cannot be made smaller.
fn page_of(number: u32, byte: u8) -> Vec<u8> {
    let mut noise = Chance::from_seed(u64::from(number) << 8 | u64::from(byte));
    (0..PAGE / 8).flat_map(|_| noise.number().to_le_bytes()).collect()
}

/// A template is forked many times, the forks too; parts are written again, some are taken back, many
/// deleted. What is live then is what the distinct pages that are left take, and page-map nodes. A page
/// too few is seen at once; one too many, when so few facets are left that their nodes take less.
#[test]
fn forks_share_what_they_have_in_common_and_nothing_else() {
    for seed in SIMULATION.seeds(12) {
        let repeat = SIMULATION.replay(seed, "--test space forks_share");
        let mut world = World::new(seed);
        world.options.tunables.retention = Retention::OFF;
        let disk = SimDisk::new(seed);
        let store = world.open(&disk, true).unwrap();
        let mut chance = Chance::from_seed(seed);
        let template = store.create_facet(&name("template")).unwrap();
        let pages = chance.between(10, 120);
        let mut herd = Herd { store, contents: Vec::new() };
        let all: Vec<(u32, u8)> = (1..=pages).map(|page| (page, 0)).collect();
        herd.put(&template, &all);
        drop(template);
        herd.contents.push((name("template"), vec![0; pages as usize]));
        // Each byte is written to a page once only, so that equal bytes mean a shared page.
        let mut bytes = 1..=255_u8;
        for number in 0..60 {
            let source = chance.index(herd.contents.len());
            let (from, content) = herd.contents[source].clone();
            let to = name(&format!("fork/{number}"));
            let version = if chance.one_in(3) { ForkFrom::Durable } else { ForkFrom::Latest };
            if version == ForkFrom::Durable {
                herd.store.flush().unwrap();
            }
            let (fork, _) = herd.store.fork_facet(&from, &to, version).unwrap();
            herd.contents.push((to, content));
            drop(fork);
            for _ in 0..chance.below(4) {
                let Some(byte) = bytes.next() else { break };
                let index = chance.index(herd.contents.len());
                let count = chance.between(1, 4);
                let written: Vec<(u32, u8)> =
                    (0..count).map(|_| (chance.between(1, pages), byte)).collect();
                let facet = herd.store.open_facet(&herd.contents[index].0).unwrap();
                herd.put(&facet, &written);
                for (page, byte) in written {
                    herd.contents[index].1[page as usize - 1] = byte;
                }
            }
            match chance.below(8) {
                0 => herd.store.checkpoint().unwrap(),
                1 => herd.store.flush().unwrap(),
                2 => drop(herd.store.clean().unwrap()),
                _ => {}
            }
        }
        while herd.contents.len() > 1 {
            for _ in 0..10.min(herd.contents.len() - 1) {
                let index = chance.index(herd.contents.len());
                let (victim, _) = herd.contents.swap_remove(index);
                herd.store.delete_facet(&victim).unwrap();
            }
            herd.store.checkpoint().unwrap();
            herd.store.checkpoint().unwrap();
            herd.check();
            check_live(&herd, &repeat);
        }
        let (last, _) = herd.contents.remove(0);
        herd.store.delete_facet(&last).unwrap();
        check_empty(&herd.store, &repeat);
    }
}

fn check_live(herd: &Herd, repeat: &str) {
    let distinct: std::collections::BTreeSet<(usize, u8)> =
        herd.contents.iter().flat_map(|(_, content)| content.iter().copied().enumerate()).collect();
    let stat = herd.store.stat();
    // Noise is stored as it is, behind a header of 24 bytes.
    let pages = (distinct.len() * (PAGE + 24)) as u64;
    let facets = herd.contents.len() as u64;
    // Each facet has at most its own nodes: a root, and leaves of 32 pages; and an entry.
    let nodes = 1 + herd.contents[0].1.len().div_ceil(32) as u64;
    let notes = facets * (nodes * (32 * 16 + 64) + 150);
    let shared = stat.shared_references * 40;
    let most = pages + notes + shared + empty_bytes(&stat);
    assert!(
        (pages..=most).contains(&stat.live_bytes),
        "{} bytes are live where {} distinct pages are, {pages} to {most} bytes: {stat:?}\n\
         to repeat: {repeat}",
        stat.live_bytes,
        distinct.len(),
    );
    let report = herd.store.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}\nto repeat: {repeat}", report.findings);
}
