//! Forks of a facet of 1 MiB: how long the call takes, what a fork costs on disk and in memory.

use std::time::Instant;

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::latency::{Latency, Percentiles};
use lapidary_benches::numbers::{float, grouped, grouped_whole, p50, p99, rounded, short};
use lapidary_engine::{FacetName, ForkFrom, Store, StoreOptions};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::content::PageContent;
use crate::deletes;
use crate::engine::{self, Growth, Memory};
use crate::step::Context;
use lapidary_benches::sheet::{Sheet, Target};

pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const TEMPLATE_PAGES: u32 = 256;
/// Forks that are made durable together.
const BATCH: u32 = 100;
/// Forks whose cost on disk is measured.
const DISK_FORKS: u32 = 1000;
/// Forks whose content is looked at.
const SAMPLE: u32 = 1000;

/// What the step that forks measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Forked {
    pub(crate) forks: u32,
    /// Of the call, without the flush.
    pub(crate) fork_us: Option<Percentiles>,
    pub(crate) durable_forks_per_s: f64,
    pub(crate) seconds: f64,
    pub(crate) log_bytes_per_fork: f64,
    pub(crate) live_bytes_per_fork: f64,
    pub(crate) memory_open_per_fork: Growth,
    pub(crate) checkpoint_ms: f64,
    pub(crate) memory_cold_per_fork: Growth,
}

/// What the step that opened the forks again measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reopened {
    pub(crate) open_ms: f64,
    pub(crate) memory_per_fork: Growth,
    pub(crate) first_read_us: Option<Percentiles>,
    pub(crate) pages_checked: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) forked: Forked,
    pub(crate) reopened: Reopened,
    pub(crate) deleted: deletes::Deleted,
}

pub(crate) fn template_name() -> Result<FacetName> {
    FacetName::new("template").doing(|| "naming the template".to_owned())
}

fn template_page(seed: u64, page: u32) -> PageContent {
    PageContent { seed, facet: 0, page, generation: 0 }
}

pub(crate) fn create_template(store: &Store, seed: u64) -> Result<()> {
    let doing = || "creating the template".to_owned();
    let template = store.create_facet(&template_name()?).doing(doing)?;
    let pages = (1..=TEMPLATE_PAGES).map(|page| template_page(seed, page));
    engine::write(&template, PAGE_BYTES, pages)?;
    store.flush().doing(doing)?;
    store.checkpoint().doing(doing)
}

pub(crate) fn check_template(store: &Store, seed: u64) -> Result<()> {
    let template =
        store.open_facet(&template_name()?).doing(|| "opening the template".to_owned())?;
    let pages = (1..=TEMPLATE_PAGES).map(|page| template_page(seed, page));
    engine::check(&template, PAGE_BYTES, pages).map(|_| ())
}

pub(crate) fn fork(context: &Context, forks: u32) -> Result<Forked> {
    let doing = || "forking the template".to_owned();
    let store = engine::open(&context.directory, StoreOptions::create())?;
    create_template(&store, context.seed)?;
    let template = template_name()?;

    let before = store.stat();
    for number in 0..DISK_FORKS {
        let name = engine::name("first", number)?;
        store.fork_facet(&template, &name, ForkFrom::Latest).doing(doing)?;
        if (number + 1) % BATCH == 0 {
            store.flush().doing(doing)?;
        }
    }
    let logged = store.stat();
    store.checkpoint().doing(doing)?;
    let settled = store.stat();

    let names: Vec<FacetName> =
        (0..forks).map(|number| engine::name("many", number)).collect::<Result<_>>()?;
    let memory_before = Memory::now()?;
    // Held, so that all are open when memory is measured.
    let mut held = Vec::with_capacity(names.len());
    let mut latency = Latency::new();
    let started = Instant::now();
    for batch in names.chunks(BATCH as usize) {
        for name in batch {
            let began = Instant::now();
            let forked = store.fork_facet(&template, name, ForkFrom::Latest);
            latency.record(began.elapsed());
            held.push(forked.doing(doing)?.0);
        }
        store.flush().doing(doing)?;
        if held.len().is_multiple_of(10_000) {
            context.tell(held.len() as u64, u64::from(forks), "forks");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let memory_open_per_fork = Memory::now()?.per(memory_before, forks);

    drop(held);
    let started = Instant::now();
    store.checkpoint().doing(doing)?;
    let checkpoint_ms = started.elapsed().as_secs_f64() * 1000.0;
    let memory_cold_per_fork = Memory::now()?.per(memory_before, forks);
    let per_fork = |bytes: u64| float(bytes) / f64::from(DISK_FORKS);
    // Dropping the store would end its threads in an orderly way; this process ends at once instead.
    std::mem::forget(store);
    Ok(Forked {
        forks,
        fork_us: latency.percentiles_us(),
        durable_forks_per_s: rounded(f64::from(forks) / seconds, 1),
        seconds: rounded(seconds, 3),
        log_bytes_per_fork: rounded(per_fork(logged.written_bytes - before.written_bytes), 1),
        live_bytes_per_fork: rounded(
            per_fork(settled.live_bytes.saturating_sub(before.live_bytes)),
            1,
        ),
        memory_open_per_fork,
        checkpoint_ms: rounded(checkpoint_ms, 1),
        memory_cold_per_fork,
    })
}

pub(crate) fn reopen(context: &Context, forks: u32) -> Result<Reopened> {
    let before = Memory::now()?;
    let (store, open) = engine::open_timed(&context.directory, StoreOptions::default())?;
    let all = forks + DISK_FORKS;
    let memory_per_fork = Memory::now()?.per(before, all);
    let expected = u64::from(all) + 1;
    let found = store.stat().facets;
    if found != expected {
        return Err(Failure::new(format!("WRONG CONTENT: {found} facets instead of {expected}")));
    }
    let mut random = ChaCha8Rng::seed_from_u64(context.seed);
    let mut latency = Latency::new();
    let mut pages_checked = 0;
    for _ in 0..SAMPLE.min(forks) {
        let name = engine::name("many", random.random_range(0..forks))?;
        let page = template_page(context.seed, random.random_range(1..=TEMPLATE_PAGES));
        let began = Instant::now();
        let facet = store.open_facet(&name).doing(|| "opening a fork".to_owned())?;
        pages_checked += engine::check(&facet, PAGE_BYTES, [page])?;
        latency.record(began.elapsed());
    }
    // One side is written, the other side and the source stay as they are.
    let (one, other) = (engine::name("first", 0)?, engine::name("first", 1)?);
    let changed = PageContent { generation: 1, ..template_page(context.seed, 7) };
    let facet = store.open_facet(&one).doing(|| "opening a fork".to_owned())?;
    engine::write(&facet, PAGE_BYTES, [changed])?;
    store.flush().doing(|| "flushing".to_owned())?;
    engine::check(&facet, PAGE_BYTES, [changed, template_page(context.seed, 8)])?;
    let facet = store.open_facet(&other).doing(|| "opening a fork".to_owned())?;
    let pages = (1..=TEMPLATE_PAGES).map(|page| template_page(context.seed, page));
    pages_checked += engine::check(&facet, PAGE_BYTES, pages)?;
    check_template(&store, context.seed)?;
    std::mem::forget(store);
    Ok(Reopened {
        open_ms: rounded(open.as_secs_f64() * 1000.0, 1),
        memory_per_fork,
        first_read_us: latency.percentiles_us(),
        pages_checked,
    })
}

impl Figures {
    pub(crate) fn sheet(&self) -> Sheet {
        let Self { forked, reopened, deleted } = self;
        let mut sheet = Sheet::new("Forks of a facet of 256 pages of 4 KiB", &["measured"]);
        let mut row = |label: &str, figure: String| sheet.row(label, vec![figure]);
        row("fork call p50 us", p50(forked.fork_us));
        row("fork call p99 us", p99(forked.fork_us));
        row("forks", grouped_whole(u64::from(forked.forks)));
        row("durable forks/s, 100 to a flush", grouped(forked.durable_forks_per_s));
        row("log bytes/fork", short(forked.log_bytes_per_fork));
        row("live bytes/fork after a checkpoint", short(forked.live_bytes_per_fork));
        let open = forked.memory_open_per_fork;
        row("resident bytes/fork, all open, trimmed", grouped(open.trimmed_bytes));
        row("  allocated", grouped(open.heap_bytes));
        row("checkpoint of all ms", short(forked.checkpoint_ms));
        let cold = forked.memory_cold_per_fork;
        row("resident bytes/fork, cold, trimmed", grouped(cold.trimmed_bytes));
        row("  allocated", grouped(cold.heap_bytes));
        row("reopen ms, with that many forks", short(reopened.open_ms));
        let again = reopened.memory_per_fork;
        row("resident bytes/fork, reopened", grouped(again.resident_bytes));
        row("  trimmed", grouped(again.trimmed_bytes));
        row("  allocated", grouped(again.heap_bytes));
        row("open and read a page p50 us", p50(reopened.first_read_us));
        row("open and read a page p99 us", p99(reopened.first_read_us));
        row("pages compared", grouped_whole(reopened.pages_checked));
        deleted.rows(&mut row);
        sheet
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        let Self { forked, deleted, .. } = self;
        let p50 = forked.fork_us.map_or(f64::INFINITY, |us| us.p50);
        let mut targets = vec![
            Target::new("fork call p50 us", p50, 10.0),
            Target::new("log bytes per fork", forked.log_bytes_per_fork, 1024.0),
            Target::new("live bytes per fork", forked.live_bytes_per_fork, 1024.0),
        ];
        targets.extend(deleted.targets());
        targets
    }
}
