//! A store that another process writes: what is shown of it, and what is refused.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::io;
use std::sync::Arc;

use lapidary_engine::{
    Background, DirectoryState, Environment, ErrorKind, Facet, FacetName, FileName, FileNo,
    ForkFrom, Io, IoFile, Lsn, MemoryIo, PageNo, PageSize, Store, StoreOptions, Tunables, View,
};

/// The files as another process sees them, which takes no lock and cannot write.
#[derive(Debug)]
struct Beside(MemoryIo);

impl Io for Beside {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.0.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.0.create_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.0.open(name)
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        panic!("{name} is created")
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        panic!("{name} is removed")
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.0.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        panic!("the directory is synced")
    }
}

fn name(name: &str) -> FacetName {
    FacetName::new(name).unwrap()
}

fn writer(memory: &MemoryIo) -> Arc<Store> {
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::create() };
    Store::open(Environment::with_io(Arc::new(memory.clone())), options).unwrap()
}

fn open(memory: &MemoryIo, known: Lsn) -> lapidary_engine::Result<Arc<Store>> {
    let environment = Environment::with_io(Arc::new(Beside(memory.clone())));
    Store::open_to_follow(environment, Tunables::default(), known)
}

/// Commits a page of that byte, durably.
fn write(store: &Store, facet: &Arc<Facet>, page: u32, byte: u8) {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(1024).unwrap()).unwrap();
    }
    writer.write_page(PageNo(page), &[byte; 1024]).unwrap();
    writer.commit(0).unwrap();
    store.flush().unwrap();
}

fn page(store: &Store, facet: &str, page: u32) -> u8 {
    let mut image = [0; 1024];
    let facet = store.open_facet(&name(facet)).unwrap();
    facet.snapshot(View::Durable).unwrap().read_page(PageNo(page), &mut image).unwrap();
    image[0]
}

#[test]
fn what_is_written_is_followed() {
    let memory = MemoryIo::new();
    let store = writer(&memory);
    let a = store.create_facet(&name("a")).unwrap();
    (1..=4).for_each(|number| write(&store, &a, number, 1));
    let follower = open(&memory, store.durable_lsn()).unwrap();
    assert_eq!((follower.durable_lsn(), follower.id()), (store.durable_lsn(), store.id()));
    let began = follower.open_facet(&name("a")).unwrap().snapshot(View::Durable).unwrap();
    for byte in 2..200 {
        write(&store, &a, u32::from(byte) % 7 + 1, byte);
        assert_eq!(follower.follow(store.durable_lsn()).unwrap(), store.durable_lsn());
        assert_eq!(page(&follower, "a", u32::from(byte) % 7 + 1), byte);
    }
    let mut image = [0; 1024];
    began.read_page(PageNo(3), &mut image).unwrap();
    assert_eq!((image[0], began.page_count()), (1, 4), "a snapshot stays as it is");

    store.fork_facet(&name("a"), &name("b/fork"), ForkFrom::Latest).unwrap();
    store.rename_facet(&name("a"), &name("c")).unwrap();
    store.create_facet(&name("d")).unwrap();
    store.delete_facet(&name("d")).unwrap();
    store.set_quota(&name("b"), Some(1 << 20)).unwrap();
    store.flush().unwrap();
    follower.follow(store.durable_lsn()).unwrap();
    let listed = follower.list_facets(None, None, 10).unwrap();
    assert_eq!(listed, store.list_facets(None, None, 10).unwrap());
    assert_eq!(page(&follower, "b/fork", 4), page(&store, "c", 4));
    assert_eq!(follower.quota(&name("b")), store.quota(&name("b")));
    // Nothing was added.
    assert_eq!(follower.follow(store.durable_lsn()).unwrap(), store.durable_lsn());
}

/// A last batch may be taken back by a crash of the writer, unless it is known that it is durable.
#[test]
fn a_last_batch_that_may_be_lost_is_not_shown() {
    let memory = MemoryIo::new();
    let store = writer(&memory);
    let a = store.create_facet(&name("a")).unwrap();
    write(&store, &a, 1, 1);
    let known = store.durable_lsn();
    write(&store, &a, 1, 2);
    let follower = open(&memory, Lsn(0)).unwrap();
    assert_eq!((page(&follower, "a", 1), follower.durable_lsn()), (1, known));
    // Of a batch before the last it is known.
    write(&store, &a, 1, 3);
    follower.follow(known).unwrap();
    assert_eq!(page(&follower, "a", 1), 2);
    follower.follow(store.durable_lsn()).unwrap();
    assert_eq!(page(&follower, "a", 1), 3);
    // What is known has to be there.
    let missing = open(&memory, store.durable_lsn().next()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Corruption, "{missing}");
    let missing = follower.follow(store.durable_lsn().next()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Corruption, "{missing}");
    // Nothing was replayed for that, so it goes on.
    write(&store, &a, 1, 4);
    follower.follow(store.durable_lsn()).unwrap();
    assert_eq!(page(&follower, "a", 1), 4);
}

#[test]
fn nothing_can_be_written_and_only_a_follower_follows() {
    let memory = MemoryIo::new();
    let store = writer(&memory);
    let a = store.create_facet(&name("a")).unwrap();
    write(&store, &a, 1, 1);
    let follower = open(&memory, store.durable_lsn()).unwrap();
    let refused = |result: lapidary_engine::Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    };
    refused(follower.create_facet(&name("x")).map(drop));
    refused(follower.delete_facet(&name("a")).map(drop));
    refused(follower.rename_facet(&name("a"), &name("x")).map(drop));
    refused(follower.fork_facet(&name("a"), &name("x"), ForkFrom::Latest).map(drop));
    refused(follower.set_quota(&name("a"), Some(1)).map(drop));
    refused(follower.checkpoint());
    refused(follower.verify(&mut |_| ()).map(drop));
    refused(follower.clean().map(drop));
    refused(follower.maintain().map(drop));
    let mut writer = follower.open_facet(&name("a")).unwrap().begin_write_latest().unwrap();
    writer.write_page(PageNo(1), &[9; 1024]).unwrap();
    refused(writer.commit(0).map(drop));
    drop(writer);
    assert_eq!(page(&follower, "a", 1), 1);
    follower.flush().unwrap();
    follower.close().unwrap();
    refused(store.follow(Lsn(0)).map(drop));
}
