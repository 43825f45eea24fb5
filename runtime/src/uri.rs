//! Facets as SQLite's URIs name them.

use std::fmt::Write as _;

use lapidary_engine::{Bookmark, FacetName};

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
        let mut uri = uri(&self.name);
        let vfs = self.target.host.registration.name();
        // Writing to a string does not fail.
        let _ = write!(uri, "?vfs={vfs}");
        if let Some(bookmark) = at {
            let _ = write!(uri, "&at={bookmark}");
        }
        uri
    }
}

/// The name as SQLite's URI. Names are never passed as they are: SQLite may be built to take any
/// that starts with `file:` for a URI, so that the facet `file:a` would open the facet `a`.
pub(crate) fn uri(name: &FacetName) -> String {
    let mut uri = String::with_capacity(name.as_str().len() + 8);
    uri.push_str("file:");
    for byte in name.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::uri;
    use lapidary_engine::FacetName;

    #[test]
    fn names_are_escaped() {
        let name = FacetName::new("file:a/b?c#d%41 é").unwrap();
        assert_eq!(uri(&name), "file:file%3Aa/b%3Fc%23d%2541%20%C3%A9");
    }
}
