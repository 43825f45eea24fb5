//! A bar on standard error for whatever takes more than a second; none where that is no terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::output::Output;

const PATIENCE: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Things,
}

#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    /// Not for programs.
    may_show: bool,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(output: &Output, what: &str, unit: Unit) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let template = match unit {
            Unit::Bytes => "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            Unit::Things => "{msg} {wide_bar} {human_pos} of {human_len}, {per_sec}, {eta} left",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self { bar, since: Instant::now(), may_show: !output.is_json(), shown: false }
    }

    pub(crate) fn set(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.may_show && !self.shown && self.since.elapsed() > PATIENCE {
            // Draws nothing if standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
    }

    pub(crate) fn message(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Tells of a failure that is not the end, without the bar in its way.
    pub(crate) fn report(&self, failure: &Failure) {
        self.bar.suspend(|| failure.print());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
