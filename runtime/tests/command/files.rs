//! `import` and `export`.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use lapidary::root_hash_of_file;
use lapidary::rusqlite::Connection;

use super::{Place, command};

fn database(path: &Path, rows: i64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = Connection::open(path).unwrap();
    file.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
    for row in 0..rows {
        file.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
    }
}

#[test]
fn one_file_in_and_out() {
    let place = Place::new();
    database(&place.path("shop.sqlite"), 3);
    let said = place.ok(&["import", "s", "shop.sqlite", "--as", "tenants/acme"]);
    let hash = root_hash_of_file(place.path("shop.sqlite")).unwrap().to_string();
    assert!(said.starts_with("imported tenants/acme: 8.00 KiB in 2 pages, 3 rows"), "{said}");
    assert!(said.contains(&hash), "{said}");
    assert_eq!(place.ok(&["sql", "s", "tenants/acme", "SELECT count(*) FROM t"]), "3\n");

    let exported = place.json(&["export", "s", "tenants/acme", "out.sqlite"]);
    assert_eq!(exported["root_hash"], hash.as_str());
    assert_eq!(root_hash_of_file(place.path("out.sqlite")).unwrap().to_string(), hash);
    place.run(&["export", "s", "tenants/acme", "out.sqlite"]).failed(4, "out.sqlite: exists");
    place.ok(&["export", "s", "tenants/acme", "out.sqlite", "--force"]);
    place.run(&["export", "s", "none", "o.sqlite"]).failed(3, "facet none");
    place.run(&["export", "s", "tenants/acme", "no/dir/o.sqlite"]).failed(3, "no/dir");
    place.run(&["export", "s", "tenants/acme"]).failed(2, "FILE");
}

#[test]
fn a_directory_in_and_all_of_it_out_again_both_resumed() {
    let place = Place::new();
    for (rows, name) in [(0, "a.db"), (1, "b/1.sqlite"), (2, "b/2.sqlite3")] {
        database(&place.path("in").join(name), rows);
    }
    fs::write(place.path("in/README"), "no database by its name").unwrap();
    let imported = place.json(&["import", "s", "in", "--prefix", "p"]);
    assert_eq!((&imported["imported"], &imported["failed"]), (&3.into(), &0.into()));
    assert_eq!(place.ok(&["ls", "s"]), "p/a\np/b/1\np/b/2\n");

    place.ok(&["rm", "s", "p/b/1", "--yes"]);
    let again = place.json(&["import", "s", "in", "--prefix", "p"]);
    assert_eq!((&again["imported"], &again["skipped"]), (&1.into(), &2.into()));

    let exported = place.json(&["export", "s", "--all", "out"]);
    assert_eq!(exported["exported"], 3);
    let hash = |path: &str| root_hash_of_file(place.path(path)).unwrap();
    assert_eq!(hash("out/p/b/2.sqlite"), hash("in/b/2.sqlite3"));
    fs::remove_file(place.path("out/p/a.sqlite")).unwrap();
    let again = place.ok(&["export", "s", "--all", "out", "--prefix", "p"]);
    assert_eq!(again, "exported 1 facet, 8.00 KiB; 2 there already, 0 failed\n");
    place.ok(&["sql", "s", "p/a", "INSERT INTO t VALUES (99)"]);
    place.run(&["export", "s", "--all", "out"]).failed(4, "p/a.sqlite: exists already");
    place.ok(&["export", "s", "--all", "out", "--force"]);
}

/// Files as they are found where programs were killed, or still run: a write-ahead log that nobody has
/// taken in, one that a program is writing to, a journal of a transaction that was not finished.
#[test]
fn a_directory_of_databases_in_use() {
    let place = Place::new();
    let path = |name: &str| place.path("in").join(name);
    fs::create_dir(place.path("in")).unwrap();
    let writer = Connection::open(path("open.db")).unwrap();
    writer
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x);
             INSERT INTO t VALUES (1), (2); BEGIN IMMEDIATE; INSERT INTO t VALUES (3)",
        )
        .unwrap();
    for suffix in ["", "-wal"] {
        fs::copy(path(&format!("open.db{suffix}")), path(&format!("killed.db{suffix}"))).unwrap();
    }
    let unfinished = Connection::open(path("unfinished.db")).unwrap();
    unfinished
        .execute_batch(
            "CREATE TABLE t(x); INSERT INTO t VALUES (1); PRAGMA cache_size=1; BEGIN;
             INSERT INTO t SELECT zeroblob(3000) FROM
                 (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 90)
                  SELECT i FROM n)",
        )
        .unwrap();
    for suffix in ["", "-journal"] {
        fs::copy(path(&format!("unfinished.db{suffix}")), path(&format!("torn.db{suffix}")))
            .unwrap();
    }
    drop(unfinished);

    let imported = place.json(&["import", "s", "in", "--prefix", "tenants"]);
    assert_eq!((&imported["imported"], &imported["failed"]), (&4.into(), &0.into()), "{imported}");
    assert_eq!(imported["rows"], 2 + 2 + 1 + 1, "{imported}");
    for (facet, rows) in [("open", 2), ("killed", 2), ("unfinished", 1), ("torn", 1)] {
        let count = place.ok(&["sql", "s", &format!("tenants/{facet}"), "SELECT count(*) FROM t"]);
        assert_eq!(count, format!("{rows}\n"), "{facet}");
    }
    // The files are as they were: the program goes on, and what was torn still is.
    writer.execute_batch("COMMIT").unwrap();
    assert!(path("killed.db-wal").exists() && path("torn.db-journal").exists());
    // Again, now that one has changed: that one is refused, the others are skipped.
    let again = place.run(&["import", "s", "in", "--prefix", "tenants"]);
    again.failed(4, "facet tenants/open: exists already");
    assert_eq!(again.out, "imported 0 facets, 0 B; 3 there already, 1 failed\n");

    place.ok(&["export", "s", "--all", "out"]);
    for (facet, rows) in [("open", 2), ("killed", 2), ("unfinished", 1), ("torn", 1)] {
        let file = Connection::open(place.path(&format!("out/tenants/{facet}.sqlite"))).unwrap();
        let count: i64 = file.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap();
        assert_eq!(count, rows, "{facet}");
    }
}

#[test]
fn rows_are_counted_with_the_full_check_alone() {
    let place = Place::new();
    database(&place.path("a.db"), 7);
    let quick = place.json(&["import", "s", "a.db", "--as", "quick", "--check", "quick"]);
    assert_eq!((&quick["imported"], &quick["rows"]), (&1.into(), &serde_json::Value::Null));
    let full = place.json(&["import", "s", "a.db", "--as", "full"]);
    assert_eq!((&full["rows"], &full["files"][0]["rows"]), (&7.into(), &7.into()));
}

#[test]
fn the_bad_among_many_are_named_and_the_good_are_imported() {
    let place = Place::new();
    database(&place.path("in/good.db"), 1);
    fs::write(place.path("in/bad.db"), "this is a text and no database, but long enough".repeat(9))
        .unwrap();
    let ran = place.run(&["import", "s", "in/good.db", "in/bad.db", "in/absent.db"]);
    ran.failed(1, "in/bad.db: not a SQLite database");
    ran.failed(1, "in/absent.db");
    assert_eq!(ran.out, "imported 1 facet, 8.00 KiB, 1 row; 0 there already, 2 failed\n");
    assert_eq!(place.ok(&["ls", "s"]), "good\n");
    // The other content under that name is not touched.
    database(&place.path("other/good.db"), 2);
    place.run(&["import", "s", "other/good.db"]).failed(4, "facet good: exists already");
    assert_eq!(place.ok(&["sql", "s", "good", "SELECT count(*) FROM t"]), "1\n");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let place = Place::new();
    database(&place.path("a.db"), 1);
    database(&place.path("b.db"), 1);
    place.run(&["import", "s", "a.db", "b.db", "--as", "x"]).failed(2, "--prefix");
    place.run(&["import", "s", "a.db", "--as", "x//y"]).failed(1, "x//y");
    place.run(&["import", "s", "a.db", "--max-size", "4KiB"]).failed(1, "8192 bytes");
    fs::create_dir(place.path("empty")).unwrap();
    place.run(&["import", "s", "empty"]).failed(3, "no file");
    place.run(&["import", "none", "a.db"]).failed(3, "lapidary create");
    place.run(&["import", "s"]).failed(2, "FILES");
    assert_eq!(place.ok(&["ls", "s"]), "");
}

#[test]
fn hundreds_at_once() {
    let place = Place::new();
    database(&place.path("in/0.db"), 5);
    for number in 1..300 {
        fs::copy(place.path("in/0.db"), place.path(&format!("in/{number}.db"))).unwrap();
    }
    let imported = place.json(&["import", "s", "in", "--prefix", "agents", "--check", "quick"]);
    assert_eq!((&imported["imported"], &imported["failed"]), (&300.into(), &0.into()));
    assert_eq!(place.ok(&["ls", "s", "agents"]).lines().count(), 300);
    assert_eq!(place.ok(&["sql", "s", "agents/299", "SELECT count(*) FROM t"]), "5\n");
    assert!(place.ok(&["verify", "s"]).contains("all well"));
}

#[test]
fn ctrl_c_lets_an_import_and_an_export_come_to_an_orderly_end() {
    let place = Place::new();
    database(&place.path("in/0.db"), 5);
    for number in 1..400 {
        fs::copy(place.path("in/0.db"), place.path(&format!("in/{number}.db"))).unwrap();
    }
    fs::create_dir(place.path("scratch")).unwrap();
    let import = ["import", "s", "in", "--prefix", "p", "--scratch", "scratch"];
    // When the first copy is made, it is under way.
    let stopped = place
        .interrupted(&import, || fs::read_dir(place.path("scratch")).unwrap().next().is_some());
    stopped.failed(130, "run the same again");
    let imported = place.ok(&["ls", "s"]).lines().count();
    assert!((1..400).contains(&imported), "{imported}");
    assert!(stopped.out.starts_with(&format!("imported {imported} facet")), "{stopped:?}");
    // Nothing is left of those that were being imported.
    assert!(fs::read_dir(place.path("scratch")).unwrap().next().is_none());
    let resumed = place.json(&import);
    assert_eq!((&resumed["skipped"], &resumed["failed"]), (&imported.into(), &0.into()));
    assert_eq!(resumed["imported"], 400 - imported);

    let export = ["export", "s", "--all", "out"];
    let stopped = place.interrupted(&export, || place.path("out/p/0.sqlite").exists());
    stopped.failed(130, "run the same again");
    let resumed = place.json(&export);
    assert_eq!(resumed["failed"], 0);
    let (exported, skipped) = (resumed["exported"].as_u64(), resumed["skipped"].as_u64());
    assert!(skipped >= Some(1) && exported >= Some(1), "{exported:?} {skipped:?}");
    assert_eq!(fs::read_dir(place.path("out/p")).unwrap().count(), 400);
}

#[test]
fn an_import_that_is_killed_leaves_whole_facets_and_is_resumed() {
    let place = Place::new();
    database(&place.path("in/0.db"), 5);
    for number in 1..200 {
        fs::copy(place.path("in/0.db"), place.path(&format!("in/{number}.db"))).unwrap();
    }
    for after_ms in [20, 100, 300] {
        let mut import = command()
            .args(["import", "s", "in", "--prefix", "p"])
            .current_dir(place.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(after_ms));
        // It may have come to its end, on a fast machine.
        let _ = import.kill();
        import.wait().unwrap();
        for info in place.json(&["ls", "s"]).as_array().unwrap() {
            assert!(info["name"].as_str().unwrap().starts_with("p/"), "{info}");
            assert_eq!(info["pages"], 2, "{info}");
        }
    }
    let resumed = place.json(&["import", "s", "in", "--prefix", "p"]);
    assert_eq!(resumed["failed"], 0);
    assert_eq!(place.ok(&["ls", "s"]).lines().count(), 200);
}
