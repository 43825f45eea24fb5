//! What the benchmarks have in common: processes of their own, latencies, what the kernel says of a
//! process, what machine this is, numbers and tables in print. The programs are in `pack/`, `store/`,
//! `reads/` and `host/`.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "not published: for the programs of this package, and said where it is not plain"
)]

pub mod child;
pub mod failure;
pub mod latency;
pub mod machine;
pub mod numbers;
pub mod process;
pub mod sheet;
pub mod workplace;
