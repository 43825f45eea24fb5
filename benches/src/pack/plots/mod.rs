//! Plots of a run as SVG: [`bars`] and [`curves`].
//!
//! Text and axes follow the reader's colour scheme, light or dark. Arms have the colours of Okabe and
//! Ito, which people with any common colour blindness can tell apart, and beside them always a name or
//! a mark of their own. Every plot says in words what it shows, for those who do not see it.

pub(crate) mod bars;
pub(crate) mod curves;

use std::error::Error;

use plotters::prelude::*;

use crate::arguments::ArmName;

/// What stands between axes and names; plotters draws in it, the scheme decides what it looks like.
const INK: RGBColor = BLACK;
const FONT: &str = "sans-serif";
const WIDTH: u32 = 640;

/// How plots look: once in a page with plots, and in every plot that is a file of its own.
pub(crate) const STYLE: &str = "\
.plot{color:#1b1b1b;--ground:#fff}\
.plot .ground{fill:var(--ground)}\
.plot [fill=\"#000000\"]{fill:currentColor}\
.plot [stroke=\"#000000\"]{stroke:currentColor}\
@media(prefers-color-scheme:dark){.plot{color:#e8e8e8;--ground:#161616}}";

/// Why a plot could not be drawn.
pub(crate) type DrawError = Box<dyn Error>;

/// A finished plot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plot {
    /// Of its file, without the ending; of one kind in a page.
    pub(crate) id: String,
    title: String,
    /// What it shows, in words.
    description: String,
    drawing: String,
}

impl Plot {
    /// Draws on an area of `height` below the title.
    fn draw(
        (id, title): (&str, &str),
        description: String,
        height: u32,
        draw: impl FnOnce(&Area<'_>) -> Result<(), DrawError>,
    ) -> Result<Self, DrawError> {
        let mut drawing = String::new();
        {
            let area = SVGBackend::with_string(&mut drawing, (WIDTH, TITLE_HEIGHT + height))
                .into_drawing_area();
            area.draw(&Text::new(title, (8, 9), (FONT, 19).into_font().style(FontStyle::Bold)))?;
            let (_, below) = area.split_vertically(TITLE_HEIGHT);
            draw(&below)?;
            area.present()?;
        }
        Ok(Self { id: id.to_owned(), title: title.to_owned(), description, drawing })
    }

    /// As a part of a page that has [`STYLE`]. `scope` tells it from the same plot elsewhere in the page.
    pub(crate) fn inline(&self, scope: &str) -> String {
        self.with_head(&format!("{scope}{}", self.id), "")
    }

    /// As a file of its own.
    pub(crate) fn standalone(&self) -> String {
        self.with_head(&self.id, &format!("<style>{STYLE}</style>"))
    }

    fn with_head(&self, id: &str, style: &str) -> String {
        let (title, description) = (escaped(&self.title), escaped(&self.description));
        let head = format!(
            " class=\"plot\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n\
             <title id=\"{id}-title\">{title}</title>\n<desc id=\"{id}-desc\">{description}</desc>\n\
             {style}<rect class=\"ground\" width=\"100%\" height=\"100%\"/>"
        );
        self.drawing.replacen('>', &head, 1)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

const TITLE_HEIGHT: u32 = 34;

/// Text that stands in HTML or SVG.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text_style<'a>(size: u32) -> TextStyle<'a> {
    (FONT, size).into_font().color(&INK)
}

fn colour(arm: ArmName) -> RGBColor {
    match arm {
        ArmName::Lapidary => RGBColor(0x00, 0x72, 0xb2),
        // Their yellow does not show on white.
        ArmName::LapidaryCore => RGBColor(0x80, 0x80, 0x80),
        ArmName::LapidaryVfs => RGBColor(0x56, 0xb4, 0xe9),
        ArmName::SqliteWalFull => RGBColor(0xd5, 0x5e, 0x00),
        ArmName::SqliteWalNormal => RGBColor(0xe6, 0x9f, 0x00),
        ArmName::SqliteMemoryOff => RGBColor(0xcc, 0x79, 0xa7),
        ArmName::SqliteInmem => RGBColor(0x00, 0x9e, 0x73),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_says_in_words_what_it_shows_and_stands_by_itself() {
        let plot = Plot::draw(("rates", "a < b"), "lapidary: 3 & more".to_owned(), 40, |_| Ok(()))
            .unwrap();
        let file = plot.standalone();
        assert!(file.starts_with("<svg "), "{file}");
        assert!(file.contains("<title id=\"rates-title\">a &lt; b</title>"), "{file}");
        assert!(file.contains("<desc id=\"rates-desc\">lapidary: 3 &amp; more</desc>"), "{file}");
        assert!(file.contains("prefers-color-scheme:dark"), "{file}");
        let part = plot.inline("at-1000-");
        assert!(
            part.contains("aria-labelledby=\"at-1000-rates-title at-1000-rates-desc\""),
            "{part}"
        );
        assert!(!part.contains("<style>"), "{part}");
    }

    #[test]
    fn arms_have_colours_of_their_own() {
        let mut colours = ArmName::ALL.map(|arm| colour(arm).rgb()).to_vec();
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), ArmName::ALL.len());
    }
}
