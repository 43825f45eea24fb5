//! Every pragma, function and module that this SQLite has is judged: a new one that passes fails
//! here until somebody has looked at it.

use std::collections::BTreeSet;

use lapidary::HostErrorKind as Kind;
use rusqlite::Connection;

use crate::Neighbours;

/// Refused to `untrusted`: they reach beyond the facet's own content, tell of the process, or change
/// how the facet is stored and its commits are made.
const PRAGMAS_REFUSED: &[&str] = &[
    "analysis_limit",
    "application_id",
    "auto_vacuum",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "checkpoint_fullfsync",
    "compile_options",
    "count_changes",
    "database_list",
    "default_cache_size",
    "empty_result_callbacks",
    "encoding",
    "freelist_count",
    "full_column_names",
    "fullfsync",
    "function_list",
    "hard_heap_limit",
    "incremental_vacuum",
    "integrity_check",
    "journal_mode",
    "journal_size_limit",
    "locking_mode",
    "max_page_count",
    "mmap_size",
    "module_list",
    "page_count",
    "pragma_list",
    "query_only",
    "read_uncommitted",
    "schema_version",
    "secure_delete",
    "short_column_names",
    "shrink_memory",
    "soft_heap_limit",
    "synchronous",
    "temp_store",
    "temp_store_directory",
    "threads",
    "trusted_schema",
    "user_version",
    "wal_autocheckpoint",
    "wal_checkpoint",
    "writable_schema",
];

/// They load code, take pointers, write to the process's log, or tell of the build; or are of FTS3, which
/// trusts its stored bytes more than is wise.
const FUNCTIONS_REFUSED: &[&str] = &[
    "fts3_tokenizer",
    "fts5",
    "fts5_source_id",
    "load_extension",
    "matchinfo",
    "offsets",
    "optimize",
    "sqlite_compileoption_get",
    "sqlite_compileoption_used",
    "sqlite_log",
    "sqlite_source_id",
    "sqlite_version",
];

/// They read the store's pages as such, or are of FTS3; pragmas as tables go by the pragma.
const MODULES_REFUSED: &[&str] =
    &["dbstat", "fts3", "fts3tokenize", "fts4", "fts4aux", "pragma_module_list"];

/// What there is, by SQLite's own account.
fn found(sql: &str) -> BTreeSet<String> {
    let connection = Connection::open_in_memory().unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let names = statement.query_map((), |row| row.get(0)).unwrap();
    let names: BTreeSet<String> = names.collect::<Result<_, _>>().unwrap();
    assert!(names.len() > 5, "{names:?}");
    names
}

/// Runs what `statements` makes of each name; those that are refused as not allowed are `expected`.
fn assert_refused(sql: &str, expected: &[&str], statements: impl Fn(&str) -> Vec<String>) {
    let neighbours = Neighbours::new();
    let is_refused = |name: &String| {
        statements(name).iter().any(|sql| neighbours.kind_of(sql) == Some(Kind::NotAllowed))
    };
    let refused: BTreeSet<String> = found(sql).into_iter().filter(is_refused).collect();
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(refused, expected);
    neighbours.assert_well();
}

#[test]
fn every_pragma_is_judged() {
    let sql = "SELECT DISTINCT name FROM pragma_pragma_list";
    assert_refused(sql, PRAGMAS_REFUSED, |name| vec![format!("PRAGMA {name}")]);
    // Neither do they pass by another way.
    let neighbours = Neighbours::new();
    for name in PRAGMAS_REFUSED {
        for sql in [
            format!("PRAGMA {name}=1"),
            format!("PRAGMA {name}(1)"),
            format!("PRAGMA main.{name}=off"),
            format!("SELECT * FROM pragma_{name}"),
            format!("CREATE VIEW v AS SELECT * FROM pragma_{name}; SELECT * FROM v"),
        ] {
            let kind = neighbours.kind_of(&sql);
            assert!(matches!(kind, Some(Kind::NotAllowed | Kind::Statement)), "{sql}: {kind:?}");
            assert_ne!(neighbours.kind_of("DROP VIEW IF EXISTS v"), Some(Kind::NotAllowed));
        }
    }
    neighbours.assert_well();
}

#[test]
fn every_function_is_judged() {
    let sql = "SELECT DISTINCT name FROM pragma_function_list";
    let with =
        |name: &str, count: usize| format!("SELECT \"{name}\"({})", vec!["1"; count].join(","));
    assert_refused(sql, FUNCTIONS_REFUSED, |name| (0..4).map(|n| with(name, n)).collect());
}

#[test]
fn every_module_is_judged() {
    let sql = "SELECT DISTINCT name FROM pragma_module_list";
    assert_refused(sql, MODULES_REFUSED, |name| {
        vec![
            format!("SELECT * FROM {name}"),
            format!("CREATE VIRTUAL TABLE v_{name} USING {name}(a, b, c)"),
        ]
    });
}
