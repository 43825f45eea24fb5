//! The client threads of an arm, one per core, and the phases they run together.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use lapidary_benches::failure::{Failure, Result};
use lapidary_benches::process::pin_thread;

use crate::load::{Client, Gauge, Load, Outcome, Plan};
use crate::workload::{Share, Tally, Texts, TurnSource, Work};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

struct Member {
    client: Box<dyn Client>,
    share: Share,
    source: TurnSource,
    tallies: Vec<Tally>,
    cpu: Option<usize>,
}

/// All clients of an arm.
pub(crate) struct Crew {
    members: Vec<Member>,
    gauges: Vec<Gauge>,
}

/// Figures of a phase.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) outcome: Outcome,
    pub(crate) elapsed: Duration,
}

impl Phase {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 calls")]
    pub(crate) fn per_second(&self) -> f64 {
        self.outcome.completed as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 calls")]
    pub(crate) fn reads_per_second(&self) -> f64 {
        self.outcome.reads as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl Crew {
    /// `cpus`: where each client's thread is pinned; none leaves them where the process may run.
    pub(crate) fn new(
        clients: Vec<Box<dyn Client>>,
        cpus: Option<&[usize]>,
        facets: u32,
        texts: &'static Texts,
        work: Work,
        seed: u64,
    ) -> Self {
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
        let members = (0..count)
            .zip(clients)
            .map(|(client_number, client)| {
                let share = Share { client: client_number, clients: count, facets };
                Member {
                    client,
                    share,
                    source: TurnSource::new(texts, work, seed, client_number),
                    tallies: vec![Tally::default(); share.len()],
                    cpu: cpus.map(|cpus| cpus[client_number as usize % cpus.len()]),
                }
            })
            .collect();
        Self { members, gauges: (0..count).map(|_| Gauge::default()).collect() }
    }

    /// Runs `plan` on all clients at once; `progress` hears of replies so far now and then.
    pub(crate) fn run(&mut self, plan: Plan, progress: &mut dyn FnMut(u64)) -> Result<Phase> {
        let started = Instant::now();
        let gauges = &self.gauges;
        let (finished_sender, finished) = crossbeam_channel::unbounded();
        thread::scope(|scope| {
            for (member, gauge) in self.members.iter_mut().zip(gauges) {
                let finished_sender = finished_sender.clone();
                scope.spawn(move || {
                    // The receiver outlives the scope.
                    let _ = finished_sender.send((member.run(plan, gauge), Instant::now()));
                });
            }
            drop(finished_sender);
            let mut outcome = Outcome::new();
            let mut ended = started;
            let mut failure = None;
            loop {
                match finished.recv_timeout(PROGRESS_INTERVAL) {
                    Ok((Ok(part), at)) => {
                        outcome.add(part);
                        ended = ended.max(at);
                    }
                    Ok((Err(error), _)) => {
                        failure.get_or_insert(error);
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        progress(gauges.iter().map(Gauge::get).sum());
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            match failure {
                None => Ok(Phase { outcome, elapsed: ended - started }),
                Some(error) => Err(error),
            }
        })
    }

    /// Runs `plan` on one client after the other, so that calls never compete.
    pub(crate) fn run_in_turn(&mut self, plan: Plan) -> Result<Phase> {
        let started = Instant::now();
        let mut outcome = Outcome::new();
        for (member, gauge) in self.members.iter_mut().zip(&self.gauges) {
            let part = thread::scope(|scope| scope.spawn(|| member.run(plan, gauge)).join())
                .map_err(|_| Failure::new("a client thread panicked"))?;
            outcome.add(part?);
        }
        Ok(Phase { outcome, elapsed: started.elapsed() })
    }

    /// What every facet has acknowledged, by its number.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        let facets = self.members.first().map_or(0, |member| member.share.facets);
        let mut tallies = vec![Tally::default(); facets as usize];
        for member in &self.members {
            for (ordinal, tally) in member.tallies.iter().enumerate() {
                tallies[member.share.facet(ordinal).0 as usize] = *tally;
            }
        }
        tallies
    }

    /// Expects of every facet what an earlier process had acknowledged.
    pub(crate) fn expect(&mut self, tallies: &[Tally]) {
        for member in &mut self.members {
            for (ordinal, tally) in member.tallies.iter_mut().enumerate() {
                let facet = member.share.facet(ordinal);
                *tally = tallies.get(facet.0 as usize).copied().unwrap_or_default();
            }
        }
    }
}

impl Member {
    fn run(&mut self, plan: Plan, gauge: &Gauge) -> Result<Outcome> {
        if let Some(cpu) = self.cpu {
            pin_thread(&[cpu])?;
        }
        let mut load = Load::new(plan, self.share, &mut self.source, &mut self.tallies, gauge);
        self.client.drive(&mut load)?;
        Ok(load.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Reply;

    struct Obedient;

    impl Client for Obedient {
        fn drive(&mut self, load: &mut Load<'_>) -> Result<()> {
            while let Some((request, started)) = load.next() {
                load.done(&request, started, Reply::Done);
            }
            Ok(())
        }
    }

    struct Failing;

    impl Client for Failing {
        fn drive(&mut self, _: &mut Load<'_>) -> Result<()> {
            Err(Failure::new("disk on fire"))
        }
    }

    fn crew(clients: Vec<Box<dyn Client>>) -> Crew {
        Crew::new(clients, None, 11, Texts::leak(1), Work::AGENTS, 1)
    }

    #[test]
    fn all_clients_together_do_the_whole_plan() {
        let mut crew = crew(vec![Box::new(Obedient), Box::new(Obedient), Box::new(Obedient)]);
        let phase = crew.run(Plan::CreateEach, &mut |_| ()).unwrap();
        assert_eq!(phase.outcome.completed, 11);
        assert!(phase.per_second() > 0.0);
        assert_eq!(crew.run_in_turn(Plan::ReadColdSample(2)).unwrap().outcome.completed, 6);
    }

    #[test]
    fn tallies_pass_from_one_crew_to_another() {
        let mut first = crew(vec![Box::new(Obedient), Box::new(Obedient)]);
        let deadline = Instant::now() + Duration::from_millis(300);
        let phase = first.run(Plan::TurnsUntil(deadline), &mut |_| ()).unwrap();
        let tallies = first.tallies();
        assert_eq!(tallies.iter().map(|tally| tally.turns).sum::<u64>(), phase.outcome.completed);
        let mut second = crew(vec![Box::new(Obedient)]);
        second.expect(&tallies);
        assert_eq!(second.tallies(), tallies);
    }

    #[test]
    fn one_client_that_fails_fails_the_phase() {
        let mut crew = crew(vec![Box::new(Obedient), Box::new(Failing)]);
        let error = crew.run(Plan::TouchEach, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "disk on fire");
    }
}
