//! Hosts that follow another by what it ships.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapidary::bucket::{
    Bucket, BucketError, BucketSettings, Condition, Follower, FollowerSettings, ObjectError,
    ObjectErrorKind, Objects, RemoteObjects, Tag, Watch,
};
use lapidary::rusqlite::Connection;
use lapidary::{Environment, Host, HostConfig, HostError, HostErrorKind};
use lapidary_engine::{FacetName, MemoryIo, StoreOptions};

/// A bucket as one machine sees it: it can be closed off, its data can be hidden as if it were let go of, and
/// what is written to it counts.
#[derive(Clone, Debug)]
struct Seen {
    objects: RemoteObjects,
    is_closed: Arc<AtomicBool>,
    hides_data: Arc<AtomicBool>,
    was_written: Arc<AtomicBool>,
}

impl Seen {
    fn new(objects: &RemoteObjects) -> Self {
        let objects = objects.clone();
        Self {
            objects,
            is_closed: Arc::default(),
            hides_data: Arc::default(),
            was_written: Arc::default(),
        }
    }

    fn check(&self, name: &str) -> Result<(), ObjectError> {
        let kind = if self.is_closed.load(Ordering::SeqCst) {
            ObjectErrorKind::Unclear
        } else if self.hides_data.load(Ordering::SeqCst) && name != "manifest" {
            ObjectErrorKind::NotFound
        } else {
            return Ok(());
        };
        let (name, bucket) = (name.to_owned(), self.describe());
        Err(ObjectError { kind, operation: "get", name, bucket, detail: "by the test".to_owned() })
    }
}

impl Objects for Seen {
    fn describe(&self) -> String {
        self.objects.describe()
    }

    fn get(&self, name: &str) -> Result<(Vec<u8>, Tag), ObjectError> {
        self.check(name)?;
        self.objects.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.check(name)?;
        self.objects.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8], condition: Condition<'_>) -> Result<Tag, ObjectError> {
        self.was_written.store(true, Ordering::SeqCst);
        self.objects.put(name, bytes, condition)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.objects.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.was_written.store(true, Ordering::SeqCst);
        self.objects.delete(name)
    }
}

fn serve(objects: &RemoteObjects, name: &str) -> Host {
    let objects: Arc<dyn Objects> = Arc::new(objects.clone());
    let settings = BucketSettings {
        name: name.to_owned(),
        interval: Duration::from_millis(50),
        pause: Duration::from_millis(20),
        lease: Duration::from_millis(600),
        ..BucketSettings::default()
    };
    let local = Environment::with_io(Arc::new(MemoryIo::new()));
    let bucket = Bucket::attach_waiting(&objects, &local, &settings, |_| false).unwrap();
    Host::open_from_bucket(bucket, HostConfig::new().pin_cores(false)).unwrap()
}

fn follow(seen: &Seen, background: bool) -> Result<Follower, BucketError> {
    let objects: Arc<dyn Objects> = Arc::new(seen.clone());
    let local = Environment::with_io(Arc::new(MemoryIo::new()));
    let interval = Duration::from_millis(20);
    let settings = FollowerSettings { interval, background, ..FollowerSettings::default() };
    Follower::open(&objects, &local, settings)
}

fn count(connection: &Connection) -> Result<i64, HostError> {
    Ok(connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?)
}

const LONG: Duration = Duration::from_secs(20);

/// Sessions see what they wrote, names and their changes follow, reads under way stay as they are, and the bucket
/// is never written to.
#[test]
fn a_follower_shows_what_is_shipped() {
    let objects = RemoteObjects::in_memory().unwrap();
    let seen = Seen::new(&objects);
    let nothing = follow(&seen, true).unwrap_err();
    assert!(nothing.to_string().contains("manifest"), "{nothing}");
    let host = serve(&objects, "first");
    let a = host.facet("a").unwrap();
    a.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    host.sync_to_bucket().unwrap();
    let follower = follow(&seen, true).unwrap();
    assert_eq!(follower.read("a", count).unwrap(), 0);
    for n in 0..200 {
        a.execute("INSERT INTO t VALUES (?1)", [n]).wait().unwrap();
        if n % 20 == 0 {
            let written = a.bookmark().wait().unwrap();
            assert!(follower.read_at_least("a", written, LONG, count).unwrap() > n);
        }
        if n % 50 == 0 {
            // With another checkpoint the store is opened anew.
            host.store().checkpoint().unwrap();
        }
    }
    // A read that began earlier goes on with what it began with.
    let lsn = host.store().durable_lsn();
    follower.wait_for(lsn, LONG).unwrap();
    follower
        .read("a", |connection| {
            assert_eq!(count(connection)?, 200);
            a.execute("DELETE FROM t", ()).wait()?;
            host.store().checkpoint()?;
            follower.wait_for(host.store().durable_lsn(), LONG)?;
            assert_eq!(follower.read("a", count)?, 0);
            assert_eq!(count(connection)?, 200);
            Ok(())
        })
        .unwrap();

    host.fork("a", "b/fork", lapidary::ForkFrom::Latest).wait().unwrap();
    host.rename("a", "c").wait().unwrap();
    follower.wait_for(host.store().durable_lsn(), LONG).unwrap();
    let names = |found: Vec<lapidary::FacetInfo>| -> Vec<String> {
        found.into_iter().map(|facet| facet.name.to_string()).collect()
    };
    assert_eq!(names(follower.list(None, None, 10).unwrap()), ["b/fork", "c"]);
    assert_eq!(names(follower.list(Some("b"), None, 10).unwrap()), ["b/fork"]);
    assert_eq!(follower.read("a", count).unwrap_err().kind(), HostErrorKind::NotFound);
    let written = follower.read("c", |connection| Ok(connection.execute("DELETE FROM t", ())?));
    assert!(written.is_err());
    let store = follower.store();
    let created = store.create_facet(&FacetName::new("x").unwrap()).unwrap_err();
    assert!(created.to_string().contains("nothing can be written"), "{created}");
    store.checkpoint().unwrap_err();
    let stat = follower.stat();
    assert!(stat.moves > 10 && stat.opened > 3 && stat.opened < stat.moves, "{stat:?}");
    assert!(stat.lag_ms < 10_000 && stat.failures == 0 && stat.cached_bytes > 0, "{stat:?}");
    assert!(!seen.was_written.load(Ordering::SeqCst), "a follower writes nothing");
    host.shutdown().unwrap();
    // The store was given back, and is followed on.
    follower.refresh().unwrap();
    assert_eq!(follower.read("c", count).unwrap(), 0);
}

#[test]
fn a_follower_goes_on_when_another_host_has_taken_over() {
    let objects = RemoteObjects::in_memory().unwrap();
    let first = serve(&objects, "first");
    let a = first.facet("a").unwrap();
    a.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    first.sync_to_bucket().unwrap();
    let follower = follow(&Seen::new(&objects), true).unwrap();
    // Lost: it ships nothing any more.
    first.bucket().unwrap().fence("lost, by the test");
    let lost = follower.stat();
    let second = serve(&objects, "second");
    let a = second.facet("a").unwrap();
    a.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    let written = a.bookmark().wait().unwrap();
    assert_eq!(follower.read_at_least("a", written, LONG, count).unwrap(), 1);
    let stat = follower.stat();
    assert!(stat.epoch == lost.epoch + 1 && stat.lsn > lost.lsn, "{lost:?}, {stat:?}");
    drop(first);
    second.shutdown().unwrap();
}

#[test]
fn what_is_not_there_in_time_is_told() {
    let objects = RemoteObjects::in_memory().unwrap();
    let host = serve(&objects, "first");
    let a = host.facet("a").unwrap();
    a.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    host.facet("b").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
    host.sync_to_bucket().unwrap();
    let seen = Seen::new(&objects);
    let follower = follow(&seen, true).unwrap();
    let before = follower.stat();
    seen.is_closed.store(true, Ordering::SeqCst);
    a.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    let written = a.bookmark().wait().unwrap();
    let short = Duration::from_millis(300);
    let began = Instant::now();
    let behind = follower.read_at_least("a", written, short, count).unwrap_err();
    assert!(began.elapsed() >= short && behind.kind() == HostErrorKind::Retry, "{behind}");
    assert!(behind.to_string().contains(&written.to_string()), "{behind}");
    let wanted = host.store().durable_lsn();
    let behind = follower.wait_for(wanted, short).unwrap_err().to_string();
    for named in [format!("LSN {wanted}"), format!("LSN {}", before.lsn)] {
        assert!(behind.contains(&named), "{behind}");
    }
    // Without its bucket it shows what it has, and says how old that is.
    assert_eq!(follower.read("a", count).unwrap(), 0);
    let stat = follower.stat();
    assert!(stat.lag_ms >= 500 && stat.failures > 0 && stat.lsn == before.lsn, "{stat:?}");
    let unread = follower.refresh().unwrap_err();
    assert!(matches!(unread, BucketError::Objects(_)), "{unread}");
    seen.is_closed.store(false, Ordering::SeqCst);
    assert_eq!(follower.read_at_least("a", written, LONG, count).unwrap(), 1);
    assert!(follower.stat().lag_ms < stat.lag_ms);
    let other = follower.read_at_least("b", written, short, count).unwrap_err();
    assert_eq!(other.kind(), HostErrorKind::InvalidInput, "{other}");
    host.shutdown().unwrap();
}

/// Objects that were let go of before they were read: the read is to be tried again, and goes well once the
/// follower has looked at the newest manifest.
#[test]
fn what_was_let_go_of_is_read_again() {
    let objects = RemoteObjects::in_memory().unwrap();
    let host = serve(&objects, "first");
    let a = host.facet("a").unwrap();
    a.execute_batch("CREATE TABLE t(n); CREATE TABLE u(x);").wait().unwrap();
    for _ in 0..40 {
        a.execute("INSERT INTO u VALUES (randomblob(100000))", ()).wait().unwrap();
    }
    host.store().checkpoint().unwrap();
    host.sync_to_bucket().unwrap();
    let seen = Seen::new(&objects);
    let follower = follow(&seen, false).unwrap();
    let sum = |connection: &Connection| {
        let sum = "SELECT sum(length(hex(x))) FROM u";
        Ok::<i64, HostError>(connection.query_row(sum, (), |row| row.get(0))?)
    };
    seen.hides_data.store(true, Ordering::SeqCst);
    let outdated = follower.read("a", sum).unwrap_err();
    assert!(matches!(outdated, HostError::Bucket(BucketError::Outdated { .. })), "{outdated}");
    assert_eq!(outdated.kind(), HostErrorKind::Retry);
    // As long as nothing newer is there, so it is.
    follower.refresh().unwrap();
    let outdated = follower.read("a", sum).unwrap_err();
    assert!(outdated.to_string().contains("keep_replaced"), "{outdated}");
    seen.hides_data.store(false, Ordering::SeqCst);
    follower.refresh().unwrap();
    assert_eq!(follower.read("a", sum).unwrap(), 8_000_000);
    assert_eq!(follower.stat().opened, 3);
    host.shutdown().unwrap();
}

#[test]
fn directories_that_are_no_followers_are_refused() {
    let objects = RemoteObjects::in_memory().unwrap();
    let host = serve(&objects, "first");
    host.facet("a").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
    host.sync_to_bucket().unwrap();
    let shared: Arc<dyn Objects> = Arc::new(objects.clone());
    let open = |local: &Environment| {
        Follower::open(&shared, local, FollowerSettings::default()).map(|follower| {
            assert_eq!(follower.read("a", count).unwrap(), 0);
        })
    };
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| Environment::system(directory.path().join(name));
    // A cache is used again, and is no store.
    for _ in 0..2 {
        open(&at("cache")).unwrap();
    }
    let opened = Host::open(directory.path().join("cache"), HostConfig::new()).unwrap_err();
    assert_eq!(opened.kind(), HostErrorKind::InvalidInput, "{opened}");
    // One at a time.
    let first = Follower::open(&shared, &at("cache"), FollowerSettings::default()).unwrap();
    let locked = open(&at("cache")).unwrap_err();
    assert!(locked.to_string().contains("locked"), "{locked}");
    drop(first);

    let refused = |name: &str, told: &str| {
        let refused = open(&at(name)).unwrap_err();
        assert_eq!(refused.kind(), HostErrorKind::InvalidInput, "{refused}");
        assert!(refused.to_string().contains(told), "{refused}");
    };
    let store = lapidary_engine::Store::open(at("store"), StoreOptions::create()).unwrap();
    store.close().unwrap();
    refused("store", "it has a store");
    std::fs::create_dir(directory.path().join("foreign")).unwrap();
    std::fs::write(directory.path().join("foreign/letter"), "dear").unwrap();
    refused("foreign", "other files");
    std::fs::remove_file(directory.path().join("store/SUPERBLOCK")).unwrap();
    refused("store", "segments of a store");
    // Of a host that waits for its lease: it has noted who it is.
    let settings = BucketSettings::default();
    Bucket::attach(&shared, &at("host"), settings, &mut Watch::default()).unwrap_err();
    let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::in_memory().unwrap());
    drop(Bucket::attach(&objects, &at("host"), BucketSettings::default(), &mut Watch::default()));
    refused("host", "belongs to a host");
    let interval = Duration::ZERO;
    let wrong = FollowerSettings { interval, ..FollowerSettings::default() };
    let wrong = Follower::open(&shared, &at("new"), wrong).unwrap_err();
    assert!(wrong.to_string().contains("1 ms to 1 h"), "{wrong}");
    host.shutdown().unwrap();
}
