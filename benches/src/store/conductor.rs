//! The process at the terminal: runs the steps of each part in processes of their own, shows how far
//! they are, and puts their figures together.

use std::fs;
use std::path::PathBuf;

use indicatif::ProgressBar;
use lapidary_benches::child::Interruption;
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::machine::Machine;
use lapidary_benches::workplace;
use serde::de::DeserializeOwned;

use crate::arguments::{Arguments, PartName};
use crate::cleaning::{self, Load};
use crate::recovery::{self, LARGER, Tail};
use crate::report::{FailedPart, Report};
use crate::step::{Assignment, Message, Task};
use crate::{forks, million};

/// Default directory, below the current one.
const WORK_DIRECTORY: &str = "target/store";
/// Of the progress bar, for each step of a part.
const TICKS: u64 = 1000;

/// Runs everything that `arguments` asks for.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let parent = arguments.directory.clone().unwrap_or_else(|| PathBuf::from(WORK_DIRECTORY));
    let work = workplace::work_directory(&parent)?;
    let interruption = Interruption::prepare(work.path())?;
    let machine = Machine::describe(work.path(), None)?;
    let mut report = Report::new(machine, arguments.seed);
    let parts = arguments.parts();
    let steps: u64 = parts.iter().map(|&part| steps_of(part)).sum();
    let bar = workplace::progress_bar(steps * TICKS);
    let mut first_step = 0;
    for part in parts {
        let directory = work.path().join(format!("{part:?}").to_lowercase());
        fs::create_dir(&directory).doing(|| format!("creating {}", directory.display()))?;
        let mut runner = Runner {
            bar: &bar,
            interruption: &interruption,
            step: first_step,
            directory: directory.clone(),
            part,
            seed: arguments.seed,
        };
        if let Err(reason) = runner.run(arguments, &mut report) {
            report.failed.push(FailedPart { part, reason: reason.to_string() });
        }
        first_step += steps_of(part);
        bar.set_position(first_step * TICKS);
        if !arguments.keep && report.failed.is_empty() {
            fs::remove_dir_all(&directory).doing(|| format!("removing {}", directory.display()))?;
            // What the disk still has to do for this part is not to slow the next one down.
            rustix::fs::sync();
        }
    }
    bar.finish_and_clear();
    workplace::conclude(work, arguments.keep || !report.failed.is_empty());
    Ok(report)
}

fn steps_of(part: PartName) -> u64 {
    match part {
        PartName::Forks => 3,
        PartName::Cleaning | PartName::Million => 2,
        PartName::Recovery => 4,
        PartName::All => 0,
    }
}

struct Runner<'a> {
    bar: &'a ProgressBar,
    interruption: &'a Interruption,
    step: u64,
    directory: PathBuf,
    part: PartName,
    seed: u64,
}

impl Runner<'_> {
    fn run(&mut self, arguments: &Arguments, report: &mut Report) -> Result<()> {
        match self.part {
            PartName::Forks => {
                let forks = arguments.forks;
                let figures = forks::Figures {
                    forked: self.run_step("forked", Task::Fork { forks })?,
                    reopened: self.run_step("forked", Task::ReopenForks { forks })?,
                    deleted: self
                        .run_step("deleted", Task::Delete { facets: arguments.deletes })?,
                };
                report.targets.extend(figures.targets());
                report.forks = Some(figures);
            }
            PartName::Cleaning => {
                let load = Load {
                    live_mib: arguments.live_mib,
                    overwrites: arguments.overwrites,
                    rate_mib: arguments.rate_mib,
                    group: arguments.group,
                    is_cleaned: true,
                };
                // It grows by all that is written, so it is not written as long.
                let overwrites = load.overwrites.min(3.0);
                let idle = Load { overwrites, is_cleaned: false, ..load };
                let idle = self.run_step("idle", Task::Overwrite(idle))?;
                let cleaned = self.run_step("cleaned", Task::Overwrite(load))?;
                let figures = cleaning::Figures::new(idle, cleaned);
                report.targets.extend(figures.targets());
                report.cleaning = Some(figures);
            }
            PartName::Recovery => {
                let tail_mib = arguments.tail_mib;
                let busy_facets = arguments.recovery_facets;
                let tail = Tail { facets: busy_facets, busy_facets, tail_mib };
                let figures = recovery::Figures {
                    tail_mib,
                    smaller: self.recover("smaller", tail)?,
                    larger: self
                        .recover("larger", Tail { facets: busy_facets * LARGER, ..tail })?,
                };
                report.targets.extend(figures.targets());
                report.recovery = Some(figures);
            }
            PartName::Million => {
                let facets = arguments.facets;
                let figures = million::Figures {
                    populated: self.run_step("million", Task::Populate { facets })?,
                    found: self.run_step("million", Task::FindCold { facets })?,
                };
                report.targets.extend(figures.targets());
                report.million = Some(figures);
            }
            PartName::All => {}
        }
        Ok(())
    }

    fn recover(&mut self, store: &str, tail: Tail) -> Result<recovery::Store> {
        let written: recovery::Written = self.run_step(store, Task::WriteTail(tail))?;
        let commits = written.commits;
        let opened = self.run_step(store, Task::OpenTail { tail, commits })?;
        Ok(recovery::Store { facets: tail.facets, written, opened })
    }

    /// Runs one step in a process of its own; `store` is the directory it works in.
    fn run_step<T: DeserializeOwned>(&mut self, store: &str, task: Task) -> Result<T> {
        let part = self.part;
        let who = format!("{part:?}").to_lowercase();
        let assignment =
            Assignment { directory: self.directory.join(store), seed: self.seed, task };
        let first_tick = self.step * TICKS;
        self.bar.set_position(first_tick);
        self.bar.set_message(who.clone());
        let mut last = None;
        let listen = |message: Message| {
            if let Message::Progress { fraction, doing } = &message {
                self.bar.set_position(first_tick + tick(*fraction));
                self.bar.set_message(format!("{who}: {doing}"));
            } else {
                last = Some(message);
            }
        };
        let status = self.interruption.run_child(&who, "--serve-step", &assignment, listen)?;
        self.step += 1;
        match last {
            Some(Message::Done(figures)) if status.success() => serde_json::from_value(figures)
                .doing(|| format!("understanding the figures of {who}")),
            Some(Message::Failed(reason)) => Err(Failure::new(reason)),
            _ => Err(Failure::new(format!("its process ended early: {status}"))),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and TICKS")]
#[allow(clippy::cast_precision_loss, reason = "a small constant")]
fn tick(fraction: f64) -> u64 {
    (fraction.clamp(0.0, 1.0) * TICKS as f64) as u64
}
