//! Followers of a simulated host, and what they may show.
//!
//! 1. What is shown is a state that was shipped: all that was durable when the shipment was begun, nothing that was
//!    not done by then, page by page. As long as a host that was lost is followed by one that has not shipped, it is
//!    of the one before.
//! 2. After a look that went well it is no older than what the host knows to be in the bucket.
//! 3. The LSN never goes back, whoever holds the store.
//! 4. Nothing that was shown is among what a crash took, of any host.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lapidary::bucket::{BucketError, Follower, FollowerSettings, Objects};
use lapidary_engine::{Bookmark, Environment, Lsn, MemoryIo, View};

use crate::bucket_world::{BucketWorld, SimHost};
use crate::failure::{Failure, wrong};
use crate::model::Model;
use crate::sim_bucket::SimObjects;
use crate::sim_environment::{HandClock, SimEntropy};

/// Bookmarks that are remembered of what was shown.
const SHOWN_MAX: usize = 512;

/// A machine that follows.
#[derive(Debug)]
pub struct SimFollower {
    /// Its way to the bucket.
    pub objects: SimObjects,
    disk: MemoryIo,
    clock: HandClock,
    settings: FollowerSettings,
    follower: Option<Follower>,
    lsn: Lsn,
    epoch: u64,
    /// What the bucket may have had since the last look that went well.
    allowed: Vec<Model>,
    shown: BTreeSet<Bookmark>,
    /// Looks that went well, and those that failed.
    pub looks: (u64, u64),
}

impl SimFollower {
    /// A machine that has not begun to follow.
    #[must_use]
    pub fn new(world: &BucketWorld, number: u64) -> Self {
        Self {
            objects: world.bucket.host(),
            disk: MemoryIo::new(),
            clock: world.clock.ahead_by_ms(number * 7_200_000),
            settings: FollowerSettings {
                tunables: world.options.tunables.clone(),
                background: false,
                ..FollowerSettings::default()
            },
            follower: None,
            lsn: Lsn(0),
            epoch: 0,
            allowed: Vec::new(),
            shown: BTreeSet::new(),
            looks: (0, 0),
        }
    }

    /// What is followed is over: the next look begins anew, with the directory as it is.
    pub fn stop(&mut self) {
        self.follower = None;
    }

    /// The bucket may be as one of `models` from now on, until a look has told.
    pub fn note(&mut self, models: &[&Model]) {
        self.allowed.extend(models.iter().map(|&model| model.clone()));
    }

    fn try_to_look(&mut self) -> Result<(), BucketError> {
        match &self.follower {
            Some(follower) => follower.refresh().map(drop),
            None => {
                let objects: Arc<dyn Objects> = Arc::new(self.objects.clone());
                let environment = Environment {
                    io: Arc::new(self.disk.clone()),
                    clock: Arc::new(self.clock.clone()),
                    entropy: Arc::new(SimEntropy::new(self.looks.0)),
                };
                let opened = Follower::open(&objects, &environment, self.settings.clone())?;
                self.follower = Some(opened);
                Ok(())
            }
        }
    }

    /// Looks at the bucket of `host` once, and checks what is shown then. If it did not go well, objects may be gone
    /// that were not read before.
    ///
    /// # Errors
    /// What may not be shown.
    pub fn look(&mut self, host: &SimHost) -> Result<bool, Failure> {
        self.note(&host.models());
        let shipped = host.bucket.shipped_lsn();
        let looked = match self.try_to_look() {
            Ok(()) => true,
            Err(BucketError::Objects(_) | BucketError::Local { .. }) => false,
            // What cannot be fetched, as the engine has it.
            Err(BucketError::Store(error)) if error.kind() == lapidary_engine::ErrorKind::Io => {
                false
            }
            Err(error) => return wrong(format!("a follower cannot look: {error}")),
        };
        let counted = if looked { &mut self.looks.0 } else { &mut self.looks.1 };
        *counted += 1;
        let Some(follower) = &self.follower else { return Ok(false) };
        let stat = follower.stat();
        if stat.lsn < self.lsn || stat.epoch < self.epoch {
            let (lsn, epoch) = (self.lsn, self.epoch);
            return wrong(format!(
                "a follower goes back from LSN {lsn} of epoch {epoch} to {stat:?}"
            ));
        }
        (self.lsn, self.epoch) = (stat.lsn, stat.epoch);
        if looked && stat.lsn < shipped {
            return wrong(format!(
                "LSN {shipped} is shipped, and a follower that looked shows {stat:?}"
            ));
        }
        if looked && let Err(error) = follower.wait_for(shipped, Duration::ZERO) {
            return wrong(format!("LSN {shipped} is shown, and waited for: {error}"));
        }
        if looked {
            self.check(host)?;
        }
        Ok(looked)
    }

    /// Checks what is shown against all that may be.
    fn check(&mut self, host: &SimHost) -> Result<(), Failure> {
        let Some(follower) = &self.follower else { return Ok(()) };
        let store = follower.store();
        let mut differences = String::new();
        let mut found = None;
        for (number, model) in self.allowed.iter().enumerate().rev() {
            match model.check_recovered(&store) {
                Ok(_) => {
                    found = Some(number);
                    break;
                }
                Err(failure) => differences.push_str(&format!("\nmodel {number}: {failure}")),
            }
        }
        let Some(found) = found else {
            let stat = follower.stat();
            return wrong(format!(
                "a follower shows no state that was shipped: {stat:?}{differences}"
            ));
        };
        // What is newer may be in the bucket all the same.
        self.allowed.drain(..found);
        for facet in store.list_facets(None, None, usize::MAX)? {
            let bookmark = store.open_facet(&facet.name)?.snapshot(View::Durable)?.bookmark();
            self.shown.insert(bookmark);
        }
        while self.shown.len() > SHOWN_MAX {
            self.shown.pop_first();
        }
        self.check_kept(host)
    }

    /// Nothing that was shown may be among what `host`, or one before it, has lost.
    ///
    /// # Errors
    /// What is.
    pub fn check_kept(&self, host: &SimHost) -> Result<(), Failure> {
        match host.driver.model.lost().find(|lost| self.shown.contains(lost)) {
            Some(lost) => wrong(format!("version {lost} was shown by a follower, and is lost")),
            None => Ok(()),
        }
    }

    /// Looks until it goes well, however often that takes.
    ///
    /// # Errors
    /// What may not be shown; that it never goes well.
    pub fn catch_up(&mut self, host: &SimHost) -> Result<(), Failure> {
        for _ in 0..100 {
            if self.look(host)? {
                return Ok(());
            }
        }
        wrong("a follower never comes to look".to_owned())
    }
}
