//! Savepoints, requests that are answered once, values by key, and calls nobody waits for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{config, host, host_on};
use lapidary::{
    FacetHandle, Host, HostError, HostErrorKind, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, KvList,
    REQUESTS_REMEMBERED_MAX,
};
use lapidary_engine::MemoryIo;

fn prepared() -> (Host, FacetHandle) {
    let host = host(1);
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n INTEGER UNIQUE)", ()).wait().unwrap();
    (host, facet)
}

fn numbers(facet: &FacetHandle) -> Vec<i64> {
    facet.query("SELECT n FROM t ORDER BY n", (), |row| row.get(0)).wait().unwrap()
}

#[test]
fn savepoints_nest_and_roll_back_alone() {
    let (_host, facet) = prepared();
    let call = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        let refused = tx.savepoint(|tx| {
            tx.execute("INSERT INTO t VALUES (2)", ())?;
            tx.savepoint(|tx| Ok(tx.execute("INSERT INTO t VALUES (3)", ())?))?;
            tx.delete_facet();
            Err::<(), _>(HostError::abort("inner"))
        });
        assert!(refused.is_err());
        tx.savepoint(|tx| {
            tx.execute("INSERT INTO t VALUES (4)", ())?;
            let refused = tx.savepoint(|tx| Ok(tx.execute("INSERT INTO t VALUES (1)", ())?));
            assert_eq!(refused.unwrap_err().kind(), HostErrorKind::Statement);
            Ok(())
        })
    });
    call.wait().unwrap();
    assert_eq!(numbers(&facet), [1, 4]);
}

#[test]
fn a_panic_in_a_savepoint_rolls_the_transaction_back() {
    let (_host, facet) = prepared();
    let call = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        tx.savepoint::<()>(|_| panic!("why"))
    });
    assert_eq!(call.wait().unwrap_err().kind(), HostErrorKind::Aborted);
    assert!(numbers(&facet).is_empty());
}

#[test]
fn a_request_is_done_once_also_after_the_host_was_opened_again() {
    let memory = MemoryIo::new();
    let ran = Arc::new(AtomicUsize::new(0));
    let request = |facet: &FacetHandle, fails: bool| {
        let ran = Arc::clone(&ran);
        facet.once("r", move |tx| {
            let time = ran.fetch_add(1, Ordering::SeqCst);
            tx.execute("INSERT INTO t VALUES (?1)", [i64::try_from(time).unwrap()])?;
            if fails { Err(HostError::abort("no")) } else { Ok(vec![7]) }
        })
    };
    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    request(&facet, true).wait().unwrap_err();
    assert_eq!(request(&facet, false).wait().unwrap(), [7], "a failure is not remembered");
    assert_eq!(request(&facet, true).wait().unwrap(), [7]);
    drop((host, facet));
    let host = host_on(&memory, config(1));
    let facet = host.facet("a").unwrap();
    assert_eq!(request(&facet, false).wait().unwrap(), [7]);
    assert_eq!(numbers(&facet), [1]);
}

#[test]
fn the_last_requests_are_remembered() {
    let (_host, facet) = prepared();
    let answer = |key: u32, reply: u8| {
        facet.once(key.to_be_bytes(), move |_| Ok(vec![reply])).wait().unwrap()
    };
    for key in 0..=REQUESTS_REMEMBERED_MAX {
        assert_eq!(answer(key, 1), [1]);
    }
    assert_eq!(answer(1, 2), [1], "the oldest that is remembered");
    assert_eq!(answer(0, 2), [2], "forgotten");
}

#[test]
fn values_are_listed_by_key_within_bounds() {
    let (_host, facet) = prepared();
    let kv = facet.kv();
    assert_eq!(kv.get("a").wait().unwrap(), None);
    assert!(!kv.delete("a").wait().unwrap());
    assert!(kv.list(KvList::new()).wait().unwrap().is_empty());
    let names =
        facet.query("SELECT name FROM sqlite_schema WHERE name GLOB '_lapidary*'", (), |row| {
            row.get::<_, String>(0)
        });
    assert!(names.wait().unwrap().is_empty(), "nothing is made before it is needed");

    let entries: [&[u8]; 6] = [b"a", b"a/1", b"a/2", b"a\xff", b"b", b"\xff\xff"];
    for key in entries.iter().rev() {
        kv.put(*key, "old").wait().unwrap();
        kv.put(*key, *key).wait().unwrap();
    }
    let keys = |list: KvList| -> Vec<Vec<u8>> {
        let entries = kv.list(list).wait().unwrap();
        assert!(entries.iter().all(|(key, value)| key == value));
        entries.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(KvList::new()), entries);
    assert_eq!(keys(KvList::new().prefix("a")), entries[..4]);
    assert_eq!(keys(KvList::new().prefix("a/").reverse()), [b"a/2", b"a/1"]);
    assert_eq!(keys(KvList::new().prefix([0xff])), [b"\xff\xff"]);
    assert_eq!(keys(KvList::new().start("a/2").end("b")), entries[2..4]);
    assert_eq!(keys(KvList::new().reverse().limit(2)), [b"\xff\xff".as_slice(), b"b"]);
    assert!(keys(KvList::new().start("c").end("b")).is_empty());
    assert!(kv.delete("b").wait().unwrap());
    assert!(!kv.delete("b").wait().unwrap());
    assert_eq!(kv.get("b").wait().unwrap(), None);
}

#[test]
fn values_are_written_with_sql_or_not_at_all() {
    let (_host, facet) = prepared();
    let refused = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        tx.kv().put("k", "v")?;
        Err::<(), _>(HostError::abort("no"))
    });
    refused.wait().unwrap_err();
    assert_eq!(facet.kv().get("k").wait().unwrap(), None);
    let done = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        tx.kv().put("k", "v")?;
        tx.kv().get("k")
    });
    assert_eq!(done.wait().unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(numbers(&facet), [1]);
}

#[test]
fn keys_and_values_are_bounded() {
    let (_host, facet) = prepared();
    let kv = facet.kv();
    let longest = vec![1; KV_KEY_BYTES_MAX];
    kv.put(longest.clone(), vec![2; KV_VALUE_BYTES_MAX]).wait().unwrap();
    assert_eq!(kv.get(longest).wait().unwrap().unwrap().len(), KV_VALUE_BYTES_MAX);
    let refused = [
        kv.put("", "v"),
        kv.put(vec![1; KV_KEY_BYTES_MAX + 1], "v"),
        kv.put("k", vec![2; KV_VALUE_BYTES_MAX + 1]),
    ];
    for call in refused {
        let error = call.wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::InvalidInput);
        assert!(error.to_string().contains("facet a"), "{error}");
    }
}

#[test]
fn a_call_that_is_dropped_is_done_as_a_whole() {
    let (_host, facet) = prepared();
    for n in 0..200_i64 {
        let call = facet.transaction(move |tx| {
            tx.execute("INSERT INTO t VALUES (?1)", [n])?;
            Ok(tx.execute("INSERT INTO t VALUES (?1)", [-1 - n])?)
        });
        let mut call = Box::pin(call);
        if n % 2 == 0 {
            // Dropped after it was polled, as a future that lost a race is.
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = call.as_mut().poll(&mut context);
        }
        drop(call);
    }
    assert_eq!(numbers(&facet), (-200..200).collect::<Vec<_>>());
}
