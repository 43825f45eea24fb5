//! The process at the terminal: prepares, runs one arm after the other in processes of their
//! own, shows how far they are, and puts their figures together.

use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::TempDir;

use crate::arguments::{Arguments, ArmName};
use crate::arms::Setting;
use crate::failure::{Doing as _, Failure, Result};
use crate::machine::{Machine, memory_mib};
use crate::process::allowed_cpus;
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
    // Told before minutes of work, not after.
    if let Some(parent) = arguments.json.as_deref().and_then(Path::parent)
        && !parent.as_os_str().is_empty()
        && !parent.is_dir()
    {
        return Err(Failure::new(format!("--json: there is no directory {}", parent.display())));
    }

    let parent = arguments.store.clone().unwrap_or_else(|| PathBuf::from(WORK_DIRECTORY));
    fs::create_dir_all(&parent).doing(|| format!("creating {}", parent.display()))?;
    let work = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(&parent)
        .doing(|| format!("creating a directory in {}", parent.display()))?;
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
    let bar = progress_bar(arms.len());
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
    conclude(work, arguments.keep || lost_something);
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
        let program = std::env::current_exe().doing(|| "finding this program".to_owned())?;
        let mut child = Command::new(program)
            .arg("--serve-stage")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing(|| format!("starting a process for {arm}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        self.interruption.watch(child);
        let (Some(mut input), Some(output)) = (input, output) else {
            return Err(Failure::new("a process was started without its pipes"));
        };
        let mut line = serde_json::to_string(assignment)
            .doing(|| "putting an assignment into words".to_owned())?;
        line.push('\n');
        // A process that ended early is reported below, with its exit status.
        let _ = input.write_all(line.as_bytes());
        drop(input);

        let mut last = None;
        for line in BufReader::new(output).lines() {
            let line = line.doing(|| format!("listening to the process of {arm}"))?;
            let message: Message = serde_json::from_str(&line)
                .doing(|| format!("understanding the process of {arm}"))?;
            if let Message::Progress { fraction, doing } = &message {
                self.bar.set_position(self.first_step + step(*fraction));
                self.bar.set_message(format!("{arm}: {doing}"));
            } else {
                last = Some(message);
            }
        }
        let status = self.interruption.wait()?;
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

fn progress_bar(arms: usize) -> ProgressBar {
    // Nothing but the figures goes to a pipe or a file.
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(arms as u64 * STEPS), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}% {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Removes the working directory, or keeps it and says where it is.
#[allow(clippy::print_stderr, reason = "a word to the person at the terminal")]
fn conclude(work: TempDir, keep: bool) {
    if keep {
        eprintln!("kept: {}", work.keep().display());
    } else {
        let path = work.path().to_owned();
        if let Err(error) = work.close() {
            eprintln!("could not remove {}: {error}", path.display());
        }
    }
}

/// What has to be cleared away when the run is interrupted.
#[derive(Clone)]
struct Interruption {
    child: Arc<Mutex<Option<Child>>>,
    interrupted: Arc<AtomicBool>,
}

impl Interruption {
    /// From now on Ctrl-C and a polite kill end the arm's process and remove `work`.
    fn prepare(work: &Path) -> Result<Self> {
        let this = Self { child: Arc::default(), interrupted: Arc::default() };
        let (handler, work) = (this.clone(), work.to_owned());
        ctrlc::set_handler(move || {
            handler.interrupted.store(true, Ordering::SeqCst);
            if let Some(child) = &mut *handler.lock() {
                // Either fails only if the process has ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = fs::remove_dir_all(&work);
            std::process::exit(130);
        })
        .doing(|| "preparing for Ctrl-C".to_owned())?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, child: Child) {
        *self.lock() = Some(child);
    }

    /// Waits for the watched process, which has closed its output.
    fn wait(&self) -> Result<std::process::ExitStatus> {
        if self.interrupted.load(Ordering::SeqCst) {
            // The handler is about to end this process; going on would get in its way.
            loop {
                std::thread::park();
            }
        }
        let child = self.lock().take();
        match child {
            Some(mut child) => child.wait().doing(|| "waiting for an arm's process".to_owned()),
            None => Err(Failure::new("there is no process to wait for")),
        }
    }
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
