//! Processes that run out of descriptors, of memory and of space on a small file system, and processes that want one
//! store: they end with an error or are refused, and what was acknowledged is there.
//!
//! Limits are set by `sh`'s `ulimit`. The small file system is a `tmpfs` in a mount namespace of its own; where
//! the system allows none, the test says so and is done.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lapidary_tests::victim::{FACETS, Known};

const CHILD: &str = env!("CARGO_BIN_EXE_kill_child");

/// The child under a limit.
fn limited(limit: &str, mode: &str, path: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{limit}; exec \"$0\" \"$@\"")).arg(CHILD);
    command.arg(mode).arg(path).arg(FACETS.to_string()).stderr(Stdio::null());
    command
}

/// Lives under each limit on one store, with lives without between them.
fn lives_under(limits: impl Iterator<Item = String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut known = Known::default();
    let mut ended = 0;
    let life = Duration::from_millis(300);
    for (number, limit) in limits.enumerate() {
        let mode = ["churn", "vfs", "host"][number % 3];
        ended += u32::from(!known.run_and_kill(&mut limited(&limit, mode, &path), life));
        if path.is_dir() {
            known.check(&path);
        }
        known.run_and_kill(&mut limited("true", mode, &path), life);
        known.check(&path);
    }
    assert!(ended > 0, "no limit was too low");
    assert!(known.heard > 0, "nothing was ever acknowledged");
}

#[test]
fn out_of_descriptors() {
    lives_under(
        [6, 8, 9, 10, 11, 12, 13, 14, 16, 20, 28, 40]
            .iter()
            .map(|most| format!("ulimit -n {most}")),
    );
}

#[test]
fn out_of_memory() {
    lives_under(
        [20, 30, 40, 60, 80, 120, 180, 260].iter().map(|most| format!("ulimit -v {}", most << 10)),
    );
}

#[test]
fn a_small_file_system_that_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=8m tmpfs \"$1\" || exit 77; exec \"$0\" full \"$1/store\"";
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, CHILD])
        .arg(directory.path())
        .output();
    let Ok(ran) = ran else { return println!("not run: there is no `unshare`") };
    let said = String::from_utf8_lossy(&ran.stdout);
    let complaint = String::from_utf8_lossy(&ran.stderr);
    let is_refused = ran.status.code() == Some(77)
        || (complaint.starts_with("unshare:") && !ran.status.success());
    if is_refused {
        return println!("not run, since nothing can be mounted here: {complaint}");
    }
    assert!(ran.status.success(), "{}: {complaint}", ran.status);
    assert_eq!(said, "full 5\n");
}

#[test]
fn many_processes_want_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    for _ in 0..5 {
        let mut children: Vec<_> = (0..6)
            .map(|_| {
                let mut command = Command::new(CHILD);
                command.arg("lock").arg(&path).stdin(Stdio::piped());
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        // Those that are refused end; whoever has the store waits for its input to end.
        let mut holders = 0;
        for child in &mut children {
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line == "locked\n" {
                holders += 1;
                continue;
            }
            let mut complaint = String::new();
            child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
            assert!(complaint.contains("Locked"), "refused with {complaint:?}");
        }
        assert_eq!(holders, 1, "processes that have the store");
        for mut child in children {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}
