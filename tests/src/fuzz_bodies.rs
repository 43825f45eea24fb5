//! What the fuzz targets do with their input. The `fuzz` crate hands these to libFuzzer; a test
//! runs them on seeded inputs, and on the corpus.

mod connections;
mod import;
mod operations;
mod records;
mod recovery;
mod sealed;
mod superblock;
mod untrusted_sql;
mod vfs_calls;

pub use connections::connections;
pub use import::import;
pub use operations::operations;
pub use records::records;
pub use recovery::recovery;
pub use superblock::superblock;
pub use untrusted_sql::untrusted_sql;
pub use vfs_calls::vfs_calls;

/// A fuzz target's body.
pub type Body = fn(&[u8]);

/// Every target by its name, with the most bytes its inputs made from seeds have.
pub const TARGETS: [(&str, Body, u32); 8] = [
    ("connections", connections, 400),
    ("import", import, 200),
    ("operations", operations, 600),
    ("records", records, 80),
    ("recovery", recovery, 40),
    ("superblock", superblock, 80),
    ("untrusted_sql", untrusted_sql, 40),
    ("vfs_calls", vfs_calls, 500),
];
