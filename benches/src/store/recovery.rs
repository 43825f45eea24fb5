//! Opening after a crash: the log since the last checkpoint is replayed, and nothing else should
//! matter.
//!
//! Two stores get the same log, and the larger one has ten times the facets behind it. Each is opened
//! twice: after the crash, and after it was closed. The second is what the store behind the log costs
//! by itself.

use std::time::Instant;

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::numbers::{float, grouped_whole, rounded, short};
use lapidary_benches::process::Usage;
use lapidary_engine::{Background, StoreOptions, Tunables};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::content::PageContent;
use crate::engine;
use crate::step::Context;
use lapidary_benches::sheet::{Sheet, Target};

const PAGE_BYTES: usize = 4096;
const FACET_PAGES: u32 = 2;
/// Commits that are made durable together.
const BATCH: u32 = 64;
/// How many times as many facets the larger store has.
pub(crate) const LARGER: u32 = 10;

/// What is replayed, and what is behind it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Tail {
    pub(crate) facets: u32,
    /// The first of them, which the log is about.
    pub(crate) busy_facets: u32,
    pub(crate) tail_mib: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) tail_bytes: u64,
    pub(crate) commits: u64,
    pub(crate) live_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) open_ms: f64,
    /// CPU time of that, which tells more where the machine is busy.
    pub(crate) open_cpu_ms: f64,
    pub(crate) replayed_bytes: u64,
    pub(crate) pages_checked: u64,
    /// After it was closed.
    pub(crate) open_clean_ms: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Store {
    pub(crate) facets: u32,
    pub(crate) written: Written,
    pub(crate) opened: Opened,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) tail_mib: u32,
    pub(crate) smaller: Store,
    pub(crate) larger: Store,
}

/// No checkpoint but those that are asked for.
fn options() -> StoreOptions {
    let tunables = Tunables { checkpoint_log_bytes: u64::MAX, ..Tunables::default() };
    StoreOptions { tunables, background: Background::Manual, ..StoreOptions::create() }
}

/// The pages that the log writes, in order, and how often each was written then.
struct Overwrites {
    random: ChaCha8Rng,
    busy_facets: u32,
    generations: Vec<u32>,
    seed: u64,
}

impl Overwrites {
    fn new(seed: u64, busy_facets: u32) -> Self {
        let generations = vec![0; (busy_facets * FACET_PAGES) as usize];
        Self { random: ChaCha8Rng::seed_from_u64(seed), busy_facets, generations, seed }
    }

    fn next(&mut self) -> PageContent {
        let facet = self.random.random_range(0..self.busy_facets);
        let page = self.random.random_range(1..=FACET_PAGES);
        self.generations[(facet * FACET_PAGES + page - 1) as usize] += 1;
        self.content(facet, page)
    }

    fn content(&self, facet: u32, page: u32) -> PageContent {
        let generation = self.generations[(facet * FACET_PAGES + page - 1) as usize];
        PageContent { seed: self.seed, facet, page, generation }
    }
}

pub(crate) fn write(context: &Context, tail: Tail) -> Result<Written> {
    let doing = || "writing what is to be recovered".to_owned();
    let store = engine::open(&context.directory, options())?;
    let mut busy = Vec::new();
    for number in 0..tail.facets {
        let facet = store.create_facet(&engine::name("tenants", number)?).doing(doing)?;
        let page = |page| PageContent { seed: context.seed, facet: number, page, generation: 0 };
        engine::write(&facet, PAGE_BYTES, (1..=FACET_PAGES).map(page))?;
        if number < tail.busy_facets {
            busy.push(facet);
        }
        if (number + 1) % BATCH == 0 {
            store.flush().doing(doing)?;
            context.tell(u64::from(number), 2 * u64::from(tail.facets), "facets");
        }
    }
    store.checkpoint().doing(doing)?;
    let live_bytes = store.stat().live_bytes;

    let tail_bytes_wanted = u64::from(tail.tail_mib) << 20;
    let mut overwrites = Overwrites::new(context.seed, tail.busy_facets);
    let mut commits = 0_u64;
    let mut tail_bytes = store.stat().tail_bytes;
    while tail_bytes < tail_bytes_wanted {
        for _ in 0..BATCH {
            let content = overwrites.next();
            engine::write(&busy[content.facet as usize], PAGE_BYTES, [content])?;
            commits += 1;
        }
        store.flush().doing(doing)?;
        tail_bytes = store.stat().tail_bytes;
        context.tell(tail_bytes_wanted + tail_bytes, 2 * tail_bytes_wanted, "bytes of log:");
    }
    // As a killed process would leave it.
    std::mem::forget(store);
    Ok(Written { tail_bytes, commits, live_bytes })
}

pub(crate) fn open(context: &Context, tail: Tail, commits: u64) -> Result<Opened> {
    let cpu_before = Usage::now()?.cpu;
    let (store, open) = engine::open_timed(&context.directory, options())?;
    let open_cpu = Usage::now()?.cpu - cpu_before;
    let replayed_bytes = store.stat().recovered_bytes;
    let mut overwrites = Overwrites::new(context.seed, tail.busy_facets);
    for _ in 0..commits {
        overwrites.next();
    }
    let mut pages_checked = 0;
    for number in 0..tail.busy_facets {
        let name = engine::name("tenants", number)?;
        let facet = store.open_facet(&name).doing(|| format!("opening facet {name}"))?;
        let pages = (1..=FACET_PAGES).map(|page| overwrites.content(number, page));
        pages_checked += engine::check(&facet, PAGE_BYTES, pages)?;
    }
    let found = store.stat().facets;
    if found != u64::from(tail.facets) {
        return Err(Failure::new(format!("WRONG CONTENT: {found} facets, not {}", tail.facets)));
    }
    context.tell(1, 2, "closing");
    store.close().doing(|| "closing the store".to_owned())?;
    drop(store);
    let started = Instant::now();
    let store = engine::open(&context.directory, options())?;
    let clean = started.elapsed();
    std::mem::forget(store);
    Ok(Opened {
        open_ms: rounded(open.as_secs_f64() * 1000.0, 1),
        open_cpu_ms: rounded(open_cpu.as_secs_f64() * 1000.0, 1),
        replayed_bytes,
        pages_checked,
        open_clean_ms: rounded(clean.as_secs_f64() * 1000.0, 1),
    })
}

impl Figures {
    /// How much longer the larger store takes to open.
    fn ratio(&self) -> f64 {
        self.larger.opened.open_ms / self.smaller.opened.open_ms.max(1e-9)
    }

    /// The same without what opening takes when there is no log.
    fn replay_ratio(&self) -> f64 {
        let replay = |store: &Store| (store.opened.open_ms - store.opened.open_clean_ms).max(1e-9);
        replay(&self.larger) / replay(&self.smaller)
    }

    pub(crate) fn sheet(&self) -> Sheet {
        let stores = [&self.smaller, &self.larger];
        let facets = stores.map(|store| format!("{} facets", grouped_whole(store.facets.into())));
        let columns = [facets[0].as_str(), facets[1].as_str(), "ratio"];
        let mut sheet = Sheet::new("Opening after a crash", &columns);
        let mut row = |label: &str, figure: &dyn Fn(&Store) -> String, ratio: Option<f64>| {
            let mut figures: Vec<String> = stores.iter().map(|store| figure(store)).collect();
            figures.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            sheet.row(label, figures);
        };
        let mib = |bytes: u64| format!("{:.1}", float(bytes) / f64::from(1 << 20));
        row("live MiB at the checkpoint", &|store| mib(store.written.live_bytes), None);
        row("log MiB after it", &|store| mib(store.written.tail_bytes), None);
        row("commits in it", &|store| grouped_whole(store.written.commits), None);
        row("replayed MiB", &|store| mib(store.opened.replayed_bytes), None);
        row("open ms after the crash", &|store| short(store.opened.open_ms), Some(self.ratio()));
        row("  CPU ms of that", &|store| short(store.opened.open_cpu_ms), None);
        row("open ms after a close", &|store| short(store.opened.open_clean_ms), None);
        let replay = |store: &Store| short(store.opened.open_ms - store.opened.open_clean_ms);
        row("  the difference: replay", &replay, Some(self.replay_ratio()));
        row("pages compared", &|store| grouped_whole(store.opened.pages_checked), None);
        sheet
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        let to_gib = 1024.0 / f64::from(self.tail_mib);
        vec![
            Target::new(
                "open ms, for each GiB of log",
                self.smaller.opened.open_ms * to_gib,
                2000.0,
            ),
            Target::new(
                "replay with ten times the store behind it, ratio",
                self.replay_ratio(),
                1.2,
            ),
        ]
    }
}
