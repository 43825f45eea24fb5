//! Between workload and arms: requests, replies, and the closed loop that counts and times them.
//!
//! A [`Load`] hands out requests until its plan is fulfilled and is told of every reply. It alone
//! decides what was acknowledged and how long that took, so that all arms are measured by the
//! same code: from the moment the request is handed out to the moment its reply is in hand. Where
//! requests come at a rate, it is the moment the request was due: one that could not be made in time
//! has waited all the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use lapidary_benches::failure::Result;
use lapidary_benches::latency::Latency;

use crate::workload::{FacetIndex, Share, Tally, Turn, TurnSource};

/// Something asked of one facet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// Make the facet, ready for turns; as durable as the arm's turns are.
    Create(FacetIndex),
    /// Do a turn.
    Turn(FacetIndex, Turn),
    /// Read the newest messages on the connection that turns use, so that it is open.
    Touch(FacetIndex),
    /// Read the newest messages.
    Read(FacetIndex),
    /// Open the facet, which nobody has open, and read the newest messages.
    ReadCold(FacetIndex),
    /// Count what turns left behind.
    Count(FacetIndex),
    /// Have SQLite check the facet's integrity.
    CheckIntegrity(FacetIndex),
    /// Make a second facet with all that this one has; as durable as the arm's turns are.
    Fork(FacetIndex),
    /// Delete that second facet.
    DeleteFork(FacetIndex),
}

impl Request {
    pub(crate) fn facet(&self) -> FacetIndex {
        match *self {
            Self::Create(facet)
            | Self::Turn(facet, _)
            | Self::Touch(facet)
            | Self::Read(facet)
            | Self::ReadCold(facet)
            | Self::Count(facet)
            | Self::CheckIntegrity(facet)
            | Self::Fork(facet)
            | Self::DeleteFork(facet) => facet,
        }
    }

    pub(crate) fn turn(&self) -> Option<&Turn> {
        if let Self::Turn(_, turn) = self { Some(turn) } else { None }
    }

    /// For messages about a request that failed.
    pub(crate) fn doing(&self) -> &'static str {
        match self {
            Self::Create(_) => "creating",
            Self::Turn(..) => "doing a turn in",
            Self::Touch(_) | Self::Read(_) => "reading",
            Self::ReadCold(_) => "opening and reading",
            Self::Count(_) => "counting the rows of",
            Self::CheckIntegrity(_) => "checking the integrity of",
            Self::Fork(_) => "forking",
            Self::DeleteFork(_) => "deleting the fork of",
        }
    }
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    Counted(Tally),
    Integrity(Option<String>),
}

/// Serves requests in an arm; one per core.
pub(crate) trait Client: Send {
    /// Asks `load` for requests until it has none, and returns when all are answered. A request
    /// that fails ends it: this workload has no errors to expect.
    fn drive(&mut self, load: &mut Load<'_>) -> Result<()>;
}

/// What a phase asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plan {
    CreateEach,
    /// Turns at facets chosen at random.
    TurnsUntil(Instant),
    /// Turns at facets chosen at random, the first of each client at `from` and then one `every` so often.
    TurnsAtRate {
        from: Instant,
        every: Duration,
        until: Instant,
    },
    /// As [`TurnsUntil`](Self::TurnsUntil), with nine reads to each turn.
    MostlyReadsUntil(Instant),
    TouchEach,
    ReadEach,
    /// Reads at facets chosen at random.
    ReadsUntil(Instant),
    /// At so many facets, spread over the client's share.
    ReadColdSample(usize),
    CountEach,
    CheckIntegritySample(usize),
    ForkSample(usize),
    /// Of the same facets.
    DeleteForksSample(usize),
}

/// A facet that does not hold what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    Count { facet: FacetIndex, acknowledged: Tally, found: Tally },
    Integrity { facet: FacetIndex, says: String },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count { facet, acknowledged, found } => write!(
                f,
                "facet {} holds {} turns ({} body bytes), but {} ({} bytes) were acknowledged",
                facet.name(),
                found.turns,
                found.body_bytes,
                acknowledged.turns,
                acknowledged.body_bytes
            ),
            Self::Integrity { facet, says } => {
                write!(f, "facet {} fails PRAGMA integrity_check: {says}", facet.name())
            }
        }
    }
}

/// Replies a client has got in the running phase; a cache line of its own, for it is written at
/// every reply.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One client's part of a phase.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    plan: Plan,
    share: Share,
    source: &'a mut TurnSource,
    tallies: &'a mut [Tally],
    gauge: &'a Gauge,
    position: usize,
    /// Turns of [`Plan::MostlyReadsUntil`] that were handed out before their time.
    turns_ahead: usize,
    /// Figures so far.
    pub(crate) outcome: Outcome,
}

/// Figures of a client's part of a phase, or of the whole phase.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) completed: u64,
    pub(crate) latency: Latency,
    /// Reads of [`Plan::MostlyReadsUntil`], which are not among the above.
    pub(crate) reads: u64,
    pub(crate) read_latency: Latency,
    pub(crate) faults: Vec<Fault>,
}

impl Outcome {
    pub(crate) fn new() -> Self {
        Self {
            completed: 0,
            latency: Latency::new(),
            reads: 0,
            read_latency: Latency::new(),
            faults: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.completed += other.completed;
        self.latency.add(&other.latency);
        self.reads += other.reads;
        self.read_latency.add(&other.read_latency);
        self.faults.extend(other.faults);
    }
}

impl<'a> Load<'a> {
    /// `tallies` holds what each facet of the share has acknowledged, and is kept up to date.
    pub(crate) fn new(
        plan: Plan,
        share: Share,
        source: &'a mut TurnSource,
        tallies: &'a mut [Tally],
        gauge: &'a Gauge,
    ) -> Self {
        debug_assert_eq!(tallies.len(), share.len());
        gauge.0.store(0, Ordering::Relaxed);
        Self {
            plan,
            share,
            source,
            tallies,
            gauge,
            position: 0,
            turns_ahead: 0,
            outcome: Outcome::new(),
        }
    }

    /// Whether the plan is one of turns.
    pub(crate) fn has_turns(&self) -> bool {
        matches!(
            self.plan,
            Plan::TurnsUntil(_) | Plan::TurnsAtRate { .. } | Plan::MostlyReadsUntil(_)
        )
    }

    /// When the next request is due, if it has to come at a certain time.
    pub(crate) fn due(&self) -> Option<Instant> {
        let Plan::TurnsAtRate { from, every, .. } = self.plan else { return None };
        let position = u32::try_from(self.position).unwrap_or(u32::MAX);
        Some(from + every * position)
    }

    /// The next request and the moment it is made or was due, or `None` at the end of the plan. Waits
    /// until it is due.
    pub(crate) fn next(&mut self) -> Option<(Request, Instant)> {
        if self.share.len() == 0 {
            return None;
        }
        let mut now = Instant::now();
        if let Some(due) = self.due() {
            thread::sleep(due.saturating_duration_since(now));
            now = due;
        }
        let request = match self.plan {
            Plan::CreateEach => Request::Create(self.next_of_share()?),
            Plan::TouchEach => Request::Touch(self.next_of_share()?),
            Plan::ReadEach => Request::Read(self.next_of_share()?),
            Plan::CountEach => Request::Count(self.next_of_share()?),
            Plan::ReadColdSample(size) => Request::ReadCold(self.next_of_sample(size)?),
            Plan::CheckIntegritySample(size) => Request::CheckIntegrity(self.next_of_sample(size)?),
            Plan::ForkSample(size) => Request::Fork(self.next_of_sample(size)?),
            Plan::DeleteForksSample(size) => Request::DeleteFork(self.next_of_sample(size)?),
            Plan::TurnsUntil(deadline)
            | Plan::ReadsUntil(deadline)
            | Plan::MostlyReadsUntil(deadline)
            | Plan::TurnsAtRate { until: deadline, .. }
                if now >= deadline =>
            {
                return None;
            }
            Plan::TurnsUntil(_) => self.turn_somewhere(),
            Plan::TurnsAtRate { .. } => {
                self.position += 1;
                self.turn_somewhere()
            }
            Plan::ReadsUntil(_) => Request::Read(self.any_of_share()),
            Plan::MostlyReadsUntil(_) => self.mostly_read(),
        };
        Some((request, now))
    }

    /// One more turn of a facet that was just handed out, for a call of several.
    pub(crate) fn another_turn(&mut self, facet: FacetIndex) -> Request {
        match self.plan {
            Plan::TurnsAtRate { .. } => self.position += 1,
            Plan::MostlyReadsUntil(_) => self.turns_ahead += 1,
            _ => {}
        }
        Request::Turn(facet, self.source.next_turn())
    }

    /// Takes note of the reply to a request made at `started`.
    pub(crate) fn done(&mut self, request: &Request, started: Instant, reply: Reply) {
        let outcome = &mut self.outcome;
        if let (Plan::MostlyReadsUntil(_), Request::Read(_)) = (self.plan, request) {
            outcome.reads += 1;
            outcome.read_latency.record(started.elapsed());
        } else {
            outcome.completed += 1;
            outcome.latency.record(started.elapsed());
        }
        self.gauge.0.store(outcome.completed + outcome.reads, Ordering::Relaxed);
        let facet = request.facet();
        let tally = &mut self.tallies[self.share.ordinal(facet)];
        if let Some(turn) = request.turn() {
            tally.add(turn);
        }
        match reply {
            Reply::Counted(found) if found != *tally => {
                self.outcome.faults.push(Fault::Count { facet, acknowledged: *tally, found });
            }
            Reply::Integrity(Some(says)) => {
                self.outcome.faults.push(Fault::Integrity { facet, says });
            }
            Reply::Done | Reply::Counted(_) | Reply::Integrity(None) => {}
        }
    }

    fn next_of_share(&mut self) -> Option<FacetIndex> {
        let ordinal = self.position;
        self.position += 1;
        (ordinal < self.share.len()).then(|| self.share.facet(ordinal))
    }

    fn next_of_sample(&mut self, size: usize) -> Option<FacetIndex> {
        let size = size.min(self.share.len());
        let index = self.position;
        self.position += 1;
        (index < size).then(|| self.share.facet(index * self.share.len() / size))
    }

    fn mostly_read(&mut self) -> Request {
        while self.source.below(10) == 0 {
            if self.turns_ahead == 0 {
                return self.turn_somewhere();
            }
            self.turns_ahead -= 1;
        }
        Request::Read(self.any_of_share())
    }

    fn turn_somewhere(&mut self) -> Request {
        let facet = self.any_of_share();
        Request::Turn(facet, self.source.next_turn())
    }

    fn any_of_share(&mut self) -> FacetIndex {
        let ordinal = self.source.below(self.share.len());
        self.share.facet(ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Texts, Work};

    struct Bench {
        share: Share,
        source: TurnSource,
        tallies: Vec<Tally>,
        gauge: Gauge,
    }

    impl Bench {
        fn new(facets: u32) -> Self {
            let share = Share { client: 0, clients: 2, facets };
            Self {
                share,
                source: TurnSource::new(Texts::leak(1), Work::AGENTS, 1, 0),
                tallies: vec![Tally::default(); share.len()],
                gauge: Gauge::default(),
            }
        }

        fn load(&mut self, plan: Plan) -> Load<'_> {
            Load::new(plan, self.share, &mut self.source, &mut self.tallies, &self.gauge)
        }
    }

    #[test]
    fn each_visits_every_facet_of_the_share_once() {
        let mut bench = Bench::new(9);
        let mut load = bench.load(Plan::CreateEach);
        let mut facets = Vec::new();
        while let Some((request, started)) = load.next() {
            facets.push(request.facet().0);
            load.done(&request, started, Reply::Done);
        }
        assert_eq!(facets, [0, 2, 4, 6, 8]);
        assert_eq!(load.outcome.completed, 5);
        assert_eq!(bench.gauge.get(), 5);
    }

    #[test]
    fn a_sample_is_spread_and_without_repetition() {
        let mut bench = Bench::new(200);
        let mut load = bench.load(Plan::ReadColdSample(10));
        let mut facets = Vec::new();
        while let Some((request, _)) = load.next() {
            facets.push(request.facet().0);
        }
        assert_eq!(facets, [0, 20, 40, 60, 80, 100, 120, 140, 160, 180]);
        let mut small = Bench::new(3);
        let mut load = small.load(Plan::ReadColdSample(10));
        assert_eq!(std::iter::from_fn(|| load.next()).count(), 2);
    }

    #[test]
    fn nothing_is_asked_after_the_deadline_or_of_an_empty_share() {
        let mut bench = Bench::new(4);
        assert!(bench.load(Plan::TurnsUntil(Instant::now())).next().is_none());
        let mut empty = Bench::new(0);
        let later = Instant::now() + Duration::from_secs(5);
        assert!(empty.load(Plan::TurnsUntil(later)).next().is_none());
    }

    #[test]
    fn turns_at_a_rate_count_from_when_they_were_due() {
        let mut bench = Bench::new(4);
        let from = Instant::now();
        let every = Duration::from_millis(2);
        let until = from + Duration::from_millis(20);
        let mut load = bench.load(Plan::TurnsAtRate { from, every, until });
        let mut due = from;
        while let Some((request, started)) = load.next() {
            assert_eq!(started, due);
            assert!(Instant::now() >= due, "not before");
            if due == from {
                // A server that is slow once: what was due meanwhile has waited for it.
                thread::sleep(Duration::from_millis(15));
            }
            load.done(&request, started, Reply::Done);
            due += every;
        }
        assert_eq!(load.outcome.completed, 10);
        let latency = load.outcome.latency.percentiles_us().unwrap();
        assert!(latency.p99 >= 14_000.0 && latency.p50 >= 1_000.0, "{latency:?}");
    }

    #[test]
    fn of_ten_requests_nine_are_reads_and_are_counted_apart() {
        let mut bench = Bench::new(4);
        let later = Instant::now() + Duration::from_secs(60);
        let mut load = bench.load(Plan::MostlyReadsUntil(later));
        for _ in 0..1000 {
            let (request, started) = load.next().unwrap();
            load.done(&request, started, Reply::Done);
        }
        let Outcome { completed, reads, .. } = load.outcome;
        assert_eq!(completed + reads, 1000);
        assert!((850..950).contains(&reads), "{reads}");
        assert_eq!(bench.tallies.iter().map(|tally| tally.turns).sum::<u64>(), completed);
    }

    #[test]
    fn only_acknowledged_turns_count_and_a_wrong_count_is_a_fault() {
        let mut bench = Bench::new(2);
        let later = Instant::now() + Duration::from_secs(60);
        let mut load = bench.load(Plan::TurnsUntil(later));
        let (unanswered, _) = load.next().unwrap();
        let (answered, started) = load.next().unwrap();
        assert_eq!(unanswered.facet(), answered.facet());
        load.done(&answered, started, Reply::Done);
        let expected = bench.tallies[0];
        assert_eq!(expected.turns, 1);

        for (found, faults) in [(expected, 0), (Tally::default(), 1)] {
            let mut load = bench.load(Plan::CountEach);
            let (request, started) = load.next().unwrap();
            load.done(&request, started, Reply::Counted(found));
            assert_eq!(load.outcome.faults.len(), faults);
        }
    }

    #[test]
    fn a_failed_integrity_check_is_a_fault_that_names_the_facet() {
        let mut bench = Bench::new(2);
        let mut load = bench.load(Plan::CheckIntegritySample(1));
        let (request, started) = load.next().unwrap();
        load.done(&request, started, Reply::Integrity(Some("page 3 never used".to_owned())));
        assert!(load.outcome.faults[0].to_string().contains("agent-0000000"));
    }
}
