//! Bookmarks, reading at them, going back to them, on the cores and beside them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{await_that, config, disk, host_on};
use lapidary::{Bookmark, Call, FacetHandle, Host, HostConfig, HostErrorKind, Retention};
use lapidary::{StoreOptions, Tunables, rusqlite};
use lapidary_engine::MemoryIo;

fn options() -> StoreOptions {
    let retention = Retention { bytes: u64::MAX, age: Duration::from_secs(24 * 3600) };
    let tunables = Tunables { retention, ..Tunables::default() };
    let mut options = StoreOptions { tunables, ..StoreOptions::create() };
    // Segments that hold all that a test commits: filling another would need the disk.
    options.format.segment_bytes_min = 8 << 20;
    options
}

fn keeping(cores: usize) -> HostConfig {
    config(cores).store(options())
}

fn filled(host: &Host, name: &str) -> FacetHandle {
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE t(n INTEGER)", ()).wait().unwrap();
    facet
}

fn insert(facet: &FacetHandle, n: i64) -> Call<usize> {
    facet.execute("INSERT INTO t VALUES (?1)", [n])
}

fn all(connection: &rusqlite::Connection) -> lapidary::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached("SELECT n FROM t ORDER BY n")?;
    let rows = statement.query_map((), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn on_core(facet: &FacetHandle) -> Call<Vec<i64>> {
    facet.run(all)
}

fn assert_held<T: std::fmt::Debug>(calls: &mut [Call<T>]) {
    for _ in 0..20 {
        for call in calls.iter_mut() {
            let early = call.try_wait();
            assert!(early.is_none(), "a reply left before it was durable: {early:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn calls_and_bookmarks_and_restores_are_in_order() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, keeping(2));
    let facet = filled(&host, "a");
    // All on their way at once.
    let first = insert(&facet, 1);
    let one = facet.bookmark();
    let second = insert(&facet, 2);
    let two = facet.bookmark();
    for call in [first, second] {
        assert_eq!(call.wait().unwrap(), 1);
    }
    let (one, two) = (one.wait().unwrap(), two.wait().unwrap());
    assert!(one < two);
    let third = insert(&facet, 3);
    let undo = facet.restore(one);
    let restored = on_core(&facet);
    let fourth = insert(&facet, 4);
    let after = on_core(&facet);
    third.wait().unwrap();
    assert_eq!(restored.wait().unwrap(), [1]);
    fourth.wait().unwrap();
    assert_eq!(after.wait().unwrap(), [1, 4]);
    assert_eq!(facet.read(all).unwrap(), [1, 4]);
    let undo = undo.wait().unwrap();
    assert_eq!(facet.read_at(undo, all).unwrap(), [1, 2, 3]);
    assert_eq!(facet.read_at(one, all).unwrap(), [1]);
    assert_eq!(facet.read_at(two, all).unwrap(), [1, 2]);
    facet.restore(undo).wait().unwrap();
    assert_eq!(facet.read(all).unwrap(), [1, 2, 3]);
    host.shutdown().unwrap();
    drop((host, facet));

    let host = host_on(&memory, keeping(1));
    let facet = host.facet("a").unwrap();
    assert_eq!(facet.read_at(two, all).unwrap(), [1, 2]);
    facet.restore(one).wait().unwrap();
    assert_eq!(on_core(&facet).wait().unwrap(), [1]);
}

/// The writer connection keeps its lock and its cache, readers theirs: none is in the way, none
/// stays behind.
#[test]
fn going_back_and_forth_with_connections_open() {
    let host = host_on(&MemoryIo::new(), keeping(2));
    let facet = filled(&host, "a");
    let mut versions: Vec<(Bookmark, Vec<i64>)> = Vec::new();
    let mut rows = Vec::new();
    for n in 0..40 {
        insert(&facet, n).wait().unwrap();
        rows.push(n);
        if n % 3 == 1 {
            let (bookmark, old) =
                versions[usize::try_from(n * 7).unwrap() % versions.len()].clone();
            let undo = facet.restore(bookmark).wait().unwrap();
            assert_eq!(facet.read_at(undo, all).unwrap(), rows);
            rows = old;
        }
        assert_eq!(facet.read(all).unwrap(), rows);
        assert_eq!(on_core(&facet).wait().unwrap(), rows);
        versions.push((facet.bookmark().wait().unwrap(), rows.clone()));
    }
    for (bookmark, rows) in versions {
        assert_eq!(facet.read_at(bookmark, all).unwrap(), rows);
    }
}

#[test]
fn what_tells_of_versions_is_held() {
    let memory = MemoryIo::new();
    let (environment, switch) = disk(&memory);
    let host = Host::open_in(environment, keeping(1)).unwrap();
    let facet = filled(&host, "a");
    insert(&facet, 1).wait().unwrap();
    let old = facet.bookmark().wait().unwrap();
    let _release = switch.release_at_end();
    switch.hold();
    let write = insert(&facet, 2);
    switch.await_sync();
    let mut bookmarks = [facet.bookmark()];
    assert_held(&mut bookmarks);
    let mut restores = [facet.restore(old)];
    let mut reads = [on_core(&facet)];
    assert_held(&mut restores);
    assert_held(&mut reads);
    // Beside the cores there is what is durable.
    assert_eq!(facet.read(all).unwrap(), [1]);
    assert_eq!(facet.versions().unwrap()[0].bookmark, old);
    switch.release();
    write.wait().unwrap();
    let ([bookmark], [restore], [read]) = (bookmarks, restores, reads);
    let bookmark = bookmark.wait().unwrap();
    assert_eq!(restore.wait().unwrap(), bookmark, "what undoes it is what was written");
    assert_eq!(read.wait().unwrap(), [1]);
    assert_eq!(facet.read_at(bookmark, all).unwrap(), [1, 2]);
}

#[test]
fn versions_are_found_by_time() {
    let host = host_on(&MemoryIo::new(), keeping(1));
    let facet = filled(&host, "a");
    let mut bookmarks = Vec::new();
    for n in 0..5 {
        insert(&facet, n).wait().unwrap();
        bookmarks.push(facet.bookmark().wait().unwrap());
        std::thread::sleep(Duration::from_millis(3));
    }
    let versions = facet.versions().unwrap();
    let found: Vec<_> = versions.iter().map(|version| version.bookmark).take(5).collect();
    bookmarks.reverse();
    assert_eq!(found, bookmarks, "newest first");
    for version in &versions[..5] {
        assert_eq!(facet.bookmark_at(version.wall_ms + 1).unwrap(), version.bookmark);
    }
    assert_eq!(facet.bookmark_at(u64::MAX).unwrap(), bookmarks[0]);
}

#[test]
fn what_is_not_there_is_not_found_and_nothing_is_made() {
    let host = host_on(&MemoryIo::new(), keeping(2));
    let facet = filled(&host, "a");
    let bookmark = facet.bookmark().wait().unwrap();
    insert(&facet, 1).wait().unwrap();
    let missing = host.facet("missing").unwrap();
    assert_eq!(missing.bookmark().wait().unwrap_err().kind(), HostErrorKind::NotFound);
    assert_eq!(missing.restore(bookmark).wait().unwrap_err().kind(), HostErrorKind::NotFound);
    assert_eq!(missing.versions().unwrap_err().kind(), HostErrorKind::NotFound);
    assert_eq!(missing.bookmark_at(0).unwrap_err().kind(), HostErrorKind::NotFound);
    assert_eq!(missing.read_at(bookmark, all).unwrap_err().kind(), HostErrorKind::NotFound);
    assert_eq!(missing.root_hash().unwrap_err().kind(), HostErrorKind::NotFound);
    assert_eq!(host.list(None, None, 10).wait().unwrap().len(), 1);

    let other = filled(&host, "b");
    let not_here = other.bookmark().wait().unwrap();
    for error in
        [facet.restore(not_here).wait().unwrap_err(), facet.read_at(not_here, all).unwrap_err()]
    {
        assert_eq!(error.kind(), HostErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("facet a: no version"), "{error}");
    }
    let bodies_error = facet
        .read_at(bookmark, |connection| Ok(connection.execute("INSERT INTO t VALUES (1)", ())?));
    assert_eq!(bodies_error.unwrap_err().kind(), HostErrorKind::Statement, "it is read-only");

    // With nothing kept there is the newest version alone.
    host.set_retention("a", Some(Retention::OFF)).wait().unwrap();
    assert_eq!(host.retention("a").wait().unwrap(), Some(Retention::OFF));
    insert(&facet, 2).wait().unwrap();
    let error = facet.read_at(bookmark, all).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NotFound, "{error}");
    let error = facet.bookmark_at(0).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NotFound, "{error}");
    assert_eq!(facet.read(all).unwrap(), [1, 2]);
}

#[test]
fn a_restore_does_not_interrupt_who_writes() {
    let host = host_on(&MemoryIo::new(), keeping(1));
    let facet = filled(&host, "a");
    insert(&facet, 1).wait().unwrap();
    let bookmark = facet.bookmark().wait().unwrap();
    insert(&facet, 2).wait().unwrap();
    // Lets go of the host's own writer.
    facet.run::<(), _>(|_| panic!("closes the writer")).wait().unwrap_err();
    let plain = rusqlite::Connection::open(format!("file:a?vfs={}", host.vfs_name())).unwrap();
    plain.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (3)").unwrap();
    let error = facet.restore(bookmark).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Retry, "{error}");
    plain.execute_batch("COMMIT").unwrap();
    let undo = facet.restore(bookmark).wait().unwrap();
    assert_eq!(facet.read_at(undo, all).unwrap(), [1, 2, 3]);
    let count: i64 = plain.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    assert_eq!(on_core(&facet).wait().unwrap(), [1]);
}

#[test]
fn a_version_stays_while_it_is_read() {
    let host = host_on(&MemoryIo::new(), keeping(1));
    let facet = filled(&host, "a");
    insert(&facet, 1).wait().unwrap();
    let bookmark = facet.bookmark().wait().unwrap();
    let hash = facet.root_hash().unwrap();
    facet
        .read_at(bookmark, |connection| {
            host.set_retention("a", Some(Retention::OFF)).wait()?;
            insert(&facet, 2).wait()?;
            host.delete("a").wait()?;
            host.store().checkpoint()?;
            assert_eq!(all(connection)?, [1]);
            Ok(())
        })
        .unwrap();
    await_that("deleted", || facet.read(all).is_err());
    let again = filled(&host, "a");
    insert(&again, 1).wait().unwrap();
    assert_eq!(again.root_hash().unwrap(), hash, "the same statements, the same content");
}
