//! A loadable extension for SQLite: any program that can load one opens facets of Lapidary stores.
//!
//! `docs/EXTENSION.md` says how it is used. It has no SQLite of its own: it calls that of the process
//! which loads it.
//!
//! | module | is |
//! |---|---|
//! | `ffi` | all unsafe code: the entry points; `list`, the table-valued function |
//! | `setup` | what is done once in a process |
//! | `functions` | SQL functions |

mod ffi;
mod functions;
mod setup;
