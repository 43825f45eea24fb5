//! Damages the files of a store, opens it and reads everything.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::recovery(input));
