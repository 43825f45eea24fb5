//! A great many facets: how long the store takes to open, and what each costs while nobody uses it.

use std::time::Instant;

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::latency::{Latency, Percentiles};
use lapidary_benches::numbers::{float, grouped, grouped_whole, p50, p99, rounded, short};
use lapidary_engine::StoreOptions;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::content::PageContent;
use crate::engine::{self, Growth, Memory};
use crate::step::Context;
use lapidary_benches::sheet::{Sheet, Target};

const PAGE_BYTES: usize = 512;
/// Facets that are made durable together.
const BATCH: u32 = 1000;
/// Facets that are opened and read.
const SAMPLE: u32 = 10_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Populated {
    pub(crate) facets: u32,
    pub(crate) seconds: f64,
    pub(crate) close_seconds: f64,
    pub(crate) live_bytes: u64,
    pub(crate) allocated_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) open_ms: f64,
    pub(crate) memory_per_facet: Growth,
    /// A facet that nobody had open is opened, and its page read.
    pub(crate) first_read_us: Option<Percentiles>,
    pub(crate) pages_checked: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) populated: Populated,
    pub(crate) found: Found,
}

fn page(seed: u64, facet: u32) -> PageContent {
    PageContent { seed, facet, page: 1, generation: 0 }
}

pub(crate) fn populate(context: &Context, facets: u32) -> Result<Populated> {
    let doing = || "creating facets".to_owned();
    let store = engine::open(&context.directory, StoreOptions::create())?;
    let started = Instant::now();
    for number in 0..facets {
        let facet = store.create_facet(&engine::name("tenants", number)?).doing(doing)?;
        engine::write(&facet, PAGE_BYTES, [page(context.seed, number)])?;
        if (number + 1) % BATCH == 0 {
            store.flush().doing(doing)?;
            if (number + 1) % (10 * BATCH) == 0 {
                context.tell(u64::from(number + 1), u64::from(facets), "facets");
            }
        }
    }
    store.flush().doing(doing)?;
    let seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    store.checkpoint().doing(|| "taking a checkpoint".to_owned())?;
    let stat = store.stat();
    store.close().doing(|| "closing the store".to_owned())?;
    Ok(Populated {
        facets,
        seconds: rounded(seconds, 3),
        close_seconds: rounded(started.elapsed().as_secs_f64(), 3),
        live_bytes: stat.live_bytes,
        allocated_bytes: stat.allocated_bytes,
    })
}

pub(crate) fn find(context: &Context, facets: u32) -> Result<Found> {
    let before = Memory::now()?;
    let (store, open) = engine::open_timed(&context.directory, StoreOptions::default())?;
    let memory_per_facet = Memory::now()?.per(before, facets);
    let found = store.stat().facets;
    if found != u64::from(facets) {
        return Err(Failure::new(format!("WRONG CONTENT: {found} facets instead of {facets}")));
    }
    let mut random = ChaCha8Rng::seed_from_u64(context.seed);
    let mut latency = Latency::new();
    let mut pages_checked = 0;
    for _ in 0..SAMPLE.min(facets) {
        let number = random.random_range(0..facets);
        let name = engine::name("tenants", number)?;
        let began = Instant::now();
        let facet = store.open_facet(&name).doing(|| format!("opening facet {name}"))?;
        pages_checked += engine::check(&facet, PAGE_BYTES, [page(context.seed, number)])?;
        latency.record(began.elapsed());
    }
    std::mem::forget(store);
    Ok(Found {
        open_ms: rounded(open.as_secs_f64() * 1000.0, 1),
        memory_per_facet,
        first_read_us: latency.percentiles_us(),
        pages_checked,
    })
}

impl Figures {
    pub(crate) fn sheet(&self) -> Sheet {
        let Self { populated, found } = self;
        let facets = f64::from(populated.facets);
        let title = format!(
            "{} facets of a page of 512 bytes, closed and opened again",
            grouped_whole(u64::from(populated.facets))
        );
        let mut sheet = Sheet::new(title, &["measured"]);
        let mut row = |label: &str, figure: String| sheet.row(label, vec![figure]);
        row("created and written, durable/s", grouped(facets / populated.seconds.max(1e-9)));
        row("last checkpoint and close ms", short(populated.close_seconds * 1000.0));
        row("live bytes/facet", short(float(populated.live_bytes) / facets));
        row("allocated bytes/facet", short(float(populated.allocated_bytes) / facets));
        row("open ms", short(found.open_ms));
        row("resident bytes/cold facet", short(found.memory_per_facet.resident_bytes));
        row("  trimmed", short(found.memory_per_facet.trimmed_bytes));
        row("  allocated", short(found.memory_per_facet.heap_bytes));
        row("first open and read p50 us", p50(found.first_read_us));
        row("first open and read p99 us", p99(found.first_read_us));
        row("pages compared", grouped_whole(found.pages_checked));
        sheet
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        let found = &self.found;
        vec![
            Target::new("open ms", found.open_ms, 3000.0),
            Target::new(
                "resident bytes per cold facet, trimmed",
                found.memory_per_facet.trimmed_bytes,
                200.0,
            ),
        ]
    }
}
