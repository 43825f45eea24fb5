//! Scripts of SQLite's `sqllogictest` format, run on a facet and on stock SQLite.
//!
//! - [`script`]: records, read from a file.
//! - [`values`]: results as the format writes, sorts and hashes them.
//! - [`check`]: runs a script on both sides and says what differs: from the script, and one side
//!   from the other.
//!
//! The format is that of <https://www.sqlite.org/sqllogictest/doc/trunk/about.wiki>. A crate for
//! it exists; it speaks later dialects, in which a line is a row, and brings more dependencies than
//! the format has keywords.

pub mod check;
pub mod script;
pub mod values;
