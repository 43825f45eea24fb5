//! The command line.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  reads                                     scans of 256 MiB, memory of 1,000 connections
  reads --scan-mib 64 --rounds 21           a smaller facet, scanned more often
  reads --readers 100 --readers-mib 16      fewer connections to a smaller facet
  reads --json result.json --directory /mnt/fast
                                            figures to a file, on another disk

The exit code is 1 if an arm finds other rows than were written. A target that is missed is reported
and does not change the exit code.";

/// Measures reading in place from large facets, next to stock SQLite with memory-mapped files.
#[derive(Parser, Clone, Debug)]
#[command(name = "reads", version, about, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Size of the facet that is scanned
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) scan_mib: u32,

    /// How often each arm scans it
    #[arg(long, value_name = "N", default_value_t = 11,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,

    /// Connections that are open at a time
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) readers: u32,

    /// Size of the facet that they read
    #[arg(long, value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) readers_mib: u32,

    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Directory (so also disk) to work in; what is made there is removed at the end
    /// [default: target/reads below the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,

    /// Keep the databases and say where they are
    #[arg(long)]
    pub(crate) keep: bool,

    /// Serve one step: the assignment comes on standard input.
    #[arg(long, hide = true)]
    pub(crate) serve_step: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_has_examples_and_hides_the_internal_option() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("--readers-mib"));
        assert!(!help.contains("serve-step"));
        assert!(Arguments::try_parse_from(["reads", "--rounds", "0"]).is_err());
    }
}
