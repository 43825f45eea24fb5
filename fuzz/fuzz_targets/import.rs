//! Imports any bytes as a SQLite file.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::import(input));
