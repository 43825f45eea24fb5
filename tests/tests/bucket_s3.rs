//! The bucket tier against a real S3 server. `tests/seaweedfs.sh` starts one and runs these; they are
//! ignored otherwise.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lapidary::bucket::{
    Acknowledge, Bucket, BucketError, BucketSettings, Condition, Follower, FollowerSettings,
    ObjectErrorKind, Objects, RemoteObjects, Watch,
};
use lapidary::{Environment, Host, HostConfig, HostErrorKind};

/// A part of the bucket that no other test and no other run uses.
fn part() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let url = std::env::var("LAPIDARY_S3_URL").expect("tests/seaweedfs.sh sets LAPIDARY_S3_URL");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{url}/{}-{number}", now.as_nanos())
}

fn objects() -> Arc<dyn Objects> {
    Arc::new(RemoteObjects::open(&part()).unwrap())
}

fn settings(name: &str) -> BucketSettings {
    BucketSettings {
        name: name.to_owned(),
        interval: Duration::from_millis(200),
        pause: Duration::from_millis(100),
        lease: Duration::from_secs(3),
        ..BucketSettings::default()
    }
}

struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn serve(&self, objects: &Arc<dyn Objects>, name: &str, config: HostConfig) -> Host {
        let local = Environment::system(self.directory.path().join("store"));
        let bucket = Bucket::attach_waiting(objects, &local, &settings(name), |_| false).unwrap();
        Host::open_from_bucket(bucket, config.pin_cores(false)).unwrap()
    }
}

#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn conditional_writes_are_what_is_needed() {
    let objects = objects();
    let kind = |result: Result<_, lapidary::bucket::ObjectError>| result.unwrap_err().kind;
    assert_eq!(objects.get("manifest").unwrap_err().kind, ObjectErrorKind::NotFound);
    let mut tag = objects.put("manifest", b"0", Condition::Absent).unwrap();
    assert_eq!(kind(objects.put("manifest", b"x", Condition::Absent)), ObjectErrorKind::Condition);
    for round in 0..30_u8 {
        let won: Vec<_> = std::thread::scope(|scope| {
            let race = |writer: u8| {
                let (objects, tag) = (Arc::clone(&objects), &tag);
                scope.spawn(move || {
                    objects.put("manifest", &[round, writer], Condition::Unchanged(tag))
                })
            };
            let writers: Vec<_> = (0..2).map(race).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let won: Vec<_> = won.into_iter().flatten().collect();
        assert_eq!(won.len(), 1, "round {round}");
        tag = won[0].clone();
        assert_eq!(objects.get("manifest").unwrap().1, tag);
    }
    objects.put("objects/a", &[7; 300_000], Condition::Always).unwrap();
    assert_eq!(objects.get_range("objects/a", 100..200).unwrap(), [7; 100]);
    assert_eq!(objects.list("objects/").unwrap(), ["objects/a"]);
    objects.delete("objects/a").unwrap();
    objects.delete("objects/a").unwrap();
}

/// With the defaults: how many requests commits of many facets take, and what shipping them costs the host.
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn many_facets_take_three_requests_a_second() {
    let seconds = 5;
    let turns = |host: &Host| {
        let facets: Vec<_> = (0..200).map(|n| host.facet(format!("agents/{n}")).unwrap()).collect();
        let made = facets.iter().map(|facet| facet.execute("CREATE TABLE IF NOT EXISTS t(n)", ()));
        made.collect::<Vec<_>>().into_iter().for_each(|call| {
            let _ = call.wait().unwrap();
        });
        let (began, mut turns) = (Instant::now(), 0_u64);
        while began.elapsed() < Duration::from_secs(seconds) {
            let calls = facets.iter().map(|facet| facet.execute("INSERT INTO t VALUES (1)", ()));
            turns += calls
                .collect::<Vec<_>>()
                .into_iter()
                .map(|call| call.wait().unwrap() as u64)
                .sum::<u64>();
        }
        turns / seconds
    };
    let plain = Machine::new();
    let host = Host::open(plain.directory.path().join("store"), HostConfig::new().pin_cores(false))
        .unwrap();
    turns(&host);
    let without = turns(&host);
    host.shutdown().unwrap();

    let machine = Machine::new();
    let local = Environment::system(machine.directory.path().join("store"));
    let settings = BucketSettings { name: "many".to_owned(), ..BucketSettings::default() };
    let objects = objects();
    let attach = |local: &Environment| {
        Bucket::attach(&objects, local, settings.clone(), &mut Watch::default()).unwrap()
    };
    let host = Host::open_from_bucket(attach(&local), HostConfig::new().pin_cores(false)).unwrap();
    turns(&host);
    let (before, began) = (host.bucket().unwrap().stat(), Instant::now());
    let with = turns(&host);
    let (after, took) = (host.bucket().unwrap().stat(), began.elapsed());
    let puts = after.puts - before.puts;
    let a_second = puts as f64 / took.as_secs_f64();
    println!(
        "{without} turns a second without a bucket, {with} with; {a_second:.2} requests to write a second, {} bytes \
         each, manifest {} bytes",
        (after.put_bytes - before.put_bytes) / puts.max(1),
        after.manifest_bytes
    );
    assert!(a_second <= 3.0 + 3.0 / took.as_secs_f64(), "{a_second} requests a second");
    host.shutdown().unwrap();

    let next = Machine::new();
    let local = Environment::system(next.directory.path().join("store"));
    let began = Instant::now();
    let host = Host::open_from_bucket(attach(&local), HostConfig::new().pin_cores(false)).unwrap();
    let (opened, opening) = (began.elapsed(), host.bucket().unwrap().stat());
    let query = |n: usize| {
        let began = Instant::now();
        let before = host.bucket().unwrap().stat();
        let facet = host.facet(format!("agents/{n}")).unwrap();
        // The newest row: how many there are depends on the machine's speed, and so would what a scan reads.
        let newest = facet.query("SELECT max(rowid) FROM t", (), |row| row.get::<_, i64>(0)).wait();
        assert!(newest.unwrap()[0] > 0);
        (began.elapsed(), host.bucket().unwrap().stat().gets - before.gets)
    };
    let queries: Vec<_> = (0..200).step_by(20).map(query).collect();
    let (gets, bytes) = (opening.gets, opening.get_bytes);
    println!(
        "opened by another in {opened:?}, {gets} requests, {bytes} bytes; first queries of facets: {queries:?}"
    );
    assert!(queries.iter().all(|(_, gets)| *gets <= 5), "{queries:?}");
    host.shutdown().unwrap();
}

/// Wrong credentials are refused at once, and the bucket is named.
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn wrong_credentials_are_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let url = part();
    let refused = Command::new(env!("CARGO_BIN_EXE_bucket_child"))
        .args([&url, directory.path().join("store").to_str().unwrap(), "x", "local", "300", "1500"])
        .env("AWS_SECRET_ACCESS_KEY", "wrong")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains(&url), "{told}");
    println!("{}", told.trim());
}

/// A process that serves the store and can be killed.
struct Child {
    process: std::process::Child,
    lines: Receiver<(Instant, String)>,
    _directory: tempfile::TempDir,
}

impl Child {
    fn start(url: &str, name: &str, acknowledge: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_bucket_child"))
            .args([url, directory.path().join("store").to_str().unwrap(), name, acknowledge])
            .args([INTERVAL_MS.to_string(), LEASE_MS.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = tell.send((Instant::now(), line));
            }
        });
        Self { process, lines, _directory: directory }
    }

    /// The numbers of the next line that begins with `word`.
    fn expect(&self, word: &str) -> Vec<i64> {
        loop {
            let (_, line) = self.lines.recv_timeout(Duration::from_secs(60)).expect(word);
            if let Some(rest) = line.strip_prefix(word) {
                return rest.split_whitespace().map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    /// Kills it, and says what was answered for: when, and which row.
    fn kill(mut self, after: Duration) -> (Instant, Vec<(Instant, i64)>) {
        std::thread::sleep(after);
        self.process.kill().unwrap();
        let killed = Instant::now();
        self.process.wait().unwrap();
        let answered = |(at, line): (Instant, String)| {
            let row = line.strip_prefix("answered ").unwrap_or_else(|| panic!("it says {line}"));
            (at, row.parse().unwrap())
        };
        (killed, self.lines.iter().map(answered).collect())
    }
}

const INTERVAL_MS: u64 = 300;
const LEASE_MS: u64 = 2_000;

/// Hosts are lost with their disks, one after the other, amid commits: of what was answered for in the
/// bucket nothing is lost, of what was answered for locally nothing older than two intervals.
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn hosts_are_lost_and_followed() {
    let losses: u32 =
        std::env::var("LAPIDARY_HOST_LOSSES").map_or(10, |count| count.parse().unwrap());
    for acknowledge in ["bucket", "local", "mixed"] {
        let url = part();
        let (mut must, mut most) = (0, 0);
        let mut waited = Duration::ZERO;
        for loss in 0..losses {
            let began = Instant::now();
            let child = Child::start(&url, &format!("host-{loss}"), acknowledge);
            child.expect("held");
            let held = began.elapsed();
            let found = child.expect("found");
            waited = waited.max(began.elapsed());
            let (count, last) = (found[0], found[1]);
            assert_eq!(count, last, "loss {loss}: it is not a prefix of what was done");
            assert!(
                last >= must,
                "{acknowledge}, loss {loss}: row {must} was answered for, {last} is left"
            );
            println!(
                "{acknowledge}, loss {loss}: {last} rows, {must} must be there, {most} were answered; held after {held:?}, serves after {:?}",
                began.elapsed()
            );
            let life = Duration::from_millis(600 + u64::from(loss * 137 % 900));
            let (killed, answered) = child.kill(life);
            most = answered.last().map_or(last, |(_, row)| *row);
            let window = Duration::from_millis(2 * INTERVAL_MS);
            must = match acknowledge {
                "bucket" => most,
                "mixed" => {
                    let surely = answered.iter().filter(|(_, row)| row % 2 == 0);
                    surely.map(|(_, row)| *row).max().unwrap_or(last).max(last)
                }
                _ => {
                    let old = answered.iter().filter(|(at, _)| *at + window < killed);
                    old.map(|(_, row)| *row).max().unwrap_or(last).max(last)
                }
            };
        }
        println!(
            "{acknowledge}: {losses} hosts lost, the longest way to the first answer {waited:?}"
        );
    }
}

/// A host that was stopped for longer than its lease refuses when it goes on, and says why.
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn a_stopped_host_does_not_answer_when_it_goes_on() {
    for acknowledge in ["bucket", "local"] {
        let url = part();
        let first = Child::start(&url, "first", acknowledge);
        first.expect("found");
        first.expect("answered");
        let signal = |signal: &str| {
            let id = first.process.id().to_string();
            assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        };
        signal("-STOP");
        while first.lines.try_recv().is_ok() {}
        let second = Child::start(&url, "second", acknowledge);
        let last = second.expect("found")[1];
        second.expect("answered");
        let stopped_at = Instant::now();
        signal("-CONT");
        let mut after = Vec::new();
        let why = loop {
            let (at, line) = first.lines.recv_timeout(Duration::from_secs(30)).unwrap();
            match line.strip_prefix("answered ") {
                Some(row) => after.push((at, row.parse::<i64>().unwrap())),
                None => break line,
            }
        };
        assert!(
            why.starts_with("refused") && (why.contains("lease") || why.contains("took over")),
            "{why}"
        );
        // What it had answered for, and was on its way to be said.
        if acknowledge == "bucket" {
            assert!(after.iter().all(|(_, row)| *row <= last), "{after:?} and {last}");
        }
        println!("{acknowledge}: after {:?}: {why}", stopped_at.elapsed());
        let (_, answered) = second.kill(Duration::from_millis(500));
        assert!(!answered.is_empty(), "the second goes on");
        let mut first = first;
        let _ = first.process.kill();
        let _ = first.process.wait();
    }
}

/// A host that was taken over refuses, and says who took over.
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn one_of_two_hosts_writes() {
    let objects = objects();
    let (one, two) = (Machine::new(), Machine::new());
    let first = one.serve(&objects, "first", HostConfig::new());
    first.facet("a").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
    first.sync_to_bucket().unwrap();
    let local = Environment::system(two.directory.path().join("store"));
    let refused = Bucket::attach(&objects, &local, settings("second"), &mut Watch::default());
    assert!(
        matches!(refused, Err(BucketError::Held { ref holder, .. }) if holder == "first"),
        "{refused:?}"
    );
    drop(refused);
    first.shutdown().unwrap();
    drop(first);
    // Given back, so nobody waits.
    let began = Instant::now();
    let second = two.serve(&objects, "second", HostConfig::new());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let found =
        second.facet("a").unwrap().query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(found.wait().unwrap(), [0]);
    // The first machine comes back with its old directory: it is told.
    let local = Environment::system(one.directory.path().join("store"));
    let stale =
        Bucket::attach(&objects, &local, settings("first"), &mut Watch::default()).unwrap_err();
    assert!(matches!(stale, BucketError::StaleDirectory { .. }), "{stale}");
    assert_eq!(stale.kind(), HostErrorKind::InvalidInput);
}

/// Milliseconds by which a share of a thousand of `lags` are at most behind.
fn at(lags: &[u64], of_1000: usize) -> u64 {
    lags[(lags.len() * of_1000 / 1000).min(lags.len() - 1)]
}

/// A host writes to 200 facets as fast as it can, with the default settings, and each row says when it was
/// written: how far behind is what a follower shows?
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn a_follower_is_two_intervals_behind_at_most() {
    let seconds: u64 =
        std::env::var("LAPIDARY_FOLLOW_SECONDS").map_or(20, |seconds| seconds.parse().unwrap());
    let objects = objects();
    let (machine, other) = (Machine::new(), Machine::new());
    let local = Environment::system(machine.directory.path().join("store"));
    let settings = BucketSettings { name: "writer".to_owned(), ..BucketSettings::default() };
    let bucket = Bucket::attach(&objects, &local, settings, &mut Watch::default()).unwrap();
    let host = Host::open_from_bucket(bucket, HostConfig::new().pin_cores(false)).unwrap();
    let facets: Vec<_> = (0..200).map(|n| host.facet(format!("agents/{n}")).unwrap()).collect();
    let began = Instant::now();
    let now_ms = || i64::try_from(began.elapsed().as_millis()).unwrap();
    let made = facets.iter().map(|facet| facet.execute("CREATE TABLE t(at)", ()));
    made.collect::<Vec<_>>().into_iter().for_each(|call| assert!(call.wait().is_ok()));
    host.sync_to_bucket().unwrap();
    let cache = Environment::system(other.directory.path().join("cache"));
    let follower = Follower::open(&objects, &cache, FollowerSettings::default()).unwrap();
    let (mut lags, mut took, mut turns) = (Vec::new(), Vec::new(), 0_u64);
    let (mut moves, mut written_bytes) = (0, 0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut turns = 0;
            while began.elapsed() < Duration::from_secs(seconds) {
                let insert = |facet: &lapidary::FacetHandle| {
                    facet.execute("INSERT INTO t VALUES (?1)", [now_ms()])
                };
                let calls: Vec<_> = facets.iter().map(insert).collect();
                turns += calls.len() as u64;
                calls.into_iter().for_each(|call| assert!(call.wait().is_ok()));
            }
            turns
        });
        // Not before the first rows have come.
        std::thread::sleep(Duration::from_secs(3));
        let mut number = 0;
        while !writer.is_finished() {
            number = (number + 7) % 200;
            let asked = now_ms();
            let newest = follower.read(format!("agents/{number}"), |connection| {
                let newest = "SELECT max(at) FROM (SELECT at FROM t ORDER BY rowid DESC LIMIT 1)";
                Ok(connection.query_row(newest, (), |row| row.get::<_, Option<i64>>(0))?)
            });
            lags.push(u64::try_from(asked - newest.unwrap().unwrap()).unwrap_or(0));
            let stat = follower.stat();
            if stat.moves != moves {
                moves = stat.moves;
                took.push(stat.took_us / 1000);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        turns = writer.join().unwrap();
        written_bytes = host.store().stat().written_bytes;
    });
    lags.sort_unstable();
    took.sort_unstable();
    println!(
        "{} turns a second, {} bytes of log a second; behind by {} ms (median), {} ms (99 %), {} ms (most); moving \
         on takes {} ms (median), {} ms (99 %); {:?}",
        turns / seconds,
        written_bytes / seconds,
        at(&lags, 500),
        at(&lags, 990),
        lags.last().unwrap(),
        at(&took, 500),
        at(&took, 990),
        follower.stat()
    );
    assert!(at(&lags, 990) <= 2_000, "{} ms", at(&lags, 990));
    host.shutdown().unwrap();
}

/// Sessions read at followers what they wrote at the host, also when hosts are lost amid it.
#[test]
#[ignore = "needs an S3 server: tests/seaweedfs.sh"]
fn followers_go_on_from_host_to_host() {
    let objects = objects();
    let other = Machine::new();
    let mut follower: Option<Follower> = None;
    let (mut epoch, mut rows) = (0, 0);
    for number in 0..4 {
        let machine = Machine::new();
        let host = machine.serve(
            &objects,
            &format!("host-{number}"),
            HostConfig::new().acknowledge(Acknowledge::InBucket),
        );
        let facet = host.facet("tenants/acme").unwrap();
        facet.execute("CREATE TABLE IF NOT EXISTS t(n)", ()).wait().unwrap();
        let follower = follower.get_or_insert_with(|| {
            let cache = Environment::system(other.directory.path().join("cache"));
            Follower::open(&objects, &cache, FollowerSettings::default()).unwrap()
        });
        for _ in 0..5 {
            let calls: Vec<_> =
                (0..20).map(|n| facet.execute("INSERT INTO t VALUES (?1)", [n])).collect();
            rows += calls.into_iter().map(|call| call.wait().unwrap()).sum::<usize>();
            let written = facet.bookmark().wait().unwrap();
            let wait = Duration::from_secs(10);
            let found = follower.read_at_least("tenants/acme", written, wait, |connection| {
                Ok(connection
                    .query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))?)
            });
            assert_eq!(found.unwrap(), i64::try_from(rows).unwrap(), "host {number}");
        }
        let stat = follower.stat();
        assert!(stat.epoch > epoch, "{stat:?}");
        epoch = stat.epoch;
        // Lost, with its disk.
        host.bucket().unwrap().fence("lost, by the test");
        drop(host);
    }
    println!("{:?}", follower.unwrap().stat());
}
