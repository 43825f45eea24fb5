//! The files of a store as text: what golden tests keep in the repository.
//!
//! A line `file NAME LENGTH` begins a file. Its bytes follow, those that are not zero: lines
//! `OFFSET: HEX` of up to 32 bytes, or `OFFSET: BYTE * COUNT` where one byte is repeated. Offsets,
//! lengths and counts are decimal, bytes hexadecimal. Lines that begin with `#` are comments.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lapidary_engine::{FileName, FileNo, Io};

/// What all files of a store hold.
pub type Image = BTreeMap<FileName, Vec<u8>>;

const LINE_BYTES: usize = 32;
/// Fewer equal bytes than this are written out.
const RUN_BYTES_MIN: usize = 24;

/// The files of a store.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn image_of(io: &dyn Io) -> Image {
    let segments = io.list_segments().expect("segments can be listed");
    let names = segments.into_iter().map(FileName::Segment).chain([FileName::Superblock]);
    let read = |name| {
        let file = io.open(name).expect("a listed file opens");
        let mut content = vec![0; file.len().expect("a file has a length") as usize];
        file.read_at(0, &mut content).expect("a file can be read");
        (name, content)
    };
    names.map(read).collect()
}

/// Writes the files of a store.
///
/// # Panics
/// If they cannot be written.
pub fn put_image(io: &dyn Io, image: &Image) {
    io.create_directory().expect("the directory can be made");
    for (&name, content) in image {
        let file = io.create(name).expect("a file can be made");
        file.write_at(0, content).expect("a file can be written");
    }
}

/// The image as text.
#[must_use]
pub fn to_text(image: &Image) -> String {
    let mut text = String::new();
    for (name, bytes) in image {
        let _ = writeln!(text, "file {name} {}", bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let run = run_at(bytes, at);
            if run >= RUN_BYTES_MIN || bytes[at..at + run].iter().all(|&byte| byte == 0) {
                if bytes[at] != 0 {
                    let _ = writeln!(text, "{at}: {:02x} * {run}", bytes[at]);
                }
                at += run;
                continue;
            }
            let start = at;
            while at < bytes.len() && at - start < LINE_BYTES {
                let run = run_at(bytes, at);
                let is_long = run >= RUN_BYTES_MIN || (run > 8 && bytes[at] == 0);
                if is_long {
                    break;
                }
                at = (at + run).min(start + LINE_BYTES);
            }
            let _ = write!(text, "{start}: ");
            for byte in &bytes[start..at] {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
    }
    text
}

/// Bytes from `at` on that are equal.
fn run_at(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take_while(|&&byte| byte == bytes[at]).count()
}

/// The image that a text tells of.
///
/// # Errors
/// The line that makes no sense.
pub fn from_text(text: &str) -> Result<Image, String> {
    let mut image = Image::new();
    let mut current: Option<FileName> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let parsed = parse_line(line, &mut image, &mut current);
        parsed.ok_or_else(|| format!("this line makes no sense: {line}"))?;
    }
    Ok(image)
}

fn parse_line(line: &str, image: &mut Image, current: &mut Option<FileName>) -> Option<()> {
    if let Some(rest) = line.strip_prefix("file ") {
        let (name, length) = rest.split_once(' ')?;
        let name = parse_name(name)?;
        image.insert(name, vec![0; length.parse().ok()?]);
        *current = Some(name);
        return Some(());
    }
    let content = image.get_mut(current.as_ref()?)?;
    let (at, bytes) = line.split_once(": ")?;
    let at: usize = at.parse().ok()?;
    let bytes = match bytes.split_once(" * ") {
        Some((byte, count)) => vec![u8::from_str_radix(byte, 16).ok()?; count.parse().ok()?],
        None => {
            let pairs = (0..bytes.len()).step_by(2).map(|at| bytes.get(at..at + 2));
            pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<u8>>>()?
        }
    };
    content.get_mut(at..at + bytes.len())?.copy_from_slice(&bytes);
    Some(())
}

fn parse_name(text: &str) -> Option<FileName> {
    if text == FileName::Superblock.to_string() {
        return Some(FileName::Superblock);
    }
    let number = text.strip_prefix("segments/")?.strip_suffix(".seg")?;
    let name = FileName::Segment(FileNo(number.parse().ok()?));
    (name.to_string() == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn an_image_comes_back_from_its_text() {
        let mut chance = Chance::from_seed(1);
        for _ in 0..50 {
            let mut image = Image::new();
            for name in [FileName::Superblock, FileName::Segment(FileNo(12))] {
                let mut bytes = Vec::new();
                for _ in 0..chance.below(20) {
                    let byte = chance.pick(&[0, 0, 7, 255]);
                    let length = chance.below(60) as usize;
                    bytes.extend(std::iter::repeat_n(byte, length));
                    bytes.extend((0..chance.below(5)).map(|n| n as u8));
                }
                image.insert(name, bytes);
            }
            assert_eq!(from_text(&to_text(&image)).unwrap(), image);
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for bad in ["0: 00", "file x 3", "file SUPERBLOCK 2\n1: 0102", "file SUPERBLOCK 2\n0: 0"] {
            assert!(from_text(bad).is_err(), "{bad}");
        }
    }
}
