//! `ls`, `sql` and `export` of a store in a bucket, as a follower reads it: beside the host that serves it, and of the
//! past.

use std::path::PathBuf;

use clap::Args;
use lapidary::bucket::{self, Follower, FollowerSettings};
use lapidary::{Bookmark, Environment, ExportOptions, FacetInfo};
use serde_json::json;
use tempfile::TempDir;

use super::Address;
use crate::export::told;
use crate::failure::{Failure, Outcome, say};
use crate::output::{self, Output};
use crate::shell::{Mode, run_on};
use crate::store::bytes_of;
use crate::units::{moment, parse_moment, size};

/// Facets asked for at a time.
const PAGE: usize = 1_000;

#[derive(Args, Debug)]
struct Past {
    /// As of this moment, in UTC if it names no zone, from the history that the bucket keeps
    #[arg(long, value_name = "MOMENT")]
    as_of: Option<String>,
    /// Directory for what is fetched; it must be empty or have been used for this before [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bucket ls s3://stores/agents tenants/acme
  lapidary bucket ls s3://stores/agents --as-of '2026-05-01 12:30'")]
pub(super) struct List {
    #[command(flatten)]
    address: Address,
    /// Only this facet and those below it
    prefix: Option<String>,
    #[command(flatten)]
    past: Past,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bucket sql s3://stores/agents agents/42 'SELECT count(*) FROM note'
  lapidary bucket sql s3://stores/agents agents/42 --mode csv 'SELECT * FROM note' > note.csv
  lapidary bucket sql s3://stores/agents agents/42 --as-of '2026-05-01 12:30' 'SELECT * FROM note'")]
pub(super) struct Sql {
    #[command(flatten)]
    address: Address,
    /// The facet
    facet: String,
    /// Statements that read
    sql: String,
    /// How rows are printed [default: table on a terminal, list elsewhere]
    #[arg(short, long, value_enum)]
    mode: Option<Mode>,
    #[command(flatten)]
    past: Past,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bucket export s3://stores/agents agents/42 copy.sqlite
  lapidary bucket export s3://stores/agents agents/42 then.sqlite --as-of '2026-05-01 12:30'")]
pub(super) struct Export {
    #[command(flatten)]
    address: Address,
    /// The facet
    facet: String,
    /// The file to write
    file: PathBuf,
    /// Replace a file that exists
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    past: Past,
}

/// A follower, and the directory that goes with it.
struct Following {
    follower: Follower,
    _temporary: Option<TempDir>,
}

impl Past {
    fn cache(&self) -> Outcome<(PathBuf, Option<TempDir>)> {
        match &self.cache {
            Some(directory) => Ok((directory.clone(), None)),
            None => {
                let temporary = tempfile::tempdir();
                let place = std::env::temp_dir();
                let temporary =
                    temporary.map_err(Failure::io("making a directory below", &place))?;
                Ok((temporary.path().join("cache"), Some(temporary)))
            }
        }
    }

    /// The store as of now, or of a point of its history.
    fn follow(&self, address: &Address, point: Option<bucket::HistoryPoint>) -> Outcome<Following> {
        let objects = address.open()?;
        // Without a store in it, the follower's words would be those of a request that failed.
        bucket::status(&*objects)?;
        let (directory, temporary) = self.cache()?;
        let local = Environment::system(&directory);
        let settings = FollowerSettings { background: false, ..FollowerSettings::default() };
        let follower = match &point {
            Some(point) => Follower::open_at(&objects, &local, settings, point)?,
            None => Follower::open(&objects, &local, settings)?,
        };
        Ok(Following { follower, _temporary: temporary })
    }

    /// The store as of the newest point that is not later than what was asked for.
    fn before(&self, address: &Address) -> Outcome<Following> {
        let Some(text) = &self.as_of else { return self.follow(address, None) };
        let point = address.point_before(&*address.open()?, parse_moment(text)?)?;
        say(format_args!("as of {}", moment(point.wall_ms)?));
        self.follow(address, Some(point))
    }

    /// Where a version of `facet` is that was the newest at the moment asked for: if the facet kept it, in the
    /// point that follows the moment, and if not, in the one before.
    fn version(&self, address: &Address, facet: &str) -> Outcome<(Following, Option<Bookmark>)> {
        let Some(text) = &self.as_of else { return Ok((self.follow(address, None)?, None)) };
        let wall_ms = parse_moment(text)?;
        let points = bucket::history(&*address.open()?)?;
        let after = points.iter().find(|point| point.wall_ms >= wall_ms).copied();
        let following = self.follow(address, after)?;
        if let Ok(bookmark) = following.follower.bookmark_at(facet, wall_ms) {
            return Ok((following, Some(bookmark)));
        }
        drop(following);
        Ok((self.before(address)?, None))
    }
}

pub(super) fn list(arguments: &List, output: &mut Output) -> Outcome {
    let following = arguments.past.before(&arguments.address)?;
    let prefix = arguments.prefix.as_deref();
    let mut found: Vec<FacetInfo> = Vec::new();
    loop {
        let after = found.last().map(|facet| facet.name.as_str().to_owned());
        let more = following.follower.list(prefix, after.as_deref(), PAGE)?;
        let is_last = more.len() < PAGE;
        found.extend(more);
        if is_last {
            break;
        }
    }
    let value =
        |facet: &FacetInfo| json!({ "name": facet.name.as_str(), "bytes": bytes_of(facet) });
    output.json(&found.iter().map(value).collect::<Vec<_>>())?;
    if found.is_empty() {
        return Ok(());
    }
    let mut table = output::table(&["NAME", "SIZE:"]);
    for facet in &found {
        table.add_row([facet.name.as_str().to_owned(), size(bytes_of(facet))]);
    }
    output.line(table.trim_fmt())
}

pub(super) fn sql(arguments: &Sql, output: &mut Output) -> Outcome {
    let Sql { address, facet, sql, mode, past } = arguments;
    let (Following { follower, _temporary }, version) = past.version(address, facet)?;
    let mode = mode.unwrap_or_else(|| Mode::default_for(output));
    let mut outcome = Ok(());
    let body = |connection: &lapidary::rusqlite::Connection| {
        outcome = run_on(connection, facet, mode, sql, output);
        Ok(())
    };
    match version {
        Some(bookmark) => follower.read_at(facet, bookmark, body)?,
        None => follower.read(facet, body)?,
    }
    outcome
}

pub(super) fn export(arguments: &Export, output: &mut Output) -> Outcome {
    let Export { address, facet, file, force, past } = arguments;
    let (Following { follower, _temporary }, version) = past.version(address, facet)?;
    let mut options = ExportOptions::new().overwrite(*force);
    if let Some(bookmark) = version {
        options = options.at(bookmark);
    }
    let content = follower.export(facet, file, options)?;
    told(facet, file, &content, output)
}
