//! `import`: facets from SQLite files, one or thousands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Args, ValueEnum};
use lapidary::{FileStep, Host, ImportCheck, ImportOptions, Imported};
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::{Interrupt, stopped};
use crate::open::Place;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::units::{count, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary import agents.store shop.sqlite --as tenants/acme
  lapidary import agents.store backups/*.sqlite --prefix agents
  lapidary import agents.store backups/ --check quick    every database below a directory

A facet is called after its file: its path below the directory that was given, or else its file name,
without .sqlite, .sqlite3, .db or .db3. Files may be in use, and are not changed. What is there already
with the same content is skipped, so an import that was interrupted can be run again. Of many files,
Ctrl-C lets those be finished that are being imported; a second one ends it at once.")]
pub(crate) struct Import {
    #[command(flatten)]
    place: Place,
    /// Database files, or directories of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Name of the facet, if there is one file
    #[arg(long = "as", value_name = "NAME", conflicts_with = "prefix")]
    name: Option<String>,
    /// Name that all facets are put below
    #[arg(long, value_name = "NAME")]
    prefix: Option<String>,
    /// What SQLite checks of each file first
    #[arg(long, value_enum, default_value_t = Check::Full)]
    check: Check,
    /// Refuse databases of more bytes, such as 1GiB
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_size)]
    max_size: Option<u64>,
    /// Directory for copies while they are imported [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Check {
    /// Everything, as PRAGMA integrity_check; and rows are counted, in the file and in the facet
    Full,
    /// All but indexes against their tables, as PRAGMA quick_check
    Quick,
    /// Nothing
    None,
}

/// A file, and the name of its facet.
struct Job {
    file: PathBuf,
    name: String,
}

pub(crate) fn run(arguments: &Import, output: &mut Output) -> Outcome {
    let jobs = jobs(arguments)?;
    arguments.place.with_host(|host| match jobs.as_slice() {
        [job] => one(host, arguments, job, output),
        _ => many(host, arguments, &jobs, output),
    })
}

fn import(
    host: &Host,
    arguments: &Import,
    job: &Job,
    listener: &mut dyn FnMut(lapidary::FileProgress),
) -> Outcome<Imported> {
    let check = match arguments.check {
        Check::Full => ImportCheck::Integrity,
        Check::Quick => ImportCheck::Quick,
        Check::None => ImportCheck::None,
    };
    let mut options = ImportOptions::new()
        .check(check)
        .skip_equal(true)
        .count_rows(matches!(arguments.check, Check::Full))
        .progress(listener);
    if let Some(bytes) = arguments.max_size {
        options = options.bytes_max(bytes);
    }
    if let Some(directory) = &arguments.scratch {
        options = options.scratch_directory(directory);
    }
    Ok(host.facet(&job.name)?.import(&job.file, options)?)
}

fn one(host: &Host, arguments: &Import, job: &Job, output: &mut Output) -> Outcome {
    let mut progress = Progress::new(output, "reading", Unit::Bytes);
    let mut step = FileStep::Reading;
    let mut listener = |told: lapidary::FileProgress| {
        if told.step != step {
            step = told.step;
            progress.message(word(step).to_owned());
        }
        progress.set(told.done_bytes, told.total_bytes);
    };
    let imported = import(host, arguments, job, &mut listener)?;
    drop(progress);
    output.json(&summary(&[(job, Ok(imported))]))?;
    let content = imported.content;
    let (name, root_hash) = (&job.name, content.root_hash);
    if imported.was_there {
        return output.line(format_args!("{name} has this content already: root hash {root_hash}"));
    }
    let pages = count(u64::from(content.page_count), "page");
    let bytes = size(content.bytes());
    let rows = imported.rows.map_or(String::new(), |rows| format!(", {}", count(rows, "row")));
    output.line(format_args!("imported {name}: {bytes} in {pages}{rows}, root hash {root_hash}"))
}

/// What a step is called in a progress bar.
pub(crate) fn word(step: FileStep) -> &'static str {
    match step {
        FileStep::Reading => "reading",
        FileStep::Checking => "checking",
        FileStep::Writing => "writing",
        _ => "comparing",
    }
}

/// Threads that read files. Two more than processors: each waits for the disk for a part of the time.
fn thread_count(jobs: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors + 2).min(jobs)
}

fn many(host: &Host, arguments: &Import, jobs: &[Job], output: &mut Output) -> Outcome {
    let interrupt = Interrupt::catch_first()?;
    let progress = Mutex::new(Progress::new(output, "importing", Unit::Things));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number).filter(|_| !interrupt.is_set()) else { break };
            let imported = import(host, arguments, job, &mut |_| ());
            let mut progress = lock(&progress);
            let mut results = lock(&results);
            if let Err(failure) = &imported {
                progress.report(failure);
            }
            results.push((number, job, imported));
            progress.set(results.len() as u64, jobs.len() as u64);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread_count(jobs.len()) {
            scope.spawn(work);
        }
    });
    drop(progress);
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|&(number, ..)| number);
    let results: Vec<_> = results.into_iter().map(|(_, job, result)| (job, result)).collect();
    let value = summary(&results);
    output.json(&value)?;
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let rows = match value["rows"].as_u64() {
        Some(rows) => format!(", {}", count(rows, "row")),
        None => String::new(),
    };
    output.line(format_args!(
        "imported {}, {}{rows}; {} there already, {} failed",
        count(number("imported"), "facet"),
        size(number("bytes")),
        number("skipped"),
        number("failed"),
    ))?;
    if results.len() < jobs.len() {
        return Err(stopped());
    }
    match results.iter().find_map(|(_, result)| result.as_ref().err()) {
        Some(first) => Err(Failure::told(first.exit)),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn summary(results: &[(&Job, Outcome<Imported>)]) -> serde_json::Value {
    let (mut imported, mut skipped, mut failed, mut bytes) = (0, 0, 0, 0);
    // All that are imported are counted, or none.
    let mut rows = None;
    let mut files = Vec::with_capacity(results.len());
    for (job, result) in results {
        let mut value = json!({ "file": job.file, "facet": job.name });
        match result {
            Ok(done) => {
                let was = if done.was_there { &mut skipped } else { &mut imported };
                *was += 1;
                if !done.was_there {
                    bytes += done.content.bytes();
                }
                if let Some(counted) = done.rows {
                    rows = Some(rows.unwrap_or(0) + counted);
                    value["rows"] = counted.into();
                }
                value["status"] = if done.was_there { "skipped" } else { "imported" }.into();
                value["pages"] = done.content.page_count.into();
                value["bytes"] = done.content.bytes().into();
                value["root_hash"] = done.content.root_hash.to_string().into();
            }
            Err(failure) => {
                failed += 1;
                value["status"] = "failed".into();
                value["error"] = failure.message().into();
            }
        }
        files.push(value);
    }
    json!({
        "imported": imported,
        "skipped": skipped,
        "failed": failed,
        "bytes": bytes,
        "rows": rows,
        "files": files,
    })
}

fn jobs(arguments: &Import) -> Outcome<Vec<Job>> {
    let mut jobs = Vec::new();
    for given in &arguments.files {
        if given.is_dir() {
            let mut files = Vec::new();
            walk(given, &mut files)?;
            for file in files {
                let below = file.strip_prefix(given).unwrap_or(&file).to_owned();
                jobs.push(Job { name: name_of(&below, arguments)?, file });
            }
        } else {
            let last = given.file_name().map_or(given.clone(), PathBuf::from);
            jobs.push(Job { name: name_of(&last, arguments)?, file: given.clone() });
        }
    }
    match (&arguments.name, jobs.as_mut_slice()) {
        (Some(name), [job]) => job.name.clone_from(name),
        (Some(_), _) => {
            let found = jobs.len();
            let message =
                format!("--as names one facet, but there are {found} files; use --prefix");
            return Err(Failure::new(Exit::Usage, message));
        }
        (None, []) => {
            let message =
                "no file whose name ends in .sqlite, .sqlite3, .db or .db3 was found there";
            return Err(Failure::new(Exit::NotFound, message));
        }
        (None, _) => {}
    }
    Ok(jobs)
}

const ENDINGS: [&str; 4] = ["sqlite", "sqlite3", "db", "db3"];

fn is_database(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

fn name_of(file: &Path, arguments: &Import) -> Outcome<String> {
    let stem = if is_database(file) { file.with_extension("") } else { file.to_owned() };
    let stem = stem.to_str().ok_or_else(|| {
        let words = "its name is not UTF-8, so no facet can be called after it; give one with --as";
        Failure::new(Exit::Usage, format!("{}: {words}", file.display()))
    })?;
    Ok(match &arguments.prefix {
        Some(prefix) => format!("{prefix}/{stem}"),
        None => stem.to_owned(),
    })
}

/// Database files below `directory`, in the order of their names. Links are not followed.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = entries.map_err(Failure::io("reading", directory))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(Failure::io("reading", &path))?;
        if kind.is_dir() {
            walk(&path, files)?;
        } else if kind.is_file() && is_database(&path) {
            files.push(path);
        }
    }
    Ok(())
}
