//! Which facets stay open, what runs when they are opened and closed, and how much memory they take.
//! Nothing here uses SQLite before a host does, so that its memory is counted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{config, host_on};
use lapidary::rusqlite::{self, limits::Limit};
use lapidary::{FacetHandle, Host, HostError, HostErrorKind, Isolation, ProcessSetup};
use lapidary_engine::MemoryIo;

type Log = Arc<Mutex<Vec<String>>>;

fn logging(
    log: &Log,
) -> impl Fn(&lapidary::Transaction<'_>, &lapidary::FacetName) -> Result<(), HostError> + use<> {
    let log = Arc::clone(log);
    move |_, name| {
        log.lock().unwrap().push(name.to_string());
        Ok(())
    }
}

fn touch(host: &Host, name: &str) {
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE IF NOT EXISTS t(a)", ()).wait().unwrap();
}

#[test]
fn a_pinned_facet_is_not_closed_to_make_room() {
    let log = Log::default();
    let config = config(1).resident_facets_max(3).on_wake(logging(&log));
    let host = host_on(&MemoryIo::new(), config);
    host.pin("kept").unwrap();
    for name in ["kept", "a", "b", "c", "d", "e", "kept", "f", "g", "h", "kept"] {
        touch(&host, name);
    }
    let woken = |log: &Log| log.lock().unwrap().iter().filter(|name| *name == "kept").count();
    assert_eq!(woken(&log), 1);
    // More are pinned than there is room for.
    for n in 0..5 {
        host.pin(format!("pinned-{n}")).unwrap();
        touch(&host, &format!("pinned-{n}"));
    }
    touch(&host, "a");
    assert_eq!(host.stat().wait().unwrap().cores[0].resident_facets, 7);
    for n in 0..5 {
        host.unpin(format!("pinned-{n}")).unwrap();
    }
    for name in ["b", "c", "d", "e"] {
        touch(&host, name);
    }
    assert_eq!(host.stat().wait().unwrap().cores[0].resident_facets, 3);
    touch(&host, "kept");
    assert_eq!(woken(&log), 1);
    assert!(host.pin("").is_err());
}

#[test]
fn hooks_run_around_the_time_that_a_facet_is_open() {
    let memory = MemoryIo::new();
    let slept = Log::default();
    let config = || {
        let log = logging(&slept);
        config(1)
            .resident_facets_max(1)
            .on_wake(|tx, name| {
                tx.execute_batch("CREATE TEMP TABLE me(name)")?;
                tx.execute("INSERT INTO me VALUES (?1)", [name.as_str()])?;
                Ok(())
            })
            .on_hibernate(move |tx, name| {
                tx.execute("INSERT INTO t VALUES ('slept')", ())?;
                log(tx, name)
            })
    };
    let host = host_on(&memory, config());
    let rows = |facet: &FacetHandle| {
        facet.query("SELECT a FROM t", (), |row| row.get::<_, String>(0)).wait().unwrap()
    };
    let (a, b) = (host.facet("a").unwrap(), host.facet("b").unwrap());
    touch(&host, "a");
    a.execute("INSERT INTO t SELECT name FROM me", ()).wait().unwrap();
    touch(&host, "b");
    assert_eq!(rows(&a), ["a", "slept"]);
    assert_eq!(rows(&b), ["slept"]);
    assert_eq!(*slept.lock().unwrap(), ["a", "b", "a"]);
    host.shutdown().unwrap();
    drop((host, a, b));

    // At shutdown too, durably.
    let host = host_on(&memory, config());
    let b = host.facet("b").unwrap();
    assert_eq!(rows(&b), ["slept", "slept"]);
}

#[test]
fn a_hook_that_fails_is_told_of_and_harms_nothing() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let config = config(1)
        .resident_facets_max(1)
        .on_wake({
            let attempts = Arc::clone(&attempts);
            move |tx, _| match attempts.fetch_add(1, Ordering::SeqCst) + 1 {
                1 => Err(HostError::abort("not yet")),
                2 => tx.execute("no SQL", ()).map(drop).map_err(Into::into),
                3 => panic!("on purpose"),
                _ => Ok(()),
            }
        })
        .on_hibernate(|tx, name| {
            tx.execute("INSERT INTO t VALUES (1)", ())?;
            if name.as_str() == "a" { panic!("on purpose") } else { Err(HostError::abort("no")) }
        });
    let host = host_on(&MemoryIo::new(), config);
    let a = host.facet("a").unwrap();
    let create = || a.execute("CREATE TABLE t(a)", ()).wait();
    assert_eq!(create().unwrap_err().kind(), HostErrorKind::Aborted);
    assert_eq!(create().unwrap_err().kind(), HostErrorKind::Statement);
    assert_eq!(create().unwrap_err().kind(), HostErrorKind::Aborted);
    create().unwrap();
    touch(&host, "b");
    touch(&host, "c");
    for name in ["a", "b"] {
        let count = host
            .facet(name)
            .unwrap()
            .query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
        assert_eq!(count.wait().unwrap(), [0], "what a failed hook did was rolled back");
    }
}

#[test]
fn open_facets_stay_within_their_memory() {
    const MOST: u64 = 8 << 20;
    let config = config(1).resident_bytes_max(Some(MOST));
    let host = host_on(&MemoryIo::new(), config);
    assert_ne!(host.process_setup(), ProcessSetup::TooLate);
    let fill = "INSERT INTO t SELECT randomblob(1000) FROM
                (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 700) SELECT i FROM n)";
    let sum = |host: &Host, n: usize| {
        let facet = host.facet(format!("f{n}")).unwrap();
        facet.query("SELECT sum(length(a)) FROM t", (), |row| row.get::<_, i64>(0)).wait().unwrap()
    };
    for n in 0..40 {
        let name = format!("f{n}");
        touch(&host, &name);
        host.facet(&name).unwrap().execute(fill, ()).wait().unwrap();
        let core = &host.stat().wait().unwrap().cores[0];
        assert!(core.resident_bytes <= MOST, "{core:?}");
        assert!(n < 12 || core.resident_bytes > MOST / 2, "it is made use of: {core:?}");
    }
    let core = host.stat().wait().unwrap().cores[0].clone();
    assert_eq!((core.resident_facets, core.evicted_facets), (40, 0), "pages go first: {core:?}");
    assert!(core.shrunk_facets >= 28, "{core:?}");
    // They have lost their pages and nothing else, and get them again.
    for n in 0..40 {
        assert_eq!(sum(&host, n), [700_000]);
    }
    let again = host.stat().wait().unwrap().cores[0].clone();
    assert_eq!(again.opened_facets, core.opened_facets, "none had to be opened again");
    assert!(again.shrunk_facets > core.shrunk_facets && again.resident_bytes <= MOST, "{again:?}");

    // Where what is left of all is too much, some are closed.
    let host = host_on(&MemoryIo::new(), common::config(1).resident_bytes_max(Some(300_000)));
    for n in 0..40 {
        touch(&host, &format!("f{n}"));
        let core = &host.stat().wait().unwrap().cores[0];
        assert!(core.resident_bytes <= 300_000, "{core:?}");
    }
    let core = &host.stat().wait().unwrap().cores[0];
    assert!((2..40).contains(&core.resident_facets) && core.evicted_facets > 0, "{core:?}");
    // One that takes more than all may is served all the same.
    let host = host_on(&MemoryIo::new(), common::config(1).resident_bytes_max(Some(1_000)));
    for name in ["a", "b", "a"] {
        touch(&host, name);
    }
    assert_eq!(host.stat().wait().unwrap().cores[0].resident_facets, 1);
}

/// Grow until something stops them.
const GREEDY: &[&str] = &[
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT group_concat(i) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT json_group_array(i) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT json_group_object(i, i) FROM n",
    "WITH RECURSIVE n(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM n) SELECT max(length(s)) FROM n",
    "SELECT length(zeroblob(20000000) || 'x')",
    "SELECT length(hex(randomblob(20000000)))",
    "SELECT printf('%.*c', 20000000, 'x')",
    "SELECT replace(hex(randomblob(1000000)), '0', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')",
    "INSERT INTO t VALUES (randomblob(20000000))",
    "SELECT group_concat(x) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) FROM (SELECT randomblob(4000) AS x \
     FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n))",
];

#[test]
fn a_call_that_wants_too_much_memory_is_refused_it() {
    let host = host_on(&MemoryIo::new(), config(1));
    let (facet, neighbour) = (host.facet("a").unwrap(), host.facet("b").unwrap());
    for facet in [&facet, &neighbour] {
        facet.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (7)").wait().unwrap();
    }
    let policy = || {
        Isolation::untrusted()
            .limit(Limit::SQLITE_LIMIT_LENGTH, 1 << 30)
            .call_time_max(None)
            .call_steps_max(None)
            .call_memory_max(Some(8 << 20))
    };
    host.set_isolation("a", Some(policy())).unwrap();
    let is_refused = |error: HostError| {
        assert_eq!(error.kind(), HostErrorKind::BudgetExceeded, "{error}");
        assert!(error.to_string().contains("8388608 bytes of memory"), "{error}");
    };
    for sql in GREEDY {
        let run = |connection: &rusqlite::Connection| {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query(())?;
            while rows.next()?.is_some() {}
            Ok(())
        };
        is_refused(facet.run(run).wait().unwrap_err());
        if !sql.starts_with("INSERT") {
            is_refused(facet.read(run).unwrap_err());
        }
        for facet in [&facet, &neighbour] {
            let found = facet.query("SELECT a FROM t", (), |row| row.get::<_, i64>(0));
            assert_eq!(found.wait().unwrap(), [7], "{sql}");
        }
    }
    // A closure that hides it commits nothing, and what it can do is not to take more.
    let hidden = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (8)", ())?;
        assert!(tx.query_row(GREEDY[0], (), |_| Ok(())).is_err());
        tx.execute("INSERT INTO t VALUES (9)", ())?;
        tx.kv().put("key", vec![1; 100_000])?;
        Ok(())
    });
    is_refused(hidden.wait().unwrap_err());
    let found = facet.query("SELECT a FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(found.wait().unwrap(), [7]);
    // Large sorts and temporary tables go to the scratch file, and fit.
    let sorted = facet.query(
        "SELECT count(*) FROM (SELECT x FROM (SELECT randomblob(1000) AS x FROM
           (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 30000) SELECT i FROM n))
           ORDER BY x LIMIT -1 OFFSET 1)",
        (),
        |row| row.get::<_, i64>(0),
    );
    assert_eq!(sorted.wait().unwrap(), [29_999]);
    let left = host.stat().wait().unwrap().cores[0].resident_bytes;
    assert!(left < 10 << 20, "{left}");
}
