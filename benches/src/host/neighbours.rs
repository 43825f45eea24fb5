//! What a facet notices of a neighbour on its core that never ends.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lapidary::{FacetHandle, HostConfig, HostError, Isolation};
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::latency::{Latency, Percentiles};
use lapidary_benches::numbers::{p50, p99};
use lapidary_benches::sheet::{Sheet, Target};

use crate::{Part, host};

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn measure(work: &Path, calls: u32) -> Result<Part> {
    let host = host(work, "neighbours", HostConfig::new().isolation(Isolation::untrusted()))?;
    let named = |name: &str| host.facet(name).doing(|| "naming a facet".to_owned());
    let (neighbour, hostile) = (named("neighbour")?, named("hostile")?);
    for facet in [&neighbour, &hostile] {
        facet
            .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 7)")
            .wait()
            .doing(|| "making a table".to_owned())?;
    }
    let idle = ask(&neighbour, calls)?;
    let mut sheet = Sheet::new("A neighbour's small SELECT", &["p50 us", "p99 us"]);
    sheet.row("core idle", vec![p50(idle), p99(idle)]);
    let mut targets = Vec::new();
    let budgets = [
        ("the preset's budget", Isolation::untrusted()),
        ("10 ms", within(10)),
        ("10 ms, resting 200 times that", within(10).overrun_rest(200)),
    ];
    for (label, policy) in budgets {
        host.set_isolation("hostile", Some(policy)).doing(|| "setting a policy".to_owned())?;
        let calls = if label.contains("resting") { calls } else { calls.min(100) };
        let beside = beside_endless(&neighbour, &hostile, calls)?;
        sheet.row(&format!("beside an endless query, {label}"), vec![p50(beside), p99(beside)]);
        if let (Some(idle), Some(beside)) = (idle, beside) {
            let what = format!("p99 beside an endless query to idle p99, {label}");
            targets.push(Target::new(&what, beside.p99 / idle.p99, 2.0));
        }
    }
    Ok(Part { sheet, targets })
}

fn within(ms: u64) -> Isolation {
    Isolation::untrusted().call_time_max(Some(Duration::from_millis(ms)))
}

fn ask(facet: &FacetHandle, calls: u32) -> Result<Option<Percentiles>> {
    let mut latency = Latency::new();
    for _ in 0..calls {
        thread::sleep(PAUSE);
        let start = Instant::now();
        facet
            .query("SELECT n FROM t WHERE id = 1", (), |row| row.get::<_, i64>(0))
            .wait()
            .doing(|| "asking the neighbour".to_owned())?;
        latency.record(start.elapsed());
    }
    Ok(latency.percentiles_us())
}

fn beside_endless(
    neighbour: &FacetHandle,
    hostile: &FacetHandle,
    calls: u32,
) -> Result<Option<Percentiles>> {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let loud = scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                let refused = hostile.query(ENDLESS, (), |row| row.get::<_, i64>(0)).wait();
                // What is refused at once is asked for again as often as the neighbour asks.
                if matches!(refused, Err(HostError::Resting { .. })) {
                    thread::sleep(PAUSE);
                }
            }
        });
        let found = ask(neighbour, calls);
        ends.store(true, Ordering::Relaxed);
        // It does nothing that panics.
        let _ = loud.join();
        found
    })
}
