//! A file of a registered VFS, through the C table that SQLite calls, without SQLite: any call in any order.

#![allow(unsafe_code, reason = "a VFS has no other interface than C's")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::CString;
use std::os::raw::{c_int, c_void};
use std::ptr::{self, NonNull};

use rusqlite::ffi as sqlite;

/// An open file. Closed when it is dropped.
#[derive(Debug)]
pub struct RawFile {
    file: NonNull<sqlite::sqlite3_file>,
    layout: Layout,
    /// SQLite's form of the name, which the file may refer to as long as it is open.
    name: sqlite::sqlite3_filename,
    /// What was fetched and not given back: where, and how far into the file.
    fetched: Vec<(NonNull<c_void>, i64, usize)>,
}

/// An error code of SQLite.
pub type Code = c_int;

fn checked(code: c_int) -> Result<(), Code> {
    if code == sqlite::SQLITE_OK { Ok(()) } else { Err(code) }
}

/// A method, which every open file of this project has.
macro_rules! call {
    ($self:ident, $method:ident $(, $argument:expr)*) => {{
        let file = $self.file.as_ptr();
        // SAFETY: xOpen succeeded, so the file has its methods until xClose, in `drop`.
        let methods = unsafe { &*(*file).pMethods };
        let method = methods.$method.expect("the file has all methods");
        // SAFETY: the file is open, and used by this thread alone; the arguments are what the method
        // documents, and outlive the call.
        unsafe { method(file, $($argument),*) }
    }};
}

impl RawFile {
    /// Opens the database `name` of the VFS that is registered as `vfs`, to read and write, and creates it.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn open(vfs: &str, name: &str) -> Result<Self, Code> {
        let vfs = CString::new(vfs).expect("names have no NUL");
        let name = CString::new(name).expect("names have no NUL");
        let none = c"";
        // SAFETY: SQLite is initialized, since a VFS is registered; the string ends in NUL.
        let vfs = unsafe { sqlite::sqlite3_vfs_find(vfs.as_ptr()) };
        assert!(!vfs.is_null(), "the VFS is registered");
        // SAFETY: three strings, and no parameters.
        let name = unsafe {
            let parameters = ptr::null_mut();
            sqlite::sqlite3_create_filename(
                name.as_ptr(),
                none.as_ptr(),
                none.as_ptr(),
                0,
                parameters,
            )
        };
        // SAFETY: a registered VFS is never freed.
        let methods = unsafe { &*vfs };
        let open = methods.xOpen;
        let bytes = usize::try_from(methods.szOsFile).expect("a file takes some bytes");
        let layout = Layout::from_size_align(bytes, 16).expect("a file is small");
        // SAFETY: the layout is not of zero bytes.
        let file = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("there is memory");
        let this = Self { file: file.cast(), layout, name, fetched: Vec::new() };
        let flags = sqlite::SQLITE_OPEN_MAIN_DB
            | sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_CREATE;
        let open = open.expect("a VFS opens files");
        // SAFETY: the memory is as large as the VFS asks for, and zeros; the name is one that SQLite made.
        let opened = unsafe { open(vfs, this.name, this.file.as_ptr(), flags, ptr::null_mut()) };
        // A file that is not open has no methods, and `drop` closes none.
        checked(opened).map(|()| this)
    }

    /// `xRead`: fills `into`; whether the file had so many bytes. What it has not is zeros.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn read(&mut self, offset: i64, into: &mut [u8]) -> Result<bool, Code> {
        let length = c_int::try_from(into.len()).expect("reads are small");
        match call!(self, xRead, into.as_mut_ptr().cast(), length, offset) {
            sqlite::SQLITE_OK => Ok(true),
            sqlite::SQLITE_IOERR_SHORT_READ => Ok(false),
            code => Err(code),
        }
    }

    /// `xWrite`.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn write(&mut self, offset: i64, bytes: &[u8]) -> Result<(), Code> {
        let length = c_int::try_from(bytes.len()).expect("writes are small");
        checked(call!(self, xWrite, bytes.as_ptr().cast(), length, offset))
    }

    /// `xTruncate`.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn truncate(&mut self, bytes: i64) -> Result<(), Code> {
        checked(call!(self, xTruncate, bytes))
    }

    /// `xSync`.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn sync(&mut self) -> Result<(), Code> {
        checked(call!(self, xSync, sqlite::SQLITE_SYNC_NORMAL))
    }

    /// `xFileSize`.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn size(&mut self) -> Result<i64, Code> {
        let mut size = 0;
        checked(call!(self, xFileSize, &raw mut size)).map(|()| size)
    }

    /// `xLock`, with one of SQLite's levels.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn lock(&mut self, level: c_int) -> Result<(), Code> {
        checked(call!(self, xLock, level))
    }

    /// `xUnlock`.
    ///
    /// # Errors
    /// As the VFS has them: it should have none.
    pub fn unlock(&mut self, level: c_int) -> Result<(), Code> {
        checked(call!(self, xUnlock, level))
    }

    /// `xCheckReservedLock`.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn is_reserved(&mut self) -> Result<bool, Code> {
        let mut reserved: c_int = 0;
        checked(call!(self, xCheckReservedLock, &raw mut reserved)).map(|()| reserved != 0)
    }

    /// `xFileControl` of an operation whose argument is a number that it may replace, or none; the number
    /// afterwards.
    ///
    /// # Errors
    /// As the VFS has them, `SQLITE_NOTFOUND` included.
    ///
    /// # Panics
    /// If the operation is none of those.
    pub fn control(&mut self, operation: c_int, number: i64) -> Result<i64, Code> {
        let mut number = number;
        let argument: *mut c_void = match operation {
            sqlite::SQLITE_FCNTL_COMMIT_PHASETWO | sqlite::SQLITE_FCNTL_SYNC => ptr::null_mut(),
            sqlite::SQLITE_FCNTL_SIZE_HINT | sqlite::SQLITE_FCNTL_MMAP_SIZE => {
                (&raw mut number).cast()
            }
            sqlite::SQLITE_FCNTL_LOCKSTATE | sqlite::SQLITE_FCNTL_HAS_MOVED => {
                // An int goes to the low half of a number that is little-endian; the rest is zeros.
                number = 0;
                (&raw mut number).cast()
            }
            _ => panic!("operation {operation} has another argument"),
        };
        checked(call!(self, xFileControl, operation, argument)).map(|()| number.to_le())
    }

    /// `xFetch`; its bytes, if it gave any. They count as fetched until [`unfetch`](Self::unfetch).
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn fetch(&mut self, offset: i64, length: usize) -> Result<Option<Vec<u8>>, Code> {
        let mut found = ptr::null_mut();
        let bytes = c_int::try_from(length).expect("pages are small");
        checked(call!(self, xFetch, offset, bytes, &raw mut found))?;
        let Some(found) = NonNull::new(found) else { return Ok(None) };
        self.fetched.push((found, offset, length));
        Ok(Some(self.fetched_bytes(self.fetched.len() - 1)))
    }

    /// How many are fetched.
    #[must_use]
    pub fn fetched_count(&self) -> usize {
        self.fetched.len()
    }

    /// What the fetched bytes of that number are now.
    #[must_use]
    pub fn fetched_bytes(&self, number: usize) -> Vec<u8> {
        let (at, _, length) = self.fetched[number];
        // SAFETY: xFetch gave so many bytes, which stay where and as they are until xUnfetch.
        unsafe { std::slice::from_raw_parts(at.cast::<u8>().as_ptr(), length) }.to_vec()
    }

    /// `xUnfetch` of the bytes of that number.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn unfetch(&mut self, number: usize) -> Result<(), Code> {
        let (at, offset, _) = self.fetched.swap_remove(number);
        checked(call!(self, xUnfetch, offset, at.as_ptr()))
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        while !self.fetched.is_empty() {
            let _ = self.unfetch(0);
        }
        let file = self.file.as_ptr();
        // SAFETY: the memory is the file's, open or zeros.
        let is_open = unsafe { !(*file).pMethods.is_null() };
        if is_open {
            call!(self, xClose);
        }
        // SAFETY: closed, so nobody refers to the name any more.
        unsafe { sqlite::sqlite3_free_filename(self.name) };
        // SAFETY: it was allocated with this layout, and is closed.
        unsafe { dealloc(self.file.as_ptr().cast(), self.layout) };
    }
}
