//! What is done to the files of a store.

use lapidary_engine::FileName;

use super::places::Places;
use crate::chance::Chance;
use crate::image::Image;

const BLOCK: usize = 4096;

/// Damage to the files of a store.
#[derive(Clone, Debug)]
pub struct Harm {
    /// What was done, for people.
    pub words: Vec<String>,
    /// The bytes that are not what they were.
    pub changed: Places,
    /// Whether a file was cut or is gone.
    pub shortens: bool,
    /// Whether bytes were brought to where they do not belong.
    pub moves: bool,
}

/// Where damage is done.
#[derive(Clone, Debug)]
pub enum Aim<'a> {
    /// Anywhere.
    Anywhere,
    /// At one of these places.
    At(&'a Places),
}

impl Harm {
    /// Damages `image`, once to three times.
    pub fn inflict(image: &mut Image, aim: &Aim<'_>, chance: &mut Chance) -> Self {
        let before = image.clone();
        let mut harm =
            Self { words: Vec::new(), changed: Places::default(), shortens: false, moves: false };
        let times = if chance.one_in(3) { chance.between(2, 3) } else { 1 };
        for _ in 0..times {
            harm.once(image, aim, chance);
        }
        harm.changed = Places::differing(&before, image);
        harm
    }

    fn once(&mut self, image: &mut Image, aim: &Aim<'_>, chance: &mut Chance) {
        let Some((file, at)) = target(image, aim, chance) else { return };
        let kind = chance.below(16);
        if kind == 15 && image.len() > 1 {
            image.remove(&file);
            self.shortens = true;
            self.words.push(format!("{file} removed"));
            return;
        }
        let length = image[&file].len();
        let wanted = match chance.below(4) {
            0 => chance.between(1, 16),
            1 => 512,
            2 => BLOCK as u32,
            _ => chance.between(1, 3 * BLOCK as u32),
        } as usize;
        // Sectors and blocks are lost whole.
        let start = if wanted.is_multiple_of(512) { at / wanted * wanted } else { at };
        let range = start..length.min(start + wanted);
        match kind {
            0..6 => {
                let flips = if chance.one_in(3) { chance.between(2, 20) } else { 1 };
                let bytes = image.entry(file).or_default();
                for _ in 0..flips {
                    let place = range.start + chance.index(range.len());
                    let place = if flips == 1 { at } else { place };
                    bytes[place] ^= 1 << chance.below(8);
                    self.words.push(format!("{file}: a bit flipped at {place}"));
                }
            }
            6..9 => {
                let byte = if chance.one_in(3) { chance.below(256) as u8 } else { 0 };
                self.words.push(format!("{file}: {range:?} filled with {byte:#04x}"));
                image.entry(file).or_default()[range].fill(byte);
            }
            9..11 => {
                let mut noise = chance.split();
                self.words.push(format!("{file}: {range:?} filled with noise"));
                let bytes = &mut image.entry(file).or_default()[range];
                bytes.fill_with(|| noise.below(256) as u8);
            }
            11..14 => {
                // Of the same alignment, so that what is moved can be taken for what belongs there.
                let Some((other_file, other)) = target(image, &Aim::Anywhere, chance) else {
                    return;
                };
                let other_length = image[&other_file].len();
                let mut from = other / wanted * wanted;
                if !wanted.is_multiple_of(512) {
                    from = other;
                }
                let count = range.len().min(other_length.saturating_sub(from));
                let here = image[&file][start..start + count].to_vec();
                let there = image[&other_file][from..from + count].to_vec();
                let swapped = chance.one_in(2);
                let verb = if swapped { "swapped with" } else { "overwritten by" };
                self.words.push(format!(
                    "{file}: {count} bytes at {start} {verb} {other_file} at {from}"
                ));
                image.entry(file).or_default()[start..start + count].copy_from_slice(&there);
                if swapped {
                    image.entry(other_file).or_default()[from..from + count].copy_from_slice(&here);
                }
                self.moves = true;
            }
            _ => {
                let cut = if chance.one_in(4) { chance.pick(&[0, 1, BLOCK]) } else { at };
                let cut = cut.min(length);
                image.entry(file).or_default().truncate(cut);
                self.shortens |= cut < length;
                self.words.push(format!("{file} cut to {cut} bytes"));
            }
        }
    }
}

/// A byte that there is.
fn target(image: &Image, aim: &Aim<'_>, chance: &mut Chance) -> Option<(FileName, usize)> {
    if let Aim::At(places) = aim {
        let ranges: Vec<_> = places.ranges().collect();
        if !ranges.is_empty() {
            let (file, start, end) = ranges[chance.index(ranges.len())];
            let at = start as usize + chance.index((end - start) as usize);
            if image.get(&file).is_some_and(|bytes| at < bytes.len()) {
                return Some((file, at));
            }
        }
    }
    let files: Vec<FileName> =
        image.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(file, _)| *file).collect();
    if files.is_empty() {
        return None;
    }
    let file = files[chance.index(files.len())];
    let length = image[&file].len();
    // The beginnings of files say the most.
    let within = if chance.one_in(4) { length.min(BLOCK) } else { length };
    Some((file, chance.index(within)))
}
