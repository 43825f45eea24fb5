//! `bucket`: stores in a bucket, without holding them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use lapidary::Environment;
use lapidary::bucket::{self, BucketError, BucketFinding, BucketStatus, Objects, RemoteObjects};
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome, say};
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::units::{count, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bucket status s3://stores/agents
  lapidary bucket verify s3://stores/agents --json | jq '.findings[].object'
  lapidary bucket pull s3://stores/agents copy.store

None of them takes the store from the host that serves it, or changes the bucket. Credentials, region
and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT.")]
pub(crate) struct Bucket {
    #[command(subcommand)]
    command: BucketCommand,
}

#[derive(Subcommand, Debug)]
enum BucketCommand {
    /// Who holds the store, and what is in the bucket
    Status(Place),
    /// Make a whole local copy, an ordinary store
    Pull(Pull),
    /// Fetch everything and compare it with its checksums; the exit code is 6 if something is damaged
    Verify(Place),
}

#[derive(Args, Debug)]
struct Place {
    /// `s3://BUCKET/PREFIX` or `file:///DIRECTORY`
    url: String,
}

#[derive(Args, Debug)]
struct Pull {
    #[command(flatten)]
    place: Place,
    /// Directory of the copy; it is made, or must be empty or that of a pull that was interrupted
    directory: PathBuf,
}

impl Place {
    fn open(&self) -> Outcome<Arc<dyn Objects>> {
        Ok(Arc::new(RemoteObjects::open_to_read(&self.url)?))
    }
}

impl From<BucketError> for Failure {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::InvalidInput(words) => Self::new(Exit::Usage, words),
            error => lapidary::HostError::from(error).into(),
        }
    }
}

pub(crate) fn run(arguments: &Bucket, output: &mut Output) -> Outcome {
    match &arguments.command {
        BucketCommand::Status(place) => status(place, output),
        BucketCommand::Pull(arguments) => pull(arguments, output),
        BucketCommand::Verify(place) => verify(place, output),
    }
}

fn status(place: &Place, output: &mut Output) -> Outcome {
    let status = bucket::status(&*place.open()?)?;
    output.json(&status_json(&status))?;
    let store = status.store.map_or_else(|| "none was shipped yet".to_owned(), |id| id.to_string());
    let lease = if status.is_given_back() {
        "given back: another host need not wait".to_owned()
    } else {
        format!("{} ms, unless it is renewed", status.lease_ms)
    };
    output.line(format_args!("store     {store}"))?;
    output.line(format_args!("host      {} in epoch {}", status.holder, status.epoch))?;
    output.line(format_args!("lease     {lease}"))?;
    output.line(format_args!("shipped   up to LSN {}", status.shipped_lsn))?;
    output.line(format_args!(
        "content   {} in {}",
        size(status.referenced_bytes),
        count(status.segments, "segment file")
    ))?;
    let objects = count(status.objects, "object");
    output.line(format_args!("bucket    {} in {objects}", size(status.object_bytes)))?;
    output.line(format_args!(
        "other     {} in {}: history, and what is to be deleted",
        size(status.other_bytes),
        count(status.other_objects, "object")
    ))?;
    output.line(format_args!("history   {}", count(status.points.len() as u64, "point")))
}

fn status_json(status: &BucketStatus) -> serde_json::Value {
    json!({
        "store": status.store.map(|id| id.to_string()),
        "holder": status.holder,
        "epoch": status.epoch,
        "lease_ms": status.lease_ms,
        "given_back": status.is_given_back(),
        "shipped_lsn": status.shipped_lsn.0,
        "segments": status.segments,
        "objects": status.objects,
        "object_bytes": status.object_bytes,
        "referenced_bytes": status.referenced_bytes,
        "other_objects": status.other_objects,
        "other_bytes": status.other_bytes,
        "points": status.points.len(),
    })
}

fn pull(arguments: &Pull, output: &mut Output) -> Outcome {
    let directory = &arguments.directory;
    let objects = arguments.place.open()?;
    let mut progress = Progress::new(output, "fetching", Unit::Bytes);
    let mut begun_again = 0;
    let pulled = bucket::pull(&objects, &Environment::system(directory), &mut |told| {
        if told.begun_again > begun_again {
            begun_again = told.begun_again;
            say("the host replaced something meanwhile: going on with its newest manifest");
        }
        progress.set(told.done_bytes, told.total_bytes);
    });
    drop(progress);
    let pulled = pulled?;
    output.json(&json!({
        "directory": directory,
        "store": pulled.store.map(|id| id.to_string()),
        "epoch": pulled.epoch,
        "lsn": pulled.lsn.0,
        "segments": pulled.segments,
        "bytes": pulled.bytes,
        "begun_again": pulled.begun_again,
    }))?;
    output.line(format_args!(
        "{}: {} in {}, up to LSN {}",
        directory.display(),
        size(pulled.bytes),
        count(pulled.segments, "segment file"),
        pulled.lsn
    ))
}

fn verify(place: &Place, output: &mut Output) -> Outcome {
    let objects = place.open()?;
    let mut progress = Progress::new(output, "verifying", Unit::Bytes);
    let report = bucket::verify(&objects, &mut |done, total| progress.set(done, total));
    drop(progress);
    let report = report?;
    output.json(&json!({
        "clean": report.is_clean(),
        "epoch": report.epoch,
        "shipped_lsn": report.shipped_lsn.0,
        "segments": report.segments,
        "objects": report.objects,
        "read_bytes": report.bytes,
        "replaced": report.replaced,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    }))?;
    for found in &report.findings {
        output.line(found)?;
    }
    if report.replaced > 0 {
        let replaced = count(report.replaced, "object");
        output.line(format_args!("{replaced} replaced meanwhile, and not compared"))?;
    }
    let verdict = match report.findings.len() as u64 {
        0 => "all well".to_owned(),
        findings => count(findings, "finding"),
    };
    let (objects, bytes) = (count(report.objects, "object"), size(report.bytes));
    output.line(format_args!("{}: {objects}, {bytes} read; {verdict}", place.url))?;
    if report.is_clean() { Ok(()) } else { Err(Failure::told(Exit::Damaged)) }
}

fn finding(found: &BucketFinding) -> serde_json::Value {
    json!({
        "object": found.object,
        "missing": found.is_missing,
        "segments": found.segments.iter().map(|segment| segment.0).collect::<Vec<_>>(),
        "detail": found.detail,
    })
}
