//! Processes of their own: what is measured in one begins with memory nobody has used, and ends as
//! a killed process does, without closing anything.
//!
//! The parent starts its own program again and gives it one line of JSON, the assignment. The child
//! answers with lines of JSON: how far it is, and at last what came of it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Doing as _, Failure, Result};

/// What has to be cleared away when the run is interrupted.
#[derive(Clone, Debug)]
pub struct Interruption {
    child: Arc<Mutex<Option<Child>>>,
    interrupted: Arc<AtomicBool>,
}

impl Interruption {
    /// From now on Ctrl-C and a polite kill end the child process and remove `work`.
    pub fn prepare(work: &Path) -> Result<Self> {
        let this = Self { child: Arc::default(), interrupted: Arc::default() };
        let (handler, work) = (this.clone(), work.to_owned());
        ctrlc::set_handler(move || {
            handler.interrupted.store(true, Ordering::SeqCst);
            if let Some(child) = &mut *handler.lock() {
                // Either fails only if the process has ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = fs::remove_dir_all(&work);
            std::process::exit(130);
        })
        .doing(|| "preparing for Ctrl-C".to_owned())?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the child that is running, which says nothing more then.
    pub fn kill_child(&self) {
        if let Some(child) = &mut *self.lock() {
            // Fails only if the process has ended already.
            let _ = child.kill();
        }
    }

    /// Waits for the child, which has closed its output.
    fn wait(&self) -> Result<std::process::ExitStatus> {
        if self.interrupted.load(Ordering::SeqCst) {
            // The handler is about to end this process; going on would get in its way.
            loop {
                std::thread::park();
            }
        }
        let child = self.lock().take();
        match child {
            Some(mut child) => child.wait().doing(|| "waiting for a child process".to_owned()),
            None => Err(Failure::new("there is no process to wait for")),
        }
    }

    /// Starts this program with `argument`, gives it `assignment`, and hands what it says to
    /// `listen`. `who` is what messages call it.
    pub fn run_child<M: DeserializeOwned>(
        &self,
        who: &str,
        argument: &str,
        assignment: &impl Serialize,
        mut listen: impl FnMut(M),
    ) -> Result<std::process::ExitStatus> {
        let program = std::env::current_exe().doing(|| "finding this program".to_owned())?;
        let mut child = Command::new(program)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing(|| format!("starting a process for {who}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        *self.lock() = Some(child);
        let (Some(mut input), Some(output)) = (input, output) else {
            return Err(Failure::new("a process was started without its pipes"));
        };
        let mut line = serde_json::to_string(assignment)
            .doing(|| "putting an assignment into words".to_owned())?;
        line.push('\n');
        // A process that ended early is reported by the caller, with its exit status.
        let _ = input.write_all(line.as_bytes());
        drop(input);
        for line in BufReader::new(output).lines() {
            let line = line.doing(|| format!("listening to the process of {who}"))?;
            listen(
                serde_json::from_str(&line)
                    .doing(|| format!("understanding the process of {who}"))?,
            );
        }
        self.wait()
    }
}

/// In a child: its assignment. From now on it ends when its parent does.
pub fn receive<A: DeserializeOwned>() -> Result<A> {
    // Without this, killing the parent would leave a child running.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .doing(|| "asking to end with the parent process".to_owned())?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).doing(|| "reading the assignment".to_owned())?;
    serde_json::from_str(&line).doing(|| "understanding the assignment".to_owned())
}

/// The whole life of a child: says what `run` returns, or that it `failed`. Does not return, so that
/// nothing is closed on the way out.
pub fn serve<M: Serialize>(run: impl FnOnce() -> Result<M>, failed: impl FnOnce(String) -> M) -> ! {
    let (message, code) = match run() {
        Ok(message) => (message, 0),
        Err(failure) => (failed(failure.to_string()), 1),
    };
    let said = say(&message);
    std::process::exit(if said.is_ok() { code } else { 1 });
}

/// In a child: tells the parent.
pub fn say(message: &impl Serialize) -> Result<()> {
    let mut line =
        serde_json::to_string(message).doing(|| "putting a message into words".to_owned())?;
    line.push('\n');
    let mut output = io::stdout().lock();
    output
        .write_all(line.as_bytes())
        .and_then(|()| output.flush())
        .doing(|| "reporting to the parent process".to_owned())
}
