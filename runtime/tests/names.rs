//! Deleting, renaming and listing, also while calls are on their way.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::thread;

use common::{config, host, host_on};
use lapidary::{FacetHandle, Host, HostErrorKind};
use lapidary_engine::MemoryIo;

fn filled(host: &Host, name: &str, n: i64) -> FacetHandle {
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    facet.execute("INSERT INTO t VALUES (?1)", [n]).wait().unwrap();
    facet
}

fn content(facet: &FacetHandle) -> lapidary::Result<i64> {
    facet.read(|connection| Ok(connection.query_row("SELECT n FROM t", (), |row| row.get(0))?))
}

fn names(host: &Host, prefix: Option<&str>) -> Vec<String> {
    let facets = host.list(prefix, None, 1_000).wait().unwrap();
    facets.into_iter().map(|facet| facet.name.to_string()).collect()
}

#[test]
fn deletion_takes_the_subtree_and_its_readers() {
    let host = host(2);
    let root = filled(&host, "t/a", 1);
    let child = filled(&host, "t/a/child", 2);
    let sibling = filled(&host, "t/ab", 3);
    for facet in [&root, &child, &sibling] {
        content(facet).unwrap();
    }
    host.delete("t/a").wait().unwrap();
    assert_eq!(names(&host, None), ["t/ab"]);
    for facet in [&root, &child] {
        assert_eq!(content(facet).unwrap_err().kind(), HostErrorKind::NotFound);
    }
    assert_eq!(content(&sibling).unwrap(), 3);
    assert_eq!(host.delete("t/a").wait().unwrap_err().kind(), HostErrorKind::NotFound);
    // The name is free for a new facet, which has nothing of the old one.
    let tables = root.query("SELECT name FROM sqlite_schema", (), |_| Ok(())).wait().unwrap();
    assert!(tables.is_empty());
    assert_eq!(content(&filled(&host, "t/a", 4)).unwrap(), 4);
}

#[test]
fn renaming_takes_the_subtree_to_another_core() {
    let host = host(4);
    filled(&host, "from", 1);
    filled(&host, "from/child", 2);
    // One target on each core, so that all but one renaming changes the core.
    let mut from = "from".to_owned();
    for to in ["r0", "r1", "r2", "r3", "r4/deep", "r5"] {
        host.rename(&from, to).wait().unwrap();
        assert_eq!(names(&host, None), [to.to_owned(), format!("{to}/child")]);
        let moved = host.facet(to).unwrap();
        assert_eq!(content(&moved).unwrap(), 1);
        let child = host.facet(format!("{to}/child")).unwrap();
        child.execute("UPDATE t SET n = n + 1", ()).wait().unwrap();
        assert_eq!(
            content(&host.facet(&from).unwrap()).unwrap_err().kind(),
            HostErrorKind::NotFound
        );
        from = to.to_owned();
    }
    assert_eq!(content(&host.facet("r5/child").unwrap()).unwrap(), 8);
}

#[test]
fn renaming_refuses_what_cannot_be() {
    let host = host(2);
    filled(&host, "a", 1);
    filled(&host, "b", 2);
    let kind = |from: &str, to: &str| host.rename(from, to).wait().unwrap_err().kind();
    assert_eq!(kind("a", "b"), HostErrorKind::AlreadyExists);
    assert_eq!(kind("missing", "c"), HostErrorKind::NotFound);
    assert_eq!(kind("a", "a//b"), HostErrorKind::InvalidInput);
    assert_eq!(kind("a", ":memory:"), HostErrorKind::InvalidInput);
    for (name, n) in [("a", 1), ("b", 2)] {
        let facet = host.facet(name).unwrap();
        assert_eq!(content(&facet).unwrap(), n);
        facet.execute("UPDATE t SET n = n", ()).wait().unwrap();
    }
}

#[test]
fn lists_come_in_pages_and_by_prefix() {
    let host = host(2);
    for name in ["a", "b/1", "b/2", "b/2/x", "ba", "c"] {
        filled(&host, name, 0);
    }
    assert_eq!(names(&host, None), ["a", "b/1", "b/2", "b/2/x", "ba", "c"]);
    assert_eq!(names(&host, Some("b")), ["b/1", "b/2", "b/2/x"]);
    assert_eq!(names(&host, Some("nothing")), [""; 0]);
    let page = host.list(None, Some("b/1"), 2).wait().unwrap();
    let page: Vec<_> = page.iter().map(|facet| facet.name.as_str()).collect();
    assert_eq!(page, ["b/2", "b/2/x"]);
    assert_eq!(
        host.list(Some("/"), None, 1).wait().unwrap_err().kind(),
        HostErrorKind::InvalidInput
    );
}

#[test]
fn calls_sent_before_a_deletion_run_before_it() {
    let host = host(1);
    let facet = filled(&host, "a", 0);
    let calls: Vec<_> =
        (0..100_i64).map(|n| facet.execute("INSERT INTO t VALUES (?1)", [n])).collect();
    let deletion = host.delete("a");
    let after = facet.query("SELECT name FROM sqlite_schema", (), |_| Ok(()));
    for call in calls {
        assert_eq!(call.wait().unwrap(), 1);
    }
    deletion.wait().unwrap();
    assert!(after.wait().unwrap().is_empty());
}

/// Every acknowledged insert is found at the end, wherever the facet went meanwhile.
#[test]
fn renaming_back_and_forth_under_load_loses_nothing() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(3));
    let setup = host.facet("home/0").unwrap();
    setup.execute("CREATE TABLE t(n INTEGER PRIMARY KEY)", ()).wait().unwrap();
    let rounds = 60;
    let acknowledged = thread::scope(|scope| {
        let host = &host;
        let writer = scope.spawn(move || {
            let mut acknowledged = Vec::new();
            let mut n = 0_i64;
            for round in (0..=rounds).cycle() {
                let facet = host.facet(format!("home/{round}")).unwrap();
                // Not `execute`, which would create the facet where it is not and be in the way.
                if facet.read(|_| Ok(())).is_ok() {
                    let outcome = facet
                        .transaction(move |tx| {
                            if !tx.table_exists(None, "t")? {
                                return Err(lapidary::HostError::abort("moved on"));
                            }
                            Ok(tx.execute("INSERT INTO t VALUES (?1)", [n])?)
                        })
                        .wait();
                    if outcome.is_ok() {
                        acknowledged.push(n);
                    }
                    n += 1;
                    if round == rounds && acknowledged.len() > 100 {
                        return acknowledged;
                    }
                }
            }
            unreachable!("the cycle has no end");
        });
        for round in 0..rounds {
            // A call that came between has created an empty facet in the way.
            let (from, to) = (format!("home/{round}"), format!("home/{}", round + 1));
            while let Err(error) = host.rename(&from, &to).wait() {
                assert_eq!(error.kind(), HostErrorKind::AlreadyExists, "{error}");
                host.delete(&to).wait().unwrap();
            }
        }
        writer.join().unwrap()
    });
    host.shutdown().unwrap();
    drop((host, setup));
    let host = host_on(&memory, config(1));
    let last = host.facet(format!("home/{rounds}")).unwrap();
    let found: Vec<i64> =
        last.query("SELECT n FROM t ORDER BY n", (), |row| row.get(0)).wait().unwrap();
    assert_eq!(found, acknowledged);
}

#[test]
fn deletion_under_load_leaves_whole_facets() {
    let host = host(2);
    thread::scope(|scope| {
        let host = &host;
        for worker in 0..3 {
            scope.spawn(move || {
                let facet = host.facet("shared/one").unwrap();
                for _ in 0..150 {
                    let count = facet
                        .transaction(|tx| {
                            tx.execute_batch("CREATE TABLE IF NOT EXISTS t(n)")?;
                            tx.execute("INSERT INTO t VALUES (1), (2)", ())?;
                            Ok(tx.query_row("SELECT count(*) FROM t", (), |r| r.get::<_, i64>(0))?)
                        })
                        .wait()
                        .unwrap();
                    assert_eq!(count % 2, 0, "worker {worker}");
                    match content(&facet) {
                        Ok(n) => assert_eq!(n, 1),
                        Err(error) => assert!(
                            matches!(
                                error.kind(),
                                HostErrorKind::NotFound
                                    | HostErrorKind::Statement
                                    | HostErrorKind::Io
                            ),
                            "{error}"
                        ),
                    }
                }
            });
        }
        scope.spawn(move || {
            for _ in 0..100 {
                if let Err(error) = host.delete("shared").wait() {
                    assert_eq!(error.kind(), HostErrorKind::NotFound, "{error}");
                }
            }
        });
    });
}
