//! The VFS as its users meet it: real SQLite on real stores.

#![allow(clippy::unwrap_used, reason = "how a test fails")]

mod adapter;
mod backup;
mod cache;
mod collecting;
mod concurrency;
mod durability;
mod fetch;
mod fixture;
mod groups;
mod history;
mod interrupt;
mod modes;
mod names;
mod path_vfs;
mod quota;
mod refusals;
mod root_hash;
mod transactions;
mod watch;
