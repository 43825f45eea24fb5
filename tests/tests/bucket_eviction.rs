//! A local disk that holds a part of its store: power is lost at every write of an eviction, the disk is full,
//! the bucket does not answer. Nothing is lost, and what is evicted is read as it was written.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and counts small things"
)]

use std::sync::Arc;

use lapidary::bucket::BucketError;
use lapidary_engine::{ErrorKind, FileName, PageNo, PageSize, Store, View};
use lapidary_tests::bucket_world::{BucketWorld, Machine, SimHost};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, Scale, Tolerated, name, small_options};
use lapidary_tests::seeds::cycles;
use lapidary_tests::sim_disk::{Operation, OperationKind, Survival};

const SEEDS: [(u64, u64); 2] = [(31, 0), (41, 600 << 10)];
const STEPS: u32 = 48;

fn world(seed: u64, local_bytes_max: u64) -> BucketWorld {
    let options = small_options(&mut Chance::from_seed(seed), Scale::FULL);
    let mut world = BucketWorld::new(seed, options);
    world.local_bytes_max = local_bytes_max;
    world
}

/// A host that serves a new store until it has run so many steps or its disk stops; `None` if that is before
/// it serves. It ships, and so evicts, now and then.
fn run(world: &mut BucketWorld, seed: u64, crash_at: Option<u64>) -> Result<SimHost, Machine> {
    let mut machine = world.machine();
    if let Some(operation) = crash_at {
        machine.disk.crash_at(operation);
    }
    let Ok(bucket) = world.attach(&mut machine) else { return Err(machine) };
    let Ok(store) = world.open(&bucket, true) else { return Err(machine) };
    bucket.serve(&store).unwrap();
    let model = world.model();
    let driver = Driver::new(store, model.clone(), machine.disk.clone(), Chance::from_seed(seed));
    let mut host =
        SimHost { driver, machine, bucket, shipped: model, under_way: None, before: Vec::new() };
    host.driver.tolerated = Tolerated { io: crash_at.is_some(), ..Tolerated::default() };
    for _ in 0..STEPS / 4 {
        match host.run(4) {
            Ok(Progress::Going) => {}
            Ok(Progress::Stopped) => break,
            Err(failure) if crash_at.is_none() => panic!("seed {seed}: {failure}"),
            Err(_) if host.machine.disk.is_stopped() => break,
            Err(failure) => panic!("seed {seed}, {crash_at:?}: {failure}"),
        }
        world.clock.advance_ms(300);
        let shipped = host.ship();
        assert!(shipped.is_ok() || host.machine.disk.is_stopped(), "seed {seed}: {shipped:?}");
    }
    Ok(host)
}

/// Operations that evict, and those around them.
fn around_evictions(trace: &[Operation]) -> Vec<u64> {
    let is_of_one = |operation: &Operation| {
        operation.kind == OperationKind::PunchHole || operation.file == Some(FileName::Bucket)
    };
    let near =
        |at: usize| trace[at.saturating_sub(1)..(at + 3).min(trace.len())].iter().any(is_of_one);
    (0..trace.len()).filter(|&at| near(at)).map(|at| at as u64).collect()
}

/// Power is lost at, before and after writes, syncs and holes of evictions, at all of them if `LAPIDARY_SIM_CYCLES` is
/// large; what the disk kept is looked at
/// in two of five ways, by turns. The host comes back with its disk, reads everything, evicts again, loses its power again in the
/// next eviction, comes back, and is followed by another, which has nothing but the bucket.
#[test]
fn power_lost_at_every_operation_of_evictions() {
    let (mut crashes, mut again) = (0, 0);
    for (seed, local_bytes_max) in SEEDS {
        let host = run(&mut world(seed, local_bytes_max), seed, None).ok().unwrap();
        assert!(host.bucket.stat().evicted_bytes > 1 << 20, "{:?}", host.bucket.stat());
        let trace = host.machine.disk.trace();
        let holes = trace.iter().filter(|it| it.kind == OperationKind::PunchHole).count();
        assert!(holes > 10, "seed {seed}: {holes} holes");
        let near = around_evictions(&trace);
        let stride = (near.len() / cycles(20) as usize).max(1);
        for operation in near.into_iter().skip(seed as usize % stride).step_by(stride) {
            let survivals = [
                Survival::Nothing,
                Survival::Random(operation),
                Survival::Everything,
                Survival::Headless,
                Survival::Random(operation ^ 0x5555),
            ];
            for turn in 0..2 {
                let survival = survivals[(operation as usize + 2 * turn) % survivals.len()];
                let what = format!("seed {seed}, power lost at {operation}, {survival:?}");
                let mut world = world(seed, local_bytes_max);
                let (model, mut machine) = match run(&mut world, seed, Some(operation)) {
                    Err(machine) => (world.model(), machine),
                    Ok(host) => (host.driver.model.clone(), host.machine),
                };
                assert!(machine.disk.is_stopped(), "{what}: it goes another way");
                machine.disk = machine.disk.after_crash(survival);
                let chance = Chance::from_seed(operation);
                let back = world.take_over(machine, &[&model], true, chance);
                let mut host = back.unwrap_or_else(|failure| panic!("{what}: {failure}"));
                good(host.driver.verify(), &what);
                good(host.run(6), &what);
                good(host.ship(), &what);
                good(host.driver.verify(), &what);
                crashes += 1;
                // In the middle of the next eviction.
                good(host.run(8), &what);
                let next = host.machine.disk.operations();
                host.machine.disk.crash_at(next + operation % 7);
                let _ = host.ship();
                let SimHost { driver, mut machine, bucket, .. } = host;
                if machine.disk.is_stopped() {
                    again += 1;
                    machine.disk = machine.disk.after_crash(survival);
                } else {
                    machine.disk = machine.disk.after_kill();
                }
                let model = driver.model.clone();
                drop((driver, bucket));
                let back = world.take_over(machine, &[&model], true, Chance::from_seed(operation));
                let mut host = back.unwrap_or_else(|failure| panic!("{what}, again: {failure}"));
                good(host.driver.verify(), &what);
                good(host.ship(), &what);
                let other = world.machine();
                let models = host.models();
                let taken = world.take_over(other, &models, false, Chance::from_seed(operation));
                let mut other = taken.unwrap_or_else(|failure| panic!("{what}, other: {failure}"));
                good(other.driver.verify(), &what);
            }
        }
    }
    println!("{crashes} crashes, {again} of them twice");
    assert!(crashes >= 80 && again > 10, "{crashes} crashes, {again} of them twice");
}

fn good<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|failure| panic!("{what}: {failure}"))
}

/// Writes one page of a facet of its own, that says which.
fn write_one(store: &Arc<Store>, number: u32) -> lapidary_engine::Result<()> {
    let facet = store.open_or_create_facet(&name(&format!("f/{number}")))?;
    let mut writer = facet.begin_write_latest()?;
    writer.set_page_size(PageSize::from_bytes(4096).unwrap())?;
    writer.write_page(PageNo(1), &page(number))?;
    store.wait_durable(writer.commit(0)?)
}

/// Noise, so that it does not shrink.
fn page(number: u32) -> Vec<u8> {
    let mut chance = Chance::from_seed(u64::from(number));
    let numbers = (0..512).flat_map(|_| chance.number().to_le_bytes());
    numbers.collect()
}

fn read_one(store: &Arc<Store>, number: u32) -> lapidary_engine::Result<()> {
    let facet = store.open_facet(&name(&format!("f/{number}")))?;
    let mut bytes = vec![0; 4096];
    facet.snapshot(View::Latest)?.read_page(PageNo(1), &mut bytes)?;
    assert!(bytes == page(number), "facet {number} is read as something else");
    Ok(())
}

fn large_world(local_bytes_max: u64) -> BucketWorld {
    let options = small_options(&mut Chance::from_seed(1), Scale::FULL);
    let mut world = BucketWorld::new(1, options);
    world.local_bytes_max = local_bytes_max;
    world
}

/// A store of more than four times the disk is written, on a disk that refuses what does not fit, and read back,
/// by its host, by that after its power was lost, and by another of the same size.
#[test]
fn a_store_larger_than_its_disk() {
    const CAPACITY: u64 = 3 << 20;
    const FACETS: u32 = 3300;
    for local_bytes_max in [u64::MAX, 2 << 20] {
        let mut world = large_world(local_bytes_max);
        let mut machine = world.machine();
        machine.disk.set_capacity(Some(CAPACITY));
        let bucket = world.attach(&mut machine).unwrap();
        let store = world.open(&bucket, true).unwrap();
        bucket.serve(&store).unwrap();
        for number in 0..FACETS {
            write_one(&store, number).unwrap_or_else(|error| panic!("facet {number}: {error}"));
            if number % 16 == 0 {
                // Nobody ships in the background here, so that what the cleaner moved would wait.
                while store.maintain().unwrap() {
                    bucket.ship().unwrap();
                }
                bucket.ship().unwrap();
                let stat = bucket.stat();
                assert!(stat.local_bytes <= CAPACITY, "{stat:?}");
            }
        }
        store.checkpoint().unwrap();
        bucket.ship().unwrap();
        let stat = bucket.stat();
        assert!(store.stat().allocated_bytes > 4 * CAPACITY, "{:?}", store.stat());
        assert!(stat.local_bytes <= local_bytes_max.min(CAPACITY), "{stat:?}");
        assert!(stat.evicted_bytes > 3 * CAPACITY, "{stat:?}");
        for number in (0..FACETS).rev() {
            read_one(&store, number).unwrap();
            // A little more than the budget may be here while something is read.
            let here = bucket.stat().local_bytes;
            assert!(here <= local_bytes_max.saturating_add(128 << 10), "{here} bytes");
        }
        assert!(bucket.stat().get_bytes > stat.get_bytes + 4 * CAPACITY);
        machine.disk.crash();
        drop((store, bucket));
        machine.disk = machine.disk.after_crash(Survival::Random(7));
        for (new, mut machine) in (FACETS..).zip([machine, world.machine()]) {
            machine.disk.set_capacity(Some(CAPACITY));
            let bucket = world.attach_in_the_end(&mut machine).unwrap();
            let store = world.open(&bucket, false).unwrap();
            bucket.serve(&store).unwrap();
            for number in 0..FACETS {
                read_one(&store, number).unwrap();
            }
            assert!(machine.disk.used_bytes() <= CAPACITY);
            write_one(&store, new).unwrap();
            bucket.ship().unwrap();
        }
    }
}

/// What is here is read without the bucket; what is not fails, says so, and is read when the bucket answers.
#[test]
fn what_is_evicted_waits_for_the_bucket() {
    let mut world = large_world(512 << 10);
    let mut machine = world.machine();
    let bucket = world.attach(&mut machine).unwrap();
    let store = world.open(&bucket, true).unwrap();
    bucket.serve(&store).unwrap();
    for number in 0..400 {
        write_one(&store, number).unwrap();
    }
    store.checkpoint().unwrap();
    bucket.ship().unwrap();
    assert!(bucket.stat().evicted_bytes > 0);
    read_one(&store, 399).unwrap();
    machine.objects.cut_off(true);
    let failed: Vec<_> = (0..400).filter_map(|number| read_one(&store, number).err()).collect();
    assert!(failed.len() > 100 && failed.len() < 400, "{} fail", failed.len());
    for error in &failed {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let words = error.to_string();
        assert!(words.contains("segments/") && words.contains("objects/"), "{words}");
    }
    // The store goes on.
    write_one(&store, 400).unwrap();
    read_one(&store, 400).unwrap();
    while store.maintain().unwrap() {}
    machine.objects.cut_off(false);
    for number in 0..=400 {
        read_one(&store, number).unwrap();
    }
    assert!(!matches!(bucket.ship(), Err(BucketError::Fenced { .. })));
}
