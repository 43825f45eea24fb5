//! SQLite's page cache lives from one transaction to the next, and is dropped when, and only when,
//! somebody else committed. `PRAGMA data_version` changes exactly when the pager drops it.

use crate::fixture::{Fixture, check_integrity, fill, number};

const VERSION: &str = "PRAGMA data_version";

#[test]
fn own_commits_keep_the_cache_and_others_drop_it() {
    let fixture = Fixture::memory();
    let (one, two) = (fixture.open("a"), fixture.open("a"));
    fill(&one, 10, 10);
    let mut last = [number(&one, VERSION), number(&two, VERSION)];
    for round in 0..20 {
        let (writer, other) = if round % 3 == 0 { (&two, 0) } else { (&one, 1) };
        writer.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
        let now = [number(&one, VERSION), number(&two, VERSION)];
        assert_ne!(now[other], last[other], "round {round}: the other one must notice");
        assert_eq!(now[1 - other], last[1 - other], "round {round}: the writer need not");
        last = now;
        for connection in [&one, &two] {
            assert_eq!(number(connection, "SELECT count(*) FROM t"), 11 + round);
        }
    }
}

#[test]
fn reading_alone_keeps_the_cache() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    fill(&connection, 10, 10);
    let version = number(&connection, VERSION);
    fill(&fixture.open("b"), 10, 10);
    for _ in 0..5 {
        number(&connection, "SELECT count(*) FROM t");
        assert_eq!(number(&connection, VERSION), version);
    }
}

#[test]
fn a_rollback_keeps_the_cache_and_it_is_right() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    connection.execute_batch("PRAGMA cache_size=10").unwrap();
    fill(&connection, 300, 500);
    for mode in ["delete", "truncate", "persist", "memory"] {
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        let version = number(&connection, VERSION);
        connection.execute_batch("BEGIN; UPDATE t SET b = randomblob(500); ROLLBACK").unwrap();
        assert_eq!(number(&connection, VERSION), version, "{mode}");
        check_integrity(&connection);
    }
}

/// In exclusive mode SQLite stops counting after its first commit. What it remembers must not be
/// taken for a later version by chance, nor its cache be dropped without need.
#[test]
fn leaving_exclusive_mode() {
    for commits in 1..6 {
        let fixture = Fixture::memory();
        let owner = fixture.open("a");
        fill(&owner, 10, 10);
        let other = fixture.open("a");
        number(&other, "SELECT count(*) FROM t");
        owner.pragma_update(None, "locking_mode", "exclusive").unwrap();
        for _ in 0..commits {
            owner.execute("INSERT INTO t(b) VALUES (1)", []).unwrap();
        }
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 10 + commits);
        let version = number(&owner, VERSION);
        owner.pragma_update(None, "locking_mode", "normal").unwrap();
        assert_eq!(number(&owner, "SELECT count(*) FROM t"), 10 + commits);
        assert_eq!(number(&owner, VERSION), version, "nobody else wrote");

        for round in 1..6 {
            other.execute("INSERT INTO t(b) VALUES (2)", []).unwrap();
            assert_eq!(
                number(&owner, "SELECT count(*) FROM t"),
                10 + commits + round,
                "{commits} commits in exclusive mode, {round} by another since"
            );
        }
        check_integrity(&owner);
    }
}
