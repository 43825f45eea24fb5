//! Facets as SQLite's URIs name them.

use std::fmt::Write as _;

use lapidary_engine::Bookmark;
use lapidary_vfs::facet_uri;

use crate::facet::FacetHandle;

impl FacetHandle {
    /// The URI by which any connection of the process opens this facet, or the version of it that a
    /// bookmark names, read-only. Such a connection waits in COMMIT until it is durable, and has
    /// `ATTACH` and `VACUUM`; it cannot write while a core does, or has.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let acme = host.facet("tenants/acme & sons")?;
    /// acme.execute("CREATE TABLE t(x)", ()).wait()?;
    /// let plain = lapidary::rusqlite::Connection::open(acme.uri(None))?;
    /// plain.query_row("SELECT count(*) FROM t", (), |_| Ok(()))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn uri(&self, at: Option<Bookmark>) -> String {
        let mut uri = facet_uri(&self.name);
        let vfs = self.target.host.registration.name();
        // Writing to a string does not fail.
        let _ = write!(uri, "?vfs={vfs}");
        if let Some(bookmark) = at {
            let _ = write!(uri, "&at={bookmark}");
        }
        uri
    }
}
