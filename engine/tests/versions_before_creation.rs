//! A facet is not there before it is created.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{
    Environment, Facet, FacetName, ForkFrom, MemoryIo, PageNo, PageSize, Retention, Store,
    StoreOptions, Tunables,
};

fn name(name: &str) -> FacetName {
    FacetName::new(name).unwrap()
}

fn store() -> Arc<Store> {
    let retention = Retention { bytes: u64::MAX, age: Duration::from_secs(24 * 3600) };
    let tunables = Tunables { retention, ..Tunables::default() };
    let options = StoreOptions { tunables, ..StoreOptions::create() };
    Store::open(Environment::with_io(Arc::new(MemoryIo::new())), options).unwrap()
}

fn commit(store: &Store, facet: &Arc<Facet>) {
    let mut writer = facet.begin_write_latest().unwrap();
    writer.set_page_size(PageSize::MIN).unwrap();
    writer.write_page(PageNo(1), &[1; 512]).unwrap();
    store.wait_durable(writer.commit(0).unwrap()).unwrap();
}

#[test]
fn a_subtree_of_the_past_leaves_out_what_came_later() {
    let store = store();
    let root = store.create_facet(&name("a")).unwrap();
    commit(&store, &root);
    let then = root.bookmark().unwrap();
    commit(&store, &store.create_facet(&name("a/late")).unwrap());
    let (forks, _) = store.fork_subtree(&name("a"), &name("b"), ForkFrom::Bookmark(then)).unwrap();
    let names: Vec<_> = forks.iter().map(|fork| fork.name().to_string()).collect();
    assert_eq!(names, ["b"]);
}

#[test]
fn there_is_no_version_before_the_creation() {
    let store = store();
    let facet = store.create_facet(&name("a")).unwrap();
    commit(&store, &facet);
    facet.bookmark_at(1).unwrap_err();
}
