//! `history`, `restore`, and reading the past.

use super::Place;

fn with_history() -> Place {
    let place = Place::new();
    place.ok(&["limit", "s", "a", "--history", "1GiB", "--history-age", "1d"]);
    place.facet("a");
    place
}

#[test]
fn a_version_is_listed_read_and_restored_and_the_restore_undone() {
    let place = with_history();
    let newest = place.json(&["history", "s", "a"])[0]["bookmark"].as_str().unwrap().to_owned();
    place.ok(&["sql", "s", "a", "DELETE FROM note"]);
    let count = |extra: &[&str]| {
        let mut arguments = vec!["sql", "s", "a", "SELECT count(*) FROM note"];
        arguments.extend(extra);
        place.ok(&arguments)
    };
    assert_eq!((count(&[]), count(&["--as-of", &newest])), ("0\n".to_owned(), "2\n".to_owned()));
    place.run(&["sql", "s", "a", "--as-of", &newest, "DELETE FROM note"]).failed(1, "readonly");

    let restored = place.json(&["restore", "s", "a", &newest]);
    assert_eq!(count(&[]), "2\n");
    place.ok(&["restore", "s", "a", restored["undo"].as_str().unwrap()]);
    assert_eq!(count(&[]), "0\n");

    place.ok(&["fork", "s", "a", "b", "--at", &newest]);
    assert_eq!(place.ok(&["sql", "s", "b", "SELECT count(*) FROM note"]), "2\n");
    let listed = place.ok(&["history", "s", "a", "--last", "2"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.starts_with("BOOKMARK"), "{listed}");
}

#[test]
fn a_moment_names_a_version_too() {
    let place = with_history();
    let listed = place.json(&["history", "s", "a"]);
    let moment = listed[0]["committed"].as_str().unwrap().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(20));
    place.ok(&["sql", "s", "a", "DELETE FROM note"]);
    place.ok(&["restore", "s", "a", "--as-of", &moment]);
    assert_eq!(place.ok(&["sql", "s", "a", "SELECT count(*) FROM note"]), "2\n");
    place.run(&["restore", "s", "a", "--as-of", "1999-01-01"]).failed(3, "no version");
    place.run(&["restore", "s", "a", "--as-of", "last week"]).failed(2, "is no moment");
}

#[test]
fn what_is_not_kept_is_told() {
    let place = Place::new();
    place.facet("a");
    assert_eq!(place.json(&["history", "s", "a"]).as_array().unwrap().len(), 1);
    let unknown = "00000001-0000000000000001-0000000000000001";
    place.run(&["restore", "s", "a", unknown]).failed(3, "is kept");
    place.run(&["restore", "s", "a", "yesterday"]).failed(2, "no bookmark");
    place.run(&["restore", "s", "a"]).failed(2, "required");
    place.run(&["history", "s", "none"]).failed(3, "facet none");
}
