//! Lives and deaths of a store on a simulated disk: run it, end it in some way, recover it, and
//! compare what came back with the model.

use std::sync::Arc;

use lapidary_engine::{Error, ErrorKind, Store, StoreOptions};

use crate::chance::Chance;
use crate::driver::{Driver, Progress, Scale, Tolerated, small_options};
use crate::failure::{Failure, wrong};
use crate::incarnations::Incarnations;
use crate::model::Model;
use crate::sim_disk::{Fault, SimDisk, Survival};
use crate::sim_environment::environment;

/// How a store is opened, every time.
#[derive(Clone, Debug)]
pub struct World {
    /// Options of every open.
    pub options: StoreOptions,
    /// How large things get in it.
    pub scale: Scale,
    /// Seed of clocks and identities.
    pub seed: u64,
}

impl World {
    /// A world whose options and all else are a function of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::decided_by(&mut Chance::from_seed(seed), Scale::FULL, seed)
    }

    fn decided_by(chance: &mut Chance, scale: Scale, seed: u64) -> Self {
        Self { options: small_options(chance, scale), scale, seed }
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

    /// The same, and sees to it that the opening is of an incarnation that none before it was of, also
    /// none that was cut off: all that it wrote says so.
    ///
    /// # Errors
    /// If it is not.
    fn open_anew(
        &self,
        disk: &SimDisk,
        create: bool,
    ) -> Result<Result<Arc<Store>, Error>, Failure> {
        let before = Incarnations::on(disk);
        let opened = self.open(disk, create);
        if !disk.is_stopped() {
            before.check_opening(&Incarnations::on(disk), opened.is_ok())?;
        }
        Ok(opened)
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
        match self.open_anew(disk, true)? {
            Ok(store) => {
                let driver = Driver::new(store, self.model(), disk.clone(), chance);
                let mut driver = driver.of_scale(self.scale);
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
            .open_anew(disk, !life.created)
            .map_err(explain)?
            .map_err(|error| explain(Failure::from(error).within("it cannot be opened again")))?;
        let model = life.model.check_recovered(&store).map_err(explain)?;
        let stripped = disk.after_crash(Survival::Nothing);
        let again = self.open_anew(&stripped, false).map_err(explain)?.map_err(|error| {
            explain(Failure::from(error).within("opened once, then no longer after a power loss"))
        })?;
        model.check_recovered(&again).map_err(|failure| {
            explain(failure.within("recovery showed what was not durable, and lost it"))
        })?;
        Ok(Driver::new(store, model, disk.clone(), chance).of_scale(self.scale))
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
            ErrorKind::Io | ErrorKind::Unavailable | ErrorKind::Reopen => tolerated.io,
            _ => false,
        };
    if planned { Ok(()) } else { wrong(format!("opening failed for no planned reason: {error}")) }
}

/// How lives pass.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How large things get.
    pub scale: Scale,
    /// Operations of a life, at least and at most, if nothing ends it.
    steps: (u32, u32),
    /// Misfortunes come within so many changing operations of the disk: one of these.
    horizons: &'static [u32],
    /// Of twelve lives, so many meet none.
    spared: u32,
    /// Whether a loss of power may take the headers and nothing else.
    headless: bool,
}

impl Pace {
    /// Long lives, of which many go well.
    pub const LONG: Self =
        Self { scale: Scale::FULL, steps: (5, 60), horizons: &[60], spared: 4, headless: false };

    /// Short lives in small worlds, which mostly end in a crash amid an operation.
    pub const SHORT: Self = Self {
        scale: Scale::SMALL,
        steps: (3, 60),
        horizons: &[3, 8, 24],
        spared: 1,
        headless: true,
    };

    /// Plans a misfortune for one of the next operations of `disk`, of which there are `horizon`.
    fn plan_misfortune(self, disk: &SimDisk, chance: &mut Chance, horizon: u32) -> Tolerated {
        let at = disk.operations() + u64::from(chance.below(horizon));
        let mut tolerated = Tolerated::default();
        match chance.below(12) {
            kind if kind < self.spared => {}
            0..8 => disk.crash_at(at),
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

    fn survival(self, chance: &mut Chance) -> Survival {
        match chance.below(if self.headless { 8 } else { 6 }) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            6.. => Survival::Headless,
            _ => Survival::Random(chance.number()),
        }
    }

    /// The disk after an end of some kind: a kill, or a loss of power.
    fn end(self, disk: &SimDisk, chance: &mut Chance) -> SimDisk {
        let next = if chance.one_in(3) {
            disk.after_kill()
        } else {
            disk.after_crash(self.survival(chance))
        };
        next.set_capacity(None);
        next
    }

    fn horizon(self, chance: &mut Chance) -> u32 {
        if let [only] = self.horizons { *only } else { chance.pick(self.horizons) }
    }
}

/// What a run of several lives came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// Of everything that happened.
    pub fingerprint: u64,
    /// How often the store was opened after a crash or a kill.
    pub recoveries: u64,
    /// How often a life, or the opening after one, ended amid a write or sync, and the store was opened
    /// again, compared with the model and verified.
    pub cycles: u64,
}

/// Several lives of one store, all decided by `chance`: operations, crashes, kills, I/O errors and
/// full disks, also during recovery.
///
/// # Errors
/// What is not as the model has it.
pub fn several_lives(
    seed: u64,
    mut chance: Chance,
    lives: u32,
    pace: Pace,
) -> Result<Lives, Failure> {
    let world = World::decided_by(&mut chance, pace.scale, seed);
    let mut disk = SimDisk::new(seed);
    let mut passed = Lives::default();
    let horizon = pace.horizon(&mut chance);
    let tolerated = pace.plan_misfortune(&disk, &mut chance, horizon);
    let (fewest, most) = pace.steps;
    let steps = chance.between(fewest, most);
    let mut life = world.first_life(&disk, chance.halved(), steps, tolerated)?;
    for _ in 1..lives {
        passed.fingerprint = passed.fingerprint.rotate_left(7) ^ disk.fingerprint();
        let mut is_cycle = disk.is_stopped();
        disk = pace.end(&disk, &mut chance);
        while chance.one_in(3) {
            let tolerated = pace.plan_misfortune(&disk, &mut chance, 12);
            match world.open_anew(&disk, !life.created) {
                Ok(Ok(store)) => drop(store),
                Ok(Err(error)) => refused_open(&disk, &error, tolerated)
                    .map_err(|failure| failure.after(&life.log))?,
                Err(failure) => return Err(failure.after(&life.log)),
            }
            is_cycle |= disk.is_stopped();
            disk = pace.end(&disk, &mut chance);
            passed.recoveries += 1;
        }
        // One of what the end left, one of what a power loss right after that leaves.
        passed.recoveries += 2;
        let mut driver = world.recover(&disk, &life, chance.halved())?;
        driver.verify()?;
        passed.cycles += u64::from(is_cycle);
        let horizon = pace.horizon(&mut chance);
        driver.tolerated = pace.plan_misfortune(&disk, &mut chance, horizon);
        let progress = driver.run(chance.between(fewest, most))?;
        life = if progress == Progress::Going && chance.one_in(3) {
            let log = driver.log();
            Life { created: true, progress, model: driver.close()?, log }
        } else {
            // Power can be lost in what a call does on the side and need not report.
            if progress == Progress::Going && !disk.is_stopped() {
                driver.check_held()?;
            }
            Life::ended(driver, progress)
        };
    }
    passed.fingerprint = passed.fingerprint.rotate_left(7) ^ disk.fingerprint();
    let is_cycle = disk.is_stopped();
    let disk = pace.end(&disk, &mut chance);
    world.recover(&disk, &life, chance)?.verify()?;
    passed.recoveries += 2;
    passed.cycles += u64::from(is_cycle);
    Ok(passed)
}
