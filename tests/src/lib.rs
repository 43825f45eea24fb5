//! Tools of Lapidary's tests: a simulated disk, a reference model of a store, and drivers that run
//! one against the other.
//!
//! - [`sim_disk`], [`sim_environment`]: the world a simulated store lives in; the fault model is at
//!   the top of the former.
//! - [`sim_bucket`], [`bucket_world`]: a bucket with a fault model of its own, and hosts on it.
//! - [`follower_world`]: hosts that follow, and what they may show.
//! - [`history_world`]: points of history in a bucket, and what they have to lead to.
//! - [`model`], [`content`]: what a store should hold.
//! - [`driver`]: random operations on a store, each answer compared with the model.
//! - [`world`]: crashes, recoveries and checks around a driver.
//! - [`hooks`]: a simulated disk that calls the test at a chosen write or sync.
//! - [`image`]: the files of a store as text.
//! - [`slt`]: scripts of the `sqllogictest` format.
//! - [`small_store`]: a store in memory for SQL to run on.
//! - [`failing_memory`]: an allocator for SQLite that fails when it is told to.
//! - [`corruption`]: stores that are damaged at random, and what may come of it.
//! - [`watchdog`]: an end for tests that do not end.
//! - [`turns`]: the load of the kill test.
//! - [`victim`]: processes that are killed, and what is in their stores.
//! - [`fuzz_bodies`]: what the fuzz targets do.
//! - [`differential`]: generated SQL on stock SQLite and on facets.
//! - [`chance`], [`seeds`]: where decisions come from, and how to repeat a run.
//! - [`real_bucket`]: where tests that measure keep their bucket.
#![allow(
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "test tools panic when the test is at fault, and count small things"
)]

pub mod bucket_world;
pub mod chance;
pub mod content;
pub mod corruption;
pub mod differential;
pub mod driver;
pub mod failing_memory;
pub mod failure;
pub mod follower_world;
pub mod fuzz_bodies;
pub mod history_world;
pub mod hooks;
pub mod image;
mod incarnations;
pub mod model;
pub mod real_bucket;
pub mod seeds;
pub mod sim_bucket;
pub mod sim_disk;
pub mod sim_environment;
pub mod slt;
pub mod small_store;
pub mod turns;
pub mod victim;
pub mod watchdog;
pub mod world;

/// The code of the documents, compiled and run.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/EMBEDDING.md")]
    struct Embedding;
    #[doc = include_str!("../../docs/MIGRATING.md")]
    struct Migrating;
    #[doc = include_str!("../../docs/BUCKET.md")]
    struct Bucket;
    #[doc = include_str!("../../docs/BACKUPS.md")]
    struct Backups;
    #[doc = include_str!("../../docs/TIME_TRAVEL.md")]
    struct TimeTravel;
    #[doc = include_str!("../../docs/QUOTAS.md")]
    struct Quotas;
    #[doc = include_str!("../../docs/TUNING.md")]
    struct Tuning;
    #[doc = include_str!("../../docs/MONITORING.md")]
    struct Monitoring;
    #[doc = include_str!("../../docs/BILLING.md")]
    struct Billing;
    #[doc = include_str!("../../docs/ERRORS.md")]
    struct Errors;
}
