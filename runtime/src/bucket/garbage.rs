//! What is in the bucket and is to go.
//!
//! An object that the newest manifest does not lead to is needed by points of history, or by nobody. It was led to
//! from some manifest on up to another, so the points that need it follow one another; of those there were when it
//! went, the newest comes last. Points go in the order in which they were made: so it is *held* until that one
//! goes, and is garbage then.
//!
//! Only the host that drops an object knows which points there were. A host that takes over finds out what is held by
//! reading the points, the newest first, a few requests at a time.
//!
//! Deleting is safe whatever other hosts do: whoever takes over goes on from the manifest that this host
//! wrote last, or its compare-and-swap fails; that manifest and all after it lead to none of these, and
//! list no point that needs them, since what was once left out is never put in again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::error::{BucketError, Result};
use super::format::manifest::Manifest;
use super::format::object::{OBJECTS_PREFIX, ObjectKey};
use super::history::{HISTORY_PREFIX, HistoryPoint};
use super::objects::Objects;

#[derive(Debug)]
pub(super) struct Garbage {
    /// Names, and when they may go, on the monotonic clock.
    queue: VecDeque<(u64, String)>,
    /// By the newest point that needs them.
    held: BTreeMap<(u64, u64), Vec<ObjectKey>>,
    sweep: Sweep,
    keep_replaced_ns: u64,
}

/// Looking for what lost hosts have left, and for what was held by the host before.
#[derive(Debug)]
enum Sweep {
    Due,
    /// Objects that the manifest does not lead to, and the points that are not read yet, oldest first.
    Reading {
        unknown: BTreeSet<ObjectKey>,
        points: Vec<HistoryPoint>,
    },
    Done,
}

impl Garbage {
    pub(super) fn new(keep_replaced_ns: u64) -> Self {
        Self { queue: VecDeque::new(), held: BTreeMap::new(), sweep: Sweep::Due, keep_replaced_ns }
    }

    /// The manifest `after` is in the bucket, where `before` was.
    pub(super) fn landed(&mut self, before: &Manifest, after: &Manifest, now_ns: u64) {
        for &key in before.objects.keys().filter(|key| !after.objects.contains_key(key)) {
            match after.points.last().filter(|point| point.may_need(key)) {
                Some(point) => self.held.entry(point.id()).or_default().push(key),
                None => self.drop_later(key.name(), now_ns),
            }
        }
        let oldest = after.points.first().map_or((u64::MAX, u64::MAX), HistoryPoint::id);
        for point in before.points.iter().take_while(|point| point.id() < oldest) {
            self.drop_later(point.name(), now_ns);
            for key in self.held.remove(&point.id()).unwrap_or_default() {
                self.drop_later(key.name(), now_ns);
            }
        }
    }

    fn drop_later(&mut self, name: String, now_ns: u64) {
        self.queue.push_back((now_ns.saturating_add(self.keep_replaced_ns), name));
    }

    /// Whether there is anything to be asked of the bucket now.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        !matches!(self.sweep, Sweep::Done)
            || self.queue.front().is_some_and(|&(until_ns, _)| until_ns <= now_ns)
    }

    /// Makes one request: looks further for what is garbage, or else deletes what has been so for long
    /// enough. Returns whether it deleted something.
    ///
    /// # Errors
    /// The request failed; what it was for is tried again.
    pub(super) fn step(
        &mut self,
        objects: &dyn Objects,
        published: &Manifest,
        now_ns: u64,
    ) -> Result<bool> {
        if !matches!(self.sweep, Sweep::Done) {
            self.sweep_on(objects, published, now_ns)?;
            return Ok(false);
        }
        let Some((_, name)) = self.queue.front().filter(|&&(until_ns, _)| until_ns <= now_ns)
        else {
            return Ok(false);
        };
        objects.delete(name)?;
        self.queue.pop_front();
        Ok(true)
    }

    /// Objects and copies of this epoch are left alone, as they may be on their way.
    fn sweep_on(&mut self, objects: &dyn Objects, published: &Manifest, now_ns: u64) -> Result<()> {
        match &mut self.sweep {
            Sweep::Due => {
                let listed = objects.list(OBJECTS_PREFIX)?;
                let copies = objects.list(HISTORY_PREFIX)?;
                let queued: BTreeSet<&String> = self.queue.iter().map(|(_, name)| name).collect();
                let held: BTreeSet<ObjectKey> = self.held.values().flatten().copied().collect();
                let is_unknown = |key: &ObjectKey| {
                    key.epoch < published.epoch
                        && !published.objects.contains_key(key)
                        && !held.contains(key)
                        && !queued.contains(&key.name())
                };
                let keys = listed.iter().filter_map(|name| ObjectKey::of_name(name));
                let unknown = keys.filter(is_unknown).collect();
                let is_left = |name: &String| {
                    HistoryPoint::of_name(name).is_some_and(|id| {
                        id.0 < published.epoch
                            && !published.points.iter().any(|point| point.id() == id)
                    }) && !queued.contains(name)
                };
                let left: Vec<String> = copies.into_iter().filter(is_left).collect();
                for name in left {
                    self.drop_later(name, now_ns);
                }
                self.sweep = Sweep::Reading { unknown, points: published.points.clone() };
            }
            Sweep::Reading { unknown, points } => {
                let next = if unknown.is_empty() { None } else { points.last().copied() };
                let Some(point) = next else {
                    for key in std::mem::take(unknown) {
                        self.drop_later(key.name(), now_ns);
                    }
                    self.sweep = Sweep::Done;
                    return Ok(());
                };
                // One that went since needs nothing.
                if published.points.iter().any(|kept| kept.id() == point.id()) {
                    let found: Vec<ObjectKey> = match point.manifest(objects) {
                        Ok(copy) => {
                            let led = copy.objects.into_keys();
                            led.filter(|key| unknown.contains(key)).collect()
                        }
                        Err(BucketError::Objects(error)) => return Err(error.into()),
                        Err(error) => {
                            // It may need any of them, for what is known.
                            tracing::error!(%error, "a point of history cannot be read");
                            unknown.iter().filter(|key| point.may_need(**key)).copied().collect()
                        }
                    };
                    unknown.retain(|key| !found.contains(key));
                    self.held.entry(point.id()).or_default().extend(found);
                }
                points.pop();
            }
            Sweep::Done => {}
        }
        Ok(())
    }
}
