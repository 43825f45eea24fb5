//! `sql`: statements from the command line or standard input, and a shell.
//!
//! | module | is |
//! |---|---|
//! | `session` | a connection to a facet, and running statements on it |
//! | `input` | where a statement ends |
//! | `commands` | what begins with a dot |
//! | `render` | rows as a table, list, CSV, JSON or lines |
//! | `terminal` | the line editor: history and completion |
//! | `script` | standard input that is no terminal |

mod commands;
mod input;
mod render;
mod script;
mod session;
mod terminal;

use std::io::{self, IsTerminal as _};

use clap::Args;

use crate::failure::{Exit, Failure, Outcome};
use crate::open::Place;
use crate::output::Output;
use crate::store::info;
pub(crate) use render::Mode;
use session::Session;
#[cfg(feature = "bucket")]
pub(crate) use session::run_on;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary sql agents.store agents/42                                a shell; .help tells the rest
  lapidary sql agents.store agents/42 'SELECT * FROM note LIMIT 5'
  lapidary sql agents.store agents/42 --mode csv 'SELECT * FROM note' > note.csv
  lapidary sql agents.store agents/42 < schema.sql
  lapidary sql agents.store agents/42 --as-of '2026-05-01 12:30' 'SELECT count(*) FROM note'

The facet must exist: `lapidary create` makes one. A script ends at the first statement that fails.")]
pub(crate) struct Sql {
    #[command(flatten)]
    place: Place,
    /// The facet
    facet: String,
    /// Statements; without them, those on standard input, or a shell if that is a terminal
    sql: Option<String>,
    /// How rows are printed [default: table on a terminal, list elsewhere]
    #[arg(short, long, value_enum)]
    mode: Option<Mode>,
    /// Read the version of a bookmark or a moment, and write nothing
    #[arg(long, value_name = "BOOKMARK|MOMENT")]
    as_of: Option<String>,
}

pub(crate) fn run(arguments: Sql, output: &mut Output) -> Outcome {
    let Sql { place, facet, sql, mode, as_of } = arguments;
    let default = Mode::default_for(output);
    place.with_host(|host| {
        info(host, &facet).map_err(|failure| match failure.exit {
            Exit::NotFound => {
                let words = "no such facet; make it with `lapidary create`, or see `lapidary ls`";
                Failure::new(Exit::NotFound, format!("facet {facet}: {words}"))
            }
            _ => failure,
        })?;
        let mut session = Session::open(host, &facet, mode.unwrap_or(default))?;
        if let Some(as_of) = &as_of {
            session.go_to(as_of)?;
        }
        match sql {
            Some(sql) => session.run(&sql, output),
            None if io::stdin().is_terminal() => terminal::run(&mut session, output),
            None => script::run(&mut session, &mut io::stdin().lock(), output),
        }
    })
}
