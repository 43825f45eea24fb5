//! The figures that are shown against the facet count.

use lapidary_benches::latency::Percentiles;
use lapidary_benches::numbers::{dash, grouped, short};

use crate::arguments::ArmName;
use crate::report::{ArmReport, Report};

/// A figure of an arm, with the words for it.
pub(crate) struct Figure {
    /// Of its plot.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// With its unit, as in the table.
    pub(crate) label: &'static str,
    pub(crate) print: fn(f64) -> String,
    of: fn(&ArmReport) -> Option<f64>,
}

impl Figure {
    /// `None` where the arm has none, or did not run.
    pub(crate) fn at(&self, report: &Report, arm: ArmName, facets: u32) -> Option<f64> {
        let mut reports = report.arms.iter();
        let found = reports.find(|report| report.arm == arm && report.facets == facets)?;
        (self.of)(found)
    }

    pub(crate) fn print_of(&self, report: &Report, arm: ArmName, facets: u32) -> String {
        self.at(report, arm, facets).map_or_else(dash, self.print)
    }
}

/// What a sweep shows.
pub(crate) const SWEPT: [Figure; 10] = [
    Figure {
        id: "sweep-turns",
        title: "Turns, against the number of facets",
        label: "turns/s",
        print: grouped,
        of: |arm| Some(arm.turns_per_s),
    },
    Figure {
        id: "sweep-memory",
        title: "Memory of an open facet",
        label: "resident KiB/open facet",
        print: short,
        of: |arm| Some(arm.resident_kib_per_facet),
    },
    Figure {
        id: "sweep-disk",
        title: "Disk of a facet just created",
        label: "disk KiB/facet, created",
        print: short,
        of: |arm| Some(arm.disk_created_kib_per_facet),
    },
    Figure {
        id: "sweep-allocated",
        title: "Disk that its files take, after the turns",
        label: "disk KiB/facet allocated",
        print: short,
        of: |arm| Some(arm.disk_allocated_kib_per_facet),
    },
    Figure {
        id: "sweep-descriptors",
        title: "Descriptors of an open facet",
        label: "descriptors/open facet",
        print: |number| format!("{number:.3}"),
        of: |arm| Some(arm.descriptors_per_facet),
    },
    Figure {
        id: "sweep-cold-open",
        title: "Cold open and first query, median",
        label: "cold open + read p50 us",
        print: short,
        of: |arm| p50(arm.cold_open_us),
    },
    Figure {
        id: "sweep-store-open",
        title: "Opening the store after a kill",
        label: "store open ms, after a kill",
        print: short,
        of: |arm| arm.store_open_ms,
    },
    Figure {
        id: "sweep-creates",
        title: "Creation of facets",
        label: "creates/s",
        print: grouped,
        of: |arm| Some(arm.create_per_s),
    },
    Figure {
        id: "sweep-reads",
        title: "Reads, against the number of facets",
        label: "reads/s",
        print: grouped,
        of: |arm| Some(arm.reads_per_s),
    },
    Figure {
        id: "sweep-cpu",
        title: "CPU time of a turn, all threads",
        label: "turn CPU us",
        print: short,
        of: |arm| Some(arm.cpu_us_per_turn),
    },
];

fn p50(percentiles: Option<Percentiles>) -> Option<f64> {
    percentiles.map(|percentiles| percentiles.p50)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report_of;
    use crate::table::tests::report;

    #[test]
    fn a_figure_is_that_of_its_arm_at_its_count() {
        let report = report(vec![report_of(ArmName::Lapidary, 60_000.0)]);
        let turns = &SWEPT[0];
        assert_eq!(turns.print_of(&report, ArmName::Lapidary, 1000), "60,000");
        assert_eq!(turns.at(&report, ArmName::Lapidary, 100), None);
        assert_eq!(turns.print_of(&report, ArmName::SqliteInmem, 1000), "-");
    }
}
