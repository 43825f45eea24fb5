//! Rows of commits that go well.

use super::*;

#[test]
fn ok() {
    let trial = Trial::new(1);
    let before = trial.facet.snapshot(View::Latest).unwrap();
    let mut writer = stage(&trial.facet, NEW).unwrap();
    assert_eq!(shown(&trial.facet, View::Latest), OLD, "staged pages are the writer's alone");
    let ticket = writer.commit(0).unwrap();
    assert!(!trial.store.is_durable(ticket).unwrap());
    assert_eq!(shown(&trial.facet, View::Latest), NEW);
    assert_eq!(shown(&trial.facet, View::Durable), OLD, "it could still be lost");
    assert_eq!(reopened(&trial.sim().after_kill()), OLD);
    trial.store.wait_durable(ticket).unwrap();
    assert!(trial.store.is_durable(ticket).unwrap());
    assert_eq!(shown(&trial.facet, View::Durable), NEW);
    assert_eq!(content(&before), OLD, "a snapshot stays what it was");
    assert_eq!(trial.after_reopening(), [NEW].into());
}

#[test]
fn nothing_staged() {
    let trial = Trial::new(1);
    let before = trial.store.current_ticket();
    let mut writer = trial.facet.begin_write_latest().unwrap();
    let ticket = writer.commit(0).unwrap();
    assert_eq!(ticket, trial.facet.latest_ticket());
    assert_eq!(trial.store.current_ticket(), before);
}
