//! Bad input met through the host: a locked store, a full disk, SQL errors. Each gives an error that
//! names the thing and says what to do, and loses nothing that was acknowledged.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "it is a test"
)]

use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use lapidary::{Host, HostConfig, HostErrorKind};
use lapidary_engine::{Environment, ErrorKind, FormatParams, Store, StoreOptions, Tunables};
use lapidary_tests::sim_disk::SimDisk;

fn config() -> HostConfig {
    let options = StoreOptions {
        format: FormatParams { segment_bytes_min: 256 << 10, segment_bytes_max: 256 << 10 },
        tunables: Tunables { checkpoint_log_bytes: 1 << 20, ..Tunables::default() },
        ..StoreOptions::create()
    };
    HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false).store(options)
}

#[test]
fn a_store_locked_by_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut holder = Command::new(env!("CARGO_BIN_EXE_kill_child"))
        .arg("lock")
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    let error = Host::open(directory.path(), config()).map(drop).unwrap_err();
    let path = directory.path().display().to_string();
    let text = error.to_string();
    assert_eq!(error.kind(), HostErrorKind::Retry, "{text}");
    for word in [&path, "locked by another process", "stop that process"] {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    let options = StoreOptions::default();
    let error = Store::open(Environment::system(directory.path()), options).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    Host::open(directory.path(), config()).expect("the other process has ended");
}

/// A small file system of its own, if this process may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m", "lapidary-test"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

/// Fills the disk through the host until a commit is refused, checks that nothing acknowledged is
/// lost, makes room with `make_room`, and goes on.
fn fill(environment: &dyn Fn() -> Environment, make_room: impl FnOnce()) {
    let host = Host::open_in(environment(), config()).unwrap();
    let small = host.facet("small").unwrap();
    small.execute("CREATE TABLE t(n INTEGER PRIMARY KEY)", ()).wait().unwrap();
    small.execute("INSERT INTO t VALUES (1)", ()).wait().unwrap();
    let big = host.facet("big").unwrap();
    big.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, body BLOB)", ()).wait().unwrap();
    let mut acknowledged = 0_u32;
    let error = loop {
        match big.execute("INSERT INTO t(body) VALUES (randomblob(100000))", ()).wait() {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "the disk never gets full");
    };
    assert_eq!(error.kind(), HostErrorKind::NoSpace, "{error}");
    let text = error.to_string();
    for word in ["big", "free"] {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    let count = |host: &Host, facet: &str| -> u32 {
        let facet = host.facet(facet).unwrap();
        facet.read(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)).unwrap()
    };
    assert_eq!((count(&host, "big"), count(&host, "small")), (acknowledged, 1));
    make_room();
    small.execute("INSERT INTO t VALUES (2)", ()).wait().unwrap();
    big.execute("INSERT INTO t(body) VALUES (randomblob(100000))", ()).wait().unwrap();
    assert!(acknowledged > 3, "{acknowledged} commits before the disk was full");
    host.shutdown().unwrap();
    drop((small, big, host));
    let host = Host::open_in(environment(), config()).unwrap();
    assert_eq!((count(&host, "big"), count(&host, "small")), (acknowledged + 1, 2));
    host.shutdown().unwrap();
}

#[test]
fn a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    match SmallDisk::mount(directory.path()) {
        Some(_mounted) => {
            println!("on a file system of 6 MiB");
            for name in ["posix", "uring"] {
                let ballast = directory.path().join("ballast");
                std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
                let store = directory.path().join(name);
                let environment = || match name {
                    "posix" => Environment::system(&store),
                    // Where there is none, the same once more.
                    _ => Environment::uring(&store).unwrap_or_else(|_| Environment::system(&store)),
                };
                fill(&environment, || std::fs::remove_file(&ballast).unwrap());
                std::fs::remove_dir_all(&store).unwrap();
            }
        }
        None => println!("no permission to mount a small file system: simulated only"),
    }
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(3 << 20));
    let handle = disk.clone();
    fill(&|| Environment::with_io(Arc::new(disk.clone())), || handle.set_capacity(None));
}

#[test]
fn sql_errors() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::open(directory.path().join("store"), config()).unwrap();
    let facet = host.facet("tenant/agent").unwrap();
    facet.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, s TEXT NOT NULL)", ()).wait().unwrap();
    facet.execute("INSERT INTO t VALUES (1, 'one')", ()).wait().unwrap();
    for (sql, word) in [
        ("INSERT INTO t VALUES (1, 'again')", "UNIQUE"),
        ("INSERT INTO t VALUES (2, NULL)", "NOT NULL"),
        ("INSERT INTO nowhere VALUES (1)", "nowhere"),
        ("SELEC 1", "syntax"),
        (
            "INSERT INTO t SELECT n + 1, CASE n WHEN 1 THEN 's' END FROM (SELECT 1 AS n UNION ALL SELECT 2)",
            "NOT NULL",
        ),
    ] {
        let error = facet.execute(sql, ()).wait().unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), HostErrorKind::Statement, "{sql}: {text}");
        for word in ["tenant/agent", word] {
            assert!(text.contains(word), "{sql}: no {word:?} in: {text}");
        }
    }
    let error = facet
        .transaction(|tx| {
            tx.execute("INSERT INTO t VALUES (3, 'three')", [])?;
            Ok(tx.execute("INSERT INTO t VALUES (1, 'again')", [])?)
        })
        .wait()
        .unwrap_err();
    assert_eq!(error.kind(), HostErrorKind::Statement, "{error}");
    let rows: Vec<(i64, String)> = facet
        .read(|connection| {
            let mut statement = connection.prepare("SELECT n, s FROM t ORDER BY n")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .unwrap();
    assert_eq!(rows, [(1, "one".to_owned())], "refused statements left something");
    facet.execute("INSERT INTO t VALUES (2, 'two')", ()).wait().unwrap();
    for bad in ["", "/a", "a//b", "a/../b", "a\0b"] {
        let error = host.facet(bad).map(drop).unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::InvalidInput, "{bad:?}: {error}");
    }
    host.shutdown().unwrap();
}
