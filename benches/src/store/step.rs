//! A step of a part, in a process of its own.

use std::path::PathBuf;

use lapidary_benches::child;
use lapidary_benches::failure::{Doing as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{cleaning, deletes, forks, million, recovery};

/// What a step process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    /// Of the store; each step of a part may use the one that another has left.
    pub(crate) directory: PathBuf,
    pub(crate) seed: u64,
    pub(crate) task: Task,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Fork { forks: u32 },
    ReopenForks { forks: u32 },
    Delete { facets: u32 },
    Overwrite(cleaning::Load),
    WriteTail(recovery::Tail),
    OpenTail { tail: recovery::Tail, commits: u64 },
    Populate { facets: u32 },
    FindCold { facets: u32 },
}

/// What a step process says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Progress { fraction: f64, doing: String },
    Done(Value),
    Failed(String),
}

/// The whole life of a step process.
pub(crate) fn serve() -> ! {
    child::serve(|| run().map(Message::Done), Message::Failed)
}

fn run() -> Result<Value> {
    let assignment: Assignment = child::receive()?;
    let context = Context { directory: assignment.directory, seed: assignment.seed };
    let figures = match assignment.task {
        Task::Fork { forks } => serde_json::to_value(forks::fork(&context, forks)?),
        Task::ReopenForks { forks } => serde_json::to_value(forks::reopen(&context, forks)?),
        Task::Delete { facets } => serde_json::to_value(deletes::delete(&context, facets)?),
        Task::Overwrite(load) => serde_json::to_value(cleaning::overwrite(&context, load)?),
        Task::WriteTail(tail) => serde_json::to_value(recovery::write(&context, tail)?),
        Task::OpenTail { tail, commits } => {
            serde_json::to_value(recovery::open(&context, tail, commits)?)
        }
        Task::Populate { facets } => serde_json::to_value(million::populate(&context, facets)?),
        Task::FindCold { facets } => serde_json::to_value(million::find(&context, facets)?),
    };
    figures.doing(|| "putting figures into words".to_owned())
}

/// Where a step works.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) directory: PathBuf,
    pub(crate) seed: u64,
}

impl Context {
    /// Tells the parent how far the step is.
    pub(crate) fn tell(&self, done: u64, of: u64, doing: &str) {
        let fraction =
            lapidary_benches::numbers::float(done) / lapidary_benches::numbers::float(of.max(1));
        // A parent that is gone takes this process with it; nothing to do here.
        let _ = child::say(&Message::Progress { fraction, doing: format!("{doing} {done}") });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleaning::{Figures, Load};
    use crate::recovery::Tail;

    /// Stores that are only read again by the same process: they are dropped where a process of its
    /// own would have ended.
    fn context() -> (tempfile::TempDir, Context) {
        let directory = tempfile::tempdir().unwrap();
        let context = Context { directory: directory.path().join("store"), seed: 3 };
        (directory, context)
    }

    #[test]
    fn deletes_find_what_they_should() {
        let (_guard, context) = context();
        let deleted = deletes::delete(&context, 50).unwrap();
        assert_eq!(deleted.facets, 50);
        assert!(deleted.live_after_bytes < deleted.live_before_bytes, "{deleted:?}");
    }

    #[test]
    fn overwrites_are_found_again() {
        let load = Load { live_mib: 1, overwrites: 2.0, rate_mib: 0, group: 8, is_cleaned: true };
        let run = |is_cleaned| {
            let (_guard, context) = context();
            cleaning::overwrite(&context, Load { is_cleaned, ..load }).unwrap()
        };
        let figures = Figures::new(run(false), run(true));
        assert_eq!(figures.cleaned.pages_checked, 256);
        assert_eq!(figures.cleaned.commits, 512);
        assert!(figures.theory_write_amplification >= 1.0, "{figures:?}");
        assert_eq!(figures.targets().len(), 3);
    }

    #[test]
    fn facets_are_found_cold() {
        let (_guard, context) = context();
        assert_eq!(million::populate(&context, 300).unwrap().facets, 300);
        assert_eq!(million::find(&context, 300).unwrap().pages_checked, 300);
        // The one before is still open as far as the store can tell.
        let tail = Tail { facets: 20, busy_facets: 10, tail_mib: 1 };
        assert!(recovery::open(&context, tail, 0).is_err());
    }
}
