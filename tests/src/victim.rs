//! Processes that are killed, and what is in their stores afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lapidary::{Host, HostConfig};

use crate::turns::{check, facet_name};

/// Facets that take turns.
pub const FACETS: usize = 24;
/// A facet's next turn is asked for when the last one is acknowledged.
pub const IN_FLIGHT_MAX: u32 = 1;
/// Above the facets that come and go; their names are `CHURN/KIND-FACET-NUMBER`.
pub const CHURN: &str = "churn";
/// Kind of those that are forks of the facet of their number.
pub const FORKED: &str = "forked";
/// Kind of those that came out of a file, with turns of facet 0.
pub const IMPORTED: &str = "imported";
/// Turns in that file.
pub const TURNS_IMPORTED: u32 = 20;

/// Kills the process even if the test fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is known of a store of which only acknowledgements were heard.
#[derive(Debug, Default)]
pub struct Known {
    newest: [u32; FACETS],
    /// Facets that came and went: whether each must be there. Nothing of one that was being deleted.
    churned: BTreeMap<String, bool>,
    /// Lives since the store was last looked into.
    unchecked: u32,
    /// Lines heard.
    pub heard: usize,
}

impl Known {
    fn hear(&mut self, line: &str) {
        self.heard += 1;
        match line.split_once(' ') {
            Some(("made", name)) => drop(self.churned.insert(name.to_owned(), true)),
            Some(("going", name)) => drop(self.churned.remove(name)),
            Some(("gone", name)) => drop(self.churned.insert(name.to_owned(), false)),
            Some((facet, turn)) => {
                let (facet, turn): (usize, u32) =
                    (facet.parse().expect("a number"), turn.parse().expect("a number"));
                let newest = &mut self.newest[facet];
                assert!(turn > *newest, "turn {turn} of facet {facet} a second time");
                *newest = turn;
            }
            None => panic!("the child said {line:?}"),
        }
    }

    /// Runs `command` for about `life`, kills it, and hears what it acknowledged. Whether it was still alive.
    ///
    /// # Panics
    /// If it cannot be started, or acknowledges a turn twice.
    pub fn run_and_kill(&mut self, command: &mut Command, life: Duration) -> bool {
        let child = command.stdout(Stdio::piped()).spawn().expect("the child starts");
        let mut victim = Victim(child);
        let mut output = BufReader::new(victim.0.stdout.take().expect("it is piped"));
        let reader = thread::spawn(move || {
            let mut lines = Vec::new();
            let mut line = String::new();
            while output.read_line(&mut line).expect("a pipe can be read") > 0 {
                // A line without its end was cut by the kill.
                lines.extend(line.strip_suffix('\n').map(str::to_owned));
                line.clear();
            }
            lines
        });
        thread::sleep(life);
        let was_alive = victim.0.try_wait().expect("it is a child").is_none();
        drop(victim);
        for line in reader.join().expect("no panic") {
            self.hear(&line);
        }
        self.unchecked += 1;
        was_alive
    }

    /// Opens the store and checks every facet: what was acknowledged is there, nothing is half there, and
    /// what came and went is whole or gone.
    ///
    /// # Panics
    /// If anything is not so.
    pub fn check(&mut self, path: &Path) {
        let ahead_max = self.unchecked * IN_FLIGHT_MAX;
        self.unchecked = 0;
        let host = Host::open(path, HostConfig::new())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (facet, newest) in self.newest.iter_mut().enumerate() {
            let name = facet_name(facet);
            *newest = look(&host, &name, facet, *newest, ahead_max).unwrap_or_else(|| {
                assert_eq!(*newest, 0, "{name} is gone");
                0
            });
        }
        let listed = host.list(None, None, usize::MAX).wait().expect("facets are listed");
        for info in &listed {
            let name = info.name.as_str();
            assert!(!name.starts_with(".importing-"), "{name} is left of an import");
            let Some(what) = name.strip_prefix(CHURN).and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            let mut parts = what.split('-');
            let (kind, facet) = (parts.next(), parts.next().and_then(|facet| facet.parse().ok()));
            let facet: usize = facet.expect("its name says of what");
            // A fork may be of any turn; what was imported is of one.
            if kind == Some(IMPORTED) {
                look(&host, name, 0, TURNS_IMPORTED, 0);
            } else {
                look(&host, name, facet, 0, u32::MAX);
            }
        }
        for (name, is_there) in &self.churned {
            let found = listed.iter().any(|info| info.name.as_str() == name);
            assert_eq!(found, *is_there, "{name} was acknowledged to be there, or not");
        }
        // Those that are there are nobody's to delete any more, so they go now.
        if listed.iter().any(|info| info.name.as_str().starts_with(CHURN)) {
            host.delete(CHURN).wait().expect("a subtree can be deleted");
        }
        self.churned.clear();
        let verified = host.store().verify(&mut |_| {}).expect("the store can be read");
        assert!(verified.findings.is_empty(), "{:?}", verified.findings);
        host.shutdown().expect("nobody uses it");
    }
}

/// The newest turn of a facet, which is as it should be; nothing if there is no such facet.
fn look(host: &Host, name: &str, facet: usize, acknowledged: u32, ahead_max: u32) -> Option<u32> {
    if !host.store().facet_exists(&lapidary_engine::FacetName::new(name).expect("a good name")) {
        return None;
    }
    let handle = host.facet(name).expect("a good name");
    let newest = handle
        .read(|connection| Ok(check(connection, facet, acknowledged, ahead_max)))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    Some(newest.unwrap_or_else(|wrong| panic!("{name}: {wrong}")))
}
