//! `ls`, `fork`, `mv`, `rm`.

use std::io::{self, Write as _};

use clap::Args;
use lapidary::{Bookmark, FacetInfo, FacetName, ForkFrom, Host};
use lapidary_engine::Error;
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome};
use crate::open::Place;
use crate::output::{self, Output};
use crate::store::{bytes_of, checked_name, facet_json};
use crate::units::{count, size};

/// Facets asked for at a time.
const PAGE: usize = 1_000;

/// All facets within `prefix`, page by page.
pub(crate) fn each<'a>(
    host: &'a Host,
    prefix: Option<&'a str>,
) -> impl Iterator<Item = Outcome<FacetInfo>> + 'a {
    let mut page = Vec::new().into_iter();
    let mut after: Option<FacetName> = None;
    let mut ended = false;
    std::iter::from_fn(move || {
        loop {
            if let Some(info) = page.next() {
                return Some(Ok(info));
            }
            if ended {
                return None;
            }
            match host.list(prefix, after.as_ref().map(FacetName::as_str), PAGE).wait() {
                Ok(listed) => {
                    ended = listed.len() < PAGE;
                    after = listed.last().map(|info: &FacetInfo| info.name.clone());
                    page = listed.into_iter();
                }
                Err(error) => {
                    ended = true;
                    return Some(Err(error.into()));
                }
            }
        }
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary ls agents.store
  lapidary ls agents.store tenants/acme --long
  lapidary ls agents.store --tree
  lapidary ls agents.store --json | jq -r '.[] | select(.bytes > 1000000) | .name'")]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
    /// Only this facet and those below it
    prefix: Option<String>,
    /// Sizes and versions too
    #[arg(short, long, conflicts_with = "tree")]
    long: bool,
    /// Levels of names indented
    #[arg(long)]
    tree: bool,
}

pub(crate) fn list(arguments: &List, output: &mut Output) -> Outcome {
    let prefix = arguments.prefix.as_deref();
    arguments.place.with_host(|host| {
        if output.is_json() {
            return output
                .json_items(each(host, prefix).map(|info| info.map(|info| facet_json(&info))));
        }
        if arguments.long {
            return long(host, prefix, output);
        }
        let mut above: Vec<String> = Vec::new();
        for info in each(host, prefix) {
            let info = info?;
            if arguments.tree {
                branch(info.name.as_str(), &mut above, output)?;
            } else {
                output.line(info.name.as_str())?;
            }
        }
        Ok(())
    })
}

/// A table as wide as its widest name has all of them in memory, so it is made of this many at a time.
const TABLE_ROWS: usize = 10_000;

fn long(host: &Host, prefix: Option<&str>, output: &mut Output) -> Outcome {
    let mut facets = each(host, prefix).peekable();
    while facets.peek().is_some() {
        let mut table = output::table(&["NAME", "SIZE:", "PAGES:", "PAGE SIZE:", "VERSION:"]);
        for info in facets.by_ref().take(TABLE_ROWS) {
            let info = info?;
            table.add_row([
                info.name.to_string(),
                size(bytes_of(&info)),
                info.page_count.to_string(),
                info.page_size.map_or(0, |size| size.bytes()).to_string(),
                info.version.to_string(),
            ]);
        }
        output.line(table.trim_fmt())?;
    }
    Ok(())
}

/// Prints the levels of `name` that are not in `above`, which it becomes. Levels that have no facet of
/// their own end in a slash.
fn branch(name: &str, above: &mut Vec<String>, output: &mut Output) -> Outcome {
    let levels: Vec<&str> = name.split('/').collect();
    let same = levels.iter().zip(above.iter()).take_while(|(level, had)| *level == had).count();
    for (depth, level) in levels.iter().enumerate().skip(same) {
        let slash = if depth + 1 < levels.len() { "/" } else { "" };
        output.line(format_args!("{:indent$}{level}{slash}", "", indent = depth * 2))?;
    }
    *above = levels.into_iter().map(str::to_owned).collect();
    Ok(())
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary fork agents.store template agents/43
  lapidary fork agents.store agents/42 agents/42-before --at BOOKMARK
  lapidary fork agents.store tenants/acme tenants/acme-test --tree")]
pub(crate) struct Fork {
    #[command(flatten)]
    place: Place,
    /// The facet to begin from
    from: String,
    /// Name of the new one
    to: String,
    /// Begin with this version, as `history` lists them
    #[arg(long, value_name = "BOOKMARK")]
    at: Option<Bookmark>,
    /// Fork everything below it too, as of one moment
    #[arg(long)]
    tree: bool,
}

pub(crate) fn fork(arguments: &Fork, output: &mut Output) -> Outcome {
    let (from, to) = (&arguments.from, &arguments.to);
    let version = arguments.at.map_or(ForkFrom::Latest, ForkFrom::Bookmark);
    arguments.place.with_host(|host| {
        let forks: Vec<String> = if arguments.tree {
            let forks = host.fork_subtree(from, to, version).wait()?;
            forks.iter().map(ToString::to_string).collect()
        } else {
            host.fork(from, to, version).wait()?;
            vec![to.clone()]
        };
        output.json(&json!({ "from": from, "to": to, "forks": forks }))?;
        for name in &forks {
            output.line(format_args!("made {name}"))?;
        }
        Ok(())
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary mv agents.store agents/42 archive/42
  lapidary mv agents.store tenants/acme tenants/acme-corp    with all below it")]
pub(crate) struct Rename {
    #[command(flatten)]
    place: Place,
    /// Its name, or the beginning of several
    from: String,
    /// The new name
    to: String,
}

pub(crate) fn rename(arguments: &Rename, output: &mut Output) -> Outcome {
    let (from, to) = (&arguments.from, &arguments.to);
    arguments.place.with_host(|host| {
        host.rename(from, to).wait()?;
        output.json(&json!({ "from": from, "to": to }))?;
        output.line(format_args!("{from} is now {to}"))
    })
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary rm agents.store agents/42
  lapidary rm agents.store tenants/acme --yes    with all below it, without a question")]
pub(crate) struct Delete {
    #[command(flatten)]
    place: Place,
    /// Facets, each with all below it
    #[arg(required = true)]
    names: Vec<String>,
    /// Ask nothing
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn delete(arguments: &Delete, output: &mut Output) -> Outcome {
    if !arguments.yes && !output::is_interactive() {
        let words = "there is no terminal to ask at, so nothing was deleted; add --yes";
        return Err(Failure::new(Exit::Usage, words));
    }
    arguments.place.with_host(|host| {
        let mut deleted = Vec::new();
        // All are looked at before the first goes.
        for name in &arguments.names {
            checked_name(name)?;
            let mut facets = 0_u64;
            for info in each(host, Some(name)) {
                info?;
                facets += 1;
            }
            if facets == 0 {
                return Err(Error::FacetNotFound { name: name.clone() }.into());
            }
            deleted.push((name, facets));
        }
        deleted.retain(|&(name, facets)| arguments.yes || confirmed(name, facets));
        for (name, _) in &deleted {
            host.delete(name).wait()?;
        }
        let facets = |&(name, facets): &(&String, u64)| json!({ "name": name, "facets": facets });
        output.json(&deleted.iter().map(facets).collect::<Vec<_>>())?;
        for (name, facets) in &deleted {
            output.line(format_args!("deleted {name}: {}", count(*facets, "facet")))?;
        }
        Ok(())
    })
}

fn confirmed(name: &str, facets: u64) -> bool {
    let mut stderr = io::stderr();
    let asked = write!(stderr, "delete {name} ({})? [y/N] ", count(facets, "facet"));
    let mut answer = String::new();
    let heard =
        asked.and_then(|()| stderr.flush()).and_then(|()| io::stdin().read_line(&mut answer));
    heard.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
