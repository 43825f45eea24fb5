//! The process of an arm. Each arm is run by two, one after the other:
//!
//! 1. **Load**: creates the facets, does the turns and reads, measures, reports, and ends without
//!    closing anything, as a killed process would.
//! 2. **Verify**: opens what is left (that is the store's recovery), compares every facet with
//!    what the first process acknowledged, closes, opens again and times cold facets.
//!
//! `:memory:` ends with its process, so it is compared at the end of the first.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use lapidary_benches::child;
use lapidary_benches::failure::{Failure, Result};
use lapidary_benches::latency::{CurvePoint, Percentiles};
use lapidary_benches::process::{self, DiskUse, Usage};

use crate::arguments::WorkloadName;
use crate::arms::{self, Arm, Setting};
use crate::crew::{Crew, Phase};
use crate::load::{Fault, Plan};
use crate::workload::{Tally, Texts};

/// Facets opened cold, at most.
const COLD_SAMPLE: usize = 2000;
/// Facets whose integrity SQLite checks, at most.
const INTEGRITY_SAMPLE: usize = 32;
/// Facets that are forked, at most.
const FORK_SAMPLE: usize = 1000;
/// Faults that are reported one by one.
const FAULTS_REPORTED_MAX: usize = 20;

/// What a stage process is told on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) stage: Stage,
    pub(crate) setting: Setting,
    pub(crate) seconds: f64,
    /// Percent of the rate reached at which latency is measured.
    pub(crate) load: Vec<u32>,
    pub(crate) seed: u64,
    pub(crate) descriptors: Option<u64>,
    /// For [`Stage::Verify`]: what was acknowledged, by facet.
    pub(crate) acknowledged: Vec<Tally>,
}

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    Load,
    Verify,
}

/// What a stage process says on its standard output, a line of JSON each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Progress { fraction: f64, doing: String },
    Loaded(Box<Loaded>),
    Verified(Verified),
    Failed(String),
}

/// Figures of the first process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) create_per_s: f64,
    pub(crate) create_us: Option<Percentiles>,
    pub(crate) turns: u64,
    pub(crate) turns_per_s: f64,
    pub(crate) turn_us: Option<Percentiles>,
    pub(crate) turn_curve_us: Vec<CurvePoint>,
    pub(crate) turn_cpu_us: f64,
    pub(crate) mixed_reads_per_s: Option<f64>,
    pub(crate) mixed_read_us: Option<Percentiles>,
    pub(crate) load: Vec<LoadPoint>,
    pub(crate) reads_per_s: f64,
    pub(crate) read_us: Option<Percentiles>,
    pub(crate) read_curve_us: Vec<CurvePoint>,
    pub(crate) fork_per_s: f64,
    pub(crate) fork_us: Option<Percentiles>,
    pub(crate) delete_per_s: f64,
    pub(crate) delete_us: Option<Percentiles>,
    pub(crate) connections_open: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: u64,
    /// Before the first turn.
    pub(crate) disk_created: DiskUse,
    pub(crate) disk_open: DiskUse,
    pub(crate) turn_written_bytes: f64,
    pub(crate) turn_filled_bytes: Option<f64>,
    pub(crate) turn_device_bytes: f64,
    pub(crate) acknowledged: Vec<Tally>,
    /// Faults found here; only an arm that stores nothing is compared in this process.
    pub(crate) faults: Faults,
}

/// Latency of turns that come at a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadPoint {
    /// Of the rate that the arm reached with as many turns under way as it takes.
    pub(crate) percent: u32,
    pub(crate) offered_per_s: f64,
    pub(crate) turns_per_s: f64,
    /// From when a turn was due to its acknowledgement.
    pub(crate) turn_us: Option<Percentiles>,
}

/// Figures of the second process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) store_open_ms: Option<f64>,
    pub(crate) store_open_clean_ms: Option<f64>,
    pub(crate) cold_open_us: Option<Percentiles>,
    pub(crate) cold_open_curve_us: Vec<CurvePoint>,
    pub(crate) disk_closed: DiskUse,
    pub(crate) faults: Faults,
}

/// Facets that do not hold what was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    pub(crate) count: usize,
    pub(crate) first: Vec<Fault>,
}

impl Faults {
    fn take(&mut self, mut faults: Vec<Fault>) {
        self.count += faults.len();
        faults.truncate(FAULTS_REPORTED_MAX.saturating_sub(self.first.len()));
        self.first.extend(faults);
    }
}

/// The whole life of a stage process. Does not return, so that nothing is closed on the way out.
pub(crate) fn serve() -> ! {
    child::serve(run, Message::Failed)
}

fn run() -> Result<Message> {
    let assignment: Assignment = child::receive()?;
    process::pin_thread(&assignment.setting.cpus)?;
    if let Some(limit) = assignment.descriptors {
        process::limit_descriptors(limit)?;
    }
    arms::configure_process(&assignment.setting)?;
    match assignment.stage {
        Stage::Load => load(&assignment).map(|loaded| Message::Loaded(Box::new(loaded))),
        Stage::Verify => verify(&assignment).map(Message::Verified),
    }
}

fn load(assignment: &Assignment) -> Result<Loaded> {
    let Assignment { setting, seconds, .. } = assignment;
    let stored = setting.arm.is_stored();
    let texts = Texts::leak(assignment.seed);
    let before = Usage::now()?;

    let mut arm = arms::open(setting)?;
    let mut crew = crew(assignment, &mut *arm, texts)?;
    let facets = f64::from(setting.facets);
    let mut teller = Teller { stage: Stage::Load, stored };

    let create = crew.run(Plan::CreateEach, &mut |done| {
        teller.tell(0.0, 0.3, ratio(done, facets), "creating", done);
    })?;

    let disk_created = arm.disk_use()?;
    let warm_up = Duration::from_secs_f64((seconds / 4.0).min(0.5));
    let plan = |deadline| match setting.work.name {
        WorkloadName::Readers => Plan::MostlyReadsUntil(deadline),
        WorkloadName::Agents | WorkloadName::Large => Plan::TurnsUntil(deadline),
    };
    crew.run(plan(Instant::now() + warm_up), &mut |_| ())?;

    let written_before = arm.written()?;
    let usage_before = Usage::now()?;
    let length = Duration::from_secs_f64(*seconds);
    let started = Instant::now();
    let turns = crew.run(plan(started + length), &mut |done| {
        let part = started.elapsed().as_secs_f64() / seconds;
        teller.tell(0.3, 0.4, part, "turns", done);
    })?;
    let usage_after = Usage::now()?;
    let written_after = arm.written()?;
    let load = under_load(assignment, &mut crew, turns.per_second(), &mut |percent| {
        teller.tell(0.7, 0.1, f64::from(percent) / 100.0, "turns at a rate", 0);
    })?;

    // Where the descriptor limit allows, every database has a connection when memory is measured.
    crew.run(Plan::TouchEach, &mut |done| {
        teller.tell(0.8, 0.05, ratio(done, facets), "reading each", done);
    })?;
    let open = Usage::now()?;
    let connections_open = arm.connections_open()?;
    let disk_open = arm.disk_use()?;

    if arm.reads_apart() {
        // The other arms' connections are open by now, too.
        crew.run(Plan::ReadEach, &mut |done| {
            teller.tell(0.85, 0.0, ratio(done, facets), "opening readers", done);
        })?;
    }
    let length = Duration::from_secs_f64(seconds / 3.0);
    let started = Instant::now();
    let reads = crew.run(Plan::ReadsUntil(started + length), &mut |done| {
        let part = started.elapsed().as_secs_f64() / length.as_secs_f64();
        teller.tell(0.85, 0.13, part, "reads", done);
    })?;

    let sample = FORK_SAMPLE.div_ceil(setting.cpus.len());
    let forks = crew.run(Plan::ForkSample(sample), &mut |done| {
        teller.tell(0.98, 0.0, 0.0, "forking", done);
    })?;
    let deletes = crew.run(Plan::DeleteForksSample(sample), &mut |done| {
        teller.tell(0.99, 0.0, 0.0, "deleting forks", done);
    })?;

    let mut faults = Faults::default();
    if !stored {
        faults.take(crew.run(Plan::CountEach, &mut |_| ())?.outcome.faults);
    }

    let turn_count = turns.outcome.completed;
    let per_turn = |bytes: u64| ratio(bytes, count(turn_count).max(1.0));
    let kernel_written = usage_after.written_bytes - usage_before.written_bytes;
    let own_account = written_after.zip(written_before);
    let loaded = Loaded {
        create_per_s: create.per_second(),
        create_us: create.outcome.latency.percentiles_us(),
        turns: turn_count,
        turns_per_s: turns.per_second(),
        turn_us: turns.outcome.latency.percentiles_us(),
        turn_curve_us: turns.outcome.latency.curve_us(),
        turn_cpu_us: (usage_after.cpu - usage_before.cpu).as_secs_f64() * 1e6
            / count(turn_count).max(1.0),
        mixed_reads_per_s: (turns.outcome.reads > 0).then(|| turns.reads_per_second()),
        mixed_read_us: turns.outcome.read_latency.percentiles_us(),
        load,
        reads_per_s: reads.per_second(),
        read_us: reads.outcome.latency.percentiles_us(),
        read_curve_us: reads.outcome.latency.curve_us(),
        fork_per_s: forks.per_second(),
        fork_us: forks.outcome.latency.percentiles_us(),
        delete_per_s: deletes.per_second(),
        delete_us: deletes.outcome.latency.percentiles_us(),
        connections_open,
        resident_bytes: open.resident_bytes.saturating_sub(before.resident_bytes),
        descriptors: open.descriptors.saturating_sub(before.descriptors),
        disk_created,
        disk_open,
        turn_written_bytes: per_turn(
            own_account
                .map_or(kernel_written, |(after, before)| after.log_bytes - before.log_bytes),
        ),
        turn_filled_bytes: own_account
            .map(|(after, before)| per_turn(after.filled_bytes - before.filled_bytes)),
        turn_device_bytes: per_turn(usage_after.device_bytes - usage_before.device_bytes),
        acknowledged: crew.tallies(),
        faults,
    };
    // Dropping either would close the store in an orderly way, and the next process is to find
    // what a killed one leaves.
    std::mem::forget(crew);
    std::mem::forget(arm);
    Ok(loaded)
}

/// Turns at parts of the rate `reached_per_s`.
fn under_load(
    assignment: &Assignment,
    crew: &mut Crew,
    reached_per_s: f64,
    progress: &mut dyn FnMut(u32),
) -> Result<Vec<LoadPoint>> {
    let clients = f64::from(u32::try_from(assignment.setting.cpus.len()).unwrap_or(u32::MAX));
    let length = Duration::from_secs_f64(assignment.seconds / 3.0);
    let mut points = Vec::new();
    for &percent in &assignment.load {
        progress(percent);
        let offered_per_s = (reached_per_s * f64::from(percent) / 100.0).max(0.1);
        let from = Instant::now();
        let every = Duration::from_secs_f64(clients / offered_per_s);
        let phase =
            crew.run(Plan::TurnsAtRate { from, every, until: from + length }, &mut |_| ())?;
        points.push(LoadPoint {
            percent,
            offered_per_s,
            turns_per_s: phase.per_second(),
            turn_us: phase.outcome.latency.percentiles_us(),
        });
    }
    Ok(points)
}

fn verify(assignment: &Assignment) -> Result<Verified> {
    let setting = &assignment.setting;
    let texts = Texts::leak(assignment.seed);
    let facets = f64::from(setting.facets);
    let mut teller = Teller { stage: Stage::Verify, stored: true };

    let mut arm = arms::open(setting)?;
    let store_open_ms = milliseconds(arm.store_open());
    let mut faults = Faults::default();
    let mut crew_counting = crew(assignment, &mut *arm, texts)?;
    crew_counting.expect(&assignment.acknowledged);
    let counted = crew_counting.run(Plan::CountEach, &mut |done| {
        teller.tell(0.0, 0.6, ratio(done, facets), "counting", done);
    })?;
    if counted.outcome.completed != u64::from(setting.facets) {
        return Err(Failure::new(format!(
            "counted {} facets instead of {}",
            counted.outcome.completed, setting.facets
        )));
    }
    faults.take(counted.outcome.faults);
    let sample = INTEGRITY_SAMPLE.div_ceil(setting.cpus.len());
    faults.take(crew_counting.run(Plan::CheckIntegritySample(sample), &mut |_| ())?.outcome.faults);
    teller.tell(0.6, 0.2, 0.0, "closing", 0);
    drop(crew_counting);
    arm.close()?;

    let mut arm = arms::open(setting)?;
    let store_open_clean_ms = milliseconds(arm.store_open());
    let disk_closed = arm.disk_use()?;
    let mut crew_cold = crew(assignment, &mut *arm, texts)?;
    teller.tell(0.8, 0.2, 0.0, "cold opens", 0);
    let sample = COLD_SAMPLE.div_ceil(setting.cpus.len());
    let cold: Phase = crew_cold.run_in_turn(Plan::ReadColdSample(sample))?;
    drop(crew_cold);
    arm.close()?;

    Ok(Verified {
        store_open_ms,
        store_open_clean_ms,
        cold_open_us: cold.outcome.latency.percentiles_us(),
        cold_open_curve_us: cold.outcome.latency.curve_us(),
        disk_closed,
        faults,
    })
}

fn crew(assignment: &Assignment, arm: &mut dyn Arm, texts: &'static Texts) -> Result<Crew> {
    let Setting { cpus, facets, .. } = &assignment.setting;
    let cpus = arm.pins_clients().then_some(cpus.as_slice());
    let work = assignment.setting.work;
    Ok(Crew::new(arm.clients()?, cpus, *facets, texts, work, assignment.seed))
}

/// Tells the parent how far the arm has come.
struct Teller {
    stage: Stage,
    stored: bool,
}

impl Teller {
    /// `from` and `width` place a phase within its stage, `part` the moment within the phase.
    fn tell(&mut self, from: f64, width: f64, part: f64, doing: &str, done: u64) {
        let within_stage = from + width * part.clamp(0.0, 1.0);
        let fraction = match (self.stage, self.stored) {
            (Stage::Load, false) => within_stage,
            (Stage::Load, true) => within_stage * 0.7,
            (Stage::Verify, _) => 0.7 + within_stage * 0.3,
        };
        let doing = if done == 0 { doing.to_owned() } else { format!("{doing} {done}") };
        // A parent that is gone takes this process with it; nothing to do here.
        let _ = child::say(&Message::Progress { fraction, doing });
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}

fn ratio(number: u64, of: f64) -> f64 {
    count(number) / of
}

fn milliseconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::ArmName;
    use crate::workload::{FacetIndex, Work};

    fn setting(arm: ArmName, directory: &std::path::Path) -> Setting {
        Setting {
            arm,
            directory: directory.to_owned(),
            facets: 12,
            open_max: 12,
            cpus: process::allowed_cpus().unwrap().into_iter().take(2).collect(),
            in_flight: 4,
            batch: 4,
            mmap_mib: 0,
            work: Work::AGENTS,
            template: None,
        }
    }

    fn both_stages(arm: ArmName, spoil: impl FnOnce(&mut Vec<Tally>)) -> (Loaded, Verified) {
        let directory = tempfile::tempdir().unwrap();
        let mut assignment = Assignment {
            stage: Stage::Load,
            setting: setting(arm, directory.path()),
            seconds: 0.3,
            load: Vec::new(),
            seed: 5,
            descriptors: None,
            acknowledged: Vec::new(),
        };
        let loaded = load(&assignment).unwrap();
        assignment.acknowledged.clone_from(&loaded.acknowledged);
        spoil(&mut assignment.acknowledged);
        let verified = verify(&assignment).unwrap();
        (loaded, verified)
    }

    #[test]
    fn files_hold_every_acknowledged_turn_though_the_first_process_closed_nothing() {
        for arm in [ArmName::SqliteWalFull, ArmName::SqliteWalNormal, ArmName::SqliteMemoryOff] {
            let (loaded, verified) = both_stages(arm, |_| ());
            assert!(loaded.turns > 0 && loaded.turns_per_s > 0.0, "{arm}");
            assert_eq!(loaded.connections_open, 12, "{arm}");
            assert!(loaded.turn_written_bytes > 200.0, "{arm}: {loaded:?}");
            assert!(loaded.disk_open.bytes > 0 && verified.disk_closed.bytes > 0, "{arm}");
            assert_eq!(verified.faults, Faults::default(), "{arm}");
            assert!(verified.cold_open_us.is_some(), "{arm}");
        }
    }

    #[test]
    fn a_missing_turn_is_found_and_its_facet_named() {
        let (_, verified) = both_stages(ArmName::SqliteMemoryOff, |tallies| {
            tallies[7].turns += 1;
        });
        assert_eq!(verified.faults.count, 1);
        let Fault::Count { facet, acknowledged, found } = &verified.faults.first[0] else {
            panic!("{:?}", verified.faults)
        };
        assert_eq!(*facet, FacetIndex(7));
        assert_eq!(acknowledged.turns, found.turns + 1);
    }

    #[test]
    fn in_memory_databases_are_compared_before_they_go() {
        let directory = tempfile::tempdir().unwrap();
        let assignment = Assignment {
            stage: Stage::Load,
            setting: setting(ArmName::SqliteInmem, directory.path()),
            seconds: 0.3,
            load: Vec::new(),
            seed: 5,
            descriptors: None,
            acknowledged: Vec::new(),
        };
        let loaded = load(&assignment).unwrap();
        assert!(loaded.turns > 0);
        assert_eq!(loaded.faults, Faults::default());
        assert_eq!(loaded.turn_written_bytes, 0.0);
    }

    #[test]
    fn many_faults_are_counted_and_the_first_are_kept() {
        let fault = |number| Fault::Integrity { facet: FacetIndex(number), says: String::new() };
        let mut faults = Faults::default();
        faults.take((0..15).map(fault).collect());
        faults.take((15..40).map(fault).collect());
        assert_eq!(faults.count, 40);
        assert_eq!(faults.first.len(), FAULTS_REPORTED_MAX);
    }
}
