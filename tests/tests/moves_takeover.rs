//! The host of a source or a destination is lost while a subtree moves, and another takes over its store from the
//! bucket: the move goes on, nothing that the bucket was promised to have is lost, and no two hosts that have
//! not been lost serve the name.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapidary::bucket::{Acknowledge, Bucket, BucketError, BucketSettings, Objects, Watch};
use lapidary::{Environment, FacetName, Host, HostConfig, HostError, HostErrorKind};
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_bucket::{SimBucket, SimObjects};
use lapidary_tests::sim_disk::SimDisk;
use lapidary_tests::sim_environment::{HandClock, SimEntropy};

const NAMES: [&str; 2] = ["acme", "acme/1"];

/// A store in a bucket of its own, and the machine that serves it now.
struct Side {
    bucket: SimBucket,
    clock: HandClock,
    machines: u64,
    seed: u64,
    acknowledge: Acknowledge,
    objects: SimObjects,
    disk: SimDisk,
}

impl Side {
    fn new(seed: u64, acknowledge: Acknowledge) -> Self {
        let clock = HandClock::new();
        let bucket = SimBucket::new(seed, &clock);
        let (objects, disk) = (bucket.host(), SimDisk::new(seed));
        Self { bucket, clock, machines: 0, seed, acknowledge, objects, disk }
    }

    /// A new machine, with an empty disk, has the store.
    fn take_over(&mut self) -> Host {
        self.machines += 1;
        self.objects = self.bucket.host();
        self.disk = SimDisk::new(self.seed ^ self.machines);
        let objects: Arc<dyn Objects> = Arc::new(self.objects.clone());
        let environment = Environment {
            io: Arc::new(self.disk.clone()),
            clock: Arc::new(self.clock.ahead_by_ms(self.machines * 3_600_000)),
            entropy: Arc::new(SimEntropy::new(self.seed ^ self.machines << 8)),
        };
        let settings = BucketSettings {
            name: format!("machine-{}", self.machines),
            interval: Duration::from_millis(1),
            pause: Duration::from_millis(1),
            ..BucketSettings::default()
        };
        let mut watch = Watch::default();
        let bucket = loop {
            match Bucket::attach(&objects, &environment, settings.clone(), &mut watch) {
                Ok(bucket) => break bucket,
                Err(BucketError::Held { .. }) => self.clock.advance_ms(500),
                Err(error) => panic!("{error}"),
            }
        };
        let config = HostConfig::new()
            .cores(NonZeroUsize::MIN)
            .pin_cores(false)
            .acknowledge(self.acknowledge);
        Host::open_from_bucket(bucket, config).unwrap()
    }

    /// The machine is lost, with its disk.
    fn lose(&self) {
        self.disk.crash();
        self.objects.cut_off(true);
    }
}

fn put(host: &Host, name: &str, n: u64) -> Result<(), HostError> {
    let sql = format!("CREATE TABLE IF NOT EXISTS t(n); INSERT INTO t VALUES ({n})");
    host.facet(name)?.execute_batch(sql).wait()
}

fn serves(host: &Host) -> bool {
    NAMES.iter().any(|name| host.store().facet_exists(&FacetName::new(name).unwrap()))
}

/// Which machine is lost at which of its requests from the beginning of the move on.
#[derive(Clone, Copy, Debug)]
struct Plan {
    is_source: bool,
    request: u64,
    /// Whether the request is done that it is lost at.
    is_done: bool,
    acknowledge: Acknowledge,
}

/// Returns how many requests either made in the move, and whether that was interrupted.
fn live(seed: u64, plan: Plan) -> ((u64, u64), bool) {
    let mut sides = (Side::new(seed, plan.acknowledge), Side::new(!seed, plan.acknowledge));
    let (mut source, mut destination) = (sides.0.take_over(), sides.1.take_over());
    let mut promised = BTreeSet::new();
    for (n, name) in (0..).zip(NAMES.repeat(3)) {
        put(&source, name, n).unwrap();
        promised.insert(n);
    }
    source.sync_to_bucket().unwrap();
    destination.sync_to_bucket().unwrap();

    let begun = (sides.0.objects.requests(), sides.1.objects.requests());
    let (losing, at) =
        if plan.is_source { (&sides.0.objects, begun.0) } else { (&sides.1.objects, begun.1) };
    losing.lose_at(at.saturating_add(plan.request), plan.is_done);
    let moved = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            for n in 1_000.. {
                if put(&source, "acme/1", n).is_err() {
                    break;
                }
                acknowledged.push(n);
            }
            acknowledged
        });
        // One that is lost waits for its bucket as long as its clock stands.
        let is_over = AtomicBool::new(false);
        let (moved, acknowledged) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    if sides.0.objects.is_lost() || sides.1.objects.is_lost() {
                        let lost = if plan.is_source { &sides.0 } else { &sides.1 };
                        lost.lose();
                        lost.clock.advance_ms(1_000);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let moved = source.move_to_store("acme", &destination, "the destination");
            if moved.is_err() {
                source.store().stop("the test");
                sides.0.lose();
            }
            let acknowledged = loop {
                if writing.is_finished() {
                    break writing.join().unwrap();
                }
                if moved.is_err() {
                    sides.0.clock.advance_ms(1_000);
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            is_over.store(true, Ordering::Relaxed);
            (moved, acknowledged)
        });
        if plan.acknowledge == Acknowledge::InBucket || moved.is_ok() {
            promised.extend(acknowledged);
        }
        moved
    });
    let requests = (sides.0.objects.requests() - begun.0, sides.1.objects.requests() - begun.1);
    // Whoever was to be lost later is not: nobody would move its clock on.
    let is_lost = sides.0.objects.spare() | sides.1.objects.spare();
    if moved.is_err() || is_lost || plan.request.is_multiple_of(2) {
        // The other one stops as well, and comes back from its bucket.
        for (side, host) in [(&mut sides.0, &mut source), (&mut sides.1, &mut destination)] {
            side.lose();
            host.store().stop("the test");
            *host = side.take_over();
        }
    }
    assert!(!(serves(&source) && serves(&destination)), "both serve it");
    if !serves(&source) {
        for name in NAMES {
            let refused = put(&source, name, 5_000_000).unwrap_err();
            assert_eq!(refused.kind(), HostErrorKind::Moved, "{refused}");
        }
    }
    // What the source knows nothing of was never sealed, as far as its bucket has it.
    let ids: BTreeSet<_> = source.departures().unwrap().iter().map(|gone| gone.id()).collect();
    for arrival in destination.arrivals().unwrap() {
        if !ids.contains(&arrival.id()) {
            arrival.discard().unwrap();
        }
    }
    source.move_to_store("acme", &destination, "the destination").unwrap();
    assert!(!serves(&source));
    let mut found = Vec::new();
    for name in NAMES {
        let facet = destination.facet(name).unwrap();
        let rows = facet.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0)).wait().unwrap();
        found.extend(rows.into_iter().map(i64::cast_unsigned));
    }
    let distinct: BTreeSet<u64> = found.iter().copied().collect();
    assert_eq!(distinct.len(), found.len(), "a row is there twice");
    let lost: Vec<_> = promised.difference(&distinct).collect();
    assert!(lost.is_empty(), "{lost:?}");
    for host in [&source, &destination] {
        assert!(host.departures().unwrap().is_empty() && host.arrivals().unwrap().is_empty());
    }
    (requests, moved.is_err())
}

#[test]
fn a_move_survives_the_loss_of_a_machine() {
    let mut interrupted = 0_u32;
    for seed in SIMULATION.seeds(2) {
        for acknowledge in [Acknowledge::Locally, Acknowledge::InBucket] {
            let never = Plan { is_source: true, request: u64::MAX, is_done: true, acknowledge };
            let (requests, _) = live(seed, never);
            for (is_source, requests) in [(true, requests.0), (false, requests.1)] {
                for request in (seed % 2..requests.min(80)).step_by(2) {
                    let is_done = (seed ^ (request / 2)).is_multiple_of(2);
                    let plan = Plan { is_source, request, is_done, acknowledge };
                    match std::panic::catch_unwind(|| live(seed, plan)) {
                        Ok((_, is_interrupted)) => interrupted += u32::from(is_interrupted),
                        Err(_) => {
                            let replay = SIMULATION.replay(seed, "--test moves_takeover");
                            panic!("{plan:?}; to repeat: {replay}");
                        }
                    }
                }
            }
        }
    }
    println!("{interrupted} moves were interrupted");
    if std::env::var_os(SIMULATION.one).is_none() {
        assert!(interrupted > 10, "{interrupted} moves were interrupted");
    }
}
