//! The read benchmark: one large facet read in place, next to stock SQLite that maps its file.
//!
//! # How each figure is measured
//!
//! A database is made with stock SQLite and copied, page for page, to a facet of a store, so that both
//! hold the same bytes ([`database`]). Each part then runs in a process of its own that opens both.
//! The kernel's page cache is warm: what is measured is the way through SQLite and the store, not
//! the disk.
//!
//! | part | shows |
//! |---|---|
//! | [`scan`] | time to read every row of a table, to count its rows, and to find rows by their keys, with `mmap_size` on and off, against stock SQLite with `mmap_size` on. The arms take turns in one process, and ratios are those of scans that follow each other; of all rounds the median counts |
//! | [`readers`] | memory of many connections that have read the same facet whole, and of stock SQLite's |
//!
//! A target that is missed is reported, not hidden, and does not fail the run; an arm that finds other
//! rows than were written does (exit code 1).
//!
//! # Reading map
//!
//! [`arguments`] -> [`conductor`] (parent process, and the figures in print) -> [`step`] (child
//! process) -> [`scan`], [`readers`], which use [`database`].

mod arguments;
mod conductor;
mod database;
mod readers;
mod scan;
mod step;

use std::process::ExitCode;

use clap::Parser as _;
use lapidary_benches::failure::Result;
use lapidary_benches::workplace;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.serve_step {
        step::serve();
    }
    workplace::end("reads", run(&arguments))
}

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn run(arguments: &Arguments) -> Result<ExitCode> {
    workplace::check_output("--json", arguments.json.as_deref())?;
    let report = conductor::run(arguments)?;
    println!("{}", report.render());
    if let Some(path) = &arguments.json {
        workplace::write_json(path, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}
