//! Calls the VFS in any order, on several handles of a file, against a model.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::vfs_calls(input));
