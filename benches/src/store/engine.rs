//! Small steps with the engine that several parts take.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::numbers::{float, rounded};
use lapidary_benches::process::Usage;
use lapidary_engine::{
    Environment, Facet, FacetName, PageNo, PageSize, Store, StoreOptions, Ticket, View,
};
use serde::{Deserialize, Serialize};

use crate::content::PageContent;

/// After so long without a write a store has calmed down.
pub(crate) const CALM: Duration = Duration::from_millis(3000);

pub(crate) fn open(directory: &Path, options: StoreOptions) -> Result<Arc<Store>> {
    Store::open(Environment::system(directory), options)
        .doing(|| format!("opening the store in {}", directory.display()))
}

/// Opens a store that is there and says how long that took.
pub(crate) fn open_timed(
    directory: &Path,
    options: StoreOptions,
) -> Result<(Arc<Store>, Duration)> {
    let started = Instant::now();
    let store = open(directory, options)?;
    Ok((store, started.elapsed()))
}

/// The name of a facet in a folder; all have the same length.
pub(crate) fn name(folder: &str, number: u32) -> Result<FacetName> {
    FacetName::new(format!("{folder}/{number:08}")).doing(|| "naming a facet".to_owned())
}

pub(crate) fn page_size(bytes: usize) -> Result<PageSize> {
    PageSize::from_bytes(bytes)
        .ok_or_else(|| Failure::new(format!("there are no pages of {bytes} bytes")))
}

/// Commits pages to a facet, in one transaction. It is durable when its ticket is.
pub(crate) fn write(
    facet: &Arc<Facet>,
    page_bytes: usize,
    pages: impl IntoIterator<Item = PageContent>,
) -> Result<Ticket> {
    let doing = || format!("writing to facet {}", facet.name());
    let snapshot = facet.snapshot(View::Latest).doing(doing)?;
    let mut writer = facet.begin_write(&snapshot).doing(doing)?;
    if snapshot.page_count() == 0 {
        writer.set_page_size(page_size(page_bytes)?).doing(doing)?;
    }
    let mut bytes = vec![0; page_bytes];
    for content in pages {
        content.fill(&mut bytes);
        writer.write_page(PageNo(content.page), &bytes).doing(doing)?;
    }
    writer.commit(0).doing(doing)
}

/// Fails if a page does not hold what it should.
pub(crate) fn check(
    facet: &Arc<Facet>,
    page_bytes: usize,
    pages: impl IntoIterator<Item = PageContent>,
) -> Result<u64> {
    let doing = || format!("reading facet {}", facet.name());
    let snapshot = facet.snapshot(View::Durable).doing(doing)?;
    let mut bytes = vec![0; page_bytes];
    let mut checked = 0;
    for content in pages {
        snapshot.read_page(PageNo(content.page), &mut bytes).doing(doing)?;
        if !content.is_in(&bytes) {
            return Err(Failure::new(format!(
                "WRONG CONTENT: page {} of facet {} is not what was acknowledged (generation {})",
                content.page,
                facet.name(),
                content.generation
            )));
        }
        checked += 1;
    }
    Ok(checked)
}

/// Has the store do all background work that there is, when it has no threads of its own.
pub(crate) fn settle(store: &Store) -> Result<()> {
    let doing = || "background work".to_owned();
    store.flush().doing(doing)?;
    store.checkpoint().doing(doing)?;
    // A store that was busy keeps more at hand for a while: what goes then is counted, too.
    for pause in [Duration::ZERO, CALM] {
        thread::sleep(pause);
        // Each round lets go of what the one before found; work that never ends would be a fault.
        let mut rounds = 0;
        while store.maintain().doing(doing)? {
            rounds += 1;
            if rounds > 10_000 {
                return Err(Failure::new("background work does not come to an end"));
            }
        }
    }
    Ok(())
}

/// Memory of this process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    resident: u64,
    trimmed: u64,
    heap: u64,
}

/// Growth of memory for each of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Growth {
    /// Resident, as it is.
    pub(crate) resident_bytes: f64,
    /// Resident, after the allocator gave back what it can.
    pub(crate) trimmed_bytes: f64,
    /// What is allocated: without pages that are partly free. 0 where the C library does not tell.
    pub(crate) heap_bytes: f64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let resident = Usage::now()?.resident_bytes;
        allocator::trim();
        Ok(Self { resident, trimmed: Usage::now()?.resident_bytes, heap: allocator::used_bytes() })
    }

    /// Growth since `before`, for each of `count`.
    pub(crate) fn per(self, before: Self, count: u32) -> Growth {
        let each = |now: u64, before: u64| {
            rounded(float(now.saturating_sub(before)) / f64::from(count), 1)
        };
        Growth {
            resident_bytes: each(self.resident, before.resident),
            trimmed_bytes: each(self.trimmed, before.trimmed),
            heap_bytes: each(self.heap, before.heap),
        }
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "the C library offers no other way")]
mod allocator {
    /// Has freed memory given back to the system.
    pub(super) fn trim() {
        // SAFETY: malloc_trim takes no pointers and may be called at any time from any thread.
        unsafe { libc::malloc_trim(0) };
    }

    pub(super) fn used_bytes() -> u64 {
        // SAFETY: mallinfo2 takes no pointers and may be called at any time from any thread.
        let info = unsafe { libc::mallinfo2() };
        (info.uordblks + info.hblkhd) as u64
    }
}

#[cfg(not(target_env = "gnu"))]
mod allocator {
    pub(super) fn trim() {}

    pub(super) fn used_bytes() -> u64 {
        0
    }
}
