//! The thread that ships: when, and what it does when the bucket does not answer.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Inner;
use super::attach::may_pass;
use super::error::BucketError;

/// How often it looks whether something waits to be shipped.
const LOOK: Duration = Duration::from_millis(20);
/// After a failed request: the first pause, which doubles, up to the last.
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(super) struct ShipThread {
    control: Arc<Control>,
    handle: JoinHandle<()>,
}

#[derive(Default)]
struct Control {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Asked {
    hurry: bool,
    stop: bool,
}

impl ShipThread {
    pub(super) fn start(inner: Arc<Inner>) -> io::Result<Self> {
        let control = Arc::<Control>::default();
        let run = {
            let control = Arc::clone(&control);
            move || run(&inner, &control)
        };
        let handle = std::thread::Builder::new().name("lapidary-ship".to_owned()).spawn(run)?;
        Ok(Self { control, handle })
    }

    /// Somebody waits for a shipment.
    pub(super) fn hurry(&self) {
        self.control.change(|asked| asked.hurry = true);
    }

    pub(super) fn stop(self) {
        self.control.change(|asked| asked.stop = true);
        if self.handle.join().is_err() {
            tracing::error!("the thread that ships has panicked");
        }
    }
}

impl Control {
    fn change(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits for so long, or until something is asked; says what.
    fn wait(&self, time: Duration, unless: impl Fn(&Asked) -> bool) -> Asked {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(asked, time, |asked| !unless(asked));
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn run(inner: &Inner, control: &Control) {
    let settings = &inner.settings;
    let mut last: Option<Instant> = None;
    let mut backoff = BACKOFF;
    loop {
        let asked = control.wait(LOOK, |asked| asked.stop || asked.hurry);
        if asked.stop {
            return;
        }
        let since = last.map_or(Duration::MAX, |last| last.elapsed());
        let is_due = {
            let bytes = inner.journal.pending_bytes();
            let much = bytes >= settings.tail_bytes;
            let old = inner.journal.is_changed() && since >= settings.interval;
            let renew = inner.lease.now_ns() >= inner.shipper().renewal_due_ns();
            renew || (inner.store.get().is_some() && (asked.hurry || much || old))
        };
        // However much waits: the pause bounds the number of requests.
        if !is_due || since < settings.pause {
            if asked.hurry {
                // Not to spin until the pause is over.
                control.wait(settings.pause.saturating_sub(since), |asked| asked.stop);
            }
            continue;
        }
        control.change(|asked| asked.hurry = false);
        last = Some(Instant::now());
        match inner.ship() {
            Ok(_) => backoff = BACKOFF,
            Err(BucketError::Fenced { .. }) => return,
            Err(error) => {
                if may_pass(&error) {
                    tracing::warn!(%error, "the bucket is behind; it is tried again");
                } else {
                    tracing::error!(%error, "the bucket is behind, and this does not pass by itself");
                }
                if control.wait(jittered(inner, backoff), |asked| asked.stop).stop {
                    return;
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
                // It is asked for as long as it is under way.
                control.change(|asked| asked.hurry = true);
                last = None;
            }
        }
    }
}

/// Between half of `time` and all of it, so that hosts that failed together do not come back together.
fn jittered(inner: &Inner, time: Duration) -> Duration {
    let mut random = [0; 4];
    inner.environment.entropy.fill(&mut random);
    let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    time.mul_f64(0.5 + share / 2.0)
}
