//! The reply to come.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use lapidary_engine::{FacetName, Ticket};

use crate::config::MailboxFull;
use crate::core_thread::{self, Core};
use crate::error::{HostError, Result};
use crate::line::{Line, Place};
use crate::mailbox::{Moved, Post, Refused};
use crate::placement::Seat;
use crate::schedule::{Full, LaneKey, Scope};
use crate::shared::Shared;
use crate::task::Job;
use crate::terms::Terms;

/// Where calls go: a facet, or the store as a whole, and the core in charge.
pub(crate) struct Target {
    pub(crate) host: Arc<Shared>,
    seat: Seat,
    /// Of the facet, if it is one.
    lane: LaneKey,
    lane_max: LaneMax,
    /// Calls of this target that met a full mailbox. While there are any, later calls of the target
    /// line up behind them.
    line: Line,
}

impl Target {
    /// The facet `name`, on whichever core it is.
    pub(crate) fn facet_of(host: &Arc<Shared>, name: FacetName) -> Arc<Self> {
        let seat = Seat::of(&name, &host.placement);
        Self::new(host, seat, Some(name))
    }

    /// Nothing in particular, on `core`.
    pub(crate) fn on_core(host: &Arc<Shared>, core: usize) -> Arc<Self> {
        Self::new(host, Seat::fixed(core), None)
    }

    fn new(host: &Arc<Shared>, seat: Seat, facet: Option<FacetName>) -> Arc<Self> {
        Arc::new(Self {
            host: Arc::clone(host),
            seat,
            lane: LaneKey::of(facet),
            lane_max: LaneMax::default(),
            line: Line::default(),
        })
    }

    /// Number of the core that serves it now.
    pub(crate) fn core(&self) -> usize {
        self.find().0
    }

    fn find(&self) -> (usize, u64) {
        match self.facet() {
            Some(facet) => self.seat.find(facet, &self.host.placement),
            None => self.seat.known(),
        }
    }

    /// Puts a call into the mailbox of the core in charge.
    pub(crate) fn enter(&self, mut post: Post, waker: Option<&Waker>) -> Result<(), Refused> {
        let lane_max = self.lane_max();
        loop {
            let (core, placement) = self.find();
            let mailbox = &self.host.mailboxes[core];
            match mailbox.enter(&self.lane, lane_max, placement, post, waker) {
                // The new placement is published before the old core is told.
                Err(Moved(back)) => post = back,
                Ok(entered) => return entered,
            }
        }
    }

    /// Makes a call of `work`, the last one of what is within `root` on the core `from`.
    pub(crate) fn leave<W>(
        self: &Arc<Self>,
        root: &FacetName,
        from: usize,
        placement: u64,
        work: W,
    ) -> Call<()>
    where
        W: FnOnce(&mut Core) -> (Result<()>, Ticket) + Send + 'static,
    {
        let (reply, receiver) = oneshot::channel();
        let task = Job::boxed(self.facet().cloned(), reply, false, Terms::default(), work);
        let state = if self.host.mailboxes[from].leave(root, placement, task) {
            State::Sent(receiver)
        } else {
            State::Failed(self.gone())
        };
        Call { state, target: Some(Arc::clone(self)) }
    }

    pub(crate) fn facet(&self) -> Option<&FacetName> {
        self.lane.facet()
    }

    /// Makes a call of `work`, which has its turn when those of this target before it have had theirs.
    pub(crate) fn call<T, W>(self: &Arc<Self>, work: W) -> Call<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
    {
        self.send(None, false, Terms::default(), work)
    }

    /// As [`call`](Self::call), with terms of its own.
    pub(crate) fn call_on<T, W>(self: &Arc<Self>, terms: Terms, work: W) -> Call<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
    {
        self.send(None, false, terms, work)
    }

    /// As [`call_on`](Self::call_on), for work that is a [`join`](Core::join).
    pub(crate) fn call_joining<T, W>(self: &Arc<Self>, terms: Terms, work: W) -> Call<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
    {
        self.send(None, true, terms, work)
    }

    /// Makes a call of `work`, which has its turn after all calls made before on what `scopes` names,
    /// and before those made later.
    pub(crate) fn call_over<T, W>(self: &Arc<Self>, scopes: Vec<Scope>, work: W) -> Call<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
    {
        self.send(Some(scopes.into_boxed_slice()), false, Terms::default(), work)
    }

    fn send<T, W>(
        self: &Arc<Self>,
        scopes: Option<Box<[Scope]>>,
        joins: bool,
        terms: Terms,
        work: W,
    ) -> Call<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
    {
        if let Err(error) = self.host.check_open(self.facet()) {
            return Call::failed(error);
        }
        if let Err(error) = self.host.check_terms(terms) {
            return Call::failed(error);
        }
        let (reply, receiver) = oneshot::channel();
        let post =
            Post { call: Job::boxed(self.facet().cloned(), reply, joins, terms, work), scopes };
        let refused = if self.line.is_empty() {
            self.enter(post, None)
        } else {
            Err(Refused::Full(Full::Facet, post))
        };
        let state = match refused {
            Ok(()) => State::Sent(receiver),
            Err(Refused::Closed) => State::Failed(self.gone()),
            Err(Refused::Full(full, post)) => match self.host.mailbox_full {
                MailboxFull::Wait => {
                    let place = self.line.join(post);
                    State::Unsent(InLine { target: Arc::clone(self), place }, receiver)
                }
                MailboxFull::Error => State::Failed(self.full(full)),
            },
        };
        Call { state, target: Some(Arc::clone(self)) }
    }

    fn full(&self, full: Full) -> HostError {
        match (full, self.facet()) {
            (Full::Facet, Some(facet)) => {
                HostError::FacetBusy { facet: facet.clone(), calls_max: self.lane_max() }
            }
            (_, facet) => HostError::MailboxFull {
                facet: facet.cloned(),
                core: self.core(),
                calls_max: self.host.mailbox_calls_max,
            },
        }
    }

    /// Most calls that wait in the lane.
    fn lane_max(&self) -> usize {
        match self.facet() {
            Some(facet) => self.lane_max.of(facet, &self.host),
            None => self.host.mailbox_calls_max,
        }
    }

    /// Why no reply will come.
    fn gone(&self) -> HostError {
        let facet = self.facet().cloned();
        // A core that was lost did not run to the end of its mailbox, whatever came afterwards.
        let core = self.core();
        if self.host.lost[core].load(Ordering::Acquire) || !self.host.is_closed() {
            HostError::CoreLost { facet, core }
        } else {
            HostError::Closed { facet }
        }
    }

    /// Whether the calling thread may wait for a reply.
    pub(crate) fn check_wait(&self) -> Result<()> {
        self.host.check_process()?;
        if core_thread::is_current() {
            return Err(HostError::WaitOnCore { facet: self.facet().cloned() });
        }
        Ok(())
    }
}

/// What the facet's policy says of calls that wait, and the generation of the policies it is of: each
/// in one half, read and written as one. Generation 0 is never written: it is not looked up yet.
#[derive(Default)]
struct LaneMax(AtomicU64);

impl LaneMax {
    fn of(&self, facet: &FacetName, host: &Shared) -> usize {
        let known = self.0.load(Ordering::Relaxed);
        // It wraps after four billion changes, and is then wrong if none was seen in between.
        let generation = host.policies.generation() & u64::from(u32::MAX);
        if known >> 32 == generation + 1 {
            return usize::try_from(known & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        }
        let (policy, generation) = host.policies.of(facet);
        let most = policy.calls_waiting().unwrap_or(host.facet_calls_max);
        let bits = u64::from(u32::try_from(most).unwrap_or(u32::MAX));
        let generation = generation & u64::from(u32::MAX);
        self.0.store(((generation + 1) << 32) | bits, Ordering::Relaxed);
        most
    }
}

/// A call on its way, and its reply to come: a future for any executor, or [`wait`](Self::wait) for
/// it on the calling thread.
///
/// A call is sent when it is made, so several can be on their way at once: make them, then wait for
/// them. Those made on one handle and its clones run in the order in which they were made. If the
/// mailbox is full and [`MailboxFull::Wait`] holds, a call waits in line, and is sent when it or a
/// later one of the handle is awaited or waited for.
///
/// The reply, be it a result or an error, comes when everything that the call observed is durable.
///
/// Dropping a call that was sent does not stop it: it runs to its end and the reply is discarded.
/// One that still waits for room is dropped unrun.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// let facet = host.facet("agents/42")?;
/// facet.execute("CREATE TABLE note(body)", ()).wait()?;
/// // On their way together: they share a sync.
/// let calls: Vec<_> =
///     (0..10).map(|n| facet.execute("INSERT INTO note VALUES (?1)", [n])).collect();
/// for call in calls {
///     call.wait()?;
/// }
/// // Or as futures, on any executor.
/// let count = pollster::block_on(async {
///     facet.query("SELECT count(*) FROM note", (), |row| row.get::<_, i64>(0)).await
/// })?;
/// assert_eq!(count, [10]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "wait for the call or await it to learn its outcome"]
pub struct Call<T> {
    state: State<T>,
    target: Option<Arc<Target>>,
}

enum State<T> {
    Failed(HostError),
    Unsent(InLine, oneshot::Receiver<Result<T>>),
    Sent(oneshot::Receiver<Result<T>>),
    Polled(oneshot::AsyncReceiver<Result<T>>),
    Done,
}

/// Leaves the line when it is dropped.
struct InLine {
    target: Arc<Target>,
    place: Place,
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.target.line.leave(self.place);
    }
}

impl<T> Call<T> {
    pub(crate) fn failed(error: HostError) -> Self {
        Self { state: State::Failed(error), target: None }
    }

    /// Blocks the calling thread until the reply is there.
    ///
    /// # Errors
    /// Those of the call, and [`HostError::WaitOnCore`] inside a closure that runs on a core.
    ///
    /// # Panics
    /// If the reply was taken already.
    pub fn wait(mut self) -> Result<T> {
        let state = mem::replace(&mut self.state, State::Done);
        let Some(target) = &self.target else { return Self::without_target(state) };
        let receiver = match state {
            State::Sent(receiver) => receiver,
            // Neither blocks in the channel itself: others of the line may have to go first.
            State::Unsent(..) | State::Polled(_) => {
                target.check_wait()?;
                self.state = state;
                return block_on(self);
            }
            State::Failed(_) | State::Done => return Self::without_target(state),
        };
        if let Ok(outcome) = receiver.try_recv() {
            return outcome;
        }
        target.check_wait()?;
        receiver.recv().unwrap_or_else(|_| Err(target.gone()))
    }

    /// The reply if it is there, without waiting. `None` if it is not, or was taken before.
    ///
    /// A call that met a full mailbox is sent if there is room now.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// let mut call = facet.execute("CREATE TABLE note(body)", ());
    /// let outcome = loop {
    ///     match call.try_wait() {
    ///         Some(outcome) => break outcome,
    ///         None => std::thread::yield_now(), // something else to do
    ///     }
    /// };
    /// outcome?;
    /// assert!(call.try_wait().is_none(), "it was taken");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_wait(&mut self) -> Option<Result<T>> {
        match self.advance(Waker::noop()) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => None,
        }
    }

    /// # Panics
    /// If there is no outcome in `state`, because it was taken.
    fn without_target(state: State<T>) -> Result<T> {
        match state {
            State::Failed(error) => Err(error),
            _ => panic!("the reply of this call was taken already"),
        }
    }

    /// `Ready(None)` if the reply was taken before.
    fn advance(&mut self, waker: &Waker) -> Poll<Option<Result<T>>> {
        let state = mem::replace(&mut self.state, State::Done);
        let Some(target) = &self.target else {
            return Poll::Ready(match state {
                State::Failed(error) => Some(Err(error)),
                _ => None,
            });
        };
        let mut receiver = match state {
            State::Failed(error) => return Poll::Ready(Some(Err(error))),
            State::Done => return Poll::Ready(None),
            State::Polled(receiver) => receiver,
            State::Sent(receiver) => match receiver.try_recv() {
                Ok(outcome) => return Poll::Ready(Some(outcome)),
                Err(oneshot::TryRecvError::Disconnected) => {
                    return Poll::Ready(Some(Err(target.gone())));
                }
                Err(oneshot::TryRecvError::Empty) => receiver.into_future(),
            },
            State::Unsent(in_line, receiver) => {
                if let Err(error) = target.host.check_process() {
                    return Poll::Ready(Some(Err(error)));
                }
                if !target.line.advance(target, in_line.place, waker) {
                    self.state = State::Unsent(in_line, receiver);
                    return Poll::Pending;
                }
                receiver.into_future()
            }
        };
        match Pin::new(&mut receiver).poll(&mut Context::from_waker(waker)) {
            Poll::Ready(Ok(outcome)) => Poll::Ready(Some(outcome)),
            Poll::Ready(Err(_)) => Poll::Ready(Some(Err(target.gone()))),
            Poll::Pending => {
                // In a forked child no core lives to reply.
                if let Err(error) = target.host.check_process() {
                    return Poll::Ready(Some(Err(error)));
                }
                self.state = State::Polled(receiver);
                Poll::Pending
            }
        }
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T>;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.advance(context.waker()).map(|outcome| match outcome {
            Some(outcome) => outcome,
            None => panic!("the reply of this call was taken already"),
        })
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Failed(_) => "failed",
            State::Unsent(..) => "waiting for room in the mailbox",
            State::Sent(_) | State::Polled(_) => "sent",
            State::Done => "taken",
        };
        let facet = self.target.as_ref().and_then(|target| target.facet());
        f.debug_struct("Call").field("facet", &facet).field("state", &state).finish()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// For a call that was polled before it was waited for, or waits in line.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::new(&mut future).poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
