//! The line editor: history and completion.

use std::env;
use std::fs;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};

use super::commands::{self, Next};
use super::input::is_complete;
use super::session::Session;
use crate::failure::{Exit, Failure, Outcome, say};
use crate::output::Output;

const KEYWORDS: &str = "ALTER ANALYZE AND AS ASC BEGIN BETWEEN BY CASE CHECK COLUMN COMMIT CREATE \
    CROSS DEFAULT DELETE DESC DISTINCT DROP ELSE END EXISTS EXPLAIN FROM GROUP HAVING IN INDEX INNER \
    INSERT INTO IS JOIN KEY LEFT LIKE LIMIT NOT NULL OFFSET ON OR ORDER PRAGMA PRIMARY REFERENCES \
    RETURNING ROLLBACK SELECT SET TABLE THEN TRIGGER UNION UNIQUE UPDATE VACUUM VALUES VIEW WHEN \
    WHERE WITH";

/// Reads lines until the input ends or `.quit`.
pub(super) fn run(session: &mut Session, output: &mut Output) -> Outcome {
    let broken = |error: ReadlineError| {
        Failure::new(Exit::Failed, format!("the terminal cannot be used: {error}"))
    };
    session.catch_interrupts()?;
    let mut editor: Editor<Words, DefaultHistory> = Editor::new().map_err(broken)?;
    let history = history_file();
    if let Some(history) = &history {
        // There is none at first.
        let _ = editor.load_history(history);
    }
    say(format_args!("facet {}; .help tells what there is, .quit leaves", session.name()));
    let mut pending = String::new();
    loop {
        editor.set_helper(Some(Words::of(session)));
        let prompt = prompt(session, pending.is_empty());
        match editor.readline(&prompt) {
            Ok(line) => {
                if pending.is_empty() && line.trim_start().starts_with('.') {
                    let _ = editor.add_history_entry(line.as_str());
                    match commands::run(session, &line, output) {
                        Ok(Next::GoOn) => {}
                        Ok(Next::Quit) => break,
                        Err(failure) => failure.print(),
                    }
                    output.flush()?;
                    continue;
                }
                pending.push_str(&line);
                pending.push('\n');
                if is_complete(&pending) {
                    if !pending.trim().is_empty() {
                        let _ = editor.add_history_entry(pending.trim_end());
                    }
                    if let Err(failure) = session.run(&pending, output) {
                        failure.print();
                    }
                    output.flush()?;
                    pending.clear();
                }
            }
            // Ctrl-C gives up what was typed; while a statement runs, that.
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if let Some(history) = &history
        && let Err(error) = editor.save_history(history)
    {
        say(format_args!("the history could not be kept in {}: {error}", history.display()));
    }
    Ok(())
}

fn prompt(session: &Session, is_first: bool) -> String {
    let name = session.name();
    if !is_first {
        return format!("{:>1$}> ", "...", name.chars().count());
    }
    let past = if session.at().is_some() { " (past)" } else { "" };
    let open = if session.connection().is_autocommit() { "" } else { "*" };
    format!("{name}{past}{open}> ")
}

/// `LAPIDARY_HISTORY`, or a file in the directory for the state of programs.
fn history_file() -> Option<PathBuf> {
    if let Some(path) = env::var_os("LAPIDARY_HISTORY") {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let state = env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("lapidary");
    fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

/// What can be completed: keywords, commands, tables and columns.
struct Words(Vec<String>);

impl Words {
    /// Those of the schema as it is now.
    fn of(session: &Session) -> Self {
        let sql = "SELECT name FROM sqlite_schema
                   UNION SELECT c.name FROM sqlite_schema AS s, pragma_table_info(s.name) AS c
                   WHERE s.type IN ('table', 'view')";
        let names = session.connection().prepare(sql).and_then(|mut statement| {
            statement.query_map((), |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
        });
        // A schema that cannot be read is told of by the statements on it.
        let mut words = names.unwrap_or_default();
        words.extend(commands::NAMES.map(str::to_owned));
        words.extend(KEYWORDS.split(' ').map(str::to_owned));
        Self(words)
    }

    /// What the word that ends at `position` may become, and where it begins.
    fn completions(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = line.get(..position).unwrap_or(line);
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$');
        let mut start = before
            .rfind(|c| !is_word(c))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        // A dot begins a command only at the beginning of a line; elsewhere it ends a table's name.
        if before[..start].trim_start() == "." {
            start -= 1;
        }
        let word = &before[start..];
        if word.is_empty() {
            return (start, Vec::new());
        }
        let begins = |known: &&String| {
            known.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word))
        };
        let mut found: Vec<String> = self.0.iter().filter(begins).cloned().collect();
        found.dedup();
        (start, found)
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.completions(line, position))
    }
}

impl Helper for Words {}
impl Highlighter for Words {}
impl Hinter for Words {
    type Hint = String;
}
impl Validator for Words {}

#[cfg(test)]
mod tests {
    use super::Words;

    #[test]
    fn completes_commands_keywords_and_names() {
        let words = Words(
            ["note", "notebook", "body", ".mode", "NOT", "SELECT"].map(str::to_owned).to_vec(),
        );
        let at_end = |line: &str| words.completions(line, line.len());
        assert_eq!(at_end("sel"), (0, vec!["SELECT".to_owned()]));
        assert_eq!(at_end("SELECT no").1, ["note", "notebook", "NOT"]);
        assert_eq!(at_end(".mo"), (0, vec![".mode".to_owned()]));
        assert_eq!(at_end("SELECT note.bo"), (12, vec!["body".to_owned()]));
        assert_eq!(at_end("SELECT "), (7, vec![]));
        assert_eq!(at_end("SELECT ü, bo"), (11, vec!["body".to_owned()]));
    }
}
