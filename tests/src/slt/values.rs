//! Results as the format writes, sorts and hashes them.

use super::script::{Sort, Type};
use crate::differential::outcome::Cell;

/// A value as a line: `NULL`, `(empty)`, and `@` for what does not print.
#[must_use]
pub fn to_line(cell: &Cell, as_type: Type) -> String {
    let text = match (cell, as_type) {
        (Cell::Null, _) => return "NULL".to_owned(),
        (cell, Type::Integer) => integer(cell).to_string(),
        (cell, Type::Real) => format!("{:.3}", real(cell)),
        (Cell::Integer(number), Type::Text) => number.to_string(),
        (Cell::Real(bits), Type::Text) => real_as_text(f64::from_bits(*bits)),
        (Cell::Text(bytes) | Cell::Blob(bytes), Type::Text) => {
            let printed =
                |&byte: &u8| if (b' '..=b'~').contains(&byte) { byte.into() } else { '@' };
            bytes.iter().map(printed).collect()
        }
    };
    if text.is_empty() { "(empty)".to_owned() } else { text }
}

/// As `sqlite3_column_int64` reads it.
#[expect(clippy::cast_possible_truncation, reason = "a cast is what SQLite does")]
fn integer(cell: &Cell) -> i64 {
    match cell {
        Cell::Null => 0,
        Cell::Integer(number) => *number,
        Cell::Real(bits) => f64::from_bits(*bits) as i64,
        Cell::Text(bytes) | Cell::Blob(bytes) => number_at_start(bytes) as i64,
    }
}

/// As `sqlite3_column_double` reads it.
#[expect(clippy::cast_precision_loss, reason = "a cast is what SQLite does")]
fn real(cell: &Cell) -> f64 {
    match cell {
        Cell::Null => 0.0,
        Cell::Integer(number) => *number as f64,
        Cell::Real(bits) => f64::from_bits(*bits),
        Cell::Text(bytes) | Cell::Blob(bytes) => number_at_start(bytes),
    }
}

/// The longest beginning that is a number; 0 if there is none.
fn number_at_start(bytes: &[u8]) -> f64 {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start();
    let numeric = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let end = text.find(|c| !numeric(c)).unwrap_or(text.len());
    (1..=end).rev().find_map(|end| text[..end].parse().ok()).unwrap_or(0.0)
}

/// A real as SQLite turns it into text: always with a point.
fn real_as_text(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.1}")
    } else {
        number.to_string()
    }
}

/// All values, one a line, in the order that the record asks for.
#[must_use]
pub fn to_lines(rows: &[Vec<Cell>], types: &[Type], sort: Sort) -> Vec<String> {
    let line = |(cell, as_type): (&Cell, &Type)| to_line(cell, *as_type);
    let mut rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().zip(types).map(line).collect()).collect();
    if sort == Sort::Rows {
        rows.sort();
    }
    let mut lines = rows.concat();
    if sort == Sort::Values {
        lines.sort();
    }
    lines
}

/// What stands for many lines: their number, and the MD5 of them all, each with its line end.
#[must_use]
pub fn to_hash_line(lines: &[String]) -> String {
    let mut context = md5::Context::new();
    for line in lines {
        context.consume(line);
        context.consume("\n");
    }
    format!("{} values hashing to {:x}", lines.len(), context.finalize())
}

/// Whether `lines` are what a record expects.
#[must_use]
pub fn are_expected(lines: &[String], expected: &[String]) -> bool {
    match expected {
        [only] if only.contains(" values hashing to ") => *only == to_hash_line(lines),
        _ => lines == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_lines() {
        let real = |number: f64| Cell::Real(number.to_bits());
        let text = |text: &str| Cell::Text(text.into());
        for (cell, as_type, line) in [
            (Cell::Null, Type::Integer, "NULL"),
            (Cell::Integer(7), Type::Real, "7.000"),
            (real(2.9), Type::Integer, "2"),
            (real(2.0), Type::Text, "2.0"),
            (real(0.0625), Type::Real, "0.062"),
            (text("12.5x"), Type::Integer, "12"),
            (text("abc"), Type::Integer, "0"),
            (text(""), Type::Text, "(empty)"),
            (text("a\tb\u{fc}"), Type::Text, "a@b@@"),
            (Cell::Blob(vec![0, 65]), Type::Text, "@A"),
        ] {
            assert_eq!(to_line(&cell, as_type), line, "{cell:?}");
        }
    }

    #[test]
    fn sorted_and_hashed() {
        let row = |a: i64, b: &str| vec![Cell::Integer(a), Cell::Text(b.into())];
        let rows = [row(3, "a"), row(20, "b"), row(1, "c")];
        let types = [Type::Integer, Type::Text];
        let lines = |sort| to_lines(&rows, &types, sort).join(" ");
        assert_eq!(lines(Sort::None), "3 a 20 b 1 c");
        assert_eq!(lines(Sort::Rows), "1 c 20 b 3 a");
        assert_eq!(lines(Sort::Values), "1 20 3 a b c");
        // As `md5sum` has it of the three lines.
        let lines: Vec<String> = ["1", "2", "3"].map(String::from).into();
        let hash = to_hash_line(&lines);
        assert_eq!(hash, "3 values hashing to c0710d6b4f15dfa88f600b0e6b624077");
        assert!(are_expected(&lines, &[hash]) && are_expected(&lines, &lines));
        assert!(!are_expected(&lines[..2], &lines));
    }
}
