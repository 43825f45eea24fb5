//! Replies leave when everything they observed is durable, and not before.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::{ReleaseAtEnd, Switch, await_that, config, disk, host_on};
use lapidary::{Call, FacetHandle, Host, HostErrorKind, StoreOptions};
use lapidary_engine::MemoryIo;

/// A host with a durable table in facets `a` and `b`, and a disk that is about to hold.
fn prepared(cores: usize) -> (Host, Switch, FacetHandle, FacetHandle, MemoryIo, ReleaseAtEnd) {
    let memory = MemoryIo::new();
    let (environment, switch) = disk(&memory);
    // Segments that hold all that a test commits: filling another would need the disk.
    let mut options = StoreOptions::create();
    options.format.segment_bytes_min = 8 << 20;
    let host = Host::open_in(environment, config(cores).store(options)).unwrap();
    let (a, b) = (host.facet("a").unwrap(), host.facet("b").unwrap());
    for facet in [&a, &b] {
        facet.execute("CREATE TABLE t(n INTEGER UNIQUE)", ()).wait().unwrap();
        facet.execute("INSERT INTO t VALUES (0)", ()).wait().unwrap();
    }
    let release = switch.release_at_end();
    (host, switch, a, b, memory, release)
}

/// A call on `facet` that inserts `n`, and counts in `ran` when it has run.
fn insert(facet: &FacetHandle, n: i64, ran: &Arc<AtomicUsize>) -> Call<usize> {
    let ran = Arc::clone(ran);
    facet.run(move |connection| {
        let changed = connection.execute("INSERT INTO t VALUES (?1)", [n]);
        ran.fetch_add(1, Ordering::SeqCst);
        Ok(changed?)
    })
}

fn count(facet: &FacetHandle) -> i64 {
    facet
        .read(
            |connection| Ok(connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?),
        )
        .unwrap()
}

fn assert_held<T: std::fmt::Debug>(calls: &mut [Call<T>]) {
    for _ in 0..20 {
        for call in calls.iter_mut() {
            let early = call.try_wait();
            assert!(early.is_none(), "a reply left before it was durable: {early:?}");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn no_reply_leaves_before_the_sync_and_the_core_does_not_wait_for_it() {
    let (host, switch, a, _, _, _release) = prepared(1);
    switch.hold();
    let ran = Arc::new(AtomicUsize::new(0));
    let mut calls: Vec<_> = (1..=200).map(|n| insert(&a, n, &ran)).collect();
    switch.await_sync();
    await_that("all calls have run while the disk stands still", || {
        ran.load(Ordering::SeqCst) == 200
    });
    assert_held(&mut calls);
    assert_eq!(count(&a), 1, "readers see what is durable");
    switch.release();
    for call in calls {
        assert_eq!(call.wait().unwrap(), 1);
    }
    assert_eq!(count(&a), 201);
    await_that("nothing is held", || host.stat().wait().unwrap().cores[0].replies_held == 0);
}

#[test]
fn errors_and_reads_that_saw_unconfirmed_data_are_held_too() {
    let (_host, switch, a, b, _, _release) = prepared(1);
    switch.hold();
    let ran = Arc::new(AtomicUsize::new(0));
    let first = insert(&a, 1, &ran);
    switch.await_sync();
    let mut held_errors = [insert(&a, 1, &ran)];
    let mut held_reads = [a.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))];
    // The other facet has nothing unconfirmed: its replies leave, though the disk stands still.
    let durable = b.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(durable.wait().unwrap(), [1]);
    let error = b.execute("INSERT INTO t VALUES (0)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Statement);

    assert_held(&mut held_errors);
    assert_held(&mut held_reads);
    switch.release();
    assert_eq!(first.wait().unwrap(), 1);
    let [error] = held_errors;
    assert_eq!(error.wait().unwrap_err().kind(), HostErrorKind::Statement);
    let [read] = held_reads;
    assert_eq!(read.wait().unwrap(), [2]);
}

#[test]
fn a_reply_is_held_after_its_connection_was_closed_and_opened_anew() {
    let memory = MemoryIo::new();
    let (environment, switch) = disk(&memory);
    let host = Host::open_in(environment, config(1).resident_facets_max(1)).unwrap();
    let (a, b) = (host.facet("a").unwrap(), host.facet("b").unwrap());
    a.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    b.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let _release = switch.release_at_end();
    switch.hold();
    let write = a.execute("INSERT INTO t VALUES (1)", ());
    switch.await_sync();
    // Evicts `a`, whose commit is not durable yet.
    assert!(b.query("SELECT n FROM t", (), |_| Ok(())).wait().unwrap().is_empty());
    let mut reads = [a.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0))];
    assert_held(&mut reads);
    switch.release();
    let [read] = reads;
    assert_eq!(read.wait().unwrap(), [1]);
    assert_eq!(write.wait().unwrap(), 1);
}

#[test]
fn what_tells_of_the_catalog_is_held() {
    let (host, switch, a, _, _, _release) = prepared(2);
    switch.hold();
    let creation = host.facet("c/new").unwrap().execute("CREATE TABLE t(n)", ());
    switch.await_sync();
    let mut deletions = [host.delete("b")];
    let mut renamings = [host.rename("a", "z/moved")];
    let moved = host.facet("z/moved").unwrap();
    // Runs on the new name's core, after the renaming on the old name's.
    await_that("renamed", || host.store().facet_exists(moved.name()));
    let mut reads = [moved.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0))];
    let mut lists = [host.list(None, None, 10)];
    let mut stats = [host.stat()];
    assert_held(&mut deletions);
    assert_held(&mut renamings);
    assert_held(&mut reads);
    assert_held(&mut lists);
    assert_held(&mut stats);
    switch.release();
    creation.wait().unwrap();
    let ([deletion], [renaming], [read], [list]) = (deletions, renamings, reads, lists);
    deletion.wait().unwrap();
    renaming.wait().unwrap();
    assert_eq!(read.wait().unwrap(), [0]);
    assert!(list.wait().unwrap().iter().all(|facet| facet.name != *a.name()));
}

#[test]
fn an_empty_facet_in_place_of_a_deleted_one_is_told_of_when_the_deletion_is_durable() {
    let (host, switch, a, _, _, _release) = prepared(1);
    switch.hold();
    let deletion = host.delete("a");
    let mut reads = [a.query("SELECT name FROM sqlite_schema", (), |_| Ok(()))];
    switch.await_sync();
    assert_held(&mut reads);
    switch.release();
    let [read] = reads;
    assert!(read.wait().unwrap().is_empty());
    deletion.wait().unwrap();
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_reopening_finds_what_was() {
    let (host, switch, a, b, memory, _release) = prepared(2);
    switch.hold();
    let ran = Arc::new(AtomicUsize::new(0));
    let lost: Vec<_> = (1..=50).flat_map(|n| [insert(&a, n, &ran), insert(&b, n, &ran)]).collect();
    switch.await_sync();
    await_that("all have run", || ran.load(Ordering::SeqCst) == 100);
    switch.fail();
    for call in lost {
        let error = call.wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
        assert!(error.to_string().contains("may be lost"), "{error}");
    }
    for facet in [&a, &b] {
        let error = facet.execute("INSERT INTO t VALUES (1000)", ()).wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
        let error = facet.query("SELECT n FROM t", (), |_| Ok(())).wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    }
    assert_eq!(host.list(None, None, 1).wait().unwrap_err().kind(), HostErrorKind::Reopen);
    assert_eq!(host.shutdown().unwrap_err().kind(), HostErrorKind::Reopen);
    drop((host, a, b));

    let host = host_on(&memory, config(2));
    for name in ["a", "b"] {
        let facet = host.facet(name).unwrap();
        let found =
            facet.query("SELECT n FROM t ORDER BY n", (), |row| row.get::<_, i64>(0)).wait();
        let found = found.unwrap();
        assert_eq!(found.first(), Some(&0), "what was acknowledged is there");
        let whole: Vec<i64> = (0..).take(found.len()).collect();
        assert_eq!(found, whole, "what was not is there up to some commit, in order");
        facet.execute("INSERT INTO t VALUES (2000)", ()).wait().unwrap();
    }
}

#[test]
fn an_idle_host_learns_of_a_failure_with_its_next_call() {
    let (_host, switch, a, b, _, _release) = prepared(1);
    switch.fail();
    let error = a.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    let error = b.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
}

#[test]
fn a_renaming_is_told_of_by_every_connection_when_it_is_durable() {
    let (host, switch, a, b, _, _release) = prepared(1);
    switch.hold();
    let renaming = host.rename("a", "moved");
    let moved = host.facet("moved").unwrap();
    switch.await_sync();
    await_that("renamed", || host.store().facet_exists(moved.name()));
    // Opened, closed by the panic, and opened again.
    let closing = moved.run::<(), _>(|_| panic!("closes the writer"));
    let mut reads = [moved.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0))];
    let (read_tell, read_told) = channel();
    thread::spawn({
        let moved = moved.clone();
        move || read_tell.send(count(&moved))
    });
    let (plain_tell, plain_told) = channel();
    let uri = format!("file:moved?vfs={}", host.vfs_name());
    thread::spawn(move || {
        let plain = lapidary::rusqlite::Connection::open(uri).unwrap();
        plain_tell.send(plain.query_row("SELECT n FROM t", (), |row| row.get::<_, i64>(0)))
    });
    assert_held(&mut reads);
    assert!(read_told.try_recv().is_err(), "a reader told of it early");
    assert!(plain_told.try_recv().is_err(), "a plain connection told of it early");
    assert_eq!(count(&b), 1, "names that are durable are served meanwhile");
    switch.release();
    renaming.wait().unwrap();
    closing.wait().unwrap_err();
    let [read] = reads;
    assert_eq!(read.wait().unwrap(), [0]);
    assert_eq!(read_told.recv_timeout(common::PATIENCE).unwrap(), 1);
    assert_eq!(plain_told.recv_timeout(common::PATIENCE).unwrap().unwrap(), 0);
    assert_eq!(a.read(|_| Ok(())).unwrap_err().kind(), HostErrorKind::NotFound);
}

#[test]
fn an_empty_facet_in_place_of_a_deleted_one_is_held_after_its_connection_was_opened_anew() {
    let (host, switch, a, _, _, _release) = prepared(1);
    switch.hold();
    let deletion = host.delete("a");
    switch.await_sync();
    let closing = a.run::<(), _>(|_| panic!("closes the writer"));
    let mut reads = [a.query("SELECT name FROM sqlite_schema", (), |_| Ok(()))];
    assert_held(&mut reads);
    switch.release();
    let [read] = reads;
    assert!(read.wait().unwrap().is_empty());
    closing.wait().unwrap_err();
    deletion.wait().unwrap();
}

#[test]
fn an_error_of_opening_a_facet_is_held() {
    let (_host, switch, a, _, _, _release) = prepared(1);
    switch.hold();
    let damage = a.execute_batch(
        "PRAGMA writable_schema=ON;
         INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 9999, 'CREATE TABLE x(')",
    );
    switch.await_sync();
    let closing = a.run::<(), _>(|_| panic!("closes the writer"));
    let mut reads = [a.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0))];
    assert_held(&mut reads);
    switch.release();
    damage.wait().unwrap();
    closing.wait().unwrap_err();
    let [read] = reads;
    let error = read.wait().unwrap_err();
    assert!(error.to_string().contains("malformed"), "{error}");
}

#[test]
fn an_unconfirmed_reply_does_not_wait_and_a_sync_does() {
    let (host, switch, a, b, _, _release) = prepared(2);
    switch.hold();
    let fast = a.unconfirmed();
    assert_eq!(fast.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap(), 1);
    let seen = fast.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(seen.wait().unwrap(), [2]);
    let inserted = fast.transaction(|tx| Ok(tx.execute("INSERT INTO t VALUES (2)", ())?));
    assert_eq!(inserted.wait().unwrap(), 1);
    assert_eq!(count(&a), 1, "readers see what is durable");
    let mut syncs = [a.sync(), host.sync()];
    let mut confirmed = [a.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))];
    assert_held(&mut syncs);
    assert_held(&mut confirmed);
    assert_eq!(count(&b), 1);
    switch.release();
    for sync in syncs {
        sync.wait().unwrap();
    }
    assert_eq!(count(&a), 3);
    let [confirmed] = confirmed;
    assert_eq!(confirmed.wait().unwrap(), [3]);
}

#[test]
fn after_a_failed_sync_a_barrier_fails_and_so_do_unconfirmed_calls() {
    let (host, switch, a, _, memory, _release) = prepared(1);
    switch.hold();
    let fast = a.unconfirmed();
    fast.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    let syncs = [a.sync(), host.sync()];
    switch.await_sync();
    switch.fail();
    for sync in syncs {
        let error = sync.wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    }
    let error = fast.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    drop((host, a, fast));
    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    let found = facet.query("SELECT n FROM t ORDER BY n", (), |row| row.get::<_, i64>(0));
    assert_eq!(found.wait().unwrap().first(), Some(&0), "what was confirmed is there");
}
