//! A store with its host. Callers keep many calls outstanding, as many agents would that each await
//! their own reply.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lapidary::{Call, FacetHandle, ForkFrom, Host, HostConfig, ImportOptions};

use super::work::{self, Random};
use super::{Outcome, Side};
use crate::failure::{Exit, Failure};

/// Calls that one thread has outstanding.
const IN_FLIGHT: usize = 256;

pub(super) struct Packed {
    path: PathBuf,
    facets: u32,
    threads: usize,
    /// `None` once it has been shut down and before it is open again.
    host: Option<Host>,
    handles: Vec<FacetHandle>,
}

impl Packed {
    pub(super) fn open(directory: &Path, facets: u32) -> Outcome<Self> {
        let (path, threads) = (directory.join("store"), work::threads());
        let host = open_host(&path, facets, threads)?;
        host.facet("source")?.import(
            directory.join(work::SOURCE),
            ImportOptions::new().scratch_directory(directory),
        )?;
        Ok(Self { path, facets, threads, host: Some(host), handles: Vec::new() })
    }

    fn host(&self) -> Outcome<&Host> {
        self.host.as_ref().ok_or_else(|| Failure::new(Exit::Failed, "the store is closed"))
    }
}

fn open_host(path: &Path, facets: u32, threads: usize) -> Outcome<Host> {
    let cores = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    let facets = facets as usize;
    let config =
        HostConfig::new().cores(cores).resident_facets_max(facets).idle_readers_max(facets);
    Ok(Host::open(path, config)?)
}

/// Calls that are outstanding, the oldest first.
#[derive(Default)]
struct Window(VecDeque<Call<()>>);

impl Window {
    /// Takes a call, and waits for the oldest if there are too many.
    fn push(&mut self, call: Call<()>) -> Outcome {
        self.0.push_back(call);
        if self.0.len() > IN_FLIGHT
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.wait()?;
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        for call in self.0 {
            call.wait()?;
        }
        Ok(())
    }
}

impl Side for Packed {
    fn create(&mut self, count: u32) -> Outcome {
        let host = self.host()?;
        let mut window = Window::default();
        for number in 0..count {
            window.push(host.facet(format!("made-{number}"))?.execute_batch(work::SCHEMA))?;
        }
        window.finish()
    }

    fn fork(&mut self, count: u32) -> Outcome {
        let host = self.host()?;
        let mut window = Window::default();
        let mut handles = Vec::new();
        for number in 0..count {
            // One level: the first one decides which core a facet belongs to.
            let name = format!("fork-{number}");
            handles.push(host.facet(&name)?);
            window.push(host.fork("source", &name, ForkFrom::Latest))?;
        }
        window.finish()?;
        self.handles = handles;
        Ok(())
    }

    fn turns(&mut self, length: Duration) -> Outcome<u64> {
        let handles = &self.handles;
        let end = Instant::now() + length;
        let done = work::on_threads(self.threads, |thread| {
            let mut random = Random::new(1 + thread as u64);
            let mut window = Window::default();
            let mut done = 0;
            while Instant::now() < end {
                let seed = random.next();
                let handle = &handles[random.below(handles.len())];
                window.push(handle.transaction(move |tx| Ok(work::turn(tx, seed)?)))?;
                done += 1;
            }
            window.finish()?;
            Ok(done)
        })?;
        Ok(done.into_iter().sum())
    }

    fn count_targets(&self) -> usize {
        self.handles.len()
    }

    fn turn(&mut self, target: usize, seed: u64) -> Outcome {
        Ok(self.handles[target].transaction(move |tx| Ok(work::turn(tx, seed)?)).wait()?)
    }

    fn read_each(&mut self) -> Outcome {
        let mut window = Window::default();
        for handle in &self.handles {
            window.push(handle.run(|connection| Ok(work::read(connection).map(|_| ())?)))?;
        }
        window.finish()
    }

    fn count(&mut self) -> Outcome<u64> {
        let mut sum = 0;
        for handle in &self.handles {
            sum += handle.run(|connection| Ok(work::count(connection)?)).wait()?;
        }
        Ok(sum)
    }

    fn open_cold(&mut self) -> Outcome<Vec<Duration>> {
        let names: Vec<_> =
            self.handles.drain(..).take(work::COLD).map(|handle| handle.name().clone()).collect();
        if let Some(host) = self.host.take() {
            host.shutdown()?;
        }
        let host = open_host(&self.path, self.facets, self.threads)?;
        let mut times = Vec::new();
        for name in names {
            let handle = host.facet(name.as_str())?;
            let started = Instant::now();
            handle.read(|connection| Ok(work::read(connection)?))?;
            times.push(started.elapsed());
        }
        host.shutdown()?;
        Ok(times)
    }
}
