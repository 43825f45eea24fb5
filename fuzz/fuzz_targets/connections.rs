//! Several connections to one facet in any interleaving, against a model.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lapidary_tests::fuzz_bodies::connections(input));
