//! Stock SQLite, a file for each database, `journal_mode=WAL` and `synchronous=FULL`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lapidary::rusqlite::{self, Connection};

use super::work::{self, Random};
use super::{Outcome, Side, open_file};
use crate::failure::{Exit, Failure};

/// Of a connection in WAL mode: the file, `-wal` and `-shm`.
const DESCRIPTORS: u64 = 3;
/// Left to the rest of the process.
const DESCRIPTORS_RESERVED: u64 = 64;

pub(super) struct Files {
    directory: PathBuf,
    threads: usize,
    /// Connections are opened when they are first needed, and stay.
    databases: Vec<Database>,
}

struct Database {
    path: PathBuf,
    connection: Option<Connection>,
}

impl Database {
    fn connection(&mut self) -> Outcome<&Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => open_file(&self.path)?,
        };
        Ok(self.connection.insert(connection))
    }

    fn turn(&mut self, seed: u64) -> Outcome {
        let connection = self.connection()?;
        let turn = |connection: &Connection| -> rusqlite::Result<()> {
            connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
            work::turn(connection, seed)?;
            connection.prepare_cached("COMMIT")?.execute(())?;
            Ok(())
        };
        Ok(turn(connection)?)
    }
}

/// Whether this process may have files for so many databases open.
pub(super) fn check_descriptors(facets: u32) -> Outcome {
    let needed = u64::from(facets) * DESCRIPTORS + DESCRIPTORS_RESERVED;
    let allowed = work::descriptors_max()?;
    if needed <= allowed {
        return Ok(());
    }
    let words = format!(
        "{facets} SQLite files take {needed} descriptors, {allowed} are allowed: give fewer --facets, \
         or allow more with `ulimit -n {needed}`"
    );
    Err(Failure::new(Exit::Usage, words))
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        Self { directory, threads: work::threads(), databases: Vec::new() }
    }
}

impl Side for Files {
    fn create(&mut self, count: u32) -> Outcome {
        let (directory, threads) = (&self.directory, self.threads);
        work::on_threads(threads, |thread| {
            for number in (0..count as usize).skip(thread).step_by(threads) {
                let connection = open_file(&directory.join(format!("made-{number}.sqlite")))?;
                connection.pragma_update(None, "journal_mode", "wal")?;
                connection.execute_batch(&format!("BEGIN; {}; COMMIT", work::SCHEMA))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn fork(&mut self, count: u32) -> Outcome {
        let (directory, threads) = (&self.directory, self.threads);
        let path = |number: usize| directory.join(format!("fork-{number}.sqlite"));
        work::on_threads(threads, |thread| {
            (0..count as usize)
                .skip(thread)
                .step_by(threads)
                .try_for_each(|number| work::copy_source(directory, &path(number)))
        })?;
        let database = |number| Database { path: path(number), connection: None };
        self.databases = (0..count as usize).map(database).collect();
        Ok(())
    }

    fn turns(&mut self, length: Duration) -> Outcome<u64> {
        let end = Instant::now() + length;
        let share = self.databases.len().div_ceil(self.threads);
        thread::scope(|scope| {
            let start = |(seed, databases): (u64, &'_ mut [Database])| {
                let mut random = Random::new(seed);
                let mut done = 0;
                while Instant::now() < end {
                    let seed = random.next();
                    databases[random.below(databases.len())].turn(seed)?;
                    done += 1;
                }
                Ok(done)
            };
            let running: Vec<_> = (1..)
                .zip(self.databases.chunks_mut(share))
                .map(|part| scope.spawn(move || start(part)))
                .collect();
            running.into_iter().map(work::joined).sum()
        })
    }

    fn count_targets(&self) -> usize {
        self.databases.len()
    }

    fn turn(&mut self, target: usize, seed: u64) -> Outcome {
        self.databases[target].turn(seed)
    }

    fn read_each(&mut self) -> Outcome {
        for database in &mut self.databases {
            work::read(database.connection()?)?;
        }
        Ok(())
    }

    fn count(&mut self) -> Outcome<u64> {
        let mut sum = 0;
        for database in &mut self.databases {
            sum += work::count(database.connection()?)?;
        }
        Ok(sum)
    }

    fn open_cold(&mut self) -> Outcome<Vec<Duration>> {
        for database in &mut self.databases {
            if let Some(connection) = database.connection.take() {
                connection.close().map_err(|(_, error)| error)?;
            }
        }
        let mut times = Vec::new();
        for database in self.databases.iter_mut().take(work::COLD) {
            let started = Instant::now();
            work::read(database.connection()?)?;
            times.push(started.elapsed());
            database.connection = None;
        }
        Ok(times)
    }
}
