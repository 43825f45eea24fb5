//! What can be got out of stores that are damaged.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use lapidary_engine::{
    Background, Environment, Error, FacetName, FileName, ForkFrom, FormatParams, Io, MemoryIo,
    PageNo, PageSize, SalvageReport, SalvageSink, Salvaged, Store, StoreOptions,
};

const PAGE: usize = 512;

#[derive(Default)]
struct Pages {
    facets: BTreeMap<String, Vec<u8>>,
}

impl SalvageSink for Pages {
    fn begin(&mut self, facet: &Salvaged) -> io::Result<()> {
        self.facets.insert(key(facet), Vec::new());
        Ok(())
    }

    fn page(&mut self, _: PageNo, image: &[u8]) -> io::Result<()> {
        let last = self.facets.get_mut(&self.current()).unwrap();
        last.push(if image.iter().all(|&byte| byte == image[0]) { image[0] } else { 255 });
        Ok(())
    }

    fn end(&mut self, facet: &Salvaged) -> io::Result<()> {
        let pages = self.facets.remove(&key(facet)).unwrap();
        self.facets.insert(format!("done {}", key(facet)), pages);
        Ok(())
    }
}

fn key(facet: &Salvaged) -> String {
    facet.name.clone().unwrap_or_else(|| format!("#{}", facet.facet))
}

impl Pages {
    fn current(&self) -> String {
        self.facets.keys().find(|name| !name.starts_with("done ")).unwrap().clone()
    }

    fn of(&self, name: &str) -> Option<&[u8]> {
        self.facets.get(&format!("done {name}")).map(Vec::as_slice)
    }
}

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

fn open(io: &MemoryIo) -> Arc<Store> {
    let options = StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        background: Background::Manual,
        ..StoreOptions::default()
    };
    Store::open(Environment::with_io(Arc::new(io.clone())), options).unwrap()
}

fn put(store: &Store, facet: &str, pages: &[(u32, u8)]) {
    let facet = store.open_or_create_facet(&name(facet)).unwrap();
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
    }
    for &(page, byte) in pages {
        writer.write_page(PageNo(page), &[byte; PAGE]).unwrap();
    }
    writer.commit(0).unwrap();
    store.flush().unwrap();
}

/// A store with checkpoints, cleaned segments and a log behind them, that was not closed.
fn used_store() -> MemoryIo {
    let io = MemoryIo::new();
    let store = open(&io);
    put(&store, "a", &[(1, 1), (2, 2), (3, 3)]);
    put(&store, "deleted", &[(1, 9)]);
    store.checkpoint().unwrap();
    for round in 0..200 {
        put(&store, "churn", &[(1 + round % 40, u8::try_from(round).unwrap())]);
    }
    store.fork_facet(&name("a"), &name("fork"), ForkFrom::Latest).unwrap();
    store.checkpoint().unwrap();
    store.clean().unwrap();
    store.checkpoint().unwrap();
    put(&store, "a", &[(2, 222)]);
    put(&store, "fork", &[(1, 211), (4, 244)]);
    store.delete_facet(&name("deleted")).unwrap();
    store.rename_facet(&name("churn"), &name("renamed/churn")).unwrap();
    put(&store, "late", &[(1, 207)]);
    io
}

fn salvage(io: &MemoryIo) -> (Pages, SalvageReport) {
    let before = image(io);
    let mut pages = Pages::default();
    let environment = Environment::with_io(Arc::new(io.clone()));
    let report = Store::salvage(environment, &mut pages).unwrap();
    assert_eq!(image(io), before, "salvage changes nothing");
    (pages, report)
}

fn image(io: &MemoryIo) -> BTreeMap<FileName, Vec<u8>> {
    let segments = io.list_segments().unwrap().into_iter().map(FileName::Segment);
    segments
        .chain([FileName::Superblock])
        .filter_map(|file| {
            let open = io.open(file).ok()?;
            let mut bytes = vec![0; usize::try_from(open.len().unwrap()).unwrap()];
            open.read_at(0, &mut bytes).unwrap();
            Some((file, bytes))
        })
        .collect()
}

fn assert_all(pages: &Pages) {
    assert_eq!(pages.of("a"), Some(&[1, 222, 3][..]));
    assert_eq!(pages.of("fork"), Some(&[211, 2, 3, 244][..]));
    assert_eq!(pages.of("late"), Some(&[207][..]));
    assert_eq!(pages.of("renamed/churn").map(<[u8]>::len), Some(40));
    assert_eq!(pages.of("renamed/churn").map(|pages| pages[39]), Some(199));
    assert_eq!(pages.of("deleted"), None);
}

#[test]
fn a_store_that_opens_is_handed_out_whole() {
    let io = used_store();
    let (pages, report) = salvage(&io);
    assert_all(&pages);
    assert_eq!(report.refused, None);
    assert!(report.facets.iter().all(|facet| facet.damaged.is_empty()), "{report:?}");
}

/// If this fails, a store whose superblock is gone is lost, though all its data is there.
#[test]
fn a_store_without_a_superblock_is_put_together_again() {
    let io = used_store();
    let file = io.open(FileName::Superblock).unwrap();
    let len = usize::try_from(file.len().unwrap()).unwrap();
    file.write_at(0, &vec![0x5a; len]).unwrap();
    let (pages, report) = salvage(&io);
    assert!(report.refused.is_some());
    assert_all(&pages);
}

/// If this fails, somebody who deleted one file is told that there never was a store.
#[test]
fn a_store_whose_superblock_was_removed_is_put_together_again() {
    let io = used_store();
    io.remove(FileName::Superblock).unwrap();
    let environment = Environment::with_io(Arc::new(io.clone()));
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    let error = Store::open(environment, options).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { path, .. } if path.ends_with("SUPERBLOCK")),
        "{error}"
    );
    let (pages, report) = salvage(&io);
    assert!(report.refused.is_some());
    assert_all(&pages);
}

/// If this fails, one bad batch takes everything behind it along.
#[test]
fn damage_in_the_log_costs_what_is_damaged() {
    let io = used_store();
    // The batch that has the commit of page 2: the one before the last ones.
    support::flip(&io, &[222; PAGE]);
    let environment = Environment::with_io(Arc::new(io.clone()));
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    assert!(matches!(Store::open(environment, options), Err(Error::Corrupt { .. })));
    let (pages, report) = salvage(&io);
    assert!(report.refused.is_some());
    assert_eq!(pages.of("a"), Some(&[1, 2, 3][..]), "as it was before that commit");
    assert_eq!(pages.of("fork"), Some(&[211, 2, 3, 244][..]));
    assert_eq!(pages.of("late"), Some(&[207][..]));
}

/// If this fails, a missing file takes facets along that have nothing in it.
#[test]
fn a_missing_segment_costs_what_was_in_it() {
    let io = used_store();
    let mut recovered = 0;
    for number in io.list_segments().unwrap() {
        let copy = MemoryIo::new();
        for (file, bytes) in image(&io) {
            if file != FileName::Segment(number) {
                copy.create(file).unwrap().write_at(0, &bytes).unwrap();
            }
        }
        let (pages, _) = salvage(&copy);
        recovered += usize::from(pages.of("late").is_some());
        recovered += usize::from(pages.of("a").is_some());
    }
    assert!(recovered > io.list_segments().unwrap().len(), "{recovered}");
}

/// A page that is damaged is named, and the rest of its facet is there.
#[test]
fn a_damaged_page_is_named() {
    let io = used_store();
    let store = open(&io);
    store.close().unwrap();
    support::flip(&io, &[244; PAGE]);
    let (pages, report) = salvage(&io);
    assert_eq!(report.refused, None);
    let fork = report.facets.iter().find(|facet| facet.name.as_deref() == Some("fork")).unwrap();
    assert_eq!(fork.damaged, [PageNo(4)]);
    assert_eq!(pages.of("fork"), Some(&[211, 2, 3, 0][..]));
    assert_eq!(pages.of("a"), Some(&[1, 222, 3][..]));
}
