//! `bench`: what packing is worth on this machine, in a minute or less.
//!
//! [`lapidary`](packed) and [files](files) do the same work through [`Side`], each in a process of its
//! own: memory that one has used and given back would not count for the other.

mod files;
mod packed;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use lapidary::rusqlite::Connection;
use lapidary_vfs::{ProcessSettings, configure_process};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, table};
use crate::progress::{Progress, Unit};
use work::MESSAGES_OF_SOURCE;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bench
  lapidary bench --facets 2000 --seconds 5 --dir /mnt/fast
  lapidary bench --template shop.sqlite --json

Both sides do durable work only: a store with its host, and a SQLite file for each facet with
journal_mode=WAL and synchronous=FULL. At the end the messages in every facet are counted; if one that
was acknowledged is missing, the exit code is 6. It needs a machine that has nothing else to do, and a
disk that keeps what it synced: not a directory in memory.

This is a short comparison. The packing benchmark in the source repository, `cargo run --release --bin
pack`, has more arms and figures, sweeps over facet counts, and a report with plots.")]
pub(crate) struct Bench {
    /// Facets, and files, to work on
    #[arg(long, value_name = "N", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    facets: u32,
    /// How long each timed phase of turns takes
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Directory, so also disk, to work in; what is made there is removed at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Let all facets be forks, and all files copies, of this SQLite database, which is only read
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Run one side, in this very directory, and print its figures
    #[arg(long, hide = true)]
    side: Option<SideName>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds between 0.05 and 3600".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SideName {
    Lapidary,
    Sqlite,
}

/// One way to keep many databases. All that it says is done is durable.
trait Side {
    /// Makes so many databases with tables, by SQL.
    fn create(&mut self, count: u32) -> Outcome;
    /// Makes so many databases that begin with what the source has; what follows goes to them.
    fn fork(&mut self, count: u32) -> Outcome;
    /// Does turns for so long, as many at a time as it can; returns how many.
    fn turns(&mut self, length: Duration) -> Outcome<u64>;
    /// Number of databases that turns go to.
    fn count_targets(&self) -> usize;
    /// Does one turn in one of them.
    fn turn(&mut self, target: usize, seed: u64) -> Outcome;
    /// Reads every database, on the connection that turns use.
    fn read_each(&mut self) -> Outcome;
    /// Counts the messages in all databases.
    fn count(&mut self) -> Outcome<u64>;
    /// Closes everything, opens some databases one by one, each with a first query; returns how
    /// long each took.
    fn open_cold(&mut self) -> Outcome<Vec<Duration>>;
}

/// Does one turn at a time for so long; returns how long each took.
fn turns_alone(side: &mut dyn Side, length: Duration) -> Outcome<Vec<Duration>> {
    let end = Instant::now() + length;
    let mut random = work::Random::new(100);
    let mut times = Vec::new();
    while Instant::now() < end {
        let seed = random.next();
        let target = random.below(side.count_targets());
        let started = Instant::now();
        side.turn(target, seed)?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// What came of a side.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    /// Not with a template: then all are forks.
    create_per_s: Option<f64>,
    fork_per_s: f64,
    turns_per_s: f64,
    turn_alone_p50_us: f64,
    cold_open_p50_us: f64,
    resident_kib_per_facet: f64,
    descriptors_per_facet: f64,
    /// Acknowledged, and found again.
    turns: u64,
}

pub(crate) fn run(arguments: &Bench, output: &mut Output) -> Outcome {
    if let Some(side) = arguments.side {
        let figures = measure(side, arguments, output)?;
        serde_json::to_writer(output.writer(), &figures).map_err(std::io::Error::from)?;
        return Ok(());
    }
    files::check_descriptors(arguments.facets)?;
    let directory = tempfile::Builder::new()
        .prefix("lapidary-bench-")
        .tempdir_in(&arguments.dir)
        .map_err(Failure::io("making a directory in", &arguments.dir))?;
    work::make_source(&directory.path().join(work::SOURCE), arguments.template.as_deref())?;
    let packed = run_side("lapidary", arguments, directory.path(), output)?;
    let files = run_side("sqlite", arguments, directory.path(), output)?;
    directory.close().map_err(Failure::io("removing what was made in", &arguments.dir))?;
    output.json(&json!({
        "facets": arguments.facets,
        "seconds": arguments.seconds,
        "template": arguments.template,
        "sqlite_version": lapidary::rusqlite::version(),
        "lapidary": packed,
        "sqlite": files,
    }))?;
    print(&packed, &files, arguments.facets, output)
}

/// Runs one side in a process of its own.
fn run_side(
    side: &'static str,
    arguments: &Bench,
    directory: &Path,
    output: &Output,
) -> Outcome<Figures> {
    let program = std::env::current_exe().map_err(Failure::io("finding", Path::new("lapidary")))?;
    let (facets, seconds) = (arguments.facets.to_string(), arguments.seconds.to_string());
    let mut command = Command::new(&program);
    command.args(output.is_json().then_some("--json"));
    command.args(["bench", "--side", side, "--facets", &facets, "--seconds", &seconds, "--dir"]);
    command.arg(directory);
    if let Some(template) = &arguments.template {
        command.arg("--template").arg(template);
    }
    let ran = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::io("starting", &program))?;
    match ran.status.code() {
        Some(0) => serde_json::from_slice(&ran.stdout).map_err(|error| {
            Failure::new(Exit::Failed, format!("the process of {side} said nonsense: {error}"))
        }),
        // It has said why.
        Some(code) if code == Exit::Damaged as i32 => Err(Failure::told(Exit::Damaged)),
        Some(code) if code == Exit::Usage as i32 => Err(Failure::told(Exit::Usage)),
        Some(code) if code == Exit::NoSpace as i32 => Err(Failure::told(Exit::NoSpace)),
        Some(_) => Err(Failure::told(Exit::Failed)),
        None => {
            let words = format!("the process of {side} was ended: {}", ran.status);
            Err(Failure::new(Exit::Failed, words))
        }
    }
}

/// Takes the time of one side, from nothing to databases that are counted and opened again.
fn measure(name: SideName, arguments: &Bench, output: &Output) -> Outcome<Figures> {
    let facets = arguments.facets;
    // The same for both, and before anything is counted.
    configure_process(&ProcessSettings::default());
    let mut side: Box<dyn Side> = match name {
        SideName::Lapidary => Box::new(packed::Packed::open(&arguments.dir, facets)?),
        SideName::Sqlite => Box::new(files::Files::new(&arguments.dir)),
    };
    let label = match name {
        SideName::Lapidary => "lapidary",
        SideName::Sqlite => "sqlite",
    };
    let mut progress = Progress::new(output, label, Unit::Things);
    let mut step = 0;
    let mut now = |doing: &str| {
        progress.message(format!("{label}: {doing}"));
        progress.set(step, 6);
        step += 1;
    };
    let length = Duration::from_secs_f64(arguments.seconds);
    let rate =
        |count: u32, started: Instant| f64::from(count) / started.elapsed().as_secs_f64().max(1e-9);

    now("creating");
    let create_per_s = if arguments.template.is_none() {
        let started = Instant::now();
        side.create(facets)?;
        Some(rate(facets, started))
    } else {
        None
    };
    now("forking");
    let started = Instant::now();
    side.fork(facets)?;
    let fork_per_s = rate(facets, started);

    let (resident_before, descriptors_before) = (work::resident_kib()?, work::descriptors()?);
    now("turns");
    let started = Instant::now();
    let at_once = side.turns(length)?;
    let turns_per_s = float(at_once) / started.elapsed().as_secs_f64();
    now("turns, one at a time");
    let mut alone = turns_alone(&mut *side, length / 2)?;
    side.read_each()?;
    let resident = work::resident_kib()?.saturating_sub(resident_before);
    let descriptors = work::descriptors()?.saturating_sub(descriptors_before);

    now("counting");
    let turns = at_once + alone.len() as u64;
    let expected = turns + u64::from(facets) * MESSAGES_OF_SOURCE;
    let found = side.count()?;
    if found != expected {
        let words = format!(
            "{label}: {found} messages are there, {expected} were acknowledged; run it again with \
             the same options, and report it if it happens twice"
        );
        return Err(Failure::new(Exit::Damaged, words));
    }
    now("opening");
    let mut cold = side.open_cold()?;
    Ok(Figures {
        create_per_s: create_per_s.map(rounded),
        fork_per_s: rounded(fork_per_s),
        turns_per_s: rounded(turns_per_s),
        turn_alone_p50_us: median_us(&mut alone),
        cold_open_p50_us: median_us(&mut cold),
        resident_kib_per_facet: rounded(float(resident) / f64::from(facets)),
        descriptors_per_facet: rounded(float(descriptors) / f64::from(facets)),
        turns,
    })
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn median_us(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| rounded(time.as_secs_f64() * 1e6))
}

fn print(packed: &Figures, files: &Figures, facets: u32, output: &mut Output) -> Outcome {
    let mut lines = table(&[&format!("{facets} FACETS"), "LAPIDARY:", "SQLITE:", "RATIO:"]);
    let mut line = |label: &str, packed: f64, files: f64| {
        let ratio = if files > 0.0 { format!("{:.2}x", packed / files) } else { "-".to_owned() };
        lines.add_row([label.to_owned(), worded(packed), worded(files), ratio]);
    };
    if let Some((packed, files)) = packed.create_per_s.zip(files.create_per_s) {
        line("creates/s", packed, files);
    }
    line("forks/s", packed.fork_per_s, files.fork_per_s);
    line("durable turns/s", packed.turns_per_s, files.turns_per_s);
    line("one turn at a time, p50 us", packed.turn_alone_p50_us, files.turn_alone_p50_us);
    line("cold open and query, p50 us", packed.cold_open_p50_us, files.cold_open_p50_us);
    line("resident KiB/facet", packed.resident_kib_per_facet, files.resident_kib_per_facet);
    line("descriptors/facet", packed.descriptors_per_facet, files.descriptors_per_facet);
    output.line(lines.trim_fmt())?;
    let turns = indicatif::HumanCount(packed.turns + files.turns);
    output.line(format_args!("all {turns} turns that were acknowledged are there"))
}

fn worded(number: f64) -> String {
    if number < 100.0 {
        return format!("{number:.2}");
    }
    indicatif::HumanFloatCount(number.round()).to_string()
}

/// Opens a SQLite file that is in WAL mode, or is to be.
fn open_file(path: &Path) -> Outcome<Connection> {
    let connection = Connection::open(path)
        .map_err(|error| Failure::from(error).about(format_args!("{}", path.display())))?;
    connection.execute_batch("PRAGMA synchronous=FULL")?;
    Ok(connection)
}

/// Copies a SQLite file that nobody has open, and makes the copy durable.
fn copy_file(from: &Path, to: &Path) -> Outcome {
    fs::copy(from, to).map_err(Failure::io("copying to", to))?;
    fs::File::open(to).and_then(|file| file.sync_all()).map_err(Failure::io("syncing", to))
}
