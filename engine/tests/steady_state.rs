//! What a store comes to that is overwritten at random for long: the space it takes, and what that
//! costs. A run is a function of its numbers: memory for files, a clock that the test moves, and
//! background work between flushes, as much as there is.

#![expect(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{
    Background, Clock, Environment, Facet, FacetName, FormatParams, MemoryIo, PageNo, PageSize,
    Store, StoreOptions, StoreStat, Tunables,
};

const PAGE_BYTES: u64 = 4096;
const FACET_PAGES: u32 = 32;
const GROUP: u64 = 16;
/// What the clock makes of a page: 4 MiB/s.
const NS_PER_PAGE: u64 = 976_563;

#[derive(Debug, Default)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn wall_ms(&self) -> u64 {
        self.monotonic_ns() / 1_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A generator that is good enough to choose pages (Marsaglia, Xorshift RNGs, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(((self.0 >> 32) * u64::from(bound)) >> 32).unwrap()
    }
}

struct Load {
    store: Arc<Store>,
    clock: Arc<SetClock>,
    facets: Vec<Arc<Facet>>,
    random: Random,
    page: Vec<u8>,
}

impl Load {
    fn create(facets: u32) -> Self {
        let clock = Arc::new(SetClock::default());
        let mut environment = Environment::with_io(Arc::new(MemoryIo::new()));
        environment.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let options = StoreOptions {
            create: true,
            format: FormatParams { segment_bytes_min: 128 << 10, segment_bytes_max: 64 << 20 },
            background: Background::Manual,
            // As large a part of what is live as it is of a store of some GiB.
            tunables: Tunables { checkpoint_log_bytes: 2 << 20, ..Tunables::default() },
        };
        let store = Store::open(environment, options).unwrap();
        let mut random = Random(0x1234_5678_9abc_def1);
        // Nothing of it can be left out.
        let page: Vec<u8> =
            (0..PAGE_BYTES).map(|_| u8::try_from(random.below(256)).unwrap() | 1).collect();
        let mut load = Self { store, clock, facets: Vec::new(), random, page };
        for number in 0..facets {
            let name = FacetName::new(format!("tenants/{number:06}")).unwrap();
            load.facets.push(load.store.create_facet(&name).unwrap());
            let pages: Vec<u32> = (1..=FACET_PAGES).collect();
            load.write(number, &pages);
            load.rest(u64::from(FACET_PAGES));
        }
        load
    }

    fn write(&mut self, facet: u32, pages: &[u32]) {
        let mut writer = self.facets[facet as usize].begin_write_latest().unwrap();
        if writer.page_size().is_none() {
            writer.set_page_size(PageSize::from_bytes(self.page.len()).unwrap()).unwrap();
        }
        for &page in pages {
            self.page[0] = self.page[0].wrapping_add(2);
            writer.write_page(PageNo(page), &self.page).unwrap();
        }
        writer.commit(0).unwrap();
    }

    /// Flushes, and does all background work there is.
    fn rest(&mut self, pages: u64) {
        self.store.flush().unwrap();
        self.clock.0.fetch_add(pages * NS_PER_PAGE, Ordering::Relaxed);
        while self.store.maintain().unwrap() {}
    }

    /// Overwrites so many pages; returns the space that took for what is live, on average and at most.
    fn overwrite(&mut self, pages: u64) -> (f64, f64) {
        let all = u32::try_from(self.facets.len()).unwrap() * FACET_PAGES;
        let (mut sum, mut max) = (0.0, 0.0_f64);
        let groups = pages / GROUP;
        for _ in 0..groups {
            for _ in 0..GROUP {
                let page = self.random.below(all);
                self.write(page / FACET_PAGES, &[page % FACET_PAGES + 1]);
            }
            let space = space(&self.store.stat());
            self.rest(GROUP);
            sum += space;
            max = max.max(space);
        }
        (sum / groups as f64, max)
    }
}

fn space(stat: &StoreStat) -> f64 {
    stat.allocated_bytes as f64 / stat.live_bytes as f64
}

/// If this fails, a store that is overwritten for long takes more space than it says, pays more for it
/// than it has to, or its background work never ends.
#[test]
fn space_and_writing_stay_within_bounds() {
    let facets = 512;
    let mut load = Load::create(facets);
    let pages = u64::from(facets * FACET_PAGES);
    load.overwrite(2 * pages);
    let before = load.store.stat();
    let (mean, max) = load.overwrite(pages);
    let after = load.store.stat();
    let log = (after.written_bytes - before.written_bytes) as f64;
    let moved = (after.cleaned_bytes - before.cleaned_bytes) as f64;
    let written = (pages * PAGE_BYTES) as f64;
    let figures = format!(
        "space {mean:.3}, at most {max:.3}; log {:.3} and moved {:.3} for each byte of pages; {after:?}",
        log / written,
        moved / written,
    );
    println!("{figures}");
    assert!(mean < 1.26 && max < 1.30, "{figures}");
    // Segments that are live to 1/1.17 on average and cleaned oldest first come up live to 0.73, which is
    // 2.7 bytes moved for each byte of log; what they cannot hold costs the rest.
    assert!(moved / log < 3.7 && log / written < 1.5, "{figures}");
    assert!(after.ready_segments < 24, "{figures}");
}
