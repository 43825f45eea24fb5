//! The packing benchmark: thousands of small SQLite databases on one machine, the same work done
//! by Lapidary and by stock SQLite ("arms") in one run.
//!
//! How each figure is measured says [`measured`].
//!
//! # Reading map
//!
//! [`arguments`] -> [`conductor`] (parent process, with [`reach`]) -> [`stage`] (arm's process) ->
//! [`crew`] (its threads) -> [`load`] (requests, replies, clocks) -> [`arms`] and [`pool`]; then
//! [`report`], [`table`], and [`page`] with [`figures`] and [`plots`].

mod arguments;
mod arms;
mod conductor;
mod crew;
mod figures;
mod load;
mod measured;
mod page;
mod plots;
mod pool;
mod reach;
mod report;
mod sql;
mod stage;
mod table;
mod template;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

use lapidary_benches::failure::Result;
use lapidary_benches::workplace;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.serve_stage {
        stage::serve();
    }
    workplace::end("pack", run(&arguments))
}

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn run(arguments: &Arguments) -> Result<ExitCode> {
    let report = conductor::run(arguments)?;
    println!("{}", table::render_heading(&report));
    println!("{}", table::render(&report));
    if let Some(path) = &arguments.report {
        page::write(path, &report)?;
    }
    if let Some(directory) = &arguments.plots {
        page::write_plots(directory, &report)?;
    }
    if let Some(path) = &arguments.json {
        workplace::write_json(path, &report)?;
    }
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
