//! The clock of the operating system jumps, by seconds and by months, both ways, while a store on real files
//! runs with its threads: bookmarks stay in order and name what they named, versions are found by their
//! time, history is let go of by age, and alarms follow the clock.
//!
//! The clock is the host's own, moved by the test: setting the machine's is nobody's to do in a test.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lapidary::{AlarmHandler, Bookmark, Environment, Host, HostConfig, Retention};
use lapidary_engine::Clock;
use lapidary_tests::chance::Chance;
use lapidary_tests::seeds::SIMULATION;

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 24 * 3_600 * SECOND_MS;
/// Long enough for anything that is to happen; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(30);

/// The machine's clock, as much ahead or behind as it was set.
#[derive(Debug)]
struct SetClock {
    ahead_ms: AtomicI64,
    start: Instant,
}

impl SetClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { ahead_ms: AtomicI64::new(0), start: Instant::now() })
    }

    fn jump(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now_ms = u64::try_from(now.as_millis()).unwrap();
        now_ms.checked_add_signed(self.ahead_ms.load(Ordering::SeqCst)).unwrap()
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }
}

fn open(path: &Path, clock: &Arc<SetClock>, config: HostConfig) -> Host {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Host::open_in(Environment { clock, ..Environment::system(path) }, config).unwrap()
}

/// A commit that the test knows of.
struct Noted {
    bookmark: Bookmark,
    value: i64,
}

/// All that was noted is in order, opens, and is what it was; and whatever time a version has, that time
/// finds the newest one that had come by then.
fn check(host: &Host, noted: &[Noted]) {
    let facet = host.facet("a").unwrap();
    for pair in noted.windows(2) {
        assert!(pair[0].bookmark < pair[1].bookmark);
        assert!(pair[0].bookmark.to_string() < pair[1].bookmark.to_string(), "as text");
    }
    for Noted { bookmark, value } in noted {
        let found: i64 = facet
            .read_at(*bookmark, |old| Ok(old.query_row("SELECT v FROM t", [], |row| row.get(0))?))
            .unwrap();
        assert_eq!(found, *value, "{bookmark}");
    }
    let versions = facet.versions().unwrap();
    assert_eq!(versions[0].bookmark, noted.last().unwrap().bookmark);
    for version in &versions {
        let found = facet.bookmark_at(version.wall_ms).unwrap();
        let first = versions.iter().find(|other| other.wall_ms <= version.wall_ms).unwrap();
        assert_eq!(found, first.bookmark, "by the time of {}", version.bookmark);
    }
}

#[test]
fn bookmarks_and_history_under_a_clock_that_jumps() {
    for seed in SIMULATION.seeds(3) {
        println!("{}", SIMULATION.replay(seed, "--test clock_jumps"));
        let mut chance = Chance::from_seed(seed);
        let directory = tempfile::tempdir().unwrap();
        let (path, clock) = (directory.path().join("store"), SetClock::new());
        let mut host = open(&path, &clock, HostConfig::new());
        let keep = Retention { bytes: 1 << 40, age: Duration::from_secs(3_000 * 24 * 3_600) };
        host.set_retention("a", Some(keep)).wait().unwrap();
        let setup = "CREATE TABLE t(v INTEGER); INSERT INTO t VALUES (0)";
        host.facet("a").unwrap().execute_batch(setup).wait().unwrap();
        let mut noted = Vec::new();
        for value in 1..60 {
            let facet = host.facet("a").unwrap();
            facet.execute("UPDATE t SET v = ?1", [value]).wait().unwrap();
            noted.push(Noted { bookmark: facet.bookmark().wait().unwrap(), value });
            let most = chance.pick(&[SECOND_MS, DAY_MS, 40 * DAY_MS]);
            let ms = i64::from(chance.below(2_000)) * most / 1_000 - most;
            match chance.below(6) {
                0..3 => clock.jump(ms),
                3 => host.store().checkpoint().unwrap(),
                4 => drop(host.store().clean().unwrap()),
                _ => {}
            }
            if chance.one_in(8) {
                // The machine comes up with another time than it went down with.
                host.shutdown().unwrap();
                clock.jump(ms);
                host = open(&path, &clock, HostConfig::new());
                check(&host, &noted);
            }
        }
        check(&host, &noted);
        let report = host.store().verify(&mut |_| ()).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

/// Age counts by the clock: what becomes old by a jump is let go of, and a jump back does not bring it back.
#[test]
fn history_leaves_by_age() {
    let directory = tempfile::tempdir().unwrap();
    let clock = SetClock::new();
    let host = open(&directory.path().join("store"), &clock, HostConfig::new());
    let day = Retention { bytes: 1 << 40, age: Duration::from_secs(24 * 3_600) };
    host.set_retention("a", Some(day)).wait().unwrap();
    let facet = host.facet("a").unwrap();
    let commit = |value: i64| {
        facet.execute_batch("CREATE TABLE IF NOT EXISTS t(v INTEGER)").wait().unwrap();
        facet.execute("INSERT INTO t VALUES (?1)", [value]).wait().unwrap();
        facet.bookmark().wait().unwrap()
    };
    let old = commit(1);
    commit(2);
    assert!(facet.read_at(old, |_| Ok(())).is_ok());
    clock.jump(3 * DAY_MS);
    let new = commit(3);
    assert!(facet.read_at(old, |_| Ok(())).is_err(), "it is three days old");
    clock.jump(-3 * DAY_MS);
    let newest = commit(4);
    assert!(facet.read_at(old, |_| Ok(())).is_err(), "it was let go of");
    assert!(facet.read_at(new, |_| Ok(())).is_ok() && old < new && new < newest);
}

#[test]
fn alarms_follow_the_clock() {
    static RAN: AtomicU32 = AtomicU32::new(0);
    let handler = AlarmHandler::new(|_, _, _| {
        RAN.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let directory = tempfile::tempdir().unwrap();
    let clock = SetClock::new();
    let host = open(&directory.path().join("store"), &clock, HostConfig::new().on_alarm(handler));
    let facet = host.facet("a").unwrap();
    let set = |name: &str, in_ms: i64| {
        let due_ms = clock.wall_ms().checked_add_signed(in_ms).unwrap();
        facet.alarms().set(name, due_ms, "").wait().unwrap();
    };
    let wait_for = |runs: u32| {
        let start = Instant::now();
        while RAN.load(Ordering::SeqCst) < runs {
            assert!(start.elapsed() < PATIENCE, "alarm {runs} does not run");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(RAN.load(Ordering::SeqCst), runs);
    };
    // It is due in a day, and the clock is set to tomorrow.
    set("tomorrow", DAY_MS);
    clock.jump(2 * DAY_MS);
    wait_for(1);
    // The clock is set back: what was due in a moment is due in a day.
    set("soon", 2 * SECOND_MS);
    clock.jump(-DAY_MS);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(RAN.load(Ordering::SeqCst), 1, "it is not due any more");
    // What is set by the clock as it is now is not held up by that.
    set("now", 0);
    wait_for(2);
    clock.jump(DAY_MS);
    wait_for(3);
}
