//! Rows in which the power goes out, or the process is killed.

use super::*;

/// The moments at which a life can end.
#[derive(Clone, Copy, Debug)]
enum At {
    BeforeTheWrite,
    DuringTheWrite,
    AfterTheWrite,
    AfterTheSync,
}

/// The disk when its power went out, or the process was killed, at `at`.
fn ended(at: At, seed: u64) -> Trial {
    let trial = Trial::new(seed);
    let ticket = commit(&trial.facet, NEW).unwrap();
    let next = trial.sim().operations();
    match at {
        At::BeforeTheWrite => trial.sim().crash(),
        At::DuringTheWrite => trial.sim().crash_at(next),
        At::AfterTheWrite => trial.sim().crash_at(next + 1),
        At::AfterTheSync => {
            // Somebody else's flush, so that the caller has not been told.
            trial.store.flush().unwrap();
            trial.sim().crash();
            return trial;
        }
    }
    assert_stop(trial.store.wait_durable(ticket));
    trial
}

fn after_power_loss(at: At) -> BTreeSet<u8> {
    let mut answers = BTreeSet::new();
    for seed in SEEDS {
        let trial = ended(at, seed);
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(seed)] {
            answers.insert(reopened(&trial.sim().after_crash(survival)));
        }
    }
    answers
}

fn after_kill(at: At) -> BTreeSet<u8> {
    SEEDS.map(|seed| reopened(&ended(at, seed).sim().after_kill())).collect()
}

#[test]
fn power_loss_before_the_write() {
    assert_eq!(after_power_loss(At::BeforeTheWrite), [OLD].into());
}

#[test]
fn power_loss_during_the_write() {
    assert_undecided(&after_power_loss(At::DuringTheWrite));
}

#[test]
fn power_loss_after_the_write() {
    assert_undecided(&after_power_loss(At::AfterTheWrite));
}

#[test]
fn power_loss_after_the_sync() {
    assert_eq!(after_power_loss(At::AfterTheSync), [NEW].into());
}

#[test]
fn kill_before_the_write() {
    assert_eq!(after_kill(At::BeforeTheWrite), [OLD].into());
}

#[test]
fn kill_during_the_write() {
    assert_undecided(&after_kill(At::DuringTheWrite));
}

/// The page cache has the whole batch: recovery makes it durable before it shows it.
#[test]
fn kill_after_the_write() {
    assert_eq!(after_kill(At::AfterTheWrite), [NEW].into());
}

#[test]
fn kill_after_the_sync() {
    assert_eq!(after_kill(At::AfterTheSync), [NEW].into());
}
