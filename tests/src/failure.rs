//! What a check found wrong.

use std::fmt;

use lapidary_engine::{Error, ErrorKind};

/// A check that failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Something is not as the model has it.
    Wrong(String),
    /// The store refused what the check had to do first, with an error of this kind.
    Refused(String, ErrorKind),
}

impl Failure {
    /// The same, with `context` in front.
    #[must_use]
    pub fn within(self, context: impl fmt::Display) -> Self {
        match self {
            Self::Wrong(words) => Self::Wrong(format!("{context}: {words}")),
            Self::Refused(words, kind) => Self::Refused(format!("{context}: {words}"), kind),
        }
    }

    /// The same, with `after` below.
    #[must_use]
    pub fn after(self, after: impl fmt::Display) -> Self {
        match self {
            Self::Wrong(words) => Self::Wrong(format!("{words}\nafter:\n{after}")),
            Self::Refused(words, kind) => Self::Refused(format!("{words}\nafter:\n{after}"), kind),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(words) | Self::Refused(words, _) => f.write_str(words),
        }
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self::Wrong(words)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string(), error.kind())
    }
}

/// A failed check.
///
/// # Errors
/// Always.
pub fn wrong<T>(words: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Wrong(words.into()))
}
