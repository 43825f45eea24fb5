//! Names: which are facets, which are SQLite's own side files.
//!
//! SQLite derives the names of its side files from the database's: `NAME-journal`, `NAME-wal`,
//! `NAME-mjXXXXXX9XX` (super-journal). A facet may be called like that as well. The two never
//! meet, because the kind of file decides, not the name: a main database is looked for in the
//! catalog, a side file never is.

use lapidary_engine::{FacetName, NAME_BYTES_MAX};
use rusqlite::ffi as sqlite;

use crate::error::Failure;

/// Longest suffix SQLite appends: `-mj` and nine hexadecimal digits, with room to spare.
const SUFFIX_BYTES_MAX: usize = 64;

/// Longest name in bytes, with suffix. SQLite refuses to open a database whose journal's name
/// would be longer.
pub(crate) const PATH_BYTES_MAX: usize = NAME_BYTES_MAX + SUFFIX_BYTES_MAX;

/// Checks the name of a main database.
pub(crate) fn facet_name(name: &str) -> Result<FacetName, Failure> {
    FacetName::new(name).map_err(|error| Failure::new(sqlite::SQLITE_CANTOPEN, error.to_string()))
}

/// Why a name for which [`is_reserved`] holds is refused.
pub(crate) const RESERVED: &str =
    "SQLite keeps this name for databases in memory and would not ask the store; choose another";

/// Whether SQLite gives the name a meaning of its own, before any VFS learns of it. That is one
/// name: the empty one, which stands for a temporary database, is no facet's.
pub(crate) fn is_reserved(name: &FacetName) -> bool {
    name.as_str() == ":memory:"
}

/// Whether `name` is what SQLite calls a journal, a write-ahead log or a super-journal.
pub(crate) fn is_side_file(name: &str) -> bool {
    name.ends_with("-journal") || name.ends_with("-wal") || is_super_journal(name)
}

/// `%s-mj%06X9%02X`, as `vdbeCommit` in SQLite's `vdbeaux.c` makes them.
pub(crate) fn is_super_journal(name: &str) -> bool {
    let bytes = name.as_bytes();
    let Some(start) = bytes.len().checked_sub(12) else {
        return false;
    };
    let (dash, digits) = bytes[start..].split_at(3);
    dash == b"-mj" && digits[6] == b'9' && digits.iter().all(u8::is_ascii_hexdigit)
}

/// The URI that opens a facet, to which parameters may be added (`?vfs=…`), whatever is in its name.
///
/// A name had better not be passed as it is: SQLite may be built to take any that starts with `file:`
/// for a URI, so that the facet `file:a` would open the facet `a`.
///
/// ```
/// # use lapidary_engine::FacetName;
/// let name = FacetName::new("tenants/a & b?")?;
/// assert_eq!(lapidary_vfs::facet_uri(&name), "file:tenants/a%20%26%20b%3F");
/// # Ok::<(), lapidary_engine::Error>(())
/// ```
#[must_use]
pub fn facet_uri(name: &FacetName) -> String {
    use std::fmt::Write as _;
    let mut uri = String::with_capacity(name.as_str().len() + 8);
    uri.push_str("file:");
    for byte in name.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_files() {
        for name in ["a-journal", "a/b-wal", "a-mj00AF3C9D1", "-journal"] {
            assert!(is_side_file(name), "{name}");
        }
        for name in ["a", "journal", "a-journal2", "a-mj00AF3C8D1", "a-mjXXXXXX9XX", "-mj", "a-shm"]
        {
            assert!(!is_side_file(name), "{name}");
        }
    }

    #[test]
    fn uris_escape_what_they_treat_specially() {
        let uri = |name: &str| facet_uri(&FacetName::new(name).unwrap());
        assert_eq!(uri("tenants/a-1_x.y~z"), "file:tenants/a-1_x.y~z");
        assert_eq!(uri("a b?c#d%e&f=ü"), "file:a%20b%3Fc%23d%25e%26f%3D%C3%BC");
        assert_eq!(uri("file:a/b?c#d%41 é"), "file:file%3Aa/b%3Fc%23d%2541%20%C3%A9");
    }
}
