//! A store registered with SQLite as a VFS.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::Store;

use crate::error::VfsError;
use crate::ffi::Mount;
use crate::file_system::FacetFileSystem;
use crate::gate::{Gate, GateState};

/// Longest VFS name in bytes.
const VFS_NAME_BYTES_MAX: usize = 64;

/// Settings of a [`Registration`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfsOptions {
    /// Makes this SQLite's default VFS, used by connections that name none. Default: no.
    pub make_default: bool,
    /// Bytes of one journal or temporary file that stay in memory; a larger one moves to an
    /// unlinked file. Default 8 MiB. More saves disk writes in large transactions, sorts and
    /// temporary tables, and costs that much memory in each of them.
    pub scratch_memory_bytes_max: usize,
    /// Directory of those unlinked files. Default: the system's directory for temporary files.
    pub scratch_directory: Option<PathBuf>,
}

impl Default for VfsOptions {
    fn default() -> Self {
        Self { make_default: false, scratch_memory_bytes_max: 8 << 20, scratch_directory: None }
    }
}

/// A store registered with SQLite as a VFS, under a name.
///
/// While it lives, connections that name the VFS open facets of the store. It takes itself back
/// when the last `Arc` of it is dropped and the last file opened through it is closed, whichever
/// comes later; only then is the store let go of. (A `:memory:` connection that names the VFS has
/// no file: its later temporary files cannot be opened then.)
///
/// Commits of plain connections return when they are durable. Those of a [`Gate`] do not wait.
#[derive(Debug)]
pub struct Registration {
    mount: Arc<Mount<FacetFileSystem>>,
}

impl Registration {
    /// Registers `store` with SQLite under `vfs_name`: 1 to 64 ASCII letters, digits, `-`, `_` or
    /// `.`.
    ///
    /// # Errors
    /// [`VfsError::InvalidVfsName`]; [`VfsError::NameTaken`] if SQLite knows a VFS of that name, a
    /// dropped registration with open files included; [`VfsError::Refused`] if SQLite cannot
    /// start.
    pub fn register(
        vfs_name: &str,
        store: Arc<Store>,
        options: VfsOptions,
    ) -> Result<Arc<Self>, VfsError> {
        check_name(vfs_name)?;
        let make_default = options.make_default;
        let file_system = FacetFileSystem::new(store, options.into(), Arc::default());
        let mount = Mount::register(vfs_name, file_system, make_default)?;
        tracing::debug!(vfs = vfs_name, make_default, "store registered with SQLite");
        Ok(Arc::new(Self { mount }))
    }

    /// The name of the VFS.
    #[must_use]
    pub fn name(&self) -> &str {
        self.mount.name()
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        self.mount.file_system().store()
    }

    /// A new way in for a host, whose commits are appended to `log_buffer` (taken modulo the
    /// store's number of buffers) and do not wait for the disk.
    ///
    /// # Panics
    /// If the operating system has no randomness to give, which leaves no safe way on.
    #[must_use]
    pub fn gate(self: &Arc<Self>, log_buffer: usize) -> Gate {
        let token = random_token();
        let state = Arc::new(GateState::new(token.clone(), log_buffer));
        self.mount.file_system().add_gate(&token, &state);
        Gate::new(state, Arc::clone(self))
    }
}

/// What makes a gate's connections nobody else's: 128 random bits.
fn random_token() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a name that SQLite is to know a VFS by.
pub(crate) fn check_name(name: &str) -> Result<(), VfsError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > VFS_NAME_BYTES_MAX {
        "it is longer than 64 bytes"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        "it has a character other than letters, digits, '-', '_' and '.'"
    } else {
        return Ok(());
    };
    Err(VfsError::InvalidVfsName { name: name.chars().take(64).collect(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vfs_names() {
        for name in ["lapidary", "a", "A-1_b.c", &"x".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a\0b", "ü", "a&b", &"x".repeat(65)] {
            assert!(matches!(check_name(name), Err(VfsError::InvalidVfsName { .. })), "{name}");
        }
    }
}
