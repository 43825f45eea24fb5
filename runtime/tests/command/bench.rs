//! `bench`.

use serde_json::Value;

use super::{Place, run_with_input};

const SMALL: [&str; 5] = ["bench", "--facets", "6", "--seconds", "0.1"];

/// What is left in the directory of `place`.
fn left(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.directory.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn number(side: &Value, key: &str) -> f64 {
    side[key].as_f64().unwrap_or_else(|| panic!("{key} of {side}"))
}

#[test]
fn both_sides_do_durable_work_and_nothing_is_left() {
    let place = Place::new();
    let figures = place.json(&SMALL);
    assert_eq!(figures["facets"], 6);
    for name in ["lapidary", "sqlite"] {
        let side = &figures[name];
        for key in ["create_per_s", "fork_per_s", "turns_per_s", "turn_alone_p50_us", "turns"] {
            assert!(number(side, key) > 0.0, "{name}: {key}");
        }
        assert!(number(side, "cold_open_p50_us") > 0.0, "{name}");
    }
    assert!(number(&figures["sqlite"], "descriptors_per_facet") >= 2.9);
    assert_eq!(left(&place), ["s"]);

    let told = place.ok(&SMALL);
    for words in ["6 FACETS", "LAPIDARY", "RATIO", "forks/s", "descriptors/facet"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(told.lines().last().unwrap().ends_with("that were acknowledged are there"), "{told}");
}

#[test]
fn facets_can_begin_as_a_database_of_ones_own_which_is_not_changed() {
    let place = Place::new();
    place.facet("a");
    place.ok(&["export", "s", "a", "a.sqlite"]);
    let before = std::fs::read(place.path("a.sqlite")).unwrap();
    let mut arguments = SMALL.to_vec();
    arguments.extend(["--template", "a.sqlite"]);
    let figures = place.json(&arguments);
    assert_eq!(figures["template"], "a.sqlite");
    assert!(figures["lapidary"]["create_per_s"].is_null());
    assert!(number(&figures["sqlite"], "fork_per_s") > 0.0);
    assert_eq!(std::fs::read(place.path("a.sqlite")).unwrap(), before);
    assert_eq!(left(&place), ["a.sqlite", "s"]);
}

#[test]
fn what_cannot_be_measured_is_refused_in_words() {
    let place = Place::new();
    std::fs::write(place.path("notes.txt"), "no database at all").unwrap();
    let run = |more: &[&str]| {
        let arguments = [&SMALL[..], more].concat();
        run_with_input(&arguments, place.directory.path(), "")
    };
    run(&["--template", "notes.txt"]).failed(1, "notes.txt");
    run(&["--template", "absent.sqlite"]).failed(1, "absent.sqlite");
    run(&["--dir", "absent"]).failed(3, "absent");
    place.run(&["bench", "--facets", "0"]).failed(2, "--facets");
    place.run(&["bench", "--facets", "1000000"]).failed(2, "descriptors");
    place.run(&["bench", "--seconds", "nought"]).failed(2, "--seconds");
    assert_eq!(left(&place), ["notes.txt", "s"]);
}
