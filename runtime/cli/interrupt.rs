//! Ctrl-C where it does not end the command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::failure::{Exit, Failure, Outcome};

/// Whether Ctrl-C was pressed since it was last cleared.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ctrl-C sets this from now on, and does nothing else.
    pub(crate) fn catch() -> Outcome<Self> {
        let pressed = Arc::new(AtomicBool::new(false));
        flag::register(SIGINT, Arc::clone(&pressed)).map_err(refused)?;
        Ok(Self(pressed))
    }

    /// The first Ctrl-C sets this from now on; the second ends the command at once.
    pub(crate) fn catch_first() -> Outcome<Self> {
        let pressed = Arc::new(AtomicBool::new(false));
        // In this order: the other way round the first would end it.
        let status = Exit::Interrupted as i32;
        flag::register_conditional_shutdown(SIGINT, status, Arc::clone(&pressed))
            .map_err(refused)?;
        flag::register(SIGINT, Arc::clone(&pressed)).map_err(refused)?;
        Ok(Self(pressed))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn refused(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("Ctrl-C cannot be caught: {error}"))
}

/// What is said where it was pressed amid many files.
pub(crate) fn stopped() -> Failure {
    let words = "stopped by Ctrl-C; run the same again to go on with the rest";
    Failure::new(Exit::Interrupted, words)
}
