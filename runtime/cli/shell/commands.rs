//! What begins with a dot.

use clap::ValueEnum as _;
use lapidary::rusqlite::Params;

use super::render::Mode;
use super::session::Session;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

const HELP: &str = "\
SQL ends with a semicolon, and may go over several lines.

.tables           tables and views
.schema [NAME]    the statements that made everything, or what is called NAME
.mode [MODE]      how rows are printed: table, list, csv, json, line
.timer on|off     tell how long statements take
.bookmark         name the newest version, to go back to it
.as-of WHEN       read the version of a bookmark or a moment (UTC); .as-of now ends that
.help             this
.quit             leave; so does the end of the input

Ctrl-C ends the statement that runs, or gives up what was typed.";

/// All of them, for completion.
pub(super) const NAMES: [&str; 9] =
    [".tables", ".schema", ".mode", ".timer", ".bookmark", ".as-of", ".help", ".quit", ".exit"];

/// Whether the shell goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Quit,
}

/// Runs a line that begins with a dot.
pub(super) fn run(session: &mut Session, line: &str, output: &mut Output) -> Outcome<Next> {
    let line = line.trim();
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim().trim_end_matches(';').trim_matches(['\'', '"']);
    let wrong = |words: &str| Err(Failure::new(Exit::Failed, words));
    match (command, argument) {
        (".quit" | ".exit", _) => return Ok(Next::Quit),
        (".help", _) => print(output, HELP)?,
        (".tables", _) => {
            let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')
                       AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
            for name in texts(session, sql, ())? {
                print(output, &name)?;
            }
        }
        (".schema", "") => {
            let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid";
            for sql in texts(session, sql, ())? {
                print(output, &format!("{sql};"))?;
            }
        }
        (".schema", name) => {
            let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL
                       AND lower(?1) IN (lower(name), lower(tbl_name)) ORDER BY rowid";
            let found = texts(session, sql, [name])?;
            if found.is_empty() {
                return wrong("there is nothing of that name; .tables lists what there is");
            }
            for sql in found {
                print(output, &format!("{sql};"))?;
            }
        }
        (".mode", "") => {
            let mode = session.mode.to_possible_value();
            print(output, mode.as_ref().map_or("", |mode| mode.get_name()))?;
        }
        (".mode", mode) => match Mode::from_str(mode, true) {
            Ok(mode) => session.mode = mode,
            Err(_) => return wrong("there are the modes table, list, csv, json and line"),
        },
        (".timer", "on") => session.timer = true,
        (".timer", "off") => session.timer = false,
        (".timer", _) => return wrong("say .timer on or .timer off"),
        (".bookmark", _) => {
            let bookmark = session.bookmark()?;
            print(output, &bookmark.to_string())?;
        }
        (".as-of", "") => match session.at() {
            Some(bookmark) => print(output, &bookmark.to_string())?,
            None => print(output, "now")?,
        },
        (".as-of", when) => session.go_to(when)?,
        _ => {
            let words = format!("there is no {command}; .help lists what there is");
            return Err(Failure::new(Exit::Failed, words));
        }
    }
    Ok(Next::GoOn)
}

/// What was asked for is printed for programs too.
fn print(output: &mut Output, line: &str) -> Outcome {
    use std::io::Write as _;
    Ok(writeln!(output.writer(), "{line}")?)
}

fn texts(session: &Session, sql: &str, parameters: impl Params) -> Outcome<Vec<String>> {
    let mut statement = session.connection().prepare(sql)?;
    let rows = statement.query_map(parameters, |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
