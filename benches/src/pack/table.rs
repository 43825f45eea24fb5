//! The table at the end: a column per arm, a line per figure.

use comfy_table::{Cell, CellAlignment, Table};

use lapidary_benches::numbers::{dash, grouped, grouped_whole, p50, p99, times};

use crate::arguments::ArmName;
use crate::report::{ArmReport, Report};

type Line = (&'static str, Box<dyn Fn(&ArmReport) -> String>);

/// All figures of a run, ready to print.
pub(crate) fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    let mut header = vec![Cell::new("")];
    header.extend(report.arms.iter().map(|arm| {
        // On two lines the columns stay narrow enough for a terminal.
        let name = arm.arm.as_str().replacen('-', "\n", 1);
        Cell::new(name).set_alignment(CellAlignment::Right)
    }));
    table.set_header(header);
    for (label, figure) in lines(report) {
        let mut row = vec![Cell::new(label)];
        row.extend(
            report
                .arms
                .iter()
                .map(|arm| Cell::new(figure(arm)).set_alignment(CellAlignment::Right)),
        );
        table.add_row(row);
    }
    let mut text = table.trim_fmt();
    for note in notes(report) {
        text.push('\n');
        text.push_str(&note);
    }
    text
}

fn lines(report: &Report) -> Vec<Line> {
    let base = report.arms.iter().find(|arm| arm.arm == ArmName::SqliteWalFull);
    let mut lines: Vec<Line> = vec![
        ("a turn survives", Box::new(|arm| arm.arm.survives().to_owned())),
        ("creates/s", Box::new(|arm| grouped(arm.create_per_s))),
    ];
    if let Some(create_per_s) = base.map(|arm| arm.create_per_s) {
        lines.push((
            "  against wal-full",
            Box::new(move |arm| times(arm.create_per_s, create_per_s)),
        ));
    }
    lines.push(("turns/s", Box::new(|arm| grouped(arm.turns_per_s))));
    if let Some(turns_per_s) = base.map(|arm| arm.turns_per_s) {
        lines
            .push(("  against wal-full", Box::new(move |arm| times(arm.turns_per_s, turns_per_s))));
    }
    let rest: [Line; 17] = [
        ("turn p50 us", Box::new(|arm| p50(arm.turn_us))),
        ("turn p99 us", Box::new(|arm| p99(arm.turn_us))),
        ("turn CPU us", Box::new(|arm| format!("{:.1}", arm.cpu_us_per_turn))),
        ("reads/s", Box::new(|arm| grouped(arm.reads_per_s))),
        ("cold open + read p50 us", Box::new(|arm| p50(arm.cold_open_us))),
        ("cold open + read p99 us", Box::new(|arm| p99(arm.cold_open_us))),
        ("resident KiB/open facet", Box::new(|arm| format!("{:.1}", arm.resident_kib_per_facet))),
        ("descriptors/open facet", Box::new(|arm| format!("{:.2}", arm.descriptors_per_facet))),
        ("connections open", Box::new(|arm| grouped_whole(arm.connections_open))),
        (
            "disk KiB/facet, created",
            Box::new(|arm| format!("{:.1}", arm.disk_created_kib_per_facet)),
        ),
        ("disk KiB/facet in use", Box::new(|arm| format!("{:.1}", arm.disk_kib_per_facet))),
        (
            "disk KiB/facet allocated",
            Box::new(|arm| format!("{:.1}", arm.disk_allocated_kib_per_facet)),
        ),
        ("disk KiB/facet, closed", Box::new(|arm| format!("{:.1}", arm.disk_closed_kib_per_facet))),
        ("bytes written/turn", Box::new(|arm| grouped(arm.written_bytes_per_turn))),
        (
            "store open ms, after a kill",
            Box::new(|arm| arm.store_open_ms.map_or_else(dash, |ms| format!("{ms:.1}"))),
        ),
        ("turns found again, per facet", Box::new(|arm| format!("{:.1}", turns_per_facet(arm)))),
        ("turns found again", Box::new(|arm| grouped_whole(arm.turns_verified))),
    ];
    lines.extend(rest);
    lines
}

fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    for arm in &report.arms {
        if arm.connections_open < u64::from(arm.facets) && arm.descriptors_per_facet > 0.5 {
            notes.push(format!(
                "{}: the descriptor limit of {} lets {} of {} databases stay open; the others are \
                 opened when needed, the least recently used closed.",
                arm.arm,
                report.machine.descriptor_limit,
                grouped_whole(arm.connections_open),
                grouped_whole(u64::from(arm.facets)),
            ));
        }
    }
    for failed in &report.failed {
        notes.push(format!("{} FAILED: {}", failed.arm, failed.reason));
    }
    notes
}

/// The lines above the table.
pub(crate) fn render_heading(report: &Report) -> String {
    let machine = &report.machine;
    let workload = &report.workload;
    let start = match &workload.template {
        None => "an empty schema".to_owned(),
        Some(template) => format!(
            "a copy of {} ({} KiB, pages of {} bytes)",
            template.file,
            template.bytes / 1024,
            template.page_bytes
        ),
    };
    format!(
        "{} facets from {start}; {} CPU{} and {} s of turns per arm; {} calls in flight per \
         client of lapidary; seed {}\n\
         {}, {} cores, {} MiB; {}; {}; SQLite {}; descriptor limit {}\n\
         fdatasync of 4 KiB: {} us rewritten, {} us appended (p50)",
        grouped_whole(u64::from(workload.facets)),
        workload.cores,
        if workload.cores == 1 { "" } else { "s" },
        workload.seconds,
        workload.in_flight,
        workload.seed,
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.filesystem,
        machine.sqlite,
        machine.descriptor_limit,
        p50(machine.sync_rewritten_us),
        p50(machine.sync_appended_us),
    )
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 turns")]
fn turns_per_facet(arm: &ArmReport) -> f64 {
    arm.turns_verified as f64 / f64::from(arm.facets)
}

#[cfg(test)]
mod tests {
    use lapidary_benches::latency::Percentiles;

    use super::*;
    use crate::report::tests::report_of;
    use crate::report::{FailedArm, Workload};
    use lapidary_benches::machine::Machine;

    fn report(arms: Vec<ArmReport>) -> Report {
        Report {
            machine: Machine {
                cpu: "a processor".to_owned(),
                cores: 2,
                memory_mib: 1024,
                kernel: "Linux 6".to_owned(),
                filesystem: "ext4 on /dev/vda".to_owned(),
                sqlite: "3.54.1".to_owned(),
                descriptor_limit: 1024,
                sync_rewritten_us: Some(Percentiles { p50: 130.0, p99: 400.0 }),
                sync_appended_us: None,
            },
            workload: Workload {
                name: "agent memory".to_owned(),
                facets: 1000,
                seconds: 3.0,
                cores: 2,
                in_flight: 256,
                mmap_mib: 0,
                seed: 1,
                template: None,
            },
            arms,
            failed: vec![FailedArm {
                arm: ArmName::SqliteInmem,
                reason: "out of memory".to_owned(),
            }],
        }
    }

    #[test]
    fn ratios_are_against_wal_full() {
        let text = render(&report(vec![
            report_of(ArmName::Lapidary, 60_000.0),
            report_of(ArmName::SqliteWalFull, 5000.0),
        ]));
        assert!(text.contains("60,000") && text.contains("12.0x") && text.contains("1.0x"));
        assert!(text.contains("sqlite-inmem FAILED: out of memory"));
    }

    #[test]
    fn without_wal_full_there_are_no_ratios() {
        let text = render(&report(vec![report_of(ArmName::Lapidary, 60_000.0)]));
        assert!(!text.contains("against"));
    }

    #[test]
    fn an_arm_that_could_not_keep_all_open_says_so() {
        let text = render(&report(vec![report_of(ArmName::SqliteWalFull, 5000.0)]));
        assert!(text.contains("descriptor limit of 1024 lets 500 of 1,000"), "{text}");
    }

    #[test]
    fn the_heading_names_the_machine() {
        let text = render_heading(&report(Vec::new()));
        assert!(text.contains("ext4") && text.contains("130 us rewritten, - us appended"));
    }
}
