//! Where a statement ends.

/// Whether `sql` ends with a whole statement, or holds none: what follows it begins a new one.
///
/// As SQLite's `sqlite3_complete`: a semicolon ends a statement, unless it is in a string, a name, a
/// comment, or in the body of a trigger, which ends with `END;`.
pub(super) fn is_complete(sql: &str) -> bool {
    let mut scan = Scan::default();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' | '`' => match quoted(rest, first) {
                Some(length) => length,
                None => return false,
            },
            '[' => match rest.find(']') {
                Some(end) => end + 1,
                None => return false,
            },
            '-' if rest.starts_with("--") => {
                rest = rest.find('\n').map_or("", |end| &rest[end..]);
                continue;
            }
            '/' if rest.starts_with("/*") => match rest[2..].find("*/") {
                Some(end) => {
                    rest = &rest[end + 4..];
                    continue;
                }
                None => return false,
            },
            ';' => {
                scan.semicolon();
                1
            }
            space if space.is_whitespace() => {
                rest = &rest[space.len_utf8()..];
                continue;
            }
            letter if letter.is_alphabetic() || letter == '_' => {
                let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                scan.word(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            other => other.len_utf8(),
        };
        if first != ';' {
            scan.other();
        }
        rest = &rest[length..];
    }
    scan.words == 0
}

/// Bytes of the quoted thing that `text` begins with, if it ends.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find(quote)? + 1;
        // A doubled quote stands for itself.
        if !text[at..].starts_with(quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// What of the present statement matters.
#[derive(Default)]
struct Scan {
    /// Tokens so far.
    words: usize,
    is_create: bool,
    is_trigger: bool,
    /// The last two tokens were `;` and `END`.
    at_end: bool,
    after_semicolon: bool,
}

impl Scan {
    fn word(&mut self, word: &str) {
        let is = |known: &str| word.eq_ignore_ascii_case(known);
        match self.words {
            // EXPLAIN does not count.
            0 if is("explain") || is("query") || is("plan") => return,
            0 => self.is_create = is("create"),
            1 | 2 if self.is_create && is("trigger") => self.is_trigger = true,
            _ => {}
        }
        self.words += 1;
        self.at_end = self.after_semicolon && is("end");
        self.after_semicolon = false;
    }

    fn other(&mut self) {
        self.words += 1;
        self.at_end = false;
        self.after_semicolon = false;
    }

    fn semicolon(&mut self) {
        if self.is_trigger && !self.at_end {
            self.after_semicolon = true;
            self.at_end = false;
        } else {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn statements_that_are_whole() {
        for sql in [
            "",
            "  \n",
            "SELECT 1;",
            "SELECT ';' ; -- and; so on",
            "/* ; */ SELECT \"a;\"\"b\", [c;], `d;`;\n",
            "SELECT 'it''s';",
            "CREATE TABLE trigger_end(x);",
            "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END;",
            "EXPLAIN CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END ;",
            "BEGIN; INSERT INTO t VALUES (CASE WHEN 1 THEN 2 END); COMMIT;",
            "-- only a comment",
        ] {
            assert!(is_complete(sql), "{sql}");
        }
    }

    #[test]
    fn statements_that_go_on() {
        for sql in [
            "SELECT 1",
            "SELECT 1; SELECT",
            "SELECT 'a;",
            "SELECT \"a;",
            "SELECT [a;",
            "SELECT 1 /* ; ",
            "SELECT 1 -- ;",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END",
            "SELECT 'ü",
        ] {
            assert!(!is_complete(sql), "{sql}");
        }
    }
}
