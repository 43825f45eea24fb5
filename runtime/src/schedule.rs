//! The order in which a core serves what waits.
//!
//! Each facet with calls has a *lane*, and they are served in it in the order in which they came.
//! Lanes that can go on stand in a *ring*: each has its turn, then stands behind all others. So
//! however many calls one facet has waiting, another's first call waits for one turn of each facet
//! that is busy.
//!
//! A call that concerns several names, or all names below one, is a *barrier*: it has a mark in the
//! lane of each, behind what came before it. A lane whose first is a mark stops. When all of its
//! marks are the first of their lanes the barrier takes its place in the ring, and when it is served
//! the lanes go on. Lanes elsewhere are not concerned.
//!
//! A barrier without a call, a *hold*, stops lanes until somebody lets them go: their facets have calls
//! on another core yet.
//!
//! A lane that comes to be while a barrier on a subtree around it is pending begins with its mark,
//! and a barrier has the lane of its own name, made if need be. So of two barriers that have a name
//! in common, the later one finds the earlier one's mark in a lane, and comes after it: there are no
//! circles.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::LazyLock;
use std::task::Waker;

use lapidary_engine::FacetName;

/// Which lane: a facet's, or that of the calls that name none. The name is hashed once, here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneKey {
    hash: u64,
    facet: Option<FacetName>,
}

impl LaneKey {
    pub(crate) fn of(facet: Option<FacetName>) -> Self {
        // Random, since names may come from strangers.
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self { hash: HASHER.hash_one(&facet), facet }
    }

    pub(crate) fn facet(&self) -> Option<&FacetName> {
        self.facet.as_ref()
    }
}

impl Hash for LaneKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.hash);
    }
}

/// For keys that bring their hash along.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A name that a barrier concerns.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    root: LaneKey,
    /// Whether all names below it are concerned too.
    below: bool,
}

impl Scope {
    pub(crate) fn facet(name: &FacetName) -> Self {
        Self { root: LaneKey::of(Some(name.clone())), below: false }
    }

    pub(crate) fn subtree(name: &FacetName) -> Self {
        Self { root: LaneKey::of(Some(name.clone())), below: true }
    }

    fn covers(&self, lane: &LaneKey) -> bool {
        match (lane.facet(), self.root.facet()) {
            (Some(name), Some(root)) if self.below => name.is_within(root),
            _ => *lane == self.root,
        }
    }
}

/// A call on its way into a schedule.
pub(crate) struct Post<T> {
    pub(crate) call: T,
    /// The names it concerns, if that is not its lane alone: it is a barrier.
    pub(crate) scopes: Option<Box<[Scope]>>,
}

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Facet,
    Core,
}

/// Most calls that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// In the lane.
    pub(crate) lane: usize,
    /// In all lanes together. The first of a lane is let in beyond it: who has nothing waiting is not
    /// kept out by those who have much.
    pub(crate) all: usize,
}

struct Lane<T> {
    key: LaneKey,
    waiting: VecDeque<Item<T>>,
    /// In the ring, stopped, or being served.
    placed: bool,
    /// Those who wait for room in it.
    wakers: Vec<Waker>,
    bound: usize,
}

enum Item<T> {
    Call(T),
    Mark(u64),
}

struct Barrier<T> {
    /// None of a hold.
    call: Option<T>,
    is_held: bool,
    /// In the ring.
    placed: bool,
    scopes: Box<[Scope]>,
    /// Lanes whose mark is not the first yet.
    awaited: usize,
    stopped: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Turn {
    Lane(usize),
    Barrier(u64),
}

/// What waits on one core.
pub(crate) struct Schedule<T> {
    lanes: Vec<Lane<T>>,
    /// Places in `lanes` that nobody has.
    free: Vec<usize>,
    places: HashMap<LaneKey, usize, BuildHasherDefault<Hashed>>,
    ring: VecDeque<Turn>,
    serving: Option<usize>,
    /// By number, so in the order in which they came.
    barriers: BTreeMap<u64, Barrier<T>>,
    /// Those of them that have a subtree.
    subtrees: Vec<u64>,
    barriers_seen: u64,
    calls: usize,
    woken: Vec<Waker>,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            free: Vec::new(),
            places: HashMap::default(),
            ring: VecDeque::new(),
            serving: None,
            barriers: BTreeMap::new(),
            subtrees: Vec::new(),
            barriers_seen: 0,
            calls: 0,
            woken: Vec::new(),
        }
    }
}

/// Calls that an idle lane keeps the space of; most lanes have one or two.
const SPARE_CALLS: usize = 16;

impl<T> Schedule<T> {
    /// Calls that wait.
    pub(crate) fn len(&self) -> usize {
        self.calls
    }

    /// The place of `lane`, if it has one, if there is room for a call in it.
    fn room(&self, lane: &LaneKey, bounds: Bounds) -> Result<Option<usize>, Full> {
        let place = self.places.get(lane).copied();
        let waiting = place.map_or(0, |place| self.lanes[place].waiting.len());
        if waiting >= bounds.lane {
            Err(Full::Facet)
        } else if waiting > 0 && self.calls >= bounds.all {
            Err(Full::Core)
        } else {
            Ok(place)
        }
    }

    /// Puts a call at the end of `lane`, or over its scopes; gives it back if there is no room.
    pub(crate) fn push(
        &mut self,
        lane: &LaneKey,
        bounds: Bounds,
        post: Post<T>,
    ) -> Result<(), (Full, Post<T>)> {
        let place = match self.room(lane, bounds) {
            Ok(place) => place,
            Err(full) => return Err((full, post)),
        };
        self.calls += 1;
        match post.scopes {
            Some(scopes) => drop(self.push_barrier(scopes, Some(post.call))),
            None => {
                let place = place.unwrap_or_else(|| self.begin(lane));
                self.lanes[place].bound = bounds.lane;
                self.append(place, Item::Call(post.call));
            }
        }
        Ok(())
    }

    /// Puts a call in whatever the bounds say.
    pub(crate) fn push_beyond(&mut self, scopes: Box<[Scope]>, call: T) {
        self.calls += 1;
        self.push_barrier(scopes, Some(call));
    }

    /// Stops what `scopes` names, behind what is there, until it is [let go](Self::let_go).
    pub(crate) fn hold(&mut self, scopes: Box<[Scope]>) -> u64 {
        self.push_barrier(scopes, None)
    }

    /// Ends a hold.
    pub(crate) fn let_go(&mut self, hold: u64) {
        let Some(barrier) = self.barriers.get_mut(&hold) else { return };
        barrier.is_held = false;
        self.place_barrier(hold);
    }

    /// Whether nothing waits, not even for a hold to end.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls == 0
    }

    fn push_barrier(&mut self, scopes: Box<[Scope]>, call: Option<T>) -> u64 {
        // Before it is pending itself: new lanes begin with the marks of those before it.
        let mut places: Vec<usize> = scopes.iter().map(|scope| self.place(&scope.root)).collect();
        if scopes.iter().any(|scope| scope.below) {
            let covered = |key: &LaneKey| scopes.iter().any(|scope| scope.covers(key));
            places.extend(self.places.iter().filter(|(key, _)| covered(key)).map(|(_, &at)| at));
        }
        places.sort_unstable();
        places.dedup();
        let number = self.barriers_seen;
        self.barriers_seen += 1;
        if scopes.iter().any(|scope| scope.below) {
            self.subtrees.push(number);
        }
        let awaited = places.len();
        let is_held = call.is_none();
        let barrier =
            Barrier { call, is_held, placed: false, scopes, awaited, stopped: Vec::new() };
        self.barriers.insert(number, barrier);
        for place in places {
            self.append(place, Item::Mark(number));
        }
        number
    }

    /// Has `waker` woken when there may be room in `lane`, which has just refused a call.
    pub(crate) fn await_room(&mut self, lane: &LaneKey, waker: &Waker) {
        if let Some(&place) = self.places.get(lane) {
            let wakers = &mut self.lanes[place].wakers;
            if !wakers.iter().any(|other| other.will_wake(waker)) {
                wakers.push(waker.clone());
            }
        }
    }

    /// The next call. The lane that was served before stands behind all others from now on.
    pub(crate) fn next(&mut self) -> Option<T> {
        if let Some(place) = self.serving.take() {
            self.stand(place);
        }
        loop {
            match self.ring.pop_front()? {
                Turn::Lane(place) => {
                    self.serving = Some(place);
                    return self.take(place);
                }
                Turn::Barrier(number) => {
                    let barrier = self.barriers.remove(&number)?;
                    self.subtrees.retain(|&other| other != number);
                    for place in barrier.stopped {
                        self.lanes[place].waiting.pop_front();
                        self.wake(place);
                        self.stand(place);
                    }
                    if barrier.call.is_some() {
                        self.calls -= 1;
                        return barrier.call;
                    }
                }
            }
        }
    }

    /// What comes next in the lane that is being served, if it is a call that `fits`.
    pub(crate) fn next_of_turn(&mut self, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let place = self.serving?;
        match self.lanes[place].waiting.front() {
            Some(Item::Call(call)) if fits(call) => self.take(place),
            _ => None,
        }
    }

    /// Whether [`next_of_turn`](Self::next_of_turn) would find one.
    pub(crate) fn has_next_of_turn(&self, fits: impl FnOnce(&T) -> bool) -> bool {
        let first = self.serving.and_then(|place| self.lanes[place].waiting.front());
        matches!(first, Some(Item::Call(call)) if fits(call))
    }

    /// Those for whom there is room again, since the last time.
    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Everything that waits, in no order, and everybody who waits for room.
    pub(crate) fn drain(&mut self) -> (Vec<T>, Vec<Waker>) {
        let drained = std::mem::take(self);
        let mut wakers = drained.woken;
        let mut calls = Vec::new();
        for lane in drained.lanes {
            wakers.extend(lane.wakers);
            calls.extend(lane.waiting.into_iter().filter_map(|item| match item {
                Item::Call(call) => Some(call),
                Item::Mark(_) => None,
            }));
        }
        calls.extend(drained.barriers.into_values().filter_map(|barrier| barrier.call));
        (calls, wakers)
    }

    /// The first of the lane, a call.
    fn take(&mut self, place: usize) -> Option<T> {
        let first = self.lanes[place].waiting.pop_front();
        self.wake(place);
        match first {
            Some(Item::Call(call)) => {
                self.calls -= 1;
                Some(call)
            }
            // A lane in the ring has a call first.
            Some(Item::Mark(_)) | None => None,
        }
    }

    fn place(&mut self, key: &LaneKey) -> usize {
        self.places.get(key).copied().unwrap_or_else(|| self.begin(key))
    }

    /// Gives a lane a place, and the marks it has to begin with.
    fn begin(&mut self, key: &LaneKey) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(Lane {
                key: key.clone(),
                waiting: VecDeque::new(),
                placed: false,
                wakers: Vec::new(),
                bound: 0,
            });
            self.lanes.len() - 1
        });
        self.lanes[place].key = key.clone();
        self.places.insert(key.clone(), place);
        for at in 0..self.subtrees.len() {
            let number = self.subtrees[at];
            let Some(barrier) = self.barriers.get_mut(&number) else { continue };
            if barrier.scopes.iter().any(|scope| scope.covers(key)) {
                barrier.awaited += 1;
                self.append(place, Item::Mark(number));
            }
        }
        place
    }

    fn append(&mut self, place: usize, item: Item<T>) {
        let lane = &mut self.lanes[place];
        lane.waiting.push_back(item);
        if !lane.placed {
            self.stand(place);
        }
    }

    /// Has the lane stand where its first item says.
    fn stand(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        lane.placed = true;
        match lane.waiting.front() {
            Some(Item::Call(_)) => self.ring.push_back(Turn::Lane(place)),
            Some(&Item::Mark(number)) => {
                let Some(barrier) = self.barriers.get_mut(&number) else { return };
                barrier.stopped.push(place);
                barrier.awaited -= 1;
                self.place_barrier(number);
            }
            None => {
                lane.placed = false;
                lane.waiting.shrink_to(SPARE_CALLS);
                self.places.remove(&lane.key);
                self.free.push(place);
            }
        }
    }

    /// Has a barrier stand in the ring, if it can go on and does not stand there yet: a lane that begins
    /// later can join it when it does.
    fn place_barrier(&mut self, number: u64) {
        let Some(barrier) = self.barriers.get_mut(&number) else { return };
        if barrier.awaited == 0 && !barrier.is_held && !barrier.placed {
            barrier.placed = true;
            self.ring.push_back(Turn::Barrier(number));
        }
    }

    /// Wakes who waits for room in the lane once half of it is free, so that many go in at a time.
    fn wake(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        if !lane.wakers.is_empty() && lane.waiting.len() <= lane.bound / 2 {
            self.woken.append(&mut lane.wakers);
        }
    }
}

#[cfg(test)]
mod tests;
