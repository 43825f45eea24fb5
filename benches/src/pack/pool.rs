//! Clients that serve one call at a time on SQLite connections of their own.
//!
//! Connections stay open as long as the descriptor limit allows; past it the least recently used
//! one is closed, as any program that keeps a file per tenant has to do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashlink::LinkedHashMap;
use rusqlite::Connection;

use lapidary_benches::failure::{Failure, Result};

use crate::load::{Client, Load, Reply, Request};
use crate::sql::{Statements, integrity_failure};
use crate::workload::{FacetIndex, Share};

/// How an arm makes and opens a database.
pub(crate) trait Opener: Send {
    /// Makes the facet and leaves it open.
    fn create(&self, facet: FacetIndex) -> Result<Connection>;
    /// Opens a facet that exists.
    fn open(&self, facet: FacetIndex) -> Result<Connection>;
    /// Makes a fork of the facet, which is open; returns what must stay open for the fork to be there.
    fn fork(&self, facet: FacetIndex, open: &Connection) -> Result<Option<Connection>>;
    /// Deletes the fork of the facet; what stayed open for it is closed by then.
    fn delete_fork(&self, facet: FacetIndex) -> Result<()>;
    /// More about an error that SQLite has just reported on this thread, if there is more.
    fn explain(&self) -> Option<String> {
        None
    }
}

/// A client with a pool of connections.
pub(crate) struct Pool<O> {
    opener: O,
    statements: &'static Statements,
    share: Share,
    /// By ordinal within the share, the least recently used first.
    open: LinkedHashMap<usize, Connection>,
    /// What forks need to be open, by the ordinal of their source.
    forks: HashMap<usize, Connection>,
    open_max: usize,
    /// Connections open in all pools of the arm.
    open_in_arm: Arc<AtomicUsize>,
}

impl<O: Opener> Pool<O> {
    pub(crate) fn new(
        opener: O,
        statements: &'static Statements,
        share: Share,
        open_max: usize,
        open_in_arm: Arc<AtomicUsize>,
    ) -> Self {
        let open_max = open_max.max(1);
        // As it were after all are open: growing is no part of a creation or an opening.
        let open = LinkedHashMap::with_capacity(open_max.min(share.len()));
        Self { opener, statements, share, open, forks: HashMap::new(), open_max, open_in_arm }
    }

    fn serve(&mut self, request: &Request) -> Result<Reply> {
        let facet = request.facet();
        let ordinal = self.share.ordinal(facet);
        if let Request::DeleteFork(_) = request {
            drop(self.forks.remove(&ordinal));
            return self.opener.delete_fork(facet).map(|()| Reply::Done);
        }
        if !self.open.contains_key(&ordinal) {
            if self.open.len() >= self.open_max
                && let Some((oldest, connection)) = self.open.pop_front()
            {
                self.close(oldest, connection)?;
            }
            let connection = if matches!(request, Request::Create(_)) {
                self.opener.create(facet)?
            } else {
                self.opener.open(facet)?
            };
            self.open.insert(ordinal, connection);
            self.open_in_arm.fetch_add(1, Ordering::Relaxed);
        }
        let Some(connection) = self.open.to_back(&ordinal) else {
            unreachable!("the connection was opened above")
        };
        if let Request::Fork(_) = request {
            if let Some(needed) = self.opener.fork(facet, connection)? {
                self.forks.insert(ordinal, needed);
            }
            return Ok(Reply::Done);
        }
        let statements = self.statements;
        let reply = match request {
            Request::Create(_) | Request::Fork(_) | Request::DeleteFork(_) => Ok(Reply::Done),
            Request::Turn(_, turn) => statements.turn(connection, turn).map(|()| Reply::Done),
            Request::Touch(_) | Request::Read(_) | Request::ReadCold(_) => {
                statements.read(connection).map(|_| Reply::Done)
            }
            Request::Count(_) => statements.count(connection).map(Reply::Counted),
            Request::CheckIntegrity(_) => integrity_failure(connection).map(Reply::Integrity),
        };
        reply.map_err(|error| {
            let more = self.opener.explain().map_or_else(String::new, |more| format!(" ({more})"));
            Failure::new(format!("{} facet {}: {error}{more}", request.doing(), facet.name()))
        })
    }

    fn close(&self, ordinal: usize, connection: Connection) -> Result<()> {
        self.open_in_arm.fetch_sub(1, Ordering::Relaxed);
        connection.close().map_err(|(_, error)| {
            Failure::new(format!("closing {}: {error}", self.share.facet(ordinal).name()))
        })
    }
}

impl<O: Opener> Client for Pool<O> {
    fn drive(&mut self, load: &mut Load<'_>) -> Result<()> {
        while let Some((request, started)) = load.next() {
            let reply = self.serve(&request)?;
            load.done(&request, started, reply);
            if let Request::ReadCold(facet) = request {
                let ordinal = self.share.ordinal(facet);
                if let Some(connection) = self.open.remove(&ordinal) {
                    self.close(ordinal, connection)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Gauge, Plan};
    use crate::sql::copy_database;
    use crate::workload::{Tally, Texts, TurnSource, Work};
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    struct Files(PathBuf);

    impl Opener for Files {
        fn create(&self, facet: FacetIndex) -> Result<Connection> {
            let connection = self.open(facet)?;
            Statements::choose(Work::AGENTS, false).create_tables(&connection).unwrap();
            Ok(connection)
        }

        fn open(&self, facet: FacetIndex) -> Result<Connection> {
            Ok(Connection::open(self.0.join(facet.name())).unwrap())
        }

        fn fork(&self, facet: FacetIndex, open: &Connection) -> Result<Option<Connection>> {
            let mut fork = Connection::open(self.0.join(facet.fork_name())).unwrap();
            copy_database(open, &mut fork).unwrap();
            Ok(None)
        }

        fn delete_fork(&self, facet: FacetIndex) -> Result<()> {
            std::fs::remove_file(self.0.join(facet.fork_name())).unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_pool_that_may_hold_two_connections_loses_no_turn_of_ten_databases() {
        let directory = tempfile::tempdir().unwrap();
        let share = Share { client: 0, clients: 1, facets: 10 };
        let open_in_arm = Arc::new(AtomicUsize::new(0));
        let opener = Files(directory.path().to_owned());
        let mut pool = Pool::new(
            opener,
            Statements::choose(Work::AGENTS, false),
            share,
            2,
            Arc::clone(&open_in_arm),
        );
        let mut source = TurnSource::new(Texts::leak(1), Work::AGENTS, 1, 0);
        let mut tallies = vec![Tally::default(); 10];
        let gauge = Gauge::default();
        let for_a_while = || Plan::TurnsUntil(Instant::now() + Duration::from_millis(300));
        let plans: [&dyn Fn() -> Plan; 8] = [
            &|| Plan::CreateEach,
            &for_a_while,
            &|| Plan::TouchEach,
            &|| Plan::CountEach,
            &|| Plan::ReadColdSample(5),
            &|| Plan::CheckIntegritySample(5),
            &|| Plan::ForkSample(5),
            &|| Plan::DeleteForksSample(5),
        ];
        for plan in plans {
            let plan = plan();
            let mut load = Load::new(plan, share, &mut source, &mut tallies, &gauge);
            pool.drive(&mut load).unwrap();
            assert!(load.outcome.completed > 0);
            assert_eq!(load.outcome.faults, [], "{plan:?}");
            assert!(open_in_arm.load(Ordering::Relaxed) <= 2, "{plan:?}");
        }
        assert!(tallies.iter().map(|tally| tally.turns).sum::<u64>() > 0);
    }
}
