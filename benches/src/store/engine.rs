//! Small steps with the engine that several parts take.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::process::Usage;
use lapidary_engine::{
    Environment, Facet, FacetName, PageNo, PageSize, Store, StoreOptions, Ticket, View,
};

use crate::content::PageContent;

pub(crate) fn open(directory: &Path, options: StoreOptions) -> Result<Arc<Store>> {
    Store::open(Environment::posix(directory), options)
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
    // Each round lets go of what the one before found, and work that never ends would be a fault.
    for _ in 0..10_000 {
        if !store.maintain().doing(doing)? {
            return Ok(());
        }
    }
    Err(Failure::new("background work does not come to an end"))
}

/// Memory of this process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// As it is.
    pub(crate) resident: u64,
    /// After the allocator gave back what it can.
    pub(crate) trimmed: u64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let resident = Usage::now()?.resident_bytes;
        trim();
        Ok(Self { resident, trimmed: Usage::now()?.resident_bytes })
    }

    /// Growth since `before`, for each of `count`.
    pub(crate) fn per(self, before: Self, count: u32) -> (f64, f64) {
        let each = |now: u64, before: u64| {
            lapidary_benches::numbers::float(now.saturating_sub(before)) / f64::from(count)
        };
        (each(self.resident, before.resident), each(self.trimmed, before.trimmed))
    }
}

/// Has the allocator give freed memory back to the system.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "the C library offers no other way")]
fn trim() {
    // SAFETY: malloc_trim takes no pointers and may be called at any time from any thread.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}
