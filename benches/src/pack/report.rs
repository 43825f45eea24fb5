//! The figures of a run, as `--json` writes them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use lapidary_benches::latency::{CurvePoint, Percentiles};
use lapidary_benches::machine::Machine;
use lapidary_benches::numbers::{float, rounded};

use crate::arguments::{ArmName, WorkloadName};
use crate::stage::{LoadPoint, Loaded, Verified};

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What was typed.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) workload: Workload,
    /// An entry for each arm at each facet count.
    pub(crate) arms: Vec<ArmReport>,
    /// Arms that could not be measured, or lost something.
    pub(crate) failed: Vec<Missing>,
    /// Arms that a sweep left out.
    pub(crate) skipped: Vec<Missing>,
}

impl Report {
    pub(crate) fn is_sweep(&self) -> bool {
        self.workload.facets.len() > 1
    }

    /// The arms that have figures at a facet count.
    pub(crate) fn arms_at(&self, facets: u32) -> Vec<&ArmReport> {
        self.arms.iter().filter(|arm| arm.facets == facets).collect()
    }

    /// The arms that have figures at any facet count, in the order they ran.
    pub(crate) fn arm_names(&self) -> Vec<ArmName> {
        let mut names = Vec::new();
        for arm in &self.arms {
            if !names.contains(&arm.arm) {
                names.push(arm.arm);
            }
        }
        names
    }

    /// Figures of an arm at the largest facet count it has run at so far.
    pub(crate) fn last_of(&self, arm: ArmName) -> Option<&ArmReport> {
        self.arms.iter().rfind(|report| report.arm == arm)
    }
}

/// What every arm was asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) name: WorkloadName,
    /// Of each database when it is made; only of the workload "large".
    pub(crate) size_mib: Option<u32>,
    /// Facet counts, ascending; more than one in a sweep.
    pub(crate) facets: Vec<u32>,
    pub(crate) seconds: f64,
    pub(crate) cores: usize,
    /// Turns outstanding per client in the arms that the host serves; one in the others.
    pub(crate) in_flight: usize,
    /// Turns in a call of the lapidary-core arm; one in the others.
    pub(crate) batch: usize,
    /// Of each database, read in place.
    pub(crate) mmap_mib: u32,
    pub(crate) seed: u64,
    pub(crate) template: Option<TemplateUsed>,
}

/// The database that every facet was a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TemplateUsed {
    pub(crate) file: String,
    pub(crate) page_bytes: u32,
    pub(crate) bytes: u64,
}

/// An arm without figures, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) arm: ArmName,
    pub(crate) facets: u32,
    pub(crate) reason: String,
}

/// Figures of an arm. `null` where an arm has no such thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ArmReport {
    pub(crate) arm: ArmName,
    pub(crate) facets: u32,
    /// Wall time of both processes of the arm, from start to end.
    pub(crate) elapsed_s: f64,
    pub(crate) create_per_s: f64,
    pub(crate) create_us: Option<Percentiles>,
    pub(crate) turns_per_s: f64,
    pub(crate) turn_us: Option<Percentiles>,
    pub(crate) turn_curve_us: Vec<CurvePoint>,
    /// CPU time of the whole process, divided by the turns of the timed phase.
    pub(crate) cpu_us_per_turn: f64,
    /// Reads between the turns of the workload "readers".
    pub(crate) mixed_reads_per_s: Option<f64>,
    pub(crate) mixed_read_us: Option<Percentiles>,
    /// With `--load`.
    pub(crate) load: Vec<LoadPoint>,
    pub(crate) reads_per_s: f64,
    pub(crate) read_us: Option<Percentiles>,
    pub(crate) read_curve_us: Vec<CurvePoint>,
    pub(crate) fork_per_s: f64,
    pub(crate) fork_us: Option<Percentiles>,
    pub(crate) delete_per_s: f64,
    pub(crate) delete_us: Option<Percentiles>,
    pub(crate) cold_open_us: Option<Percentiles>,
    pub(crate) cold_open_curve_us: Vec<CurvePoint>,
    /// Databases with an open connection when memory and descriptors were counted.
    pub(crate) connections_open: u64,
    pub(crate) resident_kib_per_facet: f64,
    pub(crate) descriptors_per_facet: f64,
    /// Before the first turn.
    pub(crate) disk_created_kib_per_facet: f64,
    pub(crate) disk_kib_per_facet: f64,
    pub(crate) disk_allocated_kib_per_facet: f64,
    pub(crate) disk_closed_kib_per_facet: f64,
    pub(crate) written_bytes_per_turn: f64,
    pub(crate) filled_bytes_per_turn: Option<f64>,
    pub(crate) device_bytes_per_turn: f64,
    pub(crate) store_open_ms: Option<f64>,
    pub(crate) store_open_clean_ms: Option<f64>,
    /// Turns of the timed phase.
    pub(crate) turns: u64,
    /// Turns acknowledged in the whole run, all of them found again.
    pub(crate) turns_verified: u64,
}

impl ArmReport {
    pub(crate) fn new(
        arm: ArmName,
        facets: u32,
        loaded: &Loaded,
        verified: Option<&Verified>,
        elapsed: Duration,
    ) -> Self {
        let per_facet_kib = |bytes: u64| rounded(float(bytes) / 1024.0 / f64::from(facets), 2);
        let per_open = |number: f64| number / float(loaded.connections_open.max(1));
        Self {
            arm,
            facets,
            elapsed_s: rounded(elapsed.as_secs_f64(), 2),
            create_per_s: rounded(loaded.create_per_s, 1),
            create_us: loaded.create_us,
            turns_per_s: rounded(loaded.turns_per_s, 1),
            turn_us: loaded.turn_us,
            turn_curve_us: loaded.turn_curve_us.clone(),
            cpu_us_per_turn: rounded(loaded.turn_cpu_us, 2),
            mixed_reads_per_s: loaded.mixed_reads_per_s.map(|rate| rounded(rate, 1)),
            mixed_read_us: loaded.mixed_read_us,
            load: loaded.load.clone(),
            reads_per_s: rounded(loaded.reads_per_s, 1),
            read_us: loaded.read_us,
            read_curve_us: loaded.read_curve_us.clone(),
            fork_per_s: rounded(loaded.fork_per_s, 1),
            fork_us: loaded.fork_us,
            delete_per_s: rounded(loaded.delete_per_s, 1),
            delete_us: loaded.delete_us,
            cold_open_us: verified.and_then(|verified| verified.cold_open_us),
            cold_open_curve_us: verified
                .map_or_else(Vec::new, |verified| verified.cold_open_curve_us.clone()),
            connections_open: loaded.connections_open,
            resident_kib_per_facet: rounded(per_open(float(loaded.resident_bytes) / 1024.0), 2),
            descriptors_per_facet: rounded(per_open(float(loaded.descriptors)), 3),
            disk_created_kib_per_facet: per_facet_kib(loaded.disk_created.bytes),
            disk_kib_per_facet: per_facet_kib(loaded.disk_open.bytes),
            disk_allocated_kib_per_facet: per_facet_kib(loaded.disk_open.allocated_bytes),
            disk_closed_kib_per_facet: per_facet_kib(
                verified.map_or(0, |verified| verified.disk_closed.bytes),
            ),
            written_bytes_per_turn: rounded(loaded.turn_written_bytes, 1),
            filled_bytes_per_turn: loaded.turn_filled_bytes.map(|bytes| rounded(bytes, 1)),
            device_bytes_per_turn: rounded(loaded.turn_device_bytes, 1),
            store_open_ms: verified
                .and_then(|verified| verified.store_open_ms)
                .map(|ms| rounded(ms, 3)),
            store_open_clean_ms: verified
                .and_then(|verified| verified.store_open_clean_ms)
                .map(|ms| rounded(ms, 3)),
            turns: loaded.turns,
            turns_verified: loaded.acknowledged.iter().map(|tally| tally.turns).sum(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::workload::Tally;
    use lapidary_benches::process::DiskUse;

    pub(crate) fn report_of(arm: ArmName, turns_per_s: f64) -> ArmReport {
        let loaded = Loaded {
            create_per_s: 450.04,
            turns: 3000,
            turns_per_s,
            turn_us: Some(Percentiles { p50: 360.0, p99: 900.5 }),
            connections_open: 500,
            resident_bytes: 500 * 1024 * 100,
            descriptors: 1500,
            disk_open: DiskUse { bytes: 1000 * 2048, allocated_bytes: 1000 * 4096 },
            acknowledged: vec![Tally { turns: 4, body_bytes: 800 }; 1000],
            ..Loaded::default()
        };
        let elapsed = Duration::from_secs(12);
        ArmReport::new(arm, 1000, &loaded, Some(&Verified::default()), elapsed)
    }

    #[test]
    fn figures_are_divided_by_the_right_number() {
        let report = report_of(ArmName::SqliteWalFull, 5000.0);
        assert_eq!(report.resident_kib_per_facet, 100.0);
        assert_eq!(report.descriptors_per_facet, 3.0);
        assert_eq!(report.disk_kib_per_facet, 2.0);
        assert_eq!(report.disk_allocated_kib_per_facet, 4.0);
        assert_eq!(report.turns_verified, 4000);
        assert_eq!(report.create_per_s, 450.0);
    }

    #[test]
    fn json_has_the_documented_keys() {
        let json = serde_json::to_value(report_of(ArmName::Lapidary, 1.0)).unwrap();
        assert_eq!(json["arm"], "lapidary");
        assert_eq!(json["facets"], 1000);
        assert_eq!(json["turn_us"]["p50"], 360.0);
        assert_eq!(json["turn_us"]["p99"], 900.5);
        assert!(json["store_open_ms"].is_null());
        for key in [
            "create_per_s",
            "turns_per_s",
            "reads_per_s",
            "fork_per_s",
            "delete_per_s",
            "cold_open_us",
            "resident_kib_per_facet",
            "descriptors_per_facet",
            "disk_kib_per_facet",
            "disk_allocated_kib_per_facet",
            "written_bytes_per_turn",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
