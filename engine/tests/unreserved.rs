//! Files whose blocks are not allocated, as whoever fetches them bit by bit has them: when nothing in them
//! is needed any more they are removed, and never written. And a store that is stopped from outside.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "it is a test")]

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use lapidary_engine::{
    Background, DirectoryState, Environment, ErrorKind, FacetName, FileName, FileNo, FormatParams,
    Io, IoFile, MemoryIo, PageNo, PageSize, PosixIo, Store, StoreOptions, View,
};

/// Files in memory, of which some are not reserved and must not be written.
#[derive(Clone, Debug)]
struct Holes {
    memory: MemoryIo,
    unreserved: Arc<Mutex<BTreeSet<FileNo>>>,
}

#[derive(Debug)]
struct ReadOnly(Arc<dyn IoFile>);

impl IoFile for ReadOnly {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Recovery may make the length durable of a file that nothing needs.
        assert!(bytes.iter().all(|&byte| byte == 0), "an unreserved file is written at {offset}");
        self.0.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl Io for Holes {
    fn describe(&self) -> String {
        self.memory.describe()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.memory.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.memory.create_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.memory.lock()
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        let file = self.memory.open(name)?;
        Ok(if self.is_reserved(name) { file } else { Arc::new(ReadOnly(file)) })
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.memory.create(name)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.memory.remove(name)
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.memory.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.memory.sync_directory()
    }

    fn is_reserved(&self, name: FileName) -> bool {
        let FileName::Segment(number) = name else { return true };
        !self.unreserved.lock().unwrap().contains(&number)
    }
}

fn options() -> StoreOptions {
    let format = FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 };
    StoreOptions { format, background: Background::Manual, ..StoreOptions::create() }
}

fn overwrite(store: &Store, rounds: u32) {
    let facet = store.open_or_create_facet(&FacetName::new("a").unwrap()).unwrap();
    for round in 0..rounds {
        let mut writer = facet.begin_write(&facet.snapshot(View::Latest).unwrap()).unwrap();
        if facet.snapshot(View::Latest).unwrap().page_count() == 0 {
            writer.set_page_size(PageSize::from_bytes(4096).unwrap()).unwrap();
        }
        for page in 1..=8 {
            writer.write_page(PageNo(page), &[(round % 250) as u8 + 1; 4096]).unwrap();
        }
        let ticket = writer.commit(0).unwrap();
        store.wait_durable(ticket).unwrap();
    }
}

#[test]
fn what_is_not_reserved_is_removed_and_not_used_again() {
    let memory = MemoryIo::new();
    let io = Holes { memory: memory.clone(), unreserved: Arc::default() };
    let store = Store::open(Environment::with_io(Arc::new(io.clone())), options()).unwrap();
    overwrite(&store, 20);
    store.close().unwrap();
    let before: BTreeSet<FileNo> = memory.list_segments().unwrap().into_iter().collect();
    assert!(before.len() > 4, "{before:?}");
    io.unreserved.lock().unwrap().clone_from(&before);

    let store = Store::open(Environment::with_io(Arc::new(io)), options()).unwrap();
    for _ in 0..4 {
        overwrite(&store, 20);
        store.checkpoint().unwrap();
        while store.maintain().unwrap() {}
    }
    let after: BTreeSet<FileNo> = memory.list_segments().unwrap().into_iter().collect();
    let left: Vec<_> = before.intersection(&after).collect();
    assert!(left.is_empty(), "{left:?} are still there");
    assert!(store.verify(&mut |_| ()).unwrap().is_clean());
}

#[test]
fn a_store_that_is_stopped_says_why() {
    let store = Store::open(Environment::with_io(Arc::new(MemoryIo::new())), options()).unwrap();
    overwrite(&store, 1);
    let durable = store.current_ticket();
    store.stop("another host has it");
    store.stop("a second reason");
    let error = store.create_facet(&FacetName::new("b").unwrap()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reopen);
    assert!(error.to_string().contains("another host has it"), "{error}");
    assert!(store.is_durable(durable).unwrap(), "what was durable stays so");
}

#[test]
fn a_note_of_the_bucket_is_no_foreign_file() {
    let directory = tempfile::tempdir().unwrap();
    let io = PosixIo::new(directory.path());
    io.create_directory().unwrap();
    io.create(FileName::Bucket).unwrap();
    assert_eq!(io.inspect().unwrap(), DirectoryState::Empty);
    std::fs::write(directory.path().join("other"), "").unwrap();
    assert_eq!(io.inspect().unwrap(), DirectoryState::Foreign);
}
