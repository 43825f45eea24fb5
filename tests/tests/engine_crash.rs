//! Crashes, I/O errors and full disks at every point of short workloads, and at random points of
//! long ones: what was acknowledged is there afterwards, and nothing is half there.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::time::{Duration, Instant};

use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, Tolerated};
use lapidary_tests::seeds::{SIMULATION, cycles};
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};
use lapidary_tests::world::{Life, Lives, Pace, World, several_lives};

/// A short workload: a function of its seed.
#[derive(Clone, Copy, Debug)]
struct Workload {
    seed: u64,
    steps: u32,
}

/// Chosen so that together they meet every kind of operation (see
/// `the_workloads_meet_every_kind_of_event`).
const WORKLOADS: [Workload; 4] = [
    Workload { seed: 1976, steps: 30 },
    Workload { seed: 2877, steps: 30 },
    Workload { seed: 1420, steps: 30 },
    Workload { seed: 3121, steps: 30 },
];

impl Workload {
    fn world(self) -> World {
        World::new(self.seed)
    }

    fn run(self, disk: &SimDisk, tolerated: Tolerated) -> Life {
        let chance = Chance::from_seed(self.seed ^ 0xabcd);
        self.world()
            .first_life(disk, chance, self.steps, tolerated)
            .unwrap_or_else(|failure| panic!("{self:?}: {failure}"))
    }

    /// Changing operations of a run in which nothing goes wrong.
    fn operations(self) -> u64 {
        let disk = SimDisk::new(self.seed);
        self.run(&disk, Tolerated::default());
        disk.operations()
    }

    /// The disk and what is known when power was lost at `operation`.
    fn crashed_at(self, operation: u64) -> (SimDisk, Life) {
        let disk = SimDisk::new(self.seed);
        disk.crash_at(operation);
        let life = self.run(&disk, Tolerated::default());
        (disk, life)
    }

    fn recover(self, disk: &SimDisk, life: &Life, chance_seed: u64, what: &str) -> Driver {
        self.world()
            .recover(disk, life, Chance::from_seed(chance_seed))
            .unwrap_or_else(|failure| panic!("{self:?}, {what}: {failure}"))
    }

    /// What is counted as live is what can be reached, and everything can be read.
    fn verify(self, driver: &mut Driver, what: &str) {
        driver.verify().unwrap_or_else(|failure| panic!("{self:?}, {what}: {failure}"));
    }
}

fn survivals(seed: u64) -> [Survival; 4] {
    [
        Survival::Nothing,
        Survival::Everything,
        Survival::Random(seed),
        Survival::Random(seed ^ 0xffff_0000),
    ]
}

#[test]
fn crash_at_every_operation_then_go_on_and_crash_again() {
    for workload in WORKLOADS {
        for operation in 0..workload.operations() {
            let (disk, life) = workload.crashed_at(operation);
            for survival in survivals(operation) {
                let what = format!("crash at {operation}, {survival:?}");
                let disk = disk.after_crash(survival);
                let mut driver = workload.recover(&disk, &life, operation, &what);
                disk.crash_at(disk.operations() + operation % 13);
                let progress = driver
                    .run(12)
                    .unwrap_or_else(|failure| panic!("{workload:?}, {what}, gone on: {failure}"));
                let life = Life::ended(driver, progress);
                let disk = disk.after_crash(Survival::Random(operation));
                let what = format!("{what}, second crash");
                workload.verify(&mut workload.recover(&disk, &life, 0, &what), &what);
            }
        }
    }
}

#[test]
fn kill_at_every_operation() {
    for workload in WORKLOADS {
        for operation in 0..workload.operations() {
            let (disk, life) = workload.crashed_at(operation);
            let what = format!("kill at {operation}");
            let disk = disk.after_kill();
            let mut driver = workload.recover(&disk, &life, operation, &what);
            let progress = driver
                .run(6)
                .unwrap_or_else(|failure| panic!("{workload:?}, {what}, gone on: {failure}"));
            let life = Life::ended(driver, progress);
            let disk = disk.after_crash(Survival::Nothing);
            let what = format!("{what}, then a power loss");
            workload.verify(&mut workload.recover(&disk, &life, 0, &what), &what);
        }
    }
}

/// At every crash point, recovery itself loses its power, or is killed, at every one of its own
/// operations.
#[test]
fn crash_at_every_operation_of_recovery() {
    for workload in &WORKLOADS[..2] {
        for operation in 0..workload.operations() {
            let (disk, life) = workload.crashed_at(operation);
            let survival = survivals(operation)[(operation % 4) as usize];
            let crashed = || disk.after_crash(survival);
            let undisturbed = crashed();
            drop(workload.world().open(&undisturbed, true));
            for during in 0..undisturbed.operations() {
                let what = format!("crash at {operation}, {survival:?}, in recovery at {during}");
                let disk = crashed();
                disk.crash_at(during);
                let result = workload.world().open(&disk, !life.created);
                assert!(disk.is_stopped(), "{workload:?}, {what}: recovery is not the same again");
                drop(result);
                let after = disk.after_crash(survivals(operation + during)[2]);
                drop(workload.recover(&after, &life, 0, &what));
                if during % 3 == 0 {
                    workload.recover(&disk.after_kill(), &life, 0, &format!("{what}, killed"));
                }
            }
        }
    }
}

/// Rows of the commit contract: an I/O error of a write or sync stops the store or refuses one
/// operation; nothing is acknowledged that does not survive, whether the process opens the store
/// again, is killed, or the power goes.
#[test]
fn io_error_at_every_operation() {
    let tolerated = Tolerated { io: true, ..Tolerated::default() };
    let mut stopped = 0;
    for workload in WORKLOADS {
        for operation in 0..workload.operations() {
            let disk = SimDisk::new(workload.seed);
            disk.fail_at(operation, Fault::Io);
            let life = workload.run(&disk, tolerated);
            stopped += u32::from(life.progress == Progress::Stopped);
            let what = format!("EIO at {operation}");
            drop(workload.recover(&disk.after_kill(), &life, 0, &format!("{what}, reopened")));
            for survival in survivals(operation) {
                let disk = disk.after_crash(survival);
                workload.recover(&disk, &life, 0, &format!("{what}, {survival:?}"));
            }
        }
    }
    assert!(stopped > 0, "no I/O error ever stopped a store");
}

/// Rows of the commit contract: a full disk refuses operations; the store goes on, also with
/// commits once there is room, and nothing acknowledged is lost.
#[test]
fn full_disk_at_every_operation_that_takes_space() {
    let tolerated = Tolerated { no_space: true, ..Tolerated::default() };
    for workload in WORKLOADS {
        let disk = SimDisk::new(workload.seed);
        workload.run(&disk, Tolerated::default());
        let trace = disk.trace();
        for operation in (0..trace.len()).filter(|&index| trace[index].takes_space) {
            let what = format!("ENOSPC at {operation}");
            let disk = SimDisk::new(workload.seed);
            disk.fail_at(operation as u64, Fault::NoSpace);
            let life = workload.run(&disk, tolerated);
            if life.created {
                assert_eq!(life.progress, Progress::Going, "{workload:?}, {what}:\n{}", life.log);
            }
            drop(workload.recover(&disk.after_kill(), &life, 0, &format!("{what}, reopened")));
            let crashed = disk.after_crash(Survival::Random(operation as u64));
            workload.recover(&crashed, &life, 0, &format!("{what}, power lost"));
        }
    }
}

/// A disk that stays full: the store keeps serving, refuses with the right error, and works again
/// once there is room.
#[test]
fn a_full_disk_and_then_room_again() {
    let mut refused = 0;
    for seed in 0..12 {
        let world = World::new(seed);
        let disk = SimDisk::new(seed);
        let tolerated = Tolerated { no_space: true, ..Tolerated::default() };
        let store = world.open(&disk, true).unwrap();
        let mut driver = Driver::new(store, world.model(), disk.clone(), Chance::from_seed(seed));
        driver.tolerated = tolerated;
        disk.set_capacity(Some(disk.used_bytes() + seed * (32 << 10)));
        let run = |driver: &mut Driver| {
            let progress = driver.run(120).unwrap_or_else(|failure| panic!("{seed}: {failure}"));
            assert_eq!(progress, Progress::Going, "seed {seed}: the store stopped");
        };
        run(&mut driver);
        refused += driver.log().matches("no space left").count();
        disk.set_capacity(None);
        driver.tolerated = Tolerated::default();
        run(&mut driver);
        driver.store.flush().unwrap();
        let life = Life::ended(driver, Progress::Going);
        assert_eq!(life.model.unacknowledged(), 0);
        let recovered =
            world.recover(&disk.after_crash(Survival::Nothing), &life, Chance::from_seed(0));
        recovered.unwrap_or_else(|failure| panic!("{seed}: {failure}"));
    }
    assert!(refused > 10, "the disk was full {refused} times");
}

/// A read that fails is an error of that read; the next one works and the store goes on.
#[test]
fn io_error_of_a_read() {
    let mut failed = 0;
    for workload in WORKLOADS {
        let disk = SimDisk::new(workload.seed);
        let life = workload.run(&disk, Tolerated::default());
        let world = workload.world();
        let disk = disk.after_kill();
        let driver = workload.recover(&disk, &life, 0, "for reading");
        for (name, state) in driver.model.latest().clone() {
            let facet = driver.store.open_facet(&name).unwrap();
            let snapshot = facet.snapshot(lapidary_engine::View::Durable).unwrap();
            disk.fail_read_at(disk.reads());
            if let Err(difference) = state.content.compare_snapshot(&snapshot) {
                let words = difference.to_string();
                assert!(words.contains("cannot be read"), "{name}: {words}");
                failed += 1;
            }
            state.content.compare_snapshot(&snapshot).unwrap();
        }
        drop(driver);
        let opening = disk.after_kill();
        drop(world.open(&opening, false).unwrap());
        for read in 0..opening.reads() {
            let opening = disk.after_kill();
            opening.fail_read_at(read);
            match world.open(&opening, false) {
                Ok(store) => drop(store),
                Err(error) => assert_eq!(error.kind(), lapidary_engine::ErrorKind::Io, "{error}"),
            }
            workload.recover(&opening.after_kill(), &life, 0, "after a failed read");
        }
    }
    assert!(failed > 0);
}

/// What the log of a driver says of each kind of event.
const EVENTS: [&str; 20] = [
    "create",
    "commit",
    "delete",
    "rename",
    "flush",
    "checkpoint",
    "maintain",
    "hold",
    "from Latest",
    "from Durable",
    "from Bookmark",
    "fork all",
    "restore",
    "look at",
    "set the quota",
    "refused by a quota",
    "set the retention",
    "clean: ",
    "commit together",
    "verify",
];

#[test]
fn the_workloads_meet_every_kind_of_event() {
    let mut log = String::new();
    let (mut checkpoints, mut segments, mut written) = (0, 0, 0);
    let (mut shared, mut history, mut images) = (0, 0, 0);
    for workload in WORKLOADS {
        let disk = SimDisk::new(workload.seed);
        let store = workload.world().open(&disk, true).unwrap();
        let chance = Chance::from_seed(workload.seed ^ 0xabcd);
        let mut driver = Driver::new(store, workload.world().model(), disk.clone(), chance);
        driver.run(workload.steps).unwrap();
        let stat = driver.store.stat();
        checkpoints += stat.checkpoints;
        segments = segments.max(stat.segments);
        written += stat.written_bytes;
        shared += stat.shared_references;
        history += stat.history_bytes;
        images += stat.image_bytes;
        log.push_str(&driver.log());
    }
    for event in EVENTS {
        assert!(log.contains(event), "no {event:?} in\n{log}");
    }
    for what in ["restore", "look at"] {
        let is_it = |line: &str| line.contains(what) && line.contains("Surely");
        assert!(log.lines().any(is_it), "no version that must open in\n{log}");
    }
    let moves = |line: &str| line.contains("clean: ") && !line.contains("clean: 0 ");
    assert!(log.lines().any(moves), "the cleaner moves nothing in\n{log}");
    assert!(
        log.contains("amid a transaction on"),
        "no transaction is open while others work in\n{log}"
    );
    assert!(shared >= 10 && history > 50_000, "{shared} shared references, {history} of history");
    assert!(images > 10_000, "{images} bytes of images that are built on");
    assert!(checkpoints >= 4, "{checkpoints} checkpoints");
    assert!(segments >= 3 && written > 200_000, "{segments} segments, {written} bytes");
}

#[test]
fn random_lives() {
    let seeds = SIMULATION.seeds(300);
    println!("{} seeds, the last one fresh: {}", seeds.len(), seeds[seeds.len() - 1]);
    let mut recoveries = 0;
    for seed in seeds {
        let mut chance = Chance::from_seed(seed);
        let lives = chance.between(1, 5);
        match several_lives(seed, chance, lives, Pace::LONG) {
            Ok(lives) => recoveries += lives.recoveries,
            Err(failure) => panic!(
                "{failure}\nto repeat: {}",
                SIMULATION.replay(seed, "--test engine_crash random_lives")
            ),
        }
    }
    println!("{recoveries} recoveries after crashes and kills");
}

/// Short lives of small stores, each of which mostly ends amid a write or a sync: as many crashes, recoveries
/// and checks as are asked for, over fresh seeds. It goes on after one that failed, to say how many do, but
/// not for long.
#[test]
fn crash_and_recover_cycles() {
    const SAID_EVERY: Duration = Duration::from_secs(5);
    const LIVES: u32 = 40;
    const VIOLATIONS_MAX: usize = 3;
    let wanted = cycles(2000);
    let (start, mut said) = (Instant::now(), Duration::ZERO);
    let (mut passed, mut violations) = (Lives::default(), Vec::new());
    let mut seeds = SIMULATION.fresh_seeds().peekable();
    println!("seeds from {:?} on", seeds.peek());
    while passed.cycles < wanted
        && violations.len() < VIOLATIONS_MAX
        && let Some(seed) = seeds.next()
    {
        let lived = std::panic::catch_unwind(|| {
            several_lives(seed, Chance::from_seed(seed), LIVES, Pace::SHORT)
        });
        match lived {
            Ok(Ok(lives)) => {
                passed.cycles += lives.cycles;
                passed.recoveries += lives.recoveries;
            }
            failed => {
                let replay =
                    SIMULATION.replay(seed, "--test engine_crash crash_and_recover_cycles");
                let words = match failed {
                    Ok(Err(failure)) => failure.to_string(),
                    _ => "a panic, above".to_owned(),
                };
                println!("{words}\nto repeat: {replay}");
                violations.push(seed);
            }
        }
        let is_over = passed.cycles >= wanted || violations.len() == VIOLATIONS_MAX;
        if start.elapsed() >= said + SAID_EVERY || is_over {
            said = start.elapsed();
            println!(
                "{} cycles, {:.0} cycles/s, {} violations; {} recoveries, seed {seed}",
                passed.cycles,
                passed.cycles as f64 / said.as_secs_f64(),
                violations.len(),
                passed.recoveries,
            );
        }
    }
    assert!(violations.is_empty(), "violations with the seeds {violations:?}");
}
