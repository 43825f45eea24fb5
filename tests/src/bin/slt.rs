//! Runs scripts of SQLite's `sqllogictest` format on a facet and on stock SQLite.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lapidary_tests::slt::check::Sides;
use lapidary_tests::slt::script::parse;

/// Runs sqllogictest scripts on a facet and on stock SQLite.
///
/// Reports each record whose result is not the script's, and each in which the facet and stock SQLite
/// differ: rows, error codes and words, and what the connection counts. Every script begins with an
/// empty database, on a store in memory and in a temporary file. The engine's name for `skipif` and
/// `onlyif` is sqlite.
#[derive(Debug, Parser)]
#[command(
    name = "slt",
    after_help = "Exit codes: 0 all records went as they should; 1 some did not; 2 a script cannot be \
                  read.\n\nExamples:\n  cargo run -p lapidary-tests --bin slt -- tests/slt/*.test\n  \
                  cargo run --release -p lapidary-tests --bin slt -- sqllogictest/test/select1.test"
)]
struct Arguments {
    /// The scripts.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Failures to print of each script.
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

/// What is wrong with scripts themselves, so that nothing could be compared.
const UNREADABLE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut code = 0;
    for file in &arguments.files {
        let name = file.display();
        let outcome = match run(file) {
            Ok(outcome) => outcome,
            Err(words) => {
                let _ = writeln!(std::io::stderr(), "{name}: {words}");
                code = UNREADABLE;
                continue;
            }
        };
        let mut out = std::io::stdout().lock();
        for failure in outcome.failures.iter().take(arguments.failures) {
            let _ = writeln!(out, "{name}:{failure}");
        }
        let (records, failed) = (outcome.records, outcome.failures.len());
        let _ = writeln!(out, "{name}: {records} records, {failed} failures");
        if failed > 0 {
            code = code.max(1);
        }
    }
    ExitCode::from(code)
}

struct Outcome {
    records: usize,
    failures: Vec<lapidary_tests::slt::check::Failure>,
}

fn run(file: &PathBuf) -> Result<Outcome, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let script = parse(&text, "sqlite").map_err(|error| error.to_string())?;
    let mut sides = Sides::new().map_err(|error| error.to_string())?;
    let (records, failures) = sides.check(&script).map_err(|error| error.to_string())?;
    Ok(Outcome { records, failures })
}
