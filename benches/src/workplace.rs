//! Where a benchmark works, what it shows meanwhile, and how it ends.

use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::TempDir;

use crate::failure::{Doing as _, Failure, Result};

/// A new directory in `parent`, which is created.
pub fn work_directory(parent: &Path) -> Result<TempDir> {
    fs::create_dir_all(parent).doing(|| format!("creating {}", parent.display()))?;
    tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(parent)
        .doing(|| format!("creating a directory in {}", parent.display()))
}

/// How a program ends: what went wrong is said to the person at the terminal.
#[allow(clippy::print_stderr, reason = "errors go to the person at the terminal")]
pub fn end(program: &str, result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        eprintln!("{program}: {failure}");
        ExitCode::FAILURE
    })
}

/// Refuses a file of figures that could not be written: told before minutes of work, not after.
pub fn check_output(option: &str, file: Option<&Path>) -> Result<()> {
    match file.and_then(Path::parent) {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(Failure::new(format!("{option}: there is no directory {}", parent.display())))
        }
        _ => Ok(()),
    }
}

/// Writes figures to a file of JSON.
pub fn write_json(path: &Path, figures: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(figures)
        .doing(|| "putting the figures into JSON".to_owned())?;
    text.push('\n');
    fs::write(path, text).doing(|| format!("writing {}", path.display()))
}

/// A bar at a terminal; nothing but the figures goes to a pipe or a file.
pub fn progress_bar(steps: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(steps), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}% {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Removes the working directory, or keeps it and says where it is.
#[allow(clippy::print_stderr, reason = "a word to the person at the terminal")]
pub fn conclude(work: TempDir, keep: bool) {
    if keep {
        eprintln!("kept: {}", work.keep().display());
    } else {
        let path = work.path().to_owned();
        if let Err(error) = work.close() {
            eprintln!("could not remove {}: {error}", path.display());
        }
    }
}
