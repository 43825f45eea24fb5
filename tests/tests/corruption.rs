//! The files of real stores are damaged at random: the store is refused with an error that names the file, or
//! the damage is contained in the facets concerned, or harmless. Never a wrong row, a panic, an endless
//! loop, or harm to a neighbour. What exactly must hold is at the top of `tests/src/corruption.rs`.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapidary_tests::chance::Chance;
use lapidary_tests::corruption::{Aim, Harm, Outcome, Specimen, examine};
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::watchdog::Watchdog;

/// Damage done to copies of one store.
const HARMS: u32 = 40;
/// A case takes a hundredth of a second.
const LIMIT: Duration = Duration::from_secs(180);

/// Panics of any thread, also those that the VFS turns into errors.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(info);
        }));
    });
}

/// Damages copies of the store of `seed`.
fn campaign(seed: u64, outcomes: &mut BTreeMap<Outcome, u64>) {
    let specimen = {
        let _watchdog = Watchdog::new(LIMIT, format!("building a store, seed {seed}"));
        Specimen::new(seed)
    };
    let mut chance = Chance::from_seed(!seed);
    for number in 0..HARMS {
        let mut chance = chance.split();
        let mut image = specimen.image.clone();
        let aim = match (&specimen.last_batch, chance.below(4)) {
            (Some(last), 0) => Aim::At(last),
            _ if chance.one_in(3) => Aim::At(&specimen.shared),
            _ => Aim::Anywhere,
        };
        let harm = Harm::inflict(&mut image, &aim, &mut chance);
        let directory = chance.one_in(4).then(|| tempfile::tempdir().unwrap());
        let path = directory.as_ref().map(|directory| directory.path().join("store"));
        let what = format!("damage number {number}: {}", harm.words.join(", "));
        let repeat = SIMULATION.replay(seed, "--test corruption damage_at_random");
        let _watchdog = Watchdog::new(LIMIT, format!("{what}\nto repeat: {repeat}"));
        let before = PANICS.load(Ordering::SeqCst);
        let result = catch_unwind(AssertUnwindSafe(|| {
            examine(&specimen, &image, &harm, path.as_deref(), &mut chance)
        }));
        let panics = PANICS.load(Ordering::SeqCst) - before;
        match result {
            Ok(Ok(outcome)) if panics == 0 => *outcomes.entry(outcome).or_default() += 1,
            Ok(Ok(_)) | Err(_) => panic!("{panics} panics: {what}\nto repeat: {repeat}"),
            Ok(Err(wrong)) => panic!("{wrong}\n{what}\nto repeat: {repeat}"),
        }
    }
}

/// Seeds that found something: a newest segment cut within its header block was taken for a file that was
/// never filled, and removed; opening a store that was then refused had written over a segment whose
/// header was zeroed.
const FOUND: [u64; 2] = [13467126889569341660, 15435583895230225404];

#[test]
fn damage_that_found_something() {
    count_panics();
    for seed in FOUND {
        campaign(seed, &mut BTreeMap::new());
    }
}

#[test]
fn damage_at_random() {
    count_panics();
    let seeds = SIMULATION.seeds(17);
    println!("{} seeds, the last one: {}", seeds.len(), seeds[seeds.len() - 1]);
    let mut outcomes = BTreeMap::new();
    for &seed in &seeds {
        campaign(seed, &mut outcomes);
    }
    println!("{outcomes:?}");
    if seeds.len() > 5 {
        for outcome in [Outcome::Refused, Outcome::Contained, Outcome::Torn, Outcome::Harmless] {
            let times = outcomes.get(&outcome).copied().unwrap_or_default();
            assert!(times >= 5, "{outcome:?} {times} times: the damage is too much of one kind");
        }
    }
}
