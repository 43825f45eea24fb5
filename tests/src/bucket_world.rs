//! Simulated hosts on one simulated bucket, each with a simulated disk, and what has to be in the bucket.
//!
//! A cut of the journal is what the host had written when it was taken. So a store that is opened from
//! the bucket has to hold what the model of that host allowed at that moment: at least all that was
//! durable then, at most all that was done.

use std::sync::Arc;
use std::time::Duration;

use lapidary::bucket::{Bucket, BucketError, BucketSettings, Objects, Watch};
use lapidary_engine::{Environment, ErrorKind, Lsn, Store, StoreOptions};

use crate::chance::Chance;
use crate::driver::{Driver, Progress, Tolerated, name};
use crate::failure::{Failure, wrong};
use crate::model::Model;
use crate::sim_bucket::{SimBucket, SimObjects};
use crate::sim_disk::SimDisk;
use crate::sim_environment::{HandClock, SimEntropy};

/// Milliseconds of a lease in the simulation.
pub const LEASE_MS: u64 = 10_000;

/// A bucket, time, and how stores are opened.
#[derive(Debug)]
pub struct BucketWorld {
    /// Options of every open.
    pub options: StoreOptions,
    /// The bucket.
    pub bucket: SimBucket,
    /// Time. Each host's clock is this one, ahead by an amount of its own.
    pub clock: HandClock,
    /// Bytes that each machine may keep of the store.
    pub local_bytes_max: u64,
    /// How long hosts that begin to serve the store from now on keep history.
    pub history_for: Option<Duration>,
    seed: u64,
    hosts: u64,
}

/// A machine: its disk, clock and way to the bucket. It may have no process running.
#[derive(Debug)]
pub struct Machine {
    /// Its way to the bucket.
    pub objects: SimObjects,
    /// Its disk.
    pub disk: SimDisk,
    clock: HandClock,
    number: u64,
    watch: Watch,
}

impl Machine {
    /// Its clock from now on, such as one that stands still.
    pub fn set_clock(&mut self, clock: HandClock) {
        self.clock = clock;
    }
}

/// A process that serves the store.
#[derive(Debug)]
pub struct SimHost {
    /// The machine.
    pub machine: Machine,
    /// Its hold of the store.
    pub bucket: Bucket,
    /// The store and its model.
    pub driver: Driver,
    /// What the model was when the last shipment that arrived was begun.
    pub shipped: Model,
    /// The same of one that was begun since, and may have arrived.
    pub under_way: Option<Model>,
    /// Of a host that came back with its disk, until it ships: what it was when it was there before.
    pub before: Vec<Model>,
}

impl BucketWorld {
    /// A world that is a function of `seed`.
    #[must_use]
    pub fn new(seed: u64, options: StoreOptions) -> Self {
        let clock = HandClock::new();
        let bucket = SimBucket::new(seed, &clock);
        Self {
            options,
            bucket,
            clock,
            local_bytes_max: u64::MAX,
            history_for: None,
            seed,
            hosts: 0,
        }
    }

    /// The model of the store before anything was done to it.
    #[must_use]
    pub fn model(&self) -> Model {
        Model::of(&self.options.tunables)
    }

    /// A machine with an empty disk.
    pub fn machine(&mut self) -> Machine {
        self.hosts += 1;
        Machine {
            objects: self.bucket.host(),
            disk: SimDisk::new(self.seed ^ self.hosts),
            // Machines were started at different times: their clocks have nothing to do with each other.
            clock: self.clock.ahead_by_ms(self.hosts * 3_600_000),
            number: self.hosts,
            watch: Watch::default(),
        }
    }

    /// Has a machine get hold of the store, once.
    ///
    /// # Errors
    /// As [`Bucket::attach`] has them.
    pub fn attach(&self, machine: &mut Machine) -> Result<Bucket, BucketError> {
        let objects: Arc<dyn Objects> = Arc::new(machine.objects.clone());
        let settings = BucketSettings {
            name: format!("host-{}", machine.number),
            lease: Duration::from_millis(LEASE_MS),
            unshipped_bytes_max: usize::MAX,
            local_bytes_max: self.local_bytes_max,
            keep_replaced: Duration::from_secs(5),
            history_for: self.history_for,
            history_interval: Duration::from_secs(2),
            background: false,
            ..BucketSettings::default()
        };
        let entropy = self.seed ^ machine.number << 8 ^ machine.disk.operations() << 20;
        let environment = Environment {
            io: Arc::new(machine.disk.clone()),
            clock: Arc::new(machine.clock.clone()),
            entropy: Arc::new(SimEntropy::new(entropy)),
        };
        Bucket::attach(&objects, &environment, settings, &mut machine.watch)
    }

    /// Opens the store that `bucket` holds on a machine. Something must be in it but if `create`.
    ///
    /// # Errors
    /// As the engine has them.
    pub fn open(
        &self,
        bucket: &Bucket,
        create: bool,
    ) -> Result<Arc<Store>, lapidary_engine::Error> {
        Store::open(bucket.environment(), StoreOptions { create, ..self.options.clone() })
    }

    /// Has a machine serve the store, which has to hold what one of `models` allows, whatever it
    /// takes: leases run out, and what fails for a while is tried again.
    ///
    /// # Errors
    /// What is not as the models have it.
    pub fn take_over(
        &self,
        mut machine: Machine,
        models: &[&Model],
        create: bool,
        chance: Chance,
    ) -> Result<SimHost, Failure> {
        let bucket = self.attach_in_the_end(&mut machine)?;
        self.serve(machine, bucket, models, create, chance)
    }

    /// The same for a machine that has got hold of the store.
    ///
    /// # Errors
    /// What is not as the models have it.
    pub fn serve(
        &self,
        machine: Machine,
        bucket: Bucket,
        models: &[&Model],
        create: bool,
        chance: Chance,
    ) -> Result<SimHost, Failure> {
        let mut tries = 0;
        // What cannot be fetched now may be fetched later; opening begins anew then.
        let store = loop {
            match self.open(&bucket, create) {
                Ok(store) => break store,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Io | ErrorKind::Unavailable)
                        && tries < 50 =>
                {
                    tries += 1;
                }
                Err(error) => return Err(Failure::from(error).within("it cannot be opened")),
            }
        };
        let mut differences = String::new();
        for (number, model) in models.iter().enumerate() {
            match model.check_recovered(&store) {
                Ok(model) => {
                    let served = bucket.serve(&store);
                    served.map_err(|error| Failure::from(error.to_string()))?;
                    return Ok(SimHost {
                        driver: Driver::new(store, model.clone(), machine.disk.clone(), chance),
                        machine,
                        bucket,
                        shipped: model,
                        under_way: None,
                        before: Vec::new(),
                    });
                }
                Err(failure) => differences.push_str(&format!("\nmodel {number}: {failure}")),
            }
        }
        wrong(format!("what came from the bucket is no state that was shipped{differences}"))
    }

    /// Gets hold of the store, however long that takes.
    ///
    /// # Errors
    /// If it takes for ever, or fails in a way that does not pass.
    pub fn attach_in_the_end(&self, machine: &mut Machine) -> Result<Bucket, Failure> {
        let mut last = String::new();
        for _ in 0..200 {
            match self.attach(machine) {
                Ok(bucket) => return Ok(bucket),
                Err(BucketError::Objects(error)) => last = error.to_string(),
                Err(error @ BucketError::Held { .. }) => last = error.to_string(),
                Err(error) => return wrong(format!("attaching failed: {error}")),
            }
            self.clock.advance_ms(200);
        }
        wrong(format!("attaching never succeeds: {last}"))
    }
}

/// The `models` of a host that knows `known` to be in the bucket, as [`SimHost::models_at`] has them.
#[must_use]
pub fn in_order<M>(mut models: Vec<M>, is_under_way: bool, known: Lsn, shipped: Lsn) -> Vec<M> {
    if is_under_way && shipped > known {
        models.rotate_right(1);
    }
    models
}

impl SimHost {
    /// Ships what was written. An error is no failure: shipping goes on at the next call.
    ///
    /// # Errors
    /// As [`Bucket::ship`] has them.
    pub fn ship(&mut self) -> Result<(), BucketError> {
        let before = self.bucket.shipped_lsn();
        // If something is under way, that is what is shipped.
        if self.under_way.is_none() {
            self.driver.model.acknowledge(self.driver.store.durable_lsn());
            self.under_way = Some(self.driver.model.clone());
        }
        let shipped = self.bucket.ship();
        if shipped.is_ok() {
            self.shipped = self.under_way.take().expect("it was set above");
            self.before.clear();
            assert!(self.bucket.shipped_lsn() >= before, "what is shipped stays so");
        }
        if !self.bucket.stat().is_under_way {
            // It failed before anything was taken to be shipped.
            self.under_way = None;
        }
        shipped.map(drop)
    }

    /// What the bucket may hold when this host is lost now. The oldest comes first: two that cannot be told
    /// apart may differ in numbers that were given out, which are then not counted on.
    #[must_use]
    pub fn models(&self) -> Vec<&Model> {
        let shipped = self.before.is_empty().then_some(&self.shipped);
        self.before.iter().chain(shipped).chain(&self.under_way).collect()
    }

    /// The same when the bucket has everything up to `shipped`: if what is under way had more than what was
    /// shipped before, that tells the two apart, and what the bucket has comes first.
    #[must_use]
    pub fn models_at(&self, shipped: Lsn) -> Vec<&Model> {
        let known = self.bucket.shipped_lsn();
        in_order(self.models(), self.under_way.is_some(), known, shipped)
    }

    /// Runs a few operations.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn run(&mut self, steps: u32) -> Result<Progress, Failure> {
        self.driver.run(steps)
    }

    /// Whether this host, which is fenced, refuses everything that would be acknowledged.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_fenced(&mut self) -> Result<(), Failure> {
        self.driver.tolerated = Tolerated { io: true, ..Tolerated::default() };
        let durable = self.driver.store.durable_lsn();
        match self.ship() {
            Err(BucketError::Fenced { .. }) => {}
            other => return wrong(format!("a fenced host ships: {other:?}")),
        }
        self.driver.run(20)?;
        let store = &self.driver.store;
        let committed = store.create_facet(&name("late/and/refused")).and_then(|_| store.flush());
        let is_stopped = committed.is_err_and(|error| error.kind() == ErrorKind::Reopen);
        if self.driver.store.durable_lsn() != durable || !is_stopped {
            return wrong("a fenced host acknowledges".to_owned());
        }
        Ok(())
    }
}
