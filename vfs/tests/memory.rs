//! Memory that SQLite takes, counted by thread. A file of its own, so a process of its own.

#![allow(clippy::unwrap_used, reason = "how a test fails")]

use lapidary_vfs::{ProcessSettings, ProcessSetup, ThreadUse, configure_process};
use rusqlite::Connection;

#[test]
fn what_a_thread_takes_and_gives_back_is_counted_on_it() {
    assert_eq!(configure_process(&ProcessSettings::default()), ProcessSetup::Applied);
    // What SQLite sets up once and keeps.
    drop(Connection::open_in_memory().unwrap());

    let outer = ThreadUse::default().replace();
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(1000000))")
        .unwrap();
    let taken = ThreadUse::default().replace();
    assert!(taken.memory_bytes > 1_000_000, "{taken:?}");
    assert!(taken.memory_peak_bytes >= taken.memory_bytes, "{taken:?}");

    // Given back on another thread, it is counted there.
    let elsewhere = std::thread::spawn(move || {
        drop(connection);
        ThreadUse::default().replace()
    });
    let given_back = elsewhere.join().unwrap();
    assert_eq!(given_back.memory_bytes, -taken.memory_bytes);
    assert_eq!(given_back.memory_peak_bytes, 0);
    assert_eq!(outer.replace(), ThreadUse::default());
}
