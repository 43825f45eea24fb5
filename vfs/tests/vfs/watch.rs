//! What is told of statements, and what a thread uses.

use std::sync::{Arc, Mutex};

use lapidary_vfs::{RunningStatement, StatementWatch, ThreadUse, watch_statements};

use crate::fixture::Fixture;

/// Beginnings, rows and ends, as text; panics at the SQL `SELECT 'panic'`.
struct Notes(Arc<Mutex<Vec<String>>>);

impl StatementWatch for Notes {
    fn begins(&mut self, statement: &RunningStatement<'_>, sql: &[u8]) {
        assert_ne!(statement.sql(), b"SELECT 'panic'", "as asked");
        self.0.lock().unwrap().push(format!("begins {}", String::from_utf8_lossy(sql)));
    }
    fn row(&mut self, _: &RunningStatement<'_>) {
        self.0.lock().unwrap().push("row".to_owned());
    }
    fn ends(&mut self, statement: &RunningStatement<'_>) {
        let (steps, scanned) = (statement.vm_steps(), statement.take_full_scan_steps());
        assert!(steps > 0);
        self.0.lock().unwrap().push(format!("ends, {scanned} scanned"));
    }
}

#[test]
fn statements_are_told_of_as_they_run() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    connection.execute_batch("CREATE TABLE t(x); CREATE TABLE u(x)").unwrap();
    let trigger = "CREATE TRIGGER copy AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.x); END";
    connection.execute_batch(trigger).unwrap();
    let notes = Arc::<Mutex<Vec<String>>>::default();
    watch_statements(&connection, Notes(Arc::clone(&notes))).unwrap();
    let take = || std::mem::take(&mut *notes.lock().unwrap());

    connection.execute("INSERT INTO t VALUES (?1)", [1]).unwrap();
    let insert = [
        "begins INSERT INTO t VALUES (?1)",
        "begins -- TRIGGER copy",
        "begins -- INSERT INTO u VALUES (new.x)",
        "ends, 0 scanned",
    ];
    assert_eq!(take(), insert);
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    take();
    for _ in 0..2 {
        let mut statement = connection.prepare_cached("SELECT x FROM t").unwrap();
        let rows = statement.query_map((), |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(rows.map(Result::unwrap).sum::<i64>(), 3);
        drop(statement);
        // One step leads from the first row to the second, one to the end.
        let select = ["begins SELECT x FROM t", "row", "row", "ends, 1 scanned"];
        assert_eq!(take(), select);
    }

    // A panic stays where it is.
    connection.query_row("SELECT 'panic'", (), |_| Ok(())).unwrap();
    take();

    // Another takes its place, and the first is dropped; the other with its connection.
    let others = Arc::<Mutex<Vec<String>>>::default();
    watch_statements(&connection, Notes(Arc::clone(&others))).unwrap();
    assert_eq!(Arc::strong_count(&notes), 1);
    connection.execute_batch("DELETE FROM u").unwrap();
    assert!(take().is_empty() && others.lock().unwrap().len() == 2, "{others:?}");
    drop(connection);
    assert_eq!(Arc::strong_count(&others), 1);
}

#[test]
fn a_thread_counts_what_goes_in_and_out() {
    let fixture = Fixture::memory();
    let connection = fixture.open("a");
    let outer = ThreadUse::default().replace();
    connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(50000))").unwrap();
    let wrote = ThreadUse { read_bytes: 7, ..ThreadUse::default() }.replace();
    assert!((50_000..100_000).contains(&wrote.written_bytes), "{wrote:?}");
    let reader = fixture.open("a");
    reader.query_row("SELECT count(*) FROM t WHERE x <> ''", (), |_| Ok(())).unwrap();
    let elsewhere = std::thread::spawn(|| ThreadUse::default().replace()).join().unwrap();
    assert_eq!(elsewhere, ThreadUse::default());
    let read = outer.replace();
    assert!((50_000..100_000).contains(&read.read_bytes), "{read:?}");
    assert_eq!(read.written_bytes, 0);
}
