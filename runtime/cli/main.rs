//! `lapidary`: a store at the terminal and in scripts.
//!
//! | module | is |
//! |---|---|
//! | `arguments` | the command line as a whole; each command's own is with the command |
//! | `open` | which store a command works on, and how it is opened |
//! | `store` | `create`, `stat`, `compact` |
//! | `facets` | `ls`, `fork`, `mv`, `rm` |
//! | `moves` | `move`: to another store |
//! | `history` | `history`, `restore` |
//! | `limits` | `limit`: quotas and retentions |
//! | `import`, `export` | SQLite files in and out, one or thousands |
//! | `check` | `verify`, `salvage` |
//! | `bucket` | `bucket`: stores in a bucket, with the feature `bucket` |
//! | `shell` | `sql` |
//! | `bench` | `bench`: a store next to a SQLite file for each facet |
//! | `generate` | `completions`, `man` |
//! | `failure`, `interrupt` | errors and exit codes; Ctrl-C |
//! | `output`, `progress`, `units` | what is printed and how |

mod arguments;
mod bench;
#[cfg(feature = "bucket")]
mod bucket;
mod check;
mod export;
mod facets;
mod failure;
mod generate;
mod history;
mod import;
mod interrupt;
mod limits;
mod moves;
mod open;
mod output;
mod progress;
mod shell;
mod store;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};
use failure::Outcome;
use output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut output = Output::new(arguments.json);
    let outcome = run(arguments.command, &mut output);
    match outcome.and_then(|()| Ok(output.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has had enough of it.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn run(command: Command, output: &mut Output) -> Outcome {
    match command {
        Command::Create(arguments) => store::create(&arguments, output),
        Command::Ls(arguments) => facets::list(&arguments, output),
        Command::Stat(arguments) => store::stat(&arguments, output),
        Command::Sql(arguments) => shell::run(arguments, output),
        Command::Import(arguments) => import::run(&arguments, output),
        Command::Export(arguments) => export::run(&arguments, output),
        Command::Fork(arguments) => facets::fork(&arguments, output),
        Command::Mv(arguments) => facets::rename(&arguments, output),
        Command::Move(arguments) => moves::run(&arguments, output),
        Command::Rm(arguments) => facets::delete(&arguments, output),
        Command::History(arguments) => history::list(&arguments, output),
        Command::Restore(arguments) => history::restore(&arguments, output),
        Command::Limit(arguments) => limits::run(&arguments, output),
        Command::Verify(arguments) => check::verify(&arguments, output),
        Command::Salvage(arguments) => check::salvage(&arguments, output),
        Command::Compact(arguments) => store::compact(&arguments, output),
        #[cfg(feature = "bucket")]
        Command::Bucket(arguments) => bucket::run(&arguments, output),
        Command::Bench(arguments) => bench::run(&arguments, output),
        Command::Completions(arguments) => generate::completions(&arguments, output),
        Command::Man(arguments) => generate::man(&arguments, output),
    }
}
