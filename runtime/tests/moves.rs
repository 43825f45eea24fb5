//! Facets that move from one store to another.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapidary::{
    AlarmHandler, DepartureState, Environment, ForkFrom, Host, HostConfig, HostError,
    HostErrorKind, MoveError, Retention,
};
use lapidary_engine::MemoryIo;
use rusqlite::{Connection, OpenFlags};

fn config() -> HostConfig {
    HostConfig::new().cores(NonZeroUsize::new(2).unwrap()).pin_cores(false)
}

fn on(memory: &MemoryIo) -> Host {
    Host::open_in(Environment::with_io(Arc::new(memory.clone())), config()).unwrap()
}

fn host() -> Host {
    on(&MemoryIo::new())
}

fn put(host: &Host, name: &str, n: i64) {
    let facet = host.facet(name).unwrap();
    let sql = format!("CREATE TABLE IF NOT EXISTS t(n); INSERT INTO t VALUES ({n})");
    facet.execute_batch(sql).wait().unwrap();
}

fn sum(host: &Host, name: &str) -> i64 {
    let facet = host.facet(name).unwrap();
    facet.query("SELECT sum(n) FROM t", (), |row| row.get(0)).wait().unwrap()[0]
}

fn names(host: &Host) -> Vec<String> {
    let listed = host.list(None, None, 100).wait().unwrap();
    listed.into_iter().map(|facet| facet.name.to_string()).collect()
}

fn moved<T: std::fmt::Debug>(outcome: Result<T, HostError>) {
    assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::Moved);
}

/// Nothing is left of a move, at either side, but that the source refuses the name.
fn is_over(host: &Host) {
    assert!(host.departures().unwrap().is_empty());
    assert!(host.arrivals().unwrap().is_empty());
    let all = host.store().list_facets(None, None, 1_000).unwrap();
    let is_hidden = |name: &str| name.starts_with(".departing") || name.starts_with(".arriving");
    assert!(!all.iter().any(|facet| is_hidden(facet.name.as_str())), "{all:?}");
}

#[test]
fn a_subtree_moves_with_what_is_set_on_it_and_back() {
    let (here, there) = (host(), host());
    for name in ["acme", "acme/1", "acme/1/x", "acme-not", "other"] {
        put(&here, name, 5);
    }
    here.set_quota("acme", Some(1 << 20)).wait().unwrap();
    let retention = Retention { bytes: 1 << 16, age: Duration::from_secs(60) };
    here.set_retention("acme/1", Some(retention)).wait().unwrap();
    let before = here.facet("acme/1").unwrap().root_hash().unwrap();

    here.move_to_store("acme", &there, "there").unwrap();
    assert_eq!(names(&here), ["acme-not", "other"]);
    assert_eq!(names(&there), ["acme", "acme/1", "acme/1/x"]);
    assert_eq!(there.facet("acme/1").unwrap().root_hash().unwrap(), before);
    assert_eq!(there.quota("acme").wait().unwrap().unwrap().limit_bytes, 1 << 20);
    assert_eq!(there.retention("acme/1").wait().unwrap(), Some(retention));
    assert_eq!(here.departed().unwrap()[0].destination, "there");
    is_over(&here);
    is_over(&there);

    put(&there, "acme/1", 6);
    moved(here.facet("acme/1").unwrap().execute("INSERT INTO t VALUES (1)", ()).wait());
    here.move_to_store("acme", &there, "there").unwrap(); // nothing to do
    there.move_to_store("acme", &here, "here").unwrap();
    assert_eq!(sum(&here, "acme/1"), 11);
    assert!(here.departed().unwrap().is_empty());
    moved(there.facet("acme").unwrap().read(|_| Ok(())));
    there.forget_departed("acme").unwrap();
    put(&there, "acme", 1);
    is_over(&here);
    is_over(&there);
}

#[test]
fn a_name_that_goes_is_refused_in_every_way() {
    let memory = MemoryIo::new();
    let here = on(&memory);
    let held = here.facet("acme/1").unwrap();
    put(&here, "acme/1", 1);
    put(&here, "other", 1);
    assert_eq!(held.read(|reader| Ok(reader.is_autocommit())).ok(), Some(false));
    let departure = here.seal("acme", "there").unwrap();
    let check = |here: &Host| {
        let new = here.facet("acme/new").unwrap();
        for facet in [&here.facet("acme/1").unwrap(), &new] {
            moved(facet.execute("CREATE TABLE u(n)", ()).wait());
            moved(facet.transaction(|tx| Ok(tx.is_autocommit())).wait());
            moved(facet.read(|_| Ok(())));
            moved(facet.bookmark().wait());
        }
        let both = ["acme/1", "acme/new"];
        moved(here.transaction_over(both, |_| Ok(())).wait());
        moved(here.rename("other", "acme").wait());
        moved(here.rename("other", "acme/new").wait());
        moved(here.rename("acme", "another").wait());
        moved(here.delete("acme").wait());
        moved(here.fork("other", "acme/2", ForkFrom::Latest).wait());
        moved(here.seal("acme", "elsewhere"));
        let flags = OpenFlags::default();
        assert!(Connection::open_with_flags_and_vfs("acme/1", flags, here.vfs_name()).is_err());
        assert_eq!(names(here), ["other"]);
        let hidden = here.store().list_facets(None, None, 100).unwrap();
        let hidden = hidden.iter().find(|facet| facet.name.as_str().starts_with(".departing"));
        let hidden = hidden.unwrap().name.to_string();
        assert!(here.facet(&hidden).is_err());
    };
    moved(held.execute("INSERT INTO t VALUES (2)", ()).wait());
    moved(held.read(|_| Ok(())));
    check(&here);
    // A handle to the departure can be lost, and the host closed.
    drop((departure, held));
    here.shutdown().unwrap();
    let here = on(&memory);
    check(&here);
    let departure = here.departures().unwrap().pop().unwrap();
    assert_eq!(departure.state().unwrap(), DepartureState::Sealed);
    departure.cancel().unwrap();
    assert_eq!(sum(&here, "acme/1"), 1);
    put(&here, "acme/new", 1);
    is_over(&here);
}

#[test]
fn calls_in_flight_are_in_the_copy_or_refused() {
    let (here, there) = (host(), host());
    put(&here, "acme/1", 0);
    let acknowledged: i64 = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let facet = here.facet("acme/1").unwrap();
            let mut acknowledged = 0;
            loop {
                match facet.execute("INSERT INTO t VALUES (1)", ()).wait() {
                    Ok(_) => acknowledged += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), HostErrorKind::Moved, "{error}");
                        return acknowledged;
                    }
                }
            }
        });
        std::thread::sleep(Duration::from_millis(30));
        here.move_to_store("acme", &there, "there").unwrap();
        writing.join().unwrap()
    });
    assert!(acknowledged > 0);
    assert_eq!(sum(&there, "acme/1"), acknowledged);
}

#[test]
fn a_connection_past_the_host_cannot_write_to_what_goes() {
    let (here, there) = (host(), host());
    put(&here, "acme", 1);
    // The core's connection, which would keep it from writing, is closed.
    here.rename("acme", "acme2").wait().unwrap();
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        Connection::open_with_flags_and_vfs("acme2", flags, here.vfs_name()).unwrap()
    };
    let plain = open();
    plain.execute_batch("BEGIN IMMEDIATE").unwrap();
    let busy = here.seal("acme2", "there").unwrap_err();
    assert_eq!(busy.kind(), HostErrorKind::Retry, "{busy}");
    plain.execute_batch("INSERT INTO t VALUES (2); COMMIT").unwrap();
    let departure = here.seal("acme2", "there").unwrap();
    assert!(plain.execute_batch("INSERT INTO t VALUES (4)").is_err());
    departure.cancel().unwrap();
    plain.execute_batch("INSERT INTO t VALUES (8)").unwrap();
    here.move_to_store("acme2", &there, "there").unwrap();
    assert!(plain.execute_batch("INSERT INTO t VALUES (16)").is_err());
    assert_eq!(sum(&there, "acme2"), 11);
}

#[test]
fn alarms_run_at_the_destination_alone() {
    let open = |label: &'static str| {
        let handler = AlarmHandler::new(move |tx, _, alarm| {
            tx.execute("CREATE TABLE IF NOT EXISTS ran(host, name)", ())?;
            tx.execute("INSERT INTO ran VALUES (?1, ?2)", (label, &alarm.name))?;
            Ok(())
        });
        let handler = handler.retry_after(Duration::from_millis(5));
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        Host::open_in(environment, config().on_alarm(handler)).unwrap()
    };
    let (here, there) = (open("here"), open("there"));
    let facet = here.facet("acme/1").unwrap();
    let now_ms = here.store().environment().clock.wall_ms();
    facet.alarms().set("soon", now_ms + 150, "").wait().unwrap();
    let departure = here.seal("acme", "there").unwrap();
    // Due while nobody serves it.
    std::thread::sleep(Duration::from_millis(250));
    let mut copy = Vec::new();
    departure.write_to(&mut copy).unwrap();
    let arrival = there.arrive(&mut copy.as_slice()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let proof = departure.depart(&arrival.receipt().unwrap()).unwrap();
    arrival.activate(&proof).unwrap();
    departure.forget_content().unwrap();
    let start = Instant::now();
    let ran = loop {
        let facet = there.facet("acme/1").unwrap();
        let ran = facet.query("SELECT host, name FROM ran", (), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        });
        match ran.wait() {
            Ok(ran) => break ran,
            Err(_) if start.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("it does not run: {error}"),
        }
    };
    assert_eq!(ran, [("there".to_owned(), "soon".to_owned())]);
}

#[test]
fn a_damaged_or_cut_copy_leaves_nothing() {
    let (here, there) = (host(), host());
    let facet = here.facet("a").unwrap();
    facet
        .execute_batch("PRAGMA page_size=512; CREATE TABLE t(n); INSERT INTO t VALUES (3)")
        .wait()
        .unwrap();
    let departure = here.seal("a", "there").unwrap();
    let mut copy = Vec::new();
    departure.write_to(&mut copy).unwrap();
    for at in (0..copy.len()).step_by(7).chain(0..60).chain(copy.len() - 40..copy.len()) {
        let mut flipped = copy.clone();
        flipped[at] ^= 0x10;
        assert!(there.arrive(&mut flipped.as_slice()).is_err(), "byte {at}");
        assert!(there.arrive(&mut &copy[..at]).is_err(), "cut at {at}");
    }
    is_over(&there);
    let same = here.arrive(&mut copy.as_slice()).unwrap_err();
    assert!(matches!(same, HostError::Move(MoveError::SameStore { .. })), "{same}");
    let mut again = Vec::new();
    departure.write_to(&mut again).unwrap();
    assert_eq!(again, copy);
    there.arrive(&mut copy.as_slice()).unwrap();
    let twice = there.arrive(&mut copy.as_slice()).unwrap_err();
    assert!(matches!(twice, HostError::Move(MoveError::AlreadyArrived { .. })), "{twice}");
    here.move_to_store("a", &there, "there").unwrap();
    assert_eq!(sum(&there, "a"), 3);
    is_over(&there);
}

#[test]
fn nothing_is_activated_before_its_source_lets_it_go_or_over_another() {
    let (here, there) = (host(), host());
    put(&here, "a", 1);
    put(&here, "b", 2);
    let departure = here.seal("a", "there").unwrap();
    let mut copy = Vec::new();
    departure.write_to(&mut copy).unwrap();
    let arrival = there.arrive(&mut copy.as_slice()).unwrap();
    // Nobody is served it, and the source cannot be made to let it go by another's receipt.
    assert!(names(&there).is_empty());
    let other = here.seal("b", "there").unwrap();
    let mut second = Vec::new();
    other.write_to(&mut second).unwrap();
    let other_arrival = there.arrive(&mut second.as_slice()).unwrap();
    let other_receipt = other_arrival.receipt().unwrap();
    assert!(departure.depart(&other_receipt).is_err());
    assert!(departure.proof().is_err());
    assert!(departure.forget_content().is_err());
    let other_proof = other.depart(&other_receipt).unwrap();
    assert!(arrival.activate(&other_proof).is_err());
    other_arrival.activate(&other_proof).unwrap();

    put(&there, "a/below", 9);
    let proof = departure.depart(&arrival.receipt().unwrap()).unwrap();
    let taken = arrival.activate(&proof).unwrap_err();
    assert_eq!(taken.kind(), HostErrorKind::AlreadyExists, "{taken}");
    moved(departure.write_to(&mut Vec::new()));
    there.delete("a").wait().unwrap();
    // As text, over any wire.
    arrival.activate(&proof.to_string().parse().unwrap()).unwrap();
    arrival.activate(&proof).unwrap();
    assert_eq!(sum(&there, "a"), 1);
    moved(here.departures().unwrap().remove(0).cancel());
    departure.forget_content().unwrap();
    departure.forget_content().unwrap();
    assert!(here.departures().unwrap().iter().all(|left| left.name().as_str() == "b"));
}

#[test]
fn a_cancelled_move_leaves_a_copy_to_discard() {
    let (here, there) = (host(), host());
    put(&here, "a", 1);
    let departure = here.seal("a", "there").unwrap();
    let mut copy = Vec::new();
    departure.write_to(&mut copy).unwrap();
    there.arrive(&mut copy.as_slice()).unwrap();
    departure.cancel().unwrap();
    put(&here, "a", 2);
    there.arrivals().unwrap().remove(0).discard().unwrap();
    is_over(&there);
    here.move_to_store("a", &there, "there").unwrap();
    assert_eq!(sum(&there, "a"), 3);
}
