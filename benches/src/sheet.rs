//! A table of figures, and the targets they are held against.

use comfy_table::{Cell, CellAlignment, Table};
use serde::{Deserialize, Serialize};

/// Figures of a part, ready to print.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// What was aimed at, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub what: String,
    pub measured: f64,
    /// Most that was aimed at.
    pub at_most: f64,
    pub is_met: bool,
}

impl Target {
    pub fn new(what: &str, measured: f64, at_most: f64) -> Self {
        let measured = crate::numbers::rounded(measured, 3);
        Self { what: what.to_owned(), measured, at_most, is_met: measured <= at_most }
    }
}

impl Sheet {
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    pub fn row(&mut self, label: &str, figures: Vec<String>) {
        self.rows.push((label.to_owned(), figures));
    }

    pub fn render(&self, targets: &[Target]) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        let right = |text: &String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut header = vec![Cell::new("")];
        header.extend(self.columns.iter().map(right));
        table.set_header(header);
        for (label, figures) in &self.rows {
            let mut row = vec![Cell::new(label)];
            row.extend(figures.iter().map(right));
            table.add_row(row);
        }
        let mut text = format!("\n{}\n{}", self.title, table.trim_fmt());
        for Target { what, measured, at_most, is_met } in targets {
            let verdict = if *is_met { "met" } else { "MISSED" };
            text.push_str(&format!("\n{verdict}: {what}: {measured}, at most {at_most}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_missed_says_so() {
        let mut sheet = Sheet::new("Forks", &["measured"]);
        sheet.row("fork p50 us", vec!["12.0".to_owned()]);
        let text = sheet.render(&[Target::new("fork p50 us", 12.0, 10.0)]);
        assert!(text.contains("MISSED: fork p50 us: 12, at most 10"), "{text}");
        assert!(Target::new("ratio", 2.000_4, 2.0).is_met, "within what is printed");
    }
}
