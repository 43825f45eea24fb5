//! Runs SQL of a stranger in a facet of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::untrusted_sql(input));
