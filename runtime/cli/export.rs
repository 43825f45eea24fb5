//! `export`: SQLite files from facets, one or all.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use lapidary::{
    Bookmark, ExportOptions, FileContent, FileStep, Host, HostErrorKind, file_path_of,
    root_hash_of_file,
};
use serde_json::json;

use crate::facets::each;
use crate::failure::{Failure, Outcome};
use crate::import::word;
use crate::interrupt::{Interrupt, stopped};
use crate::open::Place;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::units::{count, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary export agents.store agents/42 copy.sqlite
  lapidary export agents.store agents/42 then.sqlite --at BOOKMARK
  lapidary export agents.store --all backups/                    agents/42 to backups/agents/42.sqlite
  lapidary export agents.store --all backups/ --prefix agents

Each file is written beside its place, read back, compared, and only then given its name. With --all,
a file that is there already with the same content is skipped.")]
pub(crate) struct Export {
    #[command(flatten)]
    place: Place,
    /// The facet
    #[arg(required_unless_present = "all", requires = "file")]
    facet: Option<String>,
    /// The file to write
    file: Option<PathBuf>,
    /// Every facet, to a file below this directory
    #[arg(long, value_name = "DIR", conflicts_with = "facet")]
    all: Option<PathBuf>,
    /// With --all: only this facet and those below it
    #[arg(long, value_name = "NAME", requires = "all")]
    prefix: Option<String>,
    /// This version, as `history` lists them, rather than the newest
    #[arg(long, value_name = "BOOKMARK", conflicts_with = "all")]
    at: Option<Bookmark>,
    /// Replace files that exist
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(arguments: &Export, output: &mut Output) -> Outcome {
    arguments.place.with_host(|host| match (&arguments.all, &arguments.facet, &arguments.file) {
        (Some(directory), ..) => all(host, arguments, directory, output),
        (None, Some(facet), Some(file)) => one(host, arguments, facet, file, output),
        // The command line has asked for one or the other.
        (None, ..) => Ok(()),
    })
}

fn one(host: &Host, arguments: &Export, facet: &str, file: &Path, output: &mut Output) -> Outcome {
    let mut progress = Progress::new(output, "writing", Unit::Bytes);
    let mut step = FileStep::Writing;
    let mut listener = |told: lapidary::FileProgress| {
        if told.step != step {
            step = told.step;
            progress.message(word(step).to_owned());
        }
        progress.set(told.done_bytes, told.total_bytes);
    };
    let mut options = ExportOptions::new().overwrite(arguments.force).progress(&mut listener);
    if let Some(bookmark) = arguments.at {
        options = options.at(bookmark);
    }
    let content = host.facet(facet)?.export(file, options)?;
    drop(progress);
    told(facet, file, &content, output)
}

/// Says that `facet` was exported.
pub(crate) fn told(
    facet: &str,
    file: &Path,
    content: &FileContent,
    output: &mut Output,
) -> Outcome {
    output.json(&value(facet, file, content, "exported"))?;
    let (bytes, pages) = (size(content.bytes()), count(u64::from(content.page_count), "page"));
    let (file, root_hash) = (file.display(), content.root_hash);
    output
        .line(format_args!("exported {facet} to {file}: {bytes} in {pages}, root hash {root_hash}"))
}

fn value(facet: &str, file: &Path, content: &FileContent, status: &str) -> serde_json::Value {
    json!({
        "facet": facet,
        "file": file,
        "status": status,
        "pages": content.page_count,
        "bytes": content.bytes(),
        "root_hash": content.root_hash.to_string(),
    })
}

fn all(host: &Host, arguments: &Export, directory: &Path, output: &mut Output) -> Outcome {
    fs::create_dir_all(directory).map_err(Failure::io("making", directory))?;
    let interrupt = Interrupt::catch_first()?;
    let total = host.store().stat().facets;
    let mut progress = Progress::new(output, "exporting", Unit::Things);
    let (mut done, mut exported, mut skipped, mut bytes) = (0, 0_u64, 0_u64, 0);
    let mut failed: Option<Failure> = None;
    let mut values = Vec::new();
    let mut was_stopped = false;
    for info in each(host, arguments.prefix.as_deref()) {
        was_stopped = interrupt.is_set();
        if was_stopped {
            break;
        }
        let name = info?.name;
        let file = directory.join(file_path_of(&name));
        match to_file(host, name.as_str(), &file, arguments.force) {
            Ok(Some(content)) => {
                exported += 1;
                bytes += content.bytes();
                values.push(value(name.as_str(), &file, &content, "exported"));
            }
            Ok(None) => {
                skipped += 1;
                values.push(json!({ "facet": name.as_str(), "file": file, "status": "skipped" }));
            }
            Err(failure) => {
                progress.report(&failure);
                values.push(json!({
                    "facet": name.as_str(),
                    "file": file,
                    "status": "failed",
                    "error": failure.message(),
                }));
                failed.get_or_insert(Failure::told(failure.exit));
            }
        }
        done += 1;
        progress.set(done, total.max(done));
    }
    drop(progress);
    let failures = done - exported - skipped;
    output.json(&json!({
        "exported": exported, "skipped": skipped, "failed": failures, "bytes": bytes, "files": values,
    }))?;
    let facets = count(exported, "facet");
    let bytes = size(bytes);
    output.line(format_args!(
        "exported {facets}, {bytes}; {skipped} there already, {failures} failed"
    ))?;
    if was_stopped {
        return Err(stopped());
    }
    failed.map_or(Ok(()), Err)
}

/// Exports one of many; `None` if the file has that content already.
fn to_file(host: &Host, name: &str, file: &Path, force: bool) -> Outcome<Option<FileContent>> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(Failure::io("making", directory))?;
    }
    let facet = host.facet(name)?;
    match facet.export(file, ExportOptions::new().overwrite(force)) {
        Err(error) if error.kind() == HostErrorKind::AlreadyExists => {
            let is_equal = root_hash_of_file(file)
                .is_ok_and(|found| facet.root_hash().is_ok_and(|expected| found == expected));
            if is_equal { Ok(None) } else { Err(error.into()) }
        }
        outcome => Ok(Some(outcome?)),
    }
}
