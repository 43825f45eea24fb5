//! `move`.

use super::*;

#[test]
fn a_subtree_moves_to_another_store_and_its_name_is_refused() {
    let place = Place::new();
    place.ok(&["create", "here"]);
    place.ok(&["create", "there"]);
    for name in ["acme", "acme/1"] {
        place.ok(&["create", "here", name]);
        place.ok(&["sql", "here", name, "CREATE TABLE t(x); INSERT INTO t VALUES (7)"]);
    }
    place.run(&["move", "here", "acme", "nowhere"]).failed(3, "no store here");
    place.run(&["move", "here", "acme", "there", "--cancel"]).failed(3, "nothing to cancel");
    let moved = place.run(&["move", "here", "acme", "there", "--json"]);
    assert_eq!((moved.code, moved.json()["state"].as_str()), (0, Some("moved")), "{moved:?}");
    assert_eq!(place.run(&["sql", "there", "acme/1", "SELECT x FROM t"]).out.trim(), "7");
    assert_eq!(place.run(&["move", "here", "acme", "there"]).code, 0);
    place.run(&["create", "here", "acme/1"]).failed(3, "has moved to");
    place.run(&["sql", "here", "acme/1", "SELECT 1"]).failed(3, "acme/1");
    assert_eq!(place.run(&["move", "here", "acme", "--forget"]).code, 0);
    assert_eq!(place.run(&["create", "here", "acme/1"]).code, 0);
    place.run(&["move", "here", "acme"]).failed(2, "DESTINATION");
}
