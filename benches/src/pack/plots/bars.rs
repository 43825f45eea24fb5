//! A bar for each arm.

use plotters::prelude::*;

use super::{DrawError, INK, Plot, colour, text_style};
use crate::arguments::ArmName;

const BAR_HEIGHT: u32 = 32;
const AXIS_HEIGHT: u32 = 46;
const NAMES_WIDTH: i32 = 158;

/// What a plot of bars shows.
pub(crate) struct Bars<'a> {
    pub(crate) id: &'a str,
    pub(crate) title: &'a str,
    /// What the axis counts.
    pub(crate) unit: &'a str,
    /// How a figure is worded at the end of its bar.
    pub(crate) print: fn(f64) -> String,
    pub(crate) figures: Vec<(ArmName, f64)>,
}

impl Bars<'_> {
    /// Bars from nought, with their figures.
    pub(crate) fn draw(&self) -> Result<Plot, DrawError> {
        let words: Vec<_> = self
            .figures
            .iter()
            .map(|&(arm, figure)| format!("{arm} {}", (self.print)(figure)))
            .collect();
        let description = format!("Bars, {}: {}.", self.unit, words.join(", "));
        let rows = u32::try_from(self.figures.len())?;
        let height = BAR_HEIGHT * rows + AXIS_HEIGHT;
        // An axis from nought to nought has no ticks, and no end of them.
        let largest = self.figures.iter().map(|figure| figure.1).fold(0.0, f64::max);
        let largest = if largest > 0.0 { largest } else { 1.0 };
        Plot::draw((self.id, self.title), description, height, |area| {
            // Room is left for the figure behind the longest bar.
            let mut chart = ChartBuilder::on(area)
                .margin_right(10)
                .margin_left(NAMES_WIDTH)
                .x_label_area_size(AXIS_HEIGHT)
                .build_cartesian_2d(0.0..largest * 1.18, f64::from(rows)..0.0)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(INK.mix(0.16))
                .axis_style(INK.mix(0.5))
                .x_labels(6)
                .x_label_formatter(&|&value| tick(value, largest))
                .x_label_style(text_style(14))
                .x_desc(self.unit)
                .axis_desc_style(text_style(15))
                .draw()?;
            for (row, &(arm, figure)) in (0_u32..).zip(&self.figures) {
                let (top, middle) = (f64::from(row), f64::from(row) + 0.5);
                let corners = [(0.0, top + 0.16), (figure, top + 0.84)];
                chart.draw_series([Rectangle::new(corners, colour(arm).filled())])?;
                chart.draw_series([EmptyElement::at((figure, middle))
                    + Text::new((self.print)(figure), (7, -7), text_style(15))])?;
                chart.draw_series([EmptyElement::at((0.0, middle))
                    + Text::new(arm.as_str(), (8 - NAMES_WIDTH, -7), text_style(15))])?;
            }
            Ok(())
        })
    }
}

/// With as many decimals as ticks this far apart need.
fn tick(value: f64, largest: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if largest >= 10.0 {
        lapidary_benches::numbers::grouped(value)
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(figures: Vec<(ArmName, f64)>) -> Bars<'static> {
        let print = |ratio: f64| format!("{ratio:.1}x");
        Bars { id: "turns", title: "Turns", unit: "times wal-full", print, figures }
    }

    #[test]
    fn bars_carry_every_arm_with_its_figure() {
        let figures = vec![(ArmName::Lapidary, 12.0), (ArmName::SqliteWalFull, 1.0)];
        let svg = bars(figures).draw().unwrap().standalone();
        for text in
            ["12.0x", "1.0x", "sqlite-wal-full", "#0072B2", "lapidary 12.0x, sqlite-wal-full 1.0x."]
        {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }

    #[test]
    fn nothing_but_noughts_can_be_drawn() {
        bars(vec![(ArmName::SqliteInmem, 0.0)]).draw().unwrap();
    }
}
