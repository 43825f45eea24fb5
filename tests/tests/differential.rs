//! The same generated SQL on stock SQLite and on facets: rows, errors with their codes and words,
//! counters, content, and at the end the pages themselves are the same. Where a facet is meant to
//! answer otherwise is listed in `src/differential/known.rs`, with the reason.
//!
//! ```sh
//! LAPIDARY_DIFF_CASES=100000 cargo test --release -p lapidary-tests --test differential
//! ```

use lapidary_tests::differential::arena::Arena;
use lapidary_tests::differential::case::Family;
use lapidary_tests::differential::generate::case;
use lapidary_tests::differential::shrink::shrink;
use lapidary_tests::seeds::DIFFERENTIAL;

/// Cases that share a store.
const BATCH: usize = 200;

fn run_seeds(new_arena: fn() -> Arena, family: Family, fixed: u64, test: &str) {
    for batch in DIFFERENTIAL.seeds(fixed).chunks(BATCH) {
        let mut arena = new_arena();
        for &seed in batch {
            let case = case(family, seed);
            if let Err(found) = arena.run(&case) {
                let (short, divergence) = shrink(new_arena, &case, found);
                panic!(
                    "stock SQLite and a facet differ:\n{}\n\n{short}\nto repeat: {}",
                    divergence.words,
                    DIFFERENTIAL.replay(seed, &format!("--test differential {test}"))
                );
            }
        }
        arena.verify().unwrap_or_else(|words| panic!("the store is damaged: {words}"));
    }
}

#[test]
fn one_connection() {
    run_seeds(Arena::new, Family::Alone, 900, "one_connection");
}

#[test]
fn interleaved_connections() {
    run_seeds(Arena::new, Family::Together, 600, "interleaved_connections");
}

/// Pages of settled segments are read in place, and those of stock SQLite's file.
#[test]
fn in_place() {
    run_seeds(Arena::in_place, Family::Alone, 300, "in_place");
}
