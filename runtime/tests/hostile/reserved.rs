//! What the host keeps in a facet is out of reach of SQL, under each preset.

use std::num::NonZeroUsize;

use lapidary::{FacetHandle, Host, HostConfig, HostErrorKind as Kind, Isolation, KvList, Schema};

const TABLES: &str =
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '\\_lapidary%' ESCAPE '\\'";

/// A facet in which the host keeps everything that it ever keeps.
struct Kept {
    _directory: tempfile::TempDir,
    _host: Host,
    facet: FacetHandle,
    tables: Vec<String>,
}

impl Kept {
    fn under(policy: Isolation) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false).isolation(policy);
        let host = Host::open(directory.path().join("store"), config).unwrap();
        let schema = Schema::new().sql("CREATE TABLE t(a)").step(|tx| {
            tx.execute("INSERT INTO t VALUES (1)", ())?;
            Ok(())
        });
        let facet = host.facet("a").unwrap().with_schema(&schema);
        facet.kv().put("key", "value").wait().unwrap();
        facet.alarms().set("alarm", u64::MAX, "payload").wait().unwrap();
        let reply = facet.once("request", |tx| {
            tx.kv().put("other", "value")?;
            Ok(b"done".to_vec())
        });
        assert_eq!(reply.wait().unwrap(), b"done");
        let tables = facet.query(TABLES, (), |row| row.get::<_, String>(0)).wait().unwrap();
        assert!(tables.len() >= 4, "{tables:?}");
        Self { _directory: directory, _host: host, facet, tables }
    }

    fn kind_of(&self, sql: &str) -> Option<Kind> {
        self.facet.execute_batch(sql.to_owned()).wait().err().map(|error| error.kind())
    }

    fn assert_untouched(&self) {
        let tables = self.facet.query(TABLES, (), |row| row.get::<_, String>(0)).wait().unwrap();
        assert_eq!(tables, self.tables);
        let listed = self.facet.kv().list(KvList::new()).wait().unwrap();
        let pair = |key: &str| (key.as_bytes().to_vec(), b"value".to_vec());
        assert_eq!(listed, [pair("key"), pair("other")]);
        let again = self.facet.once("request", |_| panic!("done before"));
        assert_eq!(again.wait().unwrap(), b"done");
        let alarms = self.facet.alarms().list(None, 10).wait().unwrap();
        assert_eq!((alarms.len(), alarms[0].payload.as_slice()), (1, &b"payload"[..]));
        let first = self.facet.query("SELECT a FROM t LIMIT 1", (), |row| row.get::<_, i64>(0));
        assert_eq!(first.wait().unwrap(), [1]);
    }
}

fn presets() -> [(&'static str, Isolation); 3] {
    [
        ("untrusted", Isolation::untrusted()),
        ("tenant", Isolation::tenant()),
        ("trusted", Isolation::trusted()),
    ]
}

#[test]
fn what_the_host_keeps_is_not_changed() {
    for (preset, policy) in presets() {
        let kept = Kept::under(policy);
        for table in &kept.tables {
            for sql in [
                format!("INSERT INTO {table} DEFAULT VALUES"),
                format!("INSERT INTO main.{table} VALUES (1, 2)"),
                format!("REPLACE INTO {table} SELECT * FROM {table}"),
                format!("WITH x AS (SELECT 1) DELETE FROM {table}"),
                format!("DELETE FROM {table}"),
                format!("DELETE FROM \"main\".[{table}] RETURNING *"),
                format!("UPDATE {table} SET rowid = 1"),
                format!("UPDATE OR IGNORE {} SET key = 1", table.to_uppercase()),
                format!("DROP TABLE {table}"),
                format!("DROP TABLE IF EXISTS main.{table}"),
                format!("ALTER TABLE {table} RENAME TO mine"),
                format!("ALTER TABLE {table} RENAME COLUMN key TO mine"),
                format!("ALTER TABLE {table} ADD COLUMN mine"),
                format!("ALTER TABLE {table} DROP COLUMN value"),
                format!("CREATE INDEX i ON {table}(rowid)"),
                format!("CREATE TRIGGER r AFTER INSERT ON {table} BEGIN SELECT 1; END"),
                format!("CREATE TEMP TRIGGER r AFTER INSERT ON main.{table} BEGIN SELECT 1; END"),
                format!("CREATE TEMP TABLE {table}(a)"),
                format!("CREATE VIEW temp.{table} AS SELECT 1"),
                format!("ALTER TABLE t RENAME TO {table}_2"),
            ] {
                let kind = kept.kind_of(&sql);
                assert!(
                    matches!(kind, Some(Kind::NotAllowed | Kind::Statement)),
                    "{preset}: {sql}: {kind:?}"
                );
            }
            // These are allowed until they reach for the table.
            for sql in [
                format!("CREATE VIEW v AS SELECT * FROM {table}"),
                format!(
                    "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO {table} VALUES (1, 2); END"
                ),
                format!("CREATE TRIGGER d AFTER INSERT ON t BEGIN DELETE FROM {table}; END"),
                format!("CREATE TABLE child(x REFERENCES {table}(key) ON DELETE CASCADE)"),
            ] {
                let _ = kept.kind_of(&sql);
            }
            for sql in ["SELECT * FROM v", "DELETE FROM v", "INSERT INTO t VALUES (2)"] {
                let _ = kept.kind_of(sql);
            }
            let drop = "DROP VIEW IF EXISTS v; DROP TRIGGER IF EXISTS r; DROP TRIGGER IF EXISTS d";
            assert_eq!(kept.kind_of(drop), None, "{preset}");
            assert_eq!(kept.kind_of("DROP TABLE IF EXISTS child"), None, "{preset}");
        }
        for sql in [
            "DROP INDEX _lapidary_alarms_wake",
            "CREATE TABLE _lapidary_mine(a)",
            "CREATE TABLE _LAPIDARY(a)",
            "CREATE INDEX _lapidary_i ON t(a)",
            "CREATE VIEW _lapidary_v AS SELECT 1",
            "CREATE VIRTUAL TABLE _lapidary USING fts5(x)",
            "ALTER TABLE t RENAME TO \"_Lapidary_kv2\"",
            "DELETE FROM sqlite_schema WHERE name LIKE '\\_lapidary%' ESCAPE '\\'",
        ] {
            let kind = kept.kind_of(sql);
            assert!(
                matches!(kind, Some(Kind::NotAllowed | Kind::Statement)),
                "{preset}: {sql}: {kind:?}"
            );
        }
        kept.assert_untouched();
    }
}

#[test]
fn what_the_host_keeps_is_read_by_the_trusted_alone() {
    for (preset, policy) in presets() {
        let kept = Kept::under(policy);
        for table in &kept.tables {
            for sql in [
                format!("SELECT * FROM {table}"),
                format!("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM main.{table})"),
            ] {
                let expected = (preset != "trusted").then_some(Kind::NotAllowed);
                assert_eq!(kept.kind_of(&sql), expected, "{preset}: {sql}");
            }
        }
        // A renaming of the facet's own does not make it forget.
        assert_eq!(kept.kind_of("ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t"), None);
        let expected = (preset != "trusted").then_some(Kind::NotAllowed);
        assert_eq!(kept.kind_of("SELECT * FROM _lapidary_kv"), expected, "{preset}");
        kept.assert_untouched();
    }
}

#[test]
fn what_goes_for_all_tables_passes() {
    for (preset, policy) in presets() {
        let kept = Kept::under(policy);
        for sql in ["ANALYZE", "REINDEX", "PRAGMA optimize", "PRAGMA quick_check"] {
            assert_eq!(kept.kind_of(sql), None, "{preset}: {sql}");
        }
        kept.assert_untouched();
    }
}
