//! The process at the terminal: has the databases made, runs the parts in processes of their own, and
//! puts their figures together.

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use lapidary_benches::child::Interruption;
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::machine::Machine;
use lapidary_benches::sheet::Target;
use lapidary_benches::workplace;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::database::{Answer, Arm, Place};
use crate::readers::{self, Readers};
use crate::scan::{self, Scan};
use crate::step::{Assignment, Message, Task};

/// Default directory, below the current one.
const WORK_DIRECTORY: &str = "target/reads";
/// Two databases are made, one is scanned, the arms read the other.
const STEPS: u64 = 3 + Arm::ALL.len() as u64;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    machine: Machine,
    scan: scan::Figures,
    readers: readers::Figures,
    targets: Vec<Target>,
}

/// Runs everything that `arguments` asks for.
pub(crate) fn run(arguments: &Arguments) -> Result<Report> {
    let parent = arguments.directory.clone().unwrap_or_else(|| PathBuf::from(WORK_DIRECTORY));
    let work = workplace::work_directory(&parent)?;
    let interruption = Interruption::prepare(work.path())?;
    let machine = Machine::describe(work.path(), None)?;
    let bar = workplace::progress_bar(STEPS);
    let runner = Runner { bar: &bar, interruption: &interruption };

    let (mib, rounds) = (arguments.scan_mib, arguments.rounds);
    let (place, expected) = runner.make(work.path(), "scan", mib)?;
    let arms = runner.run_step("scan", &place, Task::Scan(Scan { rounds, expected }))?;
    let scan = scan::Figures { mib, rounds, arms };

    let (mib, count) = (arguments.readers_mib, arguments.readers);
    let (place, expected) = runner.make(work.path(), "readers", mib)?;
    let read = |arm: Arm| {
        runner.run_step(arm.label(), &place, Task::Read(Readers { arm, count, expected }))
    };
    let arms = Arm::ALL.into_iter().map(read).collect::<Result<_>>()?;
    let readers = readers::Figures { mib, readers: count, arms };

    bar.finish_and_clear();
    workplace::conclude(work, arguments.keep);
    let targets = [scan.targets(), readers.targets()].concat();
    Ok(Report { machine, scan, readers, targets })
}

struct Runner<'a> {
    bar: &'a ProgressBar,
    interruption: &'a Interruption,
}

impl Runner<'_> {
    fn make(&self, work: &Path, name: &str, mib: u32) -> Result<(Place, Answer)> {
        let directory = work.join(name);
        fs::create_dir(&directory).doing(|| format!("creating {}", directory.display()))?;
        let place = Place { directory };
        let expected = self.run_step("making databases", &place, Task::Make { mib })?;
        Ok((place, expected))
    }

    fn run_step<T: DeserializeOwned>(&self, who: &str, place: &Place, task: Task) -> Result<T> {
        let assignment = Assignment { place: place.clone(), task };
        self.bar.set_message(who.to_owned());
        let mut last = None;
        let listen = |message: Message| match message {
            Message::Progress(doing) => self.bar.set_message(format!("{who}: {doing}")),
            message => last = Some(message),
        };
        let status = self.interruption.run_child(who, "--serve-step", &assignment, listen)?;
        self.bar.inc(1);
        match last {
            Some(Message::Done(figures)) if status.success() => serde_json::from_value(figures)
                .doing(|| format!("understanding the figures of {who}")),
            Some(Message::Failed(reason)) => Err(Failure::new(format!("{who}: {reason}"))),
            _ => Err(Failure::new(format!("the process of {who} ended early: {status}"))),
        }
    }
}

impl Report {
    pub(crate) fn render(&self) -> String {
        let machine = &self.machine;
        format!(
            "{}, {} cores, {} MiB; {}; {}; SQLite {}\n{}\n{}",
            machine.cpu,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            machine.filesystem,
            machine.sqlite,
            self.scan.sheet().render(&self.scan.targets()),
            self.readers.sheet().render(&self.readers.targets()),
        )
    }
}
