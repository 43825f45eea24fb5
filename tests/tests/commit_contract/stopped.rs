//! Rows in which the store stops, or has stopped.

use lapidary_tests::hooks::Moment;
use lapidary_tests::sim_disk::OperationKind;

use super::*;

#[test]
fn io_error_in_a_spill() {
    for (after, moment) in [(0, "write"), (1, "sync")] {
        for seed in SEEDS {
            let trial = Trial::with(seed, spilling());
            let mut writer = trial.facet.begin_write_latest().unwrap();
            trial.fail(after, Fault::Io);
            let error = (1..=PAGES)
                .find_map(|page| writer.write_page(PageNo(page), &[NEW; PAGE]).err())
                .expect(moment);
            assert!(matches!(error, Error::Poisoned { .. }), "{error}");
            assert!(writer.commit(0).is_err());
            drop(writer);
            // There is no commit record, so there is nothing to be decided.
            assert_eq!(trial.after_reopening(), [OLD].into());
        }
    }
}

/// What happens to the transaction if the operation that is `after` operations on fails, and what
/// the store has after that.
fn with_io_error(after: u64, kind: OperationKind) -> BTreeSet<u8> {
    let mut answers = BTreeSet::new();
    for seed in SEEDS {
        let trial = Trial::new(seed);
        let ticket = commit(&trial.facet, NEW).unwrap();
        let at = trial.sim().operations() + after;
        trial.fail(after, Fault::Io);
        assert_stop(trial.store.wait_durable(ticket));
        assert_eq!(trial.sim().trace()[at as usize].kind, kind);
        answers.extend(trial.after_reopening());
        trial.assert_stopped(ticket);
        assert_eq!(trial.sim().trace().len() as u64, at + 1, "nothing is written any more");
    }
    answers
}

#[test]
fn io_error_on_the_log_write() {
    // A beginning of the batch was written, and sometimes all of it.
    let answers = with_io_error(0, OperationKind::Write);
    assert!(answers.is_subset(&[OLD, NEW].into()), "{answers:?}");
    assert!(answers.contains(&OLD));
}

#[test]
fn io_error_on_the_log_sync() {
    assert_undecided(&with_io_error(1, OperationKind::Sync));
}

/// The batch ends somewhere in the middle: recovery takes it for what it is.
#[test]
fn short_write() {
    let mut cut_short = BTreeSet::new();
    for seed in SEEDS {
        let whole = Trial::new(seed);
        let blank = whole.sim().after_kill();
        commit(&whole.facet, NEW).unwrap();
        whole.store.flush().unwrap();
        let trial = Trial::new(seed);
        let ticket = commit(&trial.facet, NEW).unwrap();
        trial.fail(0, Fault::Io);
        assert_stop(trial.store.wait_durable(ticket));
        let missing: usize = trial
            .sim()
            .files()
            .into_iter()
            .map(|file| differing(&trial.sim().contents(file), &whole.sim().contents(file)))
            .sum();
        if missing > 0 {
            assert_eq!(trial.after_reopening(), [OLD].into());
            let all = blank.files().into_iter();
            let all: usize =
                all.map(|file| differing(&blank.contents(file), &whole.sim().contents(file))).sum();
            cut_short.insert(all - missing);
        }
    }
    assert!(cut_short.len() > 5, "writes were cut short in several places: {cut_short:?}");
}

/// Bytes in which two files differ.
fn differing(one: &Option<Vec<u8>>, other: &Option<Vec<u8>>) -> usize {
    let (Some(one), Some(other)) = (one, other) else { return 0 };
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

#[test]
fn store_poisoned_earlier() {
    let trial = Trial::new(1);
    let durable = trial.facet.latest_ticket();
    let mut writer = stage(&trial.facet, NEW).unwrap();
    let ticket = {
        let other = trial.store.create_facet(&name("other")).unwrap();
        let ticket = commit(&other, 5).unwrap();
        trial.fail(1, Fault::Io);
        assert_stop(trial.store.wait_durable(ticket));
        ticket
    };
    assert_stop(writer.commit(0));
    drop(writer);
    trial.assert_stopped(ticket);
    // What was acknowledged stays so.
    assert!(trial.store.is_durable(durable).unwrap());
    trial.store.wait_durable(durable).unwrap();
    assert_eq!(trial.after_reopening(), [OLD].into());
}

#[test]
fn panic_in_a_flush() {
    let trial = Trial::new(1);
    let ticket = commit(&trial.facet, NEW).unwrap();
    trial.disk.before(Moment::SegmentSync, |_| panic!("on purpose"));
    let store = Arc::clone(&trial.store);
    let leader = std::thread::spawn(move || store.wait_durable(ticket).map_err(|e| e.kind()));
    leader.join().expect_err("the thread that led the flush has panicked");
    trial.assert_stopped(ticket);
    let answers = trial.after_reopening();
    assert!(answers.is_subset(&[OLD, NEW].into()), "{answers:?}");
}

#[test]
fn store_closed() {
    let trial = Trial::new(1);
    let mut writer = stage(&trial.facet, NEW).unwrap();
    trial.store.close().unwrap();
    let error = writer.commit(0).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(error.kind(), ErrorKind::Reopen);
    assert_eq!(trial.after_reopening(), [OLD].into());
    // What was committed before the store was closed is durable by then.
    let trial = Trial::new(2);
    let ticket = commit(&trial.facet, NEW).unwrap();
    trial.store.close().unwrap();
    trial.store.wait_durable(ticket).unwrap();
    assert_eq!(trial.after_reopening(), [NEW].into());
}

#[test]
fn store_dropped_before_the_flush() {
    let Trial { disk, store, facet, .. } = Trial::new(1);
    let ticket = commit(&facet, NEW).unwrap();
    assert!(!store.is_durable(ticket).unwrap());
    drop(store);
    let error = facet.snapshot(View::Durable).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(reopened(&disk.disk.after_kill()), OLD);
}
