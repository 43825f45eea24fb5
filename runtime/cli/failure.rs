//! Errors of the command, and its exit codes.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use lapidary::{HostError, HostErrorKind, rusqlite};

/// What the process ends with. They are documented in `docs/COMMAND.md` and in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Exists = 4,
    Busy = 5,
    Damaged = 6,
    NoSpace = 7,
    /// What shells have for a command that Ctrl-C ended.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// `None` if all was said already.
    message: Option<String>,
    broken_pipe: bool,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: Some(message.into()), broken_pipe: false }
    }

    /// Ends with `exit`; what there is to say was said.
    pub(crate) fn told(exit: Exit) -> Self {
        Self { exit, message: None, broken_pipe: false }
    }

    /// An error of the operating system while doing something to a file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                io::ErrorKind::AlreadyExists => Exit::Exists,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::NoSpace,
                _ => Exit::Failed,
            };
            Self::new(exit, format!("{doing} {} failed: {error}", path.display()))
        }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }

    /// Puts words in front of the message.
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = self.message.map(|message| format!("{what}: {message}"));
        self
    }

    pub(crate) fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    pub(crate) fn print(&self) {
        if let Some(message) = &self.message {
            let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
            say(format_args!("{red}error:{red:#} {message}"));
        }
    }
}

/// A line for the person at the terminal, or in the log of a script. What cannot be said is not.
pub(crate) fn say(line: impl fmt::Display) {
    use io::Write as _;
    let _ = writeln!(anstream::stderr(), "{line}");
}

fn exit_of(kind: HostErrorKind) -> Exit {
    match kind {
        HostErrorKind::NotFound | HostErrorKind::Moved => Exit::NotFound,
        HostErrorKind::AlreadyExists => Exit::Exists,
        HostErrorKind::Retry => Exit::Busy,
        HostErrorKind::Corruption => Exit::Damaged,
        HostErrorKind::NoSpace => Exit::NoSpace,
        _ => Exit::Failed,
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::new(exit_of(error.kind()), error.to_string())
    }
}

impl From<lapidary_engine::Error> for Failure {
    fn from(error: lapidary_engine::Error) -> Self {
        HostError::from(error).into()
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        HostError::from(error).into()
    }
}

/// Of standard output: everything else is named by [`Failure::io`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        let message = Some(format!("writing to standard output failed: {error}"));
        Self { exit: Exit::Failed, message, broken_pipe }
    }
}
