//! Opening, shutting down, reopening, and what stays open in between.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{await_that, config, host, host_on};
use lapidary::{Environment, Host, HostConfig, HostError, HostErrorKind, ProcessSetup, Store};
use lapidary::{StoreOptions, rusqlite};
use lapidary_engine::MemoryIo;

#[test]
fn shutdown_runs_what_was_sent_and_refuses_what_comes_later() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(2));
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let calls: Vec<_> =
        (0..1_000_i64).map(|n| facet.execute("INSERT INTO t VALUES (?1)", [n])).collect();
    host.shutdown().unwrap();
    for call in calls {
        assert_eq!(call.wait().unwrap(), 1);
    }
    let error = facet.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Closed);
    assert!(error.to_string().contains("facet a"), "{error}");
    assert_eq!(facet.read(|_| Ok(())).unwrap_err().kind(), HostErrorKind::Closed);
    assert_eq!(host.stat().wait().unwrap_err().kind(), HostErrorKind::Closed);
    host.shutdown().unwrap();
    drop((host, facet));

    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    let count = facet.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(count.wait().unwrap(), [1_000]);
}

#[test]
fn dropping_the_host_shuts_it_down() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    let call = facet.execute("CREATE TABLE t(n)", ());
    drop(host);
    call.wait().unwrap();
    assert_eq!(facet.execute("SELECT 1", ()).wait().unwrap_err().kind(), HostErrorKind::Closed);
    drop(facet);
    let host = host_on(&memory, config(1));
    host.facet("a").unwrap().execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
}

#[test]
fn the_last_owner_may_be_a_closure_on_a_core() {
    let memory = MemoryIo::new();
    let host = Arc::new(host_on(&memory, config(1)));
    let facet = host.facet("a").unwrap();
    let (go, wait) = channel::<()>();
    let owner = Arc::clone(&host);
    let call = facet.run(move |connection| {
        wait.recv().unwrap();
        assert!(matches!(owner.shutdown(), Err(HostError::WaitOnCore { .. })));
        drop(owner);
        Ok(connection.execute("CREATE TABLE t(n)", ())?)
    });
    drop(host);
    go.send(()).unwrap();
    call.wait().unwrap();
    let store_is_free = || {
        let environment = Environment::with_io(Arc::new(memory.clone()));
        Host::open_in(environment, config(1)).is_ok()
    };
    drop(facet);
    await_that("the store is closed and can be opened again", store_is_free);
}

#[test]
fn shutdown_gives_up_on_a_closure_that_does_not_return() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(2).shutdown_timeout(Duration::from_secs(1)));
    let facet = host.facet("a").unwrap();
    let (go, wait) = channel::<()>();
    let (began, has_begun) = channel();
    let stuck = facet.run(move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    });
    has_begun.recv().unwrap();
    let error = host.shutdown().unwrap_err();
    let HostError::ShutdownTimeout { cores, .. } = &error else { panic!("{error}") };
    assert_eq!(*cores, [facet.core()]);
    go.send(()).unwrap();
    stuck.wait().unwrap();
}

#[test]
fn a_store_on_disk_is_found_again_and_locked_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let error = Host::open(&path, config(1).store(StoreOptions::default())).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NotFound, "{error}");
    for round in 0..3_i64 {
        let host = Host::open(&path, config(2)).unwrap();
        let error = Host::open(&path, config(1)).unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Retry, "{error}");
        assert!(error.to_string().contains("store"), "{error}");
        for n in 0..20 {
            let facet = host.facet(format!("tenant-{n}")).unwrap();
            facet.execute("CREATE TABLE IF NOT EXISTS t(round)", ()).wait().unwrap();
            facet.execute("INSERT INTO t VALUES (?1)", [round]).wait().unwrap();
            let found = facet.query("SELECT round FROM t", (), |row| row.get::<_, i64>(0)).wait();
            assert_eq!(found.unwrap(), (0..=round).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("letter.txt"), "dear reader").unwrap();
    let error = Host::open(directory.path(), config(1)).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("not a store"), "{error}");
}

#[test]
fn a_host_can_take_over_an_open_store() {
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let store = Store::open(environment, StoreOptions::create()).unwrap();
    let host = Host::with_store(Arc::clone(&store), config(2)).unwrap();
    host.facet("a").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
    assert!(store.facet_exists(&lapidary::FacetName::new("a").unwrap()));
    host.shutdown().unwrap();
    let error = store.open_facet(&lapidary::FacetName::new("a").unwrap()).unwrap_err();
    assert!(matches!(error, lapidary_engine::Error::Closed), "the host has closed it: {error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    for (config, setting) in [
        (HostConfig::new().mailbox_calls_max(0), "mailbox_calls_max"),
        (HostConfig::new().facet_calls_max(0), "facet_calls_max"),
        (HostConfig::new().resident_facets_max(0), "resident_facets_max"),
        (HostConfig::new().page_cache_kib_max(u32::MAX), "page_cache_kib_max"),
    ] {
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let error = Host::open_in(environment, config).unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::InvalidInput);
        assert!(error.to_string().contains(setting), "{error}");
    }
}

#[test]
fn a_name_of_a_vfs_is_taken_once() {
    let first = host_on(&MemoryIo::new(), config(1).vfs_name("lapidary-taken"));
    assert_eq!(first.vfs_name(), "lapidary-taken");
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let error = Host::open_in(environment, config(1).vfs_name("lapidary-taken")).unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("lapidary-taken"), "{error}");
}

#[test]
fn process_settings_are_in_force_and_reported() {
    let host = host(1);
    assert_ne!(host.process_setup(), ProcessSetup::TooLate, "no test uses SQLite before a host");
    assert_eq!(host.stat().wait().unwrap().process_setup, host.process_setup());
}

#[test]
fn threads_are_pinned_if_asked() {
    let host = host_on(&MemoryIo::new(), config(1).pin_cores(true));
    let affinity = host.facet("a").unwrap().run(|_| Ok(core_affinity::get_core_ids()));
    let pinned_to = host.stat().wait().unwrap().cores[0].pinned_to;
    let allowed = affinity.wait().unwrap().unwrap_or_default();
    match pinned_to {
        Some(processor) => {
            assert_eq!(allowed.iter().map(|core| core.id).collect::<Vec<_>>(), [processor]);
        }
        // A container may forbid it, which is reported and not fatal.
        None => assert_ne!(allowed.len(), 1),
    }
    assert_eq!(common::host(1).stat().wait().unwrap().cores[0].pinned_to, None);
}

#[test]
fn least_recently_used_facets_are_closed_and_opened_again() {
    let host = host_on(&MemoryIo::new(), config(1).resident_facets_max(3));
    let facets: Vec<_> = (0..10).map(|n| host.facet(format!("f{n}")).unwrap()).collect();
    for facet in &facets {
        facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    }
    for round in 1..=5_i64 {
        for facet in &facets {
            facet.execute("INSERT INTO t VALUES (?1)", [round]).wait().unwrap();
            let count = facet.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
            assert_eq!(count.wait().unwrap(), [round]);
        }
    }
    let core = &host.stat().wait().unwrap().cores[0];
    assert_eq!(core.resident_facets, 3);
    assert_eq!(core.opened_facets, 60);
    assert_eq!(core.evicted_facets, 57);
    // The one used last is still open, the one used first is not.
    facets[9].query("SELECT 1", (), |_| Ok(())).wait().unwrap();
    assert_eq!(host.stat().wait().unwrap().cores[0].opened_facets, 60);
    facets[0].query("SELECT 1", (), |_| Ok(())).wait().unwrap();
    assert_eq!(host.stat().wait().unwrap().cores[0].opened_facets, 61);
}

#[test]
fn idle_readers_are_bounded() {
    let host = host_on(&MemoryIo::new(), config(1).idle_readers_max(32));
    for n in 0..200 {
        let facet = host.facet(format!("f{n}")).unwrap();
        facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
        facet.read(|_| Ok(())).unwrap();
    }
    let idle = |host: &Host| host.stat().wait().unwrap().idle_readers;
    assert_eq!(idle(&host), 32);
    for _ in 0..40 {
        host.facet("f7").unwrap().read(|_| Ok(())).unwrap();
    }
    assert_eq!(idle(&host), 32);
    // The one read last stays, whatever the others were.
    let one = host_on(&MemoryIo::new(), config(1).idle_readers_max(1));
    for n in 0..40 {
        let facet = one.facet(format!("f{n}")).unwrap();
        facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
        facet.read(|connection| Ok(connection.execute_batch("PRAGMA cache_size=77")?)).unwrap();
        let kept = facet.read(|connection| {
            Ok(connection.query_row("PRAGMA cache_size", (), |row| row.get::<_, i64>(0))?)
        });
        assert_eq!(kept.unwrap(), 77, "the same connection");
        assert_eq!(idle(&one), 1);
    }
    let none = host_on(&MemoryIo::new(), config(1).idle_readers_max(0));
    let facet = none.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    facet.read(|_| Ok(())).unwrap();
    assert_eq!(idle(&none), 0);
}

#[test]
fn ten_thousand_facets_with_few_resident() {
    const FACETS: usize = 10_000;
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(2).resident_facets_max(500));
    let facets: Vec<_> = (0..FACETS).map(|n| host.facet(format!("agent-{n}")).unwrap()).collect();
    let mut calls = std::collections::VecDeque::new();
    for (number, facet) in (0_i64..).zip(&facets) {
        calls.push_back(facet.transaction(move |tx| {
            tx.execute_batch("CREATE TABLE t(n)")?;
            Ok(tx.execute("INSERT INTO t VALUES (?1)", [number])?)
        }));
        if calls.len() > 1_000 {
            assert_eq!(calls.pop_front().unwrap().wait().unwrap(), 1);
        }
    }
    for call in calls {
        assert_eq!(call.wait().unwrap(), 1);
    }
    let stat = host.stat().wait().unwrap();
    assert_eq!(stat.store.facets, FACETS as u64);
    assert!(stat.cores.iter().all(|core| core.resident_facets == 500), "{:?}", stat.cores);
    host.shutdown().unwrap();
    drop((host, facets));

    let host = host_on(&memory, config(2));
    let found: Vec<_> = (0..FACETS)
        .map(|n| {
            let facet = host.facet(format!("agent-{n}")).unwrap();
            facet.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0))
        })
        .collect();
    for (number, call) in (0..).zip(found) {
        assert_eq!(call.wait().unwrap(), [number]);
    }
}

#[test]
fn plain_connections_work_beside_the_host() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    facet.execute("INSERT INTO t VALUES (42)", ()).wait().unwrap();
    let uri = format!("file:a?vfs={}", host.vfs_name());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let plain = rusqlite::Connection::open_with_flags(uri, flags).unwrap();
    let n: i64 = plain.query_row("SELECT n FROM t", (), |row| row.get(0)).unwrap();
    assert_eq!(n, 42);
}

#[test]
fn after_a_shutdown_that_gave_up_every_core_ends_once_it_can() {
    let memory = MemoryIo::new();
    let settings = config(2).mailbox_calls_max(1).shutdown_timeout(Duration::from_secs(1));
    let host = host_on(&memory, settings);
    let facets: Vec<_> = (0..20).map(|n| host.facet(format!("f{n}")).unwrap()).collect();
    let facet = facets.iter().find(|facet| facet.core() == 0).unwrap();
    let (go, wait) = channel::<()>();
    let (began, has_begun) = channel();
    let stuck = facet.run(move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    });
    has_begun.recv().unwrap();
    // Fills the mailbox.
    let waiting = facet.execute("CREATE TABLE t(n)", ());
    let error = host.shutdown().unwrap_err();
    let HostError::ShutdownTimeout { cores, .. } = &error else { panic!("{error}") };
    assert_eq!(*cores, [0], "the other has ended");
    go.send(()).unwrap();
    stuck.wait().unwrap();
    waiting.wait().unwrap();
    let store = Arc::downgrade(host.store());
    drop((facets, host));
    await_that("nothing holds the store", || store.upgrade().is_none());
}
