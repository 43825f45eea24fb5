//! The process at the terminal: prepares, runs one arm after the other in processes of their
//! own, shows how far they are, and puts their figures together.

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use lapidary_benches::child::Interruption;
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::machine::{Machine, memory_mib};
use lapidary_benches::process::allowed_cpus;
use lapidary_benches::workplace;

use crate::arguments::{Arguments, ArmName};
use crate::arms::Setting;
use crate::report::{ArmReport, FailedArm, Report, TemplateUsed, Workload};
use crate::stage::{Assignment, Faults, Message, Stage};
use crate::template::{self, Template};

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
    workplace::check_json(arguments.json.as_deref())?;

    let parent = arguments.store.clone().unwrap_or_else(|| PathBuf::from(WORK_DIRECTORY));
    let work = workplace::work_directory(&parent)?;
    let interruption = Interruption::prepare(work.path())?;

    let machine = Machine::describe(work.path(), arguments.descriptors)?;
    let template = match &arguments.template {
        None => None,
        Some(source) => {
            let template = template::prepare(source, work.path())?;
            check_space(&template, arguments.facets, work.path())?;
            Some(template)
        }
    };
    let mut report = Report {
        machine,
        workload: Workload {
            name: "agent memory".to_owned(),
            facets: arguments.facets,
            seconds: arguments.seconds,
            cores,
            in_flight: arguments.in_flight,
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
    };

    let arms = without_repetition(&arguments.arms);
    let bar = workplace::progress_bar(arms.len() as u64 * STEPS);
    let mut lost_something = false;
    for (index, &arm) in arms.iter().enumerate() {
        let directory = work.path().join(arm.as_str());
        fs::create_dir(&directory).doing(|| format!("creating {}", directory.display()))?;
        let assignment = Assignment {
            stage: Stage::Load,
            setting: Setting {
                arm,
                directory: directory.clone(),
                facets: arguments.facets,
                cpus: allowed[..cores].to_vec(),
                in_flight: arguments.in_flight,
                mmap_mib: arguments.mmap_mib,
                template: template.clone(),
            },
            seconds: arguments.seconds,
            seed: arguments.seed,
            descriptors: arguments.descriptors,
            acknowledged: Vec::new(),
        };
        let runner =
            Runner { bar: &bar, first_step: index as u64 * STEPS, interruption: &interruption };
        match runner.run_arm(assignment) {
            Ok(figures) => report.arms.push(figures),
            Err(ArmFailure { reason, faults }) => {
                lost_something |= faults;
                report.failed.push(FailedArm { arm, reason: reason.to_string() });
            }
        }
        bar.set_position((index as u64 + 1) * STEPS);
        if !arguments.keep && !lost_something {
            fs::remove_dir_all(&directory).doing(|| format!("removing {}", directory.display()))?;
            // What the disk still has to do for this arm is not to slow the next one down.
            rustix::fs::sync();
        }
    }
    bar.finish_and_clear();
    workplace::conclude(work, arguments.keep || lost_something);
    Ok(report)
}

/// Why an arm has no figures; `faults`: because it lost something.
struct ArmFailure {
    reason: Failure,
    faults: bool,
}

impl From<Failure> for ArmFailure {
    fn from(reason: Failure) -> Self {
        Self { reason, faults: false }
    }
}

struct Runner<'a> {
    bar: &'a ProgressBar,
    first_step: u64,
    interruption: &'a Interruption,
}

impl Runner<'_> {
    fn run_arm(&self, mut assignment: Assignment) -> Result<ArmReport, ArmFailure> {
        let arm = assignment.setting.arm;
        let facets = assignment.setting.facets;
        if arm == ArmName::SqliteInmem {
            check_memory(&assignment.setting)?;
        }
        let loaded = match self.run_stage(&assignment)? {
            Message::Loaded(loaded) => loaded,
            other => return Err(unexpected(&other).into()),
        };
        refuse_faults(&loaded.faults, &assignment.setting)?;
        if !arm.is_stored() {
            return Ok(ArmReport::new(arm, facets, &loaded, None));
        }
        assignment.stage = Stage::Verify;
        assignment.acknowledged.clone_from(&loaded.acknowledged);
        let verified = match self.run_stage(&assignment)? {
            Message::Verified(verified) => verified,
            other => return Err(unexpected(&other).into()),
        };
        refuse_faults(&verified.faults, &assignment.setting)?;
        Ok(ArmReport::new(arm, facets, &loaded, Some(&verified)))
    }

    /// Runs one stage in a process of its own, to its last message.
    fn run_stage(&self, assignment: &Assignment) -> Result<Message> {
        let arm = assignment.setting.arm;
        let mut last = None;
        let listen = |message: Message| {
            if let Message::Progress { fraction, doing } = &message {
                self.bar.set_position(self.first_step + step(*fraction));
                self.bar.set_message(format!("{arm}: {doing}"));
            } else {
                last = Some(message);
            }
        };
        let status =
            self.interruption.run_child(arm.as_str(), "--serve-stage", assignment, listen)?;
        match last {
            Some(Message::Failed(reason)) => Err(Failure::new(reason)),
            Some(message) if status.success() => Ok(message),
            _ => Err(Failure::new(format!("its process ended early: {status}"))),
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

fn refuse_faults(faults: &Faults, setting: &Setting) -> Result<(), ArmFailure> {
    if faults.count == 0 {
        return Ok(());
    }
    let mut reason = format!("{} of {} facets are wrong:", faults.count, setting.facets);
    for fault in &faults.first {
        reason.push_str("\n  ");
        reason.push_str(&fault.to_string());
    }
    reason.push_str(&format!("\n  kept for examination: {}", setting.directory.display()));
    Err(ArmFailure { reason: Failure::new(reason), faults: true })
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

/// Copies of a large template could fill the disk; better said before than met half-way.
fn check_space(template: &Template, facets: u32, directory: &Path) -> Result<()> {
    let space = rustix::fs::statvfs(directory)
        .doing(|| format!("asking for the free space at {}", directory.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    // Half as much again for logs and growth.
    let needed = template.bytes.saturating_mul(u64::from(facets)).saturating_mul(3) / 2;
    if needed > free {
        return Err(Failure::new(format!(
            "{facets} copies of the template need about {} MiB, {} has {} MiB free: give fewer \
             --facets or another disk with --store",
            needed >> 20,
            directory.display(),
            free >> 20
        )));
    }
    Ok(())
}

fn check_memory(setting: &Setting) -> Result<()> {
    let Some((template, available)) = setting.template.as_ref().zip(memory_mib("MemAvailable"))
    else {
        return Ok(());
    };
    let needed = (template.bytes.saturating_mul(u64::from(setting.facets)) >> 20) * 3 / 2;
    if needed > available {
        return Err(Failure::new(format!(
            "{} copies of the template need about {needed} MiB of memory, {available} MiB are \
             available: give fewer --facets",
            setting.facets
        )));
    }
    Ok(())
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
    fn copies_that_cannot_fit_are_refused_beforehand() {
        let directory = tempfile::tempdir().unwrap();
        let template = Template {
            path: PathBuf::new(),
            wal_path: PathBuf::new(),
            page_bytes: 4096,
            bytes: 1 << 40,
        };
        let message = check_space(&template, 1_000_000, directory.path()).unwrap_err().to_string();
        assert!(message.contains("--facets"), "{message}");
        let small = Template { bytes: 4096, ..template };
        check_space(&small, 1, directory.path()).unwrap();
    }
}
