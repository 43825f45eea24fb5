//! Programs that want more than their share, or what is not theirs: every one ends in an error, and
//! the facet and its neighbour are as before.

use lapidary::HostErrorKind as Kind;

use crate::Neighbours;

/// Refused before anything of them runs.
const REFUSED: &[&str] = &[
    "ATTACH 'file:b?vfs=lapidary' AS other",
    "ATTACH '' AS other",
    "ATTACH DATABASE '../../etc/passwd' AS other",
    "ATTACH 'b' AS other KEY 'x'",
    "EXPLAIN ATTACH 'b' AS other",
    "DETACH temp",
    "VACUUM main",
    "VACUUM INTO '/tmp/escaped.db'",
    "VACUUM INTO 'file:escaped?vfs=unix'",
    "SELECT load_extension('/lib/x.so', 'entry')",
    "SELECT a FROM t WHERE load_extension(a) IS NOT NULL",
    "SELECT fts3_tokenizer('x', x'0000000000000000')",
    "SELECT sqlite_log(1, 'x')",
    "SELECT sqlite_version()",
    "SELECT sqlite_source_id()",
    "SELECT matchinfo(a) FROM t",
    "SELECT offsets(a) FROM t",
    "CREATE VIRTUAL TABLE v USING fts4(a)",
    "CREATE VIRTUAL TABLE v USING dbstat",
    "CREATE VIRTUAL TABLE v USING no_such_module(a)",
    "CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')",
    "CREATE VIRTUAL TABLE temp.v USING fts5(a)",
    "SELECT * FROM dbstat WHERE aggregate = 1",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_compile_options",
    "SELECT * FROM pragma_function_list",
    "SELECT (SELECT file FROM pragma_database_list)",
    "CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE TABLE temp.x(a)",
    "CREATE TABLE temp.x AS SELECT 1",
    "CREATE VIEW temp.x AS SELECT 1",
    "CREATE TRIGGER temp.r AFTER INSERT ON main.t BEGIN SELECT 1; END",
    "INSERT INTO temp.sqlite_schema VALUES (1, 2, 3, 4, 5)",
    "CREATE TEMP TABLE x AS SELECT * FROM t",
    "CREATE TEMPORARY VIEW x AS SELECT * FROM t",
    "BEGIN IMMEDIATE",
    "BEGIN EXCLUSIVE",
    "END",
    "COMMIT TRANSACTION",
    "ROLLBACK TRANSACTION",
    "CREATE TABLE \"_lapidary\"(a)",
    "CREATE TABLE '_LAPIDARY_x'(a)",
    "CREATE TABLE _lapidary_x AS SELECT 1",
    "CREATE TABLE IF NOT EXISTS _lapidary_kv(a)",
    "CREATE VIRTUAL TABLE _lapidary_v USING rtree(a, b, c)",
    "CREATE TRIGGER _lapidary_t AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE UNIQUE INDEX [_lapidary_i] ON t(a)",
    "ALTER TABLE t RENAME TO `_lapidary_timers`",
    "ALTER TABLE t RENAME TO /* */ \"_Lapidary_requests\"",
    "PRAGMA hard_heap_limit=1",
    "PRAGMA soft_heap_limit=1",
    "PRAGMA temp_store=FILE",
    "PRAGMA temp_store_directory='/'",
    "PRAGMA journal_mode=WAL",
    "PRAGMA journal_mode=MEMORY",
    "PRAGMA synchronous=OFF",
    "PRAGMA main.locking_mode=EXCLUSIVE",
    "PRAGMA mmap_size=1000000000",
    "PRAGMA cache_size=-1000000",
    "PRAGMA cache_spill=OFF",
    "PRAGMA max_page_count=10",
    "PRAGMA threads=8",
    "PRAGMA busy_timeout=1000000",
    "PRAGMA query_only=OFF",
    "PRAGMA secure_delete=ON",
    "PRAGMA wal_checkpoint",
    "PRAGMA auto_vacuum=FULL",
    "PRAGMA encoding='UTF-16'",
    "PRAGMA schema_version=77",
    "PRAGMA writable_schema=RESET",
    "PRAGMA writable_schema(1)",
    "PRAGMA lapidary_verify",
    "PRAGMA lapidary_stat",
    "PRAGMA no_such_pragma",
];

/// Stopped by a budget.
const STOPPED: &[&str] = &[
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT i FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT group_concat(i) FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT json_group_array(i) FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n ORDER BY random()",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT DISTINCT i FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) OVER (ORDER BY i) FROM n",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) UPDATE t SET a = (SELECT sum(i) FROM n)",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) DELETE FROM t WHERE a IN (SELECT -i FROM n)",
    "CREATE TABLE x AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "WITH RECURSIVE a(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM a LIMIT 3000), b AS (SELECT * FROM a) \
     SELECT count(*) FROM a, b WHERE a.i + b.i = -1",
];

/// Errors of SQLite, by its limits or its rules.
const FAILS: &[&str] = &[
    "SELECT randomblob(100000000)",
    "SELECT hex(zeroblob(3000000))",
    "SELECT length(zeroblob(2147483647))",
    "SELECT printf('%2000000000d', 1)",
    "SELECT printf('%.2000000000f', 1.0)",
    "SELECT format('%*d', 2000000000, 1)",
    "SELECT replace(hex(zeroblob(1000000)), '0', 'xxxxxxxxxx')",
    "SELECT replace(hex(zeroblob(100000)), '0', hex(zeroblob(100000)))",
    "SELECT 'a' LIKE hex(zeroblob(60))",
    "SELECT 'a' GLOB hex(zeroblob(60))",
    "SELECT json(printf('%.*c', 3000, '['))",
    "SELECT json_extract('{', '$')",
    "UPDATE sqlite_schema SET sql = 'CREATE TABLE t(b)'",
    "DELETE FROM sqlite_schema",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x(a)')",
    "DROP TABLE sqlite_schema",
    "CREATE TABLE sqlite_x(a)",
    "ALTER TABLE t RENAME TO sqlite_x",
    "CREATE TRIGGER r AFTER INSERT ON sqlite_schema BEGIN SELECT 1; END",
    "CREATE INDEX i ON sqlite_schema(name)",
    "SELECT \"no such column\"",
    "SELECT * FROM other.t",
    "SELECT 1 FROM t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, \
     t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t, t",
    "SELECT highlight(t, 0, '', '') FROM t",
    "SELECT bm25(1)",
];

fn assert_kind(statements: &[&str], expected: Kind) {
    let neighbours = Neighbours::new();
    let wrong: Vec<_> = statements
        .iter()
        .map(|sql| (*sql, neighbours.kind_of(sql)))
        .filter(|&(_, kind)| kind != Some(expected))
        .collect();
    assert!(wrong.is_empty(), "not {expected:?}: {wrong:#?}");
    neighbours.assert_well();
}

#[test]
fn what_is_not_allowed_is_refused() {
    assert_kind(REFUSED, Kind::NotAllowed);
}

#[test]
fn what_does_not_end_is_stopped() {
    assert_kind(STOPPED, Kind::BudgetExceeded);
}

#[test]
fn what_is_too_large_or_wrong_fails() {
    assert_kind(FAILS, Kind::Statement);
}

#[test]
fn what_nests_too_deep_fails() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth))
    };
    let programs = [
        nested("(", ")", 5_000),
        nested("-(", ")", 500),
        nested("abs(", ")", 500),
        nested("(SELECT ", ")", 500),
        format!("SELECT {}", vec!["1"; 200].join(", ")),
        format!("SELECT {}", vec!["1"; 500].join(" + ")),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(10)),
        format!("SELECT max({})", vec!["1"; 200].join(", ")),
        format!(
            "CREATE TABLE x({})",
            (0..200).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ")
        ),
        format!("SELECT '{}'", "x".repeat(200_000)),
        format!("SELECT ?{}", 1_000),
        (0..60).fold("SELECT 1 AS a".to_owned(), |inner, _| {
            format!("SELECT a + a AS a FROM ({inner}), ({inner})").chars().take(90_000).collect()
        }),
    ];
    let neighbours = Neighbours::new();
    for sql in programs {
        assert_eq!(
            neighbours.kind_of(&sql),
            Some(Kind::Statement),
            "{}",
            &sql[..60.min(sql.len())]
        );
    }
    neighbours.assert_well();
}

#[test]
fn triggers_and_views_that_feed_on_each_other_end() {
    let neighbours = Neighbours::new();
    let programs = [
        (
            "CREATE TABLE x(a); CREATE TRIGGER r AFTER INSERT ON x BEGIN INSERT INTO x VALUES (new.a + 1); END; \
          PRAGMA recursive_triggers=ON",
            "INSERT INTO x VALUES (1)",
        ),
        (
            "CREATE TABLE y(a); CREATE TABLE z(a); \
          CREATE TRIGGER ry AFTER INSERT ON y BEGIN INSERT INTO z VALUES (1); END; \
          CREATE TRIGGER rz AFTER INSERT ON z BEGIN INSERT INTO y VALUES (1); END",
            "INSERT INTO y VALUES (1)",
        ),
        (
            "CREATE VIEW v1 AS SELECT * FROM v2; CREATE VIEW v2 AS SELECT * FROM v1",
            "SELECT * FROM v1",
        ),
    ];
    for (setup, program) in programs {
        assert_eq!(neighbours.kind_of(setup), None, "{setup}");
        assert_eq!(neighbours.kind_of(program), Some(Kind::Statement), "{program}");
    }
    neighbours.assert_well();
}

/// If this fails, a connection with virtual tables is torn down twice.
#[test]
fn connections_with_virtual_tables_are_closed_and_opened_again() {
    let neighbours = Neighbours::new();
    assert_eq!(
        neighbours.kind_of(
            "CREATE VIRTUAL TABLE f USING fts5(a); CREATE VIRTUAL TABLE r USING rtree(a, b, c)"
        ),
        None
    );
    for n in 0..20 {
        assert_eq!(
            neighbours.kind_of(&format!(
                "INSERT INTO f VALUES ('word {n}'); INSERT INTO r VALUES ({n}, 1, 2)"
            )),
            None
        );
        let read = |sql: &'static str| {
            neighbours.hostile.read(move |connection| {
                Ok(connection.query_row(sql, (), |row| row.get::<_, i64>(0))?)
            })
        };
        assert_eq!(read("SELECT count(*) FROM f WHERE f MATCH 'word'").unwrap(), n + 1);
        assert_eq!(read("SELECT count(*) FROM r WHERE b < 5").unwrap(), n + 1);
        // The next calls find the policy changed, and open connections of their own.
        let policy = lapidary::Isolation::untrusted()
            .call_steps_max(Some(200_000 + u64::try_from(n).unwrap()));
        neighbours.host.set_isolation("a", Some(policy)).unwrap();
    }
    neighbours.assert_well();
}
