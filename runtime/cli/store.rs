//! `create`, `stat`, `compact`.

use clap::Args;
use lapidary::{FacetInfo, FacetName, Host, rusqlite::Connection};
use lapidary_engine::Error;
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome};
use crate::open::Place;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::units::{count, size};

/// What a list says of the facet `name`, which must exist.
pub(crate) fn info(host: &Host, name: &str) -> Outcome<FacetInfo> {
    let listed = host.list(Some(name), None, 1).wait()?;
    let found = listed.into_iter().find(|info| info.name.as_str() == name);
    found.ok_or_else(|| Error::FacetNotFound { name: name.to_owned() }.into())
}

/// Bytes of a facet's pages.
pub(crate) fn bytes_of(info: &FacetInfo) -> u64 {
    info.page_size.map_or(0, |size| size.bytes() as u64) * u64::from(info.page_count)
}

/// A facet for a program.
pub(crate) fn facet_json(info: &FacetInfo) -> serde_json::Value {
    json!({
        "name": info.name.as_str(),
        "id": info.id.0,
        "version": info.version.0,
        "page_size": info.page_size.map(|size| size.bytes()),
        "pages": info.page_count,
        "bytes": bytes_of(info),
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary create agents.store
  lapidary create agents.store agents/1 agents/2    the store too, if there is none")]
pub(crate) struct Create {
    #[command(flatten)]
    place: Place,
    /// Facets to make, without content
    facets: Vec<String>,
}

pub(crate) fn create(arguments: &Create, output: &mut Output) -> Outcome {
    let place = &arguments.place;
    let is_there = place.has_store()?;
    if is_there && arguments.facets.is_empty() {
        let words = "is a store already, and was left as it is";
        return Err(Failure::new(Exit::Exists, format!("{}: {words}", place.describe())));
    }
    place.with_new_host(|host| {
        for name in &arguments.facets {
            let name = host.facet(name)?.name().clone();
            host.store().create_facet(&name)?;
        }
        host.store().flush()?;
        let id = host.store().id().to_string();
        output
            .json(&json!({ "store": place.directory(), "id": id, "facets": arguments.facets }))?;
        if !is_there {
            output.line(format_args!("made the store {}", place.describe()))?;
        }
        for name in &arguments.facets {
            output.line(format_args!("made {name}"))?;
        }
        Ok(())
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary stat agents.store
  lapidary stat agents.store agents/42 --hash
  lapidary stat agents.store --json")]
pub(crate) struct Stat {
    #[command(flatten)]
    place: Place,
    /// A facet; without it, the figures of the store
    facet: Option<String>,
    /// Also the root hash, for which every page is read
    #[arg(long, requires = "facet")]
    hash: bool,
}

pub(crate) fn stat(arguments: &Stat, output: &mut Output) -> Outcome {
    arguments.place.with_host(|host| match &arguments.facet {
        Some(name) => stat_facet(host, name, arguments.hash, output),
        None => stat_store(host, output),
    })
}

fn stat_facet(host: &Host, name: &str, hash: bool, output: &mut Output) -> Outcome {
    let info = info(host, name)?;
    let facet = host.facet(name)?;
    let bookmark = facet.bookmark().wait()?.to_string();
    let versions = facet.versions()?;
    let kept_bytes: u64 = versions.iter().map(|version| version.kept_bytes).sum();
    let root_hash = if hash { Some(facet.root_hash()?.to_string()) } else { None };
    let mut value = facet_json(&info);
    value["bookmark"] = bookmark.as_str().into();
    value["versions_kept"] = versions.len().into();
    value["history_bytes"] = kept_bytes.into();
    value["root_hash"] = root_hash.as_deref().into();
    output.json(&value)?;
    let page_size = info.page_size.map_or(0, |size| size.bytes());
    output.line(format_args!("name      {name}"))?;
    output.line(format_args!(
        "size      {} in {} of {page_size} bytes",
        size(bytes_of(&info)),
        count(u64::from(info.page_count), "page")
    ))?;
    output.line(format_args!("bookmark  {bookmark}"))?;
    let kept = count(versions.len() as u64, "version");
    output.line(format_args!("history   {kept} kept, {} of old pages", size(kept_bytes)))?;
    if let Some(root_hash) = root_hash {
        output.line(format_args!("hash      {root_hash}"))?;
    }
    Ok(())
}

fn stat_store(host: &Host, output: &mut Output) -> Outcome {
    let stat = host.stat().wait()?.store;
    output.json(&json!({
        "store": host.store().describe(),
        "id": host.store().id().to_string(),
        "facets": stat.facets,
        "segments": stat.segments,
        "ready_segments": stat.ready_segments,
        "allocated_bytes": stat.allocated_bytes,
        "live_bytes": stat.live_bytes,
        "history_bytes": stat.history_bytes,
        "tail_bytes": stat.tail_bytes,
        "recovered_bytes": stat.recovered_bytes,
        "shared_references": stat.shared_references,
        "durable_lsn": stat.durable_lsn.0,
        "io_backend": stat.io_backend,
    }))?;
    output.line(format_args!("store     {}", host.store().describe()))?;
    output.line(format_args!("id        {}", host.store().id()))?;
    output.line(format_args!("facets    {}", stat.facets))?;
    output.line(format_args!(
        "disk      {} in {}, {} of them ready for new data",
        size(stat.allocated_bytes),
        count(u64::from(stat.segments), "segment file"),
        stat.ready_segments
    ))?;
    output.line(format_args!("live      {}", size(stat.live_bytes)))?;
    output.line(format_args!("history   {}", size(stat.history_bytes)))?;
    output.line(format_args!("opening   read {} of log", size(stat.recovered_bytes)))?;
    output.line(format_args!("I/O       {}", stat.io_backend))
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary compact agents.store
  lapidary compact agents.store agents/42    first the facet itself, as VACUUM does

A store that is in use does this by itself, as far as its bound on space asks for.")]
pub(crate) struct Compact {
    #[command(flatten)]
    place: Place,
    /// Facets that are to be written anew without their free pages
    facets: Vec<String>,
}

/// A pass that wins less is the last.
const PASSES_MAX: usize = 10_000;

pub(crate) fn compact(arguments: &Compact, output: &mut Output) -> Outcome {
    arguments.place.with_host(|host| {
        let mut progress = Progress::new(output, "compacting", Unit::Bytes);
        let before = host.store().stat();
        for name in &arguments.facets {
            info(host, name)?;
            progress.message(format!("compacting {name}"));
            let uri = host.facet(name)?.uri(None);
            let vacuum = Connection::open(uri).and_then(|facet| facet.execute_batch("VACUUM"));
            vacuum.map_err(|error| Failure::from(error).about(format_args!("facet {name}")))?;
        }
        let store = host.store();
        store.checkpoint()?;
        for _ in 0..PASSES_MAX {
            let cleaned = store.clean()?;
            store.checkpoint()?;
            let stat = store.stat();
            let garbage = before.allocated_bytes.saturating_sub(stat.live_bytes);
            let won = before.allocated_bytes.saturating_sub(stat.allocated_bytes);
            progress.set(won.min(garbage), garbage);
            if cleaned.segments == 0 && cleaned.moved_bytes == 0 {
                break;
            }
        }
        // Files that are too many are removed by what is done in the background.
        while store.maintain()? {}
        store.checkpoint()?;
        drop(progress);
        let after = store.stat();
        output.json(&json!({
            "allocated_bytes_before": before.allocated_bytes,
            "allocated_bytes": after.allocated_bytes,
            "live_bytes": after.live_bytes,
            "moved_bytes": after.cleaned_bytes,
        }))?;
        output.line(format_args!(
            "{} of disk, {} before; {} of it live",
            size(after.allocated_bytes),
            size(before.allocated_bytes),
            size(after.live_bytes)
        ))
    })
}

/// A facet's name, or the error that says what is wrong with it.
pub(crate) fn checked_name(name: &str) -> Outcome<FacetName> {
    FacetName::new(name).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}
