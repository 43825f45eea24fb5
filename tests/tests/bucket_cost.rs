//! What a store in a bucket costs while many facets are written, beside what replicating each database by itself would
//! cost for the same work. `LAPIDARY_COST_FACETS` facets that each commit once in `LAPIDARY_COST_EVERY` seconds, for
//! `LAPIDARY_COST_SECONDS`, in the bucket of `LAPIDARY_S3_URL` or else in a directory. Prints figures; small by default.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapidary::bucket::{Bucket, BucketSettings, BucketStat, Objects, RemoteObjects};
use lapidary::{Environment, Host, HostConfig};
use lapidary_tests::real_bucket::{number, url};

const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS message(id INTEGER PRIMARY KEY, role TEXT, body TEXT);
    CREATE TABLE IF NOT EXISTS state(key TEXT PRIMARY KEY, value)";
const TURN: &str = "INSERT INTO message(role, body) VALUES ('user', hex(randomblob(100)));
    INSERT INTO state VALUES ('step', 1) ON CONFLICT DO UPDATE SET value = value + 1";

/// One transaction of each of `facets`, all under way at a time.
fn commit_all(host: &Host, facets: impl Iterator<Item = u64>, sql: &'static str) -> u64 {
    let turns: Vec<_> = facets
        .map(|number| {
            let facet = host.facet(format!("agents/{number}")).unwrap();
            facet.transaction(move |transaction| Ok(transaction.execute_batch(sql)?))
        })
        .collect();
    let count = turns.len() as u64;
    turns.into_iter().for_each(|turn| turn.wait().unwrap());
    count
}

fn pages_bytes(host: &Host) -> u64 {
    host.meters_since(0).0.iter().map(|(_, meter)| meter.bytes_written).sum()
}

#[test]
fn requests_do_not_grow_with_the_facets_that_are_written() {
    let facets = number("LAPIDARY_COST_FACETS", 400);
    let every = number("LAPIDARY_COST_EVERY", 1);
    let seconds = number("LAPIDARY_COST_SECONDS", 3);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let url = url("cost", directory.path());
    let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url).unwrap());
    let settings = BucketSettings::default();
    let local = Environment::system(path("store"));
    let bucket = Bucket::attach_waiting(&objects, &local, &settings, |_| false).unwrap();
    let host = Host::open_from_bucket(bucket, HostConfig::new().pin_cores(false)).unwrap();
    for some in (0..facets).collect::<Vec<_>>().chunks(500) {
        commit_all(&host, some.iter().copied(), TABLES);
    }
    host.sync_to_bucket().unwrap();

    // Tenths of a second, in each of which its share of the facets commits.
    let (began, before) = (Instant::now(), host.bucket().unwrap().stat());
    let pages_before = pages_bytes(&host);
    let mut turns = 0;
    let ticks = every * 10;
    for tick in 0..seconds * 10 {
        turns +=
            commit_all(&host, (0..facets).filter(|number| number % ticks == tick % ticks), TURN);
        let next = began + Duration::from_millis(100 * (tick + 1));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    host.sync_to_bucket().unwrap();
    let (took, after) = (began.elapsed().as_secs_f64(), host.bucket().unwrap().stat());
    let pages = pages_bytes(&host) - pages_before;

    let grown = |of: fn(&BucketStat) -> u64| (of(&after) - of(&before)) as f64;
    let hour = |count: f64| count * 3600.0 / took;
    let (puts, gets) = (grown(|stat| stat.puts), grown(|stat| stat.gets));
    println!(
        "{facets} facets, {:.0} commits a second, {took:.1} s, by the hour:",
        turns as f64 / took
    );
    println!("| | writes | reads | deletes | GB written |");
    println!("|---|---|---|---|---|");
    println!(
        "| the store | {:.0} | {:.0} | {:.0} | {:.1} |",
        hour(puts),
        hour(gets),
        hour(grown(|stat| stat.deletes)),
        hour(grown(|stat| stat.put_bytes)) / 1e9
    );
    // No facet commits twice within the second that such a replicator waits, so each commit is an object.
    println!(
        "| each database by itself | {:.0} | 0 | {:.0} | {:.1} |",
        hour(turns as f64),
        hour(turns as f64),
        hour(pages as f64) / 1e9
    );
    assert!(puts <= 3.0 * took + 4.0, "{puts} requests to write in {took} s");
    assert!(turns > 0 && grown(|stat| stat.put_bytes) > 0.0);
    host.shutdown().unwrap();
}
