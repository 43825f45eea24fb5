//! A connection of the host's own, from its opening to its end.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use lapidary_engine::Facet;
use lapidary_vfs::close_connection;
use rusqlite::Connection;
use tracing::debug_span;

/// A connection to a facet that is closed when it is dropped, whatever closures have left on it.
pub(crate) struct FacetConnection {
    /// There until it is dropped.
    connection: Option<Connection>,
    facet: Arc<Facet>,
}

impl FacetConnection {
    pub(crate) fn new(connection: Connection, facet: Arc<Facet>) -> Self {
        Self { connection: Some(connection), facet }
    }

    pub(crate) fn facet(&self) -> &Arc<Facet> {
        &self.facet
    }
}

impl Deref for FacetConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a connection is there until it is dropped")
    }
}

impl DerefMut for FacetConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a connection is there until it is dropped")
    }
}

impl Drop for FacetConnection {
    fn drop(&mut self) {
        let _span = debug_span!("close", facet = %self.facet.name()).entered();
        // A plain close would fail, and the connection would keep the facet's lock.
        if let Some(connection) = self.connection.take()
            && !close_connection(connection)
        {
            let facet = self.facet.name();
            tracing::warn!(%facet, "a closure has forgotten a statement: its connection's memory is lost");
        }
    }
}
