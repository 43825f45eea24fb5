//! Memory of open facets, and the first query in one that is closed.

use std::path::Path;
use std::time::Instant;

use lapidary::{FacetHandle, Host, HostConfig};
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::latency::Latency;
use lapidary_benches::numbers::{float, p50, p99, short};
use lapidary_benches::process::Usage;
use lapidary_benches::sheet::{Sheet, Target};

use crate::{Part, host};

/// Connections kept open while facets are made, and while cold ones are asked.
const FEW: usize = 64;

pub(crate) fn measure(work: &Path, facets: u32) -> Result<Part> {
    // Few are open while they are made: memory that was used and given back would be taken again unseen.
    let making = host(work, "resident", HostConfig::new().resident_facets_max(FEW))?;
    let handles = handles(&making, facets)?;
    in_turns(&handles, |facet| {
        facet.execute_batch(
            "CREATE TABLE message(id INTEGER PRIMARY KEY, at INTEGER, body TEXT NOT NULL);
             CREATE INDEX message_at ON message(at);
             CREATE TABLE state(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
             INSERT INTO message VALUES (1, 1, 'hello'); INSERT INTO state VALUES ('a', 1)",
        )
    })?;
    drop(handles);
    making.shutdown().doing(|| "closing the store".to_owned())?;
    drop(making);

    let all = facets as usize + 1;
    let open_all = HostConfig::new().resident_facets_max(all).idle_readers_max(0);
    let host_of_all = host(work, "resident", open_all)?;
    let handles = self::handles(&host_of_all, facets)?;
    let before = Usage::now()?.resident_bytes;
    in_turns(&handles, query)?;
    let after = Usage::now()?.resident_bytes;
    let stat = host_of_all.stat().wait().doing(|| "asking for figures".to_owned())?;
    let each = |bytes: u64| float(bytes) / 1024.0 / f64::from(facets);
    let (grown, counted) = (each(after.saturating_sub(before)), each(stat.cores[0].resident_bytes));
    drop(handles);
    host_of_all.shutdown().doing(|| "closing the store".to_owned())?;
    drop(host_of_all);

    let host_of_few = host(work, "resident", HostConfig::new().resident_facets_max(FEW))?;
    let handles = self::handles(&host_of_few, facets)?;
    // Each is opened once before, so that its page map is in memory.
    in_turns(&handles, query)?;
    let (mut cold, mut warm) = (Latency::new(), Latency::new());
    for facet in handles.iter().take(5_000) {
        for latency in [&mut cold, &mut warm] {
            let start = Instant::now();
            query(facet).wait().doing(|| "asking a facet".to_owned())?;
            latency.record(start.elapsed());
        }
    }
    let (cold, warm) = (cold.percentiles_us(), warm.percentiles_us());
    let mut sheet = Sheet::new(format!("{facets} open facets"), &["measured"]);
    sheet.row("memory of each, KiB resident", vec![short(grown)]);
    sheet.row("of it SQLite's, KiB allocated", vec![short(counted)]);
    sheet.row("opening and first query p50, us", vec![p50(cold)]);
    sheet.row("opening and first query p99, us", vec![p99(cold)]);
    sheet.row("second query p50, us", vec![p50(warm)]);
    let mut targets = vec![Target::new("KiB resident for each open facet", grown, 40.0)];
    if let Some(cold) = cold {
        targets.push(Target::new("opening and first query p50, us", cold.p50, 60.0));
    }
    Ok(Part { sheet, targets })
}

fn handles(host: &Host, facets: u32) -> Result<Vec<FacetHandle>> {
    (0..facets)
        .map(|n| host.facet(format!("agent-{n}")).doing(|| "naming a facet".to_owned()))
        .collect()
}

fn query(facet: &FacetHandle) -> lapidary::Call<Vec<i64>> {
    facet.query("SELECT id FROM message WHERE at = ?1", [1], |row| row.get(0))
}

/// Makes a call on each facet, many at a time.
fn in_turns<T>(
    facets: &[FacetHandle],
    call: impl Fn(&FacetHandle) -> lapidary::Call<T>,
) -> Result<()> {
    for some in facets.chunks(256) {
        let calls: Vec<_> = some.iter().map(&call).collect();
        for call in calls {
            call.wait().doing(|| "calling a facet".to_owned())?;
        }
    }
    Ok(())
}
