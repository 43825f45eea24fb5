//! Whether an arm can be run at a facet count: what it would need, as far as that can be told
//! beforehand, against what there is.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use lapidary_benches::failure::{Doing as _, Result};
use lapidary_benches::machine::memory_mib;
use lapidary_benches::numbers::grouped;

use crate::arguments::ArmName;
use crate::arms::Setting;
use crate::report::ArmReport;

/// Disk of a facet that nothing was measured of: an empty one of stock SQLite with its `-wal` and
/// `-shm`.
const FACET_BYTES: f64 = 64.0 * 1024.0;
/// Memory of a connection that nothing was measured of.
const CONNECTION_BYTES: f64 = 256.0 * 1024.0;
/// For logs and growth during the run.
const MARGIN: f64 = 1.5;
/// Files of a stock database that is open in WAL mode.
const FILES_PER_FACET: f64 = 3.0;

/// What a machine has free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    disk_bytes: f64,
    disk_files: f64,
    memory_bytes: f64,
    time_max: Option<Duration>,
}

impl Means {
    /// Looks at the disk of `directory` and at the memory.
    pub(crate) fn now(directory: &Path, time_max: Option<Duration>) -> Result<Self> {
        let space = rustix::fs::statvfs(directory)
            .doing(|| format!("asking for the free space at {}", directory.display()))?;
        // File systems that make inodes as they go say that they have none.
        let has_inodes = space.f_files > 0;
        Ok(Self {
            disk_bytes: float(space.f_bavail) * float(space.f_frsize),
            disk_files: if has_inodes { float(space.f_favail) } else { f64::INFINITY },
            memory_bytes: memory_mib("MemAvailable")
                .map_or(f64::INFINITY, |mib| float(mib) * f64::from(1 << 20)),
            time_max,
        })
    }
}

/// What an arm lacks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lack {
    Disk { needed: f64, free: f64 },
    Files { needed: f64, free: f64 },
    Memory { needed: f64, free: f64 },
    Time { needed: f64, allowed: Duration },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: &f64| bytes / f64::from(1 << 30);
        match self {
            Self::Disk { needed, free } => write!(
                f,
                "needs about {:.1} GiB of disk, {:.1} GiB are free: give fewer facets or another \
                 disk with --store",
                gib(needed),
                gib(free)
            ),
            Self::Files { needed, free } => write!(
                f,
                "needs {} files, the file system has room for {}: give fewer facets or another \
                 disk with --store",
                grouped(*needed),
                grouped(*free)
            ),
            Self::Memory { needed, free } => write!(
                f,
                "needs about {:.1} GiB of memory, {:.1} GiB are available: give fewer facets, or \
                 a lower --open-max where connections take it",
                gib(needed),
                gib(free)
            ),
            Self::Time { needed, allowed } => write!(
                f,
                "would take about {} s, as it took at a smaller count; --time-max allows {} s",
                grouped(*needed),
                allowed.as_secs_f64()
            ),
        }
    }
}

/// What an arm lacks to run with this setting; `None` if nothing is known to be in the way.
/// `earlier`: its figures at a smaller count; `timed_s`: the part of its time that does not grow.
pub(crate) fn lacks(
    setting: &Setting,
    earlier: Option<&ArmReport>,
    timed_s: f64,
    means: Means,
) -> Option<Lack> {
    let arm = setting.arm;
    let facets = f64::from(setting.facets);
    let template_bytes = setting.template.as_ref().map_or(0, |template| template.bytes);
    let content_bytes = float(template_bytes.max(setting.work.bytes()));

    let facet_bytes = earlier
        .map_or(FACET_BYTES, |earlier| earlier.disk_allocated_kib_per_facet * 1024.0)
        .max(content_bytes);
    let needed = facets * facet_bytes * MARGIN;
    if arm.is_stored() && needed > means.disk_bytes {
        return Some(Lack::Disk { needed, free: means.disk_bytes });
    }
    let needed = facets * FILES_PER_FACET;
    if arm.is_files() && needed > means.disk_files {
        return Some(Lack::Files { needed, free: means.disk_files });
    }

    let connection_bytes =
        earlier.map_or(CONNECTION_BYTES, |earlier| earlier.resident_kib_per_facet * 1024.0);
    let needed = match arm {
        // Its connections are the databases, and none can be closed.
        ArmName::SqliteInmem => facets * connection_bytes.max(content_bytes) * MARGIN,
        // Readers are connections apart.
        arm if arm.is_hosted() => f64::from(setting.open_max) * connection_bytes * 2.0,
        _ => f64::from(setting.open_max) * connection_bytes * MARGIN,
    };
    if needed > means.memory_bytes {
        return Some(Lack::Memory { needed, free: means.memory_bytes });
    }

    let (earlier, allowed) = earlier.zip(means.time_max)?;
    let growing_s = (earlier.elapsed_s - timed_s).max(0.0);
    let needed = timed_s + growing_s * facets / f64::from(earlier.facets);
    (needed > allowed.as_secs_f64()).then_some(Lack::Time { needed, allowed })
}

#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::WorkloadName;
    use crate::report::tests::report_of;
    use crate::template::Template;
    use crate::workload::Work;
    use std::path::PathBuf;

    const PLENTY: Means = Means {
        disk_bytes: 1e12,
        disk_files: 1e9,
        memory_bytes: 1e11,
        time_max: Some(Duration::from_secs(300)),
    };

    fn setting(arm: ArmName, facets: u32) -> Setting {
        Setting {
            arm,
            directory: PathBuf::new(),
            facets,
            open_max: facets.min(20_000),
            cpus: vec![0],
            in_flight: 1,
            batch: 1,
            mmap_mib: 0,
            work: Work::AGENTS,
            template: None,
        }
    }

    fn lack(arm: ArmName, facets: u32, means: Means) -> Option<Lack> {
        // 1,000 facets in 12 s, 4 of them timed phases; 100 KiB a connection.
        lacks(&setting(arm, facets), Some(&report_of(arm, 5000.0)), 4.0, means)
    }

    #[test]
    fn time_is_foretold_from_a_smaller_count() {
        let arm = ArmName::SqliteWalFull;
        assert_eq!(lack(arm, 10_000, PLENTY), None);
        let Some(Lack::Time { needed, .. }) = lack(arm, 100_000, PLENTY) else { panic!() };
        assert_eq!(needed, 804.0);
        assert_eq!(lacks(&setting(arm, 100_000), None, 4.0, PLENTY), None);
        assert_eq!(lack(arm, 100_000, Means { time_max: None, ..PLENTY }), None);
    }

    #[test]
    fn disk_files_and_memory_are_compared_with_what_is_free() {
        let little = Means { disk_bytes: 1e6, ..PLENTY };
        assert!(matches!(lack(ArmName::LapidaryVfs, 1000, little), Some(Lack::Disk { .. })));
        assert_eq!(lack(ArmName::SqliteInmem, 1000, little), None);
        let few = Means { disk_files: 2000.0, ..PLENTY };
        assert!(matches!(lack(ArmName::SqliteMemoryOff, 1000, few), Some(Lack::Files { .. })));
        assert_eq!(lack(ArmName::Lapidary, 1000, few), None);
        // 20,000 connections of 100 KiB fit, 100,000 do not.
        let forgetful = Means { memory_bytes: 6e9, time_max: None, ..PLENTY };
        assert_eq!(lack(ArmName::Lapidary, 100_000, forgetful), None);
        let message = lack(ArmName::SqliteInmem, 100_000, forgetful).unwrap().to_string();
        assert!(message.starts_with("needs about 14.3 GiB of memory, 5.6 GiB"), "{message}");
    }

    #[test]
    fn copies_of_a_template_take_its_size_each() {
        let template = Template {
            path: PathBuf::new(),
            wal_path: PathBuf::new(),
            page_bytes: 4096,
            bytes: 1 << 30,
        };
        let setting = Setting { template: Some(template), ..setting(ArmName::Lapidary, 1000) };
        let message = lacks(&setting, None, 4.0, PLENTY).unwrap().to_string();
        assert!(message.contains("GiB of disk") && message.contains("--store"), "{message}");
    }

    #[test]
    fn large_databases_take_their_size_each() {
        let large = Work { name: WorkloadName::Large, size_mib: 1024 };
        let setting = Setting { work: large, ..setting(ArmName::Lapidary, 1000) };
        let message = lacks(&setting, None, 4.0, PLENTY).unwrap().to_string();
        assert!(message.contains("1500.0 GiB of disk"), "{message}");
    }

    #[test]
    fn a_machine_has_some_of_everything() {
        let means = Means::now(&std::env::temp_dir(), None).unwrap();
        assert!(means.disk_bytes > 0.0 && means.disk_files > 0.0 && means.memory_bytes > 0.0);
    }
}
