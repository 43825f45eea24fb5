//! Spans, the log of slow statements, snapshots.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use common::{await_that, config, facet_on_switch, host, host_on};
use lapidary::{HostSnapshot, StoreOptions};
use lapidary_engine::MemoryIo;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A span or an event.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    parent: Option<&'static str>,
    fields: HashMap<&'static str, String>,
    entered: u64,
    is_closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

#[derive(Default)]
struct All {
    spans: Vec<Seen>,
    references: HashMap<u64, u64>,
    events: Vec<Seen>,
}

/// Keeps everything. One for the process, since the threads of a host have that one.
#[derive(Clone)]
struct Keeper(Arc<Mutex<All>>);

thread_local! {
    static ENTERED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn keeper() -> &'static Keeper {
    static KEEPER: LazyLock<Keeper> = LazyLock::new(|| {
        let keeper = Keeper(Arc::default());
        tracing::subscriber::set_global_default(keeper.clone()).unwrap();
        keeper
    });
    &KEEPER
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap()
    }

    /// Closed spans called `name`, of `facet`.
    fn spans(&self, name: &str, facet: &str) -> Vec<Seen> {
        let is_asked = |seen: &&Seen| {
            seen.name == name
                && seen.is_closed
                && seen.fields.get("facet").is_some_and(|of| of == facet)
        };
        self.lock().spans.iter().filter(is_asked).cloned().collect()
    }

    fn count(&self, name: &str) -> usize {
        self.lock().spans.iter().filter(|seen| seen.name == name && seen.is_closed).count()
    }

    fn slow(&self, facet: &str) -> Vec<Seen> {
        let events = self.lock().events.clone();
        let is_asked = |seen: &Seen| {
            seen.fields.get("message").is_some_and(|message| message == "slow statement")
                && seen.fields.get("facet").is_some_and(|of| of == facet)
        };
        events.into_iter().filter(is_asked).collect()
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut all = self.lock();
        let current = ENTERED.with_borrow(|entered| entered.last().copied());
        let parent = current.map(|id| all.spans[usize::try_from(id).unwrap() - 1].name);
        let mut seen = Seen { name: attributes.metadata().name(), parent, ..Seen::default() };
        attributes.record(&mut seen);
        all.spans.push(seen);
        let id = all.spans.len() as u64;
        all.references.insert(id, 1);
        Id::from_non_zero_u64(NonZeroU64::new(id).unwrap())
    }
    fn record(&self, id: &Id, values: &Record<'_>) {
        values.record(&mut self.lock().spans[usize::try_from(id.into_u64()).unwrap() - 1]);
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        self.lock().events.push(seen);
    }
    fn enter(&self, id: &Id) {
        self.lock().spans[usize::try_from(id.into_u64()).unwrap() - 1].entered += 1;
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }
    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.truncate(entered.len() - 1));
    }
    fn clone_span(&self, id: &Id) -> Id {
        *self.lock().references.get_mut(&id.into_u64()).unwrap() += 1;
        id.clone()
    }
    fn try_close(&self, id: Id) -> bool {
        let mut all = self.lock();
        let references = all.references.get_mut(&id.into_u64()).unwrap();
        *references -= 1;
        let is_last = *references == 0;
        if is_last {
            all.spans[usize::try_from(id.into_u64()).unwrap() - 1].is_closed = true;
        }
        is_last
    }
}

#[test]
fn a_call_is_a_span_from_its_making_to_its_reply() {
    let keeper = keeper();
    let (host, facet, switch) = facet_on_switch("spans/1");
    let _release = switch.release_at_end();
    // It is closed by the core, after the reply has left.
    await_that("the span is closed", || keeper.spans("call", "spans/1").len() == 1);

    switch.hold();
    let request = tracing::info_span!("request").entered();
    let call = facet.transaction(|tx| Ok(tx.execute("INSERT INTO t VALUES (1)", ())?));
    drop(request);
    switch.await_sync();
    await_that("it has run", || keeper.spans("transaction", "spans/1").len() == 1);
    assert_eq!(keeper.spans("call", "spans/1").len(), 1, "the reply is held");
    switch.release();
    call.wait().unwrap();
    await_that("the span is closed", || keeper.spans("call", "spans/1").len() == 2);

    let calls = keeper.spans("call", "spans/1");
    assert_eq!(calls.iter().map(|call| call.parent).collect::<Vec<_>>(), [None, Some("request")]);
    assert!(calls.iter().all(|call| call.fields["core"] == "0" && call.entered == 1), "{calls:?}");
    assert_eq!(keeper.spans("transaction", "spans/1")[0].parent, Some("call"));
    let opened = keeper.spans("open", "spans/1");
    assert_eq!((opened.len(), opened[0].parent), (1, Some("call")));
    assert!(keeper.spans("close", "spans/1").is_empty());
    host.shutdown().unwrap();
    assert_eq!(keeper.spans("close", "spans/1").len(), 1);
}

#[test]
fn the_store_works_in_spans() {
    let keeper = keeper();
    let host = host(1);
    let facet = host.facet("spans/2").unwrap();
    let before = ["flush", "checkpoint", "clean"].map(|name| keeper.count(name));
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    host.store().checkpoint().unwrap();
    host.store().clean().unwrap();
    host.shutdown().unwrap();
    let after = ["flush", "checkpoint", "clean"].map(|name| keeper.count(name));
    assert!(
        before.iter().zip(&after).all(|(before, after)| before < after),
        "{before:?} {after:?}"
    );
}

#[test]
fn slow_statements_are_told_without_values_and_with_what_they_did() {
    let keeper = keeper();
    let host = host_on(&MemoryIo::new(), config(1).slow_statement(Duration::ZERO));
    let facet = host.facet("slow/1").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    facet.execute("INSERT INTO t VALUES (?1), ('y')", ["secret"]).wait().unwrap();
    facet.query("SELECT x FROM t", (), |row| row.get::<_, String>(0)).wait().unwrap();
    facet
        .read(|connection| Ok(connection.query_row("SELECT count(*) FROM t", (), |_| Ok(()))?))
        .unwrap();
    let long = format!("SELECT '{}'", "x".repeat(5_000));
    facet.query(long, (), |_| Ok(())).wait().unwrap();

    let told = keeper.slow("slow/1");
    let of = |sql: &str| told.iter().find(|seen| seen.fields["sql"] == sql).unwrap();
    let insert = of("INSERT INTO t VALUES (?1), ('y')");
    assert_eq!(insert.fields["rows"], "0");
    let select = of("SELECT x FROM t");
    assert_eq!(select.fields["rows"], "2");
    assert!((3..100).contains(&select.fields["steps"].parse::<u32>().unwrap()), "{select:?}");
    assert!(select.fields.contains_key("elapsed"), "{select:?}");
    of("SELECT count(*) FROM t");
    let long = told.iter().find(|seen| seen.fields["sql"].starts_with("SELECT 'xxx")).unwrap();
    assert!(long.fields["sql"].len() <= 1_003 && long.fields["sql"].ends_with('…'), "{long:?}");
    assert!(!format!("{told:?}").contains("secret"));
}

#[test]
fn statements_below_the_threshold_are_not_told() {
    let keeper = keeper();
    let minute = Duration::from_secs(60);
    for config in [config(1), config(1).slow_statement(minute)] {
        let host = host_on(&MemoryIo::new(), config);
        host.facet("slow/2").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    }
    assert!(keeper.slow("slow/2").is_empty());
}

#[test]
fn a_snapshot_has_what_a_dashboard_shows() {
    let config = config(2).store(StoreOptions::create()).resident_facets_max(1);
    let host = host_on(&MemoryIo::new(), config);
    let names: Vec<_> = (0..10).map(|n| format!("tenant-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let facet = host.facet(name).unwrap();
        facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
        for _ in 0..n {
            facet.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
        }
    }
    let busy = host.facet("tenant-3").unwrap();
    busy.run(|_| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    })
    .wait()
    .unwrap();
    busy.read(|_| Ok(())).unwrap();

    let now: HostSnapshot = host.snapshot(3);
    assert_eq!((now.facets, now.facets_open, now.idle_readers), (10, 2, 1));
    assert_eq!(now.latency.count, 10 + 45 + 1);
    assert_eq!(now.wait.count, now.latency.count);
    assert_eq!(now.cores.iter().map(|core| core.calls).sum::<u64>(), now.latency.count);
    assert_eq!(now.cores.iter().map(|core| core.latency.count).sum::<u64>(), now.latency.count);
    assert!(now.latency.max >= Duration::from_millis(200), "{:?}", now.latency);
    assert!(now.latency.p50 <= now.latency.p90 && now.latency.p999 <= now.latency.max);
    assert!(now.wait.max < now.latency.max, "{:?}", now.wait);
    assert!(now.store.commits >= 55 && now.store.durable_lsn.0 > 0, "{:?}", now.store);
    assert_eq!(now.busiest.len(), 3);
    assert_eq!(now.busiest[0].facet.as_str(), "tenant-3");
    assert!(now.busiest.is_sorted_by(|one, next| one.used.busy >= next.used.busy));
    assert_eq!(host.snapshot(usize::MAX).busiest.len(), 10);
}

#[test]
fn a_snapshot_is_there_when_calls_are_not() {
    let (host, facet, switch) = facet_on_switch("a");
    let _release = switch.release_at_end();
    switch.hold();
    let held = facet.execute("INSERT INTO t VALUES (1)", ());
    switch.await_sync();
    await_that("the reply is held", || host.snapshot(0).cores[0].replies_held == 1);
    let (started_tell, started) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let running = facet.run(move |_| {
        started_tell.send(()).unwrap();
        Ok(wait.recv().is_ok())
    });
    started.recv().unwrap();
    let waiting = facet.execute("INSERT INTO t VALUES (2)", ());
    let now = host.snapshot(0);
    assert_eq!((now.cores[0].calls_waiting, now.busiest.len()), (1, 0));
    go.send(()).unwrap();
    switch.release();
    held.wait().unwrap();
    running.wait().unwrap();
    waiting.wait().unwrap();
}
