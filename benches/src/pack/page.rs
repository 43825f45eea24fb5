//! The report as one page of HTML that needs nothing else: plots, figures, how they were measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::latency::CurvePoint;
use lapidary_benches::numbers::{grouped, grouped_whole, short, times};

use crate::arguments::ArmName;
use crate::figures::SWEPT;
use crate::measured;
use crate::plots::bars::Bars;
use crate::plots::curves::{Axis, Curves};
use crate::plots::{DrawError, Plot, STYLE as PLOT_STYLE, escaped};
use crate::report::{ArmReport, Report};
use crate::table;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 sans-serif;max-width:1340px;margin:2rem auto;padding:0 1rem;\
background:#fff;color:#1b1b1b}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,36rem),1fr));\
gap:2rem;align-items:start}\
.plots svg{max-width:100%;height:auto}\
.scroll{overflow-x:auto;margin-top:1.5rem}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
caption{text-align:left;font-weight:bold;padding:.4rem 0}\
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #8886}\
.figures th,.figures td{white-space:nowrap}\
th:first-child,td:first-child,.words td{text-align:left}\
tbody th{font-weight:normal}\
.group th{font-weight:bold;padding-top:.8rem}\
.words th,.words td{vertical-align:top}\
p,.words{max-width:60rem}\
summary{font-size:1.3rem;font-weight:bold;margin:1rem 0;cursor:pointer}\
pre{white-space:pre-wrap;font:14px/1.5 monospace}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#e8e8e8}}";

/// Writes the page to `path`.
pub(crate) fn write(path: &Path, report: &Report) -> Result<()> {
    let page = render(report)?;
    fs::write(path, page).doing(|| format!("writing {}", path.display()))
}

/// Writes each plot to a file of its own: those of the sweep if it is one, and those of the facet
/// count, or of the largest that every arm ran at.
pub(crate) fn write_plots(directory: &Path, report: &Report) -> Result<()> {
    fs::create_dir_all(directory).doing(|| format!("creating {}", directory.display()))?;
    let mut plots = if report.is_sweep() { drawn(plots_of_sweep(report))? } else { Vec::new() };
    let counts = &report.workload.facets;
    let arms = report.arm_names().len();
    let fullest = counts.iter().rfind(|&&facets| report.arms_at(facets).len() == arms);
    if let Some(&facets) = fullest.or(counts.first()) {
        plots.extend(drawn(plots_of_arms(&report.arms_at(facets)))?);
    }
    for plot in plots {
        let path = directory.join(format!("{}.svg", plot.id));
        fs::write(&path, plot.standalone()).doing(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn render(report: &Report) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>Packing benchmark</title><style>{STYLE}{PLOT_STYLE}</style></head><body>\n\
         <h1>Packing benchmark</h1>\n<pre>{}</pre>\n<pre>$ {}</pre>\n",
        escaped(&table::render_heading(report)),
        escaped(&report.command),
    );
    let notes = table::notes(report);
    if !notes.is_empty() {
        page.push_str("<ul>\n");
        for note in notes {
            write_element(&mut page, "li", &note);
        }
        page.push_str("</ul>\n");
    }
    if report.is_sweep() {
        page.push_str("<h2>Against the number of facets</h2>\n");
        write_plots_inline(&mut page, &drawn(plots_of_sweep(report))?, "");
        write_sweep_table(&mut page, report);
    }
    for &facets in &report.workload.facets {
        let arms = report.arms_at(facets);
        if arms.is_empty() {
            continue;
        }
        let count = grouped_whole(u64::from(facets));
        let open = if report.is_sweep() { "" } else { " open" };
        let _ = writeln!(page, "<details{open}><summary>With {count} facets</summary>");
        write_plots_inline(&mut page, &drawn(plots_of_arms(&arms))?, &format!("at-{facets}-"));
        write_arms_table(&mut page, &arms, &count);
        page.push_str("</details>\n");
    }
    write_measured(&mut page);
    page.push_str("</body></html>\n");
    Ok(page)
}

fn drawn(plots: Result<Vec<Plot>, DrawError>) -> Result<Vec<Plot>> {
    plots.map_err(|error| Failure::new(format!("drawing: {error}")))
}

fn plots_of_sweep(report: &Report) -> Result<Vec<Plot>, DrawError> {
    let counts = &report.workload.facets;
    let mut plots = Vec::new();
    for figure in &SWEPT {
        let of_arm = |arm| {
            let points = counts.iter().filter_map(|&facets| {
                Some((f64::from(facets).log10(), figure.at(report, arm, facets)?))
            });
            (arm, points.collect())
        };
        let series = report.arm_names().into_iter().map(of_arm).collect();
        let axis = Axis::facets(counts);
        let curves =
            Curves { id: figure.id, title: figure.title, unit: figure.label, axis, series };
        plots.extend(curves.draw()?);
    }
    Ok(plots)
}

type Of<T> = fn(&ArmReport) -> T;
type CurveOf = for<'a> fn(&'a ArmReport) -> &'a [CurvePoint];

fn plots_of_arms(arms: &[&ArmReport]) -> Result<Vec<Plot>, DrawError> {
    let mut plots =
        vec![rate_bars(arms, "turns", "Turns a second", "turns/s", |arm| arm.turns_per_s)?];
    plots.extend(latency_curves(arms, "turn-latency", "How long a turn took", |arm| {
        &arm.turn_curve_us
    })?);
    plots.push(rate_bars(arms, "reads", "Reads a second", "reads/s", |arm| arm.reads_per_s)?);
    plots.extend(latency_curves(arms, "read-latency", "How long a read took", |arm| {
        &arm.read_curve_us
    })?);
    plots.push(rate_bars(arms, "creates", "Creations a second", "creates/s", |arm| {
        arm.create_per_s
    })?);
    plots.extend(latency_curves(
        arms,
        "cold-open-latency",
        "How long a cold open and first query took",
        |arm| &arm.cold_open_curve_us,
    )?);
    let costs: [(&str, &str, &str, Of<f64>); 2] = [
        ("memory", "Memory of an open facet", "resident KiB/open facet", |arm| {
            arm.resident_kib_per_facet
        }),
        ("disk", "Disk of a facet just created", "KiB/facet", |arm| arm.disk_created_kib_per_facet),
    ];
    for (id, title, unit, cost) in costs {
        let figures = arms.iter().map(|arm| (arm.arm, cost(arm))).collect();
        plots.push(Bars { id, title, unit, print: short, figures }.draw()?);
    }
    Ok(plots)
}

/// As multiples of `sqlite-wal-full`, or as they are if it did not run.
fn rate_bars(
    arms: &[&ArmReport],
    id: &str,
    title: &str,
    unit: &str,
    rate: Of<f64>,
) -> Result<Plot, DrawError> {
    let base = arms.iter().find(|arm| arm.arm == ArmName::SqliteWalFull).map(|arm| rate(arm));
    let (divisor, unit, print): (_, _, fn(f64) -> String) = match base.filter(|&base| base > 0.0) {
        Some(base) => (base, format!("times {unit} of sqlite-wal-full"), |ratio| times(ratio, 1.0)),
        None => (1.0, unit.to_owned(), grouped),
    };
    let figures = arms.iter().map(|arm| (arm.arm, rate(arm) / divisor)).collect();
    Bars { id, title, unit: &unit, print, figures }.draw()
}

fn latency_curves(
    arms: &[&ArmReport],
    id: &str,
    title: &str,
    curve: CurveOf,
) -> Result<Option<Plot>, DrawError> {
    let of_arm = |arm: &&ArmReport| {
        let points = curve(arm).iter().map(|point| (point.nines(), point.us));
        (arm.arm, points.collect())
    };
    let series = arms.iter().map(of_arm).collect();
    Curves { id, title, unit: "microseconds", axis: Axis::quantiles(), series }.draw()
}

fn write_plots_inline(page: &mut String, plots: &[Plot], scope: &str) {
    page.push_str("<div class=\"plots\">\n");
    for plot in plots {
        page.push_str(&plot.inline(scope));
    }
    page.push_str("</div>\n");
}

fn write_sweep_table(page: &mut String, report: &Report) {
    let names = report.arm_names();
    write_table_head(page, "A facet's costs", names.iter().map(|arm| arm.as_str()));
    for figure in &SWEPT {
        let _ = writeln!(
            page,
            "<tr class=\"group\"><th scope=\"colgroup\" colspan=\"{}\">{}</th></tr>",
            names.len() + 1,
            escaped(figure.label)
        );
        for &facets in &report.workload.facets {
            let label = format!("{} facets", grouped_whole(u64::from(facets)));
            let cells = names.iter().map(|&arm| figure.print_of(report, arm, facets));
            write_row(page, &label, cells);
        }
    }
    page.push_str("</tbody></table></div>\n");
}

fn write_arms_table(page: &mut String, arms: &[&ArmReport], count: &str) {
    let caption = format!("All figures with {count} facets");
    write_table_head(page, &caption, arms.iter().map(|arm| arm.arm.as_str()));
    for (label, figure) in table::lines(arms) {
        write_row(page, &label, arms.iter().map(|arm| figure(arm)));
    }
    page.push_str("</tbody></table></div>\n");
}

fn write_table_head<'a>(page: &mut String, caption: &str, columns: impl Iterator<Item = &'a str>) {
    let _ = write!(
        page,
        "<div class=\"scroll\"><table class=\"figures\"><caption>{}</caption>\n<thead><tr><td></td>",
        escaped(caption)
    );
    for column in columns {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escaped(column));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
}

fn write_row(page: &mut String, label: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(page, "<tr><th scope=\"row\">{}</th>", escaped(label));
    for cell in cells {
        let _ = write!(page, "<td>{}</td>", escaped(&cell));
    }
    page.push_str("</tr>\n");
}

fn write_measured(page: &mut String) {
    page.push_str("<h2>How it was measured</h2>\n");
    for paragraph in measured::COMMON {
        write_element(page, "p", paragraph);
    }
    page.push_str("<table class=\"words\"><tbody>\n");
    for (figure, is) in measured::FIGURES {
        let (figure, is) = (escaped(figure), escaped(is));
        let _ = writeln!(page, "<tr><th scope=\"row\">{figure}</th><td>{is}</td></tr>");
    }
    page.push_str("</tbody></table>\n");
}

/// Writing to a string does not fail, here and wherever its result is not looked at.
fn write_element(page: &mut String, tag: &str, text: &str) {
    let _ = writeln!(page, "<{tag}>{}</{tag}>", escaped(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Missing;
    use crate::report::tests::report_of;
    use crate::table::tests::report;

    fn two_arms() -> Report {
        let arms = [(ArmName::Lapidary, 60_000.0), (ArmName::SqliteWalFull, 5000.0)];
        report(arms.map(|(arm, rate)| report_of(arm, rate)).into())
    }

    #[test]
    fn the_page_has_plots_figures_and_words_and_fetches_nothing() {
        let page = render(&two_arms()).unwrap();
        // Five of bars; no arm of these has enough calls for a curve.
        assert_eq!(page.matches("<svg ").count(), 5);
        for text in [
            "times turns/s of sqlite-wal-full",
            "12.0x",
            "60,000",
            "sqlite-inmem FAILED",
            "descriptor limit of 1024",
            "$ pack",
            "a processor",
            "How it was measured",
            "prefers-color-scheme:dark",
        ] {
            assert!(page.contains(text), "{text}");
        }
        for fetch in ["<script", "<link", "src=", "url(", "@import", "href="] {
            assert!(!page.contains(fetch), "{fetch}");
        }
    }

    #[test]
    fn every_plot_of_a_page_is_named_by_words_of_its_own() {
        let mut sweep = two_arms();
        sweep.workload.facets = vec![100, 1000];
        for arm in sweep.arms.clone() {
            sweep.arms.push(ArmReport { facets: 100, ..arm });
        }
        let page = render(&sweep).unwrap();
        let mut ids: Vec<_> =
            page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let plots = page.matches("<svg ").count();
        assert!(plots > 12, "{plots}");
        assert_eq!(ids.len(), 2 * plots);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 2 * plots);
    }

    #[test]
    fn a_run_without_arms_still_says_why_and_text_is_escaped() {
        let mut report = report(Vec::new());
        let reason = "a < b".to_owned();
        report.failed = vec![Missing { arm: ArmName::Lapidary, facets: 1000, reason }];
        assert!(render(&report).unwrap().contains("lapidary FAILED: a &lt; b"));
    }

    #[test]
    fn plots_are_files_that_stand_alone() {
        let directory = tempfile::tempdir().unwrap();
        write_plots(&directory.path().join("plots"), &two_arms()).unwrap();
        let turns = fs::read_to_string(directory.path().join("plots/turns.svg")).unwrap();
        assert!(turns.starts_with("<svg ") && turns.contains("<style>"), "{turns}");
    }
}
