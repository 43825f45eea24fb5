//! The facets of a core take turns. Which call was served when is what these tests look at; none looks
//! at the clock.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use common::{config, host_on};
use futures_util::future::join_all;
use lapidary::{
    Call, FacetHandle, ForkFrom, Host, HostConfig, HostError, HostErrorKind, Isolation, MailboxFull,
};
use lapidary_engine::MemoryIo;

/// The names of calls in the order in which they ran.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn call(&self, host: &Host, facet: &str, name: &str) -> Call<()> {
        let (log, name) = (self.clone(), name.to_owned());
        host.facet(facet).unwrap().run(move |_| {
            log.0.lock().unwrap().push(name);
            Ok(())
        })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A host of one core, which runs a call of `facet` until the sender is used or dropped.
fn held(config: HostConfig, facet: &str) -> (Host, FacetHandle, Sender<()>) {
    let host = host_on(&MemoryIo::new(), config);
    let facet = host.facet(facet).unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let (go, wait) = channel::<()>();
    let (began, has_begun) = channel();
    drop(facet.run(move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    }));
    has_begun.recv().unwrap();
    (host, facet, go)
}

fn finish(calls: Vec<Call<()>>) {
    for call in calls {
        call.wait().unwrap();
    }
}

#[test]
fn a_facet_with_ten_thousand_calls_delays_the_others_by_one_each() {
    let config = config(1).mailbox_calls_max(20_000).facet_calls_max(10_000);
    let (host, _, go) = held(config, "hot");
    let log = Log::default();
    let mut calls: Vec<_> = (0..10_000).map(|_| log.call(&host, "hot", "hot")).collect();
    for neighbour in 0..5 {
        calls.push(log.call(&host, &format!("n{neighbour}"), "neighbour"));
    }
    go.send(()).unwrap();
    finish(calls);
    let served = log.take();
    assert_eq!(served.len(), 10_005);
    let last = served.iter().rposition(|name| name == "neighbour").unwrap();
    assert!(last <= 6, "the last neighbour was served as number {last}");
}

#[test]
fn thousands_that_wake_at_once_are_served_once_before_any_is_served_twice() {
    let config = config(1).mailbox_calls_max(16).mailbox_full(MailboxFull::Error);
    let (host, _, go) = held(config, "first");
    let log = Log::default();
    let names: Vec<_> = (0..3_000).map(|number| format!("agents/{number}")).collect();
    let mut calls: Vec<_> = names.iter().map(|name| log.call(&host, name, name)).collect();
    // The mailbox has more than its bound by now, so nobody gets a second one in.
    let error = log.call(&host, &names[7], "second").wait().unwrap_err();
    assert!(matches!(error, HostError::MailboxFull { calls_max: 16, .. }), "{error}");
    calls.push(log.call(&host, "late", "late"));
    go.send(()).unwrap();
    finish(calls);
    let served = log.take();
    assert_eq!(served[..3_000], names);
    assert_eq!(served[3_000], "late");
}

#[test]
fn a_facet_s_calls_are_bounded_by_the_host_and_by_its_policy() {
    let config = config(1).facet_calls_max(3).mailbox_full(MailboxFull::Error);
    let (host, facet, go) = held(config, "a");
    let log = Log::default();
    let call = |name: &str| log.call(&host, name, name);
    let mut calls: Vec<_> = (0..3).map(|_| call("a")).collect();
    let error = facet.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap_err();
    assert!(matches!(&error, HostError::FacetBusy { calls_max: 3, .. }), "{error}");
    assert_eq!(error.kind(), HostErrorKind::Retry);
    assert!(error.to_string().contains("facet a"), "{error}");
    assert_eq!(host.delete("a").wait().unwrap_err().kind(), HostErrorKind::Retry);
    calls.push(call("b"));

    // It goes for handles that are there already, too.
    let b = host.facet("b").unwrap();
    calls.push(b.execute_batch("CREATE TABLE t(n)"));
    let narrow = Isolation::trusted().calls_waiting_max(Some(2));
    host.set_isolation("b", Some(narrow)).unwrap();
    let error = b.execute_batch("SELECT 1").wait().unwrap_err();
    assert!(matches!(error, HostError::FacetBusy { calls_max: 2, .. }), "{error}");
    host.set_isolation("b", Some(Isolation::trusted().calls_waiting_max(Some(4)))).unwrap();
    calls.extend([call("b"), call("b")]);
    assert!(call("b").wait().is_err());
    go.send(()).unwrap();
    finish(calls);
    assert_eq!(log.take(), ["b", "a", "a", "b", "a", "b"]);
}

#[test]
fn calls_beyond_the_bound_of_their_facet_wait_in_order() {
    let (host, facet, go) = held(config(1).facet_calls_max(2), "a");
    let insert = |n: i64| facet.execute("INSERT INTO t VALUES (?1)", [n]);
    let calls: Vec<_> = (0..500).map(insert).collect();
    let other = host.facet("b").unwrap();
    // Not in line behind them.
    let neighbour = other.execute("CREATE TABLE t(n)", ());
    assert!(format!("{neighbour:?}").contains("sent"), "{neighbour:?}");
    assert!(format!("{:?}", calls[2]).contains("waiting for room"), "{:?}", calls[2]);
    go.send(()).unwrap();
    for outcome in pollster::block_on(join_all(calls)) {
        assert_eq!(outcome.unwrap(), 1);
    }
    neighbour.wait().unwrap();
    let numbers =
        facet.query("SELECT n FROM t ORDER BY rowid", (), |row| row.get::<_, i64>(0)).wait();
    assert_eq!(numbers.unwrap(), (0..500).collect::<Vec<_>>());
}

#[test]
fn handles_of_one_facet_share_its_turn() {
    let (host, _, go) = held(config(1), "first");
    let log = Log::default();
    let mut calls = Vec::new();
    for number in 0..3 {
        // Each of them makes a handle of its own.
        calls.push(log.call(&host, "a", &format!("a{number}")));
        calls.push(log.call(&host, "a", &format!("a{number}'")));
    }
    calls.push(log.call(&host, "b", "b0"));
    go.send(()).unwrap();
    finish(calls);
    assert_eq!(log.take(), ["a0", "b0", "a0'", "a1", "a1'", "a2", "a2'"]);
}

#[test]
fn a_deletion_comes_after_the_calls_below_it_that_were_made_before() {
    let (host, _, go) = held(config(1), "first");
    let facet = |name: &str| host.facet(name).unwrap();
    let count = |name: &str| {
        let sql = "SELECT count(*) FROM sqlite_schema";
        facet(name).query(sql, (), |row| row.get::<_, i64>(0))
    };
    let mut before = Vec::new();
    for table in ["a", "b", "c"] {
        before.push(facet("t/1").execute(format!("CREATE TABLE {table}(n)"), ()));
    }
    before.push(facet("t/2").execute("CREATE TABLE a(n)", ()));
    let seen = count("t/1");
    let deleted = host.delete("t");
    let after = (count("t/1"), count("t/2"));
    let neighbour = facet("first").execute("INSERT INTO t VALUES (1)", ());
    go.send(()).unwrap();
    for call in before {
        call.wait().unwrap();
    }
    assert_eq!(seen.wait().unwrap(), [3]);
    deleted.wait().unwrap();
    assert_eq!((after.0.wait().unwrap(), after.1.wait().unwrap()), (vec![0], vec![0]));
    neighbour.wait().unwrap();
}

#[test]
fn renames_forks_and_quotas_keep_their_place_among_the_calls_of_their_names() {
    let (host, _, go) = held(config(1), "first");
    let facet = |name: &str| host.facet(name).unwrap();
    let create =
        |name: &str, table: &str| facet(name).execute(format!("CREATE TABLE {table}(n)"), ());
    let tables = |name: &str| {
        let sql = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema ORDER BY name)";
        facet(name).query(sql, (), |row| row.get::<_, Option<String>>(0))
    };
    let names =
        |call: Call<Vec<Option<String>>>| call.wait().unwrap().remove(0).unwrap_or_default();
    // All on the one core, and much waits for one of them.
    let mut calls: Vec<_> = (0..20).map(|n| create("a", &format!("a{n:02}"))).collect();
    let forked = host.fork("a", "b", ForkFrom::Latest);
    calls.push(create("b", "b1"));
    let renamed = host.rename("b", "c");
    calls.push(create("b", "b2"));
    let forks = host.fork_subtree("c", "d/1", ForkFrom::Latest);
    calls.push(create("c", "c1"));
    let quota = host.set_quota("d", Some(0));
    let refused = create("d/1", "d1");
    let shown = [tables("b"), tables("c"), tables("d/1")];
    go.send(()).unwrap();
    forked.wait().unwrap();
    renamed.wait().unwrap();
    assert_eq!(forks.wait().unwrap().len(), 1);
    quota.wait().unwrap();
    for call in calls {
        call.wait().unwrap();
    }
    assert_eq!(refused.wait().unwrap_err().kind(), HostErrorKind::NoSpace);
    let [b, c, d] = shown.map(names);
    assert_eq!(b, "b2");
    assert!(c.starts_with("a00,a01,") && c.ends_with("a19,b1,c1"), "{c}");
    assert!(d.starts_with("a00,a01,") && d.ends_with("a19,b1"), "{d}");
}

#[test]
fn an_abort_leaves_the_others_their_turns() {
    let (host, _, go) = held(config(1), "first");
    let log = Log::default();
    let hot: Vec<_> = (0..500).map(|_| log.call(&host, "t/hot", "hot")).collect();
    let other = log.call(&host, "other", "other");
    let aborted = host.abort("t", "enough");
    let again = log.call(&host, "t/hot", "again");
    go.send(()).unwrap();
    for call in hot {
        let error = call.wait().unwrap_err();
        assert!(matches!(error, HostError::FacetAborted { .. }), "{error}");
    }
    aborted.wait().unwrap();
    finish(vec![other, again]);
    assert_eq!(log.take(), ["other", "again"]);
}
