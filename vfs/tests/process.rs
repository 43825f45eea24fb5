//! Process-wide settings that come too late. A file of its own, so a process of its own.

use lapidary_vfs::{ProcessSettings, ProcessSetup, configure_process};
use rusqlite::Connection;

#[test]
fn settings_after_the_first_use_are_too_late_and_change_nothing() {
    let connection = Connection::open_in_memory().unwrap();
    for _ in 0..2 {
        assert_eq!(configure_process(&ProcessSettings::default()), ProcessSetup::TooLate);
    }
    connection.execute_batch("CREATE TABLE t(x)").unwrap();
}
