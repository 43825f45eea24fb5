//! A case: what is run, on which connection, in which order.

use std::fmt;

/// How many connections a case has, and what stock SQLite must be for the answers to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// One connection that does everything, and one that reads between its transactions. Stock
    /// SQLite has a rollback journal, as a facet seems to have.
    Alone,
    /// Three connections whose transactions interleave. Stock SQLite has a write-ahead log, since
    /// its readers and its writer then go side by side, as those of a facet do.
    Together,
}

impl Family {
    /// Connections of a case.
    #[must_use]
    pub fn connections(self) -> usize {
        match self {
            Self::Alone => 2,
            Self::Together => 3,
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs one statement.
    Sql(String),
    /// Runs `inner` statements on the same connection when the query has given so many rows, and then
    /// the rest of the query.
    Around {
        /// The query.
        sql: String,
        /// Its rows before the others begin.
        rows: usize,
        /// What runs amid it.
        inner: Vec<String>,
    },
    /// Closes the connection and opens it again.
    Reopen,
    /// Lets the store make a checkpoint and clean. Stock SQLite has nothing to do.
    Maintain,
}

/// One step of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number of the connection.
    pub connection: usize,
    /// What it does.
    pub action: Action,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// How many connections, and what stock SQLite is.
    pub family: Family,
    /// Pragmas that say what kind of database it becomes, run once, on the first connection.
    pub database: Vec<String>,
    /// Pragmas of every connection, run whenever it is opened.
    pub settings: Vec<String>,
    /// What is done.
    pub steps: Vec<Step>,
}

impl Case {
    /// The same with the steps that `keep` says.
    #[must_use]
    pub fn with_steps(&self, keep: impl Fn(usize) -> bool) -> Self {
        let steps = self.steps.iter().enumerate().filter(|(index, _)| keep(*index));
        Self { steps: steps.map(|(_, step)| step.clone()).collect(), ..self.clone() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Sql(sql) => write!(f, "/* {} */ {sql};", self.connection),
            Action::Around { sql, rows, inner } => {
                write!(f, "/* {0} */ {sql}; -- and after {rows} rows of it:", self.connection)?;
                inner.iter().try_for_each(|sql| write!(f, "\n/* {} */     {sql};", self.connection))
            }
            Action::Reopen => write!(f, "/* {} */ -- closed and opened again", self.connection),
            Action::Maintain => f.write_str("-- checkpoint and cleaning"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "-- {:?}; first:", self.family)?;
        for setting in &self.database {
            writeln!(f, "{setting};")?;
        }
        writeln!(f, "-- on each connection, whenever it is opened:")?;
        for setting in &self.settings {
            writeln!(f, "{setting};")?;
        }
        writeln!(f, "-- then, on the connection in the comment:")?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
