//! Generated SQL, run on stock SQLite and on facets: the same rows, the same errors, the same pages.
//!
//! - [`case`]: what is run; [`generate`]: what is made of a seed.
//! - [`outcome`]: what came of a statement; [`content`]: what a database holds at the end.
//! - [`pages`]: the bytes of two databases.
//! - [`known`]: where a facet is meant to answer otherwise.
//! - [`arena`]: both sides, side by side.
//! - [`shrink`]: a failing case with the steps left out that it does not need.

pub mod arena;
pub mod case;
pub mod content;
pub mod generate;
pub mod known;
pub mod outcome;
pub mod pages;
pub mod shrink;
mod tree_page;
