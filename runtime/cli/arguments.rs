//! The command line as a whole.

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  lapidary create agents.store
  lapidary import agents.store backups/*.sqlite --prefix agents
  lapidary ls agents.store agents
  lapidary sql agents.store agents/42 'SELECT count(*) FROM note'
  lapidary export agents.store agents/42 copy.sqlite

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 exists already, 5 in use by another
process, 6 damage found, 7 no space or over a quota, 130 stopped by Ctrl-C.";

/// Keeps thousands of SQLite databases in one store.
///
/// A store is a directory; the databases in it are called facets, and have names with levels, such as
/// tenants/acme. One process has a store open at a time.
#[derive(Parser, Debug)]
#[command(name = "lapidary", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Print one JSON value for a program to read, and no progress
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a store, or facets in one
    Create(crate::store::Create),
    /// List facets
    Ls(crate::facets::List),
    /// Figures of a store, or of one facet
    Stat(crate::store::Stat),
    /// Run SQL on a facet, or open a shell
    Sql(crate::shell::Sql),
    /// Make facets of SQLite files
    Import(crate::import::Import),
    /// Write facets to SQLite files
    Export(crate::export::Export),
    /// Make a facet that begins with what another has
    Fork(crate::facets::Fork),
    /// Rename a facet and all below it
    Mv(crate::facets::Rename),
    /// Move a facet and all below it to another store
    Move(crate::moves::Move),
    /// Delete facets and all below them
    Rm(crate::facets::Delete),
    /// List the versions of a facet that are kept
    History(crate::history::History),
    /// Go back to a version of a facet
    Restore(crate::history::Restore),
    /// Show or set a quota, or how much history is kept
    Limit(crate::limits::Limit),
    /// Read and check everything in a store, without changing it
    Verify(crate::check::Verify),
    /// Write what can be read of a damaged store to SQLite files
    Salvage(crate::check::Salvage),
    /// Give back space that is not needed
    Compact(crate::store::Compact),
    /// Look into a store in a bucket, check it, or copy it
    #[cfg(feature = "bucket")]
    Bucket(crate::bucket::Bucket),
    /// Compare a store with a SQLite file for each facet, on this machine
    Bench(crate::bench::Bench),
    /// Print a script that completes this command in a shell
    Completions(crate::generate::Completions),
    /// Write manual pages
    Man(crate::generate::Man),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in super::Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("lapidary"), "{}", command.get_name());
        }
    }
}
