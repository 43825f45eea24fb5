//! Schemas of facets: steps that lead from each version to the next, run when a facet starts.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use lapidary_engine::FacetName;

use crate::error::{HostError, Result};
use crate::reserved::meta;
use crate::transaction::{Transaction, transact};
use crate::writers::Writer;

type Step = Arc<dyn Fn(&Transaction<'_>) -> Result<()> + Send + Sync>;

/// The steps that make a facet what a program expects. A facet at version `n` has the first `n`
/// behind it, so steps may be added at the end, and must never be changed or taken out.
///
/// ```
/// use lapidary::{Host, HostConfig, Schema};
///
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// let schema = Schema::new()
///     .sql("CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT NOT NULL)")
///     .step(|tx| {
///         tx.execute_batch("ALTER TABLE note ADD COLUMN length INTEGER")?;
///         tx.execute("UPDATE note SET length = length(body)", ())?;
///         Ok(())
///     });
/// assert_eq!(schema.version(), 2);
///
/// let facet = host.facet("agents/42")?.with_schema(&schema);
/// facet.execute("INSERT INTO note(body, length) VALUES ('hello', 5)", ()).wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Schema {
    steps: Arc<Vec<Step>>,
}

impl Schema {
    /// Version 0: an empty facet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step that runs statements.
    pub fn sql(self, statements: impl Into<Cow<'static, str>>) -> Self {
        let statements = statements.into();
        self.step(move |tx| Ok(tx.execute_batch(&statements)?))
    }

    /// Adds a step.
    pub fn step<F>(mut self, step: F) -> Self
    where
        F: Fn(&Transaction<'_>) -> Result<()> + Send + Sync + 'static,
    {
        Arc::make_mut(&mut self.steps).push(Arc::new(step));
        self
    }

    /// Number of its steps.
    #[must_use]
    pub fn version(&self) -> u32 {
        // A program with more steps does not fit into memory.
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }

    /// Runs, in one transaction, the steps that the facet does not have behind it.
    pub(crate) fn bring_up(&self, name: &FacetName, writer: &Writer) -> Result<()> {
        let found = meta::schema_version(writer)?;
        let known = self.version();
        if found > known {
            return Err(HostError::SchemaTooNew { facet: name.clone(), found, known });
        }
        if found == known {
            return Ok(());
        }
        let mut reached = found;
        let ended = || HostError::TransactionEnded { facet: name.clone() };
        let outcome = transact(writer, ended, |tx| {
            for step in self.steps.iter().skip(found as usize) {
                reached += 1;
                step(tx)?;
                if tx.is_autocommit() {
                    return Err(HostError::TransactionEnded { facet: name.clone() });
                }
            }
            meta::set_schema_version(tx, known)
        });
        match outcome {
            Ok(_) => {
                tracing::debug!(facet = %name, from = found, to = known, "schema brought up");
                Ok(())
            }
            Err(source) => Err(HostError::Migration {
                facet: name.clone(),
                version: reached,
                source: Box::new(source.within(name)),
            }),
        }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("version", &self.version()).finish()
    }
}
