//! Threads of the host that do something every so often.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::error::{HostError, Result};

/// Why a ticker is asked to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// It is time.
    Due,
    /// The host has shut down, for the last time.
    Last,
}

/// The tickers of a host.
#[derive(Default)]
pub(crate) struct Tickers(Mutex<Option<Vec<Ticker>>>);

struct Ticker {
    /// Dropped to stop it.
    running: Sender<()>,
    thread: JoinHandle<()>,
}

impl Tickers {
    /// Starts a thread that calls `tick` each time `every` has passed, until that breaks or the host has
    /// shut down.
    pub(crate) fn start(
        &self,
        name: &'static str,
        every: Duration,
        mut tick: impl FnMut(Tick) -> ControlFlow<()> + Send + 'static,
    ) -> Result<()> {
        let (running, stopped) = bounded::<()>(0);
        let run = move || {
            loop {
                match stopped.recv_timeout(every) {
                    Err(RecvTimeoutError::Timeout) => {
                        if tick(Tick::Due).is_break() {
                            return;
                        }
                    }
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                        // Nothing comes after it.
                        let _ = tick(Tick::Last);
                        return;
                    }
                }
            }
        };
        let mut tickers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| HostError::Thread { name, source })?;
        let tickers = tickers.get_or_insert_default();
        tickers.retain(|ticker| !ticker.thread.is_finished());
        tickers.push(Ticker { running, thread });
        Ok(())
    }

    /// Has each work for the last time, and waits for it.
    pub(crate) fn stop(&self) {
        let tickers = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        for Ticker { running, thread } in tickers.into_iter().flatten() {
            drop(running);
            if thread.join().is_err() {
                tracing::error!("a thread that worked every so often panicked");
            }
        }
    }
}
