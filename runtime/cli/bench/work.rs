//! The work itself, the same on both sides, and what the kernel says of the process that does it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use lapidary::rusqlite::{self, Connection};

use super::{copy_file, open_file};
use crate::failure::{Exit, Failure, Outcome};

/// The database that all others begin as, in the directory of the run.
pub(super) const SOURCE: &str = "source.sqlite";
pub(super) const MESSAGES_OF_SOURCE: u64 = 100;
/// Databases that are opened cold, at most.
pub(super) const COLD: usize = 200;

pub(super) const SCHEMA: &str = "\
CREATE TABLE bench_message(id INTEGER PRIMARY KEY, ts INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX bench_message_ts ON bench_message(ts);
CREATE TABLE bench_state(k INTEGER PRIMARY KEY, v TEXT)";

/// Makes the source: tables and some messages, in a database of its own or in a copy of the template.
pub(super) fn make_source(path: &Path, template: Option<&Path>) -> Outcome {
    if let Some(template) = template {
        // Through SQLite, so that what is in its `-wal` counts.
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        // Exit code 6 is for what the store has lost.
        let about = |error: rusqlite::Error| {
            Failure::new(Exit::Failed, format!("{}: {error}", template.display()))
        };
        let from = Connection::open_with_flags(template, flags).map_err(about)?;
        from.execute("VACUUM INTO ?1", [path.to_string_lossy()]).map_err(about)?;
    }
    let mut connection = open_file(path)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let words = format!("{}: SQLite keeps journal_mode={mode}", path.display());
        return Err(Failure::new(Exit::Failed, words));
    }
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    let mut random = Random::new(0);
    for _ in 0..MESSAGES_OF_SOURCE {
        turn(&transaction, random.next())?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error.into())
}

/// The two statements of a turn, within a transaction.
pub(super) fn turn(connection: &Connection, seed: u64) -> rusqlite::Result<()> {
    let mut random = Random::new(seed);
    let body: String = (0..12).map(|_| format!("{:016x}", random.next())).collect();
    let ts = seed >> 24;
    connection
        .prepare_cached("INSERT INTO bench_message(ts, body) VALUES (?1, ?2)")?
        .execute((ts.cast_signed(), &body))?;
    connection
        .prepare_cached(
            "INSERT INTO bench_state(k, v) VALUES (?1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v",
        )?
        .execute(((seed % 8).cast_signed(), &body[..64]))?;
    Ok(())
}

/// The ten newest messages; returns the bytes of their bodies.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<usize> {
    let mut statement =
        connection.prepare_cached("SELECT body FROM bench_message ORDER BY id DESC LIMIT 10")?;
    let mut rows = statement.query(())?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += row.get_ref(0)?.as_bytes()?.len();
    }
    Ok(bytes)
}

pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM bench_message", (), |row| {
        row.get::<_, i64>(0).map(|count| count.unsigned_abs())
    })
}

/// A generator of numbers that nobody needs to be unable to guess (xorshift64*, Vigna 2016).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// An index into so many.
    #[allow(clippy::cast_possible_truncation, reason = "less than `count`")]
    pub(super) fn below(&mut self, count: usize) -> usize {
        ((self.next() >> 32) % count.max(1) as u64) as usize
    }
}

/// Threads of either side: two, or one if there is only one CPU.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get).min(2)
}

/// Runs `body` on `threads` threads at once with their numbers, and returns what each came to.
pub(super) fn on_threads<T: Send>(
    threads: usize,
    body: impl Fn(usize) -> Outcome<T> + Sync,
) -> Outcome<Vec<T>> {
    thread::scope(|scope| {
        let body = &body;
        let running: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || body(number))).collect();
        running.into_iter().map(joined).collect()
    })
}

/// What a thread came to.
pub(super) fn joined<T>(thread: thread::ScopedJoinHandle<'_, Outcome<T>>) -> Outcome<T> {
    thread.join().unwrap_or_else(|_| Err(Failure::new(Exit::Failed, "a thread panicked")))
}

/// Memory of this process that is resident, in KiB.
pub(super) fn resident_kib() -> Outcome<u64> {
    number_in("/proc/self/status", "VmRSS:")
}

/// Descriptors that this process may have open.
pub(super) fn descriptors_max() -> Outcome<u64> {
    number_in("/proc/self/limits", "Max open files")
}

pub(super) fn descriptors() -> Outcome<u64> {
    let path = Path::new("/proc/self/fd");
    Ok(fs::read_dir(path).map_err(Failure::io("listing", path))?.count() as u64)
}

/// The number after `label`; the most there is if it is no number, as of what has no limit.
fn number_in(path: &str, label: &str) -> Outcome<u64> {
    let path = Path::new(path);
    let text = fs::read_to_string(path).map_err(Failure::io("reading", path))?;
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let word = line.and_then(|rest| rest.split_whitespace().next()).ok_or_else(|| {
        Failure::new(Exit::Failed, format!("{} says nothing of {label:?}", path.display()))
    })?;
    Ok(word.parse().unwrap_or(u64::MAX))
}

/// Copies the source to `to`.
pub(super) fn copy_source(directory: &Path, to: &Path) -> Outcome {
    copy_file(&directory.join(SOURCE), to)
}
