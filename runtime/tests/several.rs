//! One transaction over several facets: all of it, or nothing.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::mpsc::channel;

use common::{config, disk, host_on};
use lapidary::{Host, HostError, HostErrorKind, Isolation, Result, Transaction};
use lapidary_engine::MemoryIo;

const ACCOUNTS: [&str; 3] = ["bank/0", "bank/1", "bank/2"];

fn prepare(host: &Host) {
    for name in ACCOUNTS {
        let sql =
            "CREATE TABLE account(balance CHECK (balance >= 0)); INSERT INTO account VALUES (100)";
        host.facet(name).unwrap().execute_batch(sql).wait().unwrap();
    }
}

fn bank() -> Host {
    let host = host_on(&MemoryIo::new(), config(2));
    prepare(&host);
    host
}

fn balances(host: &Host) -> Vec<i64> {
    let balance = |name| {
        let sql = "SELECT sum(balance) FROM account";
        host.facet(name).unwrap().query(sql, (), |row| row.get::<_, i64>(0)).wait().unwrap()[0]
    };
    ACCOUNTS.into_iter().map(balance).collect()
}

fn pay(accounts: &[Transaction<'_>], from: usize, to: usize, amount: i64) -> Result<()> {
    accounts[to].execute("UPDATE account SET balance = balance + ?1", [amount])?;
    accounts[from].execute("UPDATE account SET balance = balance - ?1", [amount])?;
    Ok(())
}

#[test]
fn all_are_committed_by_one_record() {
    let host = bank();
    let before = host.store().current_ticket().lsn().0;
    host.transaction_over(ACCOUNTS, |accounts| {
        pay(accounts, 0, 1, 10)?;
        pay(accounts, 0, 2, 20)
    })
    .wait()
    .unwrap();
    assert_eq!(host.store().current_ticket().lsn().0, before + 1);
    assert_eq!(balances(&host), [70, 110, 120]);
    // And again, on the same connections; one takes no part.
    let opened = |host: &Host| -> u64 {
        host.stat().wait().unwrap().cores.iter().map(|core| core.opened_facets).sum()
    };
    let connections = opened(&host);
    host.transaction_over(ACCOUNTS, |accounts| pay(accounts, 1, 2, 5)).wait().unwrap();
    assert_eq!(balances(&host), [70, 105, 125]);
    assert_eq!(opened(&host), connections);
    let meter = host.meter("bank/0").unwrap();
    assert_eq!(meter.rows_written, 1 + 2);
}

#[test]
fn one_that_fails_takes_all_back() {
    let host = bank();
    let refused = host.transaction_over(ACCOUNTS, |accounts| pay(accounts, 0, 1, 500));
    let error = refused.wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Statement, "{error}");
    let given_up = host.transaction_over(ACCOUNTS, |accounts| {
        pay(accounts, 0, 1, 50)?;
        Err::<(), _>(HostError::abort("why"))
    });
    assert_eq!(given_up.wait().unwrap_err().kind(), HostErrorKind::Aborted);
    let panics = host.transaction_over(ACCOUNTS, |accounts| {
        pay(accounts, 0, 1, 50)?;
        if accounts.len() == 3 {
            panic!("why")
        }
        Ok(())
    });
    assert!(matches!(panics.wait().unwrap_err(), HostError::Panicked { .. }));
    assert_eq!(balances(&host), [100, 100, 100]);
}

#[test]
fn a_commit_that_one_facet_cannot_make_is_made_by_none() {
    let host = bank();
    host.set_quota("bank/2", Some(50_000)).wait().unwrap();
    let large = |accounts: &[Transaction<'_>]| {
        pay(accounts, 0, 1, 50)?;
        accounts[2]
            .execute_batch("CREATE TABLE large(b); INSERT INTO large VALUES (zeroblob(90000))")?;
        Ok(())
    };
    let error = host.transaction_over(ACCOUNTS, large).wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("bank/2"), "{error}");
    assert_eq!(balances(&host), [100, 100, 100]);

    // A constraint that the second COMMIT finds, when the first facet has had its own.
    let sql = "CREATE TABLE parent(n PRIMARY KEY);
               CREATE TABLE child(n REFERENCES parent(n) DEFERRABLE INITIALLY DEFERRED)";
    host.facet("bank/1").unwrap().execute_batch(sql).wait().unwrap();
    let orphan = host.transaction_over(ACCOUNTS, |accounts| {
        pay(accounts, 0, 1, 50)?;
        accounts[1].execute("INSERT INTO child VALUES (1)", ())?;
        Ok(())
    });
    let error = orphan.wait().unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Statement, "{error}");
    assert!(error.to_string().contains("bank/1"), "{error}");
    assert_eq!(balances(&host), [100, 100, 100]);
    host.transaction_over(ACCOUNTS, |accounts| pay(accounts, 0, 1, 50)).wait().unwrap();
    assert_eq!(balances(&host), [50, 150, 100]);
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let host = bank();
    let over = |names: &[&str]| host.transaction_over(names, |_| Ok(())).wait().unwrap_err();
    for (names, words) in [
        (&["bank/0", "other/0"][..], "other/0"),
        (&["bank/0", "bank/1", "bank/0"], "twice"),
        (&["bank/0", "bank//1"], "bank//1"),
        (&[], "no facets"),
    ] {
        let error = over(names);
        assert_eq!(error.kind(), HostErrorKind::InvalidInput);
        assert!(error.to_string().contains(words), "{error}");
    }
    let deletes = host.transaction_over(["bank/0", "bank/1"], |accounts| {
        accounts[1].delete_facet();
        pay(accounts, 0, 1, 1)
    });
    let error = deletes.wait().unwrap_err();
    assert!(matches!(&error, HostError::NotTogether { facet, .. } if facet.as_str() == "bank/1"));
    assert_eq!(balances(&host), [100, 100, 100]);
}

#[test]
fn facets_are_created_and_a_facet_alone_will_do() {
    let host = bank();
    let create = |accounts: &[Transaction<'_>]| {
        for account in accounts {
            account.execute("CREATE TABLE t(n)", ())?;
        }
        Ok(accounts.len())
    };
    assert_eq!(host.transaction_over(["bank", "bank/new/1"], create).wait().unwrap(), 2);
    assert_eq!(host.transaction_over(["bank/3"], create).wait().unwrap(), 1);
    assert_eq!(host.list(Some("bank"), None, 10).wait().unwrap().len(), 6);
}

#[test]
fn it_has_its_place_among_the_calls_of_each_facet() {
    let host = host_on(&MemoryIo::new(), config(1));
    prepare(&host);
    let (go, wait) = channel::<()>();
    let busy = host.facet("other").unwrap().run(move |_| Ok(wait.recv().is_ok()));
    let add = |name: &str, amount: i64| {
        let sql = "UPDATE account SET balance = balance + ?1";
        host.facet(name).unwrap().execute(sql, [amount])
    };
    let sums = |accounts: &[Transaction<'_>]| {
        let sum = |account: &Transaction<'_>| {
            Ok(account.query_row("SELECT balance FROM account", (), |row| row.get::<_, i64>(0))?)
        };
        accounts.iter().map(sum).collect::<Result<Vec<_>>>()
    };
    let mut calls = vec![add("bank/0", 1), add("bank/0", 2), add("bank/0", 4), add("bank/1", 1)];
    let seen = host.transaction_over(["bank/0", "bank/1"], sums);
    calls.extend([add("bank/1", 8), add("bank/0", 8)]);
    let seen_later = host.transaction_over(["bank/1", "bank/0"], sums);
    go.send(()).unwrap();
    busy.wait().unwrap();
    assert_eq!(seen.wait().unwrap(), [107, 101]);
    assert_eq!(seen_later.wait().unwrap(), [109, 115]);
    for call in calls {
        call.wait().unwrap();
    }
}

#[test]
fn sql_cannot_commit_a_part() {
    let host = bank();
    for sql in
        ["COMMIT", "COMMIT; BEGIN", "ROLLBACK", "ROLLBACK; BEGIN", "PRAGMA locking_mode=NORMAL"]
    {
        let call = host.transaction_over(ACCOUNTS, move |accounts| {
            pay(accounts, 0, 1, 10)?;
            for part in sql.split(';') {
                let _ = accounts[0].execute_batch(part);
            }
            Ok(())
        });
        let outcome = call.wait();
        let expected = if outcome.is_ok() { [90, 110, 100] } else { [100, 100, 100] };
        assert_eq!(balances(&host), expected, "{sql}: {outcome:?}");
        if outcome.is_ok() {
            host.transaction_over(ACCOUNTS, |accounts| pay(accounts, 1, 0, 10)).wait().unwrap();
        }
    }
}

#[test]
fn an_abort_of_one_and_a_budget_end_it_for_all() {
    let host = bank();
    let (began, has_begun) = channel();
    let (go, wait) = channel::<()>();
    let running = host.transaction_over(ACCOUNTS, move |accounts| {
        pay(accounts, 0, 1, 10)?;
        began.send(()).unwrap();
        let _ = wait.recv();
        Ok(())
    });
    has_begun.recv().unwrap();
    let aborted = host.abort("bank/2", "enough");
    go.send(()).unwrap();
    let error = running.wait().unwrap_err();
    assert!(matches!(error, HostError::FacetAborted { .. }), "{error}");
    aborted.wait().unwrap();
    assert_eq!(balances(&host), [100, 100, 100]);

    host.set_isolation("bank/1", Some(Isolation::trusted().call_steps_max(Some(10_000)))).unwrap();
    let endless = host.transaction_over(ACCOUNTS, |accounts| {
        pay(accounts, 0, 2, 10)?;
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let _ = accounts[1].query_row(sql, (), |_| Ok(()));
        Ok(())
    });
    assert_eq!(endless.wait().unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    assert_eq!(balances(&host), [100, 100, 100]);
}

#[test]
fn the_reply_waits_for_the_disk_and_a_failed_one_is_told() {
    let memory = MemoryIo::new();
    let (environment, switch) = disk(&memory);
    let host = Host::open_in(environment, config(1)).unwrap();
    prepare(&host);
    let _release = switch.release_at_end();
    switch.hold();
    let mut call = host.transaction_over(ACCOUNTS, |accounts| pay(accounts, 0, 1, 10));
    switch.await_sync();
    assert!(call.try_wait().is_none());
    switch.fail();
    assert_eq!(call.wait().unwrap_err().kind(), HostErrorKind::Reopen);
    drop(host);
}
