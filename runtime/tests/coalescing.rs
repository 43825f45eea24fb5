//! Calls of one facet that share a commit.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use common::{config, disk, host_on};
use lapidary::{
    COALESCED_CALLS_MAX, Call, FacetHandle, Host, HostConfig, HostError, HostErrorKind, Isolation,
    Schema, Transaction,
};
use lapidary_engine::MemoryIo;

/// A host of one core that runs another facet's call until the sender is used or dropped, so that what is
/// called meanwhile waits together.
struct Held {
    host: Host,
    facet: FacetHandle,
    go: Sender<()>,
    commits: u64,
}

fn held(config: HostConfig) -> Held {
    held_on(host_on(&MemoryIo::new(), config), |_| {})
}

fn held_on(host: Host, prepare: impl FnOnce(&Host)) -> Held {
    let facet = host.facet("a").unwrap().coalesced(true);
    facet.execute("CREATE TABLE t(n INTEGER UNIQUE)", ()).wait().unwrap();
    prepare(&host);
    let (go, wait) = channel::<()>();
    let (began, has_begun) = channel();
    drop(host.facet("other").unwrap().run(move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    }));
    has_begun.recv().unwrap();
    let commits = host.meter("a").unwrap().commits;
    Held { host, facet, go, commits }
}

impl Held {
    fn insert(&self, n: i64) -> Call<usize> {
        self.facet.execute("INSERT INTO t VALUES (?1)", [n])
    }

    /// A transaction that inserts `n` and goes on with `body`.
    fn with<F>(&self, n: i64, body: F) -> Call<()>
    where
        F: FnOnce(&Transaction<'_>) -> lapidary::Result<()> + Send + 'static,
    {
        self.facet.transaction(move |tx| {
            tx.execute("INSERT INTO t VALUES (?1)", [n])?;
            body(tx)
        })
    }

    /// Commits of the facet since it was held.
    fn commits(&self) -> u64 {
        self.host.meter("a").unwrap().commits - self.commits
    }

    fn numbers(&self) -> Vec<i64> {
        self.facet
            .coalesced(false)
            .query("SELECT n FROM t ORDER BY n", (), |row| row.get(0))
            .wait()
            .unwrap()
    }
}

#[test]
fn calls_that_wait_together_share_one_commit() {
    let held = held(config(1));
    let calls: Vec<_> = (0..50).map(|n| held.insert(n)).collect();
    let sum = held.facet.query("SELECT sum(n) FROM t", (), |row| row.get::<_, i64>(0));
    let once = held.facet.once("key", |tx| {
        tx.execute("INSERT INTO t VALUES (100)", ())?;
        Ok(b"reply".to_vec())
    });
    let put = held.facet.kv().put("key", "value");
    held.go.send(()).unwrap();
    for call in calls {
        assert_eq!(call.wait().unwrap(), 1);
    }
    assert_eq!(sum.wait().unwrap(), [(0..50).sum::<i64>()], "it sees those before it");
    assert_eq!(once.wait().unwrap(), b"reply");
    put.wait().unwrap();
    assert_eq!(held.commits(), 1);
    assert_eq!(held.numbers(), (0..50).chain([100]).collect::<Vec<_>>());
    let meter = held.host.meter("a").unwrap();
    assert_eq!(meter.rows_written, 51 + 2, "each row of t, and two of the host's own");
}

#[test]
fn without_it_each_has_its_own() {
    let held = held(config(1));
    let facet = held.facet.coalesced(false);
    let calls: Vec<_> = (0..5).map(|n| facet.execute("INSERT INTO t VALUES (?1)", [n])).collect();
    held.go.send(()).unwrap();
    for call in calls {
        call.wait().unwrap();
    }
    assert_eq!(held.commits(), 5);
}

#[test]
fn the_host_can_say_so_for_all_and_a_turn_has_an_end() {
    let held = held(config(1).coalesce_writes(true));
    let facet = held.host.facet("a").unwrap();
    let many = i64::try_from(COALESCED_CALLS_MAX).unwrap() + 1;
    let calls: Vec<_> =
        (0..many).map(|n| facet.execute("INSERT INTO t VALUES (?1)", [n])).collect();
    let neighbour = held.host.facet("b").unwrap().execute("CREATE TABLE t(n)", ());
    held.go.send(()).unwrap();
    for call in calls {
        call.wait().unwrap();
    }
    neighbour.wait().unwrap();
    assert_eq!(held.commits(), 2);
}

#[test]
fn what_cannot_share_comes_between() {
    let held = held(config(1));
    let first = [held.insert(0), held.insert(1)];
    let run = held.facet.run(|connection| {
        assert!(connection.is_autocommit());
        connection.execute("INSERT INTO t VALUES (2)", ())?;
        Ok(())
    });
    let last = [held.insert(3), held.insert(4)];
    held.go.send(()).unwrap();
    for call in first.into_iter().chain(last) {
        call.wait().unwrap();
    }
    run.wait().unwrap();
    assert_eq!(held.commits(), 3);
    assert_eq!(held.numbers(), [0, 1, 2, 3, 4]);
}

#[test]
fn one_that_fails_is_rolled_back_alone() {
    let held = held(config(1));
    let first = held.insert(0);
    let twice = held.insert(0);
    let given_up = held.with(1, |tx| {
        tx.savepoint(|tx| Ok(tx.execute("INSERT INTO t VALUES (2)", ())?))?;
        Err(HostError::abort("why"))
    });
    let panics = held.with(3, |tx| {
        tx.savepoint::<()>(|tx| {
            tx.execute("INSERT INTO t VALUES (4)", ())?;
            // With a statement half-way, and two savepoints open.
            let mut statement = tx.prepare("SELECT n FROM t")?;
            let mut rows = statement.query(())?;
            rows.next()?;
            std::mem::forget(rows);
            std::mem::forget(statement);
            panic!("why")
        })
    });
    let last = held.insert(5);
    held.go.send(()).unwrap();
    first.wait().unwrap();
    assert_eq!(twice.wait().unwrap_err().kind(), HostErrorKind::Statement);
    assert!(matches!(given_up.wait().unwrap_err(), HostError::Aborted { .. }));
    assert!(matches!(panics.wait().unwrap_err(), HostError::Panicked { .. }));
    last.wait().unwrap();
    assert_eq!(held.commits(), 1);
    assert_eq!(held.numbers(), [0, 5]);
    assert_eq!(held.host.stat().wait().unwrap().cores[0].panics, 1);
}

#[test]
fn the_first_may_fail_too() {
    let held = held(config(1));
    let failing = held.with(1, |_| Err(HostError::abort("why")));
    let panics = held.with(2, |_| panic!("why"));
    let calls = [held.insert(3), held.insert(4)];
    held.go.send(()).unwrap();
    assert!(failing.wait().is_err() && panics.wait().is_err());
    for call in calls {
        call.wait().unwrap();
    }
    assert_eq!((held.commits(), held.numbers()), (1, vec![3, 4]));
}

#[test]
fn if_the_commit_fails_all_fail() {
    let held = held_on(host_on(&MemoryIo::new(), config(1)), |host| {
        host.set_quota("a", Some(100_000)).wait().unwrap();
    });
    let first = held.insert(0);
    let failing = held.insert(0);
    let large = held.with(1, |tx| {
        tx.execute_batch("CREATE TABLE large(b); INSERT INTO large VALUES (zeroblob(200000))")?;
        Ok(())
    });
    let last = held.insert(2);
    held.go.send(()).unwrap();
    for error in [first.wait().unwrap_err(), large.wait().unwrap_err(), last.wait().unwrap_err()] {
        assert!(matches!(error, HostError::SharedCommit { .. }), "{error}");
        assert_eq!(error.kind(), HostErrorKind::NoSpace);
        assert!(error.to_string().contains("facet a"), "{error}");
    }
    assert_eq!(failing.wait().unwrap_err().kind(), HostErrorKind::Statement, "its own");
    assert!(held.numbers().is_empty());
    held.insert(3).wait().unwrap();
    assert_eq!(held.numbers(), [3]);
}

#[test]
fn a_deferred_constraint_fails_all() {
    let held = held_on(host_on(&MemoryIo::new(), config(1)), |host| {
        // This build of SQLite enforces foreign keys from the start.
        let sql = "CREATE TABLE child(n REFERENCES t(n) DEFERRABLE INITIALLY DEFERRED)";
        host.facet("a").unwrap().execute(sql, ()).wait().unwrap();
    });
    let first = held.insert(2);
    let orphan = held.with(3, |tx| {
        tx.execute("INSERT INTO child VALUES (98)", ())?;
        Ok(())
    });
    held.go.send(()).unwrap();
    for error in [first.wait().unwrap_err(), orphan.wait().unwrap_err()] {
        assert_eq!(error.kind(), HostErrorKind::Statement, "{error}");
    }
    assert!(held.numbers().is_empty());
}

#[test]
fn an_abort_reaches_all_that_were_not_answered() {
    let held = held(config(1));
    let first = held.insert(0);
    let (began, has_begun) = channel();
    let (go, wait) = channel::<()>();
    let running = held.with(1, move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    });
    let waiting = held.insert(2);
    held.go.send(()).unwrap();
    has_begun.recv().unwrap();
    let aborted = held.host.abort("a", "enough");
    let again = held.insert(3);
    go.send(()).unwrap();
    for outcome in [first.wait().map(drop), running.wait(), waiting.wait().map(drop)] {
        let error = outcome.unwrap_err();
        assert!(
            matches!(&error, HostError::FacetAborted { reason, .. } if reason == "enough"),
            "{error}"
        );
    }
    aborted.wait().unwrap();
    again.wait().unwrap();
    assert_eq!(held.numbers(), [3]);
}

#[test]
fn an_interrupted_write_takes_those_before_it_along() {
    let policy = Isolation::trusted().call_steps_max(Some(100_000));
    let held = held(config(1).isolation(policy));
    let first = held.insert(0);
    let endless = held.with(1, |tx| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT i FROM n";
        let _ = tx.execute(sql, ());
        Ok(())
    });
    let last = held.insert(2);
    held.go.send(()).unwrap();
    let error = first.wait().unwrap_err();
    assert!(matches!(error, HostError::SharedTransactionLost { .. }), "{error}");
    assert_eq!(error.kind(), HostErrorKind::Retry);
    assert_eq!(endless.wait().unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    last.wait().unwrap();
    assert_eq!(held.numbers(), [2]);
}

#[test]
fn an_interrupted_read_fails_alone_whatever_its_closure_makes_of_it() {
    let policy = Isolation::trusted().call_steps_max(Some(100_000));
    let held = held(config(1).isolation(policy));
    let first = held.insert(0);
    let endless = held.with(1, |tx| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let _ = tx.query_row(sql, (), |_| Ok(()));
        Ok(())
    });
    held.go.send(()).unwrap();
    first.wait().unwrap();
    assert_eq!(endless.wait().unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    assert_eq!(held.numbers(), [0]);
    assert_eq!(held.commits(), 1);
}

#[test]
fn sql_that_ends_the_transaction_never_has_a_lost_write_acknowledged() {
    for sql in [
        "COMMIT",
        "ROLLBACK",
        "ROLLBACK; BEGIN",
        "ROLLBACK; BEGIN; SAVEPOINT lapidary; SAVEPOINT call_0",
        "COMMIT; BEGIN; INSERT INTO t VALUES (77)",
        "INSERT OR ROLLBACK INTO t VALUES (0)",
    ] {
        let held = held(config(1));
        let first = held.insert(0);
        let ending = held.with(1, move |tx| {
            // Statement by statement, whatever becomes of each.
            for part in sql.split(';') {
                let _ = tx.execute_batch(part);
            }
            Ok(())
        });
        let last = held.insert(2);
        held.go.send(()).unwrap();
        let error = first.wait().unwrap_err();
        assert!(matches!(error, HostError::SharedTransactionLost { .. }), "{sql}: {error}");
        assert!(ending.wait().is_err(), "{sql}");
        last.wait().unwrap();
        assert_eq!(held.numbers(), [2], "{sql}");
    }
}

#[test]
fn a_facet_that_deletes_itself_has_the_others_committed_first() {
    let held = held(config(1));
    let first = held.insert(0);
    let deletes = held.facet.transaction(|tx| {
        tx.delete_facet();
        Ok(tx.query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))?)
    });
    let last = held.facet.execute("CREATE TABLE u(n)", ());
    let row = held.insert(1);
    held.go.send(()).unwrap();
    first.wait().unwrap();
    assert_eq!(deletes.wait().unwrap(), 1);
    last.wait().unwrap();
    assert!(row.wait().unwrap_err().to_string().contains("no such table"));
}

#[test]
fn steps_of_a_schema_have_their_own_commit() {
    let held = held(config(1));
    let first = [held.insert(0), held.insert(1)];
    let schema = Schema::new().sql("CREATE TABLE u(n)");
    let with_schema = held.facet.with_schema(&schema);
    let call = with_schema.execute("INSERT INTO u SELECT n FROM t", ());
    let last = with_schema.execute("INSERT INTO u VALUES (9)", ());
    held.go.send(()).unwrap();
    for outcome in first {
        outcome.wait().unwrap();
    }
    assert_eq!(call.wait().unwrap(), 2);
    assert_eq!(last.wait().unwrap(), 1);
}

#[test]
fn replies_wait_for_the_disk_unless_unconfirmed() {
    let (environment, switch) = disk(&MemoryIo::new());
    let held = held_on(Host::open_in(environment, config(1)).unwrap(), |_| {});
    let _release = switch.release_at_end();
    switch.hold();
    let mut first = held.insert(0);
    let fast = held.facet.unconfirmed().execute("INSERT INTO t VALUES (1)", ());
    let mut failing = held.insert(0);
    held.go.send(()).unwrap();
    fast.wait().unwrap();
    switch.await_sync();
    assert!(first.try_wait().is_none() && failing.try_wait().is_none());
    switch.release();
    first.wait().unwrap();
    assert_eq!(failing.wait().unwrap_err().kind(), HostErrorKind::Statement);
}

#[test]
fn a_policy_that_changes_between_two_calls_loses_none_that_is_acknowledged() {
    let held = held(config(1));
    let (began, has_begun) = channel();
    let (go, wait) = channel::<()>();
    let first = held.with(0, move |_| {
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    });
    let second = held.insert(1);
    held.go.send(()).unwrap();
    has_begun.recv().unwrap();
    let policy = Isolation::tenant().call_time_max(Some(Duration::from_secs(60)));
    held.host.set_isolation("a", Some(policy)).unwrap();
    go.send(()).unwrap();
    let outcomes = [first.wait().map(drop), second.wait().map(drop)];
    let there: Vec<i64> =
        (0..).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).map(|(n, _)| n).collect();
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), HostErrorKind::Retry, "{error}");
    }
    assert_eq!(held.numbers(), there);
}
