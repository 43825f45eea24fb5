//! What goes to standard output: lines and tables for people, or one JSON value for programs.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer as _};

use crate::failure::Outcome;

#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    stdout: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, stdout: BufWriter::new(io::stdout()) }
    }

    /// Whether the reader is a program.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people; a program does not get it.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Outcome {
        if !self.json {
            writeln!(self.stdout, "{line}")?;
        }
        Ok(())
    }

    /// The value that a program gets; people do not.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Outcome {
        if self.json {
            serde_json::to_writer_pretty(&mut self.stdout, value).map_err(io::Error::from)?;
            writeln!(self.stdout)?;
        }
        Ok(())
    }

    /// As [`json`](Self::json), an array that does not fit into memory.
    pub(crate) fn json_items<T: Serialize>(
        &mut self,
        items: impl Iterator<Item = Outcome<T>>,
    ) -> Outcome {
        let mut serializer = serde_json::Serializer::new(&mut self.stdout);
        let mut array = serializer.serialize_seq(None).map_err(io::Error::from)?;
        for item in items {
            array.serialize_element(&item?).map_err(io::Error::from)?;
        }
        array.end().map_err(io::Error::from)?;
        writeln!(self.stdout)?;
        Ok(())
    }

    pub(crate) fn writer(&mut self) -> &mut impl Write {
        &mut self.stdout
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// A table with a heading; columns whose heading ends in a colon are numbers, without the colon.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| Cell::new(heading.trim_end_matches(':'))));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.ends_with(':') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Whether somebody sits in front of the command and can be asked.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
