//! Curves, one for each arm, each with a mark of its own, on a logarithmic scale.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use super::{Area, DrawError, INK, Plot, colour, text_style};
use lapidary_benches::numbers::grouped;

use crate::arguments::ArmName;

const HEIGHT: u32 = 360;
const LEGEND_ROW: u32 = 24;
const LEGEND_COLUMNS: usize = 3;
const LEGEND_COLUMN_WIDTH: i32 = 200;

/// The horizontal axis: places on it, and where it has ticks.
pub(crate) struct Axis {
    name: &'static str,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Parts of all calls, as far as every unit is another nine.
    pub(crate) fn quantiles() -> Self {
        let ticks = ["0%", "90%", "99%", "99.9%", "99.99%"];
        let ticks = (0_u32..).zip(ticks).map(|(nines, name)| (f64::from(nines), name.to_owned()));
        Self { name: "part of the calls that took no longer", ticks: ticks.collect() }
    }

    /// Facet counts, logarithmic.
    pub(crate) fn facets(counts: &[u32]) -> Self {
        let ticks =
            counts.iter().map(|&count| (f64::from(count).log10(), grouped(f64::from(count))));
        Self { name: "facets (log scale)", ticks: ticks.collect() }
    }

    /// From the first tick to the last, with a little room.
    fn range(&self) -> Range<f64> {
        let first = self.ticks.first().map_or(0.0, |tick| tick.0);
        let last = self.ticks.last().map_or(1.0, |tick| tick.0).max(first + 0.1);
        let room = (last - first) * 0.03;
        first - room..last + room
    }

    fn label(&self, at: f64) -> String {
        let tick = self.ticks.iter().find(|tick| (tick.0 - at).abs() < 1e-9);
        tick.map_or_else(String::new, |tick| tick.1.clone())
    }
}

/// A linear scale with ticks where they are wanted.
struct Scale {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[allow(clippy::cast_possible_truncation, reason = "within the drawing")]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// What a plot of curves shows.
pub(crate) struct Curves<'a> {
    pub(crate) id: &'a str,
    pub(crate) title: &'a str,
    /// Of the figures, for the vertical axis.
    pub(crate) unit: &'a str,
    pub(crate) axis: Axis,
    /// Of each arm its places on the axis, in order, and its figure there.
    pub(crate) series: Vec<(ArmName, Vec<(f64, f64)>)>,
}

impl Curves<'_> {
    /// `None` if there is nothing to show. A figure of nought has no place on this scale and is left
    /// out.
    pub(crate) fn draw(&self) -> Result<Option<Plot>, DrawError> {
        let series: Vec<(ArmName, Vec<(f64, f64)>)> = self
            .series
            .iter()
            .map(|(arm, points)| {
                let points = points.iter().filter(|point| point.1 > 0.0);
                (*arm, points.map(|&(at, figure)| (at, figure.log10())).collect::<Vec<_>>())
            })
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let figures = || series.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
        let lowest = figures().fold(f64::INFINITY, f64::min);
        let highest = figures().fold(f64::NEG_INFINITY, f64::max);
        if lowest > highest {
            return Ok(None);
        }
        let legend_height = LEGEND_ROW * u32::try_from(series.len().div_ceil(LEGEND_COLUMNS))?;
        let plot = Plot::draw((self.id, self.title), self.describe(), HEIGHT, |area| {
            let (legend, below) = area.split_vertically(legend_height + 8);
            draw_legend(&legend, series.iter().map(|(arm, _)| *arm))?;
            self.draw_chart(&below, &series, (lowest, highest))
        })?;
        Ok(Some(plot))
    }

    fn draw_chart(
        &self,
        area: &Area<'_>,
        series: &[(ArmName, Vec<(f64, f64)>)],
        (lowest, highest): (f64, f64),
    ) -> Result<(), DrawError> {
        let heights = decades(lowest, highest);
        let (bottom, top) = (heights[0].min(lowest), heights[heights.len() - 1].max(highest));
        let places = self.axis.ticks.iter().map(|tick| tick.0).collect();
        let mut chart = ChartBuilder::on(area)
            .margin_right(22)
            .margin_top(6)
            .x_label_area_size(46)
            .y_label_area_size(82)
            .build_cartesian_2d(
                Scale { range: self.axis.range(), ticks: places },
                Scale { range: bottom - 0.04..top + 0.04, ticks: heights },
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.16))
            .axis_style(INK.mix(0.5))
            .label_style(text_style(14))
            .axis_desc_style(text_style(15))
            .x_label_formatter(&|&at| self.axis.label(at))
            .y_label_formatter(&|&figure| height_label(figure))
            .x_desc(self.axis.name)
            .y_desc(format!("{} (log scale)", self.unit))
            .draw()?;
        for (arm, points) in series {
            let line = colour(*arm).stroke_width(2);
            chart.draw_series(LineSeries::new(points.iter().copied(), line))?;
            let marks = chart.plotting_area().strip_coord_spec();
            let (left, top) = marks.get_base_pixel();
            for point in points {
                let (x, y) = chart.backend_coord(point);
                draw_mark(&marks, *arm, (x - left, y - top))?;
            }
        }
        Ok(())
    }

    /// First and last figure of every arm.
    fn describe(&self) -> String {
        let ends = self.series.iter().filter_map(|(arm, points)| {
            let (first, last) = (points.first()?, points.last()?);
            Some(format!("{arm} from {} to {}", short(first.1), short(last.1)))
        });
        format!(
            "Curves, {} against {}: {}.",
            self.unit,
            self.axis.name,
            ends.collect::<Vec<_>>().join(", ")
        )
    }
}

fn draw_legend(area: &Area<'_>, arms: impl Iterator<Item = ArmName>) -> Result<(), DrawError> {
    for (index, arm) in arms.enumerate() {
        let column = i32::try_from(index % LEGEND_COLUMNS)?;
        let row = i32::try_from(index / LEGEND_COLUMNS)?;
        let at = (26 + column * LEGEND_COLUMN_WIDTH, 12 + row * LEGEND_ROW.cast_signed());
        area.draw(&PathElement::new(
            [(at.0 - 14, at.1), (at.0 + 14, at.1)],
            colour(arm).stroke_width(2),
        ))?;
        draw_mark(area, arm, at)?;
        area.draw(&Text::new(arm.as_str(), (at.0 + 24, at.1 - 7), text_style(15)))?;
    }
    Ok(())
}

/// A shape for each arm: with the colour gone, they still differ.
fn draw_mark(area: &Area<'_>, arm: ArmName, at: (i32, i32)) -> Result<(), DrawError> {
    let (filled, hollow) = (colour(arm).filled(), colour(arm).stroke_width(2));
    let square = [(at.0 - 4, at.1 - 4), (at.0 + 4, at.1 + 4)];
    match arm {
        ArmName::Lapidary => area.draw(&Circle::new(at, 5, filled))?,
        ArmName::LapidaryCore => area.draw(&TriangleMarker::new(at, 6, hollow))?,
        ArmName::LapidaryVfs => area.draw(&Circle::new(at, 5, hollow))?,
        ArmName::SqliteWalFull => area.draw(&TriangleMarker::new(at, 6, filled))?,
        ArmName::SqliteWalNormal => area.draw(&Rectangle::new(square, hollow))?,
        ArmName::SqliteMemoryOff => area.draw(&Rectangle::new(square, filled))?,
        ArmName::SqliteInmem => area.draw(&Cross::new(at, 5, hollow))?,
    }
    Ok(())
}

/// Places of ticks on a scale of powers of ten, at least two; finer where there are few.
fn decades(lowest: f64, highest: f64) -> Vec<f64> {
    let steps: &[f64] = if highest - lowest < 1.6 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    let mut decade = lowest.floor();
    while decade <= highest.ceil() {
        ticks.extend(steps.iter().map(|step| decade + step.log10()));
        decade += 1.0;
    }
    let first = ticks.iter().rposition(|&tick| tick <= lowest + 1e-9).unwrap_or(0);
    let last = ticks.iter().position(|&tick| tick >= highest - 1e-9).unwrap_or(ticks.len() - 1);
    ticks[first.min(ticks.len() - 2)..=last.max(first + 1)].to_vec()
}

fn height_label(height: f64) -> String {
    short(10_f64.powf(height))
}

/// In as few digits as tell it.
fn short(figure: f64) -> String {
    if figure >= 10.0 {
        return grouped(figure);
    }
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves(series: Vec<(ArmName, Vec<(f64, f64)>)>) -> Curves<'static> {
        let axis = Axis::facets(&[100, 1000]);
        Curves { id: "memory", title: "Memory", unit: "KiB per facet", axis, series }
    }

    #[test]
    fn curves_name_their_arms_and_both_axes() {
        let plot = curves(vec![
            (ArmName::Lapidary, vec![(2.0, 150.0), (3.0, 75.0)]),
            (ArmName::SqliteInmem, vec![(2.0, 0.0)]),
        ]);
        let svg = plot.draw().unwrap().unwrap().standalone();
        for text in ["KiB per facet (log scale)", "1,000", "lapidary from 150 to 75", "\n100\n"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }

    #[test]
    fn where_there_is_nothing_but_nought_there_is_no_plot() {
        assert_eq!(curves(vec![(ArmName::Lapidary, vec![(2.0, 0.0)])]).draw().unwrap(), None);
        assert_eq!(curves(Vec::new()).draw().unwrap(), None);
    }

    #[test]
    fn one_figure_alone_is_a_plot_too() {
        assert!(curves(vec![(ArmName::Lapidary, vec![(2.0, 7.0)])]).draw().unwrap().is_some());
        let one = Curves {
            axis: Axis::facets(&[10]),
            ..curves(vec![(ArmName::Lapidary, vec![(1.0, 1.0)])])
        };
        assert!(one.draw().unwrap().is_some());
    }

    #[test]
    fn ticks_embrace_the_figures() {
        assert_eq!(decades(1.0, 4.2), [1.0, 2.0, 3.0, 4.0, 5.0]);
        let names = |ticks: Vec<f64>| ticks.into_iter().map(height_label).collect::<Vec<_>>();
        assert_eq!(names(decades(30_f64.log10(), 160_f64.log10())), ["20", "50", "100", "200"]);
        assert_eq!(names(decades(0.04_f64.log10(), 0.04_f64.log10())), ["0.02", "0.05"]);
        assert_eq!(names(decades(0.0, 0.0)), ["1", "2"]);
    }
}
