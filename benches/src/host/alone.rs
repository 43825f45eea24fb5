//! One facet alone: from the call to the durable reply.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use lapidary::{FacetHandle, Host, HostConfig};
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::latency::Latency;
use lapidary_benches::numbers::{dash, p50, p99};
use lapidary_benches::process::{allowed_cpus, pin_thread};
use lapidary_benches::sheet::{Sheet, Target};

use crate::{Part, host};

const FILE_BYTES: u64 = 1 << 20;
const BLOCK_BYTES: usize = 4096;

/// How long a core looks out for the next call, in the last way.
const IDLE_POLL: Duration = Duration::from_micros(200);

pub(crate) fn measure(work: &Path, calls: u32) -> Result<Part> {
    let mut sheet = Sheet::new("One facet alone", &["p50 us", "p99 us", "to fdatasync"]);
    let mut targets = Vec::new();
    let all = allowed_cpus()?;
    // A disk interrupts one processor. Who syncs on another waits for being woken across, several times a
    // sync: so the call and the sync it is compared with are on the same.
    let mut ways: Vec<_> =
        all.first().into_iter().chain(all.last()).map(|&cpu| (vec![cpu], false)).collect();
    ways.dedup();
    if all.len() > 1 {
        ways.extend([(all.clone(), false), (all.clone(), true)]);
    }
    for (number, (cpus, polls)) in ways.into_iter().enumerate() {
        let one = (cpus.len() == 1).then(|| format!("on processor {}", cpus[0]));
        let mut label = one.clone().unwrap_or_else(|| "caller and core where they like".to_owned());
        if polls {
            label.push_str(", idle_poll of 200 us");
        }
        pin_thread(&cpus)?;
        let time = if polls { IDLE_POLL } else { Duration::ZERO };
        let name = format!("alone-{number}");
        let host = host(work, &name, HostConfig::new().idle_poll(time))?;
        let file = filled_file(&work.join(format!("{name}.bytes")))?;
        let (replies, syncs) = in_turns(&facet(&host)?, &file, calls)?;
        let (replies, syncs) = (replies.percentiles_us(), syncs.percentiles_us());
        let ratio = replies.zip(syncs).map(|(reply, sync)| reply.p50 / sync.p50);
        sheet.row(&format!("fdatasync of 4 KiB, {label}"), vec![p50(syncs), p99(syncs), dash()]);
        let told = ratio.map_or_else(dash, |ratio| format!("{ratio:.2}"));
        sheet.row(
            &format!("call to durable reply, {label}"),
            vec![p50(replies), p99(replies), told],
        );
        if let (Some(ratio), Some(one)) = (ratio, one) {
            targets.push(Target::new(&format!("reply to fdatasync, p50, {one}"), ratio, 1.5));
        }
    }
    pin_thread(&all)?;
    Ok(Part { sheet, targets })
}

/// Latency of `calls` durable calls, and of as many syncs between them.
fn in_turns(facet: &FacetHandle, file: &File, calls: u32) -> Result<(Latency, Latency)> {
    let (mut replies, mut syncs) = (Latency::new(), Latency::new());
    let block = [1; BLOCK_BYTES];
    for n in 0..u64::from(calls) {
        let start = Instant::now();
        facet
            .execute("UPDATE t SET n = n + 1 WHERE id = 1", ())
            .wait()
            .doing(|| "updating a row".to_owned())?;
        replies.record(start.elapsed());
        let start = Instant::now();
        file.write_all_at(&block, n * BLOCK_BYTES as u64 % FILE_BYTES)
            .and_then(|()| file.sync_data())
            .doing(|| "syncing a file".to_owned())?;
        syncs.record(start.elapsed());
    }
    Ok((replies, syncs))
}

/// A facet of `host` with a row to update.
fn facet(host: &Host) -> Result<FacetHandle> {
    let facet = host.facet("agent").doing(|| "naming a facet".to_owned())?;
    facet
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 0)")
        .wait()
        .doing(|| "making a table".to_owned())?;
    Ok(facet)
}

/// A file whose blocks are all written, as the store's segments are.
fn filled_file(path: &Path) -> Result<File> {
    let doing = || format!("filling {}", path.display());
    let file =
        OpenOptions::new().create(true).truncate(true).write(true).open(path).doing(doing)?;
    for at in (0..FILE_BYTES).step_by(BLOCK_BYTES) {
        file.write_all_at(&[0; BLOCK_BYTES], at).doing(doing)?;
    }
    file.sync_all().doing(doing)?;
    Ok(file)
}
