//! Rows as a table, list, CSV, JSON or lines.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;
use comfy_table::Table;
use lapidary::rusqlite::Row;
use lapidary::rusqlite::types::ValueRef;
use serde::ser::{SerializeMap as _, Serializer as _};

use crate::failure::Outcome;
use crate::output::{self, Output};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Columns under each other
    Table,
    /// Values with | between them, without a heading
    List,
    /// Comma-separated values with a heading
    Csv,
    /// One array of objects for each statement
    Json,
    /// A line for each value, with its column's name
    Line,
}

impl Mode {
    /// How rows are printed if nobody says.
    pub(crate) fn default_for(output: &Output) -> Self {
        if output.is_json() {
            Self::Json
        } else if io::stdout().is_terminal() {
            Self::Table
        } else {
            Self::List
        }
    }
}

/// Rows of a table that are kept until it is known how wide its columns are. A larger one is printed
/// as several.
const TABLE_ROWS: usize = 5_000;

/// Prints the rows of one statement.
pub(super) struct Renderer<'a> {
    mode: Mode,
    columns: &'a [String],
    table: Option<Table>,
    rows: usize,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(mode: Mode, columns: &'a [String]) -> Self {
        Self { mode, columns, table: None, rows: 0 }
    }

    pub(super) fn row(&mut self, row: &Row<'_>, out: &mut impl Write) -> Outcome {
        let value = |column| row.get_ref(column).unwrap_or(ValueRef::Null);
        let values = (0..self.columns.len()).map(value);
        match self.mode {
            Mode::Table => {
                let columns = self.columns;
                let table = self.table.get_or_insert_with(|| {
                    output::table(&columns.iter().map(String::as_str).collect::<Vec<_>>())
                });
                table.add_row(values.map(|value| text(value, "NULL")));
                if (self.rows + 1).is_multiple_of(TABLE_ROWS) {
                    self.print_table(out)?;
                }
            }
            Mode::List => {
                let values: Vec<_> = values.map(|value| text(value, "")).collect();
                writeln!(out, "{}", values.join("|"))?;
            }
            Mode::Csv => {
                if self.rows == 0 {
                    csv_line(self.columns.iter().cloned(), out)?;
                }
                csv_line(values.map(|value| text(value, "")), out)?;
            }
            Mode::Json => {
                out.write_all(if self.rows == 0 { b"[" } else { b",\n " })?;
                json_object(self.columns.iter().zip(values), out)?;
            }
            Mode::Line => {
                let width = self.columns.iter().map(|name| name.chars().count()).max();
                let width = width.unwrap_or(0);
                if self.rows > 0 {
                    writeln!(out)?;
                }
                for (name, value) in self.columns.iter().zip(values) {
                    writeln!(out, "{name:>width$} = {}", text(value, ""))?;
                }
            }
        }
        self.rows += 1;
        Ok(())
    }

    pub(super) fn finish(mut self, out: &mut impl Write) -> Outcome {
        match self.mode {
            Mode::Table => self.print_table(out),
            Mode::Json => Ok(out.write_all(if self.rows == 0 { b"[]\n" } else { b"]\n" })?),
            _ => Ok(()),
        }
    }

    fn print_table(&mut self, out: &mut impl Write) -> Outcome {
        if let Some(table) = self.table.take() {
            writeln!(out, "{}", table.trim_fmt())?;
        }
        Ok(())
    }
}

/// A value as text; a BLOB in hexadecimal.
fn text(value: ValueRef<'_>, null: &str) -> String {
    match value {
        ValueRef::Null => null.to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => real(number),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => hex(bytes),
    }
}

/// As SQLite shows it: with a decimal point, so that it stays a REAL.
fn real(number: f64) -> String {
    if number.is_finite() { format!("{number:?}") } else { number.to_string() }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn csv_line(fields: impl Iterator<Item = String>, out: &mut impl Write) -> Outcome {
    let mut line = csv::Writer::from_writer(Vec::new());
    line.write_record(fields).map_err(std::io::Error::from)?;
    out.write_all(&line.into_inner().map_err(|error| error.into_error())?)?;
    Ok(())
}

/// Columns may have the same name, and stay in their order.
fn json_object<'v>(
    fields: impl Iterator<Item = (impl AsRef<str>, ValueRef<'v>)>,
    out: &mut impl Write,
) -> Outcome {
    let mut serializer = serde_json::Serializer::new(out);
    let mut object = serializer.serialize_map(None).map_err(std::io::Error::from)?;
    for (name, value) in fields {
        let name = name.as_ref();
        let put = match value {
            ValueRef::Null => object.serialize_entry(name, &()),
            ValueRef::Integer(number) => object.serialize_entry(name, &number),
            ValueRef::Real(number) if number.is_finite() => object.serialize_entry(name, &number),
            other => object.serialize_entry(name, &text(other, "")),
        };
        put.map_err(std::io::Error::from)?;
    }
    object.end().map_err(std::io::Error::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use lapidary::rusqlite::Connection;

    fn render(mode: Mode, sql: &str) -> String {
        let connection = Connection::open_in_memory().unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut out = Vec::new();
        let mut renderer = Renderer::new(mode, &columns);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().unwrap() {
            renderer.row(row, &mut out).unwrap();
        }
        renderer.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_mode() {
        let sql = "SELECT 1 AS a, 'x,\"y' AS b UNION ALL SELECT NULL, x'0aff'";
        assert_eq!(render(Mode::List, sql), "1|x,\"y\n|0aff\n");
        assert_eq!(render(Mode::Csv, sql), "a,b\n1,\"x,\"\"y\"\n,0aff\n");
        assert_eq!(
            render(Mode::Json, sql),
            "[{\"a\":1,\"b\":\"x,\\\"y\"},\n {\"a\":null,\"b\":\"0aff\"}]\n"
        );
        assert_eq!(render(Mode::Line, sql), "a = 1\nb = x,\"y\n\na = \nb = 0aff\n");
        assert_eq!(render(Mode::Table, sql), "a     b\n1     x,\"y\nNULL  0aff\n");
    }

    #[test]
    fn nothing_and_odd_things() {
        assert_eq!(render(Mode::Json, "SELECT 1 WHERE 0"), "[]\n");
        assert_eq!(render(Mode::Table, "SELECT 1 WHERE 0"), "");
        assert_eq!(render(Mode::Json, "SELECT 1 AS a, 2.0 AS a"), "[{\"a\":1,\"a\":2.0}]\n");
        assert_eq!(render(Mode::List, "SELECT 2.0, 9e999, 1e100"), "2.0|inf|1e100\n");
        assert_eq!(render(Mode::Json, "SELECT 9e999 AS a"), "[{\"a\":\"inf\"}]\n");
    }
}
