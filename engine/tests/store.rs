//! The store through its public interface.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod support;

use std::sync::Arc;

use lapidary_engine::{
    Background, Environment, Error, ErrorKind, Facet, FacetName, FormatParams, PageNo, PageSize,
    Store, StoreOptions, Tunables, Version, View,
};
use support::Disk;

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

fn open(io: &Disk) -> Arc<Store> {
    let options = StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 1 << 20 },
        tunables: Tunables { spill_bytes: 64 << 10, ..Tunables::default() },
        background: Background::Manual,
    };
    Store::open(Environment::with_io(io.io()), options).unwrap()
}

fn size(bytes: usize) -> PageSize {
    PageSize::from_bytes(bytes).unwrap()
}

fn write(facet: &Arc<Facet>, page: u32, byte: u8) {
    let mut writer = facet.begin_write_latest().unwrap();
    if writer.page_size().is_none() {
        writer.set_page_size(size(4096)).unwrap();
    }
    writer.write_page(PageNo(page), &[byte; 4096]).unwrap();
    writer.commit(0).unwrap();
}

fn read(facet: &Arc<Facet>, view: View, page: u32) -> u8 {
    let mut bytes = [0; 4096];
    facet.snapshot(view).unwrap().read_page(PageNo(page), &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
    bytes[0]
}

#[test]
fn latest_and_durable() {
    let store = open(&Disk::new());
    let facet = store.create_facet(&name("a")).unwrap();
    write(&facet, 1, 1);
    store.flush().unwrap();
    write(&facet, 1, 2);
    assert_eq!((read(&facet, View::Durable, 1), read(&facet, View::Latest, 1)), (1, 2));
    let snapshot = facet.snapshot(View::Durable).unwrap();
    assert!(!store.is_durable(facet.latest_ticket()).unwrap());
    store.wait_durable(facet.latest_ticket()).unwrap();
    assert_eq!(read(&facet, View::Durable, 1), 2);
    assert_eq!(snapshot.version(), Version(1));
    let mut bytes = [0; 4096];
    snapshot.read_page(PageNo(1), &mut bytes).unwrap();
    assert_eq!(bytes[7], 1);
}

#[test]
fn one_writer_from_the_latest_version() {
    let store = open(&Disk::new());
    let facet = store.create_facet(&name("a")).unwrap();
    let old = facet.snapshot(View::Latest).unwrap();
    let writer = facet.begin_write(&old).unwrap();
    assert!(matches!(facet.begin_write(&old), Err(Error::WriterBusy { .. })));
    drop(writer);
    write(&facet, 1, 1);
    assert!(matches!(facet.begin_write(&old), Err(Error::StaleSnapshot { .. })));
    let other = store.create_facet(&name("b")).unwrap();
    assert!(matches!(other.begin_write(&old), Err(Error::InvalidInput(_))));
}

#[test]
fn everything_is_there_after_reopening() {
    let io = Disk::new();
    for round in 0..12u8 {
        let store = open(&io);
        for number in 0..100u32 {
            let facet = store.open_or_create_facet(&name(&format!("t/{number}"))).unwrap();
            if round > 0 {
                assert_eq!(read(&facet, View::Durable, 1 + number % 40), round - 1, "{number}");
            }
            write(&facet, 1 + number % 40, round);
            if number % 7 == 0 {
                store.flush().unwrap();
            }
            store.maintain().unwrap();
        }
        match round % 3 {
            0 => store.close().unwrap(),
            1 => {
                store.flush().unwrap();
                store.checkpoint().unwrap();
            }
            _ => store.flush().unwrap(),
        }
    }
}

#[test]
fn space_of_overwritten_and_deleted_pages_comes_back() {
    let io = Disk::new();
    let store = open(&io);
    let facets: Vec<_> =
        (0..10).map(|n| store.create_facet(&name(&format!("f{n}"))).unwrap()).collect();
    let mut peak = 0;
    for round in 0..200u32 {
        for facet in &facets {
            write(facet, 1 + round % 8, u8::try_from(round % 250).unwrap() + 1);
        }
        store.flush().unwrap();
        if round % 10 == 0 {
            store.checkpoint().unwrap();
        }
        while store.maintain().unwrap() {}
        if round == 100 {
            peak = store.stat().allocated_bytes;
        }
    }
    let stat = store.stat();
    // How much is kept ready depends on how fast this machine writes; what was written is many times
    // that.
    assert!(stat.allocated_bytes < stat.written_bytes / 2, "{stat:?}, {peak} bytes at half time");
    assert!(stat.live_bytes >= 10 * 8 * 4096);
    for n in 0..10 {
        store.delete_facet(&name(&format!("f{n}"))).unwrap();
    }
    drop(facets);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    let stat = store.stat();
    assert!(stat.live_bytes < 4096, "{stat:?}");
    assert!(stat.ready_segments + 3 >= stat.segments, "{stat:?}");
    store.close().unwrap();
    let reopened = open(&io).stat();
    assert_eq!(reopened.facets, 0);
    assert!(reopened.live_bytes < 4096, "{reopened:?}");
}

#[test]
fn a_pinned_version_keeps_its_pages() {
    let io = Disk::new();
    let store = open(&io);
    let facet = store.create_facet(&name("a")).unwrap();
    for page in 1..=50 {
        write(&facet, page, u8::try_from(page).unwrap());
    }
    store.flush().unwrap();
    let snapshot = facet.snapshot(View::Durable).unwrap();
    for round in 0..20 {
        for page in 1..=50 {
            write(&facet, page, 100 + round);
        }
        store.flush().unwrap();
        store.checkpoint().unwrap();
    }
    store.delete_facet(&name("a")).unwrap();
    store.flush().unwrap();
    for _ in 0..3 {
        store.checkpoint().unwrap();
    }
    for page in 1..=50 {
        let mut bytes = [0; 4096];
        snapshot.read_page(PageNo(page), &mut bytes).unwrap();
        assert_eq!(u32::from(bytes[0]), page);
    }
    let before = store.stat();
    drop(snapshot);
    store.checkpoint().unwrap();
    assert!(store.stat().ready_segments > before.ready_segments);
}

#[test]
fn large_transactions_spill() {
    let io = Disk::new();
    let store = open(&io);
    let facet = store.create_facet(&name("big")).unwrap();
    let mut writer = facet.begin_write_latest().unwrap();
    writer.set_page_size(size(4096)).unwrap();
    for page in 1..=1000u32 {
        writer.write_page(PageNo(page), &[u8::try_from(page % 251).unwrap(); 4096]).unwrap();
    }
    // Again, so that spilled pages are replaced; and some are cut off.
    for page in (1..=1000u32).step_by(3) {
        writer.write_page(PageNo(page), &[252; 4096]).unwrap();
    }
    writer.set_page_count(900).unwrap();
    store.checkpoint().unwrap();
    let ticket = writer.commit(0).unwrap();
    drop(writer);
    store.wait_durable(ticket).unwrap();
    drop((facet, store));

    let store = open(&io);
    let facet = store.open_facet(&name("big")).unwrap();
    assert_eq!(facet.snapshot(View::Durable).unwrap().page_count(), 900);
    for page in 1..=900u32 {
        let expected = if page % 3 == 1 { 252 } else { page % 251 };
        assert_eq!(u32::from(read(&facet, View::Durable, page)), expected, "{page}");
    }
    // A discarded one leaves nothing.
    let mut writer = facet.begin_write_latest().unwrap();
    for page in 1..=900u32 {
        writer.write_page(PageNo(page), &[3; 4096]).unwrap();
    }
    drop(writer);
    assert_eq!(read(&facet, View::Latest, 2), 2);
}

#[test]
fn content_is_cut_into_pages_of_another_size() {
    let store = open(&Disk::new());
    let facet = store.create_facet(&name("a")).unwrap();
    let content: Vec<u8> = (0..40 * 1024u32).map(|at| (at / 100 % 251) as u8).collect();
    for (from, to) in [(1024, 4096), (4096, 512), (512, 65536), (65536, 2048)] {
        let mut writer = facet.begin_write_latest().unwrap();
        writer.set_page_count(0).unwrap();
        writer.set_page_size(size(from)).unwrap();
        for (page, bytes) in (1..).zip(content.chunks(from)) {
            let mut bytes = bytes.to_vec();
            bytes.resize(from, 0);
            writer.write_page(PageNo(page), &bytes).unwrap();
        }
        writer.rechunk(size(to), content.len() as u64).unwrap();
        writer.commit(0).unwrap();
        store.flush().unwrap();
        let snapshot = facet.snapshot(View::Durable).unwrap();
        assert_eq!(snapshot.page_size(), Some(size(to)));
        let mut all = Vec::new();
        for page in 1..=snapshot.page_count() {
            let mut bytes = vec![0; to];
            snapshot.read_page(PageNo(page), &mut bytes).unwrap();
            all.extend(bytes);
        }
        assert_eq!(all[..content.len()], content);
        assert!(all[content.len()..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn names_and_subtrees() {
    let io = Disk::new();
    let store = open(&io);
    for text in ["a", "a/b", "a/b/c", "a-b", "ab", "z"] {
        store.create_facet(&name(text)).unwrap();
    }
    let list = |store: &Store, prefix: Option<&str>| {
        let prefix = prefix.map(name);
        let infos = store.list_facets(prefix.as_ref(), None, 100).unwrap();
        infos.into_iter().map(|info| info.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(&store, Some("a")), ["a", "a/b", "a/b/c"]);
    assert_eq!(list(&store, None), ["a", "a-b", "a/b", "a/b/c", "ab", "z"]);
    let error = store.rename_facet(&name("a"), &name("a/x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = store.rename_facet(&name("nobody"), &name("b")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = store.rename_facet(&name("ab"), &name("z")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    store.rename_facet(&name("a"), &name("moved/here")).unwrap();
    store.delete_facet(&name("moved/here/b")).unwrap();
    store.flush().unwrap();
    let expected = ["a-b", "ab", "moved/here", "z"];
    assert_eq!(list(&store, None), expected);
    drop(store);
    let store = open(&io);
    assert_eq!(list(&store, None), expected);
    store.close().unwrap();
    assert_eq!(list(&open(&io), None), expected);
}

#[test]
fn a_deleted_facet_refuses_its_handles() {
    let store = open(&Disk::new());
    let facet = store.create_facet(&name("a")).unwrap();
    write(&facet, 1, 1);
    let mut writer = facet.begin_write_latest().unwrap();
    writer.write_page(PageNo(1), &[2; 4096]).unwrap();
    store.delete_facet(&name("a")).unwrap();
    assert!(matches!(writer.commit(0), Err(Error::FacetDeleted { .. })));
    assert!(matches!(facet.snapshot(View::Latest), Err(Error::FacetDeleted { .. })));
    drop(writer);
    let again = store.create_facet(&name("a")).unwrap();
    assert_ne!(again.id(), facet.id());
    store.flush().unwrap();
}

#[test]
fn locked_missing_and_closed() {
    let io = Disk::new();
    let environment = || Environment::with_io(io.io());
    let missing = Store::open(environment(), StoreOptions::default()).unwrap_err();
    assert!(matches!(missing, Error::Missing { .. }));
    let store = Store::open(environment(), StoreOptions::create()).unwrap();
    let locked = Store::open(environment(), StoreOptions::default()).unwrap_err();
    assert!(matches!(locked, Error::Locked { .. }));
    let facet = store.create_facet(&name("a")).unwrap();
    store.close().unwrap();
    assert!(matches!(facet.snapshot(View::Latest), Err(Error::Closed)));
    assert!(matches!(store.close(), Err(Error::Closed)));
    Store::open(environment(), StoreOptions::default()).unwrap();
}

#[test]
fn threads_share_flushes() {
    let io = Disk::new();
    let environment = Environment::with_io(io.io());
    let store = Store::open(environment, StoreOptions::create()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let store = &store;
            scope.spawn(move || {
                let facet = store.create_facet(&name(&format!("t{thread}"))).unwrap();
                for round in 0..200u8 {
                    write(&facet, 1, round);
                    if round % 2 == 0 {
                        store.wait_durable(facet.latest_ticket()).unwrap();
                        assert_eq!(read(&facet, View::Durable, 1), round);
                    } else {
                        store.request_flush();
                    }
                }
            });
        }
    });
    store.flush().unwrap();
    assert_eq!(store.stat().commits, 800);
    store.close().unwrap();
}
