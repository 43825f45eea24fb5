//! The C interface against real SQLite: a file system that panics, and the page that SQLite never
//! uses, which takes a C call to move within reach.

use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lapidary_engine::{Environment, MemoryIo, Store, StoreOptions};
use rusqlite::ffi as sqlite;
use rusqlite::{Connection, OpenFlags};

use super::Mount;
use crate::error::{Failure, take_last_error};
use crate::file::{File, FileSystem, Filled, LockLevel, OpenRequest, Opened, PragmaAnswer};
use crate::registration::{Registration, VfsOptions};
use crate::scratch::{ScratchFile, ScratchSpace, Watch};

/// A database in memory that panics in the method that is named.
struct Trap {
    file: ScratchFile,
    armed: Arc<Mutex<&'static str>>,
    fetch_armed: Arc<AtomicBool>,
    dropped: Arc<AtomicBool>,
    unlocked: Arc<AtomicBool>,
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

impl Trap {
    fn enter(&self, method: &str) {
        let armed = *self.armed.lock().unwrap();
        assert_ne!(armed, method, "sprung");
    }
}

impl File for Trap {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<Filled, Failure> {
        self.enter("read");
        self.file.read(offset, into)
    }

    fn fetch(&mut self, _offset: u64, _length: usize) -> Result<Option<&[u8]>, Failure> {
        assert!(!self.fetch_armed.load(Ordering::SeqCst), "fetch is sprung");
        Ok(None)
    }

    fn unfetch(&mut self) {
        panic!("unfetch is sprung");
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.enter("write");
        self.file.write(offset, bytes)
    }

    fn truncate(&mut self, size_bytes: u64) -> Result<(), Failure> {
        self.enter("truncate");
        self.file.truncate(size_bytes)
    }

    fn size_bytes(&mut self) -> Result<u64, Failure> {
        self.enter("size");
        self.file.size_bytes()
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.enter("sync");
        Ok(())
    }

    fn lock(&mut self, _level: LockLevel) -> Result<(), Failure> {
        self.enter("lock");
        Ok(())
    }

    fn unlock(&mut self, _level: LockLevel) {
        self.enter("unlock");
        self.unlocked.store(true, Ordering::SeqCst);
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.enter("commit");
        Ok(())
    }

    fn pragma(&mut self, _name: &str, _value: Option<&str>) -> PragmaAnswer {
        self.enter("pragma");
        PragmaAnswer::PassOn
    }

    fn lock_level(&self) -> LockLevel {
        LockLevel::None
    }

    fn device_characteristics(&self) -> c_int {
        0
    }
}

#[derive(Default)]
struct TrapSystem {
    armed: Arc<Mutex<&'static str>>,
    fetch_armed: Arc<AtomicBool>,
    dropped: Arc<AtomicBool>,
    unlocked: Arc<AtomicBool>,
    open_panics: AtomicBool,
}

impl FileSystem for TrapSystem {
    type Database = Trap;
    type Scratch = ScratchFile;

    fn open(&self, request: &OpenRequest<'_>) -> Result<Opened<Trap, ScratchFile>, Failure> {
        assert!(!self.open_panics.load(Ordering::SeqCst), "cannot even open");
        let space = ScratchSpace { memory_bytes_max: 1 << 20, directory: None };
        let file = ScratchFile::new(space, Watch::Nothing);
        if request.kind != crate::file::FileKind::MainDatabase {
            return Ok(Opened::Scratch(file));
        }
        Ok(Opened::Database(Trap {
            file,
            armed: Arc::clone(&self.armed),
            fetch_armed: Arc::clone(&self.fetch_armed),
            dropped: Arc::clone(&self.dropped),
            unlocked: Arc::clone(&self.unlocked),
        }))
    }

    fn delete(&self, _name: &str, _sync_directory: bool) -> Result<(), Failure> {
        Ok(())
    }

    fn exists(&self, _name: &str) -> bool {
        false
    }

    fn full_name(&self, name: &str) -> Result<String, Failure> {
        Ok(name.to_owned())
    }

    fn name_bytes_max(&self) -> usize {
        200
    }
}

fn quietly<T>(body: impl FnOnce() -> T) -> T {
    // The panics below are wanted; their traces on the test's output are not.
    std::panic::set_hook(Box::new(|_| ()));
    let value = body();
    drop(std::panic::take_hook());
    value
}

#[test]
fn a_panic_is_an_error_and_ends_the_file() {
    let mount = Mount::register("trap", TrapSystem::default(), false).unwrap();
    let switches = mount.file_system();
    let (armed, dropped) = (Arc::clone(&switches.armed), Arc::clone(&switches.dropped));
    let unlocked = Arc::clone(&switches.unlocked);
    let connection =
        Connection::open_with_flags_and_vfs("x", OpenFlags::default(), "trap").unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();

    *armed.lock().unwrap() = "read";
    unlocked.store(false, Ordering::SeqCst);
    let count = || connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    let error = quietly(count).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::SystemIoFailure));
    assert!(take_last_error().unwrap().contains("sprung"));

    *armed.lock().unwrap() = "";
    count().unwrap_err();
    assert!(take_last_error().unwrap().contains("closed and opened again"));

    assert!(unlocked.load(Ordering::SeqCst), "the lock is let go all the same");
    assert!(!dropped.load(Ordering::SeqCst));
    drop(connection);
    assert!(dropped.load(Ordering::SeqCst), "closing drops the file all the same");

    mount.file_system().open_panics.store(true, Ordering::SeqCst);
    let open = || Connection::open_with_flags_and_vfs("y", OpenFlags::default(), "trap");
    assert!(quietly(open).is_err());
    assert!(take_last_error().unwrap().contains("cannot even open"));
}

/// Whichever method it is in: an error, or nothing where SQLite takes none, and the next connection
/// works.
#[test]
fn a_panic_in_any_method() {
    let mount = Mount::register("traps", TrapSystem::default(), false).unwrap();
    let armed = Arc::clone(&mount.file_system().armed);
    let methods =
        ["read", "write", "truncate", "size", "sync", "lock", "unlock", "commit", "pragma"];
    for method in methods {
        let connection =
            Connection::open_with_flags_and_vfs("x", OpenFlags::default(), "traps").unwrap();
        connection
            .execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(90000))")
            .unwrap();
        *armed.lock().unwrap() = method;
        let outcome = quietly(|| {
            connection.execute_batch("DELETE FROM t; PRAGMA cache_size=0; VACUUM; SELECT * FROM t")
        });
        *armed.lock().unwrap() = "";
        match outcome {
            // What holds no transaction up has no result code to tell of.
            Ok(()) => assert_eq!(method, "unlock"),
            Err(error) => {
                let code = error.sqlite_error().unwrap().extended_code & 0xff;
                assert_eq!(code, sqlite::SQLITE_IOERR, "{method}: {error}");
            }
        }
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
        let words = take_last_error().unwrap();
        assert!(words.contains("sprung") && words.contains("opened again"), "{method}: {words}");
    }
}

#[test]
fn a_panic_while_reading_in_place_is_an_error_too() {
    let mount = Mount::register("fetch-trap", TrapSystem::default(), false).unwrap();
    let fetch_armed = Arc::clone(&mount.file_system().fetch_armed);
    let connection =
        Connection::open_with_flags_and_vfs("x", OpenFlags::default(), "fetch-trap").unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    connection.execute_batch("PRAGMA mmap_size=1000000").unwrap();
    let count = || connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(count(), Ok(1));

    fetch_armed.store(true, Ordering::SeqCst);
    let error = quietly(count).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::SystemIoFailure));
    assert!(take_last_error().unwrap().contains("fetch is sprung"));
    count().unwrap_err();
    assert!(take_last_error().unwrap().contains("closed and opened again"));

    let mut file: *mut sqlite::sqlite3_file = std::ptr::null_mut();
    let place = std::ptr::from_mut(&mut file).cast();
    // SAFETY: the connection is not closed by its handle.
    let handle = unsafe { connection.handle() };
    let pointer = sqlite::SQLITE_FCNTL_FILE_POINTER;
    // SAFETY: the operation's argument is a place for a pointer to the file.
    let code = unsafe { sqlite::sqlite3_file_control(handle, c"main".as_ptr(), pointer, place) };
    assert_eq!(code, sqlite::SQLITE_OK);
    // SAFETY: the file is open as long as the connection is.
    let methods = unsafe { (*file).pMethods };
    // SAFETY: an open file has methods, which are never freed.
    let unfetch = unsafe { (*methods).xUnfetch }.unwrap();
    let mut page = [0_u8; 16];
    // SAFETY: a method of the open file; the address is not followed.
    let code = quietly(|| unsafe { unfetch(file, 0, page.as_mut_ptr().cast()) });
    assert_eq!(code, sqlite::SQLITE_OK, "nobody could do anything about it");
    assert!(take_last_error().unwrap().contains("unfetch is sprung"));
}

#[test]
fn a_mount_leaves_when_its_last_file_closes() {
    let mount = Mount::register("leaving", TrapSystem::default(), false).unwrap();
    let connection =
        Connection::open_with_flags_and_vfs("x", OpenFlags::default(), "leaving").unwrap();
    drop(mount);
    assert!(super::vfs_exists("leaving"));
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    drop(connection);
    assert!(!super::vfs_exists("leaving"));
    assert!(Connection::open_with_flags_and_vfs("x", OpenFlags::default(), "leaving").is_err());
    drop(Mount::register("leaving", TrapSystem::default(), false).unwrap());
}

/// SQLite never uses the page at `PENDING_BYTE`, 1 GiB. The test control that moves it holds for
/// the whole process; 256 KiB is more than any other test of this binary writes.
#[test]
fn the_lock_page_reads_as_zeros_and_is_never_written() {
    const PENDING_BYTE: u32 = 256 << 10;
    // SAFETY: the operation takes one unsigned int. No database reaches the byte before this.
    unsafe { sqlite::sqlite3_test_control(sqlite::SQLITE_TESTCTRL_PENDING_BYTE, PENDING_BYTE) };

    let io = MemoryIo::new();
    let environment = || Environment::with_io(Arc::new(io.clone()));
    let store = Store::open(environment(), StoreOptions::create()).unwrap();
    let registration = Registration::register("locks", store, VfsOptions::default()).unwrap();
    for page_size in [512_u32, 4096, 65536] {
        let connection = Connection::open_with_flags_and_vfs(
            format!("f{page_size}"),
            OpenFlags::default(),
            "locks",
        )
        .unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size};
                 CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
                 INSERT INTO t SELECT i, randomblob(1000) FROM n;"
            ))
            .unwrap();
        let check = |connection: &Connection| {
            let (pages, check, rows): (u32, String, u32) = connection
                .query_row(
                    "SELECT (SELECT page_count FROM pragma_page_count),
                            (SELECT integrity_check FROM pragma_integrity_check), count(*) FROM t",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                )
                .unwrap();
            assert!(pages * page_size > PENDING_BYTE + page_size, "{pages} of {page_size}");
            assert_eq!(check, "ok");
            assert_eq!(rows, 600);
        };
        check(&connection);
        let name = lapidary_engine::FacetName::new(format!("f{page_size}")).unwrap();
        let facet = registration.store().open_facet(&name).unwrap();
        let snapshot = facet.snapshot(lapidary_engine::View::Durable).unwrap();
        let mut page = vec![1; page_size as usize];
        let lock_page = lapidary_engine::PageNo(PENDING_BYTE / page_size + 1);
        snapshot.read_page(lock_page, &mut page).unwrap();
        assert!(page.iter().all(|&byte| byte == 0));
        // Another page size puts the lock page elsewhere in the same bytes.
        connection.execute_batch("PRAGMA page_size=1024; VACUUM").unwrap();
        let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        assert!(pages * 1024 > PENDING_BYTE + 1024);
        let (check, rows): (String, u32) = connection
            .query_row(
                "SELECT (SELECT integrity_check FROM pragma_integrity_check), count(*) FROM t",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        assert_eq!((check.as_str(), rows), ("ok", 600));
    }
}

#[test]
fn file_controls() {
    let store =
        Store::open(Environment::with_io(Arc::new(MemoryIo::new())), StoreOptions::create())
            .unwrap();
    let _registration = Registration::register("controls", store, VfsOptions::default()).unwrap();
    let connection =
        Connection::open_with_flags_and_vfs("a", OpenFlags::default(), "controls").unwrap();
    connection.execute_batch("CREATE TABLE t(x)").unwrap();
    let control = |operation: c_int, argument: *mut std::os::raw::c_void| {
        // SAFETY: the connection is not closed by its handle.
        let handle = unsafe { connection.handle() };
        // SAFETY: the connection is alive and used by this thread alone; the callers below pass
        // what each operation asks for.
        unsafe { sqlite::sqlite3_file_control(handle, c"main".as_ptr(), operation, argument) }
    };
    let number = |operation: c_int| {
        let mut answer: c_int = -1;
        let code = control(operation, std::ptr::from_mut(&mut answer).cast());
        (code, answer)
    };
    assert_eq!(number(sqlite::SQLITE_FCNTL_HAS_MOVED), (sqlite::SQLITE_OK, 0));
    assert_eq!(number(sqlite::SQLITE_FCNTL_POWERSAFE_OVERWRITE), (sqlite::SQLITE_OK, 1));
    assert_eq!(number(sqlite::SQLITE_FCNTL_LOCKSTATE), (sqlite::SQLITE_OK, 0));
    connection.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    assert_eq!(number(sqlite::SQLITE_FCNTL_LOCKSTATE), (sqlite::SQLITE_OK, 1));
    connection.execute_batch("COMMIT; BEGIN EXCLUSIVE").unwrap();
    assert_eq!(number(sqlite::SQLITE_FCNTL_LOCKSTATE), (sqlite::SQLITE_OK, 4));
    assert_eq!(number(12345).0, sqlite::SQLITE_NOTFOUND);

    let mut name: *mut std::os::raw::c_char = std::ptr::null_mut();
    let code = control(sqlite::SQLITE_FCNTL_VFSNAME, std::ptr::from_mut(&mut name).cast());
    assert_eq!(code, sqlite::SQLITE_OK);
    // SAFETY: the operation filled in a string that ends in NUL.
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name) }.to_str(), Ok("controls"));
    // SAFETY: SQLite's memory, not used afterwards.
    unsafe { sqlite::sqlite3_free(name.cast()) };
}
