//! The `lapidary` command, as it is built: what it prints, what it ends with, what it leaves.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod bench;
#[cfg(feature = "bucket")]
mod bucket;
mod check;
mod files;
mod moves;
mod names;
mod shell;
mod terminal;
mod time;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a store in it.
struct Place {
    directory: TempDir,
}

/// What a run of the command came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    said: String,
}

impl Ran {
    /// Ended with `code`, and said `words` on standard error.
    #[track_caller]
    fn failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.said.contains(words), "{self:?}");
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.env("LAPIDARY_HISTORY", "").env_remove("LAPIDARY_BUCKET").env_remove("NO_COLOR");
    command
}

fn run_with_input(arguments: &[&str], directory: &Path, input: &str) -> Ran {
    let mut child = command()
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early does not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        said: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Place {
    /// With an empty store `s`.
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.ok(&["create", "s"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run_with_input(arguments, self.directory.path(), "")
    }

    fn input(&self, arguments: &[&str], input: &str) -> Ran {
        run_with_input(arguments, self.directory.path(), input)
    }

    /// Runs what must work and have nothing to complain of; returns what it printed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        assert_eq!(ran.said, "", "{arguments:?}");
        ran.out
    }

    /// Runs it and presses Ctrl-C as soon as `now` says so.
    fn interrupted(&self, arguments: &[&str], now: impl Fn() -> bool) -> Ran {
        let child = command()
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !now() {
            assert!(Instant::now() < deadline, "{arguments:?}");
            thread::sleep(Duration::from_millis(1));
        }
        let process = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        kill_process(process, Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// As [`ok`](Self::ok), with `--json`.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// A facet with two notes.
    fn facet(&self, name: &str) {
        self.ok(&["create", "s", name]);
        let sql = "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT);
                   INSERT INTO note(body) VALUES ('milk'), ('bread');";
        self.ok(&["sql", "s", name, sql]);
    }
}
