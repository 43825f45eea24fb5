//! A call on its way through a core: work to run, then a reply to release.

use std::sync::Arc;
use std::time::Instant;

use lapidary_engine::{FacetName, Ticket};
use tracing::{Span, debug_span, field};

use crate::core_thread::Core;
use crate::error::{HostError, Result};
use crate::terms::Terms;

/// What a mailbox carries and the output gate holds. One allocation serves both ways: the result
/// stays in the task until it may leave.
pub(crate) trait Task: Send {
    /// When the call was made.
    fn made(&self) -> Instant;

    /// Runs the work and keeps its result. The reply may leave when the returned ticket is durable.
    fn run(&mut self, core: &mut Core) -> Ticket;

    /// Whether it may share its commit with others of its facet: its work is a
    /// [`join`](Core::join).
    fn joins(&self) -> bool;

    /// When its reply may leave, if it does not leave that to the host.
    #[cfg_attr(not(feature = "bucket"), expect(dead_code, reason = "there are no terms"))]
    fn terms(&self) -> Terms;

    /// Makes an error of a result whose commit, shared with others, failed for `cause`.
    fn spoil(&mut self, cause: &Arc<HostError>);

    /// Sends the reply; if what it observed was lost for `cause`, an error takes its place.
    fn release(self: Box<Self>, lost: Option<&str>);
}

pub(crate) struct Job<T, W> {
    work: Option<W>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    facet: Option<FacetName>,
    joins: bool,
    terms: Terms,
    made: Instant,
    /// From the making of the call to the leaving of its reply; entered while it runs.
    span: Span,
}

impl<T, W> Job<T, W>
where
    T: Send + 'static,
    W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
{
    pub(crate) fn boxed(
        facet: Option<FacetName>,
        reply: oneshot::Sender<Result<T>>,
        joins: bool,
        terms: Terms,
        work: W,
    ) -> Box<dyn Task> {
        let name = facet.as_ref().map(field::display);
        let span = debug_span!("call", facet = name, core = field::Empty);
        let made = Instant::now();
        Box::new(Self { work: Some(work), outcome: None, reply, facet, joins, terms, made, span })
    }
}

impl<T, W> Task for Job<T, W>
where
    T: Send + 'static,
    W: FnOnce(&mut Core) -> (Result<T>, Ticket) + Send + 'static,
{
    fn made(&self) -> Instant {
        self.made
    }

    fn run(&mut self, core: &mut Core) -> Ticket {
        let span = self.span.clone();
        span.record("core", core.number);
        let _entered = span.enter();
        let Some(work) = self.work.take() else { return Ticket::DURABLE };
        let (outcome, ticket) = work(core);
        self.outcome = Some(outcome);
        ticket
    }

    fn joins(&self) -> bool {
        self.joins
    }

    fn terms(&self) -> Terms {
        self.terms
    }

    fn spoil(&mut self, cause: &Arc<HostError>) {
        if matches!(self.outcome, Some(Ok(_))) {
            self.outcome = Some(Err(HostError::of_shared_commit(cause)));
        }
    }

    fn release(self: Box<Self>, lost: Option<&str>) {
        let Self { outcome, reply, facet, .. } = *self;
        let outcome = match lost {
            None => outcome,
            Some(cause) => Some(Err(HostError::NotDurable { facet, cause: cause.to_owned() })),
        };
        if let Some(outcome) = outcome {
            // An error means that the caller dropped its `Call`: nobody wants the reply.
            drop(reply.send(outcome));
        }
    }
}
