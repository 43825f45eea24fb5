//! The host: callers hand transactions to the core in charge of a facet and get their reply when
//! it is durable.
//!
//! A client stands for many agents. It keeps a number of calls outstanding and waits for none of
//! them in particular: as soon as one is answered, the next one is made.

use std::iter;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use lapidary::{Call, FacetHandle, ForkFrom, Host, HostConfig, HostError};
use lapidary_engine::{PageNo, PageSize, Store, Ticket, View};

use super::{Arm, Setting, Written};
use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_benches::process::DiskUse;

use crate::arguments::ArmName;
use crate::load::{Client, Load, Reply, Request};
use crate::sql::{Statements, integrity_failure};
use crate::workload::{FacetIndex, Share, Turn};

pub(super) struct Hosted {
    setting: Setting,
    host: Arc<Host>,
    store_open: Duration,
}

impl Hosted {
    pub(super) fn open(setting: &Setting) -> Result<Self> {
        let cores = NonZeroUsize::new(setting.cpus.len()).unwrap_or(NonZeroUsize::MIN);
        // As many connections as the other arms keep open; everything else as it comes. Cores have
        // unequal shares of the facets, so that all of them stay open only if each core may keep all.
        let open_max = setting.open_max as usize;
        let per_core = if setting.open_max < setting.facets {
            setting.open_max_per_client()
        } else {
            open_max
        };
        let config =
            HostConfig::new().cores(cores).resident_facets_max(per_core).idle_readers_max(open_max);
        let started = Instant::now();
        let host = Host::open(&setting.directory, config)
            .doing(|| format!("opening the store {}", setting.directory.display()))?;
        let host = Arc::new(host);
        Ok(Self { setting: setting.clone(), host, store_open: started.elapsed() })
    }
}

impl Arm for Hosted {
    fn clients(&mut self) -> Result<Vec<Box<dyn Client>>> {
        let clients = self.setting.clients();
        let template = match &self.setting.template {
            None => None,
            Some(template) => Some(Arc::new(TemplatePages::read(template)?)),
        };
        (0..clients)
            .map(|client| -> Result<Box<dyn Client>> {
                let share = Share { client, clients, facets: self.setting.facets };
                // An agent keeps its handle, so making one is not part of a call.
                let handles = (0..share.len())
                    .map(|ordinal| self.host.facet(share.facet(ordinal).name()))
                    .collect::<Result<Vec<_>, HostError>>()
                    .doing(|| "naming the facets".to_owned())?;
                Ok(Box::new(Callers {
                    handles,
                    share,
                    statements: self.setting.statements(),
                    batch: match self.setting.arm {
                        ArmName::LapidaryCore => self.setting.batch,
                        _ => 1,
                    },
                    in_flight: self.setting.in_flight,
                    template: template.clone(),
                    host: Arc::clone(&self.host),
                    log_buffer: self.setting.cpus.len(),
                }))
            })
            .collect()
    }

    fn pins_clients(&self) -> bool {
        false
    }

    fn reads_apart(&self) -> bool {
        true
    }

    fn connections_open(&self) -> Result<u64> {
        let stat = self.host.stat().wait().doing(|| "asking the host for figures".to_owned())?;
        Ok(stat.cores.iter().map(|core| core.resident_facets).sum())
    }

    fn store_open(&self) -> Option<Duration> {
        Some(self.store_open)
    }

    fn disk_use(&self) -> Result<DiskUse> {
        Ok(super::store_disk_use(self.host.store()))
    }

    fn written(&self) -> Result<Option<Written>> {
        Ok(Some(super::store_written(self.host.store())))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.host.shutdown().doing(|| "shutting the host down".to_owned())
    }
}

/// Many callers of the host on one thread.
struct Callers {
    handles: Vec<FacetHandle>,
    share: Share,
    statements: &'static Statements,
    /// Turns in a call.
    batch: usize,
    /// Turns outstanding.
    in_flight: usize,
    template: Option<Arc<TemplatePages>>,
    host: Arc<Host>,
    /// The one that no core appends to.
    log_buffer: usize,
}

/// To one request, or to several that were one call.
type Answer<R> = (R, Instant, Result<Reply>);

impl Callers {
    fn handle(&self, facet: FacetIndex) -> &FacetHandle {
        &self.handles[self.share.ordinal(facet)]
    }

    /// Sends the call and returns the future of its answer.
    fn call(
        &self,
        request: Request,
        started: Instant,
    ) -> impl Future<Output = Answer<[Request; 1]>> + use<> {
        let handle = self.handle(request.facet());
        let statements = self.statements;
        let call = match request {
            Request::Create(_) => handle.transaction(|tx| {
                tx.execute_batch(statements.schema)?;
                Ok(Reply::Done)
            }),
            Request::Turn(_, turn) => handle.transaction(move |tx| {
                statements.turn_within_transaction(tx, &turn)?;
                Ok(Reply::Done)
            }),
            // Not the snapshot readers, which are connections apart: the one that turns use.
            Request::Touch(_) | Request::Read(_) | Request::ReadCold(_) => {
                handle.run(|connection| {
                    statements.read(connection)?;
                    Ok(Reply::Done)
                })
            }
            Request::Count(_) => {
                handle.run(|connection| Ok(Reply::Counted(statements.count(connection)?)))
            }
            Request::CheckIntegrity(_) => {
                handle.run(|connection| Ok(Reply::Integrity(integrity_failure(connection)?)))
            }
            Request::Fork(facet) => {
                let call = self.host.fork(facet.name(), facet.fork_name(), ForkFrom::Latest);
                return Either::Left(answer(request, started, call));
            }
            Request::DeleteFork(facet) => {
                let call = self.host.delete(facet.fork_name());
                return Either::Left(answer(request, started, call));
            }
        };
        Either::Right(async move {
            let outcome = call.await.doing(|| describe(&request));
            ([request], started, outcome)
        })
    }

    /// Sends a call of `batch` turns in the facet of `first`, a transaction each.
    fn call_batch(
        &self,
        load: &mut Load<'_>,
        first: Request,
        started: Instant,
    ) -> impl Future<Output = Answer<Vec<Request>>> + use<> {
        let facet = first.facet();
        let statements = self.statements;
        let further = (1..self.batch).map(|_| load.another_turn(facet));
        let requests: Vec<Request> = iter::once(first).chain(further).collect();
        let turns: Vec<Turn> = requests.iter().filter_map(Request::turn).copied().collect();
        let call = self.handle(facet).run(move |connection| {
            turns.iter().try_for_each(|turn| statements.turn(connection, turn))?;
            Ok(Reply::Done)
        });
        async move {
            let outcome = call.await.doing(|| describe(&first));
            (requests, started, outcome)
        }
    }

    /// Keeps `calls_max` calls outstanding, each made by `send`; those that are due at a certain time are
    /// made then, however many are. Reads are done here, between them.
    fn drive_calls<R, F>(
        &self,
        load: &mut Load<'_>,
        first: (Request, Instant),
        calls_max: usize,
        send: impl Fn(&mut Load<'_>, Request, Instant) -> F,
    ) -> Result<()>
    where
        R: AsRef<[Request]>,
        F: Future<Output = Answer<R>>,
    {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut calls = FuturesUnordered::new();
        let mut next = Some(first);
        loop {
            let wake_at = loop {
                let Some((request, started)) = next.take().or_else(|| load.next()) else {
                    break None;
                };
                if let Request::Read(_) = request {
                    self.read(load, request, started)?;
                } else {
                    calls.push(send(load, request, started));
                }
                match load.due() {
                    Some(due) if due > Instant::now() => break Some(due),
                    None if calls.len() >= calls_max => break None,
                    _ => {}
                }
            };
            let mut answered = false;
            while !answered && let Some(answer) = next_answer(&mut calls, &waker, wake_at) {
                let (requests, started, outcome) = answer;
                let reply = outcome?;
                for request in requests.as_ref() {
                    load.done(request, started, reply.clone());
                }
                answered = wake_at.is_none();
            }
            if calls.is_empty() && wake_at.is_none() && !answered {
                return Ok(());
            }
        }
    }

    fn read(&self, load: &mut Load<'_>, request: Request, started: Instant) -> Result<()> {
        self.handle(request.facet())
            .read(|connection| Ok(self.statements.read(connection)?))
            .doing(|| describe(&request))?;
        load.done(&request, started, Reply::Done);
        Ok(())
    }

    /// Reads on this thread, one after the other, which is what readers of the host do.
    fn drive_reads(&self, load: &mut Load<'_>, first: (Request, Instant)) -> Result<()> {
        let mut next = Some(first);
        while let Some((request, started)) = next {
            self.read(load, request, started)?;
            next = load.next();
        }
        Ok(())
    }

    /// Makes copies of the template, `in_flight` at a time.
    fn drive_copies(
        &self,
        load: &mut Load<'_>,
        first: (Request, Instant),
        template: &TemplatePages,
    ) -> Result<()> {
        let mut next = Some(first);
        while next.is_some() {
            let mut copied = Vec::new();
            let mut newest = Ticket::DURABLE;
            while let Some((request, started)) = next.take() {
                let name = self.handle(request.facet()).name();
                let ticket = template
                    .copy_to(self.host.store(), name, self.log_buffer)
                    .doing(|| describe(&request))?;
                newest = newest.max(ticket);
                copied.push((request, started));
                if copied.len() < self.in_flight {
                    next = load.next();
                }
            }
            self.host
                .store()
                .wait_durable(newest)
                .doing(|| "waiting for copies of the template to be durable".to_owned())?;
            for (request, started) in copied {
                load.done(&request, started, Reply::Done);
            }
            next = load.next();
        }
        Ok(())
    }
}

impl Client for Callers {
    fn drive(&mut self, load: &mut Load<'_>) -> Result<()> {
        let Some(first) = load.next() else { return Ok(()) };
        match (first.0, &self.template) {
            (Request::Create(_), Some(template)) => self.drive_copies(load, first, template),
            (Request::Read(_) | Request::ReadCold(_), _) if !load.has_turns() => {
                self.drive_reads(load, first)
            }
            _ if self.batch > 1 && load.has_turns() => {
                let calls_max = self.in_flight.div_ceil(self.batch);
                let send = |load: &mut Load<'_>, request, at| self.call_batch(load, request, at);
                self.drive_calls(load, first, calls_max, send)
            }
            _ => {
                let send = |_: &mut Load<'_>, request, at| self.call(request, at);
                self.drive_calls(load, first, self.in_flight, send)
            }
        }
    }
}

/// The next answer to one of `calls`; `None` at the moment `until`, or if there are no calls and no such
/// moment.
fn next_answer<F: Future>(
    calls: &mut FuturesUnordered<F>,
    waker: &Waker,
    until: Option<Instant>,
) -> Option<F::Output> {
    let mut context = Context::from_waker(waker);
    loop {
        if let Poll::Ready(Some(answer)) = calls.poll_next_unpin(&mut context) {
            return Some(answer);
        }
        match until {
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                thread::park_timeout(left);
            }
            None if calls.is_empty() => return None,
            None => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The answer to a request whose call has nothing to tell but that it is done.
async fn answer(request: Request, started: Instant, call: Call<()>) -> Answer<[Request; 1]> {
    let outcome = call.await.doing(|| describe(&request));
    ([request], started, outcome.map(|()| Reply::Done))
}

fn describe(request: &Request) -> String {
    format!("{} facet {}", request.doing(), request.facet().name())
}

/// The template cut into pages. The host has no import of whole databases, so copies go to the
/// store directly, page by page, as an import would.
struct TemplatePages {
    page_size: PageSize,
    bytes: Vec<u8>,
}

impl TemplatePages {
    fn read(template: &crate::template::Template) -> Result<Self> {
        let path = template.path.display();
        let bytes = std::fs::read(&template.path).doing(|| format!("reading {path}"))?;
        let page_size = PageSize::from_bytes(template.page_bytes as usize)
            .filter(|size| !bytes.is_empty() && bytes.len().is_multiple_of(size.bytes()))
            .ok_or_else(|| {
                Failure::new(format!("{path} is not a whole number of SQLite's pages"))
            })?;
        Ok(Self { page_size, bytes })
    }

    fn copy_to(
        &self,
        store: &Store,
        name: &lapidary_engine::FacetName,
        log_buffer: usize,
    ) -> lapidary_engine::Result<Ticket> {
        let facet = store.create_facet(name)?;
        let mut writer = facet.begin_write(&facet.snapshot(View::Latest)?)?;
        writer.set_page_size(self.page_size)?;
        for (number, page) in (1..).zip(self.bytes.chunks_exact(self.page_size.bytes())) {
            writer.write_page(PageNo(number), page)?;
        }
        writer.commit(log_buffer)
    }
}
