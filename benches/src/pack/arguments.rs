//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::workload::Work;

const EXAMPLES: &str = "\
Examples:
  pack                                      every arm, 1,000 facets, 3 seconds each
  pack --arms lapidary,sqlite-wal-full      two arms only
  pack --facets 10000 --descriptors 1024    ten thousand facets under a descriptor limit of 1,024
  pack --cores 1 --arms lapidary-vfs,sqlite-wal-full
                                            one thread each: the latency of one durable turn
  pack --template shop.sqlite --facets 200  every facet starts as a copy of your own database
  pack --workload large --facets 16         databases of 64 MiB, rows updated at random
  pack --workload readers                   nine reads to each turn
  pack --load 25,50,75,90                   latency at parts of the rate that each arm reached
  pack --json result.json --store /mnt/fast figures to a file, files on another disk
  pack --report pack.html                   figures and plots as a page for the browser
  pack --seconds 1 --sweep 100,1000,10000 --report sweep.html
                                            what a facet costs, against how many there are

Every arm runs in a process of its own on the same CPUs, then a second process counts every
acknowledged turn again. The exit code is 1 if an arm fails or a turn is missing; an arm that a sweep
leaves out is named with the reason, and does not count as failed.";

/// Of a sweep, unless the command line says otherwise. Memory for as many connections is what a
/// machine of 16 GiB has; files beyond that are opened as they are needed.
const SWEEP_OPEN_MAX: u32 = 20_000;
/// Of a sweep, unless the command line says otherwise, in seconds. Ten thousand files take a minute
/// or two to make where a sync takes a fraction of a millisecond; a hundred thousand do not fit.
const SWEEP_TIME_MAX: f64 = 300.0;

/// Packs thousands of small SQLite databases and measures what that costs, next to stock SQLite.
#[derive(Parser, Clone, Debug)]
#[command(name = "pack", version, about, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Databases ("facets") per arm [default: 1,000; 16 of the workload "large"]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    facets: Option<u32>,

    /// What is done in the databases
    #[arg(long, value_name = "NAME", value_enum, default_value_t = WorkloadName::Agents)]
    workload: WorkloadName,

    /// Size of each database of the workload "large"
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    size_mib: u32,

    /// After the turns, measure their latency where they come at these parts of the rate that the arm
    /// has reached, in percent, separated by commas: whether or not those before are answered yet
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) load: Vec<u32>,

    /// Run the arms at each of these facet counts, separated by commas, and show what a facet costs
    /// against their number. An arm that cannot run at a count, for want of time, memory or disk,
    /// is left out there, and the reason given
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "facets",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sweep: Vec<u32>,

    /// Longest that an arm may take at a facet count. Where an earlier count tells that it would
    /// take longer, it is left out; otherwise it is stopped. Only in a sweep
    #[arg(long, value_name = "SECONDS", default_value_t = SWEEP_TIME_MAX, value_parser = seconds,
          requires = "sweep")]
    time_max: f64,

    /// Connections that an arm keeps open at most, in all its threads together; past that the
    /// least recently used one is closed [default: all facets; 20,000 in a sweep]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    open_max: Option<u32>,

    /// Length of the timed phase of turns; reads get a third of it
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,

    /// CPUs, and threads that serve the facets, per arm [default: 2, or 1 if there is only one]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) cores: Option<usize>,

    /// Arms to run, in this order, separated by commas
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',',
          default_values_t = ArmName::ALL)]
    pub(crate) arms: Vec<ArmName>,

    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write the figures to this file as a page of HTML with plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Write each plot to this directory, which is created, as a file of SVG
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,

    /// Directory (so also disk) to work in; what is made there is removed at the end
    /// [default: target/pack below the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Start every facet as a copy of this SQLite database (any page size, WAL or not; it is only
    /// read). Turns go to tables added to the copy
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,

    /// Turns each client thread keeps outstanding in the lapidary and lapidary-core arms: that many
    /// agents, each awaiting its own reply. The other arms serve one call per thread by their nature
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub(crate) in_flight: usize,

    /// Turns in a call of the lapidary-core arm, a commit each, all in one facet
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub(crate) batch: usize,

    /// MiB of each database that are read in place, in every arm that can (SQLite's `mmap_size`)
    #[arg(long, value_name = "MIB", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=2047))]
    pub(crate) mmap_mib: u32,

    /// Seed of all bodies, timestamps and choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Run the arms under this limit of open descriptors [default: the shell's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(64..))]
    pub(crate) descriptors: Option<u64>,

    /// Keep the files of the arms and say where they are
    #[arg(long)]
    pub(crate) keep: bool,

    /// Serve one stage of one arm: the assignment comes on standard input.
    #[arg(long, hide = true)]
    pub(crate) serve_stage: bool,
}

impl Arguments {
    /// The facet counts, ascending: one, or those of the sweep.
    pub(crate) fn facet_counts(&self) -> Vec<u32> {
        if !self.is_sweep() {
            return vec![self.facets.unwrap_or_else(|| self.workload.facets())];
        }
        let mut counts = self.sweep.clone();
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    pub(crate) fn work(&self) -> Work {
        Work { name: self.workload, size_mib: self.size_mib }
    }

    pub(crate) fn is_sweep(&self) -> bool {
        !self.sweep.is_empty()
    }

    /// Connections that an arm of `facets` databases keeps open at most.
    pub(crate) fn open_max(&self, facets: u32) -> u32 {
        let default = if self.is_sweep() { SWEEP_OPEN_MAX } else { u32::MAX };
        self.open_max.unwrap_or(default).min(facets)
    }

    /// How long an arm may take at a facet count; without a sweep, as long as it does.
    pub(crate) fn time_max(&self) -> Option<Duration> {
        self.is_sweep().then(|| Duration::from_secs_f64(self.time_max))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds between 0.05 and 86400".to_owned()),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if (1..=1_000_000).contains(&number) => Ok(number),
        _ => Err("give a whole number between 1 and 1000000".to_owned()),
    }
}

/// What is done in the databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WorkloadName {
    /// Small databases that grow: a turn adds a message and sets a row of state
    Agents,
    /// As agents, with nine reads of the newest messages to each turn
    Readers,
    /// Databases of --size-mib each: a turn updates a row, each as likely
    Large,
}

impl WorkloadName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Readers => "readers",
            Self::Large => "large",
        }
    }

    /// Databases, unless the command line says how many.
    fn facets(self) -> u32 {
        match self {
            Self::Agents | Self::Readers => 1000,
            Self::Large => 16,
        }
    }
}

/// One way of keeping many databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ArmName {
    /// The host: acknowledged means durable, many calls in flight
    Lapidary,
    /// The host, several turns in a call, a commit each: what is left without the way there
    LapidaryCore,
    /// Plain SQLite connections through the VFS: durable when COMMIT returns
    LapidaryVfs,
    /// A file each, journal_mode=WAL, synchronous=FULL: durable when COMMIT returns
    SqliteWalFull,
    /// A file each, journal_mode=WAL, synchronous=NORMAL: recent turns lost with the power
    SqliteWalNormal,
    /// A file each, journal_mode=MEMORY, synchronous=OFF: corrupt after a power cut
    SqliteMemoryOff,
    /// `:memory:`: nothing is stored
    SqliteInmem,
}

impl ArmName {
    pub(crate) const ALL: [Self; 7] = [
        Self::Lapidary,
        Self::LapidaryCore,
        Self::LapidaryVfs,
        Self::SqliteWalFull,
        Self::SqliteWalNormal,
        Self::SqliteMemoryOff,
        Self::SqliteInmem,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lapidary => "lapidary",
            Self::LapidaryCore => "lapidary-core",
            Self::LapidaryVfs => "lapidary-vfs",
            Self::SqliteWalFull => "sqlite-wal-full",
            Self::SqliteWalNormal => "sqlite-wal-normal",
            Self::SqliteMemoryOff => "sqlite-memory-off",
            Self::SqliteInmem => "sqlite-inmem",
        }
    }

    /// What an acknowledged turn survives.
    pub(crate) fn survives(self) -> &'static str {
        match self {
            Self::Lapidary | Self::LapidaryCore | Self::LapidaryVfs | Self::SqliteWalFull => {
                "power cut"
            }
            Self::SqliteWalNormal => "process kill",
            Self::SqliteMemoryOff => "clean exit",
            Self::SqliteInmem => "nothing",
        }
    }

    /// Does the host serve it?
    pub(crate) fn is_hosted(self) -> bool {
        matches!(self, Self::Lapidary | Self::LapidaryCore)
    }

    /// Is every database a file?
    pub(crate) fn is_files(self) -> bool {
        matches!(self, Self::SqliteWalFull | Self::SqliteWalNormal | Self::SqliteMemoryOff)
    }

    /// Is there something on disk that can be opened again?
    pub(crate) fn is_stored(self) -> bool {
        self != Self::SqliteInmem
    }
}

impl fmt::Display for ArmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let arguments = parse("pack").unwrap();
        assert_eq!(arguments.facet_counts(), [1000]);
        assert_eq!(arguments.time_max(), None);
        assert_eq!(arguments.open_max(1000), 1000);
        assert_eq!(arguments.seconds, 3.0);
        assert_eq!(arguments.arms, ArmName::ALL);
        assert_eq!((arguments.in_flight, arguments.batch), (256, 16));
        assert_eq!(arguments.mmap_mib, 0);
        assert_eq!(arguments.cores, None);
        assert!(!arguments.keep && !arguments.serve_stage);
    }

    #[test]
    fn each_workload_has_its_number_of_databases() {
        assert_eq!(parse("pack --workload large").unwrap().facet_counts(), [16]);
        assert_eq!(parse("pack --workload large --facets 3").unwrap().facet_counts(), [3]);
        assert_eq!(parse("pack --workload readers").unwrap().facet_counts(), [1000]);
        for name in [WorkloadName::Agents, WorkloadName::Readers, WorkloadName::Large] {
            assert_eq!(WorkloadName::from_str(name.as_str(), false), Ok(name));
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
        }
    }

    #[test]
    fn arms_are_a_list_in_the_order_given() {
        let arguments = parse("pack --arms sqlite-inmem,lapidary").unwrap();
        assert_eq!(arguments.arms, [ArmName::SqliteInmem, ArmName::Lapidary]);
    }

    #[test]
    fn a_sweep_ascends_and_is_bounded() {
        let arguments = parse("pack --sweep 100000,100,100").unwrap();
        assert_eq!(arguments.facet_counts(), [100, 100_000]);
        assert_eq!(arguments.open_max(100), 100);
        assert_eq!(arguments.open_max(100_000), SWEEP_OPEN_MAX);
        assert_eq!(arguments.time_max(), Some(Duration::from_secs(300)));
        let arguments = parse("pack --sweep 100 --open-max 7 --time-max 2.5").unwrap();
        assert_eq!(arguments.open_max(100), 7);
        assert_eq!(arguments.time_max(), Some(Duration::from_millis(2500)));
    }

    #[test]
    fn every_arm_is_named_alike_on_the_command_line_in_json_and_in_print() {
        for arm in ArmName::ALL {
            assert_eq!(ArmName::from_str(arm.as_str(), false), Ok(arm));
            assert_eq!(serde_json::to_value(arm).unwrap(), arm.as_str());
            assert_eq!(arm.to_string(), arm.as_str());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "pack --facets 0",
            "pack --facets many",
            "pack --seconds 0",
            "pack --seconds -1",
            "pack --seconds nan",
            "pack --cores 0",
            "pack --in-flight 0",
            "pack --batch 0",
            "pack --load 0,50",
            "pack --workload oltp",
            "pack --size-mib 0",
            "pack --arms lapidary,postgres",
            "pack --descriptors 3",
            "pack --sweep 0,100",
            "pack --sweep 100 --facets 100",
            "pack --time-max 60",
            "pack --open-max 0",
            "pack extra",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_has_examples_and_hides_the_internal_option() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("Examples:"));
        assert!(help.contains("--template"));
        assert!(!help.contains("serve-stage"));
    }
}
