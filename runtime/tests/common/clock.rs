//! A wall clock that stands still until it is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary::{Clock, Environment};
use lapidary_engine::MemoryIo;

/// Where the clock begins, in milliseconds since the Unix epoch.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
pub(crate) struct ManualClock {
    wall_ms: Arc<AtomicU64>,
    system: Arc<dyn Clock>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        let system = Environment::with_io(Arc::new(MemoryIo::new())).clock;
        Self { wall_ms: Arc::new(AtomicU64::new(START_MS)), system }
    }

    pub(crate) fn set(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }

    /// Files in `memory`, at this time.
    pub(crate) fn environment(&self, memory: &MemoryIo) -> Environment {
        let environment = Environment::with_io(Arc::new(memory.clone()));
        Environment { clock: Arc::new(self.clone()), ..environment }
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.system.monotonic_ns()
    }
}
