//! One facet alone: from the call to the durable reply.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use lapidary::HostConfig;
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::latency::Latency;
use lapidary_benches::numbers::{p50, p99};
use lapidary_benches::sheet::{Sheet, Target};

use crate::{Part, host};

const FILE_BYTES: u64 = 1 << 20;
const BLOCK_BYTES: usize = 4096;

pub(crate) fn measure(work: &Path, calls: u32) -> Result<Part> {
    let host = host(work, "alone", HostConfig::new())?;
    let facet = host.facet("agent").doing(|| "naming a facet".to_owned())?;
    facet
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 0)")
        .wait()
        .doing(|| "making a table".to_owned())?;
    let file = filled_file(&work.join("alone.bytes"))?;
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
    let (replies, syncs) = (replies.percentiles_us(), syncs.percentiles_us());
    let mut sheet = Sheet::new("One facet alone", &["p50 us", "p99 us"]);
    sheet.row("call to durable reply", vec![p50(replies), p99(replies)]);
    sheet.row("fdatasync of 4 KiB", vec![p50(syncs), p99(syncs)]);
    let ratio = replies.zip(syncs).map(|(reply, sync)| reply.p50 / sync.p50);
    let targets = ratio.map(|ratio| Target::new("reply to fdatasync, p50", ratio, 1.5));
    Ok(Part { sheet, targets: targets.into_iter().collect() })
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
