//! Changes the superblock of a store, with right and with wrong checksums, and opens it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::superblock(input));
