//! A store opened through an overlay works as ever, and not a byte of it changes.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test, also of files of the operating system"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use lapidary_engine::{
    Background, Environment, Error, FormatParams, Io, OverlayIo, PosixIo, Store, StoreOptions,
    Tunables,
};
use support::{Disk, FaultyIo, name, open, read, write};

fn open_on(io: Arc<dyn Io>) -> Result<Arc<Store>, Error> {
    let options = StoreOptions {
        create: false,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        tunables: Tunables { open_segments_max: 2, ..Tunables::default() },
        background: Background::Manual,
    };
    Store::open(Environment::with_io(io), options)
}

/// A store with a checkpoint, commits after it, and an end that the next open has to write again.
fn fill_and_crash(store: Arc<Store>) {
    for text in ["a", "b", "c"] {
        write(&store, &store.create_facet(&name(text)).unwrap(), 1);
    }
    store.checkpoint().unwrap();
    for byte in 2..=7 {
        write(&store, &store.open_facet(&name("a")).unwrap(), byte);
    }
    store.delete_facet(&name("c")).unwrap();
    store.flush().unwrap();
    drop(store);
}

/// Recovers the store in `base` through an overlay, reads what is there, changes a lot.
fn use_through_overlay(base: &Arc<dyn Io>) {
    for _ in 0..2 {
        // Each time as if it were the first.
        let overlay = Arc::new(OverlayIo::new(Arc::clone(base)));
        let store = open_on(Arc::clone(&overlay) as _).unwrap();
        assert_eq!(store.stat().io_backend, "overlay");
        let a = store.open_facet(&name("a")).unwrap();
        assert_eq!((read(&a), read(&store.open_facet(&name("b")).unwrap())), (7, 1));
        assert!(!store.facet_exists(&name("c")));
        let segments = store.stat().segments;
        for byte in 10..60 {
            write(&store, &a, byte);
            if byte % 10 == 0 {
                store.checkpoint().unwrap();
            }
        }
        for number in 0..100 {
            write(&store, &store.create_facet(&name(format!("new/{number}"))).unwrap(), 3);
        }
        store.delete_facet(&name("b")).unwrap();
        store.flush().unwrap();
        while store.maintain().unwrap() {}
        assert!(store.stat().segments > segments, "segments are created, too");
        drop((a, store));

        // What was changed stays as long as the overlay does.
        let store = open_on(Arc::clone(&overlay) as _).unwrap();
        assert_eq!(read(&store.open_facet(&name("a")).unwrap()), 59);
        assert_eq!(read(&store.open_facet(&name("new/99")).unwrap()), 3);
        assert!(!store.facet_exists(&name("b")));
        store.close().unwrap();
    }
}

#[test]
fn not_a_byte_of_the_base_changes() {
    let disk = FaultyIo::default();
    fill_and_crash(open(&disk));
    let before = disk.image();
    use_through_overlay(&(Arc::new(disk.clone()) as Arc<dyn Io>));
    assert!(disk.image() == before);
    // What was looked at goes on where it was.
    assert_eq!(read(&open(&disk).open_facet(&name("a")).unwrap()), 7);
}

/// If this fails, a store in use is looked at while it changes, and found corrupt.
#[test]
fn a_store_in_use_is_refused() {
    let base = Disk::new().io();
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::create() };
    let store = Store::open(Environment::with_io(Arc::clone(&base)), options).unwrap();
    let overlay: Arc<dyn Io> = Arc::new(OverlayIo::new(Arc::clone(&base)));
    let refused = open_on(Arc::clone(&overlay)).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    store.close().unwrap();

    let looking = open_on(overlay).unwrap();
    let refused = open_on(Arc::clone(&base)).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    drop(looking);
    open_on(base).unwrap();
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let overlay = || Arc::new(OverlayIo::new(Arc::new(PosixIo::new(&path))));
    let missing = open_on(overlay()).unwrap_err();
    assert!(matches!(missing, Error::Missing { .. }), "{missing}");
    // In memory it may be.
    let store = Store::open(Environment::with_io(overlay()), StoreOptions::create()).unwrap();
    write(&store, &store.create_facet(&name("a")).unwrap(), 1);
    store.close().unwrap();
    assert!(!path.exists());
}

/// Content, and times of the last change, of all that is in a directory.
fn everything_in(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.metadata().unwrap();
        let content = if metadata.is_dir() {
            found.extend(everything_in(&path));
            Vec::new()
        } else {
            std::fs::read(&path).unwrap()
        };
        found.insert(path, (content, metadata.modified().unwrap()));
    }
    found
}

/// A store that nobody may write to: by permissions, which a privileged process does not mind, and
/// where this one may mount it, on a file system that is read-only. With its lock file and without.
#[test]
fn a_store_that_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(
        Environment::system(&path),
        StoreOptions {
            format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
            background: Background::Manual,
            ..StoreOptions::create()
        },
    );
    fill_and_crash(store.unwrap());
    let base: Arc<dyn Io> = Arc::new(PosixIo::new(&path));
    for has_lock in [true, false] {
        if !has_lock {
            std::fs::remove_file(path.join("LOCK")).unwrap();
        }
        let before = everything_in(&path);
        allow_writing(&path, false);
        use_through_overlay(&base);
        allow_writing(&path, true);
        let mounted = ReadOnly::mount(&path);
        if mounted.is_some() {
            let refused = open_on(Arc::clone(&base)).unwrap_err();
            assert!(matches!(refused, Error::Io { .. }), "{refused}");
            use_through_overlay(&base);
        } else {
            println!("no permission to mount read-only: by file permissions only");
        }
        drop(mounted);
        assert!(everything_in(&path) == before);
    }
}

fn allow_writing(directory: &Path, is_allowed: bool) {
    let set = |path: &Path| {
        let mut permissions = path.metadata().unwrap().permissions();
        let bits = if path.is_dir() { 0o555 } else { 0o444 };
        let bits = if is_allowed { bits | 0o200 } else { bits };
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, bits);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    set(directory);
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            allow_writing(&path, is_allowed);
        } else {
            set(&path);
        }
    }
}

/// A directory mounted over itself, read-only.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(at: &Path) -> Option<Self> {
        let run = |arguments: &[&str], paths: usize| {
            let mut command = Command::new("mount");
            command.args(arguments).stderr(Stdio::null());
            command.args(std::iter::repeat_n(at, paths));
            command.status().is_ok_and(|status| status.success())
        };
        let mounted = run(&["--bind"], 2).then(|| Self(at.to_owned()))?;
        run(&["-o", "remount,bind,ro"], 1).then_some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}
