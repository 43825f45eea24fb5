//! Deletes of many facets: how long they take, and whether the space comes back without copying.

use std::time::Instant;

use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::latency::{Latency, Percentiles};
use lapidary_benches::numbers::{float, grouped_whole, p50, p99, rounded, short};
use lapidary_engine::{Background, ForkFrom, StoreOptions};
use serde::{Deserialize, Serialize};

use crate::content::PageContent;
use crate::engine;
use crate::forks::{PAGE_BYTES, check_template, create_template, template_name};
use crate::step::Context;
use lapidary_benches::sheet::Target;

/// Pages that each fork writes, and so has for itself.
const OWN_PAGES: u32 = 4;
const BATCH: u32 = 100;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deleted {
    pub(crate) facets: u32,
    /// Of the call, without the flush.
    pub(crate) delete_us: Option<Percentiles>,
    /// All deletes, durable, 100 to a flush.
    pub(crate) seconds: f64,
    /// The checkpoint and all maintenance after it.
    pub(crate) settle_seconds: f64,
    pub(crate) moved_bytes: u64,
    pub(crate) allocated_before_bytes: u64,
    pub(crate) allocated_after_bytes: u64,
    pub(crate) live_before_bytes: u64,
    pub(crate) live_after_bytes: u64,
}

/// Forks that have written some pages of their own are deleted one by one.
pub(crate) fn delete(context: &Context, facets: u32) -> Result<Deleted> {
    // Without threads, so that what maintenance does is known to be over.
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::create() };
    let store = engine::open(&context.directory, options)?;
    create_template(&store, context.seed)?;
    let template = template_name()?;
    for number in 0..facets {
        let doing = || "making facets to delete".to_owned();
        let name = engine::name("gone", number)?;
        let (facet, _) = store.fork_facet(&template, &name, ForkFrom::Latest).doing(doing)?;
        let pages = (1..=OWN_PAGES).map(|page| PageContent {
            seed: context.seed,
            facet: number + 1,
            page: page * 60,
            generation: 0,
        });
        engine::write(&facet, PAGE_BYTES, pages)?;
        if (number + 1) % BATCH == 0 {
            store.flush().doing(doing)?;
        }
        if number % 1000 == 0 {
            context.tell(u64::from(number), u64::from(2 * facets), "facets to delete");
        }
    }
    engine::settle(&store)?;
    let before = store.stat();

    let mut latency = Latency::new();
    let started = Instant::now();
    for number in 0..facets {
        let doing = || "deleting".to_owned();
        let name = engine::name("gone", number)?;
        let began = Instant::now();
        let deleted = store.delete_facet(&name);
        latency.record(began.elapsed());
        deleted.doing(doing)?;
        if (number + 1) % BATCH == 0 {
            store.flush().doing(doing)?;
        }
    }
    store.flush().doing(|| "deleting".to_owned())?;
    let seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    engine::settle(&store)?;
    let settle_seconds = (started.elapsed() - engine::CALM).as_secs_f64();
    let after = store.stat();
    check_template(&store, context.seed)?;
    Ok(Deleted {
        facets,
        delete_us: latency.percentiles_us(),
        seconds: rounded(seconds, 3),
        settle_seconds: rounded(settle_seconds, 3),
        moved_bytes: after.cleaned_bytes - before.cleaned_bytes,
        allocated_before_bytes: before.allocated_bytes,
        allocated_after_bytes: after.allocated_bytes,
        live_before_bytes: before.live_bytes,
        live_after_bytes: after.live_bytes,
    })
}

impl Deleted {
    pub(crate) fn rows(&self, row: &mut impl FnMut(&str, String)) {
        let mib = |bytes: u64| format!("{:.1}", float(bytes) / f64::from(1 << 20));
        row("facets deleted, of 4 pages of their own", grouped_whole(u64::from(self.facets)));
        row("delete call p50 us", p50(self.delete_us));
        row("delete call p99 us", p99(self.delete_us));
        row("all deletes durable ms", short(self.seconds * 1000.0));
        row("checkpoint and maintenance after ms", short(self.settle_seconds * 1000.0));
        row("bytes moved by the cleaner", grouped_whole(self.moved_bytes));
        row("allocated MiB before", mib(self.allocated_before_bytes));
        row("allocated MiB after", mib(self.allocated_after_bytes));
        row("live MiB before", mib(self.live_before_bytes));
        row("live MiB after", mib(self.live_after_bytes));
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        // What stays may be moved once, out of segments that it shared with what was deleted.
        let moved = float(self.moved_bytes.saturating_sub(self.live_after_bytes));
        vec![Target::new("bytes moved for deletes, beyond what is still live", moved, 0.0)]
    }
}
