//! What a call through the host costs beside the same work on a plain connection.

use std::path::Path;

use lapidary::rusqlite::{Connection, OpenFlags};
use lapidary::{FacetHandle, HostConfig};
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::numbers::short;
use lapidary_benches::process::Usage;
use lapidary_benches::sheet::{Sheet, Target};

use crate::{Part, host};

const SQL: &str = "SELECT n FROM t WHERE id = 1";
/// Calls under way at a time where they are not waited for one by one.
const IN_FLIGHT: u32 = 64;
/// Turns of the three ways; of each the median counts.
const ROUNDS: usize = 15;

pub(crate) fn measure(work: &Path, calls: u32) -> Result<Part> {
    let host = host(work, "mailbox", HostConfig::new())?;
    for name in ["hosted", "plain"] {
        host.facet(name)
            .doing(|| "naming a facet".to_owned())?
            .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 7)")
            .wait()
            .doing(|| "making a table".to_owned())?;
    }
    // Lets go of the lock that the host keeps on it.
    host.abort("plain", "it is used from outside").wait().doing(|| "closing a facet".to_owned())?;
    let hosted = host.facet("hosted").doing(|| "naming a facet".to_owned())?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let plain = Connection::open_with_flags_and_vfs("plain", flags, host.vfs_name())
        .and_then(|plain| plain.execute_batch("PRAGMA locking_mode=EXCLUSIVE").map(|()| plain))
        .doing(|| "opening a plain connection".to_owned())?;
    let (mut direct, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(cpu_us(calls, || on_plain(&plain, calls))?);
        one.push(cpu_us(calls, || through_host(&hosted, calls, 1))?);
        many.push(cpu_us(calls, || through_host(&hosted, calls, IN_FLIGHT))?);
    }
    let (direct, one, many) = (median(direct), median(one), median(many));
    let mut sheet = Sheet::new("A small SELECT, processor time", &["us a call", "beyond plain"]);
    sheet.row("plain connection", vec![short(direct), short(0.0)]);
    sheet.row("host, 64 under way", vec![short(many), short(many - direct)]);
    sheet.row("host, each waited for", vec![short(one), short(one - direct)]);
    let targets = vec![
        Target::new("beyond a plain connection, 64 under way, us", many - direct, 3.0),
        Target::new("beyond a plain connection, each waited for, us", one - direct, 3.0),
    ];
    Ok(Part { sheet, targets })
}

fn on_plain(plain: &Connection, calls: u32) -> Result<()> {
    for _ in 0..calls {
        plain
            .prepare_cached(SQL)
            .and_then(|mut statement| statement.query_row((), |row| row.get::<_, i64>(0)))
            .doing(|| "asking a plain connection".to_owned())?;
    }
    Ok(())
}

fn through_host(facet: &FacetHandle, calls: u32, in_flight: u32) -> Result<()> {
    for _ in 0..calls.div_ceil(in_flight) {
        let calls: Vec<_> =
            (0..in_flight).map(|_| facet.query(SQL, (), |row| row.get::<_, i64>(0))).collect();
        for call in calls {
            call.wait().doing(|| "asking through the host".to_owned())?;
        }
    }
    Ok(())
}

/// Processor time of the process while `work` makes `calls` calls, for each.
fn cpu_us(calls: u32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = Usage::now()?.cpu;
    work()?;
    Ok((Usage::now()?.cpu - before).as_secs_f64() * 1e6 / f64::from(calls))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
