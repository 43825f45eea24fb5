//! Runs a store through operations, crashes and I/O errors, against a reference model.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::operations(input));
