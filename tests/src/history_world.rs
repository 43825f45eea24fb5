//! The points of history of a simulated store, and what they have to lead to.
//!
//! 1. Whatever is listed is whole: the copy of the manifest is there, and every object it leads to, as they were
//!    written; whoever was lost, took over or deletes meanwhile.
//! 2. A store that is made of one is what the host had shipped when it was made.
//! 3. A point goes only if it is older than it has to be kept, and so are all before it. A clock that is wrong, as here that
//!    of each host, takes no more than two for each that is made.
//! 4. What is neither led to by the manifest nor by a point is deleted, in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lapidary::bucket::{
    self, BucketError, BucketReport, Follower, FollowerSettings, HistoryPoint, Objects,
};
use lapidary_engine::{Environment, MemoryIo, Store, StoreOptions};

use crate::bucket_world::{BucketWorld, SimHost};
use crate::chance::Chance;
use crate::failure::{Failure, wrong};
use crate::model::Model;
use crate::sim_bucket::SimObjects;
use crate::sim_environment::SimEntropy;

type Id = (u64, u64);

/// Who looks at the history, and what is known of it.
#[derive(Debug)]
pub struct SimHistory {
    objects: SimObjects,
    /// What was shipped with each manifest that may have been copied.
    shipped: BTreeMap<Id, Model>,
    /// What may have been shipped without anybody looking, as by hosts that gave the store back.
    unseen: Vec<Model>,
    listed: Vec<HistoryPoint>,
    /// Points that were listed, those that went, and those of which a store was made.
    pub seen: (u64, u64, u64),
}

fn id(point: &HistoryPoint) -> Id {
    (point.epoch, point.sequence)
}

fn failed(what: &str, error: &BucketError) -> Failure {
    Failure::from(format!("{what}: {error}"))
}

impl SimHistory {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(world: &BucketWorld) -> Self {
        Self {
            objects: world.bucket.observer(),
            shipped: BTreeMap::new(),
            unseen: Vec::new(),
            listed: Vec::new(),
            seen: (0, 0, 0),
        }
    }

    /// There may be points of `models`.
    pub fn note(&mut self, models: &[&Model]) {
        self.unseen.extend(models.iter().map(|&model| model.clone()));
    }

    /// Looks at the points that the bucket has, after `host` has shipped or may have. Points have to be kept for
    /// `history_for`.
    ///
    /// # Errors
    /// Points that went too early, or out of order.
    pub fn look(
        &mut self,
        host: &SimHost,
        has_shipped: bool,
        history_for: Duration,
    ) -> Result<(), Failure> {
        let manifest = match bucket::status(&self.objects) {
            Ok(manifest) => manifest,
            Err(BucketError::NoStore { .. }) => return Ok(()),
            Err(error) => return Err(failed("the bucket cannot be looked at", &error)),
        };
        if has_shipped {
            self.shipped.insert((manifest.epoch, manifest.sequence), host.shipped.clone());
        }
        let before = std::mem::replace(&mut self.listed, manifest.points);
        let (there, known): (BTreeSet<Id>, BTreeSet<Id>) =
            (self.listed.iter().map(id).collect(), before.iter().map(id).collect());
        let gone: Vec<Id> = known.difference(&there).copied().collect();
        let new = there.difference(&known).count();
        self.seen.0 += new as u64;
        self.seen.1 += gone.len() as u64;
        let told = format!("{before:?} became {:?}", self.listed);
        if !self.listed.is_sorted_by_key(|point| point.wall_ms) {
            return wrong(format!("the times of points do not ascend: {told}"));
        }
        if let (Some(last_gone), Some(newest)) = (gone.last(), self.listed.last()) {
            let oldest_ms = newest.wall_ms.saturating_sub(history_for.as_millis() as u64);
            let first = self.listed.first().filter(|first| id(first) > *last_gone);
            if gone.len() > 2 * new || first.is_none_or(|first| first.wall_ms >= oldest_ms) {
                return wrong(format!("points went too early, or out of order: {told}"));
            }
        } else if !gone.is_empty() && !history_for.is_zero() {
            return wrong(format!("all points went: {told}"));
        }
        // Models of manifests that were not copied are of no use, but for the newest: that may still be.
        let newest = self.shipped.last_key_value().map(|(id, _)| *id);
        self.shipped.retain(|id, _| there.contains(id) || Some(*id) == newest);
        Ok(())
    }

    /// Whether all that is listed is whole.
    ///
    /// # Errors
    /// What is not.
    pub fn check_whole(&self) -> Result<BucketReport, Failure> {
        let objects: Arc<dyn Objects> = Arc::new(self.objects.clone());
        match bucket::verify_history(&objects, &mut |_, _| ()) {
            Ok(report) if report.is_clean() && report.replaced == 0 => Ok(report),
            Ok(report) => wrong(format!("of {:?} is missing: {report:?}", self.listed)),
            Err(BucketError::NoStore { .. }) => Ok(BucketReport::default()),
            Err(error) => Err(failed("history cannot be verified", &error)),
        }
    }

    /// Has `host` make a point now. Says whether that went well.
    ///
    /// # Errors
    /// If it is not listed then.
    pub fn keep_point(&mut self, host: &mut SimHost, kept: Duration) -> Result<bool, Failure> {
        // Not to have it ship what nobody notes.
        while host.bucket.shipped_lsn() < host.driver.store.durable_lsn() {
            if host.ship().is_err() {
                return Ok(false);
            }
            self.look(host, true, kept)?;
        }
        // If it fails, it is made all the same, perhaps.
        self.note(&[&host.shipped]);
        match host.bucket.keep_point() {
            Ok(point) => {
                self.shipped.insert(id(&point), host.shipped.clone());
                self.look(host, false, kept)?;
                if self.listed.iter().any(|listed| listed == &point) {
                    return Ok(true);
                }
                wrong(format!("{point} was made and is not listed: {:?}", self.listed))
            }
            Err(BucketError::Objects(_) | BucketError::Fenced { .. }) => Ok(false),
            // This host was not told to keep any.
            Err(BucketError::InvalidInput(_)) => Ok(false),
            Err(error) => Err(failed("a point cannot be made", &error)),
        }
    }

    /// Makes a store of one of the points, and looks whether it is what was shipped then.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check_one(&mut self, world: &BucketWorld, chance: &mut Chance) -> Result<(), Failure> {
        if self.listed.is_empty() {
            return Ok(());
        }
        let point = self.listed[chance.index(self.listed.len())];
        let models: Vec<&Model> = match self.shipped.get(&id(&point)) {
            Some(model) => vec![model],
            None => self.unseen.iter().collect(),
        };
        let check = |store: &Store| {
            let mut differences = String::new();
            for model in &models {
                match model.check_recovered(store) {
                    Ok(_) => return Ok(()),
                    Err(failure) => differences.push_str(&format!("\n{failure}")),
                }
            }
            wrong(format!("{point} is nothing that was shipped:{differences}"))
        };
        let objects: Arc<dyn Objects> = Arc::new(self.objects.clone());
        let environment = Environment {
            io: Arc::new(MemoryIo::new()),
            clock: Arc::new(world.clock.clone()),
            entropy: Arc::new(SimEntropy::new(chance.number())),
        };
        if chance.one_in(2) {
            let pulled = bucket::pull_at(&objects, &environment, &point, &mut |_| ());
            pulled.map_err(|error| failed("a point cannot be pulled", &error))?;
            let options = StoreOptions { create: false, ..world.options.clone() };
            let store = Store::open(environment, options)?;
            check(&store)?;
        } else {
            let settings = FollowerSettings {
                tunables: world.options.tunables.clone(),
                ..FollowerSettings::default()
            };
            let opened = Follower::open_at(&objects, &environment, settings, &point);
            let follower = opened.map_err(|error| failed("a point cannot be opened", &error))?;
            // It stays where it is.
            let shown = follower.lsn();
            let lsn = follower.refresh().map_err(|error| failed("a point moves", &error))?;
            if lsn != shown || lsn < point.lsn {
                return wrong(format!("{point} shows LSN {shown}, then {lsn}, of {}", point.lsn));
            }
            check(&follower.store())?;
        }
        self.seen.2 += 1;
        Ok(())
    }

    /// Whether there is nothing in the bucket that nothing leads to.
    ///
    /// # Errors
    /// What is led to, and is not whole.
    pub fn is_all_led_to(&self, world: &BucketWorld) -> Result<bool, Failure> {
        let report = self.check_whole()?;
        let contents = world.bucket.contents();
        let count = |prefix: &str| contents.keys().filter(|name| name.starts_with(prefix)).count();
        Ok((count("objects/"), count("history/"))
            == (report.objects as usize, report.points as usize))
    }
}
