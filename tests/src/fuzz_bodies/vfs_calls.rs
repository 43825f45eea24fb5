//! Calls of the VFS in any order, on several handles of one file, against a model of what a file, its locks
//! and its versions are.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::FacetName;
use lapidary_vfs::{RawFile, Registration};
use rusqlite::ffi as sqlite;
use tempfile::TempDir;

use crate::chance::Chance;
use crate::small_store;

const HANDLES: usize = 3;
const STEPS_MAX: u32 = 500;
const PAGES_MAX: usize = 12;
const FETCHED_MAX: usize = 4;
const PAGE_SIZES: [usize; 3] = [512, 1024, 4096];
/// What bytes are written. Not 2, which in bytes 18 and 19 asks for a write-ahead log.
const VALUES: [u8; 5] = [0, 1, 3, 100, 255];
/// The change counter, and where it is repeated: what these bytes show is the VFS's own affair.
const COUNTERS: [Range<usize>; 2] = [24..28, 92..96];

/// A handle, and what it should be.
struct Handle {
    file: RawFile,
    level: i32,
    /// The version that it reads, from SHARED on.
    base: usize,
    /// What it has written, from its first write on.
    staged: Option<Vec<u8>>,
    /// What its fetched bytes must stay.
    fetched: Vec<Vec<u8>>,
}

struct Bench {
    registration: Arc<Registration>,
    name: FacetName,
    page_bytes: usize,
    handles: Vec<Handle>,
    versions: Vec<Vec<u8>>,
}

/// Takes the input as calls of `xOpen`, `xClose`, `xRead`, `xWrite`, `xTruncate`, `xSync`, `xFileSize`, `xLock`,
/// `xUnlock`, `xCheckReservedLock`, `xFileControl`, `xFetch` and `xUnfetch`, with maintenance of the store
/// between them. What is read, who gets which lock and what is refused is as the model has it.
pub fn vfs_calls(input: &[u8]) {
    thread_local! {
        static STORE: (Arc<Registration>, TempDir) = {
            let directory = tempfile::tempdir().expect("there is a place for temporary files");
            (small_store::register_in(&directory.path().join("store")), directory)
        };
    }
    static FACETS: AtomicU64 = AtomicU64::new(0);
    let registration = STORE.with(|(registration, _)| Arc::clone(registration));
    let name = format!("calls-{}", FACETS.fetch_add(1, Ordering::Relaxed));
    let mut chance = Chance::from_bytes(input);
    let page_bytes = chance.pick(&PAGE_SIZES);
    let mut bench = Bench {
        registration,
        name: FacetName::new(name).expect("it is a good name"),
        page_bytes,
        handles: Vec::new(),
        versions: vec![Vec::new()],
    };
    for _ in 0..HANDLES {
        let handle = bench.open();
        bench.handles.push(handle);
    }
    for _ in 0..STEPS_MAX {
        if chance.is_spent() {
            break;
        }
        let at = chance.index(HANDLES);
        bench.step(at, &mut chance);
    }
    bench.end();
}

impl Bench {
    fn open(&self) -> Handle {
        let mut file =
            RawFile::open(self.registration.name(), self.name.as_str()).expect("a facet opens");
        let limit = file.control(sqlite::SQLITE_FCNTL_MMAP_SIZE, 1 << 30);
        limit.expect("every file has a limit");
        let level = sqlite::SQLITE_LOCK_NONE;
        Handle { file, level, base: 0, staged: None, fetched: Vec::new() }
    }

    fn newest(&self) -> usize {
        self.versions.len() - 1
    }

    fn step(&mut self, at: usize, chance: &mut Chance) {
        match chance.below(20) {
            0..3 => self.lock(at, chance),
            3 => self.unlock(at, chance),
            4..8 => self.write(at, chance),
            8 => self.truncate(at, chance),
            9..11 => self.commit(at),
            11..14 => self.read(at, chance),
            14..16 => self.fetch(at, chance),
            16 => self.unfetch(at, chance),
            17 => self.reopen(at),
            18 => self.ask(at),
            _ => {
                let maintained = small_store::maintain(&self.registration);
                maintained.expect("a store in good health");
            }
        }
        self.check_fetched();
    }

    /// Whether another handle than `at` has the writer.
    fn is_writing(&self, at: Option<usize>) -> bool {
        let others = self.handles.iter().enumerate().filter(|(number, _)| Some(*number) != at);
        others.into_iter().any(|(_, handle)| handle.level >= sqlite::SQLITE_LOCK_RESERVED)
    }

    /// Takes any lock from any other, also where SQLite would take one in between.
    fn lock(&mut self, at: usize, chance: &mut Chance) {
        let level = chance.pick(&[
            sqlite::SQLITE_LOCK_SHARED,
            sqlite::SQLITE_LOCK_RESERVED,
            sqlite::SQLITE_LOCK_PENDING,
            sqlite::SQLITE_LOCK_EXCLUSIVE,
        ]);
        let (other, newest) = (self.is_writing(Some(at)), self.newest());
        let handle = &mut self.handles[at];
        let locked = handle.file.lock(level);
        let is_first = handle.level == sqlite::SQLITE_LOCK_NONE;
        let takes_writer =
            level >= sqlite::SQLITE_LOCK_RESERVED && handle.level < sqlite::SQLITE_LOCK_RESERVED;
        if takes_writer && other {
            assert_eq!(locked, Err(sqlite::SQLITE_BUSY), "{at}: another handle writes");
        } else if takes_writer && !is_first && handle.base != newest {
            assert_eq!(locked, Err(sqlite::SQLITE_BUSY_SNAPSHOT), "{at}: it reads an old version");
        } else {
            assert_eq!(locked, Ok(()), "{at} takes lock {level} from {}", handle.level);
            if is_first {
                handle.base = newest;
            }
            handle.level = handle.level.max(level);
        }
    }

    fn unlock(&mut self, at: usize, chance: &mut Chance) {
        let level = chance.pick(&[
            sqlite::SQLITE_LOCK_NONE,
            sqlite::SQLITE_LOCK_SHARED,
            sqlite::SQLITE_LOCK_RESERVED,
        ]);
        let handle = &mut self.handles[at];
        assert_eq!(handle.file.unlock(level), Ok(()), "{at}: xUnlock cannot fail");
        if level < sqlite::SQLITE_LOCK_RESERVED {
            handle.staged = None;
            handle.level = handle.level.min(level);
        }
    }

    /// The bytes that a handle sees.
    fn seen(&self, at: usize) -> &[u8] {
        let handle = &self.handles[at];
        let base = match handle.level {
            sqlite::SQLITE_LOCK_NONE => self.newest(),
            _ => handle.base,
        };
        handle.staged.as_deref().unwrap_or(&self.versions[base])
    }

    fn write(&mut self, at: usize, chance: &mut Chance) {
        let pages = self.seen(at).len() / self.page_bytes;
        let page = chance.index((pages + 2).min(PAGES_MAX));
        let bytes = vec![chance.pick(&VALUES); self.page_bytes];
        let offset = page * self.page_bytes;
        let mut now = self.seen(at).to_vec();
        let handle = &mut self.handles[at];
        let written = handle.file.write(offset as i64, &bytes);
        if handle.level < sqlite::SQLITE_LOCK_RESERVED {
            assert!(written.is_err(), "{at} writes without a lock");
            return;
        }
        assert_eq!(written, Ok(()), "{at} writes page {page}");
        now.resize(now.len().max(offset + bytes.len()), 0);
        now[offset..offset + bytes.len()].copy_from_slice(&bytes);
        handle.staged = Some(now);
    }

    fn truncate(&mut self, at: usize, chance: &mut Chance) {
        let mut now = self.seen(at).to_vec();
        let pages = now.len() / self.page_bytes;
        let kept = chance.index(pages + 1) * self.page_bytes;
        let handle = &mut self.handles[at];
        let truncated = handle.file.truncate(kept as i64);
        if handle.level < sqlite::SQLITE_LOCK_RESERVED {
            assert!(truncated.is_err(), "{at} truncates without a lock");
            return;
        }
        assert_eq!(truncated, Ok(()), "{at} truncates");
        if kept < now.len() {
            now.truncate(kept);
            handle.staged = Some(now);
        }
    }

    /// As SQLite ends a transaction, or in part.
    fn commit(&mut self, at: usize) {
        let handle = &mut self.handles[at];
        assert!(handle.file.control(sqlite::SQLITE_FCNTL_SYNC, 0).is_ok());
        assert_eq!(handle.file.sync(), Ok(()));
        let committed = handle.file.control(sqlite::SQLITE_FCNTL_COMMIT_PHASETWO, 0);
        assert!(committed.is_ok(), "{at} commits: {committed:?}");
        if let Some(staged) = handle.staged.take() {
            self.versions.push(staged);
            self.handles[at].base = self.newest();
        }
    }

    fn read(&mut self, at: usize, chance: &mut Chance) {
        let seen = self.seen(at).to_vec();
        let offset = chance.index(seen.len() + self.page_bytes);
        let length = 1 + chance.index(2 * self.page_bytes);
        self.check_read(at, &seen, offset, length);
    }

    fn check_read(&mut self, at: usize, seen: &[u8], offset: usize, length: usize) {
        let mut found = vec![0xA5; length];
        let is_whole = self.handles[at].file.read(offset as i64, &mut found).expect("it can read");
        let mut expected = vec![0; length];
        let end = seen.len().min(offset + length);
        if offset < end {
            expected[..end - offset].copy_from_slice(&seen[offset..end]);
        }
        assert_eq!(is_whole, offset + length <= seen.len(), "{at} reads {length} at {offset}");
        without_counters(offset, &mut found);
        without_counters(offset, &mut expected);
        assert!(found == expected, "{at} reads {length} bytes at {offset} that are not there");
        let size = self.handles[at].file.size().expect("it has a length");
        assert_eq!(size, seen.len() as i64, "{at}: its length");
    }

    /// Fetches a page, which may be refused; what is given is what a read would show.
    fn fetch(&mut self, at: usize, chance: &mut Chance) {
        let seen = self.seen(at);
        let page = chance.index(seen.len() / self.page_bytes + 2);
        let offset = page * self.page_bytes;
        let expected = seen.get(offset..offset + self.page_bytes).map(<[u8]>::to_vec);
        let handle = &mut self.handles[at];
        if handle.file.fetched_count() == FETCHED_MAX {
            return;
        }
        let found = handle.file.fetch(offset as i64, self.page_bytes).expect("it can be refused");
        let Some(found) = found else { return };
        let mut expected = expected.unwrap_or_else(|| panic!("{at}: page {page} is not there"));
        let mut shown = found.clone();
        without_counters(offset, &mut shown);
        without_counters(offset, &mut expected);
        assert!(shown == expected, "{at}: page {page} is another in place");
        handle.fetched.push(found);
    }

    fn unfetch(&mut self, at: usize, chance: &mut Chance) {
        let handle = &mut self.handles[at];
        if !handle.fetched.is_empty() {
            let number = chance.index(handle.fetched.len());
            handle.fetched.swap_remove(number);
            assert_eq!(handle.file.unfetch(number), Ok(()));
        }
    }

    /// What is fetched stays as it is, whatever happens to the file.
    fn check_fetched(&self) {
        for handle in &self.handles {
            for (number, expected) in handle.fetched.iter().enumerate() {
                assert!(handle.file.fetched_bytes(number) == *expected, "bytes changed in place");
            }
        }
    }

    fn reopen(&mut self, at: usize) {
        self.handles.remove(at);
        let handle = self.open();
        self.handles.insert(at, handle);
    }

    fn ask(&mut self, at: usize) {
        let is_reserved = self.is_writing(None);
        let handle = &mut self.handles[at];
        assert_eq!(handle.file.is_reserved(), Ok(is_reserved));
        let level = handle.file.control(sqlite::SQLITE_FCNTL_LOCKSTATE, 0);
        assert_eq!(level, Ok(i64::from(handle.level)));
        assert_eq!(handle.file.control(sqlite::SQLITE_FCNTL_HAS_MOVED, 0), Ok(0));
        assert!(handle.file.control(sqlite::SQLITE_FCNTL_SIZE_HINT, 1 << 20).is_ok());
    }

    /// Everybody leaves; the newest version is there.
    fn end(mut self) {
        for at in 0..HANDLES {
            self.reopen(at);
        }
        let newest = self.versions[self.newest()].clone();
        self.check_read(0, &newest, 0, newest.len() + 1);
        self.handles.clear();
        self.registration.store().delete_facet(&self.name).expect("it is there");
    }
}

/// Zeros in place of what the VFS supplies.
fn without_counters(offset: usize, bytes: &mut [u8]) {
    for at in COUNTERS.into_iter().flatten() {
        if let Some(byte) = at.checked_sub(offset).and_then(|at| bytes.get_mut(at)) {
            *byte = 0;
        }
    }
}
