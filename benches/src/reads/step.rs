//! A step, in a process of its own.

use lapidary_benches::child;
use lapidary_benches::failure::{Doing as _, Result};
use lapidary_vfs::{ProcessSettings, configure_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::database::Place;
use crate::readers::{self, Readers};
use crate::scan::{self, Scan};

/// What a step process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) place: Place,
    pub(crate) task: Task,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Make { mib: u32 },
    Scan(Scan),
    Read(Readers),
}

/// What a step process says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Progress(String),
    Done(Value),
    Failed(String),
}

/// The whole life of a step process.
pub(crate) fn serve() -> ! {
    child::serve(|| run().map(Message::Done), Message::Failed)
}

fn run() -> Result<Value> {
    let Assignment { place, task } = child::receive()?;
    // The same for all arms, before SQLite is first used.
    configure_process(&ProcessSettings::default());
    let figures = match task {
        Task::Make { mib } => serde_json::to_value(place.make(mib)?),
        Task::Scan(scan) => serde_json::to_value(scan::scan(&place, scan)?),
        Task::Read(readers) => serde_json::to_value(readers::read(&place, readers)?),
    };
    figures.doing(|| "putting figures into words".to_owned())
}

/// Tells the parent how far the step is.
pub(crate) fn tell(done: u32, of: u32, what: &str) {
    // A parent that is gone takes this process with it; nothing to do here.
    let _ = child::say(&Message::Progress(format!("{what} {done} of {of}")));
}
