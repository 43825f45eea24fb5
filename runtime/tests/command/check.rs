//! `verify` and `salvage`, of stores that are well and that are not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use lapidary::rusqlite::Connection;

use super::Place;

/// A store whose facets have pages with contents that can be found, and spoiled.
fn spoiled() -> Place {
    let place = Place::new();
    place.facet("well");
    place.facet("tenants/ill");
    let sql = "INSERT INTO note(body) VALUES (replace(hex(zeroblob(3000)), '00', 'spoil me '))";
    place.ok(&["sql", "s", "tenants/ill", sql]);
    let mut spoiled = 0;
    for entry in fs::read_dir(place.path("s/segments")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let text = b"spoil me spoil me ";
        for at in bytes.windows(text.len()).enumerate().filter(|(_, w)| w == text).map(|(at, _)| at)
        {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"#", at as u64).unwrap();
            spoiled += 1;
        }
    }
    assert!(spoiled > 0, "the pages are found");
    place
}

#[test]
fn a_store_that_is_well() {
    let place = Place::new();
    place.facet("a");
    let report = place.json(&["verify", "s"]);
    assert_eq!((&report["clean"], &report["facets"]), (&true.into(), &1.into()));
    assert!(place.ok(&["verify", "s"]).contains("s: 1 facet, "));
    let salvaged = place.json(&["salvage", "s", "out"]);
    assert_eq!(salvaged["files"][0]["file"], "out/a.sqlite");
    let file = Connection::open(place.path("out/a.sqlite")).unwrap();
    let notes: i64 = file.query_row("SELECT count(*) FROM note", (), |row| row.get(0)).unwrap();
    assert_eq!(notes, 2);
    place.run(&["salvage", "s", "out"]).failed(4, "out: exists already");
    place.run(&["salvage", "none", "out2"]).failed(3, "no store here");
    place.run(&["verify", "none"]).failed(3, "no store here");
}

#[test]
fn damage_is_found_and_the_rest_salvaged() {
    let place = spoiled();
    let ran = place.run(&["verify", "s"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(
        ran.out.contains("facet tenants/ill: page ") && ran.out.contains("at offset"),
        "{ran:?}"
    );
    let json = place.run(&["verify", "s", "--json"]);
    assert_eq!(json.code, 6);
    assert_eq!(json.json()["findings"][0]["facet"], "tenants/ill");

    let ran = place.run(&["salvage", "s", "out"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.out.contains("out/tenants/ill.sqlite: "), "{ran:?}");
    let file = Connection::open(place.path("out/well.sqlite")).unwrap();
    let notes: i64 = file.query_row("SELECT count(*) FROM note", (), |row| row.get(0)).unwrap();
    assert_eq!(notes, 2);
    assert!(place.path("out/tenants/ill.sqlite").exists());
    // An export of it is refused rather than wrong.
    place.run(&["export", "s", "tenants/ill", "ill.sqlite"]).failed(6, "page");
    assert!(!place.path("ill.sqlite").exists());
}
