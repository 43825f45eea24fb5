//! The table at the end: a column per arm, a line per figure.

use comfy_table::{Cell, CellAlignment, Table};

use lapidary_benches::numbers::{dash, grouped, grouped_whole, p50, p99, times};

use crate::arguments::ArmName;
use crate::figures::SWEPT;
use crate::report::{ArmReport, Missing, Report};

type Line = (String, Box<dyn Fn(&ArmReport) -> String>);

/// All figures of a run, ready to print: of a sweep against the facet count, else all there are.
pub(crate) fn render(report: &Report) -> String {
    let mut text = if report.is_sweep() {
        render_sweep(report)
    } else {
        render_arms(&report.arms.iter().collect::<Vec<_>>())
    };
    for note in notes(report) {
        text.push('\n');
        text.push_str(&note);
    }
    text
}

fn render_arms(arms: &[&ArmReport]) -> String {
    let mut table = table_of(arms.iter().map(|arm| arm.arm));
    for (label, figure) in lines(arms) {
        let figures = arms.iter().map(|arm| right(figure(arm)));
        table.add_row([Cell::new(label)].into_iter().chain(figures));
    }
    table.trim_fmt()
}

/// A group of lines for each figure, a line for each facet count.
fn render_sweep(report: &Report) -> String {
    let names = report.arm_names();
    let mut table = table_of(names.iter().copied());
    for figure in &SWEPT {
        table.add_row([format!("{}:", figure.label)]);
        for &facets in &report.workload.facets {
            let figures = names.iter().map(|&arm| right(figure.print_of(report, arm, facets)));
            let label = Cell::new(format!("  {} facets", grouped_whole(u64::from(facets))));
            table.add_row([label].into_iter().chain(figures));
        }
    }
    table.trim_fmt()
}

fn table_of(arms: impl Iterator<Item = ArmName>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    // On two lines the columns stay narrow enough for a terminal.
    let names = arms.map(|arm| right(arm.as_str().replacen('-', "\n", 1)));
    table.set_header([Cell::new("")].into_iter().chain(names));
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The lines of the table of some arms, which ran at the same facet count.
pub(crate) fn lines(arms: &[&ArmReport]) -> Vec<Line> {
    let base = arms.iter().find(|arm| arm.arm == ArmName::SqliteWalFull);
    let mut lines = vec![
        line("a turn survives", |arm| arm.arm.survives().to_owned()),
        line("creates/s", |arm| grouped(arm.create_per_s)),
    ];
    if let Some(create_per_s) = base.map(|arm| arm.create_per_s) {
        lines.push(line("  against wal-full", move |arm| times(arm.create_per_s, create_per_s)));
    }
    lines.push(line("turns/s", |arm| grouped(arm.turns_per_s)));
    if let Some(turns_per_s) = base.map(|arm| arm.turns_per_s) {
        lines.push(line("  against wal-full", move |arm| times(arm.turns_per_s, turns_per_s)));
    }
    lines.extend([
        line("turn p50 us", |arm| p50(arm.turn_us)),
        line("turn p99 us", |arm| p99(arm.turn_us)),
        line("turn CPU us", |arm| format!("{:.1}", arm.cpu_us_per_turn)),
    ]);
    if arms.iter().any(|arm| arm.mixed_reads_per_s.is_some()) {
        lines.extend([
            line("reads/s between turns", |arm| arm.mixed_reads_per_s.map_or_else(dash, grouped)),
            line("  p99 us", |arm| p99(arm.mixed_read_us)),
        ]);
    }
    for point in arms.first().map_or(&[][..], |arm| &arm.load) {
        let percent = point.percent;
        let at = move |arm: &ArmReport| {
            arm.load.iter().find(|point| point.percent == percent).and_then(|point| point.turn_us)
        };
        lines.extend([
            line(format!("turn p50 us at {percent} %"), move |arm| p50(at(arm))),
            line(format!("turn p99 us at {percent} %"), move |arm| p99(at(arm))),
        ]);
    }
    lines.extend([
        line("reads/s", |arm| grouped(arm.reads_per_s)),
        line("forks/s", |arm| grouped(arm.fork_per_s)),
        line("deletes/s", |arm| grouped(arm.delete_per_s)),
        line("cold open + read p50 us", |arm| p50(arm.cold_open_us)),
        line("cold open + read p99 us", |arm| p99(arm.cold_open_us)),
        line("resident KiB/open facet", |arm| format!("{:.1}", arm.resident_kib_per_facet)),
        line("descriptors/open facet", |arm| format!("{:.2}", arm.descriptors_per_facet)),
        line("connections open", |arm| grouped_whole(arm.connections_open)),
        line("disk KiB/facet, created", |arm| format!("{:.1}", arm.disk_created_kib_per_facet)),
        line("disk KiB/facet in use", |arm| format!("{:.1}", arm.disk_kib_per_facet)),
        line("disk KiB/facet allocated", |arm| format!("{:.1}", arm.disk_allocated_kib_per_facet)),
        line("disk KiB/facet, closed", |arm| format!("{:.1}", arm.disk_closed_kib_per_facet)),
        line("bytes written/turn", |arm| grouped(arm.written_bytes_per_turn)),
        line("store open ms, after a kill", |arm| {
            arm.store_open_ms.map_or_else(dash, |ms| format!("{ms:.1}"))
        }),
        line("turns found again, per facet", |arm| format!("{:.1}", turns_per_facet(arm))),
        line("turns found again", |arm| grouped_whole(arm.turns_verified)),
    ]);
    lines
}

fn line(label: impl Into<String>, figure: impl Fn(&ArmReport) -> String + 'static) -> Line {
    (label.into(), Box::new(figure))
}

pub(crate) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let name = |arm: ArmName, facets: u32| {
        if report.is_sweep() {
            format!("{arm} at {} facets", grouped_whole(u64::from(facets)))
        } else {
            arm.to_string()
        }
    };
    for arm in &report.arms {
        if arm.connections_open < u64::from(arm.facets) {
            notes.push(format!(
                "{}: {} of {} databases stay open, as the descriptor limit of {} and --open-max \
                 allow; the others are opened when needed, the least recently used closed.",
                name(arm.arm, arm.facets),
                grouped_whole(arm.connections_open),
                grouped_whole(u64::from(arm.facets)),
                report.machine.descriptor_limit,
            ));
        }
    }
    for Missing { arm, facets, reason } in &report.skipped {
        notes.push(format!("{} left out: {reason}", name(*arm, *facets)));
    }
    for Missing { arm, facets, reason } in &report.failed {
        notes.push(format!("{} FAILED: {reason}", name(*arm, *facets)));
    }
    notes
}

/// The lines above the table.
pub(crate) fn render_heading(report: &Report) -> String {
    let machine = &report.machine;
    let workload = &report.workload;
    let start = match &workload.template {
        None => workload
            .size_mib
            .map_or_else(|| "an empty schema".to_owned(), |mib| format!("{mib} MiB of rows")),
        Some(template) => format!(
            "a copy of {} ({} KiB, pages of {} bytes)",
            template.file,
            template.bytes / 1024,
            template.page_bytes
        ),
    };
    let counts: Vec<_> =
        workload.facets.iter().map(|&facets| grouped_whole(u64::from(facets))).collect();
    format!(
        "workload \"{}\": {} facets from {start}; {} CPU{} and {} s of turns per arm; {} turns in flight per \
         client of lapidary, {} in a call of lapidary-core; seed {}\n\
         {}, {} cores, {} MiB; {}; {}; SQLite {}; descriptor limit {}\n\
         fdatasync of 4 KiB: {} us rewritten, {} us appended (p50)",
        workload.name.as_str(),
        one_of(&counts),
        workload.cores,
        if workload.cores == 1 { "" } else { "s" },
        workload.seconds,
        workload.in_flight,
        workload.batch,
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

fn one_of(words: &[String]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => words.concat(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 turns")]
fn turns_per_facet(arm: &ArmReport) -> f64 {
    arm.turns_verified as f64 / f64::from(arm.facets)
}

#[cfg(test)]
pub(crate) mod tests {
    use lapidary_benches::latency::Percentiles;

    use super::*;
    use crate::arguments::WorkloadName;
    use crate::report::Workload;
    use crate::report::tests::report_of;
    use lapidary_benches::machine::Machine;

    pub(crate) fn report(arms: Vec<ArmReport>) -> Report {
        Report {
            command: "pack".to_owned(),
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
                name: WorkloadName::Agents,
                size_mib: None,
                facets: vec![1000],
                seconds: 3.0,
                cores: 2,
                in_flight: 256,
                batch: 16,
                mmap_mib: 0,
                seed: 1,
                template: None,
            },
            arms,
            failed: vec![Missing {
                arm: ArmName::SqliteInmem,
                facets: 1000,
                reason: "out of memory".to_owned(),
            }],
            skipped: Vec::new(),
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
        assert!(text.contains("500 of 1,000 databases stay open, as the descriptor limit of 1024"));
    }

    #[test]
    fn a_sweep_has_a_line_for_every_count_and_tells_what_was_left_out() {
        let mut sweep = report(vec![report_of(ArmName::Lapidary, 60_000.0)]);
        sweep.workload.facets = vec![100, 1000];
        sweep.skipped =
            vec![Missing { arm: ArmName::Lapidary, facets: 100, reason: "no time".to_owned() }];
        let text = render(&sweep);
        let line = |words: &str| text.lines().find(|line| line.contains(words)).unwrap().to_owned();
        assert!(line("│   1,000 facets").contains("60,000"), "{text}");
        assert!(line("│   100 facets").contains(" - "), "{text}");
        assert!(text.contains("lapidary at 100 facets left out: no time"), "{text}");
        assert!(render_heading(&sweep).contains("100 and 1,000 facets"));
    }

    #[test]
    fn the_heading_names_the_machine() {
        let text = render_heading(&report(Vec::new()));
        assert!(text.contains("ext4") && text.contains("130 us rewritten, - us appended"));
    }
}
