//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

const EXAMPLES: &str = "\
Examples:
  store                                     every part, as small as still tells something
  store forks                               forks of a 1 MiB facet, and deletes
  store cleaning --live-mib 1024 --rate-mib 0
                                            1 GiB live, overwritten as fast as it goes
  store recovery --tail-mib 1024            a crash with 1 GiB of log to replay
  store million --facets 200000             fewer than a million
  store forks million --json result.json --directory /mnt/fast
                                            two parts, figures to a file, on another disk

Every step runs in a process of its own and ends without closing the store; the next one compares
what it finds with what was acknowledged. The exit code is 1 if that differs. A target that is missed
is reported and does not change the exit code.";

/// Measures the storage engine by itself: forks, cleaning, recovery, a million facets.
#[derive(Parser, Clone, Debug)]
#[command(name = "store", version, about, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// What to measure, in this order
    #[arg(value_enum, value_name = "PART", default_values_t = [PartName::All])]
    pub(crate) parts: Vec<PartName>,

    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Directory (so also disk) to work in; what is made there is removed at the end
    /// [default: target/store below the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,

    /// Seed of all content and choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Keep the stores and say where they are
    #[arg(long)]
    pub(crate) keep: bool,

    /// Forks of one template
    #[arg(long, value_name = "N", default_value_t = 100_000, help_heading = "Forks",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) forks: u32,

    /// Facets that are deleted
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Forks",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) deletes: u32,

    /// MiB of pages, in facets of 128 KiB
    #[arg(long, value_name = "MIB", default_value_t = 256, help_heading = "Cleaning",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) live_mib: u32,

    /// How many times all pages are overwritten, after a warm-up of twice
    #[arg(long, value_name = "TIMES", default_value_t = 6.0, help_heading = "Cleaning",
          value_parser = overwrites)]
    pub(crate) overwrites: f64,

    /// MiB of pages that are overwritten each second; 0: as fast as it goes
    #[arg(long, value_name = "MIB", default_value_t = 32, help_heading = "Cleaning")]
    pub(crate) rate_mib: u32,

    /// Commits of one page that are made durable together
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Cleaning",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) group: u32,

    /// MiB of log that a crash leaves to replay
    #[arg(long, value_name = "MIB", default_value_t = 256, help_heading = "Recovery",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tail_mib: u32,

    /// Facets that the log is about; the larger store has ten times as many
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Recovery",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) recovery_facets: u32,

    /// Facets of the store that has a great many
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = "Million",
          value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    pub(crate) facets: u32,

    /// Serve one step: the assignment comes on standard input.
    #[arg(long, hide = true)]
    pub(crate) serve_step: bool,
}

fn overwrites(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(times) if (0.01..=10_000.0).contains(&times) => Ok(times),
        _ => Err("give a number between 0.01 and 10000".to_owned()),
    }
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PartName {
    /// Forks of a 1 MiB facet, and deletes
    Forks,
    /// Random overwrites: space, write amplification, latency
    Cleaning,
    /// Opening after a crash
    Recovery,
    /// A million facets
    Million,
    /// All of these
    All,
}

impl Arguments {
    /// The parts that were asked for, each once.
    pub(crate) fn parts(&self) -> Vec<PartName> {
        use PartName::{All, Cleaning, Forks, Million, Recovery};
        let mut parts = Vec::new();
        for &part in &self.parts {
            let meant =
                if part == All { &[Forks, Cleaning, Recovery, Million][..] } else { &[part] };
            for &part in meant {
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        parts
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
    fn all_parts_by_default_and_each_once() {
        use PartName::{Cleaning, Forks, Million, Recovery};
        assert_eq!(parse("store").unwrap().parts(), [Forks, Cleaning, Recovery, Million]);
        assert_eq!(parse("store million forks million").unwrap().parts(), [Million, Forks]);
        assert_eq!(
            parse("store recovery all").unwrap().parts(),
            [Recovery, Forks, Cleaning, Million]
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "store packing",
            "store --forks 0",
            "store --overwrites 0",
            "store --overwrites nan",
            "store --tail-mib many",
            "store --facets 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_has_examples_and_hides_the_internal_option() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("--tail-mib"));
        assert!(!help.contains("serve-step"));
    }
}
