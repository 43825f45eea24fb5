//! What is done once in a process: settings are read, the VFS is registered.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

use lapidary_vfs::{PathVfs, VfsOptions};

/// Name of the VFS.
pub(crate) const VFS_NAME: &str = "lapidary";

/// Environment variable with the path of the default store.
const STORE: &str = "LAPIDARY_STORE";

/// Environment variable that makes the VFS SQLite's default.
const DEFAULT_VFS: &str = "LAPIDARY_DEFAULT_VFS";

/// The VFS, which the first call registers.
pub(crate) fn vfs() -> Result<&'static PathVfs, String> {
    static VFS: OnceLock<Result<PathVfs, String>> = OnceLock::new();
    VFS.get_or_init(register).as_ref().map_err(Clone::clone)
}

fn register() -> Result<PathVfs, String> {
    let store = match env::var_os(STORE) {
        Some(path) if path.is_empty() => None,
        // Programs that change their directory go on with the same store.
        Some(path) => Some(
            std::path::absolute(PathBuf::from(path))
                .map_err(|error| format!("environment variable {STORE}: {error}"))?,
        ),
        None => None,
    };
    let make_default = is_on(DEFAULT_VFS)?;
    let options = VfsOptions { make_default, ..VfsOptions::default() };
    PathVfs::register(VFS_NAME, store, options).map_err(|error| error.to_string())
}

fn is_on(variable: &str) -> Result<bool, String> {
    match env::var(variable).as_deref() {
        Ok("1") => Ok(true),
        Ok("0" | "") | Err(env::VarError::NotPresent) => Ok(false),
        Ok(other) => Err(format!("environment variable {variable} is {other:?}; it is 1 or 0")),
        Err(error) => Err(format!("environment variable {variable}: {error}")),
    }
}
