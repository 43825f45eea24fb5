//! Rows of transactions that are refused, after which the store goes on.

use lapidary_engine::FileName;
use lapidary_tests::hooks::Moment;
use lapidary_tests::sim_disk::OperationKind;

use super::*;

#[test]
fn no_space_when_admitted() {
    let trial = Trial::new(1);
    assert_no_space(&fill(&trial));
    let before = trial.store.current_ticket();
    let written = |disk: &SimDisk| {
        let grown = |operation: &&lapidary_tests::sim_disk::Operation| {
            operation.kind == OperationKind::Write && !operation.takes_space
        };
        disk.trace().iter().filter(grown).count()
    };
    let writes = written(trial.sim());
    assert_no_space(&commit(&trial.facet, NEW).unwrap_err());
    assert_eq!(written(trial.sim()), writes, "nothing was written to the log");
    trial.assert_refused_and_going(before);
}

#[test]
fn no_space_in_a_spill() {
    let trial = Trial::with(1, spilling());
    assert_no_space(&fill(&trial));
    let before = trial.store.current_ticket();
    let mut writer = trial.facet.begin_write_latest().unwrap();
    let error = (1..=PAGES)
        .find_map(|page| writer.write_page(PageNo(page), &[NEW; PAGE]).err())
        .expect("there is no room for what is spilled");
    assert_no_space(&error);
    // What was staged is not whole, so it cannot be committed by mistake.
    assert_eq!(
        writer.write_page(PageNo(1), &[9; PAGE]).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(writer.commit(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    drop(writer);
    trial.assert_refused_and_going(before);
}

/// A segment that is made for the commit cannot be made.
#[test]
fn io_error_when_a_segment_is_made() {
    let trial = Trial::new(1);
    let filler = trial.store.create_facet(&name("filler")).unwrap();
    let error = (0..200).find_map(|byte| {
        trial.disk.before(Moment::Create, |hooked| {
            hooked.disk.fail_at(hooked.disk.operations(), Fault::Io);
        });
        match commit(&filler, byte) {
            Ok(ticket) => trial.store.wait_durable(ticket).map(|()| None).unwrap(),
            Err(error) => Some(error),
        }
    });
    let error = error.expect("sooner or later a segment is made");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Io);
    trial.assert_refused_and_going(trial.store.current_ticket());
}

#[test]
fn quota_exceeded() {
    let trial = Trial::new(1);
    let limit = u64::from(PAGES) * PAGE as u64;
    trial.store.set_quota(&name("a"), Some(limit)).unwrap();
    trial.store.flush().unwrap();
    let before = trial.store.current_ticket();
    let mut writer = stage(&trial.facet, NEW).unwrap();
    writer.write_page(PageNo(PAGES + 1), &[NEW; PAGE]).unwrap();
    let error = writer.commit(0).unwrap_err();
    assert!(matches!(error, Error::QuotaExceeded { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    drop(writer);
    trial.assert_refused_and_going(before);
    assert_eq!(trial.store.quota(&name("a")).unwrap().used_bytes, limit);
}

#[test]
fn facet_deleted_under_the_writer() {
    let trial = Trial::new(1);
    let mut writer = stage(&trial.facet, NEW).unwrap();
    let deleted = trial.store.delete_facet(&name("a")).unwrap();
    let error = writer.commit(0).unwrap_err();
    assert!(matches!(error, Error::FacetDeleted { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(trial.store.current_ticket(), deleted, "nothing was appended");
    // The deletion is not durable yet, and the transaction never is.
    assert_eq!(trial.after_reopening(), [OLD].into());
    trial.store.wait_durable(deleted).unwrap();
    assert!(!open(&trial.sim().after_kill()).facet_exists(&name("a")));
}

/// A commit is durable in the order of the log, and so is the deletion that follows it: both or the
/// commit alone, never the deletion alone.
#[test]
fn facet_deleted_after_the_commit() {
    let trial = Trial::new(1);
    let committed = commit(&trial.facet, NEW).unwrap();
    let deleted = trial.store.delete_facet(&name("a")).unwrap();
    assert!(committed < deleted);
    assert_eq!(trial.after_reopening(), [OLD].into());
    trial.store.wait_durable(committed).unwrap();
    let after = trial.sim().after_crash(Survival::Nothing);
    assert!(!open(&after).facet_exists(&name("a")), "they shared a flush");
}

#[test]
fn writer_busy() {
    let trial = Trial::new(1);
    let mut writer = stage(&trial.facet, NEW).unwrap();
    let error = trial.facet.begin_write_latest().unwrap_err();
    assert!(matches!(error, Error::WriterBusy { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Busy);
    writer.discard();
    drop(writer);
    trial.assert_refused_and_going(trial.store.current_ticket());
}

#[test]
fn stale_snapshot() {
    let trial = Trial::new(1);
    let old = trial.facet.snapshot(View::Latest).unwrap();
    commit(&trial.facet, 7).unwrap();
    let error = trial.facet.begin_write(&old).unwrap_err();
    assert!(matches!(error, Error::StaleSnapshot { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Busy);
    // A snapshot of what is durable is stale as long as a newer version waits for its flush.
    let durable = trial.facet.snapshot(View::Durable).unwrap();
    assert_eq!(trial.facet.begin_write(&durable).unwrap_err().kind(), ErrorKind::Busy);
    trial.store.flush().unwrap();
    let durable = trial.facet.snapshot(View::Durable).unwrap();
    trial.facet.begin_write(&durable).unwrap();
    assert_eq!(trial.after_reopening(), [7].into());
}

/// Takes a little more than 1 GiB of memory for a moment: what no segment could hold.
#[test]
fn too_large_for_a_segment() {
    const LARGE: usize = 64 << 10;
    let tunables = Tunables { spill_bytes: usize::MAX, ..Tunables::default() };
    let trial = Trial::with(1, StoreOptions { tunables, ..options() });
    let large = trial.store.create_facet(&name("large")).unwrap();
    trial.store.flush().unwrap();
    let (before, used) = (trial.store.current_ticket(), trial.sim().used_bytes());
    let mut writer = large.begin_write_latest().unwrap();
    writer.set_page_size(PageSize::from_bytes(LARGE).unwrap()).unwrap();
    for page in 1..=(1 << 30) / LARGE as u32 {
        writer.write_page(PageNo(page), &[NEW; LARGE]).unwrap();
    }
    let error = writer.commit(0).unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)), "{error}");
    assert!(error.to_string().contains("use smaller transactions"), "{error}");
    assert!(!writer.is_dirty(), "what was staged is discarded");
    drop(writer);
    assert_eq!(large.snapshot(View::Latest).unwrap().page_count(), 0);
    assert_eq!(trial.sim().used_bytes(), used);
    trial.assert_refused_and_going(before);
}

#[test]
fn damaged_page_read_in_the_transaction() {
    let trial = Trial::new(1);
    let mut writer = trial.facet.begin_write_latest().unwrap();
    writer.write_page(PageNo(3), &[77; PAGE]).unwrap();
    let ticket = writer.commit(0).unwrap();
    trial.store.wait_durable(ticket).unwrap();
    // Until then its image is in memory, for the delta that may come next.
    trial.store.checkpoint().unwrap();
    let mut found = 0;
    for file in trial.sim().files().into_iter().filter(|file| *file != FileName::Superblock) {
        trial.sim().change(file, |bytes| {
            if let Some(at) = bytes.windows(PAGE).position(|window| window == [77; PAGE]) {
                bytes[at + 5] ^= 1;
                found += 1;
            }
        });
    }
    assert_eq!(found, 1, "the page is in one place");
    // The writer that has just committed has the page in memory still.
    drop(writer);
    let mut writer = trial.facet.begin_write_latest().unwrap();

    let mut page = [0; PAGE];
    writer.write_page(PageNo(1), &[9; PAGE]).unwrap();
    let error = writer.read_page(PageNo(3), &mut page).unwrap_err();
    assert!(matches!(error, Error::PageCorrupt { page: PageNo(3), .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corruption);
    // Nothing of the store depends on that page: whether to go on is the caller's choice. Whoever
    // gives up has changed nothing.
    writer.discard();
    writer.read_page(PageNo(1), &mut page).unwrap();
    assert_eq!(page, [OLD; PAGE]);
    drop(writer);
    // Whoever goes on commits what was staged, and no more; written anew, the page is good again.
    let ticket = commit(&trial.facet, NEW).unwrap();
    trial.store.wait_durable(ticket).unwrap();
    assert_eq!(shown(&trial.facet, View::Durable), NEW);
}
