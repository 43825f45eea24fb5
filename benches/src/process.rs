//! What the kernel says about this process, and the limits it runs under.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::failure::{Doing as _, Failure, Result};

/// The CPUs this process may run on.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).doing(|| "asking for the allowed CPUs".to_owned())?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Keeps the calling thread, and the threads it starts, on `cpus`.
pub fn pin_thread(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).doing(|| format!("pinning a thread to CPUs {cpus:?}"))
}

/// How many descriptors this process may have open.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Sets how many descriptors this process may have open.
pub fn limit_descriptors(limit: u64) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum })
        .doing(|| format!("setting the descriptor limit to {limit}"))
}

/// Counters of this process at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory resident now, in bytes.
    pub resident_bytes: u64,
    /// Descriptors open now.
    pub descriptors: u64,
    /// Bytes passed to write calls so far.
    pub written_bytes: u64,
    /// Bytes of storage blocks dirtied so far: whole pages of the page cache, each once until it
    /// is written back.
    pub device_bytes: u64,
    /// CPU time so far, user and system, all threads.
    pub cpu: Duration,
}

impl Usage {
    pub fn now() -> Result<Self> {
        let status = read_proc("/proc/self/status")?;
        let io = read_proc("/proc/self/io")?;
        let descriptors = fs::read_dir("/proc/self/fd")
            .doing(|| "listing /proc/self/fd".to_owned())?
            .count() as u64;
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Ok(Self {
            resident_bytes: field(&status, "VmRSS:")? * 1024,
            // The listing itself has one open.
            descriptors: descriptors.saturating_sub(1),
            written_bytes: field(&io, "wchar:")?,
            device_bytes: field(&io, "write_bytes:")?,
            cpu: Duration::new(
                u64::try_from(cpu.tv_sec).unwrap_or_default(),
                u32::try_from(cpu.tv_nsec).unwrap_or_default(),
            ),
        })
    }
}

fn read_proc(path: &str) -> Result<String> {
    fs::read_to_string(path).doing(|| format!("reading {path}"))
}

/// A figure of a file in `/proc` whose lines begin with names.
pub fn field(text: &str, name: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| Failure::new(format!("the kernel reports no {name} of this process")))
}

/// Size of everything below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Sum of file sizes.
    pub bytes: u64,
    /// Sum of the blocks given to them.
    pub allocated_bytes: u64,
}

impl DiskUse {
    pub fn below(directory: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let mut sum = Self::default();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            let listing =
                fs::read_dir(&directory).doing(|| format!("listing {}", directory.display()))?;
            for entry in listing {
                let entry = entry.doing(|| format!("listing {}", directory.display()))?;
                let metadata =
                    entry.metadata().doing(|| format!("looking at {}", entry.path().display()))?;
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else {
                    sum.bytes += metadata.len();
                    sum.allocated_bytes += metadata.blocks() * 512;
                }
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_sees_what_this_process_does() {
        let directory = tempfile::tempdir().unwrap();
        let before = Usage::now().unwrap();
        let file = fs::File::create(directory.path().join("file")).unwrap();
        std::io::Write::write_all(&mut &file, &[1; 300_000]).unwrap();
        let after = Usage::now().unwrap();
        assert!(after.written_bytes - before.written_bytes >= 300_000);
        assert!(after.cpu > before.cpu);
        assert!(before.resident_bytes > 100_000);
        assert!(after.descriptors > 3);
    }

    #[test]
    fn disk_use_adds_up_subdirectories() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("a"), [1; 5000]).unwrap();
        fs::write(directory.path().join("sub/b"), [1; 100]).unwrap();
        let disk_use = DiskUse::below(directory.path()).unwrap();
        assert_eq!(disk_use.bytes, 5100);
        assert!(DiskUse::below(&directory.path().join("absent")).is_err());
    }

    #[test]
    fn a_missing_field_is_an_error() {
        assert_eq!(field("VmRSS:\t  1234 kB\n", "VmRSS:"), Ok(1234));
        assert!(field("VmSize: 1 kB\n", "VmRSS:").is_err());
    }
}
