//! Import and export of a database that is larger than what they may hold in memory. Alone in its
//! process, so that nobody else's memory counts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::num::NonZeroUsize;

use lapidary::rusqlite::Connection;
use lapidary::{ExportOptions, FileProgress, Host, HostConfig, ImportOptions};

const DATABASE_BYTES: u64 = 110 << 20;
const MEMORY_BYTES_MAX: u64 = 72 << 20;

/// Memory of the process that is not the contents of files.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn memory_is_bounded_whatever_the_size() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("large.sqlite");
    let connection = Connection::open(&source).unwrap();
    let sql = "PRAGMA journal_mode=OFF; CREATE TABLE t(x);
               WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 110)
               INSERT INTO t SELECT randomblob(1048576) FROM n;";
    connection.execute_batch(sql).unwrap();
    drop(connection);
    assert!(fs::metadata(&source).unwrap().len() > DATABASE_BYTES);

    let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false);
    let host = Host::open(directory.path().join("store"), config).unwrap();
    let facet = host.facet("large").unwrap();
    let before = anonymous_bytes();
    let mut peak = 0;
    let mut told = 0;
    let mut watch = |_: FileProgress| {
        told += 1;
        if told % 16 == 0 {
            peak = peak.max(anonymous_bytes().saturating_sub(before));
        }
    };
    let imported = facet.import(&source, ImportOptions::new().progress(&mut watch)).unwrap();
    let out = directory.path().join("out.sqlite");
    let exported = facet.export(&out, ExportOptions::new().progress(&mut watch)).unwrap();
    assert_eq!(imported.content, exported);
    assert!(peak > 0 && peak < MEMORY_BYTES_MAX, "{peak} bytes");
}
