//! What a reply of the host says.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lapidary::{Host, HostConfig, HostErrorKind};
use lapidary_engine::{Background, Environment, FileName, StoreOptions};
use lapidary_tests::driver::name;
use lapidary_tests::hooks::{HookedDisk, Moment};
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};

use crate::options;

fn host_on(disk: &HookedDisk) -> Host {
    let store = StoreOptions { background: Background::Threads, ..options() };
    let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false).store(store);
    Host::open_in(Environment::with_io(Arc::new(disk.clone())), config).unwrap()
}

fn host_with_a_row() -> (HookedDisk, Host) {
    let disk = HookedDisk::new(SimDisk::new(1));
    let host = host_on(&disk);
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n INTEGER PRIMARY KEY)", ()).wait().unwrap();
    facet.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    (disk, host)
}

fn rows(host: &Host) -> u32 {
    let facet = host.facet("a").unwrap();
    facet.read(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)).unwrap()
}

#[test]
fn host_replies_when_it_is_durable() {
    let (disk, host) = host_with_a_row();
    // A copy made the moment the reply is here has what the reply tells of.
    let copy = HookedDisk::new(disk.disk.after_crash(Survival::Nothing));
    assert_eq!(rows(&host_on(&copy)), 1);
    host.shutdown().unwrap();
}

#[test]
fn host_reply_to_a_failed_sync() {
    let (disk, host) = host_with_a_row();
    disk.before(Moment::SegmentSync, |hooked| {
        hooked.disk.fail_at(hooked.disk.operations(), Fault::Io);
    });
    let facet = host.facet("a").unwrap();
    let error = facet.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    assert!(error.to_string().contains("may be lost"), "{error}");
    let error = facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    assert!(host.shutdown().is_err());
    drop((facet, host));
    let host = host_on(&HookedDisk::new(disk.disk.after_kill()));
    assert!((1..=2).contains(&rows(&host)));
}

#[test]
fn host_reply_to_a_panic_in_the_engine() {
    let (disk, host) = host_with_a_row();
    disk.before(Moment::SegmentWrite, |_| panic!("on purpose"));
    let facet = host.facet("a").unwrap();
    let error = facet.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Reopen, "{error}");
    drop((facet, host));
    let host = host_on(&HookedDisk::new(disk.disk.after_kill()));
    assert_eq!(rows(&host), 1);
}

/// The closure's transaction is rolled back, and the facet goes on as far as it does not need that
/// page.
#[test]
fn host_reply_to_a_damaged_page() {
    let (disk, host) = host_with_a_row();
    let facet = host.facet("a").unwrap();
    facet.execute_batch("CREATE TABLE b(v)").wait().unwrap();
    facet.execute("INSERT INTO b VALUES (?1)", (vec![77_u8; 20_000],)).wait().unwrap();
    host.shutdown().unwrap();
    drop((facet, host));
    let mut found = 0;
    for file in disk.disk.files().into_iter().filter(|file| *file != FileName::Superblock) {
        disk.disk.change(file, |bytes| {
            if let Some(at) = bytes.windows(4000).position(|window| window == [77; 4000]) {
                bytes[at + 9] ^= 1;
                found += 1;
            }
        });
    }
    assert!(found > 0);
    let host = host_on(&disk);
    let facet = host.facet("a").unwrap();
    let body = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (2)", [])?;
        Ok(tx.query_row("SELECT v FROM b", [], |row| row.get::<_, Vec<u8>>(0))?)
    });
    let error = body.wait().unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert_eq!(error.kind(), HostErrorKind::Corruption, "{error}");
    assert_eq!(rows(&host), 1);
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
    assert_eq!(rows(&host), 2);
}

#[test]
fn host_reply_when_a_quota_is_exceeded() {
    let (disk, host) = host_with_a_row();
    let used = {
        host.shutdown().unwrap();
        drop(host);
        let store = crate::open(&disk.disk);
        store.set_quota(&name("a"), Some(u64::MAX)).unwrap();
        let used = store.quota(&name("a")).unwrap().used_bytes;
        store.set_quota(&name("a"), Some(used)).unwrap();
        store.close().unwrap();
        used
    };
    let host = host_on(&disk);
    let facet = host.facet("a").unwrap();
    let error = facet.execute_batch("CREATE TABLE more(n)").wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains(&format!("its quota of {used} bytes")), "{error}");
    facet.execute("INSERT INTO t VALUES (3)", ()).wait().unwrap();
    assert_eq!(rows(&host), 2);
}

/// The sums of two facets, between which a unit is moved.
fn sums(host: &Host) -> (i64, i64) {
    let sum = |facet: &str| {
        let facet = host.facet(facet).unwrap();
        facet.read(|c| Ok(c.query_row("SELECT sum(n) FROM t", [], |row| row.get(0))?)).unwrap()
    };
    (sum("bank/one"), sum("bank/other"))
}

#[test]
fn host_transaction_over_several_facets_is_there_whole_or_not_at_all() {
    let disk = HookedDisk::new(SimDisk::new(1));
    let host = host_on(&disk);
    for facet in ["bank/one", "bank/other"] {
        let facet = host.facet(facet).unwrap();
        facet.execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES (100)").wait().unwrap();
    }
    for round in 1..=12_u32 {
        // Power is lost before the batch is synced, and once more when the reply is here.
        let copies = Arc::<Mutex<Vec<SimDisk>>>::default();
        let copied = Arc::clone(&copies);
        disk.before(Moment::SegmentSync, move |hooked| {
            for survival in
                [Survival::Nothing, Survival::Everything, Survival::Random(round.into())]
            {
                copied.lock().unwrap().push(hooked.disk.after_crash(survival));
            }
        });
        let call = host.transaction_over(["bank/one", "bank/other"], |facets| {
            facets[0].execute("INSERT INTO t VALUES (-1)", ())?;
            facets[1].execute("INSERT INTO t VALUES (1)", ())?;
            Ok(())
        });
        call.wait().unwrap();
        let reply = disk.disk.after_crash(Survival::Nothing);
        let moved = i64::from(round);
        let copies = std::mem::take(&mut *copies.lock().unwrap());
        assert_eq!(copies.len(), 3);
        for copy in copies {
            let found = sums(&host_on(&HookedDisk::new(copy)));
            assert!(
                [(101 - moved, 99 + moved), (100 - moved, 100 + moved)].contains(&found),
                "{found:?}"
            );
        }
        assert_eq!(sums(&host_on(&HookedDisk::new(reply))), (100 - moved, 100 + moved));
    }
    host.shutdown().unwrap();
}
