//! The host benchmark: what a call costs, what an open facet takes, and what neighbours notice.
//!
//! # How each figure is measured
//!
//! | part | shows |
//! |---|---|
//! | [`resident`] | memory of the process before and after a statement in each of many facets, all kept open; then latency of a first query in a facet that was closed to make room |
//! | [`alone`] | one facet, one caller that waits for each reply: latency of a small durable UPDATE, next to that of rewriting and syncing 4 KiB of a file on the same disk. The two take turns, so that both see the same disk, and are on the same processor; then on any two |
//! | [`mailbox`] | processor time of the whole process for a small SELECT through the host, and on a plain connection on the caller's thread with the same settings; in turns as well |
//! | [`neighbours`] | latency of a small SELECT every millisecond in one facet, while its core is idle and while another facet of it asks for an endless query again and again under `Isolation::untrusted` |
//!
//! Memory is measured first, in a process that has done nothing else. A target that is missed is
//! reported, not hidden, and does not fail the run. Latencies need a quiet machine.
//!
//! # Reading map
//!
//! [`Arguments`] -> the parts, each a function that returns figures and targets.

mod alone;
mod mailbox;
mod neighbours;
mod resident;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use lapidary::{Host, HostConfig};
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::machine::Machine;
use lapidary_benches::sheet::{Sheet, Target};
use lapidary_benches::workplace;
use serde::Serialize;

/// Measures the host: memory of open facets, latency of calls, and what neighbours notice.
#[derive(Parser, Clone, Debug)]
#[command(name = "host", version, about)]
pub(crate) struct Arguments {
    /// Parts to run [default: all]
    #[arg(value_enum)]
    parts: Vec<PartName>,

    /// Facets that are open at a time
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    facets: u32,

    /// Calls of each kind whose latency or processor time is measured
    #[arg(long, value_name = "N", default_value_t = 5_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    calls: u32,

    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Directory (so also disk) to work in; what is made there is removed at the end
    /// [default: target/host below the current directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    Resident,
    Alone,
    Mailbox,
    Neighbours,
}

/// What a part has found.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    #[serde(skip)]
    pub(crate) sheet: Sheet,
    pub(crate) targets: Vec<Target>,
}

fn main() -> ExitCode {
    workplace::end("host", run(&Arguments::parse()))
}

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn run(arguments: &Arguments) -> Result<ExitCode> {
    workplace::check_output("--json", arguments.json.as_deref())?;
    let parent = arguments.directory.clone().unwrap_or_else(|| PathBuf::from("target/host"));
    let work = workplace::work_directory(&parent)?;
    let machine = Machine::describe(work.path(), None)?;
    println!(
        "{}, {} cores; {}; {}",
        machine.cpu, machine.cores, machine.kernel, machine.filesystem
    );
    let mut found = Vec::new();
    // Memory first.
    for part in [PartName::Resident, PartName::Alone, PartName::Mailbox, PartName::Neighbours] {
        if !arguments.parts.is_empty() && !arguments.parts.contains(&part) {
            continue;
        }
        let part = match part {
            PartName::Resident => resident::measure(work.path(), arguments.facets)?,
            PartName::Alone => alone::measure(work.path(), arguments.calls)?,
            PartName::Mailbox => mailbox::measure(work.path(), arguments.calls)?,
            PartName::Neighbours => neighbours::measure(work.path(), arguments.calls)?,
        };
        println!("{}", part.sheet.render(&part.targets));
        found.push(part);
    }
    if let Some(path) = &arguments.json {
        let targets: Vec<&Target> = found.iter().flat_map(|part| &part.targets).collect();
        workplace::write_json(path, &targets)?;
    }
    workplace::conclude(work, false);
    Ok(ExitCode::SUCCESS)
}

/// A host with one core on a new store in `work`.
pub(crate) fn host(work: &Path, name: &str, config: HostConfig) -> Result<Host> {
    let config = config.cores(NonZeroUsize::MIN);
    Host::open(work.join(name), config).doing(|| format!("opening the store of the part {name}"))
}
