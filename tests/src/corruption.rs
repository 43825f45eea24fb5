//! Stores that are damaged at random, and what may come of it.
//!
//! A *specimen* is a store that seeded operations left behind: facets with SQLite databases in them, forks,
//! histories, checkpoints, cleaned segments. Its files are damaged, and everything is read through SQL. What
//! may come of it depends on which bytes the damage changed:
//!
//! - *Shared* are the bytes that opening the undamaged store reads: the superblock, the checkpoint's root,
//!   the catalog and what else the root leads to, headers, the log from the replay position on, and the page
//!   maps of the facets in it. If none
//!   of them changed and no file was cut or is gone, the store opens. Else it may be refused, with an error
//!   that names a damaged file, and nothing is lost: with the damaged bytes as they were, all is there.
//! - A facet's *own* are the bytes that reading it whole in the undamaged store reads besides. If none of
//!   them changed and the store opens, the facet has all its rows. Else it may be refused: with a code that
//!   means damage below SQLite, and words that name the facet or the file. It never has a row that it did
//!   not have, and never shows SQLite a damaged page (`SQLITE_CORRUPT`).
//! - What comes back is the newest state. An older one may only if the damage reaches every batch after it,
//!   and no superblock written later vouches for them: then the log ends there, as far as anybody can tell.
//!   Damage to the last batch alone must be taken for a torn write, not for corruption.
//!
//! Then the store is written to, verified, cleaned, closed and opened again, and all of this holds as before.

mod examine;
mod harm;
mod places;
mod read;
mod specimen;

pub use examine::{Outcome, examine};
pub use harm::{Aim, Harm};
pub use places::Places;
pub use specimen::Specimen;
