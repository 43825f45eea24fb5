//! How long a takeover takes, of a store as large as `LAPIDARY_TAKEOVER_MIB` says, in `LAPIDARY_TAKEOVER_FACETS` facets, in
//! the bucket of `LAPIDARY_S3_URL` or else in a directory. Prints figures; small by default.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapidary::bucket::{Bucket, BucketError, BucketSettings, Objects, RemoteObjects, Watch};
use lapidary::{Environment, Host, HostConfig};
use lapidary_tests::real_bucket::{number, url};

/// Rows of 4000 bytes that do not shrink, in transactions of a hundred.
fn fill(host: &Host, facets: u64, bytes: u64) {
    let rows = (bytes / facets / 4100).max(1);
    for some in (0..facets).collect::<Vec<_>>().chunks(64) {
        let begun: Vec<_> = some
            .iter()
            .map(|number| {
                let facet = host.facet(format!("f/{number}")).unwrap();
                facet.transaction(move |transaction| {
                    transaction.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, body)")?;
                    let fill = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?1) \
                                INSERT INTO t SELECT n, randomblob(4000) FROM n";
                    transaction.execute(fill, [i64::try_from(rows).unwrap()])?;
                    Ok(())
                })
            })
            .collect();
        for call in begun {
            call.wait().unwrap();
        }
    }
}

#[test]
fn a_takeover_is_quick_and_a_cold_query_takes_few_requests() {
    let (mib, facets) =
        (number("LAPIDARY_TAKEOVER_MIB", 48), number("LAPIDARY_TAKEOVER_FACETS", 300));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let url = url("takeover", directory.path());
    let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url).unwrap());
    let settings = BucketSettings {
        lease: Duration::from_secs(20),
        unshipped_bytes_max: 32 << 20,
        local_bytes_max: number("LAPIDARY_TAKEOVER_LOCAL_MIB", u64::MAX >> 20) << 20,
        ..BucketSettings::default()
    };
    let began = Instant::now();
    let local = Environment::system(path("first"));
    let bucket = Bucket::attach_waiting(&objects, &local, &settings, |_| false).unwrap();
    let host = Host::open_from_bucket(bucket, HostConfig::new()).unwrap();
    fill(&host, facets, mib << 20);
    host.sync_to_bucket().unwrap();
    let bucket = host.bucket().unwrap().clone();
    println!("{mib} MiB, {facets} facets, written in {:?}: {:?}", began.elapsed(), bucket.stat());
    println!("{:?}", host.stat().wait().unwrap().store);
    // Lost: it is not closed, and the lease runs out.
    bucket.fence("the test has lost it");
    drop(bucket);

    let local = Environment::system(path("second"));
    let mut watch = Watch::default();
    let (bucket, began) = loop {
        let began = Instant::now();
        match Bucket::attach(&objects, &local, settings.clone(), &mut watch) {
            Ok(bucket) => break (bucket, began),
            Err(BucketError::Held { .. }) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => panic!("{error}"),
        }
    };
    let attached = began.elapsed();
    let host = Host::open_from_bucket(bucket.clone(), HostConfig::new()).unwrap();
    let opened = began.elapsed();
    let count = |number: u64| {
        let facet = host.facet(format!("f/{number}")).unwrap();
        let rows =
            facet.query("SELECT n FROM t WHERE n = 1", (), |row| row.get::<_, i64>(0)).wait();
        assert_eq!(rows.unwrap(), [1], "facet {number}");
    };
    let at_open = bucket.stat();
    count(0);
    let first = began.elapsed();
    println!("attached {attached:?}, opened {opened:?}, first query {first:?}: {at_open:?}");
    println!("{:?}", host.stat().wait().unwrap().store);
    let mut most = 0;
    for number in (1..facets).step_by(usize::try_from(facets / 20).unwrap().max(1)) {
        let before = bucket.stat().gets;
        count(number);
        most = most.max(bucket.stat().gets - before);
    }
    println!("requests of a cold facet's first query: {most} at most");
    assert!(most <= 5, "{most} requests");
    assert!(first < Duration::from_secs(5), "{first:?}");
    host.shutdown().unwrap();
}
