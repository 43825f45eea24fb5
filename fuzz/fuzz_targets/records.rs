//! Changes records of a store and seals everything around them, opens it and reads everything.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::records(input));
