//! Alarms run at their time, at least once, with effects that are made once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::clock::{ManualClock, START_MS};
use common::{PATIENCE, await_that, config};
use lapidary::{
    AlarmHandler, AlarmState, FacetHandle, ForkFrom, Host, HostConfig, HostError, HostErrorKind,
    Retention, Schema,
};
use lapidary_engine::MemoryIo;

/// A store in memory, with a clock of its own.
struct Fixture {
    memory: MemoryIo,
    clock: ManualClock,
}

impl Fixture {
    fn new() -> Self {
        Self { memory: MemoryIo::new(), clock: ManualClock::new() }
    }

    fn host(&self, config: HostConfig) -> Host {
        Host::open_in(self.clock.environment(&self.memory), config).unwrap()
    }

    /// A host whose handler writes down what it runs, in the facet and into a channel.
    fn recording(&self, cores: usize) -> (Host, Receiver<(String, String)>) {
        let (handler, ran) = recorder();
        (self.host(config(cores).on_alarm(handler)), ran)
    }

    /// Sets the clock to so long after its beginning.
    fn advance_to(&self, host: &Host, after_ms: u64) {
        self.clock.set(START_MS + after_ms);
        host.check_alarms();
    }
}

const RAN: &str = "CREATE TABLE IF NOT EXISTS ran(name, payload)";

fn recorder() -> (AlarmHandler, Receiver<(String, String)>) {
    let (tell, ran) = channel();
    let handler = AlarmHandler::new(move |tx, facet, alarm| {
        tx.execute(RAN, ())?;
        tx.execute("INSERT INTO ran VALUES (?1, ?2)", (&alarm.name, &alarm.payload))?;
        tell.send((facet.to_string(), alarm.name.clone())).map_err(HostError::abort)
    });
    (handler, ran)
}

fn next(ran: &Receiver<(String, String)>) -> (String, String) {
    ran.recv_timeout(PATIENCE).expect("an alarm runs")
}

fn at(after_ms: u64) -> u64 {
    START_MS + after_ms
}

fn ran_in(facet: &FacetHandle) -> Vec<String> {
    facet.execute(RAN, ()).wait().unwrap();
    facet.query("SELECT name FROM ran ORDER BY rowid", (), |row| row.get(0)).wait().unwrap()
}

fn names(facet: &FacetHandle) -> Vec<String> {
    let all = facet.alarms().list(None, 1_000).wait().unwrap();
    all.into_iter().map(|alarm| alarm.name).collect()
}

fn pair(facet: &str, alarm: &str) -> (String, String) {
    (facet.to_owned(), alarm.to_owned())
}

#[test]
fn an_alarm_runs_when_the_clock_shows_its_time_and_not_before() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let facet = host.facet("a").unwrap();
    facet.alarms().set("second", at(2_000), "2").wait().unwrap();
    facet.alarms().set("first", at(1_000), "1").wait().unwrap();
    facet.alarms().set_after("third", Duration::from_secs(3), "3").wait().unwrap();
    let third = facet.alarms().get("third").wait().unwrap().unwrap();
    assert_eq!((third.due_ms, third.payload.as_slice()), (at(3_000), &b"3"[..]));
    assert_eq!(third.state, AlarmState::Waiting { wake_ms: at(3_000) });
    fixture.advance_to(&host, 999);
    assert!(ran.recv_timeout(Duration::from_millis(20)).is_err());
    fixture.advance_to(&host, 1_000);
    assert_eq!(next(&ran), pair("a", "first"));
    // Both are due: one after the other, the earlier first.
    fixture.advance_to(&host, 3_000);
    assert_eq!(next(&ran), pair("a", "second"));
    assert_eq!(next(&ran), pair("a", "third"));
    assert_eq!(ran_in(&facet), ["first", "second", "third"]);
    assert!(names(&facet).is_empty());
    await_that("all are counted", || host.stat().wait().unwrap().alarms.run == 3);
}

#[test]
fn alarms_are_set_replaced_listed_and_deleted() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let facet = host.facet("a").unwrap();
    let alarms = facet.alarms();
    assert!(alarms.list(None, 10).wait().unwrap().is_empty());
    assert!(!alarms.delete("x").wait().unwrap());
    assert_eq!(alarms.get("x").wait().unwrap(), None);
    for name in ["x", "y", "z"] {
        alarms.set(name, at(1_000), "").wait().unwrap();
    }
    alarms.set("y", at(500_000), "later").wait().unwrap();
    assert!(alarms.delete("x").wait().unwrap());
    let listed = alarms.list(Some("x"), 1).wait().unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].due_ms), (1, "y", at(500_000)));
    fixture.advance_to(&host, 1_000);
    assert_eq!(next(&ran), pair("a", "z"));
    assert_eq!(names(&facet), ["y"]);
    fixture.advance_to(&host, 500_000);
    assert_eq!(next(&ran), pair("a", "y"));

    for error in [
        alarms.set("", 0, "").wait().unwrap_err(),
        alarms.set("n".repeat(513), 0, "").wait().unwrap_err(),
        alarms.set("n", 0, vec![0; (128 << 10) + 1]).wait().unwrap_err(),
    ] {
        assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("facet a"), "{error}");
    }
}

#[test]
fn an_alarm_is_part_of_its_transaction() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let facet = host.facet("a").unwrap();
    let refused = facet.transaction(|tx| {
        tx.alarms().set("rolled back", at(10), "")?;
        Err::<(), _>(HostError::abort("no"))
    });
    refused.wait().unwrap_err();
    let kept = facet.transaction(|tx| {
        let inner = tx.savepoint(|tx| {
            tx.alarms().set("of the savepoint", at(10), "")?;
            Err::<(), _>(HostError::abort("no"))
        });
        assert!(inner.is_err());
        tx.alarms().set("kept", at(20), "")
    });
    kept.wait().unwrap();
    assert_eq!(names(&facet), ["kept"]);
    fixture.advance_to(&host, 20);
    assert_eq!(next(&ran), pair("a", "kept"));
    assert_eq!(ran_in(&facet), ["kept"]);
}

#[test]
fn the_steps_of_a_schema_set_alarms_and_handlers_find_the_schema() {
    let fixture = Fixture::new();
    let schema = Schema::new()
        .sql("CREATE TABLE mine(n)")
        .step(|tx| tx.alarms().set("by the step", at(10), ""));
    let (tell, ran) = channel();
    let newer = schema.clone().sql("ALTER TABLE mine ADD COLUMN m");
    let handler = AlarmHandler::new(move |tx, _, _| {
        tx.execute("INSERT INTO mine(n, m) VALUES (1, 2)", ())?;
        tell.send(()).map_err(HostError::abort)
    });
    let handler = handler.schema(move |name| (name.as_str() == "a").then(|| newer.clone()));
    let host = fixture.host(config(1).on_alarm(handler));
    let facet = host.facet("a").unwrap().with_schema(&schema);
    facet.execute("INSERT INTO mine VALUES (0)", ()).wait().unwrap();
    fixture.advance_to(&host, 10);
    ran.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_handler_may_set_its_alarm_again() {
    let fixture = Fixture::new();
    let (tell, ran) = channel();
    let handler = AlarmHandler::new(move |tx, _, alarm| {
        tx.alarms().set(&alarm.name, alarm.due_ms + 60_000, &alarm.payload)?;
        tell.send(alarm.due_ms).map_err(HostError::abort)
    });
    let host = fixture.host(config(1).on_alarm(handler));
    host.facet("a").unwrap().alarms().set("hourly", at(60_000), "x").wait().unwrap();
    for turn in 1..=5 {
        fixture.advance_to(&host, turn * 60_000);
        assert_eq!(ran.recv_timeout(PATIENCE).unwrap(), at(turn * 60_000));
    }
}

#[test]
fn a_handler_may_delete_its_facet() {
    let fixture = Fixture::new();
    let handler = AlarmHandler::new(|tx, _, _| {
        tx.delete_facet();
        Ok(())
    });
    let host = fixture.host(config(1).on_alarm(handler));
    host.facet("session/1").unwrap().alarms().set("expire", at(10), "").wait().unwrap();
    fixture.advance_to(&host, 10);
    await_that("it is gone", || host.list(None, None, 1).wait().unwrap().is_empty());
    fixture.advance_to(&host, 20);
    host.sync().wait().unwrap();
    assert!(host.list(None, None, 1).wait().unwrap().is_empty());
}

#[test]
fn a_failed_alarm_is_tried_again_and_in_the_end_kept() {
    let fixture = Fixture::new();
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    let handler = AlarmHandler::new(move |tx, _, alarm| {
        let attempt = count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(alarm.attempts as usize, attempt);
        tx.execute(RAN, ())?;
        tx.execute("INSERT INTO ran VALUES ('half done', '')", ())?;
        match attempt {
            0 => Err(HostError::abort("the first time")),
            1 => panic!("the second time"),
            _ => tx.execute("no SQL", ()).map(drop).map_err(Into::into),
        }
    });
    let handler = handler
        .attempts_max(3)
        .retry_after(Duration::from_secs(10))
        .retry_after_max(Duration::from_secs(15));
    let host = fixture.host(config(1).on_alarm(handler));
    let facet = host.facet("a").unwrap();
    facet.alarms().set("x", at(0), "kept").wait().unwrap();
    let state = || facet.alarms().get("x").wait().unwrap().unwrap();
    let attempted = |attempts| {
        await_that("another attempt is noted", || state().attempts == attempts);
        state()
    };

    let first = attempted(1);
    assert!(first.error.as_ref().unwrap().contains("the first time"), "{first:?}");
    let AlarmState::Waiting { wake_ms } = first.state else { panic!("{first:?}") };
    assert!((at(5_000)..=at(10_000)).contains(&wake_ms), "{wake_ms}");
    assert_eq!(first.due_ms, at(0));

    fixture.advance_to(&host, 10_000);
    let second = attempted(2);
    assert!(second.error.as_ref().unwrap().contains("the second time"), "{second:?}");
    let AlarmState::Waiting { wake_ms } = second.state else { panic!("{second:?}") };
    assert!((at(17_500)..=at(25_000)).contains(&wake_ms), "{wake_ms}");

    fixture.advance_to(&host, 25_000);
    let third = attempted(3);
    assert_eq!((third.state, third.payload.as_slice()), (AlarmState::Failed, &b"kept"[..]));
    let stat = host.stat().wait().unwrap().alarms;
    assert_eq!((stat.run, stat.failures, stat.given_up), (0, 3, 1));
    assert!(ran_in(&facet).is_empty(), "what a failed handler did was rolled back");

    // It rests, until it is set again.
    fixture.advance_to(&host, 1_000_000);
    host.sync().wait().unwrap();
    assert_eq!(tried.load(Ordering::SeqCst), 3);
    facet.alarms().set("x", at(0), "again").wait().unwrap();
    await_that("it is tried anew", || tried.load(Ordering::SeqCst) > 3);
}

#[test]
fn alarms_outlive_the_host_and_wake_cold_facets_alone() {
    let fixture = Fixture::new();
    {
        let host = fixture.host(config(2));
        for n in 0..200 {
            let facet = host.facet(format!("tenant-{n}")).unwrap();
            facet
                .alarms()
                .set("wake", at(if n < 10 { 1_000 } else { 9_000_000 }), "")
                .wait()
                .unwrap();
        }
        fixture.advance_to(&host, 1_000);
        host.shutdown().unwrap();
    }
    let (host, ran) = fixture.recording(2);
    let mut woken: Vec<_> = (0..10).map(|_| next(&ran).0).collect();
    woken.sort();
    let expected: Vec<_> = (0..10).map(|n| format!("tenant-{n}")).collect();
    assert_eq!(woken, expected);
    await_that("all are counted", || host.stat().wait().unwrap().alarms.run == 10);
    let opened: u64 = host.stat().wait().unwrap().cores.iter().map(|core| core.opened_facets).sum();
    assert_eq!(opened, 10, "the others stay cold");
}

#[test]
fn alarms_are_found_by_another_number_of_cores() {
    let fixture = Fixture::new();
    let mut expected = Vec::new();
    for cores in [4, 1, 3] {
        let host = fixture.host(config(cores));
        for n in 0..20 {
            let name = format!("of-{cores}-{n}");
            host.facet(&name).unwrap().alarms().set("x", at(10), "").wait().unwrap();
            expected.push(name);
        }
        host.shutdown().unwrap();
    }
    let (host, ran) = fixture.recording(2);
    fixture.advance_to(&host, 10);
    let mut woken: Vec<_> = expected.iter().map(|_| next(&ran).0).collect();
    woken.sort();
    expected.sort();
    assert_eq!(woken, expected);
}

#[test]
fn renaming_carries_alarms_and_deletion_drops_them() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(3);
    for name in ["old/x", "old/y", "gone/x", "gone"] {
        host.facet(name).unwrap().alarms().set("alarm", at(1_000), "").wait().unwrap();
    }
    host.rename("old", "new").wait().unwrap();
    host.delete("gone").wait().unwrap();
    // One that has the name now has no part in it.
    host.facet("gone").unwrap().execute("CREATE TABLE t(a)", ()).wait().unwrap();
    fixture.advance_to(&host, 1_000);
    let mut woken = [next(&ran).0, next(&ran).0];
    woken.sort();
    assert_eq!(woken, ["new/x", "new/y"]);
    await_that("both are counted", || host.stat().wait().unwrap().alarms.run == 2);
    let facets = host.list(None, None, 10).wait().unwrap();
    let found: Vec<_> = facets.iter().map(|facet| facet.name.as_str()).collect();
    assert_eq!(
        found,
        ["gone", "new/x", "new/y"],
        "nothing came back, and nothing of the host's shows"
    );
}

#[test]
fn a_fork_has_alarms_that_rest_until_they_are_adopted() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let facet = host.facet("a").unwrap();
    facet.alarms().set("x", at(1_000), "").wait().unwrap();
    host.fork("a", "fork", ForkFrom::Latest).wait().unwrap();
    let fork = host.facet("fork").unwrap();
    fork.alarms().set("of the fork", at(2_000), "").wait().unwrap();
    let inherited = fork.alarms().get("x").wait().unwrap().unwrap();
    assert_eq!(inherited.state, AlarmState::Inherited);
    fixture.advance_to(&host, 2_000);
    let mut woken = [next(&ran), next(&ran)];
    woken.sort();
    assert_eq!(woken, [pair("a", "x"), pair("fork", "of the fork")]);
    assert_eq!(names(&fork), ["x"]);

    assert_eq!(fork.alarms().adopt().wait().unwrap(), 1);
    assert_eq!(next(&ran), pair("fork", "x"));
    assert_eq!(fork.alarms().adopt().wait().unwrap(), 0);
}

#[test]
fn a_file_brings_alarms_that_rest() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sqlite");
    let facet = host.facet("a").unwrap();
    facet.alarms().set("x", at(1_000), "").wait().unwrap();
    facet.export(&path, lapidary::ExportOptions::new()).unwrap();
    host.delete("a").wait().unwrap();
    facet.import(&path, lapidary::ImportOptions::new()).unwrap();
    fixture.advance_to(&host, 1_000);
    assert_eq!(facet.alarms().get("x").wait().unwrap().unwrap().state, AlarmState::Inherited);
    facet.alarms().adopt().wait().unwrap();
    assert_eq!(next(&ran), pair("a", "x"));
}

#[test]
fn a_restore_brings_back_the_alarms_of_its_version() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let retention = Retention { bytes: 1 << 30, age: Duration::from_secs(1 << 20) };
    host.set_retention("a", Some(retention)).wait().unwrap();
    let facet = host.facet("a").unwrap();
    facet.alarms().set("before", at(1_000), "").wait().unwrap();
    let bookmark = facet.bookmark().wait().unwrap();
    fixture.advance_to(&host, 1_000);
    assert_eq!(next(&ran), pair("a", "before"));
    facet.alarms().set("after", at(500_000), "").wait().unwrap();
    facet.restore(bookmark).wait().unwrap();
    assert_eq!(next(&ran), pair("a", "before"), "what says that it ran is gone");
    assert_eq!(ran_in(&facet), ["before"]);
    assert!(names(&facet).is_empty(), "what was set since is gone");
}

#[test]
fn a_clock_that_is_set_forward_or_back_is_followed() {
    let fixture = Fixture::new();
    let (host, ran) = fixture.recording(1);
    let facet = host.facet("a").unwrap();
    facet.alarms().set("x", at(86_400_000), "").wait().unwrap();
    // The alarm thread notices by itself.
    fixture.clock.set(at(86_400_000));
    assert_eq!(next(&ran), pair("a", "x"));
    facet.alarms().set("y", at(86_500_000), "").wait().unwrap();
    fixture.advance_to(&host, 0);
    facet.alarms().set("z", at(100), "").wait().unwrap();
    fixture.advance_to(&host, 100);
    assert_eq!(next(&ran), pair("a", "z"));
    assert_eq!(names(&facet), ["y"]);
    fixture.advance_to(&host, 86_500_000);
    assert_eq!(next(&ran), pair("a", "y"));
}

#[test]
fn many_alarms_that_are_due_at_once_take_turns() {
    let fixture = Fixture::new();
    let (handler, ran) = recorder();
    let handler = handler.running_max(std::num::NonZeroUsize::MIN);
    let host = fixture.host(config(1).on_alarm(handler));
    let greedy = host.facet("greedy").unwrap();
    let set = greedy.transaction(|tx| {
        (0..300).try_for_each(|n| tx.alarms().set(format!("{n:03}"), at(1_000), ""))
    });
    set.wait().unwrap();
    for n in 0..20 {
        let other = host.facet(format!("modest-{n}")).unwrap();
        other.alarms().set("x", at(1_001), "").wait().unwrap();
    }
    fixture.advance_to(&host, 1_002);
    let order: Vec<_> = (0..320).map(|_| next(&ran).0).collect();
    let last = order.iter().rposition(|facet| facet.starts_with("modest")).unwrap();
    // One of the greedy facet's goes before them; the rest take turns with them.
    assert!(last < 60, "the last modest facet was number {last}");
    await_that("all are counted", || host.stat().wait().unwrap().alarms.run == 320);
    assert!(names(&greedy).is_empty());
}

#[test]
fn an_aborted_facet_is_looked_at_again() {
    let fixture = Fixture::new();
    let (handler, ran) = recorder();
    let handler = handler.retry_after(Duration::from_secs(1));
    let host = fixture.host(config(2).on_alarm(handler));
    // Both on the core that does not answer for figures.
    let mut facets = (0..).map(|n| host.facet(format!("f{n}")).unwrap());
    let mut on_second = || facets.find(|facet| facet.core() == 1).unwrap();
    let (facet, other) = (on_second(), on_second());
    facet.alarms().set("x", at(1_000), "").wait().unwrap();
    let (go, wait) = channel::<()>();
    let (began, has_begun) = channel::<()>();
    let busy = other.run(move |_| Ok(began.send(()).is_ok() && wait.recv().is_ok()));
    has_begun.recv().unwrap();
    fixture.advance_to(&host, 1_000);
    await_that("the alarm's call waits", || {
        host.stat().wait().unwrap().cores[1].calls_waiting == 1
    });
    let aborted = host.abort(facet.name().as_str(), "why not");
    go.send(()).unwrap();
    busy.wait().unwrap();
    aborted.wait().unwrap();
    await_that("it was put off", || host.stat().wait().unwrap().alarms.put_off == 1);
    assert_eq!(facet.alarms().get("x").wait().unwrap().unwrap().attempts, 0);
    fixture.advance_to(&host, 2_000);
    assert_eq!(next(&ran), pair(facet.name().as_str(), "x"));
    assert_eq!(ran_in(&facet), ["x"]);
}

#[test]
fn names_of_the_host_are_refused() {
    let fixture = Fixture::new();
    let (host, _ran) = fixture.recording(1);
    host.facet("a").unwrap().alarms().set("x", at(1_000), "").wait().unwrap();
    for name in [".lapidary", ".lapidary/alarms", ".lapidary/alarms/0", ".lapidary/x"] {
        for error in [
            host.facet(name).map(drop).unwrap_err(),
            host.delete(name).wait().unwrap_err(),
            host.rename("a", name).wait().unwrap_err(),
            host.rename(name, "b").wait().unwrap_err(),
            host.fork(name, "b", ForkFrom::Latest).wait().unwrap_err(),
        ] {
            assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{error}");
        }
    }
    assert_eq!(host.list(None, None, 2).wait().unwrap().len(), 1);
}
