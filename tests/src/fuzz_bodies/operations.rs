//! The lives of a store, decided by a fuzzer.

use crate::chance::Chance;
use crate::world::{Pace, several_lives};

/// Takes the input as decisions about the lives of a store: operations, crashes, errors.
pub fn operations(input: &[u8]) {
    let mut chance = Chance::from_bytes(input);
    let lives = chance.between(1, 4);
    if let Err(failure) = several_lives(0, chance, lives, Pace::LONG) {
        panic!("{failure}");
    }
}
