//! A simulated bucket, shared by simulated hosts.
//!
//! What it does, and what can go wrong:
//!
//! 1. A request that is answered for was done, whole, at one moment between its sending and its answer.
//!    Conditions are judged at that moment. What is read is what was written last.
//! 2. A request may fail without having been done (5xx, no connection).
//! 3. A request may be done and its answer be lost: the same error.
//! 4. A request may fail and be done later, at any time, also after others of the same host, its condition
//!    judged then. A host that was lost may have such requests under way.
//! 5. A request may be delivered twice: once as usual, and once more later.
//! 6. A request may take long.
//! 7. A host may be cut off: none of its requests arrives until it is connected again.
//! 8. A listing may lack what was written, and have what was deleted, since a while ago.
//! 9. What arrives may differ in a bit from what was sent, in answers to reads of data.
//!
//! By chance, no more than two reads of a host go wrong one after the other: a third attempt succeeds.
//!
//! Not among them: that a bucket loses or takes back what it answered for.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapidary::bucket::{Condition, ObjectError, ObjectErrorKind, Objects, Tag};

use crate::chance::Chance;
use crate::sim_environment::HandClock;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A whole object, or a part of one.
    Get,
    /// An object is written.
    Put,
    /// Names are listed.
    List,
    /// An object is deleted.
    Delete,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// It is not done.
    Failed,
    /// It is done, and nobody is told.
    AnswerLost,
    /// It fails, and is done later.
    Late,
    /// It is done now, and once more later.
    Twice,
    /// It takes so many milliseconds.
    Slow(u64),
    /// A bit of what is read is wrong.
    Rotten,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Number of the host that made it.
    pub host: usize,
    /// What it was for.
    pub kind: RequestKind,
    /// Which object.
    pub name: String,
    /// Bytes that were sent, or that came.
    pub bytes: u64,
}

#[derive(Clone)]
struct Put {
    name: String,
    bytes: Vec<u8>,
    condition: Owned,
}

#[derive(Clone)]
enum Owned {
    Always,
    Absent,
    Unchanged(Tag),
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct HostState {
    requests: u64,
    plan: BTreeMap<u64, RequestFault>,
    is_cut_off: bool,
    is_observer: bool,
    lost_at: Option<(u64, bool)>,
    hooks: BTreeMap<u64, Hook>,
    /// Reads that went wrong by chance, one after the other.
    bad_reads: u32,
}

struct State {
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    versions: u64,
    /// Done some time.
    late: Vec<Put>,
    /// Names that a listing may have or lack, whatever is there.
    unlisted: Vec<String>,
    chance: Chance,
    /// Of a thousand requests, how many go wrong by chance.
    faults_in_1000: u32,
    trace: Vec<Request>,
    hosts: Vec<HostState>,
}

/// A bucket. Clones share it.
#[derive(Clone)]
pub struct SimBucket {
    state: Arc<Mutex<State>>,
    clock: HandClock,
}

impl SimBucket {
    /// An empty bucket, in the time of `clock`.
    #[must_use]
    pub fn new(seed: u64, clock: &HandClock) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            versions: 0,
            late: Vec::new(),
            unlisted: Vec::new(),
            chance: Chance::from_seed(seed ^ 0xb0c4_e700),
            faults_in_1000: 0,
            trace: Vec::new(),
            hosts: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), clock: clock.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket as another host sees it.
    #[must_use]
    pub fn host(&self) -> SimObjects {
        let mut state = self.state();
        state.hosts.push(HostState::default());
        SimObjects { bucket: self.clone(), host: state.hosts.len() - 1 }
    }

    /// The bucket as somebody sees it who looks from outside: nothing goes wrong, and nothing changes by that.
    #[must_use]
    pub fn observer(&self) -> SimObjects {
        let observer = self.host();
        observer.with(|host| host.is_observer = true);
        observer
    }

    /// From now on so many of a thousand requests go wrong in some way.
    pub fn set_faults(&self, in_1000: u32) {
        self.state().faults_in_1000 = in_1000;
    }

    /// All requests so far.
    #[must_use]
    pub fn trace(&self) -> Vec<Request> {
        self.state().trace.clone()
    }

    /// The objects there are, with their bytes.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.objects.iter().map(|(name, (bytes, _))| (name.clone(), bytes.clone())).collect()
    }

    /// Changes an object behind everybody's back; its tag changes too.
    pub fn change(&self, name: &str, with: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        state.versions += 1;
        let version = state.versions;
        let (bytes, tag) = state.objects.get_mut(name).expect("the object is there");
        with(bytes);
        *tag = version;
    }

    /// Everything that was to be done later is done, and listed.
    pub fn settle(&self) {
        let mut state = self.state();
        state.unlisted.clear();
        for put in std::mem::take(&mut state.late) {
            let _ = state.put(&put);
        }
    }
}

impl fmt::Debug for SimBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimBucket").finish_non_exhaustive()
    }
}

/// A host's side of a [`SimBucket`].
#[derive(Clone, Debug)]
pub struct SimObjects {
    bucket: SimBucket,
    host: usize,
}

impl SimObjects {
    fn with<T>(&self, with: impl FnOnce(&mut HostState) -> T) -> T {
        with(&mut self.bucket.state().hosts[self.host])
    }

    /// Requests that this host has made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.with(|host| host.requests)
    }

    /// The request of that number, counted from 0, goes wrong.
    pub fn fail_at(&self, request: u64, fault: RequestFault) {
        self.with(|host| host.plan.insert(request, fault));
    }

    /// The host is lost with the request of that number, which is done or not; no later one arrives.
    pub fn lose_at(&self, request: u64, is_done: bool) {
        self.with(|host| host.lost_at = Some((request, is_done)));
    }

    /// Whether the host was lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.with(|host| host.lost_at.is_some_and(|(at, _)| host.requests > at))
    }

    /// Unless the host was lost already, it will not be. Says whether it was.
    pub fn spare(&self) -> bool {
        self.with(|host| {
            host.lost_at = host.lost_at.filter(|(at, _)| host.requests > *at);
            host.lost_at.is_some()
        })
    }

    /// No request arrives, or all do again.
    pub fn cut_off(&self, is_cut_off: bool) {
        self.with(|host| host.is_cut_off = is_cut_off);
    }

    /// Calls `hook` before the request of that number is done.
    pub fn before(&self, request: u64, hook: impl FnOnce() + Send + 'static) {
        self.with(|host| host.hooks.insert(request, Box::new(hook)));
    }

    fn error(&self, kind: ObjectErrorKind, operation: &'static str, name: &str) -> ObjectError {
        let (name, bucket) = (name.to_owned(), self.describe());
        let detail = format!("{kind:?}, in the simulation");
        ObjectError { kind, operation, name, bucket, detail }
    }

    /// A request: `done` says what it does, and how many bytes that moves.
    fn request<T>(
        &self,
        (kind, operation): (RequestKind, &'static str),
        name: &str,
        put: Option<Put>,
        mut done: impl FnMut(&mut State) -> (Result<T, ObjectErrorKind>, u64),
    ) -> Result<(T, bool), ObjectError> {
        let number = self.with(|host| {
            host.requests += 1;
            host.requests - 1
        });
        // Not under the lock: what it does may come by here again.
        let hook = self.with(|host| host.hooks.remove(&number));
        if let Some(hook) = hook {
            hook();
        }
        let unclear = || self.error(ObjectErrorKind::Unclear, operation, name);
        let mut state = self.bucket.state();
        if state.hosts[self.host].is_observer {
            let (result, _) = done(&mut state);
            return result
                .map(|value| (value, false))
                .map_err(|kind| self.error(kind, operation, name));
        }
        state.some_late_ones();
        let host = &mut state.hosts[self.host];
        let planned = host.plan.remove(&number);
        let lost = host.lost_at.filter(|(at, _)| number >= *at);
        if host.is_cut_off || lost.is_some_and(|(at, is_done)| number > at || !is_done) {
            return Err(unclear());
        }
        let fault = planned.or_else(|| state.fault(self.host, kind));
        match fault {
            Some(RequestFault::Failed) => return Err(unclear()),
            Some(RequestFault::Late) => {
                state.late.extend(put);
                return Err(unclear());
            }
            Some(RequestFault::Twice) => state.late.extend(put),
            Some(RequestFault::Slow(ms)) => self.bucket.clock.advance_ms(ms),
            Some(RequestFault::AnswerLost | RequestFault::Rotten) | None => {}
        }
        let (result, bytes) = done(&mut state);
        let request = Request { host: self.host, kind, name: name.to_owned(), bytes };
        state.trace.push(request);
        if fault == Some(RequestFault::AnswerLost) || lost.is_some() {
            return Err(unclear());
        }
        match result {
            Ok(value) => Ok((value, fault == Some(RequestFault::Rotten))),
            Err(kind) => Err(self.error(kind, operation, name)),
        }
    }
}

impl State {
    fn put(&mut self, put: &Put) -> Result<Tag, ObjectErrorKind> {
        let there = self.objects.get(&put.name).map(|(_, version)| tag(*version));
        let holds = match &put.condition {
            Owned::Always => true,
            Owned::Absent => there.is_none(),
            Owned::Unchanged(expected) => match &there {
                None => return Err(ObjectErrorKind::NotFound),
                Some(there) => there == expected,
            },
        };
        if !holds {
            return Err(ObjectErrorKind::Condition);
        }
        self.versions += 1;
        let version = self.versions;
        self.unlisted.push(put.name.clone());
        self.objects.insert(put.name.clone(), (put.bytes.clone(), version));
        Ok(tag(version))
    }

    fn some_late_ones(&mut self) {
        while !self.late.is_empty() && self.chance.one_in(3) {
            let at = self.chance.index(self.late.len());
            let put = self.late.swap_remove(at);
            let _ = self.put(&put);
        }
    }

    fn fault(&mut self, host: usize, kind: RequestKind) -> Option<RequestFault> {
        let bad_reads = &mut self.hosts[host].bad_reads;
        let is_read = kind == RequestKind::Get;
        if self.chance.below(1000) >= self.faults_in_1000 || (is_read && *bad_reads == 2) {
            *bad_reads = if is_read { 0 } else { *bad_reads };
            return None;
        }
        *bad_reads += u32::from(is_read);
        Some(match (self.chance.below(6), kind) {
            (0, RequestKind::Put) => RequestFault::Late,
            (1, RequestKind::Put) => RequestFault::Twice,
            (2, RequestKind::Get) => RequestFault::Rotten,
            (3, _) => RequestFault::Slow(u64::from(self.chance.below(300))),
            (4, _) => RequestFault::AnswerLost,
            _ => RequestFault::Failed,
        })
    }
}

fn tag(version: u64) -> Tag {
    Tag(format!("\"{version}\""))
}

impl Objects for SimObjects {
    fn describe(&self) -> String {
        "(simulated bucket)".to_owned()
    }

    fn get(&self, name: &str) -> Result<(Vec<u8>, Tag), ObjectError> {
        let got = self.request((RequestKind::Get, "get"), name, None, |state| {
            match state.objects.get(name) {
                Some((bytes, version)) => (Ok((bytes.clone(), tag(*version))), bytes.len() as u64),
                None => (Err(ObjectErrorKind::NotFound), 0),
            }
        });
        got.map(|(found, _)| found)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let (mut bytes, is_rotten) =
            self.request((RequestKind::Get, "get"), name, None, |state| {
                let Some((bytes, _)) = state.objects.get(name) else {
                    return (Err(ObjectErrorKind::NotFound), 0);
                };
                let (start, end) = (range.start as usize, range.end as usize);
                match bytes.get(start..end.min(bytes.len())) {
                    Some(bytes) => (Ok(bytes.to_vec()), bytes.len() as u64),
                    None => (Err(ObjectErrorKind::Refused), 0),
                }
            })?;
        if is_rotten && !bytes.is_empty() {
            let mut state = self.bucket.state();
            let at = state.chance.index(bytes.len());
            bytes[at] ^= 1 << state.chance.below(8);
        }
        Ok(bytes)
    }

    fn put(&self, name: &str, bytes: &[u8], condition: Condition<'_>) -> Result<Tag, ObjectError> {
        let condition = match condition {
            Condition::Always => Owned::Always,
            Condition::Absent => Owned::Absent,
            Condition::Unchanged(tag) => Owned::Unchanged(tag.clone()),
        };
        let put = Put { name: name.to_owned(), bytes: bytes.to_vec(), condition };
        let written = self.request((RequestKind::Put, "put"), name, Some(put.clone()), |state| {
            (state.put(&put), bytes.len() as u64)
        });
        written.map(|(tag, _)| tag)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        let is_observer = self.with(|host| host.is_observer);
        let listed = self.request((RequestKind::List, "list"), prefix, None, |state| {
            let mut names: Vec<String> = state.objects.keys().cloned().collect();
            let late = if is_observer { Vec::new() } else { std::mem::take(&mut state.unlisted) };
            for name in late {
                if state.chance.one_in(2) {
                    // Too young, or deleted lately.
                    match names.iter().position(|listed| *listed == name) {
                        Some(at) => drop(names.remove(at)),
                        None => names.push(name),
                    }
                }
            }
            names.retain(|name| name.starts_with(prefix));
            (Ok(names), 0)
        });
        listed.map(|(names, _)| names)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let deleted = self.request((RequestKind::Delete, "delete"), name, None, |state| {
            state.objects.remove(name);
            state.unlisted.push(name.to_owned());
            (Ok(()), 0)
        });
        deleted.map(|((), _)| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T: fmt::Debug>(result: Result<T, ObjectError>) -> ObjectErrorKind {
        result.unwrap_err().kind
    }

    #[test]
    fn it_keeps_to_its_fault_model() {
        let clock = HandClock::new();
        let bucket = SimBucket::new(1, &clock);
        let (one, two) = (bucket.host(), bucket.host());
        let first = one.put("m", b"1", Condition::Absent).unwrap();
        assert_eq!(kind(two.put("m", b"x", Condition::Absent)), ObjectErrorKind::Condition);

        // Not done.
        one.fail_at(one.requests(), RequestFault::Failed);
        assert_eq!(
            kind(one.put("m", b"2", Condition::Unchanged(&first))),
            ObjectErrorKind::Unclear
        );
        assert_eq!(two.get("m").unwrap().0, b"1");
        // Done, and nobody was told.
        one.fail_at(one.requests(), RequestFault::AnswerLost);
        assert_eq!(
            kind(one.put("m", b"3", Condition::Unchanged(&first))),
            ObjectErrorKind::Unclear
        );
        let (bytes, third) = two.get("m").unwrap();
        assert_eq!(bytes, b"3");
        // Done later, if its condition holds then.
        one.fail_at(one.requests(), RequestFault::Late);
        assert_eq!(
            kind(one.put("m", b"4", Condition::Unchanged(&third))),
            ObjectErrorKind::Unclear
        );
        bucket.settle();
        let (bytes, fourth) = two.get("m").unwrap();
        assert_eq!(bytes, b"4");
        one.fail_at(one.requests(), RequestFault::Twice);
        one.put("m", b"5", Condition::Unchanged(&fourth)).unwrap();
        bucket.settle();
        assert_eq!(two.get("m").unwrap().0, b"5");
        // Time passes.
        let before = clock.now_ns();
        one.fail_at(one.requests(), RequestFault::Slow(700));
        one.get("m").unwrap();
        assert!(clock.now_ns() - before >= 700_000_000);
        // Wrong bits.
        one.fail_at(one.requests(), RequestFault::Rotten);
        assert_ne!(one.get_range("m", 0..1).unwrap(), b"5");
        // Cut off, and lost.
        one.cut_off(true);
        assert_eq!(kind(one.get("m")), ObjectErrorKind::Unclear);
        one.cut_off(false);
        one.get("m").unwrap();
        one.lose_at(one.requests(), true);
        assert_eq!(kind(one.put("m", b"6", Condition::Always)), ObjectErrorKind::Unclear);
        assert_eq!(kind(one.put("m", b"7", Condition::Always)), ObjectErrorKind::Unclear);
        assert!(one.is_lost());
        assert_eq!(two.get("m").unwrap().0, b"6");
    }

    #[test]
    fn listings_lag() {
        let bucket = SimBucket::new(2, &HandClock::new());
        let host = bucket.host();
        let (mut lacked, mut kept) = (false, false);
        for n in 0..20 {
            let name = format!("objects/{n}");
            host.put(&name, b"", Condition::Always).unwrap();
            lacked |= !host.list("objects/").unwrap().contains(&name);
            assert!(host.list("objects/").unwrap().contains(&name));
            host.delete(&name).unwrap();
            kept |= host.list("objects/").unwrap().contains(&name);
            assert!(!host.list("objects/").unwrap().contains(&name));
        }
        assert!(lacked && kept);
    }
}
