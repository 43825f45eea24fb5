//! Records of a script.
//!
//! A script is lines. Blank lines separate records, `#` begins a comment. A record is
//!
//! ```text
//! statement ok|error
//! SQL, to the end of the record
//!
//! query TYPES [nosort|rowsort|valuesort] [LABEL]
//! SQL
//! ----
//! VALUE, one a line; or: N values hashing to MD5
//!
//! hash-threshold N
//!
//! halt
//! ```
//!
//! and may begin with `skipif NAME` or `onlyif NAME` lines. TYPES has a letter for each column: `I`,
//! `R` or `T`.

use std::fmt;

/// How the results of a query are put in order before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// As they come.
    None,
    /// Row by row.
    Rows,
    /// Value by value, whatever the rows.
    Values,
}

/// How a column's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `I`.
    Integer,
    /// `R`: three digits after the point.
    Real,
    /// `T`.
    Text,
}

/// What a record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A statement that succeeds or fails.
    Statement {
        /// Whether it succeeds.
        succeeds: bool,
    },
    /// A query and its results.
    Query {
        /// The columns.
        types: Vec<Type>,
        /// The order.
        sort: Sort,
        /// Queries of one label have one result.
        label: Option<String>,
        /// The lines below `----`; `None` if there are none.
        expected: Option<Vec<String>>,
    },
    /// The end of the script.
    Halt,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The line it begins at, from 1.
    pub line: usize,
    /// What it asks for.
    pub kind: Kind,
    /// The SQL; empty for [`Kind::Halt`].
    pub sql: String,
}

/// A script that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Reads a script as the engine `engine` is to run it: records that others alone run are left out.
///
/// # Errors
/// [`ScriptError`], with the first line that is no part of the format.
pub fn parse(text: &str, engine: &str) -> Result<Vec<Record>, ScriptError> {
    let mut lines = (1..).zip(text.lines()).peekable();
    let mut records = Vec::new();
    let mut skipped = false;
    while let Some((line, text)) = lines.next() {
        let error = |reason: String| ScriptError { line, reason };
        let mut words = text.split_whitespace().take_while(|word| !word.starts_with('#'));
        let Some(keyword) = words.next() else { continue };
        let words: Vec<&str> = words.collect();
        let mut body = || {
            let mut body = Vec::new();
            while let Some((_, text)) = lines.next_if(|(_, text)| !text.trim().is_empty()) {
                body.push(text);
            }
            body
        };
        let record = match (keyword, words.as_slice()) {
            ("skipif", [name, ..]) => {
                skipped |= *name == engine;
                continue;
            }
            ("onlyif", [name, ..]) => {
                skipped |= *name != engine;
                continue;
            }
            // Everything is compared value by value or by its hash, as the script has it.
            ("hash-threshold", [number]) if number.parse::<u64>().is_ok() => None,
            ("halt", []) => Some((Kind::Halt, String::new())),
            ("statement", [outcome @ ("ok" | "error"), ..]) => {
                let sql = body().join("\n");
                Some((Kind::Statement { succeeds: *outcome == "ok" }, sql))
            }
            ("query", [types, rest @ ..]) => Some(query(types, rest, &body()).map_err(error)?),
            _ => {
                return Err(error(format!(
                    "no record of the format begins like this: {text:?}; it knows statement, query, \
                     hash-threshold, halt, skipif and onlyif"
                )));
            }
        };
        if let Some((kind, sql)) = record.filter(|_| !skipped) {
            if sql.trim().is_empty() && kind != Kind::Halt {
                return Err(error(format!("{keyword} without SQL")));
            }
            records.push(Record { line, kind, sql });
        }
        skipped = false;
    }
    Ok(records)
}

fn query(types: &str, rest: &[&str], body: &[&str]) -> Result<(Kind, String), String> {
    let types = types.chars().map(|letter| match letter {
        'I' => Ok(Type::Integer),
        'R' => Ok(Type::Real),
        'T' => Ok(Type::Text),
        other => Err(format!("a column is I, R or T, not {other:?}")),
    });
    let types: Vec<Type> = types.collect::<Result<_, _>>()?;
    let sort = match rest.first() {
        None | Some(&"nosort") => Sort::None,
        Some(&"rowsort") => Sort::Rows,
        Some(&"valuesort") => Sort::Values,
        Some(other) => {
            return Err(format!("results are sorted nosort, rowsort or valuesort, not {other:?}"));
        }
    };
    let label = rest.get(1).map(ToString::to_string);
    let end = body.iter().position(|line| *line == "----");
    let sql = body[..end.unwrap_or(body.len())].join("\n");
    let expected = end.map(|end| body[end + 1..].iter().map(ToString::to_string).collect());
    Ok((Kind::Query { types, sort, label, expected }, sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_each_kind() {
        let script = "# a comment\nhash-threshold 8\n\nstatement ok\nCREATE TABLE t(\n  a)\n\n\
                      skipif sqlite # why\nstatement error\nDROP TABLE t\n\n\
                      onlyif sqlite\nquery IT rowsort x1\nSELECT 1, 'a'\n----\n1\na\n\n\
                      onlyif mysql\nhalt\n\nquery R\nSELECT 1\n\nhalt\n\nstatement ok\nSELECT 2\n";
        let records = parse(script, "sqlite").unwrap();
        let lines: Vec<usize> = records.iter().map(|record| record.line).collect();
        assert_eq!(lines, [4, 13, 22, 25, 27]);
        assert_eq!(records[0].sql, "CREATE TABLE t(\n  a)");
        let expected = Some(vec!["1".to_owned(), "a".to_owned()]);
        let (types, label) = (vec![Type::Integer, Type::Text], Some("x1".to_owned()));
        assert_eq!(records[1].kind, Kind::Query { types, sort: Sort::Rows, label, expected });
        assert_eq!(records[3].kind, Kind::Halt);
        assert_eq!(parse(script, "mysql").unwrap()[1].kind, Kind::Statement { succeeds: false });
    }

    #[test]
    fn what_is_no_script_is_named_with_its_line() {
        for (script, line, word) in [
            ("\nselect 1\n", 2, "select 1"),
            ("statement maybe\nSELECT 1\n", 1, "statement maybe"),
            ("statement ok\n\nhalt\n", 1, "without SQL"),
            ("query IX\nSELECT 1\n", 1, "'X'"),
            ("query I sorted\nSELECT 1\n", 1, "sorted"),
            ("hash-threshold many\n", 1, "hash-threshold"),
        ] {
            let error = parse(script, "sqlite").unwrap_err();
            assert_eq!(error.line, line, "{script}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
