//! `sql`: statements as an argument and through standard input.

use super::Place;

#[test]
fn statements_as_an_argument_in_every_mode() {
    let place = Place::new();
    place.facet("a");
    let select =
        |mode: &str| place.ok(&["sql", "s", "a", "--mode", mode, "SELECT id, body FROM note"]);
    assert_eq!(select("list"), "1|milk\n2|bread\n");
    assert_eq!(select("csv"), "id,body\n1,milk\n2,bread\n");
    assert_eq!(select("line"), "  id = 1\nbody = milk\n\n  id = 2\nbody = bread\n");
    assert_eq!(select("table"), "id  body\n1   milk\n2   bread\n");
    let json: serde_json::Value = serde_json::from_str(&select("json")).unwrap();
    assert_eq!(json[1]["body"], "bread");
    assert_eq!(place.json(&["sql", "s", "a", "SELECT body FROM note"])[0]["body"], "milk");
}

#[test]
fn a_script_with_dots_triggers_and_transactions() {
    let place = Place::new();
    place.ok(&["create", "s", "a"]);
    let script = "\
CREATE TABLE t(x);
CREATE TRIGGER doubled AFTER INSERT ON t WHEN new.x < 10 BEGIN
  INSERT INTO t VALUES (new.x * 10);
END;
BEGIN;
INSERT INTO t VALUES (1); INSERT INTO t
  VALUES (2); -- over two lines; with a comment
COMMIT;
.mode csv
SELECT x FROM t ORDER BY x;
.mode
.tables
.schema t
.schema
.timer on
SELECT 1;
.timer off
.help
SELECT 'the last needs no semicolon'
";
    let ran = place.input(&["sql", "s", "a"], script);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[..5], ["x", "1", "2", "10", "20"]);
    assert_eq!(lines[5..8], ["csv", "t", "CREATE TABLE t(x);"]);
    assert!(ran.out.contains(".bookmark") && ran.out.contains("needs no semicolon"), "{ran:?}");
    assert!(ran.said.trim().ends_with("ms"), "{ran:?}");
    let quit = place.input(&["sql", "s", "a"], "SELECT 1;\n.quit\nSELECT 2;\n");
    assert_eq!(quit.out, "1\n");
}

#[test]
fn the_past_in_a_script() {
    let place = Place::new();
    place.ok(&["limit", "s", "a", "--history", "1GiB"]);
    place.facet("a");
    let bookmark = place.input(&["sql", "s", "a"], ".bookmark\n").out;
    let script = format!(
        "DELETE FROM note;\n.as-of {bookmark}SELECT count(*) FROM note;\n.as-of\n.as-of now\n\
         SELECT count(*) FROM note;\n.as-of\n"
    );
    let ran = place.input(&["sql", "s", "a"], &script);
    assert_eq!(ran.out, format!("2\n{bookmark}0\nnow\n"), "{ran:?}");
}

#[test]
fn a_script_ends_at_the_first_error_and_names_its_line() {
    let place = Place::new();
    place.facet("a");
    let script = "INSERT INTO note(body) VALUES ('kept');\n\nSELECT nowhere\nFROM note;\nDELETE FROM note;\n";
    let ran = place.input(&["sql", "s", "a"], script);
    ran.failed(1, "line 3: facet a: no such column: nowhere\n");
    assert_eq!(place.ok(&["sql", "s", "a", "SELECT count(*) FROM note"]), "3\n");
    place.input(&["sql", "s", "a"], ".modus csv\n").failed(1, "line 1: there is no .modus");
    place.input(&["sql", "s", "a"], ".mode morse\n").failed(1, "table, list, csv");
    place.input(&["sql", "s", "a"], ".schema nothing\n").failed(1, "nothing of that name");
    place.input(&["sql", "s", "a"], "BEGIN;\n.as-of 2026-01-01\n").failed(3, "no version");
    // A transaction that was not committed is not there.
    place.input(&["sql", "s", "a"], "BEGIN; DELETE FROM note;\n");
    assert_eq!(place.ok(&["sql", "s", "a", "SELECT count(*) FROM note"]), "3\n");
}

#[test]
fn a_facet_must_exist() {
    let place = Place::new();
    place.run(&["sql", "s", "a", "CREATE TABLE t(x)"]).failed(3, "lapidary create");
    assert_eq!(place.ok(&["ls", "s"]), "");
    place.run(&["sql", "s", "a//b", "SELECT 1"]).failed(1, "a//b");
}
