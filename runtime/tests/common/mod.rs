//! A disk in memory whose syncs can be held up or made to fail, and hosts on it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod clock;

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use lapidary::{Environment, FacetHandle, Host, HostConfig};
use lapidary_engine::{DirectoryState, FileName, FileNo, Io, IoFile, MemoryIo, WriteSyncError};

/// Long enough for anything that is to happen; reached only by a failing test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    Passes,
    Waits,
    Fails,
}

#[derive(Debug, Default)]
struct State {
    sync: Sync,
    waiting: usize,
}

/// The switch of a [`disk`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<(Mutex<State>, Condvar)>);

impl Switch {
    fn set(&self, sync: Sync) {
        self.0.0.lock().unwrap().sync = sync;
        self.0.1.notify_all();
    }

    /// From now on syncs wait.
    pub(crate) fn hold(&self) {
        self.set(Sync::Waits);
    }

    /// From now on syncs, also those that wait, succeed.
    pub(crate) fn release(&self) {
        self.set(Sync::Passes);
    }

    /// From now on syncs, also those that wait, fail.
    pub(crate) fn fail(&self) {
        self.set(Sync::Fails);
    }

    /// Returns when a sync waits.
    pub(crate) fn await_sync(&self) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let (state, _) =
            changed.wait_timeout_while(state, PATIENCE, |state| state.waiting == 0).unwrap();
        assert!(state.waiting > 0, "no sync was asked for");
    }

    /// Releases the disk when it is dropped, so that a failing test can end.
    pub(crate) fn release_at_end(&self) -> ReleaseAtEnd {
        ReleaseAtEnd(self.clone())
    }

    fn sync(&self) -> io::Result<()> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.waiting += 1;
        changed.notify_all();
        let mut state = changed.wait_while(state, |state| state.sync == Sync::Waits).unwrap();
        state.waiting -= 1;
        if state.sync == Sync::Fails { Err(io::Error::other("made to fail")) } else { Ok(()) }
    }
}

pub(crate) struct ReleaseAtEnd(Switch);

impl Drop for ReleaseAtEnd {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[derive(Debug)]
struct SwitchedIo {
    inner: MemoryIo,
    switch: Switch,
}

#[derive(Debug)]
struct SwitchedFile {
    inner: Arc<dyn IoFile>,
    switch: Switch,
}

impl SwitchedIo {
    fn wrap(&self, inner: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        Arc::new(SwitchedFile { inner, switch: self.switch.clone() })
    }
}

impl Io for SwitchedIo {
    fn describe(&self) -> String {
        "(switched memory)".to_owned()
    }
    fn inspect(&self) -> io::Result<DirectoryState> {
        self.inner.inspect()
    }
    fn create_directory(&self) -> io::Result<()> {
        self.inner.create_directory()
    }
    fn lock(&self) -> io::Result<Option<Box<dyn Send + std::marker::Sync>>> {
        self.inner.lock()
    }
    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.wrap(self.inner.open(name)?))
    }
    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.wrap(self.inner.create(name)?))
    }
    fn remove(&self, name: FileName) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.inner.list_segments()
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }
}

impl IoFile for SwitchedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, bytes)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn write_and_sync(&self, offset: u64, bytes: &[u8]) -> Result<(), WriteSyncError> {
        self.inner.write_at(offset, bytes).map_err(WriteSyncError::Write)?;
        self.switch.sync().map_err(WriteSyncError::Sync)?;
        self.inner.sync().map_err(WriteSyncError::Sync)
    }
}

/// Files in `memory`: the syncs of the log obey the switch, those of files that are made ahead do not.
pub(crate) fn disk(memory: &MemoryIo) -> (Environment, Switch) {
    let switch = Switch::default();
    let io = SwitchedIo { inner: memory.clone(), switch: switch.clone() };
    (Environment::with_io(Arc::new(io)), switch)
}

/// A host on a disk whose syncs obey the switch, and its facet `name`, which has a table `t(x)`.
pub(crate) fn facet_on_switch(name: &str) -> (Host, FacetHandle, Switch) {
    let (environment, switch) = disk(&MemoryIo::new());
    let host = Host::open_in(environment, config(1)).unwrap();
    let facet = host.facet(name).unwrap();
    facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    (host, facet, switch)
}

/// Defaults, on `cores` threads left to the scheduler, since tests run side by side.
pub(crate) fn config(cores: usize) -> HostConfig {
    HostConfig::new().cores(NonZeroUsize::new(cores).unwrap()).pin_cores(false)
}

/// A host in memory.
pub(crate) fn host(cores: usize) -> Host {
    host_on(&MemoryIo::new(), config(cores))
}

/// A host on files in `memory`.
pub(crate) fn host_on(memory: &MemoryIo, config: HostConfig) -> Host {
    Host::open_in(Environment::with_io(Arc::new(memory.clone())), config).unwrap()
}

/// Returns when `holds` does.
pub(crate) fn await_that(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "did not come about: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}
