//! The process at the terminal: prepares, runs one arm after the other in processes of their
//! own, shows how far they are, and puts their figures together.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use lapidary_benches::child::Interruption;
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::machine::Machine;
use lapidary_benches::process::allowed_cpus;
use lapidary_benches::workplace;

use crate::arguments::{Arguments, ArmName};
use crate::arms::Setting;
use crate::reach::{Means, lacks};
use crate::report::{ArmReport, Missing, Report, TemplateUsed, Workload};
use crate::stage::{Assignment, Faults, Message, Stage};
use crate::template;

/// Default directory, below the current one.
const WORK_DIRECTORY: &str = "target/pack";
/// Steps of the progress bar per arm.
const STEPS: u64 = 1000;
const CORES_DEFAULT: usize = 2;

/// Runs everything that `arguments` asks for.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let allowed = allowed_cpus()?;
    let cores = arguments.cores.unwrap_or_else(|| CORES_DEFAULT.min(allowed.len()));
    if cores > allowed.len() {
        return Err(Failure::new(format!(
            "--cores {cores}, but this process may run on {} CPU(s) only",
            allowed.len()
        )));
    }
    workplace::check_output("--json", arguments.json.as_deref())?;
    workplace::check_output("--report", arguments.report.as_deref())?;

    if arguments.template.is_some() && arguments.work().rows().is_some() {
        return Err(Failure::new(
            "--workload large makes its own databases: leave --template out, or take another workload",
        ));
    }

    let parent = arguments.store.clone().unwrap_or_else(|| PathBuf::from(WORK_DIRECTORY));
    let work = workplace::work_directory(&parent)?;
    let interruption = Interruption::prepare(work.path())?;

    let machine = Machine::describe(work.path(), arguments.descriptors)?;
    let template = match &arguments.template {
        None => None,
        Some(source) => Some(template::prepare(source, work.path())?),
    };
    let counts = arguments.facet_counts();
    let mut report = Report {
        command: command_line(std::env::args()),
        machine,
        workload: Workload {
            name: arguments.work().name,
            size_mib: arguments.work().rows().map(|_| arguments.work().size_mib),
            facets: counts.clone(),
            seconds: arguments.seconds,
            cores,
            in_flight: arguments.in_flight,
            batch: arguments.batch,
            mmap_mib: arguments.mmap_mib,
            seed: arguments.seed,
            template: arguments.template.as_ref().zip(template.as_ref()).map(|(file, template)| {
                TemplateUsed {
                    file: file.display().to_string(),
                    page_bytes: template.page_bytes,
                    bytes: template.bytes,
                }
            }),
        },
        arms: Vec::new(),
        failed: Vec::new(),
        skipped: Vec::new(),
    };

    let arms = without_repetition(&arguments.arms);
    let runs: Vec<(u32, ArmName)> =
        counts.iter().flat_map(|&facets| arms.iter().map(move |&arm| (facets, arm))).collect();
    let bar = workplace::progress_bar(runs.len() as u64 * STEPS);
    let mut lost_something = false;
    for (index, &(facets, arm)) in runs.iter().enumerate() {
        let directory = work.path().join(format!("{arm}-{facets}"));
        fs::create_dir(&directory).doing(|| format!("creating {}", directory.display()))?;
        let assignment = Assignment {
            stage: Stage::Load,
            setting: Setting {
                arm,
                directory: directory.clone(),
                facets,
                open_max: arguments.open_max(facets),
                cpus: allowed[..cores].to_vec(),
                in_flight: arguments.in_flight,
                batch: arguments.batch,
                mmap_mib: arguments.mmap_mib,
                work: arguments.work(),
                template: template.clone(),
            },
            seconds: arguments.seconds,
            load: arguments.load.clone(),
            seed: arguments.seed,
            descriptors: arguments.descriptors,
            acknowledged: Vec::new(),
        };
        let is_bulky = template.is_some() || arguments.work().bytes() > 0;
        let lack = if arguments.is_sweep() || is_bulky {
            let means = Means::now(&directory, arguments.time_max())?;
            lacks(&assignment.setting, report.last_of(arm), timed_s(arguments), means)
        } else {
            None
        };
        let runner = Runner {
            bar: &bar,
            first_step: index as u64 * STEPS,
            interruption: &interruption,
            time_max: arguments.time_max(),
            started: Instant::now(),
        };
        let result = match lack {
            None => runner.run_arm(assignment),
            Some(lack) if arguments.is_sweep() => Err(NoFigures::Skipped(lack.to_string())),
            Some(lack) => Err(NoFigures::Failed(lack.to_string())),
        };
        let missing = |reason| Missing { arm, facets, reason };
        match result {
            Ok(figures) => report.arms.push(figures),
            Err(NoFigures::Skipped(reason)) => report.skipped.push(missing(reason)),
            Err(NoFigures::Failed(reason)) => report.failed.push(missing(reason)),
            Err(NoFigures::Lost(reason)) => {
                lost_something = true;
                report.failed.push(missing(reason));
            }
        }
        bar.set_position((index as u64 + 1) * STEPS);
        if !arguments.keep && !lost_something {
            bar.set_message(format!("{arm}: removing what it made"));
            fs::remove_dir_all(&directory).doing(|| format!("removing {}", directory.display()))?;
            // What the disk still has to do for this arm is not to slow the next one down.
            rustix::fs::sync();
        }
    }
    bar.finish_and_clear();
    workplace::conclude(work, arguments.keep || lost_something);
    Ok(report)
}

/// What was typed, with the program's name alone in place of its path.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["pack".to_owned()];
    words.extend(arguments.skip(1).map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=".contains(c);
        let is_plain = !word.is_empty() && word.chars().all(plain);
        if is_plain { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    }));
    words.join(" ")
}

/// Length of the phases that take as long as they are told to: turns, a warm-up, turns at rates, reads.
fn timed_s(arguments: &Arguments) -> f64 {
    let seconds = arguments.seconds;
    let thirds = 1 + u32::try_from(arguments.load.len()).unwrap_or(u32::MAX);
    seconds + (seconds / 4.0).min(0.5) + seconds / 3.0 * f64::from(thirds)
}

/// Why an arm has no figures.
enum NoFigures {
    /// A sweep goes on without them.
    Skipped(String),
    Failed(String),
    /// Something that was acknowledged is not there.
    Lost(String),
}

impl From<Failure> for NoFigures {
    fn from(reason: Failure) -> Self {
        Self::Failed(reason.to_string())
    }
}

struct Runner<'a> {
    bar: &'a ProgressBar,
    first_step: u64,
    interruption: &'a Interruption,
    time_max: Option<Duration>,
    started: Instant,
}

impl Runner<'_> {
    fn run_arm(&self, mut assignment: Assignment) -> Result<ArmReport, NoFigures> {
        let arm = assignment.setting.arm;
        let facets = assignment.setting.facets;
        let loaded = match self.run_stage(&assignment)? {
            Message::Loaded(loaded) => loaded,
            other => return Err(unexpected(&other).into()),
        };
        refuse_faults(&loaded.faults, &assignment.setting)?;
        if !arm.is_stored() {
            return Ok(ArmReport::new(arm, facets, &loaded, None, self.started.elapsed()));
        }
        assignment.stage = Stage::Verify;
        assignment.acknowledged.clone_from(&loaded.acknowledged);
        let verified = match self.run_stage(&assignment)? {
            Message::Verified(verified) => verified,
            other => return Err(unexpected(&other).into()),
        };
        refuse_faults(&verified.faults, &assignment.setting)?;
        Ok(ArmReport::new(arm, facets, &loaded, Some(&verified), self.started.elapsed()))
    }

    /// Runs one stage in a process of its own, to its last message or the end of its time.
    fn run_stage(&self, assignment: &Assignment) -> Result<Message, NoFigures> {
        let Setting { arm, facets, .. } = assignment.setting;
        let mut last = None;
        let mut overtaken_while = None;
        let listen = |message: Message| match message {
            Message::Progress { fraction, doing } => {
                self.bar.set_position(self.first_step + step(fraction));
                self.bar.set_message(format!("{facets} facets, {arm}: {doing}"));
                if self.time_max.is_some_and(|time_max| self.started.elapsed() > time_max) {
                    self.interruption.kill_child();
                    overtaken_while.get_or_insert(doing);
                }
            }
            message => last = Some(message),
        };
        let status =
            self.interruption.run_child(arm.as_str(), "--serve-stage", assignment, listen)?;
        match last {
            Some(Message::Failed(reason)) => Err(NoFigures::Failed(reason)),
            Some(message) if status.success() => Ok(message),
            _ => Err(match (overtaken_while, self.time_max) {
                (Some(doing), Some(time_max)) => NoFigures::Skipped(format!(
                    "stopped at \"{doing}\" after the {} s that --time-max allows",
                    time_max.as_secs_f64()
                )),
                _ => NoFigures::Failed(format!("its process ended early: {status}")),
            }),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and STEPS")]
#[allow(clippy::cast_precision_loss, reason = "a small constant")]
fn step(fraction: f64) -> u64 {
    (fraction.clamp(0.0, 1.0) * STEPS as f64) as u64
}

fn unexpected(message: &Message) -> Failure {
    Failure::new(format!("its process gave an answer to another question: {message:?}"))
}

fn refuse_faults(faults: &Faults, setting: &Setting) -> Result<(), NoFigures> {
    if faults.count == 0 {
        return Ok(());
    }
    let mut reason = format!("{} of {} facets are wrong:", faults.count, setting.facets);
    for fault in &faults.first {
        reason.push_str("\n  ");
        reason.push_str(&fault.to_string());
    }
    reason.push_str(&format!("\n  kept for examination: {}", setting.directory.display()));
    Err(NoFigures::Lost(reason))
}

fn without_repetition(arms: &[ArmName]) -> Vec<ArmName> {
    let mut unique = Vec::new();
    for &arm in arms {
        if !unique.contains(&arm) {
            unique.push(arm);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_run_once_each() {
        use ArmName::{Lapidary, SqliteInmem};
        let arms = without_repetition(&[SqliteInmem, Lapidary, SqliteInmem]);
        assert_eq!(arms, [SqliteInmem, Lapidary]);
    }

    #[test]
    fn the_command_line_can_be_typed_again() {
        let arguments = ["/usr/bin/pack", "--sweep", "1,2", "--store", "a b", "it's"];
        let typed = command_line(arguments.map(str::to_owned).into_iter());
        assert_eq!(typed, r"pack --sweep 1,2 --store 'a b' 'it'\''s'");
    }
}
