//! `history` and `restore`.

use clap::Args;
use lapidary::{Bookmark, PageSize};
use serde_json::json;

use crate::failure::Outcome;
use crate::open::Place;
use crate::output::{self, Output};
use crate::units::{moment, parse_moment, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary history agents.store agents/42
  lapidary history agents.store agents/42 --last 5 --json

History is kept from the moment it is asked for: see `lapidary limit --help`.")]
pub(crate) struct History {
    #[command(flatten)]
    place: Place,
    /// The facet
    facet: String,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

pub(crate) fn list(arguments: &History, output: &mut Output) -> Outcome {
    arguments.place.with_host(|host| {
        let mut versions = host.facet(&arguments.facet)?.versions()?;
        versions.truncate(arguments.last.unwrap_or(usize::MAX));
        let mut table = output::table(&["BOOKMARK", "COMMITTED (UTC)", "PAGES:", "SIZE:", "KEPT:"]);
        let mut values = Vec::with_capacity(versions.len());
        for version in versions {
            let (bookmark, time) = (version.bookmark.to_string(), moment(version.wall_ms)?);
            let page_size = version.page_size.map_or(0, PageSize::bytes) as u64;
            let bytes = u64::from(version.page_count) * page_size;
            table.add_row([
                bookmark.clone(),
                time.clone(),
                version.page_count.to_string(),
                size(bytes),
                size(version.kept_bytes),
            ]);
            values.push(json!({
                "bookmark": bookmark,
                "committed": time,
                "committed_ms": version.wall_ms,
                "pages": version.page_count,
                "bytes": bytes,
                "kept_bytes": version.kept_bytes,
            }));
        }
        output.json(&values)?;
        output.line(table.trim_fmt())
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary restore agents.store agents/42 00000001-0000000000000007-000000000000002a
  lapidary restore agents.store agents/42 --as-of '2026-05-01 12:30'
  lapidary restore agents.store agents/42 --as-of '2026-05-01T12:30:00+02:00'

It prints the bookmark that undoes it.")]
pub(crate) struct Restore {
    #[command(flatten)]
    place: Place,
    /// The facet
    facet: String,
    /// The version to go back to, as `history` lists them
    #[arg(required_unless_present = "as_of")]
    bookmark: Option<Bookmark>,
    /// The version that was the newest at this moment, in UTC if it names no zone
    #[arg(long, value_name = "MOMENT", conflicts_with = "bookmark")]
    as_of: Option<String>,
}

pub(crate) fn restore(arguments: &Restore, output: &mut Output) -> Outcome {
    let moment = arguments.as_of.as_deref().map(parse_moment).transpose()?;
    arguments.place.with_host(|host| {
        let facet = host.facet(&arguments.facet)?;
        let bookmark = match (arguments.bookmark, moment) {
            (Some(bookmark), _) => bookmark,
            (None, moment) => facet.bookmark_at(moment.unwrap_or_default())?,
        };
        let undo = facet.restore(bookmark).wait()?;
        output.json(&json!({
            "facet": arguments.facet,
            "restored": bookmark.to_string(),
            "undo": undo.to_string(),
        }))?;
        output.line(format_args!("{} is what it was at {bookmark}", arguments.facet))?;
        output.line(format_args!("undo with: {undo}"))
    })
}
