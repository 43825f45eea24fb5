//! Rows of transactions over several facets.

use super::*;

/// The facets of the transaction: `a` of the trial, and two more.
const FACETS: [&str; 3] = ["a", "b", "c/d"];

fn trial_of_three(seed: u64) -> (Trial, Vec<Arc<Facet>>) {
    let trial = Trial::new(seed);
    let facets = FACETS.map(|facet| trial.store.open_or_create_facet(&name(facet)).unwrap());
    for facet in &facets[1..] {
        commit(facet, OLD).unwrap();
    }
    trial.store.flush().unwrap();
    (trial, facets.to_vec())
}

fn commit_all(trial: &Trial, facets: &[Arc<Facet>]) -> Result<Ticket, Error> {
    let mut writers: Vec<Writer> = facets.iter().map(|facet| stage(facet, NEW).unwrap()).collect();
    trial.store.commit_together(&mut writers.iter_mut().collect::<Vec<_>>(), 0)
}

/// What the facets are when the store is opened again, which is the same of all.
fn all_reopened(disk: &SimDisk) -> u8 {
    let found = reopened(disk);
    let store = open(&disk.after_kill());
    for facet in FACETS {
        let facet = store.open_facet(&name(facet)).unwrap();
        assert_eq!(shown(&facet, View::Durable), found, "{}", facet.name());
    }
    found
}

fn all_after_reopening(trial: &Trial) -> BTreeSet<u8> {
    let survivals = [Survival::Nothing, Survival::Everything, Survival::Random(trial.seed)];
    let mut disks: Vec<SimDisk> =
        survivals.into_iter().map(|survival| trial.sim().after_crash(survival)).collect();
    disks.push(trial.sim().after_kill());
    disks.iter().map(all_reopened).collect()
}

#[test]
fn group_is_one_record() {
    let (trial, facets) = trial_of_three(1);
    let before = trial.store.current_ticket();
    let ticket = commit_all(&trial, &facets).unwrap();
    assert_eq!(ticket.lsn(), before.lsn().next());
    for facet in &facets {
        assert_eq!((shown(facet, View::Latest), shown(facet, View::Durable)), (NEW, OLD));
        assert_eq!(facet.latest_ticket(), ticket);
    }
    assert_eq!(all_after_reopening(&trial), [OLD].into());
    trial.store.wait_durable(ticket).unwrap();
    for facet in &facets {
        assert_eq!(shown(facet, View::Durable), NEW);
    }
    assert_eq!(all_after_reopening(&trial), [NEW].into());
}

#[test]
fn group_and_power_loss() {
    let mut answers = BTreeSet::new();
    for seed in SEEDS {
        for after in 0..3 {
            let (trial, facets) = trial_of_three(seed);
            trial.sim().crash_at(trial.sim().operations() + after);
            let ticket = commit_all(&trial, &facets);
            let is_durable = ticket.and_then(|ticket| trial.store.wait_durable(ticket)).is_ok();
            let found = all_after_reopening(&trial);
            assert!(!is_durable || found == [NEW].into(), "it was acknowledged");
            answers.extend(found);
        }
    }
    assert_undecided(&answers);
}

#[test]
fn group_write_or_sync_fails() {
    // The write, then the sync.
    for after in [0, 1] {
        let (trial, facets) = trial_of_three(1);
        let ticket = commit_all(&trial, &facets).unwrap();
        trial.fail(after, Fault::Io);
        assert_stop(trial.store.wait_durable(ticket));
        trial.assert_stopped(ticket);
        // Whatever reopening decides, it decides for all.
        all_after_reopening(&trial);
    }
}

#[test]
fn group_refused_for_one() {
    for refusing in FACETS {
        let (trial, facets) = trial_of_three(1);
        trial.store.set_quota(&name(refusing), Some(1)).unwrap();
        trial.store.flush().unwrap();
        for facet in &facets {
            // Grows, and so is refused where there is a quota.
            let mut writer = facet.begin_write_latest().unwrap();
            writer.set_page_count(PAGES - 1).unwrap();
            writer.commit(0).unwrap();
        }
        trial.store.flush().unwrap();
        let before = trial.store.current_ticket();
        let error = commit_all(&trial, &facets).unwrap_err();
        assert!(matches!(&error, Error::QuotaExceeded { name, .. } if name == refusing), "{error}");
        assert_eq!(trial.store.current_ticket(), before, "nothing was appended");
        for facet in &facets {
            assert!(!facet.has_writer());
            assert_eq!(facet.snapshot(View::Latest).unwrap().page_count(), PAGES - 1);
            let quota = trial.store.quota(&name(refusing)).unwrap();
            assert_eq!(quota.used_bytes, (u64::from(PAGES) - 1) * PAGE as u64);
        }
        trial.store.set_quota(&name(refusing), None).unwrap();
        commit_all(&trial, &facets).unwrap();
        trial.store.flush().unwrap();
        assert_eq!(all_after_reopening(&trial), [NEW].into());
    }
}

#[test]
fn group_with_a_deleted_facet() {
    let (trial, facets) = trial_of_three(1);
    let mut writers: Vec<Writer> = facets.iter().map(|facet| stage(facet, NEW).unwrap()).collect();
    trial.store.delete_facet(&name("b")).unwrap();
    let before = trial.store.current_ticket();
    let error = trial.store.commit_together(&mut writers.iter_mut().collect::<Vec<_>>(), 0);
    assert!(matches!(error.unwrap_err(), Error::FacetDeleted { .. }));
    assert_eq!(trial.store.current_ticket(), before, "nothing was appended");
    assert_eq!(shown(&facets[0], View::Latest), OLD);
}

#[test]
fn group_over_two_stores() {
    let (trial, facets) = trial_of_three(1);
    let other = Trial::new(2);
    let before = (trial.store.current_ticket(), other.store.current_ticket());
    let mut writers = [stage(&facets[0], NEW).unwrap(), stage(&other.facet, NEW).unwrap()];
    let error = trial.store.commit_together(&mut writers.iter_mut().collect::<Vec<_>>(), 0);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(writers.iter().all(|writer| !writer.is_dirty()));
    assert_eq!((trial.store.current_ticket(), other.store.current_ticket()), before);
}
