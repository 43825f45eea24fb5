//! The store benchmark: what the engine promises about forks, cleaning, recovery and a great many
//! facets, measured without SQLite.
//!
//! # How each figure is measured
//!
//! Every step runs in a process of its own, so that its memory is its own, and ends without closing
//! anything: to the store that is a crash. The next step opens what is left and compares what it
//! reads with what was acknowledged. Pages hold random bytes that follow from facet, page and
//! generation ([`content`]), so nothing is saved by storing them sparsely and every byte can be
//! checked. A page that differs fails the run (exit code 1).
//!
//! | part | shows |
//! |---|---|
//! | [`forks`] | latency, disk and memory of forks of a 1 MiB facet; deletes and the space they give back |
//! | [`cleaning`] | space, write amplification and latency while pages are overwritten at random, next to what theory says and to the same load without cleaning |
//! | [`recovery`] | opening after a crash with a long log, and whether the store behind it matters |
//! | [`million`] | opening a store of a million facets, and the memory of a cold one |
//!
//! Times depend on the machine, ratios less so; a target that is missed is reported, not hidden, and
//! does not fail the run. Resident memory is `VmRSS`; "trimmed": after a `malloc_trim`, since what the
//! allocator keeps for later is not what the facets need; "allocated": what `mallinfo2` says is in use,
//! since a page of memory stays resident for one small thing in it.
//!
//! # Reading map
//!
//! [`arguments`] -> [`conductor`] (parent process) -> [`step`] (child process) -> the parts, which
//! use [`engine`] -> [`report`].

mod arguments;
mod cleaning;
mod conductor;
mod content;
mod deletes;
mod engine;
mod forks;
mod million;
mod recovery;
mod report;
mod step;
mod theory;

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
    workplace::end("store", run(&arguments))
}

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn run(arguments: &Arguments) -> Result<ExitCode> {
    workplace::check_output("--json", arguments.json.as_deref())?;
    let report = conductor::run(arguments)?;
    println!("{}", report.render());
    if let Some(path) = &arguments.json {
        workplace::write_json(path, &report)?;
    }
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
