//! Damaged files of a store, opened and read.

use std::sync::OnceLock;

use lapidary_engine::{ErrorKind, FileName, Store};

use crate::chance::Chance;
use crate::content::Damage;
use crate::driver::{Driver, name};
use crate::failure::Failure;
use crate::model::Model;
use crate::sim_disk::SimDisk;
use crate::world::World;

/// A store with a checkpoint and a tail of log after it, and everything ever done to it.
pub(super) struct Specimen {
    pub(super) world: World,
    pub(super) disk: SimDisk,
    history: Model,
}

pub(super) fn specimen() -> &'static Specimen {
    static SPECIMEN: OnceLock<Specimen> = OnceLock::new();
    SPECIMEN.get_or_init(|| {
        let world = World::new(11);
        let disk = SimDisk::new(11);
        let store = world.open(&disk, true).expect("a store is created");
        let chance = Chance::from_seed(11);
        let mut driver = Driver::new(store, world.model(), disk.clone(), chance);
        let mut act = |act: &mut dyn FnMut(&mut Driver) -> Result<(), Failure>| {
            act(&mut driver).expect("nothing is wrong yet");
        };
        let names = ["a", "a/b", "c"].map(name);
        act(&mut |driver| names.iter().try_for_each(|name| driver.create_named(name).map(drop)));
        for round in 0..8 {
            for name in &names {
                act(&mut |driver| driver.commit_to(name, round == 2).map(drop));
            }
            act(&mut |driver| driver.store.flush().map_err(Failure::from));
            if round == 3 || round == 5 {
                act(&mut |driver| driver.store.checkpoint().map_err(Failure::from));
            }
        }
        // The driver's model never heard that anything is durable, so it still knows every state
        // the store was ever in, and damage may take it back to any of them.
        let history = driver.model.clone();
        drop(driver);
        Specimen { world, disk: disk.after_kill(), history }
    })
}

/// Reads everything of a store that damage may have reached.
fn check(history: &Model, store: &Store) {
    if let Err(difference) = history.check_damaged(store, Damage::Possible) {
        // A listing that cannot be read is refused as a whole.
        let refused = store
            .list_facets(None, None, usize::MAX)
            .is_err_and(|error| Damage::Possible.explains(&error));
        assert!(refused, "a damaged store shows what was never there: {difference}");
    }
}

/// Damages the files of a store as the input says, opens it and reads everything: it is refused as
/// damaged, or shows a state it once had, or says which pages are damaged.
///
/// Input: 8 bytes a change; they choose the file, what to do, where and with what.
pub fn recovery(input: &[u8]) {
    let specimen = specimen();
    let disk = specimen.disk.after_kill();
    let mut chance = Chance::from_bytes(input);
    let mut changes = 0;
    while !chance.is_spent() && changes < 64 {
        damage(&disk, &mut chance);
        changes += 1;
    }
    match specimen.world.open(&disk, false) {
        Ok(store) => {
            check(&specimen.history, &store);
            // Going on must not make it worse: what is there stays there.
            let written = store.flush().and_then(|()| store.checkpoint());
            if let Err(error) = written {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            }
            check(&specimen.history, &store);
        }
        Err(error) => assert!(
            matches!(
                error.kind(),
                ErrorKind::Corruption | ErrorKind::InvalidInput | ErrorKind::NotFound
            ),
            "refused as {:?}: {error}",
            error.kind()
        ),
    }
}

fn damage(disk: &SimDisk, chance: &mut Chance) {
    let files = disk.files();
    let file: FileName = files[chance.index(files.len())];
    let kind = chance.below(8);
    let (place, value) = (chance.below(u32::MAX) as usize, chance.below(256) as u8);
    disk.change(file, |bytes| {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        let at = place % length;
        let sector = at / 512 * 512;
        let sector_end = bytes.len().min(sector + 512);
        match kind {
            0 => bytes[at] = value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => bytes[sector..sector_end].fill(0),
            3 => bytes[sector..sector_end].fill(value),
            // Mostly the headers, where flips say the most.
            4 => bytes[at % length.min(256)] ^= 1 << (value % 8),
            // A misdirected write: one block over another.
            5 => {
                let blocks = bytes.len() / 4096;
                if blocks > 1 {
                    let from = usize::from(value) % blocks * 4096;
                    let to = at / 4096 % blocks * 4096;
                    bytes.copy_within(from..from + 4096, to);
                }
            }
            6 => bytes.truncate(at),
            _ => bytes.extend(std::iter::repeat_n(value, place % 8192)),
        }
    });
}
