//! A whole move between two hosts of one process, from wherever it was.

use std::io;
use std::thread;

use super::{Departure, DepartureState, MoveError};
use crate::error::{HostError, Result};
use crate::host::{Host, checked};

impl Host {
    /// Moves the facet `name` and all below it to the store of another host, on the calling thread and one
    /// more. Called again after an error or a crash of either host, it goes on from where it was; of what
    /// has moved already it does nothing. Afterwards this host refuses the name, and says that it is at
    /// `called`.
    ///
    /// At no moment do both serve the name, and nothing that was acknowledged is lost. While it runs
    /// neither does: a call is refused with [`Moved`](crate::HostErrorKind::Moved).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let here = Host::open(directory.path().join("here"), HostConfig::new())?;
    /// # let there = Host::open(directory.path().join("there"), HostConfig::new())?;
    /// here.facet("acme/1")?.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (7)").wait()?;
    /// here.move_to_store("acme", &there, "there")?;
    /// let found = there.facet("acme/1")?.query("SELECT x FROM t", (), |row| row.get::<_, i64>(0));
    /// assert_eq!(found.wait()?, [7]);
    /// assert_eq!(here.facet("acme/1")?.read(|_| Ok(())).unwrap_err().kind(), HostErrorKind::Moved);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`seal`](Self::seal), [`arrive`](Self::arrive), [`Departure::depart`] and
    /// [`Arrival::activate`](super::Arrival::activate). The name may be sealed then:
    /// [`departures`](Self::departures) says, and [`Departure::cancel`] takes it back.
    pub fn move_to_store(
        &self,
        name: impl AsRef<str>,
        destination: &Host,
        called: impl Into<String>,
    ) -> Result<()> {
        let name = checked(name.as_ref())?;
        if self.store().id() == destination.store().id() {
            return Err(MoveError::SameStore { facet: name }.into());
        }
        let going = self.departures()?.into_iter().find(|departure| *departure.name() == name);
        let departure = match going {
            Some(departure) => departure,
            None => {
                if let Some(gone) = self.departed()?.into_iter().find(|gone| gone.name == name) {
                    // All but the last step was done.
                    return destination.forget_arrived(gone.id);
                }
                self.seal(&name, called)?
            }
        };
        let proof = match departure.state()? {
            DepartureState::Gone => departure.proof()?,
            DepartureState::Sealed => {
                let sent = departure.sent()?;
                let there = destination.arrived(departure.id())?;
                let receipt = match there {
                    Some(arrival) if arrival.digest() == sent => arrival.receipt()?,
                    there => {
                        // A copy that the source does not know of: it was told of none.
                        there.map_or(Ok(()), super::Arrival::discard)?;
                        copy(&departure, destination)?
                    }
                };
                departure.depart(&receipt)?
            }
        };
        let arrival = destination.arrived(departure.id())?;
        arrival.ok_or(MoveError::Unknown { id: departure.id() })?.activate(&proof)?;
        departure.forget_content()?;
        destination.forget_arrived(departure.id())
    }
}

/// Sends the copy through a pipe.
fn copy(departure: &Departure<'_>, destination: &Host) -> Result<super::ArrivalReceipt> {
    let opened = io::pipe().map_err(|source| MoveError::Io { doing: "opening a pipe for", source });
    let (mut input, mut output) = opened?;
    thread::scope(|scope| {
        let storing = scope.spawn(move || destination.arrive(&mut input)?.receipt());
        let sent = departure.write_to(&mut output);
        // Its end is the copy's.
        drop(output);
        let stored = storing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (sent, stored) {
            // The cause, rather than that the other side has heard no more.
            (Err(HostError::Move(MoveError::Io { .. })), Err(stored)) => Err(stored),
            (Err(sent), _) => Err(sent),
            (Ok(()), stored) => stored,
        }
    })
}
