//! Forks, quotas and retentions through a host.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{await_that, config, disk, host, host_on};
use lapidary::{Call, FacetHandle, ForkFrom, Host, HostErrorKind, Retention, rusqlite};
use lapidary_engine::MemoryIo;

fn filled(host: &Host, name: &str, n: i64) -> FacetHandle {
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE t(n INTEGER)", ()).wait().unwrap();
    insert(&facet, n).wait().unwrap();
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
fn a_fork_has_what_was_done_before_it_and_nothing_after() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(4));
    let template = filled(&host, "template", 0);
    let mut expected = vec![0];
    let mut calls = Vec::new();
    // On many cores, all on their way at once.
    for n in 1..=50 {
        let write = insert(&template, n);
        calls.push((write, host.fork("template", format!("agents-{n}/x"), ForkFrom::Latest)));
    }
    for (write, fork) in calls {
        write.wait().unwrap();
        fork.wait().unwrap();
    }
    let forks: Vec<_> =
        (1..=50).map(|n| (n, host.facet(format!("agents-{n}/x")).unwrap())).collect();
    for (n, fork) in &forks {
        expected.push(*n);
        assert_eq!(fork.read(all).unwrap(), expected);
        assert_eq!(fork.run(all).wait().unwrap(), expected);
        insert(fork, 1000 + n).wait().unwrap();
    }
    assert_eq!(template.read(all).unwrap(), expected, "nobody wrote to it");
    host.delete("template").wait().unwrap();
    host.shutdown().unwrap();
    drop((host, template, forks));
    let host = host_on(&memory, config(1));
    for n in 1..=50 {
        let rows = host.facet(format!("agents-{n}/x")).unwrap().read(all).unwrap();
        let expected: Vec<i64> = (0..=n).chain([1000 + n]).collect();
        assert_eq!(rows, expected);
    }
}

#[test]
fn a_fork_of_the_past_and_of_a_subtree() {
    let host = host(3);
    let kept = Retention { bytes: u64::MAX, age: Duration::from_secs(3600) };
    host.set_retention("a", Some(kept)).wait().unwrap();
    assert_eq!(host.retention("a").wait().unwrap(), Some(kept));
    assert_eq!(host.retention("a/b").wait().unwrap(), None);
    let child = filled(&host, "a/b", 10);
    let root = filled(&host, "a", 1);
    let then = root.bookmark().wait().unwrap();
    for facet in [&root, &child] {
        insert(facet, 100).wait().unwrap();
    }
    let names =
        |names: Vec<lapidary::FacetName>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let past = host.fork_subtree("a", "y", ForkFrom::Bookmark(then)).wait().unwrap();
    assert_eq!(names(past), ["y", "y/b"]);
    filled(&host, "a/late", 7);
    let latest = host.fork_subtree("a", "x/now", ForkFrom::Latest).wait().unwrap();
    assert_eq!(names(latest), ["x/now", "x/now/b", "x/now/late"]);
    host.fork("a", "z", ForkFrom::Bookmark(then)).wait().unwrap();
    host.fork("a", "d", ForkFrom::Durable).wait().unwrap();
    for (name, rows) in [
        ("x/now", &[1, 100][..]),
        ("x/now/b", &[10, 100]),
        ("x/now/late", &[7]),
        ("y", &[1]),
        ("y/b", &[10]),
        ("z", &[1]),
        ("d", &[1, 100]),
    ] {
        let facet = host.facet(name).unwrap();
        assert_eq!(facet.read(all).unwrap(), rows, "{name}");
        insert(&facet, 5000).wait().unwrap();
        assert_eq!(facet.read(all).unwrap().len(), rows.len() + 1, "{name}");
    }
    assert_eq!(root.read(all).unwrap(), [1, 100]);
    assert_eq!(child.read(all).unwrap(), [10, 100]);
    assert_eq!(
        host.facet("z").unwrap().read_at(then, all).unwrap_err().kind(),
        HostErrorKind::NotFound
    );
}

#[test]
fn forks_that_cannot_be() {
    let host = host(2);
    let a = filled(&host, "a", 1);
    filled(&host, "b", 2);
    let kind =
        |from: &str, to: &str| host.fork(from, to, ForkFrom::Latest).wait().unwrap_err().kind();
    assert_eq!(kind("a", "b"), HostErrorKind::AlreadyExists);
    assert_eq!(kind("a", "a"), HostErrorKind::AlreadyExists);
    assert_eq!(kind("missing", "c"), HostErrorKind::NotFound);
    assert_eq!(kind("a", "a//b"), HostErrorKind::InvalidInput);
    assert_eq!(kind("a", ":memory:"), HostErrorKind::InvalidInput);
    let within = host.fork_subtree("a", "a/b", ForkFrom::Latest).wait().unwrap_err();
    assert_eq!(within.kind(), HostErrorKind::InvalidInput, "{within}");
    let b = host.facet("b").unwrap().bookmark().wait().unwrap();
    let foreign = host.fork("a", "c", ForkFrom::Bookmark(b)).wait().unwrap_err();
    assert_eq!(foreign.kind(), HostErrorKind::NotFound, "{foreign}");
    assert_eq!(host.list(None, None, 10).wait().unwrap().len(), 2);
    insert(&a, 3).wait().unwrap();
}

#[test]
fn a_fork_is_told_of_when_it_is_durable() {
    let memory = MemoryIo::new();
    let (environment, switch) = disk(&memory);
    let host = Host::open_in(environment, config(2)).unwrap();
    let source = filled(&host, "a", 1);
    let names: Vec<_> = (0..8).map(|n| format!("f{n}")).collect();
    let other = names.iter().find(|name| host.facet(name).unwrap().core() != source.core());
    let fork = host.facet(other.unwrap()).unwrap();
    let _release = switch.release_at_end();
    switch.hold();
    let write = insert(&source, 2);
    switch.await_sync();
    let mut forking = [host.fork("a", fork.name().as_str(), ForkFrom::Latest)];
    await_that("forked", || host.store().facet_exists(fork.name()));
    // It is there for the core that serves it, and can be written, while nothing of it is durable.
    let mut writes = [insert(&fork, 3)];
    let mut reads = [fork.run(all)];
    assert_held(&mut forking);
    assert_held(&mut writes);
    assert_held(&mut reads);
    switch.release();
    let ([forking], [written], [read]) = (forking, writes, reads);
    write.wait().unwrap();
    forking.wait().unwrap();
    written.wait().unwrap();
    assert_eq!(read.wait().unwrap(), [1, 2, 3]);
    assert_eq!(fork.read(all).unwrap(), [1, 2, 3]);
    assert_eq!(source.read(all).unwrap(), [1, 2]);
}

#[test]
fn a_used_up_quota_stops_growth_and_nothing_else() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(2));
    host.set_quota("t", Some(200_000)).wait().unwrap();
    let (a, b) = (filled(&host, "t/a", 1), filled(&host, "t/b", 1));
    let free = filled(&host, "free", 1);
    let grow = |facet: &FacetHandle, bytes: i64| {
        facet.transaction(move |tx| {
            tx.execute("INSERT INTO t VALUES (7)", ())?;
            Ok(tx.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes])?)
        })
    };
    grow(&a, 100_000).wait().unwrap();
    for facet in [&a, &b] {
        let error = grow(facet, 150_000).wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::NoSpace, "{error}");
        assert!(error.to_string().contains("t: its quota of 200000 bytes is used up"), "{error}");
    }
    let count = |facet: &FacetHandle| {
        facet.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0)).wait().unwrap()[0]
    };
    assert_eq!((count(&a), count(&b)), (3, 1), "nothing of it is there");
    grow(&free, 1_000_000).wait().unwrap();
    insert(&a, 2).wait().unwrap();
    insert(&b, 2).wait().unwrap();
    let quota = host.quota("t").wait().unwrap().unwrap();
    assert_eq!(quota.limit_bytes, 200_000);
    assert!((100_000..200_000).contains(&quota.used_bytes), "{quota:?}");
    assert_eq!(host.quota("free").wait().unwrap(), None);

    // A fork shares all its pages, and counts all the same.
    let error = host.fork("free", "t/c", ForkFrom::Latest).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NoSpace, "{error}");
    host.shutdown().unwrap();
    drop((host, a, b, free));
    let host = host_on(&memory, config(1));
    let a = host.facet("t/a").unwrap();
    assert_eq!(grow(&a, 150_000).wait().unwrap_err().kind(), HostErrorKind::NoSpace);
    host.set_quota("t", None).wait().unwrap();
    grow(&a, 150_000).wait().unwrap();
}
