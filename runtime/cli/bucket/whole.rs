//! `status`, `verify`, `pull`, `history`: the store as a whole.

use std::path::PathBuf;

use clap::Args;
use lapidary::Environment;
use lapidary::bucket::{self, BucketFinding, BucketStatus, PullProgress};
use serde_json::json;

use super::Address;
use crate::failure::{Exit, Failure, Outcome, say};
use crate::output::{self, Output};
use crate::progress::{Progress, Unit};
use crate::units::{count, moment, parse_moment, size};

#[derive(Args, Debug)]
pub(super) struct Pull {
    #[command(flatten)]
    address: Address,
    /// Directory of the copy; it is made, or must be empty or that of a pull that was interrupted
    directory: PathBuf,
    /// The store as it was at the newest point of its history that is not later than this moment, in UTC if it
    /// names no zone
    #[arg(long, value_name = "MOMENT")]
    as_of: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Verify {
    #[command(flatten)]
    address: Address,
    /// Also everything that points of history lead to
    #[arg(long)]
    history: bool,
}

pub(super) fn status(address: &Address, output: &mut Output) -> Outcome {
    let status = bucket::status(&*address.open()?)?;
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

pub(super) fn pull(arguments: &Pull, output: &mut Output) -> Outcome {
    let directory = &arguments.directory;
    let objects = arguments.address.open()?;
    let point = match &arguments.as_of {
        Some(text) => Some(arguments.address.point_before(&*objects, parse_moment(text)?)?),
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

pub(super) fn history(address: &Address, output: &mut Output) -> Outcome {
    let mut table = output::table(&["MADE (UTC)", "LSN:", "EPOCH:"]);
    let mut values = Vec::new();
    for point in bucket::history(&*address.open()?)? {
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

pub(super) fn verify(arguments: &Verify, output: &mut Output) -> Outcome {
    let address = &arguments.address;
    let objects = address.open()?;
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
    output.line(format_args!("{}: {objects}, {bytes} read; {verdict}", address.url))?;
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
