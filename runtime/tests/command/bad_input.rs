//! Usage, help, stores that are in use, output that nobody reads, files for shells and manuals.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use super::{Place, command, run_with_input};

const COMMANDS: [&str; 19] = [
    "create",
    "ls",
    "stat",
    "sql",
    "import",
    "export",
    "fork",
    "mv",
    "move",
    "rm",
    "history",
    "restore",
    "limit",
    "verify",
    "salvage",
    "compact",
    "bench",
    "completions",
    "man",
];

/// Manual pages of `bucket` and what is below it.
const OF_BUCKETS: usize = if cfg!(feature = "bucket") { 8 } else { 0 };

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    let all = place.ok(&["--help"]);
    assert!(all.contains("Exit codes:"), "{all}");
    assert_eq!(all.contains("bucket"), cfg!(feature = "bucket"), "{all}");
    for name in COMMANDS {
        assert!(all.contains(&format!("\n  {name} ")), "{name}");
        let help = place.ok(&[name, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("lapidary {name}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
    }
    assert!(place.ok(&["--version"]).starts_with("lapidary "));
}

#[test]
fn wrong_usage_is_two() {
    let place = Place::new();
    place.run(&[]).failed(2, "Usage:");
    place.run(&["lst", "s"]).failed(2, "'ls'");
    place.run(&["ls"]).failed(2, "<STORE>");
    place.run(&["ls", "s", "--trees"]).failed(2, "--tree");
    place.run(&["fork", "s", "a", "b", "--at", "x"]).failed(2, "no bookmark");
}

#[test]
fn where_there_is_no_store_every_command_says_so_and_makes_none() {
    let place = Place::new();
    for arguments in [
        &["ls", "none"][..],
        &["stat", "none"],
        &["sql", "none", "a", "SELECT 1"],
        &["export", "none", "a", "f"],
        &["fork", "none", "a", "b"],
        &["mv", "none", "a", "b"],
        &["rm", "none", "a", "--yes"],
        &["history", "none", "a"],
        &["limit", "none", "a"],
        &["compact", "none"],
        &["verify", "none"],
        &["create", "none/below/it"],
    ] {
        let ran = place.run(arguments);
        assert!(ran.code == 3 || arguments[0] == "create", "{arguments:?}: {ran:?}");
        assert!(arguments[0] == "create" || ran.said.contains("none: no store here"), "{ran:?}");
    }
    assert_eq!(place.path("none").exists(), place.path("none/below/it").exists());
}

#[test]
fn a_store_in_use_is_told_by_its_path() {
    let place = Place::new();
    place.ok(&["create", "s", "a"]);
    let mut holder = command()
        .args(["sql", "s", "a"])
        .current_dir(place.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    holder.stdin.as_mut().unwrap().write_all(b".mode json\n.timer on\nSELECT 1;\n").unwrap();
    // It has the lock when it tells how long that took.
    let mut timing = String::new();
    BufReader::new(holder.stderr.take().unwrap()).read_line(&mut timing).unwrap();
    assert!(timing.ends_with(" ms\n"), "{timing}");
    place.run(&["ls", "s"]).failed(5, "s: the store is locked by another process");
    place.run(&["verify", "s"]).failed(5, "locked");
    place.run(&["salvage", "s", "out"]).failed(5, "locked");
    drop(holder.stdin.take());
    let mut out = String::new();
    holder.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(holder.wait().unwrap().success());
    assert_eq!(out, "[{\"1\":1}]\n");
    place.ok(&["ls", "s"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    place.facet("a");
    let sql = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 200000)
               SELECT i, 'a line that fills the pipe' FROM n";
    let mut child = command()
        .args(["sql", "s", "a", sql])
        .current_dir(place.directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn colours_are_for_terminals() {
    let place = Place::new();
    let ran = place.run(&["stat", "s", "none"]);
    assert!(ran.said.starts_with("error: "), "{ran:?}");
    assert!(!ran.said.contains('\u{1b}'));
}

#[test]
fn completions_and_manual_pages() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run_with_input(&["completions", shell], directory.path(), "");
        assert!(ran.code == 0 && ran.out.contains("salvage"), "{shell}");
    }
    assert_eq!(run_with_input(&["man", "man1"], directory.path(), "").code, 0);
    let page = fs::read_to_string(directory.path().join("man1/lapidary-import.1")).unwrap();
    assert!(page.contains("\\-\\-prefix"), "{page}");
    assert_eq!(
        fs::read_dir(directory.path().join("man1")).unwrap().count(),
        COMMANDS.len() + 1 + OF_BUCKETS
    );
}
