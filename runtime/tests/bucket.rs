//! Hosts whose store is in a bucket: when calls are answered, giving back, taking over, refusing.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapidary::bucket::{
    Acknowledge, Bucket, BucketError, BucketSettings, Condition, ObjectError, ObjectErrorKind,
    Objects, RemoteObjects, Tag, Watch,
};
use lapidary::rusqlite::Connection;
use lapidary::{Environment, Host, HostConfig, HostError, HostErrorKind};
use lapidary_engine::{MemoryIo, Store, StoreOptions};

/// An object, and its tag.
type Got = (Vec<u8>, Tag);

/// A bucket that can be closed off.
#[derive(Clone, Debug)]
struct Gated {
    objects: RemoteObjects,
    is_closed: Arc<AtomicBool>,
    puts: Arc<AtomicU64>,
    /// What the next one to read the manifest gets: as if it was replaced right after that.
    old_manifest: Arc<Mutex<Option<Got>>>,
}

impl Gated {
    fn new() -> Self {
        let objects = RemoteObjects::in_memory().unwrap();
        Self {
            objects,
            is_closed: Arc::default(),
            puts: Arc::default(),
            old_manifest: Arc::default(),
        }
    }

    fn close(&self, is_closed: bool) {
        self.is_closed.store(is_closed, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), ObjectError> {
        if !self.is_closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(ObjectError {
            kind: ObjectErrorKind::Unclear,
            operation: "put",
            name: "anything".to_owned(),
            bucket: self.describe(),
            detail: "closed off".to_owned(),
        })
    }
}

impl Objects for Gated {
    fn describe(&self) -> String {
        self.objects.describe()
    }

    fn get(&self, name: &str) -> Result<Got, ObjectError> {
        self.check()?;
        let old = (name == "manifest").then(|| self.old_manifest.lock().unwrap().take()).flatten();
        old.map_or_else(|| self.objects.get(name), Ok)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.check()?;
        self.objects.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8], condition: Condition<'_>) -> Result<Tag, ObjectError> {
        self.check()?;
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.objects.put(name, bytes, condition)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.check()?;
        self.objects.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.check()?;
        self.objects.delete(name)
    }
}

fn settings(name: &str) -> BucketSettings {
    BucketSettings {
        name: name.to_owned(),
        interval: Duration::from_millis(60),
        pause: Duration::from_millis(20),
        lease: Duration::from_secs(3),
        ..BucketSettings::default()
    }
}

fn attach(objects: &Gated, name: &str, local: &MemoryIo) -> Result<Bucket, BucketError> {
    let objects: Arc<dyn Objects> = Arc::new(objects.clone());
    let environment = Environment::with_io(Arc::new(local.clone()));
    Bucket::attach_waiting(&objects, &environment, &settings(name), |_| false)
}

fn host(objects: &Gated, name: &str, acknowledge: Acknowledge) -> Host {
    let bucket = attach(objects, name, &MemoryIo::new()).unwrap();
    let config = HostConfig::new().acknowledge(acknowledge).pin_cores(false);
    Host::open_from_bucket(bucket, config).unwrap()
}

fn rows(host: &Host) -> i64 {
    let facet = host.facet("a").unwrap();
    facet.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0)).wait().unwrap()[0]
}

/// The host replaces objects while a copy is made: it goes on with the newest manifest.
#[test]
fn a_copy_outlives_what_the_host_replaces() {
    let (objects, local) = (Gated::new(), MemoryIo::new());
    let serve = |sql: &'static str| {
        let shared: Arc<dyn Objects> = Arc::new(objects.clone());
        let environment = Environment::with_io(Arc::new(local.clone()));
        let settings = BucketSettings { keep_replaced: Duration::ZERO, ..settings("host") };
        let bucket = Bucket::attach_waiting(&shared, &environment, &settings, |_| false).unwrap();
        let host = Host::open_from_bucket(bucket, HostConfig::new().pin_cores(false)).unwrap();
        host.facet("a").unwrap().execute_batch(sql).wait().unwrap();
        host.shutdown().unwrap();
    };
    serve("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let old = objects.get("manifest").unwrap();
    let before = objects.list("objects/").unwrap();
    // It comes back, ships the newest segments anew, and lets go of what it shipped before.
    serve("INSERT INTO t VALUES (2)");
    let after = objects.list("objects/").unwrap();
    assert!(before.iter().any(|name| !after.contains(name)), "{before:?}, {after:?}");

    *objects.old_manifest.lock().unwrap() = Some(old);
    let seen: Arc<dyn Objects> = Arc::new(objects);
    let copy = MemoryIo::new();
    let environment = || Environment::with_io(Arc::new(copy.clone()));
    let pulled = lapidary::bucket::pull(&seen, &environment(), &mut |_| ()).unwrap();
    assert_eq!(pulled.begun_again, 1);
    let host = Host::open_in(environment(), HostConfig::new().pin_cores(false)).unwrap();
    assert_eq!(rows(&host), 2);
    host.shutdown().unwrap();
}

/// Whoever waits for the bucket does not wait for the interval, which is for commits that nobody waits for.
#[test]
fn a_call_that_waits_for_the_bucket_has_it_shipped() {
    let objects: Arc<dyn Objects> = Arc::new(Gated::new());
    let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    let interval = Duration::from_secs(600);
    let settings = BucketSettings { interval, lease: interval * 3, ..settings("host") };
    let bucket = Bucket::attach_waiting(&objects, &environment, &settings, |_| false).unwrap();
    let config = HostConfig::new().acknowledge(Acknowledge::InBucket).pin_cores(false);
    let host = Host::open_from_bucket(bucket, config).unwrap();
    let began = Instant::now();
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    // Some at a time: those that come amid a shipment are in the next one.
    for _ in 0..5 {
        let insert = || facet.execute("INSERT INTO t VALUES (1)", ());
        let begun: Vec<_> = (0..20).map(|_| insert()).collect();
        let changed: usize = begun.into_iter().map(|call| call.wait().unwrap()).sum();
        assert_eq!(changed, 20);
    }
    assert_eq!(rows(&host), 100);
    assert!(began.elapsed() < interval / 2, "{:?}", began.elapsed());
    host.shutdown().unwrap();
}

#[test]
fn a_call_is_answered_when_its_condition_holds() {
    for acknowledge in [Acknowledge::Locally, Acknowledge::InBucket] {
        let objects = Gated::new();
        let host = host(&objects, "first", acknowledge);
        let facet = host.facet("a").unwrap();
        facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
        host.sync_to_bucket().unwrap();
        objects.close(true);
        let mut call = facet.execute("INSERT INTO t VALUES (1)", ());
        std::thread::sleep(Duration::from_millis(300));
        let answered = call.try_wait();
        assert_eq!(answered.is_some(), acknowledge == Acknowledge::Locally, "{acknowledge:?}");
        objects.close(false);
        match answered {
            Some(answer) => assert_eq!(answer.unwrap(), 1),
            None => assert_eq!(call.wait().unwrap(), 1),
        }
        host.shutdown().unwrap();
    }
}

/// Each call keeps to its own condition, whatever the host's is, also if it saw what waits for the bucket;
/// and a read on the calling thread shows nothing that the bucket lacks, if it was asked so.
#[test]
fn a_call_chooses_its_condition() {
    for of_host in [Acknowledge::Locally, Acknowledge::InBucket] {
        for coalesced in [false, true] {
            let objects = Gated::new();
            let host = host(&objects, "first", of_host);
            let facet = host.facet("a").unwrap().coalesced(coalesced);
            let (local, surely) =
                (facet.acknowledge(Acknowledge::Locally), facet.acknowledge(Acknowledge::InBucket));
            local.execute("CREATE TABLE t(n)", ()).wait().unwrap();
            host.sync_to_bucket().unwrap();
            objects.close(true);
            let count = "SELECT count(*) FROM t";
            let counted = |connection: &Connection| {
                Ok(connection.query_row(count, (), |row| row.get::<_, i64>(0))?)
            };
            let mut held = [
                surely.execute("INSERT INTO t VALUES (1)", ()),
                facet.execute("DELETE FROM t WHERE n = 0", ()),
            ];
            let mut sync = surely.sync();
            // Answered when the disk has it, though it tells of what is not in the bucket.
            assert_eq!(local.query(count, (), |row| row.get::<_, i64>(0)).wait().unwrap(), [1]);
            assert_eq!(local.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap(), 1);
            assert_eq!(local.read(counted).unwrap(), 2);
            local.sync().wait().unwrap();
            // Of another facet, whose commit is in the bucket with that of the first.
            let other = host.facet("b").unwrap().acknowledge(Acknowledge::Locally);
            other.execute("CREATE TABLE t(n)", ()).wait().unwrap();
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| surely.read(counted).unwrap());
                std::thread::sleep(Duration::from_millis(300));
                assert!(!reader.is_finished(), "it shows what the bucket lacks");
                let answered = held.each_mut().map(|call| call.try_wait().is_some());
                let is_local = of_host == Acknowledge::Locally;
                assert_eq!(answered, [false, is_local], "{of_host:?}, {coalesced}");
                assert!(sync.try_wait().is_none());
                // A core does not wait for the bucket.
                let on_core = surely.clone();
                let refused = other.run(move |_| on_core.read(counted)).wait().unwrap_err();
                assert!(matches!(refused, HostError::WaitOnCore { .. }), "{refused}");
                objects.close(false);
                assert_eq!(reader.join().unwrap(), 2);
            });
            let [first, second] = held;
            first.wait().unwrap();
            sync.wait().unwrap();
            if of_host == Acknowledge::InBucket {
                second.wait().unwrap();
            }
            // What is in the bucket is shown at once, on a core too, and without a bucket that answers.
            objects.close(true);
            assert_eq!(surely.read(counted).unwrap(), 2);
            let on_core = surely.clone();
            assert_eq!(other.run(move |_| on_core.read(counted)).wait().unwrap(), 2);
            assert!(surely.versions().unwrap().len() == 1 && surely.root_hash().is_ok());
            // Nobody waits for what is not confirmed.
            surely.unconfirmed().execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
            objects.close(false);
            host.shutdown().unwrap();
        }
    }
}

/// Hosts are lost at any time, with calls of both conditions under way: what was answered for in the bucket is
/// there, with everything before it, and what is there is a first part of what was done.
#[test]
fn hosts_are_lost_amid_calls_of_both_conditions() {
    // At the same time: each waits for a lease.
    let came: Vec<(i64, i64)> = std::thread::scope(|scope| {
        let rounds: Vec<_> = (0..8).map(|round| scope.spawn(move || lose_a_host(round))).collect();
        rounds.into_iter().map(|round| round.join().unwrap()).collect()
    });
    let shows = came.iter().any(|came| came.0 > 0) && came.iter().any(|came| came.1 > 0);
    assert!(shows, "{came:?}");
}

/// The last row that was answered for in the bucket, and how many that were answered for locally were lost.
fn lose_a_host(round: u64) -> (i64, i64) {
    let objects = Gated::new();
    let of_host =
        if round.is_multiple_of(2) { Acknowledge::Locally } else { Acknowledge::InBucket };
    let first = host(&objects, "first", of_host);
    let facet = first.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n INTEGER PRIMARY KEY)", ()).wait().unwrap();
    first.sync_to_bucket().unwrap();
    let (mut local, mut surely) = (Vec::new(), Vec::new());
    for n in 1..=240_i64 {
        let when = if n % 3 == 0 { Acknowledge::InBucket } else { Acknowledge::Locally };
        let call = facet.acknowledge(when).execute("INSERT INTO t VALUES (?1)", [n]);
        let calls = if n % 3 == 0 { &mut surely } else { &mut local };
        calls.push((n, call));
        if n == 60 + 10 * i64::try_from(round).unwrap() {
            // From here on nothing arrives.
            std::thread::sleep(Duration::from_millis(round * 40));
            objects.close(true);
        }
    }
    // These wait for the disk alone.
    let locally = local.into_iter().map(|(n, call)| (n, call.wait().unwrap()).0).max().unwrap();
    let answered = surely.iter_mut().filter_map(|(n, call)| Some((*n, call.try_wait()?.unwrap())));
    let in_bucket = answered.map(|(n, _)| n).max().unwrap_or(0);
    first.bucket().unwrap().fence("lost, by the test");
    objects.close(false);
    let second = host(&objects, "second", Acknowledge::InBucket);
    let found = second.facet("a").unwrap().query(
        "SELECT count(*), coalesce(max(n), 0) FROM t",
        (),
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    );
    let (count, last) = found.wait().unwrap()[0];
    assert_eq!(count, last, "a first part");
    assert!(last >= in_bucket, "{of_host:?}: row {in_bucket} was answered for, {last} is there");
    second.shutdown().unwrap();
    (in_bucket, locally - last)
}

#[test]
fn a_host_without_a_bucket_refuses_to_wait_for_it() {
    let open = |config: HostConfig| {
        Host::open_in(Environment::with_io(Arc::new(MemoryIo::new())), config.pin_cores(false))
    };
    let refused = open(HostConfig::new().acknowledge(Acknowledge::InBucket)).unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::InvalidInput, "{refused}");
    let host = open(HostConfig::new()).unwrap();
    let facet = host.facet("a").unwrap();
    let surely = facet.acknowledge(Acknowledge::InBucket);
    let refusals = [
        surely.execute("CREATE TABLE t(n)", ()).wait().map(drop).unwrap_err(),
        surely.coalesced(true).execute("CREATE TABLE t(n)", ()).wait().map(drop).unwrap_err(),
        surely.sync().wait().unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!(refused.kind(), HostErrorKind::InvalidInput, "{refused}");
        assert!(refused.to_string().contains("no bucket"), "{refused}");
    }
    facet.acknowledge(Acknowledge::Locally).execute("CREATE TABLE t(n)", ()).wait().unwrap();
    let refused = surely.read(|_| Ok(())).unwrap_err();
    assert_eq!(refused.kind(), HostErrorKind::InvalidInput, "{refused}");
    host.shutdown().unwrap();
}

/// What was answered for in the bucket is there for the next host, whatever becomes of this one; and a
/// host that gave its store back does not make the next one wait.
#[test]
fn the_next_host_has_what_was_answered_for() {
    let objects = Gated::new();
    let first = host(&objects, "first", Acknowledge::InBucket);
    let facet = first.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    for n in 0..50 {
        drop(facet.execute("INSERT INTO t VALUES (?1)", [n]));
    }
    first.shutdown().unwrap();
    let began = Instant::now();
    let second = host(&objects, "second", Acknowledge::Locally);
    assert!(began.elapsed() < Duration::from_secs(2), "it waited for a lease that was given back");
    assert_eq!(rows(&second), 50);
    assert_eq!(second.bucket().unwrap().stat().epoch, 2);
    second.facet("a").unwrap().execute("INSERT INTO t VALUES (50)", ()).wait().unwrap();
    second.sync_to_bucket().unwrap();
    // Not given back: as if lost, but for its thread, which ends with it.
    let bucket = second.bucket().unwrap().clone();
    bucket.fence("the test has ended this host");
    drop(bucket);
    assert!(second.shutdown().is_err());
    let third = host(&objects, "third", Acknowledge::Locally);
    assert_eq!(rows(&third), 51);
    third.shutdown().unwrap();
}

/// A bucket that does not answer for longer than the lease stops the host: calls are told so, also those
/// that waited.
#[test]
fn a_host_without_its_bucket_stops_with_its_lease() {
    let objects = Gated::new();
    let first = host(&objects, "first", Acknowledge::InBucket);
    let facet = first.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    objects.close(true);
    let waiting = facet.execute("INSERT INTO t VALUES (1)", ());
    let error = waiting.wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    assert!(error.to_string().contains("lease"), "{error}");
    let error = facet.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    assert!(first.sync_to_bucket().is_err());
    assert!(first.shutdown().is_err());
}

#[test]
fn requests_do_not_grow_with_the_facets() {
    let objects = Gated::new();
    let first = host(&objects, "first", Acknowledge::Locally);
    let puts_for = |facets: usize| {
        first.sync_to_bucket().unwrap();
        let before = objects.puts.load(Ordering::SeqCst);
        let began = Instant::now();
        let calls: Vec<_> = (0..facets)
            .map(|n| {
                let facet = first.facet(format!("many/{facets}/{n}")).unwrap();
                facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (1)")
            })
            .collect();
        calls.into_iter().for_each(|call| call.wait().unwrap());
        first.sync_to_bucket().unwrap();
        let shipments = u64::try_from(began.elapsed().as_millis()).unwrap() / 20 + 2;
        (objects.puts.load(Ordering::SeqCst) - before, shipments)
    };
    for facets in [1, 300] {
        let (puts, shipments) = puts_for(facets);
        assert!(puts <= 3 * shipments && puts < 300, "{puts} requests for {facets} facets");
    }
    first.shutdown().unwrap();
}

#[test]
fn directories_and_buckets_that_do_not_belong_together_are_refused() {
    let (objects, other) = (Gated::new(), Gated::new());
    let serve_once = |objects: &Gated, local: &MemoryIo| {
        let bucket = attach(objects, "once", local).unwrap();
        let store = Store::open(bucket.environment(), StoreOptions::create()).unwrap();
        bucket.serve(&store).unwrap();
        store.close().unwrap();
        bucket.close().unwrap();
    };
    let (one, two, plain) = (MemoryIo::new(), MemoryIo::new(), MemoryIo::new());
    serve_once(&objects, &one);
    serve_once(&objects, &two);
    // A6: another has served it since.
    let stale = attach(&objects, "one", &one).unwrap_err();
    assert!(
        matches!(&stale, BucketError::StaleDirectory { holder, .. } if holder == "once"),
        "{stale}"
    );
    // A7: a store that has nothing to do with the bucket.
    let environment = Environment::with_io(Arc::new(plain.clone()));
    Store::open(environment, StoreOptions::create()).unwrap().close().unwrap();
    let foreign = attach(&objects, "plain", &plain).unwrap_err();
    assert!(matches!(&foreign, BucketError::Directory { .. }), "{foreign}");
    assert_eq!(foreign.kind(), HostErrorKind::InvalidInput);
    // A8: the manifest is gone.
    let gone = attach(&other, "two", &two).unwrap_err();
    assert!(gone.to_string().contains("BUCKET"), "{gone}");
    // Past the bucket it is not opened.
    let environment = Environment::with_io(Arc::new(one.clone()));
    let refused = Host::open_in(environment, HostConfig::new()).unwrap_err();
    assert!(refused.to_string().contains("open_from_bucket"), "{refused}");
    // A2: an empty bucket takes it.
    serve_once(&other, &plain);
    // A3: and it goes on from where it was.
    serve_once(&other, &plain);
    // A store that is open is not attached a second time, and the first one goes on.
    let bucket = attach(&other, "plain", &plain).unwrap();
    let environment = Environment::with_io(Arc::new(plain.clone()));
    let again: Arc<dyn Objects> = Arc::new(other.clone());
    let locked = Bucket::attach(&again, &environment, settings("x"), &mut Watch::default());
    assert_eq!(locked.unwrap_err().kind(), HostErrorKind::Retry);
    let store = Store::open(bucket.environment(), StoreOptions::default()).unwrap();
    bucket.serve(&store).unwrap();
    store.close().unwrap();
    bucket.close().unwrap();
}

#[test]
fn what_is_damaged_or_newer_in_the_bucket_is_named() {
    let objects = Gated::new();
    let first = host(&objects, "first", Acknowledge::Locally);
    first.facet("a").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
    first.shutdown().unwrap();
    let (good, _) = objects.get("manifest").unwrap();
    for at in [0, 9, 20, good.len() / 2, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        objects.put("manifest", &damaged, Condition::Always).unwrap();
        let error = attach(&objects, "x", &MemoryIo::new()).unwrap_err();
        assert!(
            matches!(&error, BucketError::Damaged { name, .. } if name == "manifest"),
            "{error}"
        );
    }
    objects.put("manifest", &good, Condition::Always).unwrap();
    // Objects without their bytes: the store cannot be opened, and the object is named.
    let names = objects.list("objects/").unwrap();
    for name in &names {
        let (mut bytes, _) = objects.get(name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        objects.put(name, &bytes, Condition::Always).unwrap();
    }
    let bucket = attach(&objects, "x", &MemoryIo::new()).unwrap();
    let error = Store::open(bucket.environment(), StoreOptions::default()).unwrap_err().to_string();
    assert!(error.contains("objects/") && error.contains("checksum"), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let wrong = [
        BucketSettings { lease: Duration::from_millis(50), ..settings("a") },
        BucketSettings { lease: Duration::from_secs(7200), ..settings("a") },
        BucketSettings { interval: Duration::from_secs(2), ..settings("a") },
        BucketSettings { name: String::new(), ..settings("a") },
        BucketSettings { name: "x".repeat(256), ..settings("a") },
    ];
    let objects: Arc<dyn Objects> = Arc::new(Gated::new());
    for settings in wrong {
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let refused = Bucket::attach(&objects, &environment, settings, &mut Watch::default());
        assert_eq!(refused.unwrap_err().kind(), HostErrorKind::InvalidInput);
    }
}
