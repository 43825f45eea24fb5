//! Followers of hosts that are lost, restarted and taken over, with faults at every request of either: what a
//! follower shows was shipped, is no older than what the host knows to be in the bucket, and is never lost.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use lapidary_tests::bucket_world::{BucketWorld, SimHost};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Progress, Scale, Tolerated, small_options};
use lapidary_tests::follower_world::SimFollower;
use lapidary_tests::sim_bucket::RequestFault;
use lapidary_tests::sim_disk::Survival;

/// A short life of a host: a function of its seed.
#[derive(Clone, Copy, Debug)]
struct Workload {
    seed: u64,
    steps: u32,
}

const WORKLOADS: [Workload; 2] =
    [Workload { seed: 632, steps: 60 }, Workload { seed: 617, steps: 60 }];

impl Workload {
    fn world(self) -> BucketWorld {
        BucketWorld::new(self.seed, small_options(&mut Chance::from_seed(self.seed), Scale::FULL))
    }

    fn chance(self) -> Chance {
        Chance::from_seed(self.seed ^ 0xabcd)
    }

    fn first(self, world: &mut BucketWorld) -> SimHost {
        let (machine, model) = (world.machine(), world.model());
        world.take_over(machine, &[&model], true, self.chance()).unwrap()
    }

    /// Runs the host, with a look of `follower` after each shipment and amid what is not shipped; `any_end`: the host
    /// may be lost.
    fn run(
        self,
        world: &BucketWorld,
        host: &mut SimHost,
        follower: &mut SimFollower,
        any_end: bool,
        what: &str,
    ) {
        host.driver.tolerated = Tolerated { io: any_end, ..Tolerated::default() };
        for round in 0..self.steps / 4 {
            let progress = good(host.run(4), what);
            if progress == Progress::Stopped {
                assert!(any_end, "{what}: the host has stopped");
                return;
            }
            world.clock.advance_ms(500);
            let shipped = host.ship();
            assert!(any_end || shipped.is_ok(), "{what}: {shipped:?}");
            good(follower.look(host), what);
            if host.machine.objects.is_lost() {
                return;
            }
            if round == 5 {
                // Another process on the same machine, with the directory as it is.
                follower.stop();
            }
        }
    }
}

fn good<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|failure| panic!("{what}: {failure}"))
}

/// The host is lost at each of its requests, done or not, and others follow.
#[test]
fn a_follower_of_a_host_lost_at_every_request() {
    for workload in WORKLOADS {
        let requests = {
            let mut world = workload.world();
            let mut host = workload.first(&mut world);
            let mut follower = SimFollower::new(&world, 9);
            workload.run(&world, &mut host, &mut follower, false, "nothing goes wrong");
            assert!(follower.looks.0 > 8 && follower.looks.1 == 0, "{:?}", follower.looks);
            host.machine.objects.requests()
        };
        for request in 4..requests {
            for is_done in [true, false] {
                let what = format!("{workload:?}, lost at request {request}, done: {is_done}");
                let mut world = workload.world();
                let mut host = workload.first(&mut world);
                let mut follower = SimFollower::new(&world, 9);
                host.machine.objects.lose_at(request, is_done);
                workload.run(&world, &mut host, &mut follower, true, &what);
                let machine = world.machine();
                let chance = workload.chance();
                follower.note(&host.models());
                let mut second =
                    good(world.take_over(machine, &host.models(), true, chance), &what);
                good(follower.catch_up(&second), &what);
                workload.run(&world, &mut second, &mut follower, false, &what);
                good(follower.catch_up(&second), &what);
            }
        }
    }
}

/// Each fault at every request of the follower: it stays where it is or moves on, and shows nothing else.
#[test]
fn every_fault_at_every_request_of_a_follower() {
    let faults = [
        RequestFault::Failed,
        RequestFault::AnswerLost,
        RequestFault::Rotten,
        RequestFault::Slow(400),
    ];
    for workload in WORKLOADS {
        let requests = {
            let mut world = workload.world();
            let mut host = workload.first(&mut world);
            let mut follower = SimFollower::new(&world, 9);
            workload.run(&world, &mut host, &mut follower, false, "nothing goes wrong");
            follower.objects.requests()
        };
        assert!(requests > 20, "{requests}");
        for fault in faults {
            for request in 0..requests {
                let what = format!("{workload:?}, {fault:?} at request {request}");
                let mut world = workload.world();
                let mut host = workload.first(&mut world);
                let mut follower = SimFollower::new(&world, 9);
                // Once, and for longer than it is tried again.
                let times = if request % 2 == 0 { 1 } else { 5 };
                (request..request + times).for_each(|at| follower.objects.fail_at(at, fault));
                workload.run(&world, &mut host, &mut follower, false, &what);
                good(follower.catch_up(&host), &what);
            }
        }
    }
}

/// The host's power is lost, and it comes back with what its disk kept: what a follower has shown is still there.
#[test]
fn a_follower_of_a_host_that_loses_its_power() {
    let workload = WORKLOADS[0];
    let operations = {
        let mut world = workload.world();
        let mut host = workload.first(&mut world);
        let mut follower = SimFollower::new(&world, 9);
        workload.run(&world, &mut host, &mut follower, false, "nothing goes wrong");
        host.machine.disk.operations()
    };
    for operation in (30..operations).step_by(3) {
        for survival in [Survival::Nothing, Survival::Random(operation)] {
            let what = format!("power lost at {operation}, {survival:?}");
            let mut world = workload.world();
            let mut host = workload.first(&mut world);
            let mut follower = SimFollower::new(&world, 9);
            host.machine.disk.crash_at(operation);
            workload.run(&world, &mut host, &mut follower, true, &what);
            let before: Vec<_> = host.models().into_iter().cloned().collect();
            let SimHost { mut machine, driver, bucket, .. } = host;
            let model = driver.model.clone();
            drop((driver, bucket));
            machine.disk = machine.disk.after_crash(survival);
            let host = world.take_over(machine, &[&model], true, Chance::from_seed(operation));
            let mut host = SimHost { before, ..good(host, &what) };
            // Before the first shipment there is nothing to follow.
            if follower.looks.0 > 0 {
                good(follower.catch_up(&host), &what);
            }
            good(host.run(6), &what);
            good(host.ship(), &what);
            good(follower.catch_up(&host), &what);
        }
    }
}
