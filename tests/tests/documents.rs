//! What can be checked of the documents without running their code: links lead somewhere, the book has every
//! page, and the tables of settings, figures and errors leave nothing out.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of the repository: those of its root, of `docs/` and of the crates.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for directory in
        [".", "docs", "docs/adr", "engine", "vfs", "runtime", "benches", "fuzz", "tests"]
    {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                found.push(if directory == "." { name } else { format!("{directory}/{name}") });
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

/// The lines that are no code, without what is in backticks.
fn prose(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            let outside = line.split('`').step_by(2);
            lines.push(outside.collect::<Vec<_>>().join("`"));
        }
    }
    lines
}

/// Where the links of `text` lead, except to other sites.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if !target.contains("://") {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// What a heading is called in links, as GitHub and mdBook have it.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        let title = line.trim_start_matches('#');
        if !in_code && title.len() < line.len() && title.starts_with(' ') {
            let lower = title.trim().to_lowercase().replace(' ', "-");
            found.insert(
                lower.chars().filter(|&c| c.is_alphanumeric() || "-_".contains(c)).collect(),
            );
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let file = match path {
                "" => root().join(&document),
                path => root().join(&document).parent().unwrap().join(path),
            };
            assert!(file.exists(), "{document}: {link}: there is no such file");
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&file).unwrap());
                assert!(there.contains(anchor), "{document}: {link}: there is {there:?}");
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn the_book_has_every_page_and_leads_nowhere_else() {
    let listed: BTreeSet<String> =
        links(&read("docs/SUMMARY.md")).into_iter().map(|page| format!("docs/{page}")).collect();
    let pages = documents().into_iter().filter(|page| page.starts_with("docs/"));
    let pages: BTreeSet<String> = pages.filter(|page| page != "docs/SUMMARY.md").collect();
    assert_eq!(listed, pages);
    for page in &pages {
        for link in links(&read(page)) {
            let path = link.split('#').next().unwrap();
            let depth = page.matches('/').count() - 1;
            let above = path.matches("../").count();
            assert!(above <= depth, "{page}: {link}: the book ends at docs/");
            let is_page = path.is_empty() || path.ends_with(".md");
            assert!(is_page, "{page}: {link}: the book has pages and nothing else");
        }
    }
}

/// Blocks that begin with `fence`, without it.
fn blocks<'a>(text: &'a str, fence: &str) -> Vec<&'a str> {
    let begins = text.split(fence).skip(1);
    begins.map(|rest| rest.split_once("```").unwrap().0.trim_matches('\n')).collect()
}

#[test]
fn the_guide_to_a_service_shows_what_the_example_runs() {
    let example = read("runtime/examples/http_service.rs");
    let shown = blocks(&read("docs/EMBEDDING.md"), "```rs\n").join("\n\n");
    assert!(shown.lines().count() > 200, "{shown}");
    // Items as they are; between them may stand what the guide leaves out.
    for item in shown.split("\n}\n") {
        let item = item.trim_end_matches("\n}").trim_matches('\n');
        assert!(example.contains(&format!("{item}\n}}\n")), "the example has no\n{item}");
    }
}

/// Names after `before` on lines of `source` from `from` to the next line that is `}`.
fn names<'a>(source: &'a str, from: &str, before: &str) -> Vec<&'a str> {
    let (_, body) = source.split_once(from).unwrap_or_else(|| panic!("no {from}"));
    let body = body.split_once("\n}").unwrap().0;
    let named = body.lines().filter_map(|line| line.trim_start().strip_prefix(before));
    let ends = |c: char| !(c.is_alphanumeric() || c == '_');
    named.filter_map(|rest| rest.split(ends).next()).filter(|name| !name.is_empty()).collect()
}

#[track_caller]
fn all_named(document: &str, names: &[&str], at_least: usize) {
    let text = read(document);
    assert!(names.len() >= at_least, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "{document} leaves out {name}");
    }
}

#[test]
fn every_setting_is_in_the_reference() {
    let page = "docs/CONFIGURATION.md";
    let host = read("runtime/src/config.rs");
    let setters: Vec<_> = names(&host, "impl HostConfig {", "pub fn ")
        .into_iter()
        .filter(|&name| name != "new")
        .collect();
    all_named(page, &setters, 15);
    let bucket = read("runtime/src/bucket/settings.rs");
    all_named(page, &names(&bucket, "pub struct BucketSettings {", "pub "), 8);
    let engine = read("engine/src/config.rs");
    for (settings, at_least) in [("FormatParams", 2), ("Tunables", 10), ("StoreOptions", 4)] {
        all_named(page, &names(&engine, &format!("pub struct {settings} {{"), "pub "), at_least);
    }
    all_named(page, &names(&read("vfs/src/registration.rs"), "pub struct VfsOptions {", "pub "), 3);
    all_named(page, &names(&read("vfs/src/process.rs"), "pub struct ProcessSettings {", "pub "), 5);
}

#[test]
fn every_figure_is_in_the_reference() {
    for (source, figures, at_least) in [
        ("runtime/src/stat.rs", "HostStat", 4),
        ("runtime/src/stat.rs", "CoreStat", 11),
        ("runtime/src/latency.rs", "LatencySummary", 6),
        ("runtime/src/snapshot.rs", "HostSnapshot", 8),
        ("engine/src/store/mod.rs", "StoreStat", 20),
        ("runtime/src/meter.rs", "MeterReading", 12),
        ("runtime/src/usage.rs", "Usage", 2),
        ("runtime/src/usage.rs", "UsageDelta", 3),
    ] {
        let source = read(source);
        let names = names(&source, &format!("pub struct {figures} {{"), "pub ");
        all_named("docs/METRICS.md", &names, at_least);
    }
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let text = read("docs/METRICS.md");
    let rows = text.lines().filter(|line| line.starts_with("| `lapidary_"));
    let shown: BTreeSet<String> = rows.map(str::to_owned).collect();
    let row = |metric: &lapidary::Metric| {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let (name, unit, what) = (metric.name, metric.unit.as_str(), metric.description);
        format!(
            "| `{name}` | {kind} | {unit} | {} | {what} |",
            if metric.is_per_core { "yes" } else { "" }
        )
    };
    let told: BTreeSet<String> =
        lapidary::METRICS.iter().chain(lapidary::BUCKET_METRICS).map(row).collect();
    assert_eq!(shown, told);
}

#[test]
fn every_kind_of_error_is_in_the_reference() {
    let source = read("runtime/src/error.rs");
    let (_, body) = source.split_once("pub enum HostErrorKind {").unwrap();
    let body = body.split_once("\n}").unwrap().0;
    let kinds: Vec<_> = body
        .lines()
        .map(str::trim)
        .filter(|line| line.ends_with(',') && line.starts_with(char::is_uppercase))
        .map(|line| line.trim_end_matches(','))
        .collect();
    all_named("docs/ERRORS.md", &kinds, 13);
}

#[test]
fn every_subcommand_and_exit_code_is_in_the_reference() {
    let page = read("docs/COMMAND.md");
    let source = read("runtime/cli/arguments.rs");
    let (_, body) = source.split_once("pub(crate) enum Command {").unwrap();
    let body = body.split_once("\n}").unwrap().0;
    let commands = body.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    let mut count = 0;
    for line in commands {
        let name = line.split('(').next().unwrap().to_lowercase();
        let is_there =
            page.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{name} ")));
        assert!(is_there, "docs/COMMAND.md leaves out {name}");
        count += 1;
    }
    assert!(count >= 17, "{count}");
    let failure = read("runtime/cli/failure.rs");
    let help = source.split_once("Exit codes:").unwrap().1;
    for line in failure.lines().filter(|line| line.starts_with("    ") && line.contains(" = ")) {
        let Some(code) = line.split(" = ").nth(1).and_then(|code| code.strip_suffix(',')) else {
            continue;
        };
        if code.parse::<u8>().is_ok() {
            assert!(page.contains(&format!("\n| {code} | ")), "docs/COMMAND.md: exit code {code}");
            assert!(help.contains(&format!("{code} ")), "--help: exit code {code}");
        }
    }
}
