//! The past: opening it, going back to it, and connections that look on.

use std::sync::Arc;

use lapidary_engine::{Bookmark, Error, Facet, FacetName, ForkFrom, Retention, View};
use lapidary_vfs::{ROOT_HASH_MASK, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

use crate::fixture::{Fixture, check_integrity, code, fill, number, text};

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

fn facet(fixture: &Fixture, facet: &str) -> Arc<Facet> {
    fixture.store().open_facet(&name(facet)).unwrap()
}

fn bookmark(fixture: &Fixture, name: &str) -> Bookmark {
    facet(fixture, name).bookmark().unwrap()
}

/// Restores durably; returns the bookmark that undoes it.
fn restore(fixture: &Fixture, name: &str, to: Bookmark) -> Bookmark {
    let undo = facet(fixture, name).restore(&to).unwrap().undo;
    fixture.store().flush().unwrap();
    undo
}

fn try_at(fixture: &Fixture, facet: &str, at: &str) -> rusqlite::Result<Connection> {
    Connection::open(format!("file:{facet}?vfs={}&at={at}", fixture.vfs()))
}

fn at(fixture: &Fixture, facet: &str, bookmark: Bookmark) -> Connection {
    try_at(fixture, facet, &bookmark.to_string()).unwrap()
}

const COUNT: &str = "SELECT count(*) FROM t";
const SUM: &str = "SELECT coalesce(sum(a * length(b)), 0) FROM t";

#[test]
fn each_version_can_be_opened_while_others_are_made() {
    let mut fixture = Fixture::keeping_history();
    let writer = fixture.open("a");
    writer.execute_batch("PRAGMA cache_size=5").unwrap();
    let empty = bookmark(&fixture, "a");
    let mut versions = Vec::new();
    for round in 1..=10 {
        fill(&writer, 20 * round, 300);
        if round % 3 == 0 {
            writer.execute_batch("DELETE FROM t WHERE a % 3 = 0; VACUUM").unwrap();
        }
        versions.push((bookmark(&fixture, "a"), number(&writer, SUM)));
    }
    let check = |fixture: &Fixture| {
        let opened: Vec<_> =
            versions.iter().map(|&(version, sum)| (at(fixture, "a", version), sum)).collect();
        for (connection, sum) in &opened {
            assert_eq!(number(connection, SUM), *sum);
            check_integrity(connection);
        }
        let nothing = at(fixture, "a", empty);
        assert_eq!(number(&nothing, "SELECT count(*) FROM sqlite_schema"), 0);
        nothing.execute_batch("CREATE TABLE t(a)").unwrap_err();
        opened
    };
    let opened = check(&fixture);
    let data_versions: Vec<i64> =
        opened.iter().map(|(past, _)| number(past, "PRAGMA data_version")).collect();
    writer.execute("DELETE FROM t", []).unwrap();
    restore(&fixture, "a", versions[4].0);
    for ((connection, sum), data_version) in opened.iter().zip(data_versions) {
        assert_eq!(number(connection, SUM), *sum);
        assert_eq!(number(connection, "PRAGMA data_version"), data_version, "the cache is kept");
    }
    assert_eq!(number(&writer, SUM), versions[4].1);
    drop((opened, writer));
    fixture.reopen();
    check(&fixture);
}

#[test]
fn the_past_is_read_only() {
    let fixture = Fixture::keeping_history();
    let writer = fixture.open("a");
    fill(&writer, 30, 100);
    let version = bookmark(&fixture, "a");
    writer.execute("DELETE FROM t WHERE a > 10", []).unwrap();
    // The default flags ask for writing, and for creating.
    let past = at(&fixture, "a", version);
    assert!(past.is_readonly("main").unwrap());
    for sql in ["DELETE FROM t", "CREATE TABLE u(a)", "PRAGMA user_version=7", "DROP TABLE t"] {
        assert_eq!(code(&past.execute_batch(sql).unwrap_err()), ffi::SQLITE_READONLY, "{sql}");
    }
    past.execute_batch("BEGIN IMMEDIATE; CREATE TEMP TABLE copy AS SELECT * FROM t; COMMIT")
        .unwrap();
    assert_eq!(number(&past, "SELECT count(*) FROM copy"), 30);
    // It has no need of any, but neither does it mind.
    for pragma in ["locking_mode=EXCLUSIVE", "locking_mode=NORMAL", "synchronous=OFF"] {
        past.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
        assert_eq!(number(&past, COUNT), 30);
    }
    assert_ne!(text(&past, "PRAGMA journal_mode=WAL"), "wal");
    past.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&past, COUNT), 30);
    // Nor does it hold anybody up.
    writer.execute("DELETE FROM t WHERE a > 5", []).unwrap();
    past.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&past, COUNT), 30);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:a?vfs={}&at={version}&mode=ro", fixture.vfs());
    let same = Connection::open_with_flags(uri, flags).unwrap();
    assert_eq!(number(&same, COUNT), 30);
    // The newest version is one like others.
    let newest = at(&fixture, "a", bookmark(&fixture, "a"));
    writer.execute("DELETE FROM t", []).unwrap();
    assert_eq!(number(&newest, COUNT), 5);
}

#[test]
fn an_open_version_outlives_its_history_and_its_facet() {
    let fixture = Fixture::keeping_history();
    let writer = fixture.open("a");
    fill(&writer, 200, 500);
    let version = bookmark(&fixture, "a");
    let [first, second] = [at(&fixture, "a", version), at(&fixture, "a", version)];
    for connection in [&first, &second] {
        // So that pages are read when they are asked for.
        connection.execute_batch("PRAGMA cache_size=1").unwrap();
    }
    let sum = number(&first, SUM);
    fixture.store().set_retention(&name("a"), Some(Retention::OFF)).unwrap();
    for round in 0..20 {
        writer.execute("UPDATE t SET b = randomblob(500)", []).unwrap();
        if round % 5 == 0 {
            fixture.store().checkpoint().unwrap();
        }
    }
    assert_eq!(number(&first, SUM), sum);
    check_integrity(&first);
    drop(first);
    assert_eq!(number(&second, SUM), sum);
    let error = try_at(&fixture, "a", &version.to_string()).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_CANTOPEN);
    let words = take_last_error().unwrap();
    assert!(words.contains("facet a: no version"), "{words}");
    assert!(words.contains(&bookmark(&fixture, "a").to_string()), "says what is kept: {words}");

    drop(writer);
    fixture.store().delete_facet(&name("a")).unwrap();
    fill(&fixture.open("a"), 10, 10);
    fixture.store().checkpoint().unwrap();
    assert_eq!(number(&second, SUM), sum);
    check_integrity(&second);
}

#[test]
fn what_is_no_version_of_the_facet_is_refused() {
    let fixture = Fixture::keeping_history();
    fill(&fixture.open("a"), 3, 3);
    fill(&fixture.open("b"), 3, 3);
    let (a, b) = (bookmark(&fixture, "a"), bookmark(&fixture, "b"));
    let future = Bookmark { version: a.version.next(), ..a };
    let (b_text, future) = (b.to_string(), future.to_string());
    for (at, words) in [
        (b_text.as_str(), "is of another facet"),
        (future.as_str(), "no version"),
        ("", "is no bookmark"),
        ("latest", "is no bookmark"),
        ("1-2-3", "is no bookmark"),
    ] {
        let error = try_at(&fixture, "a", at).unwrap_err();
        assert_eq!(code(&error), ffi::SQLITE_CANTOPEN, "{at}");
        let message = take_last_error().unwrap();
        assert!(message.contains(words), "{at}: {message}");
        assert!(message.contains("facet a:"), "{at}: {message}");
        assert!(message.contains(&a.to_string()), "{at}: {message}");
    }
    let error = try_at(&fixture, "missing", &a.to_string()).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_CANTOPEN);
    let words = take_last_error().unwrap();
    assert!(words.contains("facet missing: no such facet"), "{words}");
    assert!(!fixture.exists("missing"), "nothing is created");
    // The name may change, the facet stays the one that the bookmark is of.
    fixture.store().rename_facet(&name("a"), &name("c")).unwrap();
    assert_eq!(number(&at(&fixture, "c", a), COUNT), 3);
}

#[test]
fn the_past_attached_beside_the_present() {
    let fixture = Fixture::keeping_history();
    let connection = fixture.open("a");
    fill(&connection, 50, 100);
    let version = bookmark(&fixture, "a");
    connection.execute("DELETE FROM t WHERE a <= 20", []).unwrap();
    connection
        .execute_batch(&format!("ATTACH 'file:a?vfs={}&at={version}' AS past", fixture.vfs()))
        .unwrap();
    // One writes while it reads the other.
    connection.execute("INSERT INTO main.t SELECT * FROM past.t WHERE a <= 5", []).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM main.t"), 35);
    assert_eq!(number(&connection, "SELECT count(*) FROM past.t"), 50);
    assert_eq!(
        code(&connection.execute("DELETE FROM past.t", []).unwrap_err()),
        ffi::SQLITE_READONLY
    );
    connection.execute_batch("DETACH past").unwrap();
    check_integrity(&connection);
}

#[test]
fn a_restore_is_seen_by_open_connections() {
    let fixture = Fixture::keeping_history();
    let connections = [fixture.open("a"), fixture.open("a"), fixture.open("a")];
    let [one, two, exclusive] = &connections;
    fill(one, 300, 300);
    exclusive.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    let old = bookmark(&fixture, "a");
    let sum = number(two, SUM);
    one.execute_batch("UPDATE t SET b = zeroblob(a)").unwrap();
    let new_sum = number(two, SUM);
    assert_ne!(new_sum, sum);

    // In the middle of a read nothing changes.
    two.execute_batch("BEGIN").unwrap();
    assert_eq!(number(two, SUM), new_sum);
    let undo = restore(&fixture, "a", old);
    assert_eq!(number(two, SUM), new_sum);
    let error = two.execute("DELETE FROM t", []).unwrap_err();
    assert_eq!(code(&error), ffi::SQLITE_BUSY_SNAPSHOT, "what it read is no longer the newest");
    two.execute_batch("ROLLBACK").unwrap();
    for connection in &connections {
        assert_eq!(number(connection, SUM), sum);
        check_integrity(connection);
    }
    exclusive.execute_batch("PRAGMA locking_mode=NORMAL").unwrap();
    number(exclusive, COUNT);

    let undo = {
        // While somebody writes it is refused, and changes nothing.
        one.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = facet(&fixture, "a").restore(&undo).unwrap_err();
        assert!(matches!(error, Error::WriterBusy { .. }), "{error}");
        one.execute_batch("COMMIT").unwrap();
        restore(&fixture, "a", undo)
    };
    for connection in &connections {
        assert_eq!(number(connection, SUM), new_sum);
    }
    // Back to the first state, and on from there.
    restore(&fixture, "a", undo);
    one.execute("DELETE FROM t WHERE a > 100", []).unwrap();
    for connection in &connections {
        assert_eq!(number(connection, COUNT), 100);
        check_integrity(connection);
    }
}

#[test]
fn back_to_nothing_and_up_again() {
    let fixture = Fixture::keeping_history();
    let connections = [fixture.open("a"), fixture.open("a")];
    let empty = bookmark(&fixture, "a");
    for (round, connection) in connections.iter().cycle().take(6).enumerate() {
        connection.execute_batch("PRAGMA page_size=1024").unwrap();
        fill(connection, 40 + u32::try_from(round).unwrap(), 200);
        for other in &connections {
            assert_eq!(number(other, COUNT), 40 + i64::try_from(round).unwrap());
        }
        restore(&fixture, "a", empty);
        for other in &connections {
            assert_eq!(number(other, "SELECT count(*) FROM sqlite_schema"), 0);
            assert_eq!(number(other, "PRAGMA page_count"), 0);
        }
    }
}

#[test]
fn back_over_a_change_of_the_page_size() {
    let mut fixture = Fixture::keeping_history();
    let writer = fixture.open("a");
    let reader = fixture.open("a");
    writer.execute_batch("PRAGMA page_size=4096").unwrap();
    fill(&writer, 150, 700);
    let mut versions = Vec::new();
    let hash = |fixture: &Fixture| {
        let snapshot = facet(fixture, "a").snapshot(View::Durable).unwrap();
        snapshot.root_hash(&ROOT_HASH_MASK).unwrap()
    };
    let note = |fixture: &Fixture, writer: &Connection| {
        let size = number(writer, "PRAGMA page_size");
        (bookmark(fixture, "a"), hash(fixture), number(writer, SUM), size)
    };
    versions.push(note(&fixture, &writer));
    for size in [512, 65536, 1024] {
        writer.execute_batch(&format!("PRAGMA page_size={size}; VACUUM")).unwrap();
        versions.push(note(&fixture, &writer));
        writer.execute_batch("UPDATE t SET b = zeroblob(800) WHERE a % 2 = 0").unwrap();
        versions.push(note(&fixture, &writer));
        assert_eq!(number(&reader, SUM), number(&writer, SUM));
    }
    for index in [0, 5, 2, 1, 6, 4, 0, 3] {
        let (version, old_hash, sum, size) = versions[index];
        restore(&fixture, "a", version);
        assert_eq!(hash(&fixture), old_hash);
        for connection in [&reader, &writer] {
            assert_eq!(number(connection, SUM), sum);
            assert_eq!(number(connection, "PRAGMA page_size"), size);
            check_integrity(connection);
        }
        writer.execute("INSERT INTO t(b) VALUES (zeroblob(5000))", []).unwrap();
        assert_eq!(number(&reader, SUM), number(&writer, SUM));
        check_integrity(&reader);
    }
    drop((writer, reader));
    fixture.reopen();
    for &(version, _, sum, size) in &versions {
        let past = at(&fixture, "a", version);
        assert_eq!(number(&past, SUM), sum);
        assert_eq!(number(&past, "PRAGMA page_size"), size);
        check_integrity(&past);
    }
}

#[test]
fn a_fork_is_its_source_until_one_is_written() {
    let mut fixture = Fixture::keeping_history();
    let source = fixture.open("a");
    fill(&source, 200, 400);
    let sum = number(&source, SUM);
    let early = bookmark(&fixture, "a");
    source.execute("DELETE FROM t WHERE a > 150", []).unwrap();
    let late_sum = number(&source, SUM);

    // A fork is there for a connection that opens it the moment after, also unflushed.
    let store = fixture.store();
    store.fork_facet(&name("a"), &name("late"), ForkFrom::Latest).unwrap();
    let late = fixture.open("late");
    assert_eq!(number(&late, SUM), late_sum);
    store.fork_facet(&name("a"), &name("early"), ForkFrom::Bookmark(early)).unwrap();
    let early_fork = fixture.open("early");
    let second = fixture.open("early");
    assert_eq!(number(&early_fork, SUM), sum);
    assert_eq!(number(&second, SUM), sum);
    // The bookmark is of the source: it does not name what the fork has.
    try_at(&fixture, "early", &early.to_string()).unwrap_err();
    assert!(take_last_error().unwrap().contains("is of another facet"));

    // All sides write, in versions of the same numbers, and nobody takes one for another.
    for round in 1..=8 {
        early_fork.execute("UPDATE t SET b = zeroblob(?1) WHERE a = 1", [round]).unwrap();
        late.execute("UPDATE t SET b = zeroblob(?1) WHERE a = 2", [1000 + round]).unwrap();
        source.execute("UPDATE t SET b = zeroblob(?1) WHERE a = 3", [2000 + round]).unwrap();
        let length = |connection: &Connection, row: i64| {
            number(connection, &format!("SELECT length(b) FROM t WHERE a = {row}"))
        };
        for connection in [&early_fork, &second] {
            assert_eq!([1, 2, 3].map(|row| length(connection, row)), [round, 400, 400]);
        }
        assert_eq!([1, 2, 3].map(|row| length(&late, row)), [400, 1000 + round, 400]);
        assert_eq!([1, 2, 3].map(|row| length(&source, row)), [400, 400, 2000 + round]);
    }
    let fork_version = bookmark(&fixture, "early");
    early_fork.execute("DELETE FROM t", []).unwrap();
    restore(&fixture, "early", fork_version);
    for connection in [&early_fork, &second] {
        assert_eq!(number(connection, COUNT), 200);
        check_integrity(connection);
    }
    drop((source, late, early_fork, second));
    fixture.store().delete_facet(&name("a")).unwrap();
    fixture.reopen();
    for (fork, rows) in [("early", 200), ("late", 150)] {
        let connection = fixture.open(fork);
        assert_eq!(number(&connection, COUNT), rows);
        check_integrity(&connection);
    }
}

/// Connections that write, roll back, keep and leave exclusive mode, while versions come and go under
/// them: none ever shows what is not the newest version.
#[test]
fn no_cache_is_ever_stale() {
    for seed in 1..=6_u64 {
        let fixture = Fixture::keeping_history();
        let mut state = seed;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        let connections: Vec<_> = (0..3).map(|_| fixture.open("a")).collect();
        fill(&connections[0], 60, 300);
        let mut sum = number(&connections[0], SUM);
        let mut versions = vec![(bookmark(&fixture, "a"), sum)];
        for step in 0..80 {
            let connection = &connections[random(3)];
            match random(6) {
                0 => {
                    let (version, old_sum) = versions[random(versions.len())];
                    restore(&fixture, "a", version);
                    sum = old_sum;
                }
                1 => connection
                    .execute_batch("BEGIN; UPDATE t SET b = zeroblob(7); ROLLBACK")
                    .unwrap(),
                2 => {
                    // Frozen counters, then as many commits of others as there are digits.
                    connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
                    for _ in 0..=random(3) {
                        let row = random(60);
                        connection
                            .execute(
                                &format!("UPDATE t SET b = zeroblob({step}) WHERE a = {row}"),
                                [],
                            )
                            .unwrap();
                    }
                    connection.execute_batch("PRAGMA locking_mode=NORMAL").unwrap();
                    sum = number(connection, SUM);
                }
                _ => {
                    let (row, length) = (random(60), random(400));
                    connection
                        .execute(
                            &format!("UPDATE t SET b = zeroblob({length}) WHERE a = {row}"),
                            [],
                        )
                        .unwrap();
                    sum = number(connection, SUM);
                }
            }
            for connection in &connections {
                assert_eq!(number(connection, SUM), sum, "seed {seed}, step {step}");
            }
            versions.push((bookmark(&fixture, "a"), sum));
        }
        for connection in &connections {
            check_integrity(connection);
        }
        for &(version, sum) in &versions {
            assert_eq!(number(&at(&fixture, "a", version), SUM), sum, "seed {seed}");
        }
    }
}
