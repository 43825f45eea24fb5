//! `bucket`: stores in a bucket, without holding them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use lapidary::Environment;
use lapidary::bucket::{
    self, BucketError, BucketFinding, BucketStatus, HistoryPoint, Objects, PullProgress,
    RemoteObjects,
};
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome, say};
use crate::output::{self, Output};
use crate::progress::{Progress, Unit};
use crate::units::{count, moment, parse_moment, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bucket status s3://stores/agents
  lapidary bucket verify s3://stores/agents --json | jq '.findings[].object'
  lapidary bucket pull s3://stores/agents copy.store
  lapidary bucket history s3://stores/agents
  lapidary bucket pull s3://stores/agents may.store --as-of '2026-05-01 12:30'

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
    Verify(Verify),
    /// List the moments to which one can go back
    History(Place),
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
    /// The store as it was at the newest point of its history that is not later than this moment, in UTC if it
    /// names no zone
    #[arg(long, value_name = "MOMENT")]
    as_of: Option<String>,
}

#[derive(Args, Debug)]
struct Verify {
    #[command(flatten)]
    place: Place,
    /// Also everything that points of history lead to
    #[arg(long)]
    history: bool,
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
        BucketCommand::Verify(arguments) => verify(arguments, output),
        BucketCommand::History(place) => history(place, output),
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
    let point = match &arguments.as_of {
        Some(text) => Some(point_at(&arguments.place, &*objects, text)?),
        None => None,
    };
    let mut progress = Progress::new(output, "fetching", Unit::Bytes);
    let mut begun_again = 0;
    let mut listener = |told: PullProgress| {
        if told.begun_again > begun_again {
            begun_again = told.begun_again;
            say("the host replaced something meanwhile: going on with its newest manifest");
        }
        progress.set(told.done_bytes, told.total_bytes);
    };
    let local = Environment::system(directory);
    let pulled = match &point {
        Some(point) => bucket::pull_at(&objects, &local, point, &mut listener),
        None => bucket::pull(&objects, &local, &mut listener),
    };
    drop(progress);
    let pulled = pulled?;
    let as_of = point.map(|point| moment(point.wall_ms)).transpose()?;
    output.json(&json!({
        "directory": directory,
        "store": pulled.store.map(|id| id.to_string()),
        "epoch": pulled.epoch,
        "lsn": pulled.lsn.0,
        "segments": pulled.segments,
        "bytes": pulled.bytes,
        "begun_again": pulled.begun_again,
        "as_of": as_of,
    }))?;
    if let Some(as_of) = as_of {
        output.line(format_args!("as of {as_of}"))?;
    }
    output.line(format_args!(
        "{}: {} in {}, up to LSN {}",
        directory.display(),
        size(pulled.bytes),
        count(pulled.segments, "segment file"),
        pulled.lsn
    ))
}

/// The newest point of history that is not later than a moment.
fn point_at(place: &Place, objects: &dyn Objects, text: &str) -> Outcome<HistoryPoint> {
    let wanted = parse_moment(text)?;
    let points = bucket::history(objects)?;
    let found = points.iter().rev().find(|point| point.wall_ms <= wanted).copied();
    match (found, points.first()) {
        (Some(point), _) => Ok(point),
        (None, Some(oldest)) => {
            let oldest = moment(oldest.wall_ms)?;
            let words = format!("its history begins at {oldest}, later than {text}");
            Err(Failure::new(Exit::NotFound, format!("{}: {words}", place.url)))
        }
        (None, None) => {
            let words =
                "no history is kept here; a host keeps it if `BucketSettings::history_for` says so";
            Err(Failure::new(Exit::NotFound, format!("{}: {words}", place.url)))
        }
    }
}

fn history(place: &Place, output: &mut Output) -> Outcome {
    let mut table = output::table(&["MADE (UTC)", "LSN:", "EPOCH:"]);
    let mut values = Vec::new();
    for point in bucket::history(&*place.open()?)? {
        let made = moment(point.wall_ms)?;
        table.add_row([made.clone(), point.lsn.to_string(), point.epoch.to_string()]);
        values.push(json!({
            "made": made,
            "made_ms": point.wall_ms,
            "lsn": point.lsn.0,
            "epoch": point.epoch,
            "sequence": point.sequence,
        }));
    }
    output.json(&values)?;
    output.line(table.trim_fmt())
}

fn verify(arguments: &Verify, output: &mut Output) -> Outcome {
    let place = &arguments.place;
    let objects = place.open()?;
    let mut progress = Progress::new(output, "verifying", Unit::Bytes);
    let mut listener = |done, total| progress.set(done, total);
    let report = if arguments.history {
        bucket::verify_history(&objects, &mut listener)
    } else {
        bucket::verify(&objects, &mut listener)
    };
    drop(progress);
    let report = report?;
    output.json(&json!({
        "clean": report.is_clean(),
        "epoch": report.epoch,
        "shipped_lsn": report.shipped_lsn.0,
        "segments": report.segments,
        "points": report.points,
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
