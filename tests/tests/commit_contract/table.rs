//! The table itself: it names tests that exist, and all tests of this folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Names of the test functions in a file, or in all files of a folder.
fn tests_in(path: &str) -> BTreeSet<String> {
    let path = workspace().join(path);
    let files: Vec<PathBuf> = if path.is_dir() {
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect()
    } else {
        vec![path]
    };
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            match line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
                Some((name, _)) if is_test => {
                    names.insert(name.to_owned());
                    is_test = false;
                }
                _ if line.starts_with("#[test]") => is_test = true,
                _ => {}
            }
        }
    }
    names
}

/// Its every test is part of a row.
const OWN: &str = "tests/tests/commit_contract/";

#[test]
fn the_table_names_tests_that_exist() {
    let table = fs::read_to_string(workspace().join("docs/COMMIT_CONTRACT.md")).unwrap();
    // `E` = `tests/tests/commit_contract.rs`: short forms of the files.
    let mut files = BTreeMap::new();
    for line in table.lines() {
        let mut quoted = line.split('`').skip(1).step_by(2);
        if line.starts_with("- `") && line.contains("` = `") {
            files.insert(quoted.next().unwrap(), quoted.next().unwrap());
        }
    }
    assert!(files.len() > 2, "{files:?}");
    let mut named = BTreeSet::new();
    let mut rows = 0;
    for line in table.lines() {
        let proofs: Vec<(&str, &str)> =
            line.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
        let proofs = proofs.iter().filter_map(|(short, test)| Some((*files.get(short)?, *test)));
        let proofs: Vec<_> = proofs.collect();
        // Rows have a number, such as `| 12 |`.
        let first = line.strip_prefix("| ").and_then(|rest| rest.split_once(" |"));
        if first.is_some_and(|(number, _)| number.parse::<u32>().is_ok()) {
            rows += 1;
            assert!(!proofs.is_empty(), "no test proves this row: {line}");
        }
        for (file, test) in proofs {
            assert!(tests_in(file).contains(test), "there is no test {test} in {file}: {line}");
            named.insert((file, test.to_owned()));
        }
    }
    assert!(rows > 25, "{rows} rows");
    for test in tests_in(OWN) {
        let is_row = named.contains(&(OWN, test.clone()));
        assert!(is_row || test == "the_table_names_tests_that_exist", "{test} is in no row");
    }
}
