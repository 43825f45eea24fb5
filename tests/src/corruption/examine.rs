//! What may come of damage, and what may not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lapidary_engine::{
    Environment, Error, ErrorKind, PageNo, PosixIo, SalvageSink, Salvaged, Store, StoreOptions,
};
use lapidary_vfs::Registration;

use super::harm::Harm;
use super::places::Places;
use super::read::{Read, Reader, Refusal, Rows, read};
use super::specimen::{Specimen, is_refusal, register, write};
use crate::chance::Chance;
use crate::image::{Image, image_of, put_image};
use crate::sim_environment::environment;

/// What came of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The store is refused.
    Refused,
    /// It opens, and some of its facets, or of their past, are refused.
    Contained,
    /// It opens with what it had before the last batches, which cannot be told from torn writes.
    Torn,
    /// Everything is there.
    Harmless,
}

/// Opens the store of `specimen` with its files as in `image`, damaged as `harm` says, reads everything, goes on
/// writing, and opens it again. In `directory`, if there is one, with pages read in place; else in
/// memory.
///
/// # Errors
/// What came of it that must not.
pub fn examine(
    specimen: &Specimen,
    image: &Image,
    harm: &Harm,
    directory: Option<&Path>,
    chance: &mut Chance,
) -> Result<Outcome, String> {
    let examination = Examination { specimen, harm, in_place: directory.is_some() };
    let open = examination.opener(image, directory);
    let store = match open() {
        Ok((store, _)) => store,
        Err((error, left)) => return examination.refused(&error, &left, image, &open),
    };
    if harm.changed.is_empty() && examination.specimen.oldest_state(&harm.changed) == 0 {
        return Err("nothing was damaged, yet anything may come back".into());
    }
    let registration = register(store);
    let mut found = examination.read_all(&registration)?;
    let outcome = found.outcome;
    examination.go_on(&registration, &mut found, chance)?;
    let closed = registration.store().close();
    drop(registration);
    if let Err(error) = closed {
        examination.expect_damage("closing", &error)?;
    }
    let (store, _) = open().map_err(|(error, _)| {
        format!("it opened with the damage, was written to, and then no longer: {error}")
    })?;
    examination.read_again(&register(store), &found)?;
    Ok(outcome)
}

type Opened = Result<(Arc<Store>, ()), (Error, Image)>;

struct Examination<'a> {
    specimen: &'a Specimen,
    harm: &'a Harm,
    in_place: bool,
}

/// What reading everything gave.
struct Found {
    outcome: Outcome,
    /// Rows of what was read whole.
    whole: BTreeMap<Reader, Rows>,
    /// What was refused.
    refused: Vec<Reader>,
}

impl Examination<'_> {
    /// Opens the store, each time where the last time left it.
    fn opener<'o>(
        &'o self,
        image: &Image,
        directory: Option<&'o Path>,
    ) -> impl Fn() -> Opened + 'o {
        // The same clock either way, since it decides what is kept of the past.
        let seed = self.specimen.world.seed;
        let environment: Environment = match directory {
            Some(directory) => {
                put_image(&PosixIo::new(directory), image);
                environment(Arc::new(PosixIo::new(directory)), seed)
            }
            None => environment(Arc::new(Specimen::disk_with(image)), seed),
        };
        move || {
            let options = StoreOptions { create: false, ..self.specimen.world.options.clone() };
            let store = Store::open(environment.clone(), options);
            store.map(|store| (store, ())).map_err(|error| (error, files_of(&environment)))
        }
    }

    /// The store is refused: is that allowed, is it said well, and is everything left as it is?
    fn refused(
        &self,
        error: &Error,
        left: &Image,
        image: &Image,
        again: &dyn Fn() -> Opened,
    ) -> Result<Outcome, String> {
        let Harm { changed, shortens, moves, .. } = self.harm;
        if !is_refusal(error, self.harm) {
            return Err(format!(
                "refused as {:?}, naming none of the damaged files: {error}",
                error.kind()
            ));
        }
        if !shortens && !changed.touch(&self.specimen.shared) {
            return Err(format!("refused, though all that is shared is as it was: {error}"));
        }
        let torn = self.specimen.last_batch.as_ref();
        if !shortens && !moves && torn.is_some_and(|last| changed.lie_within(last)) {
            return Err(format!("a torn last batch is taken for corruption: {error}"));
        }
        match again() {
            Err((second, _)) if second.to_string() == error.to_string() => {}
            Err((second, _)) => return Err(format!("refused: {error}; then otherwise: {second}")),
            Ok(_) => return Err(format!("refused: {error}; then it opened")),
        }
        self.salvage(image)?;
        self.repaired(left)?;
        Ok(Outcome::Refused)
    }

    /// Where opening `damaged` was refused nothing is lost: with the damaged bytes as they were, all is there.
    fn repaired(&self, left: &Image) -> Result<(), String> {
        let mut image = left.clone();
        for (file, start, end) in self.harm.changed.ranges() {
            let Some(whole) = self.specimen.image.get(&file) else { continue };
            let bytes = image.entry(file).or_default();
            bytes.resize(whole.len(), 0);
            let range = start as usize..end as usize;
            bytes[range.clone()].copy_from_slice(&whole[range]);
        }
        let harm = Harm { changed: Places::default(), ..self.harm.clone() };
        let repaired = Examination { harm: &harm, ..*self };
        let (store, ()) = repaired.opener(&image, None)()
            .map_err(|(error, _)| format!("refused, and with the damage undone: {error}"))?;
        let found = repaired.read_all(&register(store))?;
        if found.refused.is_empty() { Ok(()) } else { Err(format!("lost: {:?}", found.refused)) }
    }

    /// Salvage comes to an end and changes nothing.
    fn salvage(&self, image: &Image) -> Result<(), String> {
        let disk = Specimen::disk_with(image);
        let environment = environment(Arc::new(disk.clone()), self.specimen.world.seed);
        match Store::salvage(environment, &mut CountingSink::default()) {
            Ok(report) if report.refused.is_none() => {
                Err("it is refused, and salvage opens it".into())
            }
            Ok(_) => Ok(()),
            Err(Error::NotAStore { .. } | Error::FormatTooNew { .. } | Error::Missing { .. }) => {
                Ok(())
            }
            Err(error) => Err(format!("salvage fails: {error}")),
        }?;
        let left = Places::differing(image, &files_on(&disk));
        if left.is_empty() { Ok(()) } else { Err(format!("salvage changed {left:?}")) }
    }

    fn expect_damage(&self, what: &str, error: &Error) -> Result<(), String> {
        let words = error.to_string();
        let names = words.contains("segments/") || words.contains("SUPERBLOCK");
        match error.kind() {
            ErrorKind::Corruption if names => Ok(()),
            // A file that ends too early, or is gone.
            ErrorKind::Io if names && self.harm.shortens => Ok(()),
            kind => Err(format!("{what} fails as {kind:?}: {error}")),
        }
    }

    /// Whether `reader` may be refused like this.
    fn expect_refusal(
        &self,
        reader: &Reader,
        rolled_back: bool,
        refusal: &Refusal,
    ) -> Result<(), String> {
        if reader.at.is_some() && rolled_back && refusal.is_of_the_past() {
            return Ok(());
        }
        if !self.harm.changed.touch(&self.specimen.own[reader])
            && !self.harm.changed.touch(&self.specimen.shared)
        {
            return Err(format!(
                "{reader:?} is refused, though its bytes are as they were: {refusal:?}"
            ));
        }
        if refusal.is_of_damage(&reader.facet) {
            return Ok(());
        }
        Err(format!("{reader:?} is refused like this: {refusal:?}"))
    }

    /// Reads every facet and every version of the past that was there.
    fn read_all(&self, registration: &Registration) -> Result<Found, String> {
        let specimen = self.specimen;
        let newest = specimen.states.len() - 1;
        let listed = registration.store().list_facets(None, None, usize::MAX);
        let listed = listed.map_err(|error| format!("facets cannot be listed: {error}"))?;
        let mut whole = BTreeMap::new();
        let mut refused = Vec::new();
        let mut refusals = Vec::new();
        let present: Vec<String> = listed.iter().map(|facet| facet.name.to_string()).collect();
        let newest_readers = present.iter().map(|facet| Reader { facet: facet.clone(), at: None });
        for reader in newest_readers.chain(specimen.past.keys().cloned()) {
            match read(registration, &reader, self.in_place)
                .map_err(|e| format!("{reader:?}: {e}"))?
            {
                Read::Rows(rows) => {
                    whole.insert(reader, rows);
                }
                Read::Refused(rows, refusal) => {
                    // A version that came after all that is there is refused, and nothing is damaged.
                    if reader.at.is_none() || !refusal.is_of_the_past() {
                        refused.push(reader.clone());
                    }
                    refusals.push((reader, rows, refusal));
                }
            }
        }
        // One state must explain everything.
        let explains = |state: usize| -> Result<(), String> {
            let expected = &specimen.states[state];
            if !expected.keys().eq(present.iter()) {
                return Err(format!("facets {present:?} where {:?} were", expected.keys()));
            }
            for (reader, rows) in &whole {
                let expected = specimen.rows_of(reader, state).unwrap_or_default();
                if *rows != *expected {
                    return Err(format!(
                        "{reader:?} has other rows: {}",
                        difference(rows, &expected)
                    ));
                }
            }
            for (reader, rows, refusal) in &refusals {
                let expected = specimen.rows_of(reader, state).unwrap_or_default();
                if !rows.iter().zip(expected.iter()).all(|(one, other)| one == other) {
                    let words = difference(rows, &expected);
                    return Err(format!(
                        "{reader:?} had other rows before it was refused: {words}"
                    ));
                }
                if specimen.own.contains_key(reader) {
                    self.expect_refusal(reader, state < newest, refusal)?;
                } else if !refusal.is_of_damage(&reader.facet) {
                    return Err(format!("{reader:?} is refused like this: {refusal:?}"));
                }
            }
            Ok(())
        };
        let oldest = specimen.oldest_state(&self.harm.changed);
        let mut why = String::new();
        for state in (oldest..=newest).rev() {
            match explains(state) {
                Ok(()) => {
                    let outcome = match (
                        refused.is_empty(),
                        specimen.states[state] == specimen.states[newest],
                    ) {
                        (_, false) => Outcome::Torn,
                        (false, true) => Outcome::Contained,
                        (true, true) => Outcome::Harmless,
                    };
                    return Ok(Found { outcome, whole, refused });
                }
                Err(reason) if why.is_empty() => why = reason,
                Err(_) => {}
            }
        }
        Err(format!("{why} ({} states might have come back)", newest - oldest + 1))
    }

    /// Writes to every facet, verifies, takes checkpoints and cleans.
    fn go_on(
        &self,
        registration: &Registration,
        found: &mut Found,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let store = registration.store();
        let report = store.verify(&mut |_| ());
        match &report {
            Ok(report) if report.is_clean() && !found.refused.is_empty() => {
                return Err(format!("verify finds nothing, and {:?} are refused", found.refused));
            }
            Ok(_) => {}
            Err(error) => self.expect_damage("verify", error)?,
        }
        let names: Vec<Reader> =
            found.whole.keys().filter(|reader| reader.at.is_none()).cloned().collect();
        for reader in names {
            let rows = found.whole[&reader].clone();
            match write(registration, &reader.facet, rows, chance) {
                Ok(rows) => {
                    found.whole.insert(reader, rows);
                }
                Err(error) => {
                    return Err(format!(
                        "{reader:?} reads whole and cannot be written: {:?}",
                        Refusal::of(&error)
                    ));
                }
            }
        }
        for reader in found.refused.iter().filter(|reader| reader.at.is_none()) {
            // Who writes to a damaged facet may have luck; what is read then is not known.
            if let Err(error) = write(registration, &reader.facet, Rows::new(), chance) {
                let refusal = Refusal::of(&error);
                if !refusal.is_of_damage(&reader.facet) {
                    return Err(format!("writing to {reader:?}, which is damaged: {refusal:?}"));
                }
            }
        }
        for _ in 0..2 {
            if let Err(error) = store.checkpoint() {
                self.expect_damage("a checkpoint", &error)?;
            }
            if let Err(error) = store.clean() {
                self.expect_damage("cleaning", &error)?;
            }
        }
        Ok(())
    }

    /// What could be read before still can.
    fn read_again(&self, registration: &Registration, found: &Found) -> Result<(), String> {
        for (reader, expected) in &found.whole {
            match read(registration, reader, self.in_place)
                .map_err(|e| format!("{reader:?}: {e}"))?
            {
                Read::Rows(rows) if rows == *expected => {}
                Read::Rows(rows) => {
                    return Err(format!("{reader:?}, gone on: {}", difference(&rows, expected)));
                }
                Read::Refused(_, refusal) if reader.at.is_some() && refusal.is_of_the_past() => {}
                Read::Refused(_, refusal) => {
                    return Err(format!(
                        "{reader:?} could be read, and then no longer: {refusal:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn difference(found: &Rows, expected: &Rows) -> String {
    let key = found.keys().chain(expected.keys()).find(|key| found.get(key) != expected.get(key));
    let show = |rows: &Rows| {
        let value = key.and_then(|key| rows.get(key));
        value.map(|value| {
            (value.len(), String::from_utf8_lossy(&value[..value.len().min(24)]).into_owned())
        })
    };
    format!("row {key:?} is {:?} where {:?} was written", show(found), show(expected))
}

fn files_of(environment: &Environment) -> Image {
    let present = environment.io.inspect();
    match present {
        Ok(lapidary_engine::DirectoryState::Store) => image_of(&*environment.io),
        _ => segments_of(&*environment.io),
    }
}

fn files_on(disk: &crate::sim_disk::SimDisk) -> Image {
    disk.files().into_iter().filter_map(|file| Some((file, disk.contents(file)?))).collect()
}

/// The files of a store without a superblock.
fn segments_of(io: &dyn lapidary_engine::Io) -> Image {
    let segments = io.list_segments().unwrap_or_default();
    let read = |number| {
        let name = lapidary_engine::FileName::Segment(number);
        let file = io.open(name).ok()?;
        let mut bytes = vec![0; file.len().ok()? as usize];
        file.read_at(0, &mut bytes).ok()?;
        Some((name, bytes))
    };
    segments.into_iter().filter_map(read).collect()
}

#[derive(Default)]
struct CountingSink {
    pages: u64,
}

impl SalvageSink for CountingSink {
    fn begin(&mut self, _facet: &Salvaged) -> std::io::Result<()> {
        Ok(())
    }

    fn page(&mut self, _page: PageNo, image: &[u8]) -> std::io::Result<()> {
        self.pages += u64::from(!image.is_empty());
        Ok(())
    }

    fn end(&mut self, _facet: &Salvaged) -> std::io::Result<()> {
        Ok(())
    }
}
