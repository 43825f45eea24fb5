//! Where tests that measure keep their bucket, and how large they are.

use std::env;
use std::path::Path;

/// The number in an environment variable, or else `default`.
///
/// # Panics
/// If it is no number.
#[must_use]
pub fn number(variable: &str, default: u64) -> u64 {
    let parsed =
        |value: String| value.parse().unwrap_or_else(|_| panic!("{variable}={value}: no number"));
    env::var(variable).map_or(default, parsed)
}

/// The address of an empty bucket: with the prefix `name` in the one of `LAPIDARY_S3_URL`, or else in `directory`.
#[must_use]
pub fn url(name: &str, directory: &Path) -> String {
    env::var("LAPIDARY_S3_URL").map_or_else(
        |_| format!("file://{}", directory.join("bucket").display()),
        |url| format!("{url}/{name}-{}", std::process::id()),
    )
}
