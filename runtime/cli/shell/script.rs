//! Standard input that is no terminal.

use std::io::{self, BufRead};

use super::commands::{self, Next};
use super::input::is_complete;
use super::session::Session;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

/// Runs what `input` has, statement by statement, as soon as each is whole; ends at the first that
/// fails, with the line it began in.
pub(super) fn run(session: &mut Session, input: &mut impl BufRead, output: &mut Output) -> Outcome {
    let mut pending = String::new();
    let mut began = 1;
    let mut number = 0;
    loop {
        let start = pending.len();
        let read = input.read_line(&mut pending).map_err(|error| not_text(&error))?;
        number += 1;
        if read == 0 {
            break;
        }
        if start == 0 {
            began = number;
            if pending.starts_with('.') {
                let next = commands::run(session, &pending, output);
                pending.clear();
                match next.map_err(|failure| failure.about(format_args!("line {number}")))? {
                    Next::GoOn => continue,
                    Next::Quit => return Ok(()),
                }
            }
        }
        // Only a line with a semicolon can end a statement; looking at each would take the square of
        // the length of a long one.
        if pending[start..].contains(';') && is_complete(&pending) || pending.trim().is_empty() {
            run_one(session, &pending, began, output)?;
            pending.clear();
        }
    }
    // The last may do without its semicolon.
    run_one(session, &pending, began, output)
}

fn run_one(session: &Session, sql: &str, line: usize, output: &mut Output) -> Outcome {
    let outcome = session.run(sql, output);
    outcome.map_err(|failure| {
        if failure.is_broken_pipe() { failure } else { failure.about(format_args!("line {line}")) }
    })
}

fn not_text(error: &io::Error) -> Failure {
    let what = match error.kind() {
        io::ErrorKind::InvalidData => "standard input is not UTF-8 text; give SQL".to_owned(),
        _ => format!("reading standard input failed: {error}"),
    };
    Failure::new(Exit::Failed, what)
}
