//! What meters count, and how it is told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::Cell;
use std::time::Duration;

use common::{PATIENCE, await_that, config, facet_on_switch, host, host_on};
use lapidary::{Host, HostErrorKind, KvList, MeterReading, rusqlite};
use lapidary_engine::MemoryIo;

const SOON: Duration = Duration::from_millis(2);
/// So long that only the end brings a batch.
const NEVER: Duration = Duration::from_secs(3600);

fn used(host: &Host, name: &str, body: impl FnOnce()) -> MeterReading {
    let before = host.meter(name).unwrap();
    body();
    host.meter(name).unwrap().since(&before)
}

#[test]
fn rows_are_counted_where_they_are_read_scanned_and_written() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    facet
        .execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, x); CREATE TABLE log(n)")
        .wait()
        .unwrap();
    let trigger = "CREATE TRIGGER note AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.n); END";
    facet.execute(trigger, ()).wait().unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10)
                  INSERT INTO t SELECT i, i % 5 FROM n RETURNING n";
    let inserted = used(&host, "a", || {
        facet.query(insert, (), |row| row.get::<_, i64>(0)).wait().unwrap();
    });
    // With those of the trigger.
    assert_eq!((inserted.rows_written, inserted.rows_read), (20, 10));
    assert_eq!((inserted.calls, inserted.commits), (1, 1));

    let scan = used(&host, "a", || {
        facet.query("SELECT n FROM t WHERE x = 3", (), |row| row.get::<_, i64>(0)).wait().unwrap();
    });
    assert_eq!((scan.rows_read, scan.commits, scan.rows_written), (2, 0, 0));
    // The step that finds the end may count or not.
    assert!((9..=10).contains(&scan.rows_scanned), "{scan:?}");

    // By a closure, in two statements amid their rows, on the core and as a reader.
    let both = |connection: &rusqlite::Connection| {
        let mut outer = connection.prepare("SELECT n FROM t WHERE n <= 3")?;
        let mut inner = connection.prepare("SELECT n FROM t WHERE n = ?1")?;
        let mut rows = outer.query(())?;
        while let Some(row) = rows.next()? {
            inner.query_row([row.get::<_, i64>(0)?], |_| Ok(()))?;
        }
        Ok(())
    };
    let on_core = used(&host, "a", || facet.run(both).wait().unwrap());
    assert_eq!((on_core.rows_read, on_core.rows_scanned), (6, 0));
    let as_reader = used(&host, "a", || facet.read(both).unwrap());
    assert_eq!((as_reader.rows_read, as_reader.calls), (6, 1));
    // A reader has the BEGIN and the ROLLBACK of its snapshot besides.
    assert!(on_core.vm_steps > 10 && as_reader.vm_steps > on_core.vm_steps, "{as_reader:?}");
    assert!(as_reader.vm_steps < on_core.vm_steps + 100, "{as_reader:?}");

    let rolled_back = used(&host, "a", || {
        let outcome = facet.transaction(|tx| {
            tx.execute("DELETE FROM t WHERE n = 1", ())?;
            Err::<(), _>(lapidary::HostError::abort("why not"))
        });
        outcome.wait().unwrap_err();
    });
    assert_eq!((rolled_back.rows_written, rolled_back.commits), (1, 0));
}

#[test]
fn steps_are_counted_to_the_last_one() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    let once = || drop(facet.query("SELECT 1", (), |_| Ok(())).wait().unwrap());
    once();
    let one = used(&host, "a", once).vm_steps;
    assert!((1..20).contains(&one), "{one}");
    let many = used(&host, "a", || (0..100).for_each(|_| once())).vm_steps;
    assert_eq!(many, 100 * one);
    let counts = |rows: u32| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                   SELECT count(*) FROM n";
        used(&host, "a", || drop(facet.query(sql, [rows], |_| Ok(())).wait().unwrap())).vm_steps
    };
    assert!(counts(10_000) > 9 * counts(1_000), "steps grow with the work");
}

#[test]
fn time_is_that_of_the_call() {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    let works = used(&host, "a", || {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                   SELECT count(*) FROM n";
        facet.query(sql, (), |_| Ok(())).wait().unwrap();
    });
    assert!(works.cpu > Duration::from_millis(1) && works.cpu <= works.busy, "{works:?}");
    // A closure that sleeps holds the core, and costs no more than its statement.
    let sleeps = used(&host, "a", || {
        let body = |connection: &rusqlite::Connection| {
            let sql =
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                       SELECT count(*) FROM n";
            connection.query_row(sql, (), |_| Ok(()))?;
            std::thread::sleep(Duration::from_millis(200));
            Ok(())
        };
        facet.run(body).wait().unwrap();
    });
    assert!(sleeps.busy >= Duration::from_millis(200), "{sleeps:?}");
    assert!(sleeps.busy - sleeps.cpu >= Duration::from_millis(150), "{sleeps:?}");
}

#[test]
fn bytes_are_those_of_pages_that_go_in_and_out() {
    let memory = MemoryIo::new();
    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let written = used(&host, "a", || {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
                   INSERT INTO t SELECT zeroblob(500) FROM n";
        facet.execute(sql, ()).wait().unwrap();
    });
    assert!((100_000..200_000).contains(&written.bytes_written), "{written:?}");
    host.shutdown().unwrap();

    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    let scan = || {
        let sql = "SELECT count(*) FROM t WHERE x <> ''";
        drop(facet.query(sql, (), |_| Ok(())).wait().unwrap());
    };
    let cold = used(&host, "a", scan);
    assert!((90_000..200_000).contains(&cold.bytes_read), "{cold:?}");
    let warm = used(&host, "a", scan);
    assert!(warm.bytes_read < 10_000, "{warm:?}");
    assert_eq!(warm.bytes_returned, 8);
}

#[test]
fn memory_is_the_most_that_a_connection_held() {
    let host = host(1);
    if host.process_setup() == lapidary::ProcessSetup::TooLate {
        panic!("another test of this file has used SQLite without a host");
    }
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let small = facet.usage().wait().unwrap().used.memory_peak_bytes;
    assert!((5_000..500_000).contains(&small), "{small}");
    facet.query("SELECT length(zeroblob(5000000) || 'x')", (), |_| Ok(())).wait().unwrap();
    let large = facet.usage().wait().unwrap().used.memory_peak_bytes;
    assert!((5_000_000..40_000_000).contains(&large), "{large}");
    // A neighbour's meter has none of it, on the same thread.
    host.facet("b").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let other = host.meter("b").unwrap().memory_peak_bytes;
    assert!((5_000..500_000).contains(&other), "{other}");
    // Nor the next period.
    host.reset_meter("a").unwrap();
    facet.query("SELECT 1", (), |_| Ok(())).wait().unwrap();
    let after = host.meter("a").unwrap().memory_peak_bytes;
    assert!((5_000..500_000).contains(&after), "{after}");
}

#[test]
fn values_by_key_are_metered_like_sql() {
    let host = host(1);
    let kv = host.facet("a").unwrap().kv();
    let put = used(&host, "a", || kv.put("k", "v").wait().unwrap());
    assert_eq!((put.calls, put.commits, put.rows_written), (1, 1, 1));
    let listed = used(&host, "a", || drop(kv.list(KvList::new()).wait().unwrap()));
    assert_eq!((listed.rows_read >= 1, listed.commits), (true, 0));
}

#[test]
fn a_meter_outlives_its_connections_and_a_reset_takes_each_count_once() {
    let host = host_on(&MemoryIo::new(), config(1).resident_facets_max(1));
    let facet = host.facet("a").unwrap();
    let other = host.facet("b").unwrap();
    for _ in 0..10 {
        facet.execute("CREATE TABLE IF NOT EXISTS t(x)", ()).wait().unwrap();
        other.execute("CREATE TABLE IF NOT EXISTS t(x)", ()).wait().unwrap();
    }
    assert_eq!(host.meter("a").unwrap().calls, 10);
    assert_eq!(host.reset_meter("a").unwrap().calls, 10);
    assert_eq!(host.meter("a").unwrap(), MeterReading::default());
    facet.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    assert_eq!(host.reset_meter("a").unwrap().rows_written, 1);

    // Not those of the facet that had the name before.
    host.delete("a").wait().unwrap();
    assert_eq!(facet.usage().wait().unwrap().stored_bytes, 0);
    assert!(host.list(Some("a"), None, 1).wait().unwrap().is_empty(), "asking creates nothing");
}

#[test]
fn usage_comes_when_it_is_durable() {
    let (_host, facet, switch) = facet_on_switch("a");
    let _release = switch.release_at_end();
    switch.hold();
    let insert = facet.execute("INSERT INTO t VALUES (zeroblob(10000))", ());
    let mut usage = facet.usage();
    switch.await_sync();
    assert!(usage.try_wait().is_none());
    switch.release();
    insert.wait().unwrap();
    assert_eq!(usage.wait().unwrap().stored_bytes, 4 * 4096);
}

#[test]
fn a_stream_has_each_count_once_and_ends_with_the_host() {
    let host = host(2);
    host.facet("early").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let stream = host.usage_stream(SOON, 2).unwrap();
    let facets: Vec<_> = (0..5).map(|n| host.facet(format!("tenant-{n}")).unwrap()).collect();
    for round in 0..40 {
        for facet in &facets {
            facet.execute("CREATE TABLE IF NOT EXISTS t(x)", ()).wait().unwrap();
            facet.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
        }
        if round % 10 == 0 {
            // The stream does not care.
            host.reset_meter("tenant-0").unwrap();
            // Batches that nobody takes run into the bound meanwhile.
            std::thread::sleep(4 * SOON);
        }
    }
    host.delete("tenant-1").wait().unwrap();
    host.shutdown().unwrap();
    let mut totals = std::collections::BTreeMap::<String, (u64, u64, u64)>::new();
    let mut batches = 0;
    for batch in stream {
        batches += 1;
        for delta in batch {
            let total = totals.entry(delta.facet.to_string()).or_default();
            total.0 += delta.used.calls;
            total.1 += delta.used.rows_written;
            total.2 = delta.stored_bytes;
        }
    }
    assert!((1..=3).contains(&batches), "{batches}");
    assert_eq!(totals.remove("early"), Some((1, 0, 8192)));
    assert_eq!(totals.len(), 5);
    for (name, (calls, rows, stored)) in totals {
        assert_eq!((calls, rows), (80, 40), "{name}");
        assert_eq!(stored, if name == "tenant-1" { 0 } else { 8192 }, "{name}");
    }
}

#[test]
fn a_stream_forgets_facets_that_are_gone() {
    let host = host(1);
    let stream = host.usage_stream(SOON, 4).unwrap();
    let facet = host.facet("job").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    host.delete("job").wait().unwrap();
    let calls = Cell::new(0);
    let take = || {
        let batch = stream.try_next().unwrap_or_default();
        calls.set(calls.get() + batch.iter().map(|delta| delta.used.calls).sum::<u64>());
    };
    await_that("the meter of a deleted facet goes", || {
        take();
        host.meters_since(0).0.is_empty()
    });
    take();
    assert_eq!(calls.get(), 1);
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let again = stream.next_within(PATIENCE).unwrap();
    assert_eq!(again.iter().map(|delta| delta.used.calls).sum::<u64>(), 1);
}

#[test]
fn a_stream_that_nobody_takes_ends_and_settings_are_checked() {
    let host = host(1);
    for (every, batches) in [(Duration::ZERO, 1), (NEVER, 0)] {
        let error = host.usage_stream(every, batches).unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::InvalidInput);
    }
    drop(host.usage_stream(NEVER, 1).unwrap());
    let stream = host.usage_stream(NEVER, 1).unwrap();
    host.facet("a").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    assert!(stream.try_next().is_none());
    host.shutdown().unwrap();
    assert_eq!(stream.count(), 1);
    assert_eq!(host.usage_stream(NEVER, 1).unwrap_err().kind(), HostErrorKind::Closed);
}
