//! The one error of this program: a sentence for the person at the terminal.

use std::fmt;

/// Why the run, or an arm of it, cannot go on: what was being done, then what went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Says what was being done when an error came up.
pub trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let mut sentence = format!("{}: {error}", what());
            let mut source = error.source();
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !sentence.contains(&cause_text) {
                    sentence.push_str(": ");
                    sentence.push_str(&cause_text);
                }
                source = cause.source();
            }
            Failure(sentence)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_was_done_and_the_cause() {
        let failure = std::fs::read("/nonexistent/file")
            .doing(|| "reading the template".to_owned())
            .unwrap_err();
        assert!(failure.to_string().starts_with("reading the template: No such file"));
    }
}
