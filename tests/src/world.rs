//! Lives and deaths of a store on a simulated disk: run it, end it in some way, recover it, and
//! compare what came back with the model.

use std::sync::Arc;

use lapidary_engine::{Error, ErrorKind, Store, StoreOptions};

use crate::chance::Chance;
use crate::driver::{Driver, Progress, Tolerated, small_options};
use crate::failure::{Failure, wrong};
use crate::model::Model;
use crate::sim_disk::{Fault, SimDisk, Survival};
use crate::sim_environment::environment;

/// How a store is opened, every time.
#[derive(Clone, Debug)]
pub struct World {
    /// Options of every open.
    pub options: StoreOptions,
    /// Seed of clocks and identities.
    pub seed: u64,
}

impl World {
    /// A world whose options and all else are a function of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { options: small_options(&mut Chance::from_seed(seed)), seed }
    }

    /// The model of the store before anything was done to it.
    #[must_use]
    pub fn model(&self) -> Model {
        Model::of(&self.options.tunables)
    }

    /// Opens the store on `disk`; creates it only if `create`.
    ///
    /// # Errors
    /// As the engine has them.
    pub fn open(&self, disk: &SimDisk, create: bool) -> Result<Arc<Store>, Error> {
        let environment = environment(Arc::new(disk.clone()), self.seed);
        Store::open(environment, StoreOptions { create, ..self.options.clone() })
    }

    /// Creates a store on an empty disk and runs `steps` operations decided by `chance`, or as many
    /// as the disk's planned crash or faults allow.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn first_life(
        &self,
        disk: &SimDisk,
        chance: Chance,
        steps: u32,
        tolerated: Tolerated,
    ) -> Result<Life, Failure> {
        match self.open(disk, true) {
            Ok(store) => {
                let mut driver = Driver::new(store, self.model(), disk.clone(), chance);
                driver.tolerated = tolerated;
                let progress = driver.run(steps)?;
                Ok(Life { created: true, progress, log: driver.log(), model: driver.into_model() })
            }
            Err(error) => {
                refused_open(disk, &error, tolerated)?;
                Ok(Life {
                    created: false,
                    progress: Progress::Stopped,
                    log: format!("creation failed: {error}"),
                    model: self.model(),
                })
            }
        }
    }

    /// Opens the store on a disk that works, checks it against `life`, and makes sure that nothing
    /// of what it shows can be lost to a power failure right afterwards.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn recover(&self, disk: &SimDisk, life: &Life, chance: Chance) -> Result<Driver, Failure> {
        let explain = |failure: Failure| failure.after(&life.log);
        let store = self
            .open(disk, !life.created)
            .map_err(|error| explain(Failure::from(error).within("it cannot be opened again")))?;
        let model = life.model.check_recovered(&store).map_err(explain)?;
        let stripped = disk.after_crash(Survival::Nothing);
        let again = self.open(&stripped, false).map_err(|error| {
            explain(Failure::from(error).within("opened once, then no longer after a power loss"))
        })?;
        model.check_recovered(&again).map_err(|failure| {
            explain(failure.within("recovery showed what was not durable, and lost it"))
        })?;
        Ok(Driver::new(store, model, disk.clone(), chance))
    }
}

/// What is known when a store has died.
#[derive(Clone, Debug)]
pub struct Life {
    /// Whether an open ever succeeded, so that the store must be there.
    pub created: bool,
    /// Whether it ran to its end.
    pub progress: Progress,
    /// What should come back.
    pub model: Model,
    /// What was done.
    pub log: String,
}

impl Life {
    /// The end of a driver's life.
    #[must_use]
    pub fn ended(driver: Driver, progress: Progress) -> Self {
        let log = driver.log();
        Self { created: true, progress, log, model: driver.into_model() }
    }
}

/// Whether an open may fail like this on a disk that fails.
fn refused_open(disk: &SimDisk, error: &Error, tolerated: Tolerated) -> Result<(), Failure> {
    let planned = disk.is_stopped()
        || match error.kind() {
            ErrorKind::NoSpace => tolerated.no_space,
            ErrorKind::Io | ErrorKind::Reopen => tolerated.io,
            _ => false,
        };
    if planned { Ok(()) } else { wrong(format!("opening failed for no planned reason: {error}")) }
}

/// Plans a misfortune for one of the next `horizon` operations of `disk`.
fn plan_misfortune(disk: &SimDisk, chance: &mut Chance, horizon: u32) -> Tolerated {
    let at = disk.operations() + u64::from(chance.below(horizon));
    let mut tolerated = Tolerated::default();
    match chance.below(12) {
        0..4 => {}
        4..8 => disk.crash_at(at),
        8 => {
            disk.fail_at(at, Fault::Io);
            tolerated.io = true;
        }
        9 => {
            disk.fail_from(at);
            tolerated.io = true;
        }
        10 => {
            disk.fail_at(at, Fault::NoSpace);
            tolerated.no_space = true;
        }
        _ => {
            let spare = u64::from(chance.below(400 << 10));
            disk.set_capacity(Some(disk.used_bytes() + spare));
            tolerated.no_space = true;
        }
    }
    tolerated
}

fn survival(chance: &mut Chance) -> Survival {
    match chance.below(6) {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        _ => Survival::Random(chance.number()),
    }
}

/// The disk after an end of some kind: a kill, or a loss of power.
fn end(disk: &SimDisk, chance: &mut Chance) -> SimDisk {
    let next =
        if chance.one_in(3) { disk.after_kill() } else { disk.after_crash(survival(chance)) };
    next.set_capacity(None);
    next
}

/// What a run of several lives came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Of everything that happened.
    pub fingerprint: u64,
    /// How often the store was opened after a crash or a kill.
    pub recoveries: u64,
}

/// Several lives of one store, all decided by `chance`: operations, crashes, kills, I/O errors and
/// full disks, also during recovery.
///
/// # Errors
/// What is not as the model has it.
pub fn several_lives(seed: u64, mut chance: Chance, lives: u32) -> Result<Lives, Failure> {
    let world = World { options: small_options(&mut chance), seed };
    let mut disk = SimDisk::new(seed);
    let mut fingerprint = 0_u64;
    let mut recoveries = 0;
    let tolerated = plan_misfortune(&disk, &mut chance, 60);
    let steps = chance.between(5, 60);
    let mut life = world.first_life(&disk, chance.halved(), steps, tolerated)?;
    for _ in 1..lives {
        fingerprint = fingerprint.rotate_left(7) ^ disk.fingerprint();
        disk = end(&disk, &mut chance);
        while chance.one_in(3) {
            let tolerated = plan_misfortune(&disk, &mut chance, 12);
            match world.open(&disk, !life.created) {
                Ok(store) => drop(store),
                Err(error) => refused_open(&disk, &error, tolerated)
                    .map_err(|failure| failure.after(&life.log))?,
            }
            disk = end(&disk, &mut chance);
            recoveries += 1;
        }
        // One of what the end left, one of what a power loss right after that leaves.
        recoveries += 2;
        let mut driver = world.recover(&disk, &life, chance.halved())?;
        driver.tolerated = plan_misfortune(&disk, &mut chance, 60);
        let progress = driver.run(chance.between(5, 60))?;
        life = if progress == Progress::Going && chance.one_in(3) {
            let log = driver.log();
            Life { created: true, progress, model: driver.close()?, log }
        } else {
            if progress == Progress::Going {
                driver.check_held()?;
            }
            Life::ended(driver, progress)
        };
    }
    fingerprint = fingerprint.rotate_left(7) ^ disk.fingerprint();
    let disk = end(&disk, &mut chance);
    world.recover(&disk, &life, chance)?.verify()?;
    Ok(Lives { fingerprint, recoveries: recoveries + 2 })
}
