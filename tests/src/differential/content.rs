//! What a database holds, whatever its pages: the schema and the rows of every table, hashed. Like
//! the `dbhash` utility of SQLite.

use rusqlite::Connection;

use super::outcome::{Outcome, run};

/// The hash of all that `connection`'s main database holds.
///
/// # Errors
/// What a query of it failed with.
pub fn logical_hash(connection: &Connection) -> Result<blake3::Hash, String> {
    let mut hasher = blake3::Hasher::new();
    let schema = "SELECT type, name, tbl_name, sql FROM main.sqlite_schema ORDER BY type, name";
    add(&mut hasher, connection, schema)?;
    for pragma in ["user_version", "application_id", "encoding", "auto_vacuum"] {
        add(&mut hasher, connection, &format!("PRAGMA main.{pragma}"))?;
    }
    // Virtual tables are their shadow tables, which are read as what they are.
    let tables = "SELECT name FROM main.sqlite_schema
                  WHERE type = 'table' AND rootpage > 0 ORDER BY name";
    let names: Vec<String> = connection
        .prepare(tables)
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(|error| format!("{tables}: {error}"))?;
    for name in names.iter().map(|name| name.replace('"', "\"\"")) {
        hasher.update(name.as_bytes());
        let with_rowid = format!("SELECT rowid, * FROM main.\"{name}\" NOT INDEXED");
        let without = format!("SELECT * FROM main.\"{name}\" NOT INDEXED");
        let has_rowid = connection.prepare(&with_rowid).is_ok();
        add(&mut hasher, connection, if has_rowid { &with_rowid } else { &without })?;
    }
    Ok(hasher.finalize())
}

fn add(hasher: &mut blake3::Hasher, connection: &Connection, sql: &str) -> Result<(), String> {
    let Outcome { rows, error, .. } = run(connection, sql);
    if let Some(error) = error {
        return Err(format!("{sql}: error {}: {}", error.code, error.message));
    }
    hasher.update(&(rows.len() as u64).to_le_bytes());
    rows.iter().flatten().for_each(|cell| cell.hash_into(hasher));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(sql: &str) -> blake3::Hash {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        logical_hash(&connection).unwrap()
    }

    #[test]
    fn the_hash_is_of_the_content_alone() {
        let one = "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y');";
        let detour = format!(
            "PRAGMA page_size=512; {one} DELETE FROM t WHERE a = 2; VACUUM;
                              INSERT INTO t VALUES (2, 'y');"
        );
        assert_eq!(hash(one), hash(&detour));
        for other in [
            "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x');",
            "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), (2, 'z');",
            "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), ('2', 'y');",
            "CREATE TABLE t(a, b); INSERT INTO t(rowid, a, b) VALUES (1, 1, 'x'), (3, 2, 'y');",
            &format!("{one} CREATE INDEX i ON t(a);"),
            &format!("{one} PRAGMA user_version=1;"),
        ] {
            assert_ne!(hash(one), hash(other), "{other}");
        }
    }
}
