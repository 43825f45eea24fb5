//! `move`: a facet and all below it, from one store to another.

use std::path::PathBuf;

use clap::Args;
use lapidary::{DepartureState, Host};
use serde_json::json;

use crate::failure::{Exit, Failure, Outcome};
use crate::open::Place;
use crate::output::Output;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary move agents.store tenants/acme other.store
  lapidary move agents.store tenants/acme other.store    again, after a crash: it goes on
  lapidary move agents.store tenants/acme other.store --cancel
  lapidary move agents.store tenants/acme --forget    the name can be used here again

Meanwhile neither store serves the name. Afterwards the first one refuses it, and says where it went. History stays
behind.")]
pub(crate) struct Move {
    #[command(flatten)]
    source: Place,
    /// Its name, or the beginning of several
    name: String,
    /// Directory of the store it goes to, which must exist
    #[arg(required_unless_present_any = ["cancel", "forget"])]
    destination: Option<PathBuf>,
    /// The bucket that the other store is kept in; the directory is its local disk then
    #[cfg(feature = "bucket")]
    #[arg(long, value_name = "URL", requires = "destination")]
    to_bucket: Option<String>,
    /// Take back a move that was interrupted; with a destination, delete the copy there too
    #[arg(long)]
    cancel: bool,
    /// Have the store forget that the name has gone
    #[arg(long, conflicts_with_all = ["cancel", "destination"])]
    forget: bool,
}

impl Move {
    fn destination(&self) -> Option<Place> {
        let directory = self.destination.clone()?;
        #[cfg(feature = "bucket")]
        return Some(Place::new(directory, self.to_bucket.clone()));
        #[cfg(not(feature = "bucket"))]
        return Some(Place::new(directory));
    }
}

pub(crate) fn run(arguments: &Move, output: &mut Output) -> Outcome {
    let Move { source, name, cancel, forget, .. } = arguments;
    source.with_host(|here| match arguments.destination() {
        _ if *forget => {
            here.forget_departed(name)?;
            output.json(&json!({ "name": name, "state": "forgotten" }))?;
            output.line(format_args!("{name} can be used here again"))
        }
        None => take_back(here, None, name, output),
        Some(place) => place.with_host(|there| {
            if *cancel {
                return take_back(here, Some(there), name, output);
            }
            let called = place.full_name()?;
            here.move_to_store(name, there, called.clone())?;
            output.json(&json!({ "name": name, "state": "moved", "destination": called }))?;
            output.line(format_args!("{name} is now in {}", place.describe()))
        }),
    })
}

fn take_back(here: &Host, there: Option<&Host>, name: &str, output: &mut Output) -> Outcome {
    let going = here.departures()?.into_iter().find(|going| going.name().as_str() == name);
    let Some(going) = going else {
        let words = "is not on its way to another store; there is nothing to cancel";
        return Err(Failure::new(Exit::NotFound, format!("facet {name}: {words}")));
    };
    let id = going.id();
    if going.state()? == DepartureState::Gone {
        let words =
            "has gone for good; run the move again without --cancel, so that it is served there";
        return Err(Failure::new(Exit::Failed, format!("facet {name}: {words}")));
    }
    going.cancel()?;
    if let Some(there) = there {
        for copy in there.arrivals()?.into_iter().filter(|copy| copy.id() == id) {
            copy.discard()?;
        }
    }
    output.json(&json!({ "name": name, "state": "cancelled" }))?;
    output.line(format_args!("{name} stays here"))
}
