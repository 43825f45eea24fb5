//! `verify` and `salvage`: stores that may be damaged.

use std::path::{Path, PathBuf};

use clap::Args;
use lapidary::Environment;
use lapidary_engine::{Error, Finding, Store};
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome, say};
use crate::open::no_store;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::units::{count, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary verify agents.store
  lapidary verify agents.store --json | jq '.findings[].facet'

The exit code is 6 if something is damaged.")]
pub(crate) struct Verify {
    /// Directory of the store
    store: PathBuf,
}

pub(crate) fn verify(arguments: &Verify, output: &mut Output) -> Outcome {
    let path = &arguments.store;
    let mut progress = Progress::new(output, "verifying", Unit::Bytes);
    let report = Store::verify_offline(Environment::system(path), &mut |told| {
        progress.set(told.done_bytes, told.total_bytes.max(told.done_bytes));
    });
    drop(progress);
    let report = report.map_err(|error| match error {
        Error::Missing { path } => no_store(&path),
        error @ (Error::Corrupt { .. } | Error::MapCorrupt { .. } | Error::PageCorrupt { .. }) => {
            let hint = "see what can be had with `lapidary salvage`";
            Failure::new(Exit::Damaged, format!("{error}; {hint}"))
        }
        error => error.into(),
    })?;
    let findings = report.findings.len() as u64 + report.more_findings;
    output.json(&json!({
        "clean": report.is_clean(),
        "facets": report.facets,
        "pages": report.pages,
        "parts": report.parts,
        "segments": report.segments,
        "read_bytes": report.read_bytes,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "more_findings": report.more_findings,
    }))?;
    for found in &report.findings {
        output.line(found)?;
    }
    if report.more_findings > 0 {
        output.line(format_args!("and {} more", report.more_findings))?;
    }
    output.line(format_args!(
        "{}: {}, {}, {} read; {}",
        path.display(),
        count(report.facets, "facet"),
        count(report.pages, "page"),
        size(report.read_bytes),
        if report.is_clean() { "all well".to_owned() } else { count(findings, "finding") },
    ))?;
    if report.is_clean() { Ok(()) } else { Err(Failure::told(Exit::Damaged)) }
}

fn finding(found: &Finding) -> serde_json::Value {
    json!({
        "kind": format!("{:?}", found.kind).to_lowercase(),
        "facet": found.facet,
        "page": found.page.map(|page| page.0),
        "path": found.path,
        "segment": found.segment.map(|segment| segment.0),
        "offset": found.offset,
        "detail": found.detail,
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary salvage damaged.store rescued/

Nothing of the store is changed. Pages that cannot be read are zeros in the files; `sqlite3 FILE
.recover` gets the rest out of such a file. The exit code is 6 if something was damaged.")]
pub(crate) struct Salvage {
    /// Directory of the store
    store: PathBuf,
    /// Directory for the files; it is made, or must be empty
    directory: PathBuf,
}

pub(crate) fn salvage(arguments: &Salvage, output: &mut Output) -> Outcome {
    let (store, directory) = (&arguments.store, &arguments.directory);
    let mut progress = Progress::new(output, "salvaging", Unit::Things);
    let mut found = 0;
    let salvaged = lapidary::salvage(store, directory, &mut |facet| {
        found += 1;
        let name = facet.name.clone().unwrap_or_else(|| facet.facet.to_string());
        progress.message(format!("salvaging {name}"));
        progress.set(found, found);
    });
    drop(progress);
    let salvaged = salvaged.map_err(|error| match error {
        lapidary::HostError::Store(Error::Missing { path }) => no_store(&path),
        error => error.into(),
    })?;
    let files = salvaged.files.iter().map(|file| {
        json!({
            "file": file.path,
            "facet": file.facet.name,
            "version": file.facet.version.0,
            "pages": file.facet.page_count,
            "damaged_pages": file.facet.damaged.iter().map(|page| page.0).collect::<Vec<_>>(),
        })
    });
    output.json(&json!({
        "refused": salvaged.refused,
        "notes": salvaged.notes,
        "files": files.collect::<Vec<_>>(),
    }))?;
    if let Some(refused) = &salvaged.refused {
        say(format_args!("the store does not open: {refused}"));
    }
    for note in &salvaged.notes {
        say(note);
    }
    let mut damaged = 0;
    for file in salvaged.files.iter().filter(|file| !file.facet.damaged.is_empty()) {
        damaged += 1;
        let lost = file.facet.damaged.len() as u64;
        let of = file.facet.page_count;
        tell_lost(output, &file.path, lost, of)?;
    }
    let files = count(salvaged.files.len() as u64, "file");
    output.line(format_args!(
        "wrote {files} to {}, {damaged} with pages lost",
        directory.display()
    ))?;
    let is_well = damaged == 0 && salvaged.refused.is_none() && salvaged.notes.is_empty();
    if is_well { Ok(()) } else { Err(Failure::told(Exit::Damaged)) }
}

fn tell_lost(output: &mut Output, path: &Path, lost: u64, of: u32) -> Outcome {
    output.line(format_args!("{}: {} of {of} lost", path.display(), count(lost, "page")))
}
