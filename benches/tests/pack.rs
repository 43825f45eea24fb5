//! The benchmark program as its users run it, small.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;

const ARMS: [&str; 7] = [
    "lapidary",
    "lapidary-core",
    "lapidary-vfs",
    "sqlite-wal-full",
    "sqlite-wal-normal",
    "sqlite-memory-off",
    "sqlite-inmem",
];

fn pack(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pack"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `pack`, expects success, and returns the figures by arm.
fn figures(directory: &Path, arguments: &[&str]) -> (Value, BTreeMap<String, Value>) {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--json", "result.json", "--store", "work"]);
    let output = pack(directory, &arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "", "nothing but figures when no terminal looks on");
    let left = std::fs::read_dir(directory.join("work")).unwrap().count();
    assert_eq!(left, 0, "the working directory is cleaned");
    let json = std::fs::read_to_string(directory.join("result.json")).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    let arms = report["arms"].as_array().unwrap();
    let by_name =
        arms.iter().map(|arm| (arm["arm"].as_str().unwrap().to_owned(), arm.clone())).collect();
    (report, by_name)
}

fn number(arm: &Value, key: &str) -> f64 {
    arm[key].as_f64().unwrap_or_else(|| panic!("{key} of {arm}"))
}

#[test]
fn every_arm_has_every_figure_and_finds_its_turns_again() {
    let directory = tempfile::tempdir().unwrap();
    let (report, arms) = figures(directory.path(), &["--facets", "40", "--seconds", "0.2"]);
    let order = report["arms"].as_array().unwrap().iter().map(|arm| arm["arm"].as_str().unwrap());
    assert_eq!(order.collect::<Vec<_>>(), ARMS);
    assert_eq!(report["failed"], Value::Array(Vec::new()));
    assert_eq!(report["workload"]["facets"], serde_json::json!([40]));
    assert_eq!(report["command"], "pack --facets 40 --seconds 0.2 --json result.json --store work");
    assert!(report["machine"]["sqlite"].as_str().unwrap().starts_with("3."));
    for (name, arm) in &arms {
        assert_eq!(arm["facets"], 40);
        for key in [
            "create_per_s",
            "turns_per_s",
            "reads_per_s",
            "fork_per_s",
            "delete_per_s",
            "cpu_us_per_turn",
        ] {
            assert!(number(arm, key) > 0.0, "{name}: {key}");
        }
        assert!(number(&arm["turn_us"], "p99") >= number(&arm["turn_us"], "p50"), "{name}");
        assert!(number(arm, "turns_verified") >= number(arm, "turns"), "{name}");
        assert_eq!(arm["connections_open"], 40, "{name}");
        let stored = name != "sqlite-inmem";
        assert_eq!(arm["cold_open_us"].is_object(), stored, "{name}");
        assert_eq!(number(arm, "disk_kib_per_facet") > 0.0, stored, "{name}");
        assert_eq!(number(arm, "written_bytes_per_turn") > 0.0, stored, "{name}");
        assert_eq!(arm["store_open_ms"].is_number(), name.starts_with("lapidary"), "{name}");
    }
    // Files need descriptors for each database, a store does not.
    assert!(number(&arms["sqlite-wal-full"], "descriptors_per_facet") > 2.9);
}

#[test]
fn facets_can_start_as_copies_of_a_database_in_wal_mode_with_small_pages() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Connection::open(directory.path().join("shop.sqlite")).unwrap();
    shop.execute_batch(
        "PRAGMA page_size=1024; PRAGMA journal_mode=WAL;
         CREATE TABLE goods(id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX by_name ON goods(name);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO goods(name) SELECT 'thing ' || i FROM n;",
    )
    .unwrap();
    // The connection stays open: the rows are still in the -wal file.
    let (report, arms) = figures(
        directory.path(),
        &["--facets", "12", "--seconds", "0.2", "--template", "shop.sqlite"],
    );
    drop(shop);
    assert_eq!(report["workload"]["template"]["page_bytes"], 1024);
    let bytes = report["workload"]["template"]["bytes"].as_f64().unwrap();
    assert!(bytes > 50_000.0);
    assert_eq!(arms.len(), ARMS.len());
    for (name, arm) in &arms {
        assert!(number(arm, "turns_verified") > 0.0, "{name}");
    }
    for files in ["sqlite-wal-full", "sqlite-memory-off"] {
        assert!(number(&arms[files], "disk_closed_kib_per_facet") * 1024.0 >= bytes, "{files}");
    }
}

#[test]
fn a_low_descriptor_limit_bounds_the_files_and_not_the_facets() {
    let directory = tempfile::tempdir().unwrap();
    let (report, arms) = figures(
        directory.path(),
        &[
            "--facets",
            "100",
            "--seconds",
            "0.2",
            "--descriptors",
            "124",
            "--arms",
            "lapidary,lapidary-vfs,sqlite-wal-full",
        ],
    );
    assert_eq!(report["machine"]["descriptor_limit"], 124);
    // 64 are kept in reserve, a connection in WAL mode takes three.
    assert!(number(&arms["sqlite-wal-full"], "connections_open") <= 20.0);
    assert_eq!(arms["lapidary"]["connections_open"], 100);
    assert_eq!(arms["lapidary-vfs"]["connections_open"], 100);
}

#[test]
fn one_patient_caller_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (_, arms) = figures(
        directory.path(),
        &["--facets", "5", "--seconds", "0.2", "--arms", "lapidary", "--in-flight", "1"],
    );
    assert!(number(&arms["lapidary"], "turns") > 0.0);
}

#[test]
fn a_template_that_is_no_database_is_named_and_nothing_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("notes.txt"), "not a database").unwrap();
    let output = pack(directory.path(), &["--template", "notes.txt", "--store", "work"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("notes.txt is not a SQLite database"), "{complaint}");
    assert_eq!(std::fs::read_dir(directory.path().join("work")).unwrap().count(), 0);
}

#[test]
fn the_page_names_every_arm_that_ran() {
    let directory = tempfile::tempdir().unwrap();
    let two = ["--facets", "5", "--seconds", "0.2", "--arms", "lapidary,sqlite-wal-full"];
    figures(directory.path(), &[&two[..], &["--report", "pack.html"]].concat());
    let page = std::fs::read_to_string(directory.path().join("pack.html")).unwrap();
    let columns = "<th scope=\"col\">lapidary</th><th scope=\"col\">sqlite-wal-full</th>";
    assert!(page.contains(columns), "{page}");
    assert!(page.contains("How long a turn took"));
    assert!(page.contains("$ pack --facets 5 --seconds 0.2"));

    let refused = pack(directory.path(), &["--report", "absent/pack.html"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--report: there is no directory absent"));
}

#[test]
fn a_sweep_has_figures_at_every_count_and_says_what_it_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let sweep = ["--sweep", "60,6", "--seconds", "0.1", "--arms", "lapidary,sqlite-memory-off"];
    let more = ["--open-max", "20", "--plots", "plots", "--report", "sweep.html"];
    let (report, _) = figures(directory.path(), &[&sweep[..], &more].concat());
    let ran: Vec<_> = report["arms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arm| (arm["facets"].as_u64().unwrap(), arm["arm"].as_str().unwrap()))
        .collect();
    let arms = ["lapidary", "sqlite-memory-off"];
    assert_eq!(ran, [(6, arms[0]), (6, arms[1]), (60, arms[0]), (60, arms[1])]);
    for arm in report["arms"].as_array().unwrap() {
        let facets = arm["facets"].as_u64().unwrap();
        assert!(arm["connections_open"].as_u64().unwrap() <= facets.min(20), "{arm}");
        assert!(number(arm, "elapsed_s") > 0.0);
    }
    let plot = std::fs::read_to_string(directory.path().join("plots/sweep-memory.svg")).unwrap();
    assert!(plot.contains("facets (log scale)"), "{plot}");
    let page = std::fs::read_to_string(directory.path().join("sweep.html")).unwrap();
    assert!(page.contains("Against the number of facets") && page.contains("60 facets"));

    // A time that nothing can keep to: left out, and said so, and no failure.
    let hurried = ["--sweep", "3000,4000", "--seconds", "5", "--time-max", "0.2"];
    let (report, _) = figures(directory.path(), &[&hurried[..], &["--arms", "lapidary"]].concat());
    assert_eq!(report["arms"], Value::Array(Vec::new()));
    for (skipped, facets) in report["skipped"].as_array().unwrap().iter().zip([3000, 4000]) {
        assert_eq!(skipped["facets"], facets);
        let reason = skipped["reason"].as_str().unwrap();
        assert!(reason.contains("--time-max"), "{reason}");
    }
    assert_eq!(report["skipped"].as_array().unwrap().len(), 2);
}

#[test]
fn kept_files_are_real_databases() {
    let directory = tempfile::tempdir().unwrap();
    let output = pack(
        directory.path(),
        &[
            "--facets",
            "3",
            "--seconds",
            "0.1",
            "--arms",
            "sqlite-memory-off",
            "--store",
            "work",
            "--keep",
        ],
    );
    let stderr = text(&output.stderr);
    let kept = stderr.trim().strip_prefix("kept: ").unwrap_or_else(|| panic!("{stderr}"));
    let file = directory.path().join(kept).join("sqlite-memory-off-3/agent-0000002.sqlite");
    let turns: i64 = Connection::open(file)
        .unwrap()
        .query_row("SELECT count(*) FROM messages", [], |row| row.get(0))
        .unwrap();
    assert!(turns > 0);
}

#[test]
fn every_arm_updates_rows_of_large_databases_and_says_how_it_does_at_a_rate() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = "--workload large --size-mib 1 --facets 4 --seconds 0.3 --load 20,60";
    let arguments: Vec<_> = arguments.split(' ').collect();
    let (report, arms) = figures(directory.path(), &arguments);
    assert_eq!(report["workload"]["name"], "large");
    assert_eq!(report["workload"]["size_mib"], 1);
    assert_eq!(arms.len(), ARMS.len());
    for (name, arm) in &arms {
        assert!(number(arm, "turns_verified") > 0.0, "{name}");
        if name != "sqlite-inmem" {
            // A thousand rows of 900 bytes each.
            assert!(number(arm, "disk_created_kib_per_facet") >= 900.0, "{name}: {arm}");
        }
        let load = arm["load"].as_array().unwrap();
        let percents: Vec<_> =
            load.iter().map(|point| point["percent"].as_u64().unwrap()).collect();
        assert_eq!(percents, [20, 60], "{name}");
        for point in load {
            assert!(number(point, "turns_per_s") > 0.0, "{name}");
            assert!(number(&point["turn_us"], "p50") > 0.0, "{name}");
        }
        let offered = |index: usize| number(&load[index], "offered_per_s");
        assert!((offered(1) / offered(0) - 3.0).abs() < 0.01, "{name}");
        assert!(arm["mixed_reads_per_s"].is_null(), "{name}");
    }
    let refused = pack(directory.path(), &["--workload", "large", "--template", "shop.sqlite"]);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("--template"), "{}", text(&refused.stderr));
}

#[test]
fn every_arm_reads_between_turns() {
    let directory = tempfile::tempdir().unwrap();
    let (_, arms) =
        figures(directory.path(), &["--workload", "readers", "--facets", "20", "--seconds", "0.3"]);
    for name in ARMS {
        let arm = &arms[name];
        let (turns, reads) = (number(arm, "turns_per_s"), number(arm, "mixed_reads_per_s"));
        // Nine to one, as chance has it.
        assert!(reads > 3.0 * turns && turns > 0.0, "{name}: {reads} reads, {turns} turns");
        assert!(arm["mixed_read_us"].is_object(), "{name}");
    }
}
