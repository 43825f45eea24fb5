//! Interleavings of callers and a core at a mailbox, one after the other, by loom: every one in which a
//! thread is interrupted at most as often as `LOOM_MAX_PREEMPTIONS` says. `docs/TESTING.md` has the
//! command.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use lapidary_engine::Ticket;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::{DurableSignal, Event, Inbox, Mailbox, Moved, Post, Refused, mailbox};
use crate::core_thread::Core;
use crate::error::HostError;
use crate::schedule::LaneKey;
use crate::task::Task;

/// A call that counts what becomes of it.
struct Counted {
    gone: Arc<AtomicUsize>,
}

impl Task for Counted {
    fn made(&self) -> Instant {
        Instant::now()
    }

    fn run(&mut self, _: &mut Core) -> Ticket {
        Ticket::DURABLE
    }

    fn terms(&self) -> crate::terms::Terms {
        crate::terms::Terms::default()
    }

    fn joins(&self) -> bool {
        false
    }

    fn spoil(&mut self, _: &Arc<HostError>) {}

    fn release(self: Box<Self>, _: Option<&str>) {}
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::SeqCst);
    }
}

/// An executor with one future.
#[derive(Default)]
struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Alarm {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no panic under the lock");
        while !*rung {
            rung = self.changed.wait(rung).expect("no panic under the lock");
        }
        *rung = false;
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().expect("no panic under the lock") = true;
        self.changed.notify_one();
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(3);
    }
    builder.check(model);
}

/// Enters a call, waiting for room; false if the mailbox is closed.
fn enter(mailbox: &Mailbox, gone: &Arc<AtomicUsize>) -> bool {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let call: Box<dyn Task> = Box::new(Counted { gone: Arc::clone(gone) });
    let (lane, mut post) = (LaneKey::of(None), Post { call, scopes: None });
    loop {
        match mailbox.enter(&lane, 1, 0, post, Some(&waker)) {
            Ok(Ok(())) => return true,
            Ok(Err(Refused::Closed)) => return false,
            Ok(Err(Refused::Full(_, back))) => post = back,
            Err(Moved(_)) => unreachable!("nothing moves here"),
        }
        alarm.wait();
    }
}

/// As `Core::run` does it, until the host is closed and nothing is left: how many calls it took.
fn serve(inbox: &Inbox, is_closed: &AtomicBool) -> usize {
    let mut calls = 0;
    let mut event = inbox.next(Duration::ZERO);
    loop {
        match event {
            Event::Task(task) => {
                drop(task);
                calls += 1;
                inbox.take_durable();
            }
            Event::Durable => {}
        }
        event = match inbox.try_next() {
            Some(task) => Event::Task(task),
            None if is_closed.load(Ordering::Acquire) => break,
            None => inbox.next(Duration::ZERO),
        };
    }
    while let Some(task) = inbox.try_next() {
        drop(task);
        calls += 1;
    }
    calls
}

/// A core that serves `inbox` on a thread of its own, and the flag that closes it.
fn core(inbox: Inbox) -> (thread::JoinHandle<usize>, Arc<AtomicBool>) {
    let is_closed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_closed);
    (thread::spawn(move || serve(&inbox, &flag)), is_closed)
}

#[test]
fn who_waits_for_room_is_woken() {
    explore(|| {
        let gone = Arc::new(AtomicUsize::new(0));
        let (mailbox, inbox, _signal) = mailbox(1);
        let mailbox = Arc::new(mailbox);
        let other = {
            let (mailbox, gone) = (Arc::clone(&mailbox), Arc::clone(&gone));
            thread::spawn(move || assert!(enter(&mailbox, &gone)))
        };
        let (core, is_closed) = core(inbox);
        assert!(enter(&mailbox, &gone));
        other.join().expect("no panic");
        is_closed.store(true, Ordering::Release);
        mailbox.wake();
        assert_eq!(core.join().expect("no panic"), 2);
        assert_eq!(gone.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_core_that_ends_leaves_no_call_and_no_caller_behind() {
    explore(|| {
        let gone = Arc::new(AtomicUsize::new(0));
        let (mailbox, inbox, _signal) = mailbox(1);
        let mailbox = Arc::new(mailbox);
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (mailbox, gone) = (Arc::clone(&mailbox), Arc::clone(&gone));
                thread::spawn(move || enter(&mailbox, &gone))
            })
            .collect();
        drop(inbox);
        for caller in callers {
            caller.join().expect("no panic");
        }
        assert_eq!(gone.load(Ordering::SeqCst), 2, "a call that nobody will run or drop");
    });
}

#[test]
fn a_core_hears_that_the_host_is_closed() {
    explore(|| {
        let gone = Arc::new(AtomicUsize::new(0));
        let (mailbox, inbox, _signal) = mailbox(1);
        let (core, is_closed) = core(inbox);
        let entered = enter(&mailbox, &gone);
        is_closed.store(true, Ordering::Release);
        mailbox.wake();
        let served = core.join().expect("no panic");
        drop(mailbox);
        assert!(entered && served == 1 && gone.load(Ordering::SeqCst) == 1);
    });
}

/// What is published before the token is put is seen by the asking that follows its taking.
#[test]
fn a_core_hears_of_everything_durable() {
    explore(|| {
        let (_mailbox, inbox, signal) = mailbox(1);
        let durable = Arc::new(AtomicUsize::new(0));
        let publish = |durable: &AtomicUsize, signal: &DurableSignal| {
            durable.fetch_add(1, Ordering::AcqRel);
            signal.put();
        };
        let other = {
            let (durable, signal) = (Arc::clone(&durable), signal.clone());
            thread::spawn(move || publish(&durable, &signal))
        };
        publish(&durable, &signal);
        while durable.load(Ordering::Acquire) < 2 {
            assert!(matches!(inbox.next(Duration::ZERO), Event::Durable));
        }
        other.join().expect("no panic");
    });
}
