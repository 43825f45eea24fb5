//! Random overwrites for long enough that every segment has been cleaned: the space that takes, what
//! the cleaner writes for it, and what commits notice.
//!
//! The load: one page of a random facet per commit, so many commits to a flush, at a rate. Latency is
//! counted from when a commit was *due*, not from when it was its turn, so that a stall is seen by all
//! commits it delays. The same load on a store that is allowed to grow without bounds shows what of
//! the latency is not the cleaner's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::latency::{Latency, Percentiles};
use lapidary_benches::numbers::{float, grouped, grouped_whole, p50, p99, rounded};
use lapidary_engine::{Facet, Store, StoreOptions, StoreStat, Tunables};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::content::PageContent;
use crate::engine;
use crate::step::Context;
use crate::theory;
use lapidary_benches::sheet::{Sheet, Target};

const PAGE_BYTES: usize = 4096;
const FACET_PAGES: u32 = 32;
/// How often all pages are overwritten before anything is measured.
const WARM_UP: f64 = 2.0;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
/// `space_percent_max` at which nothing is ever cleaned.
const NEVER: u32 = 10_000;

/// What is written, and how fast.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) live_mib: u32,
    pub(crate) overwrites: f64,
    /// 0: as fast as it goes.
    pub(crate) rate_mib: u32,
    pub(crate) group: u32,
    pub(crate) is_cleaned: bool,
}

/// What a store did under the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Overwritten {
    pub(crate) load: Load,
    pub(crate) seconds: f64,
    pub(crate) commits: u64,
    pub(crate) commits_per_s: f64,
    /// From when it was due until it was durable.
    pub(crate) commit_us: Option<Percentiles>,
    /// The calls that stage and commit a page, without the flush.
    pub(crate) call_us: Option<Percentiles>,
    /// Allocated bytes for each byte that is live, history included: over time.
    pub(crate) space_mean: f64,
    pub(crate) space_max: f64,
    /// Allocated bytes for each byte of pages.
    pub(crate) space_of_pages_mean: f64,
    /// Log since the last checkpoint, which cannot be cleaned yet, for each live byte.
    pub(crate) tail_mean: f64,
    /// Segments that wait to be written.
    pub(crate) ready_segments_mean: f64,
    /// What is live of the segments that the cleaner has to choose from.
    pub(crate) settled_live_mean: f64,
    pub(crate) page_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) cleaned_bytes: u64,
    pub(crate) cleaned_segments: u64,
    pub(crate) checkpoints: u64,
    pub(crate) forwards: u64,
    pub(crate) pages_checked: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) idle: Overwritten,
    pub(crate) cleaned: Overwritten,
    /// Part of the space that is live, on average, while it was cleaned.
    pub(crate) utilisation: f64,
    /// What theory makes of that.
    pub(crate) victim_utilisation: f64,
    pub(crate) theory_write_amplification: f64,
    /// Bytes of pages and bytes moved, for each byte of pages.
    pub(crate) write_amplification: f64,
}

pub(crate) fn overwrite(context: &Context, load: Load) -> Result<Overwritten> {
    let mut tunables = Tunables::default();
    if !load.is_cleaned {
        tunables.space_percent_max = NEVER;
    }
    let store =
        engine::open(&context.directory, StoreOptions { tunables, ..StoreOptions::create() })?;
    let mut pages = Pages::create(&store, context, load)?;
    // A store that is not cleaned has nothing to get used to. The other one is first filled up as fast
    // as it goes, then settles at the rate that is measured.
    if load.is_cleaned {
        let fast = Load { overwrites: WARM_UP / 2.0, rate_mib: 0, ..load };
        pages.overwrite(&store, context, fast, "warm-up")?;
        let paced = Load { overwrites: WARM_UP / 2.0, ..load };
        pages.overwrite(&store, context, paced, "warm-up")?;
    }

    let before = store.stat();
    let watch = Watch::start(&store, u64::from(load.live_mib) << 20)?;
    let started = Instant::now();
    let latencies = pages.overwrite(&store, context, load, "overwrites")?;
    let seconds = started.elapsed().as_secs_f64();
    let space = watch.stop()?;
    let after = store.stat();

    store.flush().doing(|| "flushing".to_owned())?;
    pages.check(context)?;
    // The facets know the store's files, so they go first.
    let pages_left = pages.generations;
    drop(pages.facets);
    drop(store);
    let store = engine::open(&context.directory, StoreOptions::default())?;
    let pages = Pages::find(&store, pages_left)?;
    let pages_checked = pages.check(context)?;
    std::mem::forget(store);
    let commits = after.commits - before.commits;
    Ok(Overwritten {
        load,
        seconds: rounded(seconds, 3),
        commits,
        commits_per_s: rounded(float(commits) / seconds, 1),
        commit_us: latencies.commit.percentiles_us(),
        call_us: latencies.call.percentiles_us(),
        space_mean: rounded(space.mean(), 4),
        space_max: rounded(space.max, 4),
        space_of_pages_mean: rounded(space.sum_of_pages / space.samples, 4),
        tail_mean: rounded(space.sum_of_tails / space.samples, 4),
        ready_segments_mean: rounded(space.sum_of_ready / space.samples, 1),
        settled_live_mean: rounded(space.sum_of_settled / space.samples, 4),
        page_bytes: commits * PAGE_BYTES as u64,
        log_bytes: after.written_bytes - before.written_bytes,
        cleaned_bytes: after.cleaned_bytes - before.cleaned_bytes,
        cleaned_segments: after.cleaned_segments - before.cleaned_segments,
        checkpoints: after.checkpoints - before.checkpoints,
        forwards: after.forwards,
        pages_checked,
    })
}

/// All pages, and how often each was overwritten.
struct Pages {
    facets: Vec<Arc<Facet>>,
    generations: Vec<u32>,
    random: ChaCha8Rng,
}

struct Latencies {
    commit: Latency,
    call: Latency,
}

impl Pages {
    fn create(store: &Arc<Store>, context: &Context, load: Load) -> Result<Self> {
        let doing = || "writing the facets".to_owned();
        let count = load.live_mib * ((1 << 20) / (FACET_PAGES * 4096));
        let mut facets = Vec::new();
        for number in 0..count {
            let facet = store.create_facet(&engine::name("tenants", number)?).doing(doing)?;
            let content =
                |page| PageContent { seed: context.seed, facet: number, page, generation: 0 };
            engine::write(&facet, PAGE_BYTES, (1..=FACET_PAGES).map(content))?;
            facets.push(facet);
            if number % 16 == 15 {
                store.flush().doing(doing)?;
            }
        }
        store.flush().doing(doing)?;
        store.checkpoint().doing(doing)?;
        let generations = vec![0; (count * FACET_PAGES) as usize];
        Ok(Self { facets, generations, random: ChaCha8Rng::seed_from_u64(context.seed) })
    }

    fn find(store: &Arc<Store>, generations: Vec<u32>) -> Result<Self> {
        let count = u32::try_from(generations.len()).unwrap_or(u32::MAX) / FACET_PAGES;
        let find = |number| {
            let name = engine::name("tenants", number)?;
            store.open_facet(&name).doing(|| format!("opening facet {name}"))
        };
        let facets = (0..count).map(find).collect::<Result<_>>()?;
        Ok(Self { facets, generations, random: ChaCha8Rng::seed_from_u64(0) })
    }

    fn content(&self, seed: u64, index: u32) -> PageContent {
        PageContent {
            seed,
            facet: index / FACET_PAGES,
            page: index % FACET_PAGES + 1,
            generation: self.generations[index as usize],
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.generations.len()).unwrap_or(u32::MAX)
    }

    fn overwrite(
        &mut self,
        store: &Arc<Store>,
        context: &Context,
        load: Load,
        doing: &str,
    ) -> Result<Latencies> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded above 0"
        )]
        let commits = (f64::from(self.count()) * load.overwrites) as u64;
        let groups = commits.div_ceil(u64::from(load.group));
        let rate_bytes_per_s = f64::from(load.rate_mib) * f64::from(1 << 20);
        let group_seconds = f64::from(load.group) * float(PAGE_BYTES as u64) / rate_bytes_per_s;
        let mut latencies = Latencies { commit: Latency::new(), call: Latency::new() };
        let started = Instant::now();
        let mut began = Vec::with_capacity(load.group as usize);
        for group in 0..groups {
            // Infinite without a rate.
            let due = started
                + Duration::try_from_secs_f64(group_seconds * float(group)).unwrap_or_default();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            began.clear();
            for _ in 0..load.group {
                let index = self.random.random_range(0..self.count());
                self.generations[index as usize] += 1;
                let content = self.content(context.seed, index);
                let call = Instant::now();
                engine::write(&self.facets[content.facet as usize], PAGE_BYTES, [content])?;
                latencies.call.record(call.elapsed());
                began.push(if load.rate_mib == 0 { call } else { due });
            }
            store.flush().doing(|| "flushing".to_owned())?;
            let durable = Instant::now();
            began.iter().for_each(|&began| latencies.commit.record(durable - began));
            if group % 256 == 0 {
                let part = group * u64::from(load.group);
                context.tell(part, commits, doing);
            }
        }
        Ok(latencies)
    }

    fn check(&self, context: &Context) -> Result<u64> {
        let mut checked = 0;
        for (number, facet) in (0..).zip(&self.facets) {
            let first = number * FACET_PAGES;
            let pages = (first..first + FACET_PAGES).map(|index| self.content(context.seed, index));
            checked += engine::check(facet, PAGE_BYTES, pages)?;
        }
        Ok(checked)
    }
}

/// Looks at the space of a store now and then, from a thread of its own: asking may have to wait for
/// whoever cleans, and the load must not.
struct Watch {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Space>,
}

#[derive(Default)]
struct Space {
    samples: f64,
    sum: f64,
    max: f64,
    sum_of_pages: f64,
    sum_of_tails: f64,
    sum_of_ready: f64,
    sum_of_settled: f64,
}

impl Space {
    fn add(&mut self, stat: &StoreStat, page_bytes: u64) {
        let allocated = float(stat.allocated_bytes);
        let space = allocated / float(stat.live_bytes.max(1));
        self.samples += 1.0;
        self.sum += space;
        self.max = self.max.max(space);
        self.sum_of_pages += allocated / float(page_bytes);
        self.sum_of_tails += float(stat.tail_bytes) / float(stat.live_bytes.max(1));
        self.sum_of_ready += f64::from(stat.ready_segments);
        self.sum_of_settled += float(stat.settled_live_bytes) / float(stat.settled_bytes.max(1));
    }

    fn mean(&self) -> f64 {
        self.sum / self.samples
    }
}

impl Watch {
    fn start(store: &Arc<Store>, page_bytes: u64) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, store) = (Arc::clone(&is_over), Arc::clone(store));
        let watch = move || {
            let mut space = Space::default();
            loop {
                space.add(&store.stat(), page_bytes);
                if over.load(Ordering::Relaxed) {
                    return space;
                }
                thread::sleep(SAMPLE_INTERVAL);
            }
        };
        let thread = thread::Builder::new()
            .name("watch".to_owned())
            .spawn(watch)
            .doing(|| "starting a thread".to_owned())?;
        Ok(Self { is_over, thread })
    }

    fn stop(self) -> Result<Space> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::new("the thread that watches space has panicked"))
    }
}

impl Figures {
    pub(crate) fn new(idle: Overwritten, cleaned: Overwritten) -> Self {
        let utilisation = 1.0 / cleaned.space_mean;
        let victim_utilisation = theory::victim_utilisation(utilisation);
        let theory_write_amplification = theory::write_amplification(victim_utilisation);
        let pages = float(cleaned.page_bytes);
        Self {
            utilisation: rounded(utilisation, 4),
            victim_utilisation: rounded(victim_utilisation, 4),
            theory_write_amplification: rounded(theory_write_amplification, 3),
            write_amplification: rounded((pages + float(cleaned.cleaned_bytes)) / pages, 3),
            idle,
            cleaned,
        }
    }

    /// p99 of commits while cleaning, in terms of that without.
    fn p99_ratio(&self) -> f64 {
        let p99 = |store: &Overwritten| store.commit_us.map_or(f64::NAN, |us| us.p99);
        p99(&self.cleaned) / p99(&self.idle)
    }

    pub(crate) fn sheet(&self) -> Sheet {
        let load = self.cleaned.load;
        let rate = match load.rate_mib {
            0 => "as fast as it goes".to_owned(),
            rate => format!("at {rate} MiB/s"),
        };
        let title = format!(
            "{} MiB live, overwritten {} times at random, a page of 4 KiB per commit, {} to a \
             flush, {rate}",
            load.live_mib, load.overwrites, load.group
        );
        let stores = [&self.idle, &self.cleaned];
        let mut sheet = Sheet::new(title, &["cleaning off", "cleaning on", "ratio"]);
        let mut row = |label: &str, figure: &dyn Fn(&Overwritten) -> String, ratio: Option<f64>| {
            let mut figures: Vec<String> = stores.iter().map(|store| figure(store)).collect();
            figures.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            sheet.row(label, figures);
        };
        let mib = |bytes: u64| format!("{:.1}", float(bytes) / f64::from(1 << 20));
        row("commits", &|store| grouped_whole(store.commits), None);
        row("commits/s", &|store| grouped(store.commits_per_s), None);
        row("commit durable p50 us, from when due", &|store| p50(store.commit_us), None);
        row("commit durable p99 us", &|store| p99(store.commit_us), Some(self.p99_ratio()));
        row("commit call p50 us, without flush", &|store| p50(store.call_us), None);
        row("commit call p99 us", &|store| p99(store.call_us), None);
        row("allocated / live, mean", &|store| format!("{:.3}", store.space_mean), None);
        row("allocated / live, max", &|store| format!("{:.3}", store.space_max), None);
        row("allocated / pages, mean", &|store| format!("{:.3}", store.space_of_pages_mean), None);
        row("  log since the checkpoint / live", &|store| format!("{:.3}", store.tail_mean), None);
        row("  segments ready, mean", &|store| format!("{:.1}", store.ready_segments_mean), None);
        row(
            "  settled: live / allocated",
            &|store| format!("{:.3}", store.settled_live_mean),
            None,
        );
        row("MiB of pages committed", &|store| mib(store.page_bytes), None);
        row("MiB of log, all of it", &|store| mib(store.log_bytes), None);
        row("MiB moved by the cleaner", &|store| mib(store.cleaned_bytes), None);
        row("segments cleaned", &|store| grouped_whole(store.cleaned_segments), None);
        row("checkpoints", &|store| grouped_whole(store.checkpoints), None);
        row("forwards at the end", &|store| grouped_whole(store.forwards), None);
        row("pages compared", &|store| grouped_whole(store.pages_checked), None);
        let mut cleaned = |label: &str, figure: String| {
            sheet.row(label, vec![String::new(), figure, String::new()]);
        };
        cleaned("a: live / allocated, mean", format!("{:.3}", self.utilisation));
        cleaned("u: live of a victim, a = (u-1)/ln(u)", format!("{:.3}", self.victim_utilisation));
        cleaned("write amplification, theory 1/(1-u)", {
            format!("{:.2}", self.theory_write_amplification)
        });
        cleaned("write amplification, measured", format!("{:.2}", self.write_amplification));
        let (log, moved) = (self.cleaned.log_bytes, self.cleaned.cleaned_bytes);
        let settled = theory::victim_utilisation(self.cleaned.settled_live_mean);
        cleaned("of the settled: u", format!("{settled:.3}"));
        cleaned("moved / log, theory u/(1-u)", format!("{:.2}", settled / (1.0 - settled)));
        cleaned("moved / log, measured", format!("{:.2}", float(moved) / float(log.max(1))));
        cleaned(
            "(log + moved) / pages",
            format!("{:.2}", float(log + moved) / float(self.cleaned.page_bytes.max(1))),
        );
        sheet
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        vec![
            Target::new("allocated / live, mean", self.cleaned.space_mean, 1.25),
            Target::new(
                "write amplification, at most what theory says",
                self.write_amplification,
                self.theory_write_amplification,
            ),
            Target::new("commit p99 while cleaning, ratio to without", self.p99_ratio(), 2.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_held_against_theory() {
        let load = Load { live_mib: 1, overwrites: 1.0, rate_mib: 0, group: 1, is_cleaned: true };
        let at = |p99| Some(Percentiles { p50: 1.0, p99 });
        let store = |space_mean, p99| Overwritten {
            load,
            seconds: 1.0,
            commits: 100,
            commits_per_s: 100.0,
            commit_us: at(p99),
            call_us: None,
            space_mean,
            space_max: space_mean,
            space_of_pages_mean: space_mean,
            tail_mean: 0.1,
            ready_segments_mean: 3.0,
            settled_live_mean: 0.85,
            page_bytes: 100,
            log_bytes: 300,
            cleaned_bytes: 150,
            cleaned_segments: 1,
            checkpoints: 1,
            forwards: 0,
            pages_checked: 0,
        };
        let figures = Figures::new(store(4.0, 100.0), store(1.25, 150.0));
        assert_eq!(figures.write_amplification, 2.5);
        assert!((figures.theory_write_amplification - 2.70).abs() < 0.01);
        assert!(figures.targets().iter().all(|target| target.is_met), "{figures:?}");
        assert!(figures.sheet().render(&[]).contains("1.50"));
    }
}
