//! Long random lives of hosts on one bucket that fails in every way it can: hosts are lost, killed, cut
//! off, stopped and come back; the store goes from one to the next, and another machine follows it.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::time::Duration;

use lapidary::bucket::BucketError;
use lapidary_tests::bucket_world::{BucketWorld, LEASE_MS, Machine, SimHost, in_order};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Progress, Scale, Tolerated, small_options};
use lapidary_tests::failure::{Failure, wrong};
use lapidary_tests::follower_world::SimFollower;
use lapidary_tests::history_world::SimHistory;
use lapidary_tests::model::Model;
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_disk::Survival;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Came {
    lost: u64,
    restarted: u64,
    fenced: u64,
    shipped: u64,
    failed: u64,
    followed: u64,
    /// Bytes that were evicted.
    evicted: u64,
    /// Points of history that were made, those that went, and those of which a store was made.
    points: (u64, u64, u64),
}

/// Ends a host's process and lets another machine have the store.
fn lose(
    world: &mut BucketWorld,
    mut host: SimHost,
    chance: &mut Chance,
    came: &mut Came,
) -> Result<SimHost, Failure> {
    came.lost += 1;
    let mut machine = world.machine();
    let bucket = world.attach_in_the_end(&mut machine)?;
    let models = host.models_at(bucket.shipped_lsn());
    let next = world.serve(machine, bucket, &models, true, chance.split())?;
    if chance.one_in(2) {
        came.fenced += 1;
        host.check_fenced()?;
    }
    Ok(next)
}

/// Ends a host's process, or its machine's power, and starts it again.
fn restart(
    world: &BucketWorld,
    host: SimHost,
    chance: &mut Chance,
    came: &mut Came,
) -> Result<SimHost, Failure> {
    came.restarted += 1;
    let before = host.models().into_iter().cloned().collect();
    let SimHost { mut machine, driver, bucket, .. } = host;
    let model: Model = driver.model.clone();
    drop((driver, bucket));
    machine.disk = if chance.one_in(3) {
        machine.disk.after_kill()
    } else {
        machine.disk.after_crash(Survival::Random(chance.number()))
    };
    let next = world.take_over(machine, &[&model], true, chance.split())?;
    Ok(SimHost { before, ..next })
}

/// A host gives the store back, and another has it without waiting. If the host fails at that for as long as its lease
/// lasts, the other waits, and has what came into the bucket.
fn hand_over(
    world: &mut BucketWorld,
    host: SimHost,
    history: &mut SimHistory,
    chance: &mut Chance,
    came: &mut Came,
) -> Result<SimHost, Failure> {
    history.note(&host.models());
    let before: Vec<Model> = host.models().into_iter().cloned().collect();
    let is_under_way = host.under_way.is_some();
    let SimHost { driver, bucket, .. } = host;
    let model = driver.close()?;
    history.note(&[&model]);
    for _ in 0..100 {
        match bucket.close() {
            Ok(()) => {
                let machine = world.machine();
                return world.take_over(machine, &[&model], false, chance.split());
            }
            Err(BucketError::Objects(_)) => {}
            Err(BucketError::Fenced { .. }) => {
                came.fenced += 1;
                let mut machine = world.machine();
                let next = world.attach_in_the_end(&mut machine)?;
                let (known, shipped) = (bucket.shipped_lsn(), next.shipped_lsn());
                let before = in_order(before, is_under_way, known, shipped);
                let models: Vec<_> = before.iter().chain([&model]).collect();
                return world.serve(machine, next, &models, true, chance.split());
            }
            Err(error) => return wrong(format!("a host cannot give its store back: {error}")),
        }
    }
    wrong("giving back never succeeds".to_owned())
}

fn life(seed: u64, rounds: u32) -> Result<Came, Failure> {
    let mut chance = Chance::from_seed(seed);
    let mut came = Came::default();
    let mut world = BucketWorld::new(seed, small_options(&mut chance, Scale::FULL));
    world.bucket.set_faults(chance.pick(&[0, 20, 100, 200]));
    world.local_bytes_max = chance.pick(&[u64::MAX, u64::MAX, 0, 256 << 10, 512 << 10, 1 << 20]);
    let history_for = chance.pick(&[None, Some(3), Some(20)]).map(Duration::from_secs);
    world.history_for = history_for;
    let kept = history_for.unwrap_or(Duration::MAX);
    let mut history = SimHistory::new(&world);
    let machine: Machine = world.machine();
    let model = world.model();
    let mut host = world.take_over(machine, &[&model], true, chance.split())?;
    let mut follower = SimFollower::new(&world, 99);
    for _ in 0..rounds {
        if chance.one_in(2) {
            follower.look(&host)?;
        } else if chance.one_in(8) {
            follower.stop();
        }
        // A host may not have been told of the history.
        world.history_for = history_for.filter(|_| !chance.one_in(4));
        // Whoever serves the store next may not have shipped when it is looked at again.
        follower.note(&host.models());
        host = match chance.below(20) {
            0..2 => lose(&mut world, host, &mut chance, &mut came)?,
            2..4 => restart(&world, host, &mut chance, &mut came)?,
            4 => hand_over(&mut world, host, &mut history, &mut chance, &mut came)?,
            5 => {
                // Cut off for a while, perhaps for longer than its lease.
                host.machine.objects.cut_off(true);
                let _ = host.ship();
                world.clock.advance_ms(u64::from(chance.below(12_000)));
                host.machine.objects.cut_off(false);
                host
            }
            6 => {
                // Power is lost amid something.
                host.machine
                    .disk
                    .crash_at(host.machine.disk.operations() + u64::from(chance.below(40)));
                host.driver.tolerated = Tolerated { io: true, ..Tolerated::default() };
                loop {
                    match host.run(4) {
                        Ok(Progress::Going) if !host.machine.disk.is_stopped() => {}
                        // Also what is read first is written, to the cache: a check may be cut short.
                        Err(failure) if !host.machine.disk.is_stopped() => return Err(failure),
                        _ => break,
                    }
                }
                restart(&world, host, &mut chance, &mut came)?
            }
            _ => host,
        };
        host.driver.tolerated = Tolerated { io: true, ..Tolerated::default() };
        let progress = host.run(chance.between(1, 12))?;
        world.clock.advance_ms(u64::from(chance.below(1_500)));
        let before = host.bucket.stat().evicted_bytes;
        let shipped = host.ship();
        history.look(&host, shipped.is_ok(), kept)?;
        if shipped.is_ok() && chance.one_in(8) {
            history.keep_point(&mut host, kept)?;
        }
        if chance.one_in(4) {
            history.check_whole()?;
            history.check_one(&world, &mut chance)?;
        }
        follower.check_kept(&host)?;
        came.evicted += host.bucket.stat().evicted_bytes - before;
        match shipped {
            Ok(()) => came.shipped += 1,
            Err(BucketError::Objects(_)) => came.failed += 1,
            // Its lease ran out: it stops, and is opened again, here or elsewhere.
            Err(BucketError::Fenced { .. }) => {
                came.fenced += 1;
                host.check_fenced()?;
                follower.note(&host.models());
                if chance.one_in(2) {
                    world.clock.advance_ms(LEASE_MS);
                    host = lose(&mut world, host, &mut chance, &mut came)?;
                } else {
                    host = restart(&world, host, &mut chance, &mut came)?;
                }
                continue;
            }
            Err(error) => return wrong(format!("shipping failed: {error}")),
        }
        if progress == Progress::Stopped {
            return wrong("the store stopped for no reason".to_owned());
        }
    }
    follower.note(&host.models());
    let mut last = lose(&mut world, host, &mut chance, &mut came)?;
    last.driver.verify()?;
    follower.note(&[&last.shipped]);
    follower.catch_up(&last)?;
    came.followed = follower.looks.0;
    drop(follower);
    clean(&mut world, last, &mut history, kept)?;
    came.points = history.seen;
    Ok(came)
}

/// In the end nothing is in the bucket that nothing leads to: with the history there is, and without.
fn clean(
    world: &mut BucketWorld,
    host: SimHost,
    history: &mut SimHistory,
    kept: Duration,
) -> Result<(), Failure> {
    let mut host = host;
    for (history_for, kept) in [(None, kept), (Some(Duration::ZERO), Duration::ZERO)] {
        world.bucket.set_faults(0);
        world.bucket.settle();
        world.history_for = history_for;
        let mut machine = world.machine();
        let bucket = world.attach_in_the_end(&mut machine)?;
        let models = host.models_at(bucket.shipped_lsn());
        host = world.serve(machine, bucket, &models, true, Chance::from_seed(0))?;
        let mut tries = 0;
        while tries < 3 || !history.is_all_led_to(world)? {
            tries += 1;
            if tries == 500 {
                return wrong(format!("garbage stays: {:?}", world.bucket.contents().keys()));
            }
            world.clock.advance_ms(2_000);
            let shipped = host.ship();
            shipped.map_err(|error| Failure::from(error.to_string()))?;
            history.look(&host, true, kept)?;
        }
    }
    Ok(())
}

#[test]
fn random_lives_of_hosts() {
    let mut all = Came::default();
    for seed in SIMULATION.seeds(60) {
        let came = life(seed, 40).unwrap_or_else(|failure| {
            panic!("{failure}\n{}", SIMULATION.replay(seed, "--test bucket_lives"))
        });
        all.lost += came.lost;
        all.restarted += came.restarted;
        all.fenced += came.fenced;
        all.shipped += came.shipped;
        all.failed += came.failed;
        all.followed += came.followed;
        all.evicted += came.evicted;
        let (made, went, stores) = came.points;
        all.points = (all.points.0 + made, all.points.1 + went, all.points.2 + stores);
    }
    println!("{all:?}");
    if std::env::var_os(SIMULATION.one).is_none() {
        assert!(all.lost > 100 && all.restarted > 100 && all.fenced > 20, "{all:?}");
        assert!(all.shipped > 500 && all.failed > 50 && all.followed > 300, "{all:?}");
        assert!(all.evicted > 10 << 20, "{all:?}");
        assert!(all.points.0 > 200 && all.points.1 > 100 && all.points.2 > 100, "{all:?}");
    }
}

/// The run is a function of its seed.
#[test]
fn a_seed_gives_the_same_run() {
    assert_eq!(life(7, 15).unwrap(), life(7, 15).unwrap());
}
