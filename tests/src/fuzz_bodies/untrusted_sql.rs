//! SQL of a stranger in a facet of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use lapidary::{FacetHandle, Host, HostConfig, Isolation, KvList};
use lapidary_engine::{Environment, MemoryIo};
use rusqlite::fallible_iterator::FallibleIterator as _;
use tempfile::TempDir;

/// What statements are made of, if the input chooses words. `@` stands for a directory that stays empty.
const WORDS: &str = "SELECT * FROM WHERE INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE VIEW TRIGGER INDEX \
    ALTER DROP RENAME TO ADD COLUMN AS AND OR NOT NULL IS IN EXISTS ON AFTER BEFORE INSTEAD OF EACH ROW FOR \
    BEGIN END COMMIT ROLLBACK SAVEPOINT RELEASE ATTACH DETACH DATABASE VACUUM PRAGMA REINDEX ANALYZE EXPLAIN \
    QUERY PLAN WITH RECURSIVE UNION ALL EXCEPT INTERSECT ORDER BY GROUP HAVING LIMIT OFFSET JOIN LEFT USING \
    VIRTUAL fts5 rtree fts4 dbstat json_each generate_series pragma_table_list pragma_database_list \
    t u v a b x key value sqlite_schema sqlite_master sqlite_temp_schema sqlite_sequence main temp main. temp. \
    _lapidary_kv _LAPIDARY_KV [_lapidary_kv] \"_lapidary_kv\" _lapidary_x _lapidary_meta main._lapidary_kv \
    ( ) , ; = < > + - || . ? 0 1 2 -1 9223372036854775807 1e308 'x' '' \"a\" x'00ff' 'key' NULL \
    '@/escaped.db' 'file:@/escaped.db?vfs=unix' 'file:neighbour?vfs=lapidary' 'neighbour' 'escaped.db' \
    writable_schema=ON journal_mode=OFF journal_mode trusted_schema foreign_keys=ON temp_store_directory='@' \
    page_size=512 recursive_triggers=ON defer_foreign_keys=ON legacy_alter_table=ON table_info(t) optimize \
    REFERENCES CASCADE PRIMARY KEY UNIQUE CHECK DEFAULT COLLATE NOCASE GENERATED ALWAYS STORED WITHOUT ROWID \
    STRICT CONFLICT REPLACE IGNORE ABORT RETURNING OVER PARTITION count(*) sum(a) zeroblob(100000) randomblob(9) \
    load_extension('@/x') hex(a) printf('%d',a) json('[1]') group_concat(a) char(0) abs(a) RAISE(ABORT,'x') \
    new.a old.a CASE WHEN THEN ELSE CAST INTEGER TEXT BLOB LIKE GLOB MATCH /* */ --";

/// SQL that the first word of an input can be: what is near the borders.
const OPENINGS: [&str; 16] = [
    "CREATE VIEW v AS SELECT * FROM _lapidary_kv;",
    "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO _lapidary_kv VALUES ('a','b'); END;",
    "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM _lapidary_kv; END; INSERT INTO t VALUES (1);",
    "CREATE TABLE child(x REFERENCES _lapidary_kv(key) ON DELETE CASCADE);",
    "ALTER TABLE t RENAME TO _lapidary_kv;",
    "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO",
    "CREATE VIRTUAL TABLE _lapidary USING fts5(a);",
    "CREATE VIRTUAL TABLE f USING fts5(a, content='_lapidary_kv');",
    "CREATE VIRTUAL TABLE f USING fts5(a, content='_lapidary_kv', content_rowid='rowid'); SELECT * FROM f;",
    "INSERT INTO f(f) VALUES ('rebuild');",
    "WITH _lapidary_kv AS (SELECT 1) SELECT * FROM _lapidary_kv;",
    "UPDATE t SET a = (SELECT value FROM _lapidary_kv);",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;",
    "VACUUM INTO '@/escaped.db';",
    "ATTACH '@/escaped.db' AS x; CREATE TABLE x.t(a);",
    "DROP TABLE t; CREATE TABLE",
];

struct Place {
    host: Host,
    neighbour: FacetHandle,
    /// Where nothing may appear.
    empty: TempDir,
    here: BTreeSet<OsString>,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let policy = Isolation::untrusted().call_time_max(None).call_steps_max(Some(100_000));
        let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false).isolation(policy);
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let host = Host::open_in(environment, config).expect("an empty store opens");
        let neighbour = host.facet("neighbour").expect("it is a good name");
        prepare(&neighbour);
        let empty = tempfile::tempdir().expect("there is room for a directory");
        Place { host, neighbour, empty, here: listing(Path::new(".")) }
    })
}

fn prepare(facet: &FacetHandle) {
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES (7)";
    facet.execute_batch(sql).wait().expect("it is harmless");
    facet.kv().put("key", "value").wait().expect("there is room");
}

/// Runs the input as SQL under [`Isolation::untrusted`]: whatever comes of it, what the host keeps in the
/// facet is as it was, so is the facet's neighbour, no file and no facet came into being, and it ends.
///
/// Input: a first byte below 64 says that the rest is SQL as it stands; any other, that each byte is a word.
pub fn untrusted_sql(input: &[u8]) {
    static FACETS: AtomicU64 = AtomicU64::new(0);
    let place = place();
    let Some((first, rest)) = input.split_first() else { return };
    let sql =
        if *first < 64 { String::from_utf8_lossy(rest).into_owned() } else { words(*first, rest) };
    let sql = sql.replace('@', &place.empty.path().display().to_string());
    let name = format!("stranger-{}", FACETS.fetch_add(1, Ordering::Relaxed));
    let stranger = place.host.facet(&name).expect("it is a good name");
    prepare(&stranger);
    for as_script in [false, true] {
        run(&stranger, &sql, as_script);
        check(place, &stranger, &name, &sql);
    }
    place.host.delete(&name).wait().expect("it is there");
}

fn words(first: u8, rest: &[u8]) -> String {
    let words: Vec<&str> = WORDS.split_ascii_whitespace().collect();
    let opening = if first < 160 { OPENINGS[usize::from(first) % OPENINGS.len()] } else { "" };
    let chosen = rest.iter().map(|byte| words[usize::from(*byte) % words.len()]);
    std::iter::once(opening).chain(chosen).collect::<Vec<_>>().join(" ")
}

/// Runs all statements, in one transaction of the host or each by itself. Errors are as good as rows.
fn run(stranger: &FacetHandle, sql: &str, as_script: bool) {
    if as_script {
        drop(stranger.execute_batch(sql.to_owned()).wait());
        return;
    }
    let sql = sql.to_owned();
    let ran = stranger.run(move |connection| {
        let mut batch = rusqlite::Batch::new(connection, &sql);
        while let Some(mut statement) = batch.next()? {
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
        }
        Ok(())
    });
    drop(ran.wait());
}

fn check(place: &Place, stranger: &FacetHandle, name: &str, sql: &str) {
    let pair = (b"key".to_vec(), b"value".to_vec());
    for facet in [stranger, &place.neighbour] {
        let kept = facet.kv().list(KvList::new()).wait();
        let kept =
            kept.unwrap_or_else(|error| panic!("what the host keeps is gone: {error}: {sql}"));
        assert_eq!(kept, std::slice::from_ref(&pair), "the host's table was written: {sql}");
        // Not the whole prefix: after a RENAME, no statement may have it in its text.
        let reserved = "SELECT group_concat(name) FROM
            (SELECT name FROM sqlite_schema WHERE name LIKE '\\_lap%' ESCAPE '\\' ORDER BY name)";
        let reserved = facet.query(reserved, (), |row| row.get::<_, String>(0)).wait();
        let reserved = reserved.unwrap_or_else(|error| panic!("no schema: {error}: {sql}"));
        assert_eq!(reserved, ["_lapidary_kv"], "a reserved name was taken: {sql}");
    }
    let found = place.neighbour.query("SELECT a FROM t", (), |row| row.get::<_, i64>(0)).wait();
    assert_eq!(found.expect("the neighbour is well"), [7], "the neighbour was written: {sql}");
    let listed = place.host.list(None, None, 10).wait().expect("facets are listed");
    let listed: Vec<&str> = listed.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(listed, ["neighbour", name], "a facet came into being: {sql}");
    assert!(listing(place.empty.path()).is_empty(), "a file came into being: {sql}");
    assert_eq!(listing(Path::new(".")), place.here, "a file came into being here: {sql}");
}

fn listing(directory: &Path) -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(directory).expect("the directory can be read");
    entries.map(|entry| entry.expect("it can be read").file_name()).collect()
}
