//! Hostile SQL under `Isolation::untrusted`: each statement is refused or bounded, and the facet and
//! its neighbour on the same core go on.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod programs;
mod reserved;
mod sweeps;

use std::num::NonZeroUsize;

use rusqlite::fallible_iterator::FallibleIterator as _;

use lapidary::{FacetHandle, Host, HostConfig, HostError, HostErrorKind as Kind, Isolation};

const CASES: &[(Kind, &str)] = &[
    (Kind::NotAllowed, "ATTACH '/etc/passwd' AS x"),
    (Kind::NotAllowed, "ATTACH ':memory:' AS x"),
    (Kind::NotAllowed, "VACUUM"),
    (Kind::NotAllowed, "VACUUM INTO 'escaped.db'"),
    (Kind::NotAllowed, "DETACH main"),
    (Kind::NotAllowed, "SELECT load_extension('x')"),
    (Kind::NotAllowed, "SELECT fts3_tokenizer('simple')"),
    (Kind::NotAllowed, "SELECT sqlite_compileoption_get(0)"),
    (Kind::NotAllowed, "PRAGMA writable_schema=ON"),
    (Kind::NotAllowed, "PRAGMA journal_mode=OFF"),
    (Kind::NotAllowed, "PRAGMA locking_mode=NORMAL"),
    (Kind::NotAllowed, "PRAGMA cache_size=1000000"),
    (Kind::NotAllowed, "PRAGMA mmap_size=1000000"),
    (Kind::NotAllowed, "PRAGMA temp_store_directory='/'"),
    (Kind::NotAllowed, "PRAGMA trusted_schema=ON"),
    (Kind::NotAllowed, "PRAGMA page_size=65536"),
    (Kind::NotAllowed, "CREATE VIRTUAL TABLE v USING fts3(x)"),
    (Kind::NotAllowed, "CREATE VIRTUAL TABLE _lapidary USING fts5(x)"),
    (Kind::NotAllowed, "SELECT * FROM dbstat"),
    (Kind::NotAllowed, "CREATE TEMP TABLE x(a)"),
    (Kind::NotAllowed, "CREATE TEMP VIEW x AS SELECT 1"),
    (Kind::NotAllowed, "BEGIN"),
    (Kind::NotAllowed, "COMMIT"),
    (Kind::NotAllowed, "ROLLBACK"),
    (Kind::NotAllowed, "CREATE TABLE _lapidary_kv(a)"),
    (Kind::NotAllowed, "CREATE VIEW _Lapidary_v AS SELECT 1"),
    (Kind::NotAllowed, "CREATE INDEX _lapidary_i ON t(a)"),
    (Kind::NotAllowed, "ALTER TABLE t RENAME TO _lapidary_kv"),
    (Kind::NotAllowed, "/* x */ ALTER TABLE t RENAME TO \"_LAPIDARY_kv\""),
    (Kind::NotAllowed, "ALTER TABLE t RENAME TO [_lapidary_timers]"),
    (Kind::BudgetExceeded, ENDLESS),
    (Kind::BudgetExceeded, "SELECT count(*) FROM many a, many b, many c"),
    (Kind::BudgetExceeded, "SELECT a.n FROM many a, many b"),
    (Kind::Statement, "SELECT zeroblob(1000000000)"),
    (Kind::Statement, "SELECT printf('%.*c', 1000000000, 'x')"),
    (Kind::Statement, "SELECT 'a' LIKE printf('%.*c', 1000, '%')"),
    (
        Kind::Statement,
        "SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6",
    ),
    (Kind::Statement, "UPDATE sqlite_schema SET sql = 'x'"),
    (Kind::Statement, "SELECT ?101"),
];

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

#[test]
fn hostile_statements_are_refused_or_bounded() {
    let neighbours = Neighbours::new();
    let many = "CREATE TABLE many AS WITH RECURSIVE n(n) AS
                (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 1000) SELECT n FROM n";
    neighbours.hostile.execute(many, ()).wait().unwrap();
    for &(kind, sql) in CASES {
        let error = neighbours.run(sql).map(|()| sql).unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error}");
        assert!(error.to_string().contains("facet a"), "{sql}: {error}");
        neighbours.assert_well();
    }
}

#[test]
fn a_closure_that_hides_the_interruption_commits_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false);
    let host = Host::open(directory.path().join("store"), config).unwrap();
    let facet = host.facet("a").unwrap();
    facet.execute("CREATE TABLE t(a)", ()).wait().unwrap();
    let policy = Isolation::untrusted().call_time_max(None).call_steps_max(Some(50_000));
    host.set_isolation("a", Some(policy)).unwrap();
    let hidden = facet.transaction(|tx| {
        tx.execute("INSERT INTO t VALUES (1)", ())?;
        assert!(tx.query_row(ENDLESS, (), |_| Ok(())).is_err());
        Ok(())
    });
    assert_eq!(hidden.wait().unwrap_err().kind(), Kind::BudgetExceeded);
    let renamed = facet.transaction(|tx| {
        tx.execute_batch("ALTER TABLE t RENAME TO _lapidary_kv")?;
        Ok(())
    });
    assert_eq!(renamed.wait().unwrap_err().kind(), Kind::NotAllowed);
    let count = facet.query("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0));
    assert_eq!(count.wait().unwrap(), [0]);
    facet.execute("ALTER TABLE t RENAME TO u", ()).wait().unwrap();
    let error = facet.read(|c| Ok(c.query_row(ENDLESS, (), |_| Ok(()))?)).unwrap_err();
    assert_eq!(error.kind(), Kind::BudgetExceeded, "{error}");
    host.set_isolation("a", None).unwrap();
    facet.execute("PRAGMA user_version=3", ()).wait().unwrap();
}

#[test]
fn a_facet_that_uses_up_its_budget_rests() {
    let neighbours = Neighbours::new();
    let policy = |times| {
        let steps = Isolation::untrusted().call_time_max(None).call_steps_max(Some(50_000));
        neighbours.host.set_isolation("a", Some(steps.overrun_rest(times))).unwrap();
    };
    policy(u32::MAX);
    // What fails for another reason is no overrun.
    assert_eq!(neighbours.kind_of("SELECT no_such_function()"), Some(Kind::Statement));
    assert_eq!(neighbours.kind_of("ATTACH 'x' AS x"), Some(Kind::NotAllowed));
    assert_eq!(neighbours.kind_of(ENDLESS), Some(Kind::BudgetExceeded));
    for _ in 0..3 {
        let error = neighbours.run("SELECT 1").unwrap_err();
        assert_eq!(error.kind(), Kind::Retry, "{error}");
        assert!(matches!(error, HostError::Resting { .. }), "{error}");
    }
    // The neighbour, and what is durable of the facet itself.
    for handle in [&neighbours.neighbour, &neighbours.hostile] {
        handle.read(|c| Ok(c.query_row("SELECT a FROM t", (), |_| Ok(()))?)).unwrap();
    }
    neighbours.neighbour.execute("UPDATE t SET a = a", ()).wait().unwrap();
    // It comes to an end.
    let other = neighbours.host.facet("c").unwrap();
    neighbours
        .host
        .set_isolation(
            "c",
            Some(Isolation::untrusted().call_steps_max(Some(10_000)).overrun_rest(2)),
        )
        .unwrap();
    let endless = other.query(ENDLESS, (), |_| Ok(()));
    assert_eq!(endless.wait().unwrap_err().kind(), Kind::BudgetExceeded);
    while let Err(error) = other.query("SELECT 1", (), |_| Ok(())).wait() {
        assert_eq!(error.kind(), Kind::Retry, "{error}");
    }
}

/// Two facets on one core: one is hostile, the other lives beside it.
struct Neighbours {
    directory: tempfile::TempDir,
    host: Host,
    hostile: FacetHandle,
    neighbour: FacetHandle,
}

impl Neighbours {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = HostConfig::new()
            .cores(NonZeroUsize::MIN)
            .pin_cores(false)
            .isolation(Isolation::untrusted().call_time_max(None).call_steps_max(Some(200_000)));
        let host = Host::open(directory.path().join("store"), config).unwrap();
        let (hostile, neighbour) = (host.facet("a").unwrap(), host.facet("b").unwrap());
        for handle in [&hostile, &neighbour] {
            handle.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (7)").wait().unwrap();
        }
        Self { directory, host, hostile, neighbour }
    }

    /// Runs all statements of `sql` and reads all their rows.
    fn run(&self, sql: &str) -> Result<(), HostError> {
        let sql = sql.to_owned();
        let call = self.hostile.run(move |connection| {
            let mut batch = rusqlite::Batch::new(connection, &sql);
            while let Some(mut statement) = batch.next()? {
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
            }
            Ok(())
        });
        call.wait()
    }

    /// The kind of error that [`run`](Self::run) ends in.
    fn kind_of(&self, sql: &str) -> Option<Kind> {
        self.run(sql).err().map(|error| error.kind())
    }

    /// Both facets have what they had, and nothing came into being beside the store.
    fn assert_well(&self) {
        for handle in [&self.hostile, &self.neighbour] {
            let found = handle.query("SELECT a FROM t", (), |row| row.get::<_, i64>(0));
            assert_eq!(found.wait().unwrap(), [7]);
            let check = handle.query("PRAGMA quick_check", (), |row| row.get::<_, String>(0));
            assert_eq!(check.wait().unwrap(), ["ok"]);
        }
        let names: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["store"]);
    }
}
