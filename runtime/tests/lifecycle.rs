//! Schemas that run when a facet starts, aborts, and facets that delete themselves.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use common::{config, host, host_on};
use lapidary::{FacetHandle, HostError, HostErrorKind, Schema};
use lapidary_engine::MemoryIo;

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

fn numbers(facet: &FacetHandle) -> Vec<i64> {
    facet.query("SELECT n FROM t ORDER BY n", (), |row| row.get(0)).wait().unwrap()
}

/// Counts how often each of its two steps runs.
fn counting(first: &Arc<AtomicUsize>, second: &Arc<AtomicUsize>) -> Schema {
    let (first, second) = (Arc::clone(first), Arc::clone(second));
    Schema::new()
        .step(move |tx| {
            first.fetch_add(1, Ordering::SeqCst);
            Ok(tx.execute_batch("CREATE TABLE t(n)")?)
        })
        .step(move |tx| {
            second.fetch_add(1, Ordering::SeqCst);
            Ok(tx.execute_batch("INSERT INTO t VALUES (-1)")?)
        })
}

#[test]
fn each_step_runs_once_though_many_call_at_once_and_the_host_is_opened_again() {
    let memory = MemoryIo::new();
    let (first, second) = (Arc::default(), Arc::default());
    let schema = counting(&first, &second);
    let host = host_on(&memory, config(2));
    let facet = host.facet("a").unwrap().with_schema(&schema);
    let calls: Vec<_> =
        (0..100_i64).map(|n| facet.execute("INSERT INTO t VALUES (?1)", [n])).collect();
    for call in calls {
        call.wait().unwrap();
    }
    host.shutdown().unwrap();
    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap().with_schema(&schema);
    assert_eq!(numbers(&facet), (-1..100).collect::<Vec<_>>());
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 1));
    // A facet of the same name is another one after a deletion.
    host.delete("a").wait().unwrap();
    assert_eq!(numbers(&facet), [-1]);
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (2, 2));
}

#[test]
fn steps_that_were_added_run_on_facets_that_have_the_others() {
    let host = host(1);
    let old = Schema::new().sql("CREATE TABLE t(n)");
    let new = old.clone().sql("INSERT INTO t VALUES (2)");
    let facet = host.facet("a").unwrap();
    facet.with_schema(&old).execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    assert_eq!(numbers(&facet.with_schema(&new)), [1, 2]);

    let error = facet.with_schema(&old).execute("DELETE FROM t", ()).wait().unwrap_err();
    assert!(matches!(error, HostError::SchemaTooNew { found: 2, known: 1, .. }), "{error}");
    assert_eq!(error.kind(), HostErrorKind::InvalidInput);
    assert_eq!(numbers(&facet), [1, 2], "the call did not run");
}

#[test]
fn a_step_that_fails_fails_the_call_and_leaves_nothing() {
    let host = host(1);
    let good = Schema::new().sql("CREATE TABLE t(n)");
    let bad = good
        .clone()
        .sql("INSERT INTO t VALUES (1)")
        .sql("INSERT INTO t VALUES (2); INSERT INTO missing VALUES (3)");
    let facet = host.facet("a").unwrap();
    for _ in 0..2 {
        let call = facet.with_schema(&bad).execute("INSERT INTO t VALUES (4)", ());
        let error = call.wait().unwrap_err();
        assert!(matches!(error, HostError::Migration { version: 3, .. }), "{error}");
        assert_eq!(error.kind(), HostErrorKind::Statement);
        let words = error.to_string();
        assert!(words.contains("facet a") && words.contains("version 3"), "{words}");
        let names =
            facet.query("SELECT name FROM sqlite_schema", (), |row| row.get::<_, String>(0));
        assert!(names.wait().unwrap().is_empty());
    }
    let ending = good.clone().sql("INSERT INTO t VALUES (1); COMMIT");
    let error = facet.with_schema(&ending).execute("DELETE FROM t", ()).wait().unwrap_err();
    assert!(error.to_string().contains("ended it"), "{error}");
}

#[test]
fn an_abort_stops_what_runs_and_waits_in_the_subtree_and_nothing_else() {
    let host = host(1);
    let (parent, child) = (host.facet("a").unwrap(), host.facet("a/b").unwrap());
    let other = host.facet("c").unwrap();
    for facet in [&parent, &child, &other] {
        facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (0)").wait().unwrap();
    }
    let (tell, told) = channel();
    let running = child.transaction(move |tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        tell.send(()).unwrap();
        Ok(tx.query_row(ENDLESS, (), |row| row.get::<_, i64>(0))?)
    });
    let waiting = [
        parent.execute("INSERT INTO t VALUES (1)", ()),
        child.execute("INSERT INTO t VALUES (2)", ()),
    ];
    let neighbour = other.execute("INSERT INTO t VALUES (1)", ());
    told.recv_timeout(common::PATIENCE).unwrap();
    let aborted = host.abort("a", "not paid");
    let after = child.execute("INSERT INTO t VALUES (3)", ());

    let check = |error: HostError| {
        assert!(matches!(error, HostError::FacetAborted { .. }), "{error}");
        assert_eq!(error.kind(), HostErrorKind::Aborted);
        assert!(error.to_string().contains("not paid"), "{error}");
    };
    check(running.wait().unwrap_err());
    for call in waiting {
        check(call.wait().unwrap_err());
    }
    aborted.wait().unwrap();
    after.wait().unwrap();
    neighbour.wait().unwrap();
    assert_eq!(numbers(&parent), [0]);
    assert_eq!(numbers(&child), [0, 3], "what was committed stays");
    assert_eq!(numbers(&other), [0, 1]);
}

#[test]
fn a_closure_that_runs_on_after_an_abort_is_rolled_back() {
    let host = Arc::new(host(1));
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let opened = host.stat().wait().unwrap().cores[0].opened_facets;
    let inside = Arc::clone(&host);
    let call = facet.transaction(move |tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        // From within: the facet aborts itself.
        drop(inside.abort("a", "itself"));
        Ok(())
    });
    let error = call.wait().unwrap_err();
    assert!(matches!(error, HostError::FacetAborted { .. }), "{error}");
    assert!(numbers(&facet).is_empty());
    assert_eq!(host.stat().wait().unwrap().cores[0].opened_facets, opened + 1, "started anew");
}

#[test]
fn an_abort_creates_no_facet() {
    let host = host(1);
    let (go, wait) = channel::<()>();
    let held = host.facet("z").unwrap().run(move |_| Ok(wait.recv().is_ok()));
    let first = host.facet("a").unwrap().execute("CREATE TABLE t(n)", ());
    let aborted = host.abort("a", "why");
    go.send(()).unwrap();
    held.wait().unwrap();
    first.wait().unwrap_err();
    aborted.wait().unwrap();
    assert!(host.list(Some("a"), None, 10).wait().unwrap().is_empty());
}

#[test]
fn a_facet_deletes_itself_and_what_is_below_with_its_last_transaction() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(1));
    let (parent, child) = (host.facet("a").unwrap(), host.facet("a/b").unwrap());
    for facet in [&parent, &child] {
        facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (0)").wait().unwrap();
    }
    let kept = parent.transaction(|tx| {
        tx.delete_facet();
        Err::<(), _>(HostError::abort("no"))
    });
    kept.wait().unwrap_err();
    assert_eq!(numbers(&child), [0], "an error deletes nothing");
    let last = parent.transaction(|tx| {
        tx.delete_facet();
        Ok(tx.query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(last.wait().unwrap(), 1);
    drop((host, parent, child));
    let host = host_on(&memory, config(1));
    assert!(host.list(None, None, 10).wait().unwrap().is_empty());
}
