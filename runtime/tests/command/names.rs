//! `create`, `ls`, `stat`, `fork`, `mv`, `rm`, `limit`, `compact`.

use super::Place;

#[test]
fn a_store_and_facets_are_made_once() {
    let place = Place::new();
    place.run(&["create", "s"]).failed(4, "is a store already");
    assert_eq!(place.ok(&["create", "s", "a/1", "b"]), "made a/1\nmade b\n");
    place.run(&["create", "s", "b"]).failed(4, "facet b: exists already");
    assert_eq!(place.ok(&["ls", "s"]), "a/1\nb\n");
    std::fs::create_dir(place.path("other")).unwrap();
    std::fs::write(place.path("other/file"), "precious").unwrap();
    place.run(&["create", "other"]).failed(1, "not a store");
}

#[test]
fn ls_in_all_its_forms() {
    let place = Place::new();
    place.facet("tenants/acme/1");
    place.ok(&["create", "s", "tenants/acme/2", "tenants/zeta", "x"]);
    assert_eq!(place.ok(&["ls", "s", "tenants/acme"]), "tenants/acme/1\ntenants/acme/2\n");
    let tree = "tenants/\n  acme/\n    1\n    2\n  zeta\nx\n";
    assert_eq!(place.ok(&["ls", "s", "--tree"]), tree);
    let long = place.ok(&["ls", "s", "--long"]);
    assert!(long.starts_with("NAME") && long.contains("8.00 KiB"), "{long}");
    let json = place.json(&["ls", "s"]);
    assert_eq!(json.as_array().unwrap().len(), 4);
    assert_eq!(json[0]["name"], "tenants/acme/1");
    assert_eq!((&json[0]["bytes"], &json[0]["page_size"]), (&8192.into(), &4096.into()));
    assert_eq!(place.json(&["ls", "s", "absent"]).as_array().unwrap().len(), 0);
}

#[test]
fn ls_goes_on_from_page_to_page() {
    let place = Place::new();
    let names: Vec<String> = (0..2_500).map(|n| format!("many/{n:04}")).collect();
    let mut arguments = vec!["create", "s"];
    arguments.extend(names.iter().map(String::as_str));
    place.ok(&arguments);
    let listed: Vec<String> = place.ok(&["ls", "s"]).lines().map(str::to_owned).collect();
    assert_eq!(listed, names);
}

#[test]
fn stat_of_a_store_and_of_a_facet() {
    let place = Place::new();
    place.facet("a");
    let store = place.json(&["stat", "s"]);
    assert_eq!(store["facets"], 1);
    assert!(store["allocated_bytes"].as_u64().unwrap() > 0);
    assert!(place.ok(&["stat", "s"]).contains("facets    1\n"));
    let facet = place.json(&["stat", "s", "a", "--hash"]);
    assert_eq!(facet["root_hash"].as_str().unwrap().len(), 64);
    assert_eq!(facet["pages"], 2);
    assert!(place.ok(&["stat", "s", "a"]).contains("8.00 KiB in 2 pages of 4096 bytes"));
    place.run(&["stat", "s", "b"]).failed(3, "facet b: no such facet");
}

#[test]
fn fork_mv_and_rm() {
    let place = Place::new();
    place.facet("a/b");
    place.ok(&["fork", "s", "a/b", "copy"]);
    assert_eq!(place.ok(&["sql", "s", "copy", "SELECT count(*) FROM note"]), "2\n");
    let forks = place.json(&["fork", "s", "a", "tree", "--tree"]);
    assert_eq!(forks["forks"][0], "tree/b");
    place.run(&["fork", "s", "a/b", "copy"]).failed(4, "facet copy: exists already");
    place.run(&["fork", "s", "none", "copy2"]).failed(3, "facet none");

    assert_eq!(place.ok(&["mv", "s", "tree", "moved"]), "tree is now moved\n");
    place.run(&["mv", "s", "copy", "a/b"]).failed(4, "a/b");
    assert_eq!(place.ok(&["ls", "s"]), "a/b\ncopy\nmoved/b\n");

    place.run(&["rm", "s", "copy"]).failed(2, "--yes");
    place.run(&["rm", "s", "copy", "none", "--yes"]).failed(3, "facet none");
    assert_eq!(place.ok(&["ls", "s"]), "a/b\ncopy\nmoved/b\n", "nothing was deleted");
    assert_eq!(place.ok(&["rm", "s", "copy", "moved", "--yes"]).lines().count(), 2);
    assert_eq!(place.ok(&["ls", "s"]), "a/b\n");
}

#[test]
fn limits_are_set_shown_and_hold() {
    let place = Place::new();
    place.facet("t/a");
    let set = place.json(&["limit", "s", "t", "--quota", "16KiB", "--history", "1GiB"]);
    assert_eq!((&set["quota_bytes"], &set["used_bytes"]), (&16_384.into(), &8_192.into()));
    assert_eq!(
        (&set["history_bytes"], &set["history_seconds"]),
        (&(1 << 30).into(), &604_800.into())
    );
    assert_eq!(place.json(&["limit", "s", "t"]), set);
    let shown = place.ok(&["limit", "s", "t"]);
    assert!(shown.contains("16.00 KiB, 8.00 KiB used") && shown.contains("7 days"), "{shown}");
    let sql = "INSERT INTO note(body) VALUES (zeroblob(100000))";
    place.run(&["sql", "s", "t/a", sql]).failed(7, "its quota of 16384 bytes is used up");
    place.ok(&["limit", "s", "t", "--quota", "none"]);
    place.ok(&["sql", "s", "t/a", sql]);
    place.run(&["limit", "s", "t", "--quota", "much"]).failed(2, "100MiB");
}

#[test]
fn compact_gives_space_back_and_keeps_everything() {
    let place = Place::new();
    place.facet("a");
    let fill = "CREATE TABLE big(x); INSERT INTO big VALUES (randomblob(20000000)); DROP TABLE big";
    place.ok(&["sql", "s", "a", fill]);
    let before = place.json(&["stat", "s", "a"])["bytes"].as_u64().unwrap();
    let done = place.json(&["compact", "s", "a"]);
    let (allocated, had) = (&done["allocated_bytes"], &done["allocated_bytes_before"]);
    assert!(allocated.as_u64().unwrap() < had.as_u64().unwrap() / 2, "{done}");
    let after = place.json(&["stat", "s", "a"])["bytes"].as_u64().unwrap();
    assert!(before > 20_000_000 && after == 8_192, "{before} {after}");
    assert_eq!(place.ok(&["sql", "s", "a", "SELECT count(*) FROM note"]), "2\n");
    place.run(&["compact", "s", "none"]).failed(3, "facet none");
}
