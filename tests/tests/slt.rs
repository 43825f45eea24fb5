//! The scripts in `tests/slt` on a facet and on stock SQLite, and the command that runs others.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lapidary_tests::slt::check::Sides;
use lapidary_tests::slt::script::parse;

fn scripts() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let files = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "test")).collect()
}

#[test]
fn every_script() {
    let mut sides = Sides::new().unwrap();
    let mut records = 0;
    for file in scripts() {
        let name = file.display();
        let script = parse(&std::fs::read_to_string(&file).unwrap(), "sqlite")
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (count, failures) = sides.check(&script).unwrap();
        let words: Vec<String> =
            failures.iter().map(|failure| format!("{name}:{failure}")).collect();
        assert!(failures.is_empty(), "{}", words.join("\n"));
        records += count;
    }
    assert!(records > 500, "{records} records");
}

fn slt(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_slt")).args(arguments).output().unwrap();
    let words = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code().unwrap(), words)
}

#[test]
fn the_command_says_what_failed_where() {
    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = script("good.test", "query I\nSELECT 1\n----\n1\n");
    let bad = script("bad.test", "\n\nquery I\nSELECT 1\n----\n2\n\nstatement ok\nSELEC\n");
    let foreign = script("foreign.test", "statement ok\nSELECT 1\n\nrun this\n");
    let (code, words) = slt(&[&good]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("good.test: 1 records, 0 failures"), "{words}");

    let (code, words) = slt(&[&good, &bad]);
    assert_eq!(code, 1, "{words}");
    for expected in ["bad.test:3: the facet", "bad.test:3: stock SQLite", "bad.test:8: the facet"] {
        assert!(words.contains(expected), "no {expected:?} in: {words}");
    }
    let (_, fewer) = slt(&["--failures", "1", &bad]);
    assert!(fewer.contains("bad.test:3: the facet") && !fewer.contains("bad.test:8"), "{fewer}");

    let (code, words) = slt(&[&bad, &foreign, &good]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("foreign.test: line 4") && words.contains("run this"), "{words}");
    assert!(words.contains("good.test: 1 records"), "the others are run: {words}");
    let (code, words) = slt(&["/nowhere.test"]);
    assert_eq!(code, 2);
    assert!(words.contains("/nowhere.test: No such file"), "{words}");
    assert_eq!(slt(&[]).0, 2);
    let (code, words) = slt(&["--help"]);
    assert!(code == 0 && words.contains("Examples:") && words.contains("Exit codes"), "{words}");
}
