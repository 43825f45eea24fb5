//! What the figures were measured on.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::failure::{Doing as _, Result};
use crate::latency::{Latency, Percentiles};
use crate::process;

/// The machine, the disk and the SQLite of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    /// CPUs this process may run on.
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Of the directory the arms work in.
    pub filesystem: String,
    pub sqlite: String,
    pub descriptor_limit: u64,
    /// 4 KiB written over a block of a filled file, then fdatasync.
    pub sync_rewritten_us: Option<Percentiles>,
    /// 4 KiB appended to a file, then fdatasync.
    pub sync_appended_us: Option<Percentiles>,
}

impl Machine {
    /// Looks around, and measures the disk of `directory` for a fraction of a second.
    pub fn describe(directory: &Path, descriptors: Option<u64>) -> Result<Self> {
        let (sync_rewritten_us, sync_appended_us) = measure_syncs(directory)?;
        let uname = rustix::system::uname();
        Ok(Self {
            cpu: value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: process::allowed_cpus()?.len(),
            memory_mib: memory_mib("MemTotal").unwrap_or(0),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            filesystem: filesystem_of(directory).unwrap_or_else(|| "unknown".to_owned()),
            sqlite: rusqlite::version().to_owned(),
            descriptor_limit: descriptors.unwrap_or_else(process::descriptor_limit),
            sync_rewritten_us,
            sync_appended_us,
        })
    }
}

/// A figure of `/proc/meminfo` in MiB.
pub fn memory_mib(name: &str) -> Option<u64> {
    let kib: u64 = value_of("/proc/meminfo", name)?.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn value_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn filesystem_of(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    innermost_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?, &directory)
}

/// Finds the mount a directory is on; `mountinfo` as in proc_pid_mountinfo(5).
fn innermost_mount(mountinfo: &str, directory: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mount_point = before.split(' ').nth(4)?;
        let mut kind_and_source = after.split(' ');
        Some((mount_point, kind_and_source.next()?, kind_and_source.next()?))
    });
    mounts
        .filter(|(mount_point, ..)| directory.starts_with(mount_point))
        // Of two mounts on the same point, the later one is seen.
        .max_by_key(|(mount_point, ..)| mount_point.len())
        .map(|(_, kind, source)| format!("{kind} on {source}"))
}

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 1024;
const SYNCS: u64 = 200;

fn measure_syncs(directory: &Path) -> Result<(Option<Percentiles>, Option<Percentiles>)> {
    let path = directory.join("sync-probe");
    let doing = || format!("measuring the disk with {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .doing(doing)?;
    let block = vec![0x5a_u8; BLOCK_BYTES];
    let block_bytes = BLOCK_BYTES as u64;
    for number in 0..BLOCKS {
        file.write_all_at(&block, number * block_bytes).doing(doing)?;
    }
    file.sync_all().doing(doing)?;
    // A stride that shares no factor with the number of blocks visits them out of order.
    let rewritten = time_syncs(&file, &block, |index| index * 389 % BLOCKS * block_bytes);
    let appended = time_syncs(&file, &block, |index| (BLOCKS + index) * block_bytes);
    fs::remove_file(&path).doing(doing)?;
    Ok((rewritten.doing(doing)?.percentiles_us(), appended.doing(doing)?.percentiles_us()))
}

fn time_syncs(file: &File, block: &[u8], offset: impl Fn(u64) -> u64) -> std::io::Result<Latency> {
    let mut latency = Latency::new();
    for index in 0..SYNCS {
        let started = Instant::now();
        file.write_all_at(block, offset(index))?;
        file.sync_data()?;
        latency.record(started.elapsed());
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::describe(directory.path(), Some(1024)).unwrap();
        assert!(machine.cores >= 1 && machine.memory_mib > 0);
        assert!(machine.sqlite.starts_with("3."));
        assert_eq!(machine.descriptor_limit, 1024);
        assert!(machine.sync_appended_us.unwrap().p50 > 0.0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_innermost_mount_wins() {
        let mountinfo = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /mnt/fast rw - xfs /dev/nvme0n1 rw
31 22 0:26 / /mnt/fa rw shared:3 master:1 - tmpfs none rw";
        let found = |directory: &str| innermost_mount(mountinfo, Path::new(directory)).unwrap();
        assert_eq!(found("/home/me"), "ext4 on /dev/vda");
        assert_eq!(found("/mnt/fast/pack"), "xfs on /dev/nvme0n1");
        assert_eq!(found("/mnt/fa"), "tmpfs on none");
    }
}
