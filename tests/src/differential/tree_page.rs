//! What is read of a page of a b-tree.
//!
//! The layout is that of "Database File Format" in SQLite's documentation, section 1.6: a header of
//! 8 or 12 bytes, pointers to the cells, and from the end of the page towards them the cells, with
//! free blocks between. A cell begins with what its kind of page has of: the number of the page
//! below it, the length of its payload, its row id.

use std::ops::Range;

/// The parts of a page that mean something.
pub(super) struct TreePage {
    parts: Vec<Range<usize>>,
    /// The first page of each overflow chain that begins here, and how many bytes are in the chain.
    pub(super) overflows: Vec<(usize, usize)>,
}

/// What is in a cell, by the first byte of the page.
struct Kind {
    header_bytes: usize,
    has_child: bool,
    has_payload: bool,
    has_row_id: bool,
}

impl Kind {
    fn of(flag: u8) -> Option<Self> {
        let (header_bytes, has_child, has_payload, has_row_id) = match flag {
            2 => (12, true, true, false),
            5 => (12, true, false, true),
            10 => (8, false, true, false),
            13 => (8, false, true, true),
            _ => return None,
        };
        Some(Self { header_bytes, has_child, has_payload, has_row_id })
    }
}

impl TreePage {
    /// The parts of `page`, if it is one of a b-tree and in order. A page of an overflow chain is
    /// never taken for one: it begins with the number of another page, a byte of zeros in any
    /// database that is compared here.
    pub(super) fn of(page: &[u8], number: usize, usable_bytes: usize) -> Option<Self> {
        let header = if number == 1 { 100 } else { 0 };
        let kind = Kind::of(page[header])?;
        let pointers = header + kind.header_bytes;
        let count = short_at(page, header + 3)?;
        let mut tree = Self { parts: Vec::new(), overflows: Vec::new() };
        tree.parts.push(0..pointers + 2 * count);
        for index in 0..count {
            let cell = short_at(page, pointers + 2 * index)?;
            tree.cell(page, &kind, cell, usable_bytes)?;
        }
        let mut block = short_at(page, header + 1)?;
        while block > 0 {
            tree.parts.push(block..block + 4);
            let next = short_at(page, block)?;
            // They are in order, so that a damaged chain ends as well.
            if next > 0 && next <= block {
                return None;
            }
            block = next;
        }
        tree.parts.iter().all(|part| part.end <= page.len()).then_some(tree)
    }

    fn cell(&mut self, page: &[u8], kind: &Kind, start: usize, usable_bytes: usize) -> Option<()> {
        let mut at = start;
        at += if kind.has_child { 4 } else { 0 };
        let payload = if kind.has_payload { varint(page, &mut at)? } else { 0 };
        if kind.has_row_id {
            varint(page, &mut at)?;
        }
        let payload = usize::try_from(payload).ok()?;
        let local = local_bytes(payload, kind.has_row_id, usable_bytes);
        at += local;
        if local < payload {
            let first = page.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))?;
            self.overflows.push((first as usize, payload - local));
            at += 4;
        }
        self.parts.push(start..at);
        Some(())
    }

    /// Clears all else of the page.
    pub(super) fn keep(&self, page: &mut [u8]) {
        let mut kept = vec![0; page.len()];
        for part in &self.parts {
            kept[part.clone()].copy_from_slice(&page[part.clone()]);
        }
        page.copy_from_slice(&kept);
    }
}

/// How much of a payload is in the page of its cell.
fn local_bytes(payload: usize, is_table: bool, usable_bytes: usize) -> usize {
    let most = if is_table { usable_bytes - 35 } else { (usable_bytes - 12) * 64 / 255 - 23 };
    if payload <= most {
        return payload;
    }
    let least = (usable_bytes - 12) * 32 / 255 - 23;
    let even = least + (payload - least) % (usable_bytes - 4);
    if even <= most { even } else { least }
}

fn short_at(page: &[u8], offset: usize) -> Option<usize> {
    page.get(offset..)?.first_chunk().map(|short| usize::from(u16::from_be_bytes(*short)))
}

/// A number of up to nine bytes: seven bits each, the ninth eight.
fn varint(page: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0;
    for index in 0..9 {
        let byte = *page.get(*at)?;
        *at += 1;
        if index == 8 {
            return Some(number << 8 | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// Every page of a database with all kinds of them is taken apart, and SQLite finds the database
    /// whole with all else cleared.
    #[test]
    fn what_is_kept_is_all_that_sqlite_reads() {
        for page_bytes in [512, 1_024, 4_096, 65_536] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("all.sqlite");
            let connection = Connection::open(&file).unwrap();
            let sql = format!(
                "PRAGMA page_size={page_bytes};
                 CREATE TABLE t(a INTEGER PRIMARY KEY, b, c);
                 CREATE TABLE w(a PRIMARY KEY, b) WITHOUT ROWID;
                 CREATE INDEX i ON t(b);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000)
                 INSERT INTO t SELECT i, printf('%.*c', i * 7 % 900, 'x'), randomblob(i % 97) FROM n;
                 INSERT INTO t VALUES (9000, zeroblob(200000), 1);
                 INSERT INTO w SELECT a || '-' || length(b), b FROM t;
                 DELETE FROM t WHERE a % 3 = 0;
                 DELETE FROM w WHERE length(b) % 5 = 0;"
            );
            connection.execute_batch(&sql).unwrap();
            let rows = "SELECT count(*), sum(length(b)), sum(length(c)), total(a) FROM t";
            let of = |connection: &Connection| -> (i64, i64, i64, f64) {
                let row = |row: &rusqlite::Row<'_>| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                };
                connection.query_row(rows, (), row).unwrap()
            };
            let expected = of(&connection);
            connection.close().unwrap();
            let mut image = std::fs::read(&file).unwrap();
            let (mut trees, mut overflows, mut cleared) = (0, 0, 0);
            for (index, page) in image.chunks_mut(page_bytes).enumerate() {
                if let Some(tree) = TreePage::of(page, index + 1, page_bytes) {
                    let before = page.to_vec();
                    // Not zeros, which might be what SQLite expects.
                    let mut kept = vec![0x5a; page_bytes];
                    for part in &tree.parts {
                        kept[part.clone()].copy_from_slice(&page[part.clone()]);
                    }
                    page.copy_from_slice(&kept);
                    cleared += usize::from(page != before);
                    trees += 1;
                    overflows += tree.overflows.len();
                }
            }
            assert!(trees > 3 && cleared > 0, "{page_bytes}: {trees} {cleared}");
            assert!(overflows > 0);
            std::fs::write(&file, image).unwrap();
            let again = Connection::open(&file).unwrap();
            let sound: String =
                again.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok", "{page_bytes}");
            assert_eq!(of(&again), expected);
        }
    }
}
