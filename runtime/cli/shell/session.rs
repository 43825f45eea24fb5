//! A connection to a facet, and running statements on it.

use std::time::Instant;

use lapidary::rusqlite::fallible_iterator::FallibleIterator as _;
use lapidary::rusqlite::{self, Batch, Connection, OpenFlags};
use lapidary::{Bookmark, FacetHandle, Host, HostError};

use super::render::{Mode, Renderer};
use crate::failure::{Exit, Failure, Outcome, say};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::units::parse_moment;

/// Steps of SQLite's virtual machine between two looks for Ctrl-C: a fraction of a millisecond.
const STEPS_PER_LOOK: i32 = 10_000;

/// What the shell works with.
pub(super) struct Session {
    facet: FacetHandle,
    connection: Connection,
    at: Option<Bookmark>,
    /// Ends the statement that runs; `None` where Ctrl-C ends the command.
    interrupt: Option<Interrupt>,
    pub(super) mode: Mode,
    pub(super) timer: bool,
}

impl Session {
    pub(super) fn open(host: &Host, facet: &str, mode: Mode) -> Outcome<Self> {
        let facet = host.facet(facet)?;
        let connection = connect(&facet, None)?;
        Ok(Self { facet, connection, at: None, interrupt: None, mode, timer: false })
    }

    /// From now on Ctrl-C ends the statement that runs, and not the command.
    pub(super) fn catch_interrupts(&mut self) -> Outcome {
        self.interrupt = Some(Interrupt::catch()?);
        self.watch()
    }

    /// Has the connection look for Ctrl-C.
    fn watch(&mut self) -> Outcome {
        let Some(interrupt) = self.interrupt.clone() else { return Ok(()) };
        Ok(self.connection.progress_handler(STEPS_PER_LOOK, Some(move || interrupt.is_set()))?)
    }

    pub(super) fn name(&self) -> &str {
        self.facet.name().as_str()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The version that is read, if it is one of the past.
    pub(super) fn at(&self) -> Option<Bookmark> {
        self.at
    }

    /// Names the newest version.
    pub(super) fn bookmark(&self) -> Outcome<Bookmark> {
        Ok(self.facet.bookmark().wait()?)
    }

    /// Reads the version that a bookmark or a moment names from now on; `now` is the newest, which can
    /// be written to.
    pub(super) fn go_to(&mut self, when: &str) -> Outcome {
        let at = match when.parse::<Bookmark>() {
            Ok(bookmark) => Some(bookmark),
            Err(_) if when == "now" => None,
            Err(_) => Some(self.facet.bookmark_at(parse_moment(when)?)?),
        };
        if let Some(bookmark) = at {
            // Says what is wrong with it in better words than SQLite could.
            self.facet.read_at(bookmark, |_| Ok(()))?;
        }
        if !self.connection.is_autocommit() {
            let words = "a transaction is open; COMMIT or ROLLBACK it first";
            return Err(Failure::new(Exit::Failed, words));
        }
        self.connection = connect(&self.facet, at)?;
        self.at = at;
        self.watch()
    }

    /// Runs statements one after the other and prints their rows; ends at the first that fails.
    pub(super) fn run(&self, sql: &str, output: &mut Output) -> Outcome {
        if let Some(interrupt) = &self.interrupt {
            // One that came late is not for these statements.
            interrupt.clear();
        }
        let began = Instant::now();
        let outcome = run_on(&self.connection, self.name(), self.mode, sql, output);
        if self.timer {
            output.flush()?;
            say(format_args!("{:.3} ms", began.elapsed().as_secs_f64() * 1e3));
        }
        outcome
    }
}

/// Runs statements on a connection to `facet` and prints their rows; ends at the first that fails.
pub(crate) fn run_on(
    connection: &Connection,
    facet: &str,
    mode: Mode,
    sql: &str,
    output: &mut Output,
) -> Outcome {
    let failed = |error| failed(facet, error);
    let mut batch = Batch::new(connection, sql);
    while let Some(mut statement) = batch.next().map_err(failed)? {
        if statement.column_count() == 0 {
            statement.raw_execute().map_err(failed)?;
            continue;
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut renderer = Renderer::new(mode, &columns);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            renderer.row(row, output.writer())?;
        }
        renderer.finish(output.writer())?;
    }
    Ok(())
}

/// An error of SQLite, with the store's words where those say more.
fn failed(facet: &str, error: rusqlite::Error) -> Failure {
    if let rusqlite::Error::SqlInputError { msg, .. } = error {
        // Without the SQL, which can be all that is left of a script.
        return Failure::new(Exit::Failed, format!("facet {facet}: {msg}"));
    }
    let cause = lapidary_vfs::take_last_error().filter(|_| error.sqlite_error().is_some());
    let failure = Failure::from(HostError::from(error));
    match cause {
        Some(cause) if failure.exit != Exit::Failed => {
            Failure::new(failure.exit, format!("{} ({cause})", failure.message()))
        }
        _ => failure,
    }
    .about(format_args!("facet {facet}"))
}

fn connect(facet: &FacetHandle, at: Option<Bookmark>) -> Outcome<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(facet.uri(at), flags)?)
}
