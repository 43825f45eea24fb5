//! Hosts that are lost, cut off, stopped and restarted at every request to the bucket and at every write
//! to the disk: what was shipped is what another host finds, and no two acknowledge.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::{Arc, Mutex};

use lapidary::bucket::{Bucket, BucketError};
use lapidary_engine::FileName;
use lapidary_tests::bucket_world::{BucketWorld, LEASE_MS, Machine, SimHost};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, Scale, Tolerated, small_options};
use lapidary_tests::sim_bucket::{RequestFault, RequestKind};
use lapidary_tests::sim_disk::{Operation, Survival};
use lapidary_tests::sim_environment::HandClock;

/// A short life of a host: a function of its seed.
#[derive(Clone, Copy, Debug)]
struct Workload {
    seed: u64,
    steps: u32,
    /// Bytes that a machine may keep.
    local_bytes_max: u64,
}

const WORKLOADS: [Workload; 4] = [
    Workload { seed: 1471, steps: 40, local_bytes_max: u64::MAX },
    Workload { seed: 2305, steps: 40, local_bytes_max: u64::MAX },
    // All that can be evicted is.
    Workload { seed: 1471, steps: 40, local_bytes_max: 0 },
    Workload { seed: 2305, steps: 40, local_bytes_max: 400 << 10 },
];

impl Workload {
    fn world(self) -> BucketWorld {
        let options = small_options(&mut Chance::from_seed(self.seed), Scale::FULL);
        let mut world = BucketWorld::new(self.seed, options);
        world.local_bytes_max = self.local_bytes_max;
        world
    }

    fn chance(self) -> Chance {
        Chance::from_seed(self.seed ^ 0xabcd)
    }

    /// A host that serves a new store.
    fn first(self, world: &BucketWorld, machine: Machine) -> SimHost {
        let model = world.model();
        world.take_over(machine, &[&model], true, self.chance()).unwrap()
    }

    /// Runs a host, shipping now and then, until it has run so many steps or is stopped. Nothing of it
    /// needs to go well if `any_end`.
    fn run(self, world: &BucketWorld, host: &mut SimHost, any_end: bool) {
        host.driver.tolerated = Tolerated { io: any_end, ..Tolerated::default() };
        for _ in 0..self.steps / 4 {
            let progress = match host.run(4) {
                Ok(progress) => progress,
                // What was evicted cannot be read any more.
                Err(_) if any_end && host.machine.objects.is_lost() => return,
                Err(failure) => panic!("{self:?}: {failure}"),
            };
            if progress == Progress::Stopped {
                assert!(any_end, "{self:?}: the host has stopped");
                return;
            }
            world.clock.advance_ms(500);
            match host.ship() {
                Ok(()) => {}
                Err(error) => assert!(any_end, "{self:?}: {error}"),
            }
            if host.machine.objects.is_lost() {
                return;
            }
        }
    }

    /// Requests of a life in which nothing goes wrong, those of getting hold included.
    fn requests(self) -> u64 {
        let mut world = self.world();
        let machine = world.machine();
        let mut host = self.first(&world, machine);
        self.run(&world, &mut host, false);
        host.machine.objects.requests()
    }
}

/// Has a new machine take over from a host that is lost, and yet another from that.
fn succeed(workload: Workload, world: &mut BucketWorld, lost: &mut SimHost, what: &str) {
    let chance = Chance::from_seed(workload.seed ^ 0x77);
    let machine = world.machine();
    let mut second = world
        .take_over(machine, &lost.models(), true, chance.clone())
        .unwrap_or_else(|failure| panic!("{workload:?}, {what}: {failure}"));
    let what = format!("{workload:?}, {what}, taken over");
    good(lost.check_fenced(), &what);
    good(second.driver.verify(), &what);
    good(second.run(8), &what);
    good(second.ship(), &what);
    good(second.run(3), &what);
    let machine = world.machine();
    let mut third = world
        .take_over(machine, &second.models(), false, chance)
        .unwrap_or_else(|failure| panic!("{workload:?}, {what}, then the next: {failure}"));
    good(third.driver.verify(), &what);
}

fn good<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|failure| panic!("{what}: {failure}"))
}

#[test]
fn a_host_lost_at_every_request() {
    for workload in WORKLOADS {
        let requests = workload.requests();
        assert!(requests > 10, "{workload:?} makes {requests} requests");
        for request in 0..requests {
            for is_done in [true, false] {
                let what = format!("lost at request {request}, done: {is_done}");
                let mut world = workload.world();
                let machine = world.machine();
                machine.objects.lose_at(request, is_done);
                let Ok(mut host) = start(&world, machine, workload.chance()) else {
                    // Lost while it claimed an empty bucket: the next one does, when the lease is over.
                    let machine = world.machine();
                    let model = world.model();
                    let chance = workload.chance();
                    good(world.take_over(machine, &[&model], true, chance), &what);
                    continue;
                };
                workload.run(&world, &mut host, true);
                assert!(host.machine.objects.is_lost(), "{what}: it goes another way");
                succeed(workload, &mut world, &mut host, &what);
            }
        }
    }
}

/// Has a machine serve a new store; the machine, if it does not come to that.
fn start(world: &BucketWorld, mut machine: Machine, chance: Chance) -> Result<SimHost, Machine> {
    let Ok(bucket) = world.attach(&mut machine) else { return Err(machine) };
    let Ok(store) = world.open(&bucket, true) else { return Err(machine) };
    bucket.serve(&store).unwrap();
    let model = world.model();
    let driver = Driver::new(store, model.clone(), machine.disk.clone(), chance);
    Ok(SimHost { driver, machine, bucket, shipped: model, under_way: None, before: Vec::new() })
}

/// Each fault at every request: the host goes on, and nothing is lost or mixed up.
#[test]
fn every_fault_at_every_request() {
    let workload = WORKLOADS[0];
    let faults = [
        RequestFault::Failed,
        RequestFault::AnswerLost,
        RequestFault::Late,
        RequestFault::Twice,
        RequestFault::Slow(400),
    ];
    for fault in faults {
        for request in 0..workload.requests() {
            let what = format!("{fault:?} at request {request}");
            let mut world = workload.world();
            let machine = world.machine();
            machine.objects.fail_at(request, fault);
            let mut host = workload.first(&world, machine);
            workload.run(&world, &mut host, true);
            world.bucket.settle();
            // What is under way is known to have landed after one more.
            host.ship().unwrap_or_else(|error| panic!("{what}: {error}"));
            host.run(2).unwrap();
            host.ship().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(host.under_way.is_none());
            succeed(workload, &mut world, &mut host, &what);
        }
    }
}

/// Another host takes over before each request of one that does not know: one whose clock stood still,
/// so that its lease seems good to it, and one whose clock went on.
#[test]
fn a_takeover_amid_every_request() {
    for (workload, stands_still) in [(WORKLOADS[0], true), (WORKLOADS[1], false)] {
        // Those before it serves are of getting hold.
        for request in 3..workload.requests() {
            let what = format!("taken over before request {request}, clock stands: {stands_still}");
            let mut world = workload.world();
            let mut machine = world.machine();
            if stands_still {
                machine.set_clock(HandClock::new());
            }
            let objects = machine.objects.clone();
            let mut host = workload.first(&world, machine);
            let taken: Arc<Mutex<Option<(Machine, Bucket)>>> = Arc::default();
            let other = world.machine();
            let world = Arc::new(world);
            objects.before(request, {
                let (world, taken) = (Arc::clone(&world), Arc::clone(&taken));
                move || {
                    let mut other = other;
                    // Not before the lease is over.
                    for _ in 0..3 {
                        let refused = world.attach(&mut other);
                        assert!(matches!(refused, Err(BucketError::Held { .. })), "{refused:?}");
                    }
                    world.clock.advance_ms(LEASE_MS);
                    let bucket = world.attach(&mut other).unwrap();
                    *taken.lock().unwrap() = Some((other, bucket));
                }
            });
            workload.run(&world, &mut host, true);
            let Some((mut machine, bucket)) = taken.lock().unwrap().take() else {
                continue;
            };
            let refused = host.ship().unwrap_err();
            assert!(matches!(refused, BucketError::Fenced { .. }), "{what}: {refused}");
            if stands_still {
                let told = refused.to_string();
                assert!(told.contains("took over") && told.contains("host-2"), "{told}");
            }
            host.check_fenced().unwrap_or_else(|failure| panic!("{what}: {failure}"));
            // What the other took over is what was shipped.
            drop(bucket);
            machine.disk = machine.disk.after_kill();
            world
                .take_over(machine, &host.models(), true, workload.chance())
                .unwrap_or_else(|failure| panic!("{what}: {failure}"));
        }
    }
}

/// Power is lost at every write to the disk, and the host comes back with what its disk kept: nothing
/// that was acknowledged locally is lost, and what it ships then is what another host finds.
#[test]
fn power_lost_at_every_operation_of_the_disk() {
    for workload in WORKLOADS {
        let operations = {
            let mut world = workload.world();
            let machine = world.machine();
            let mut host = workload.first(&world, machine);
            workload.run(&world, &mut host, false);
            host.machine.disk.operations()
        };
        for operation in 0..operations {
            let survival = match operation % 3 {
                0 => Survival::Nothing,
                1 => Survival::Everything,
                _ => Survival::Random(operation),
            };
            let what = format!("power lost at {operation}, {survival:?}");
            let mut world = workload.world();
            let machine = world.machine();
            machine.disk.crash_at(operation);
            let (model, mut machine) = match start(&world, machine, workload.chance()) {
                Err(machine) => (world.model(), machine),
                Ok(mut host) => {
                    workload.run(&world, &mut host, true);
                    (host.driver.model.clone(), host.machine)
                }
            };
            assert!(machine.disk.is_stopped(), "{what}: it goes another way");
            machine.disk = machine.disk.after_crash(survival);
            // It comes back at once: nobody else has it.
            let mut host = world
                .take_over(machine, &[&model], true, Chance::from_seed(operation))
                .unwrap_or_else(|failure| panic!("{workload:?}, {what}: {failure}"));
            host.driver
                .verify()
                .unwrap_or_else(|failure| panic!("{workload:?}, {what}: {failure}"));
            host.run(6).unwrap_or_else(|failure| panic!("{workload:?}, {what}: {failure}"));
            host.ship().unwrap_or_else(|failure| panic!("{workload:?}, {what}: {failure}"));
            succeed(workload, &mut world, &mut host, &what);
        }
    }
}

/// A process is killed at every write of the file `BUCKET` by which it comes back, so what it wrote last may be in
/// memory only, and the next one loses its power while it comes back: the directory still knows that the store is its own.
#[test]
fn killed_and_then_without_power_while_it_comes_back() {
    let workload = WORKLOADS[3];
    // A host that was killed, on its machine again.
    let killed = || {
        let mut world = workload.world();
        let machine = world.machine();
        let mut host = workload.first(&world, machine);
        workload.run(&world, &mut host, false);
        let SimHost { mut machine, bucket, driver, .. } = host;
        let model = driver.model.clone();
        drop((driver, bucket));
        machine.disk = machine.disk.after_kill();
        (world, machine, model)
    };
    let come_back = |world: &BucketWorld, machine: &mut Machine| {
        let Ok(bucket) = world.attach(machine) else { return };
        drop(world.open(&bucket, false));
    };
    // Operations that write what the directory knows of the bucket, and those beside them.
    let of_the_note = |world: &BucketWorld, machine: &mut Machine| -> Vec<u64> {
        come_back(world, machine);
        let trace = machine.disk.trace();
        let is_note = |operation: &Operation| operation.file == Some(FileName::Bucket);
        (0..).zip(&trace).filter(|(_, operation)| is_note(operation)).map(|(at, _)| at).collect()
    };
    let (world, mut machine, _) = killed();
    let mut losses = 0;
    for kill in of_the_note(&world, &mut machine) {
        let again = || {
            let (world, mut machine, model) = killed();
            machine.disk.crash_at(kill);
            come_back(&world, &mut machine);
            machine.disk = machine.disk.after_kill();
            (world, machine, model)
        };
        let (world, mut machine, _) = again();
        for loss in of_the_note(&world, &mut machine) {
            for turn in 0..16 {
                let (world, mut machine, model) = again();
                machine.disk.crash_at(loss);
                come_back(&world, &mut machine);
                losses += 1;
                machine.disk = machine.disk.after_crash(Survival::Random(loss << 8 | turn));
                let chance = workload.chance();
                world.take_over(machine, &[&model], false, chance).unwrap_or_else(|failure| {
                    panic!("killed at {kill}, power lost at {loss}, {turn}: {failure}")
                });
            }
        }
    }
    assert!(losses > 100, "{losses}");
}

/// Power is lost at every write of a machine that sets itself up from the bucket, and the machine goes on
/// with what its disk kept.
#[test]
fn power_lost_at_every_operation_of_a_takeover() {
    let workload = WORKLOADS[0];
    let lose = || {
        let mut world = workload.world();
        let machine = world.machine();
        let mut host = workload.first(&world, machine);
        workload.run(&world, &mut host, false);
        world.clock.advance_ms(LEASE_MS);
        (world, host)
    };
    let (mut world, host) = lose();
    let machine = world.machine();
    let second = world.take_over(machine, &host.models(), false, workload.chance()).unwrap();
    for operation in 0..second.machine.disk.operations() {
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(operation)] {
            let what = format!("power lost at {operation}, {survival:?}");
            let (mut world, mut host) = lose();
            let mut machine = world.machine();
            machine.disk.crash_at(operation);
            let mut stopped = world.attach(&mut machine);
            if matches!(stopped, Err(BucketError::Held { .. })) {
                world.clock.advance_ms(LEASE_MS);
                stopped = world.attach(&mut machine);
            }
            if let Ok(bucket) = stopped {
                drop(world.open(&bucket, false));
            }
            assert!(machine.disk.is_stopped(), "{what}: it goes another way");
            machine.disk = machine.disk.after_crash(survival);
            let mut second = world
                .take_over(machine, &host.models(), false, workload.chance())
                .unwrap_or_else(|failure| panic!("{what}: {failure}"));
            host.check_fenced().unwrap_or_else(|failure| panic!("{what}: {failure}"));
            second.run(5).unwrap_or_else(|failure| panic!("{what}: {failure}"));
            second.ship().unwrap_or_else(|error| panic!("{what}: {error}"));
            succeed(workload, &mut world, &mut second, &what);
        }
    }
}

/// A host that cannot reach the bucket stops when its lease runs out, and says so.
#[test]
fn a_host_that_is_cut_off_stops_with_its_lease() {
    let workload = WORKLOADS[0];
    let mut world = workload.world();
    let machine = world.machine();
    let mut host = workload.first(&world, machine);
    workload.run(&world, &mut host, false);
    host.machine.objects.cut_off(true);
    let error = host.ship().unwrap_err();
    assert!(matches!(error, BucketError::Objects(_)), "{error}");
    // It goes on for as long as the lease lasts.
    assert_eq!(host.run(4).unwrap(), Progress::Going);
    world.clock.advance_ms(LEASE_MS * 9 / 10);
    host.driver.tolerated = Tolerated { io: true, ..Tolerated::default() };
    let store = Arc::clone(&host.driver.store);
    let facet = store.create_facet(&lapidary_tests::driver::name("late"));
    let stopped = facet.and_then(|_| store.flush()).unwrap_err().to_string();
    assert!(stopped.contains("lease") && stopped.contains("ran out"), "{stopped}");
    // Reaching the bucket again is too late.
    host.machine.objects.cut_off(false);
    let error = host.ship().unwrap_err().to_string();
    assert!(error.contains("ran out"), "{error}");
    succeed(workload, &mut world, &mut host, "cut off");
}

/// What a host asks of the bucket does not depend on how many facets are written.
#[test]
fn two_requests_ship_whatever_was_written() {
    let workload = WORKLOADS[0];
    let mut world = workload.world();
    let machine = world.machine();
    let mut host = workload.first(&world, machine);
    host.ship().unwrap();
    for facets in [1, 10, 200] {
        for number in 0..facets {
            let name = lapidary_tests::driver::name(&format!("many/{facets}/{number}"));
            host.driver.store.create_facet(&name).unwrap();
        }
        host.driver.store.flush().unwrap();
        let before = world.bucket.trace().len();
        host.bucket.ship().unwrap();
        let trace = world.bucket.trace().split_off(before);
        assert_eq!(trace.len(), 2, "{trace:?}");
        assert!(trace.iter().all(|request| request.kind == RequestKind::Put));
    }
}

/// A host that came back has much to send before it can say anything new, and renews its lease meanwhile. If
/// that fails and is sent again, it does not pass for a shipment.
#[test]
fn a_renewal_that_failed_does_not_pass_for_a_shipment() {
    let workload = WORKLOADS[0];
    let mut world = workload.world();
    let machine = world.machine();
    let mut host = workload.first(&world, machine);
    workload.run(&world, &mut host, false);
    let shipped = host.bucket.shipped_lsn();
    host.run(12).unwrap();
    let SimHost { mut machine, driver, bucket, .. } = host;
    let model = driver.model.clone();
    drop((driver, bucket));
    machine.disk = machine.disk.after_kill();
    let host = world.take_over(machine, &[&model], false, workload.chance()).unwrap();
    assert!(host.driver.store.durable_lsn() > shipped);
    world.clock.advance_ms(LEASE_MS / 3);
    // After the first file that is sent.
    let next = host.machine.objects.requests();
    host.machine.objects.fail_at(next + 1, RequestFault::Failed);
    host.bucket.ship().unwrap_err();
    host.bucket.ship().unwrap();
    assert_eq!(host.bucket.shipped_lsn(), host.driver.store.durable_lsn());
}
