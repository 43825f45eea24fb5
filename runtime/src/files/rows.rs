//! Rows of a database, counted by SQLite, so that a file and its facet can be compared as users see them.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::FileError;

/// Rows of each table.
pub(super) type Rows = BTreeMap<String, u64>;

/// Counts the rows of every table that has pages: of a virtual one, those of the tables it keeps its
/// content in. A table whose name is no text is left out; its pages are compared as all others are.
pub(super) fn count_rows(database: &Connection) -> rusqlite::Result<Rows> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0";
    let mut tables = database.prepare(sql)?;
    let names = tables
        .query_map((), |row| Ok(row.get_ref(0)?.as_str().ok().map(str::to_owned)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut rows = Rows::new();
    for name in names.into_iter().flatten() {
        // Through no index, which could need a collation of the program that made it.
        let sql = format!("SELECT count(*) FROM \"{}\" NOT INDEXED", name.replace('"', "\"\""));
        let count: i64 = database.query_row(&sql, (), |row| row.get(0))?;
        rows.insert(name, u64::try_from(count).unwrap_or(0));
    }
    Ok(rows)
}

/// Refuses a facet that has other rows than the file at `path`.
pub(super) fn compare(path: &Path, expected: &Rows, found: &Rows) -> Result<(), FileError> {
    let tables = expected.keys().chain(found.keys());
    match tables.into_iter().find(|&table| expected.get(table) != found.get(table)) {
        None => Ok(()),
        Some(table) => Err(FileError::RowsDiffer {
            path: path.to_owned(),
            table: table.clone(),
            expected: expected.get(table).copied(),
            found: found.get(table).copied(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;

    use super::{compare, count_rows};

    #[test]
    fn rows_of_tables_of_every_kind() {
        let database = Connection::open_in_memory().unwrap();
        database
            .execute_batch(
                "CREATE TABLE \"a \"\" b\"(x); INSERT INTO \"a \"\" b\" VALUES (1), (2);
                 CREATE TABLE keyed(k PRIMARY KEY) WITHOUT ROWID; INSERT INTO keyed VALUES ('k');
                 CREATE TABLE empty(x); CREATE VIEW seen AS SELECT * FROM keyed;
                 CREATE VIRTUAL TABLE text USING fts5(body); INSERT INTO text VALUES ('word');",
            )
            .unwrap();
        let rows = count_rows(&database).unwrap();
        assert_eq!((rows["a \" b"], rows["keyed"], rows["empty"]), (2, 1, 0));
        assert_eq!(rows["text_content"], 1);
        assert!(!rows.contains_key("text") && !rows.contains_key("seen"), "{rows:?}");
    }

    #[test]
    fn a_difference_names_the_table() {
        let rows = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|&(table, count)| (table.to_owned(), count)).collect()
        };
        let path = Path::new("f.sqlite");
        compare(path, &rows(&[("a", 1), ("b", 2)]), &rows(&[("a", 1), ("b", 2)])).unwrap();
        let lost = compare(path, &rows(&[("a", 1), ("b", 2)]), &rows(&[("a", 1), ("b", 1)]));
        assert!(lost.unwrap_err().to_string().contains("table b: 1 row"));
        let gone = compare(path, &rows(&[("a", 1)]), &rows(&[]));
        assert!(gone.unwrap_err().to_string().contains("table a: is not there"));
        let more = compare(path, &rows(&[]), &rows(&[("c", 0)]));
        assert!(more.unwrap_err().to_string().contains("table c"));
    }
}
