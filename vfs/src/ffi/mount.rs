//! A file system registered with SQLite.

use std::ffi::CString;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rusqlite::ffi as sqlite;

use super::forked;
use super::libraries;
use super::slot::{self, Mounted};
use super::vfs_methods;
use crate::error::VfsError;
use crate::file::FileSystem;

/// What `sqlite3_vfs.pAppData` points to. Shared by all threads, so it is `Sync` by its type.
pub(super) struct AppData<S> {
    mount: Weak<Mount<S>>,
}

impl<S> AppData<S> {
    /// The mount, while it is registered or has files open.
    pub(super) fn mount(&self) -> Option<Arc<Mount<S>>> {
        self.mount.upgrade()
    }
}

/// The address of a VFS that SQLite knows.
#[derive(Debug)]
struct VfsAddress(*mut sqlite::sqlite3_vfs);

// SAFETY: the address is given to SQLite's register and unregister functions alone, which lock;
// the memory there is never freed (1), and written by SQLite alone.
unsafe impl Send for VfsAddress {}
// SAFETY: as for Send.
unsafe impl Sync for VfsAddress {}

/// A file system that SQLite knows as a VFS, until this is dropped. Open files hold it as well.
#[derive(Debug)]
pub(crate) struct Mount<S> {
    vfs: VfsAddress,
    name: String,
    file_system: S,
}

impl<S> Mount<S> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file_system(&self) -> &S {
        &self.file_system
    }

    pub(super) fn is_vfs(&self, vfs: *const sqlite::sqlite3_vfs) -> bool {
        std::ptr::eq(vfs, self.vfs.0)
    }
}

impl<S: FileSystem> Mount<S> {
    /// Registers `file_system` under `name`.
    pub(crate) fn register(
        name: &str,
        file_system: S,
        make_default: bool,
    ) -> Result<Arc<Self>, VfsError> {
        // SQLite would let a second VFS of the same name hide the first; between looking for the
        // name and taking it nobody else of this crate may take it.
        static REGISTERING: Mutex<()> = Mutex::new(());
        forked::watch();
        let _alone = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);

        let c_name = CString::new(name).map_err(|_| VfsError::InvalidVfsName {
            name: name.to_owned(),
            reason: "it has a NUL",
        })?;
        if vfs_exists(name) {
            return Err(VfsError::NameTaken { name: name.to_owned() });
        }
        let mount = Arc::new_cyclic(|mount| Self {
            vfs: leak_vfs(c_name, &file_system, Weak::clone(mount)),
            name: name.to_owned(),
            file_system,
        });
        // SAFETY: a filled-in VFS of which no part is ever freed (1).
        let code = unsafe { sqlite::sqlite3_vfs_register(mount.vfs.0, i32::from(make_default)) };
        if code == sqlite::SQLITE_OK {
            Ok(mount)
        } else {
            Err(VfsError::Refused { name: name.to_owned(), code })
        }
    }
}

impl<S: FileSystem> Mounted for Mount<S> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<S> Drop for Mount<S> {
    fn drop(&mut self) {
        // SAFETY: memory that is never freed (1). SQLite unlinks it if it is in its list, and does
        // not mind if it is not.
        unsafe { sqlite::sqlite3_vfs_unregister(self.vfs.0) };
    }
}

/// Whether SQLite knows a VFS called `name`.
pub(crate) fn vfs_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: a string that ends in NUL. The result is compared with null, not followed.
    let found = unsafe { sqlite::sqlite3_vfs_find(name.as_ptr()) };
    !found.is_null()
}

fn to_c_int(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn leak_vfs<S: FileSystem>(name: CString, file_system: &S, mount: Weak<Mount<S>>) -> VfsAddress {
    let app_data: *mut AppData<S> = Box::into_raw(Box::new(AppData { mount }));
    let vfs = sqlite::sqlite3_vfs {
        iVersion: 2,
        szOsFile: to_c_int(slot::SLOT_BYTES),
        mxPathname: to_c_int(file_system.name_bytes_max()),
        pNext: ptr::null_mut(),
        zName: name.into_raw(),
        pAppData: app_data.cast(),
        xOpen: Some(vfs_methods::open::<S>),
        xDelete: Some(vfs_methods::delete::<S>),
        xAccess: Some(vfs_methods::access::<S>),
        xFullPathname: Some(vfs_methods::full_pathname::<S>),
        xDlOpen: Some(libraries::open),
        xDlError: Some(libraries::error),
        xDlSym: Some(libraries::symbol),
        xDlClose: Some(libraries::close),
        xRandomness: Some(vfs_methods::randomness),
        xSleep: Some(vfs_methods::sleep),
        xCurrentTime: Some(vfs_methods::current_time),
        xGetLastError: Some(vfs_methods::get_last_error),
        xCurrentTimeInt64: Some(vfs_methods::current_time_ms),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    };
    VfsAddress(Box::into_raw(Box::new(vfs)))
}
