//! The hooks on one connection: the authorizer, the budget, and the refusal of commits.
//!
//! How a budget ends a call: SQLite asks the progress handler after every [`STEPS`] VM steps; when
//! the budget is used up it interrupts the statement, and from then on every other one of the call.
//! A closure that hides the interruption gains nothing: the commit hook turns each further commit of
//! the call into a rollback.
//!
//! How a call is kept from taking memory: SQLite's allocator, which counts for each thread, refuses what
//! would go beyond. The statement fails, and the commit hook does the rest.
//!
//! How a RENAME into a reserved name is met: the authorizer is not told the new name, but it is asked
//! about the function `sqlite_rename_table`, of which every such statement is made. From then on the
//! text of each statement that begins to run is looked at, and one that holds both words
//! trips the guard like a budget.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lapidary_engine::FacetName;
use lapidary_vfs::{ThreadUse, authorize_statements, watch_statements};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rustix::time::{ClockId, clock_gettime};

use super::authorizer::{decide, renames_to_reserved};
use super::call::{self, Running, ThreadSpan, Used};
use super::policy::{Isolation, Rules};
use super::statements::Statements;
use crate::abort::Interrupt;
use crate::error::{Budget, HostError, Result};
use crate::meter::{Count, Meter};

/// VM steps between two looks at the budget; some 10 microseconds. SQLite counts them on from one run
/// of a prepared statement to the next.
const STEPS: i32 = 1_000;
const STEPS_EACH: u64 = STEPS as u64;

const NONE: u64 = u64::MAX;

/// Why nothing of the call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Trip {
    No,
    Time,
    Steps,
    Reserved,
    ReadOnly,
    Memory,
}

/// What the hooks of a connection share. They run on the thread that uses it, one at a time: the
/// atomics are for the compiler, and never contended.
#[derive(Debug)]
pub(super) struct State {
    pub(super) meter: Arc<Meter>,
    /// Of a writer, whose calls can be aborted.
    interrupt: Option<Arc<Interrupt>>,
    steps_left: AtomicU64,
    /// Nanoseconds since `EPOCH`.
    deadline: AtomicU64,
    tripped: AtomicU8,
    rename_prepared: AtomicBool,
    /// What the thread's processor clock and the clock above showed after the first [`STEPS`] of the
    /// call, in nanoseconds; 0 before.
    clocks_at: [AtomicU64; 2],
    /// Bytes of memory that the connection holds.
    memory_bytes: AtomicI64,
    /// Whether the call may change nothing.
    read_only: AtomicBool,
    /// Whether the commit is not the call's own.
    shares_commit: AtomicBool,
    /// The newest refusal of the authorizer.
    refused: Mutex<Option<String>>,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NONE)
}

fn nanos_now() -> u64 {
    nanos(EPOCH.elapsed())
}

/// What the processor's clock of the calling thread shows.
fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

impl State {
    fn trip(&self, trip: Trip) {
        self.tripped.store(trip as u8, Ordering::Relaxed);
    }

    fn tripped(&self) -> Trip {
        match self.tripped.load(Ordering::Relaxed) {
            1 => Trip::Time,
            2 => Trip::Steps,
            3 => Trip::Reserved,
            4 => Trip::ReadOnly,
            // SQLite has told the statement; what the closure makes of that does not count.
            _ if call::was_refused_memory() => Trip::Memory,
            _ => Trip::No,
        }
    }

    /// Whether the running statement is to be interrupted.
    fn progress(&self) -> bool {
        self.note_clocks();
        if call::host_speaks() {
            return false;
        }
        if self.tripped() != Trip::No {
            return true;
        }
        if self.interrupt.as_ref().is_some_and(|interrupt| interrupt.is_aborted()) {
            return true;
        }
        let left = self.steps_left.load(Ordering::Relaxed);
        if left != NONE {
            if left < STEPS_EACH {
                self.trip(Trip::Steps);
                return true;
            }
            self.steps_left.store(left - STEPS_EACH, Ordering::Relaxed);
        }
        let deadline = self.deadline.load(Ordering::Relaxed);
        if deadline != NONE && nanos_now() >= deadline {
            self.trip(Trip::Time);
            return true;
        }
        false
    }

    fn authorize(&self, rules: Option<&Rules>, context: &AuthContext<'_>) -> Authorization {
        // A trigger or view of the facet's own does not speak for the host, though the host's
        // statement sets it off.
        if call::host_speaks() && context.accessor.is_none() {
            return Authorization::Allow;
        }
        if let AuthAction::Function { function_name: "sqlite_rename_table" } = context.action {
            self.rename_prepared.store(true, Ordering::Relaxed);
        }
        match decide(rules, context) {
            Ok(()) => Authorization::Allow,
            Err(what) => {
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
                Authorization::Deny
            }
        }
    }

    /// Asking the processor's clock takes as long as some hundred VM steps, so short calls do without.
    fn note_clocks(&self) {
        let [cpu, wall] = &self.clocks_at;
        if cpu.load(Ordering::Relaxed) == 0 {
            cpu.store(cpu_nanos(), Ordering::Relaxed);
            wall.store(nanos_now(), Ordering::Relaxed);
        }
    }

    /// Processor time of a call.
    fn cpu_nanos(&self, used: &Used) -> u64 {
        let elapsed = nanos(used.elapsed);
        let [cpu, wall] = &self.clocks_at;
        let noted = cpu.load(Ordering::Relaxed);
        if noted == 0 {
            return elapsed;
        }
        let began = nanos(used.began.saturating_duration_since(*EPOCH));
        let until_noted = wall.load(Ordering::Relaxed).saturating_sub(began);
        elapsed.min(until_noted + cpu_nanos().saturating_sub(noted))
    }

    /// Counts what was used on the thread while the connection was.
    fn count_thread(&self, used: ThreadUse) {
        self.meter.add(Count::BytesRead, used.read_bytes);
        self.meter.add(Count::BytesWritten, used.written_bytes);
        let before = self.memory_bytes.fetch_add(used.memory_bytes, Ordering::Relaxed);
        self.meter.note_memory(u64::try_from(before + used.memory_peak_bytes).unwrap_or(0));
    }

    pub(super) fn begins(&self, sql: &[u8]) {
        if self.rename_prepared.load(Ordering::Relaxed)
            && !call::host_speaks()
            && renames_to_reserved(sql)
        {
            self.trip(Trip::Reserved);
        }
    }
}

/// A connection's policy, in force, and its place in the facet's meter.
#[derive(Debug)]
pub(crate) struct Guard {
    state: Arc<State>,
    policy: Arc<Isolation>,
    /// Of the policies, when this one was found to be the facet's.
    generation: u64,
}

impl Guard {
    /// Puts `policy` in force on `connection`, before anything of the facet's own runs on it. `opening` is
    /// the opening of the connection, up to here.
    pub(crate) fn new(
        connection: &mut Connection,
        opening: ThreadSpan,
        name: &FacetName,
        (policy, generation): (Arc<Isolation>, u64),
        meter: Arc<Meter>,
        interrupt: Option<Arc<Interrupt>>,
        slow_statement: Option<Duration>,
    ) -> Result<Self> {
        let state = Arc::new(State {
            meter,
            interrupt,
            steps_left: AtomicU64::new(NONE),
            deadline: AtomicU64::new(NONE),
            tripped: AtomicU8::new(Trip::No as u8),
            rename_prepared: AtomicBool::new(false),
            clocks_at: [AtomicU64::new(0), AtomicU64::new(0)],
            memory_bytes: AtomicI64::new(0),
            read_only: AtomicBool::new(false),
            shares_commit: AtomicBool::new(false),
            refused: Mutex::new(None),
        });
        for (limit, most) in &policy.limits {
            connection.set_limit(*limit, *most)?;
        }
        // A second facet would be written past its own core, and a file past the store.
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        if let Some(kib) = policy.page_cache_kib_max {
            // SQLite takes a negative number as KiB.
            connection.execute_batch(&format!("PRAGMA cache_size=-{kib}"))?;
        }
        if let Some(rules) = &policy.rules {
            harden(connection, rules)?;
        }
        let (with_policy, with_state) = (Arc::clone(&policy), Arc::clone(&state));
        authorize_statements(connection, move |context: &AuthContext<'_>| {
            with_state.authorize(with_policy.rules.as_ref(), context)
        })?;
        let with_state = Arc::clone(&state);
        connection.progress_handler(STEPS, Some(move || with_state.progress()))?;
        let with_state = Arc::clone(&state);
        connection.commit_hook(Some(move || {
            // Asked of transactions that have written alone.
            if with_state.read_only.load(Ordering::Relaxed) {
                with_state.trip(Trip::ReadOnly);
            }
            let is_another_s =
                with_state.shares_commit.load(Ordering::Relaxed) && !call::host_speaks();
            let refused = is_another_s || with_state.tripped() != Trip::No;
            if !refused {
                with_state.meter.add(Count::Commits, 1);
            }
            refused
        }))?;
        let statements = Statements::new(Arc::clone(&state), name.clone(), slow_statement);
        watch_statements(connection, statements)?;
        state.count_thread(opening.end());
        Ok(Self { state, policy, generation })
    }

    /// Whether the policy is still the facet's. If not, the connection is to be opened anew.
    pub(crate) fn is_current(&mut self, policies: &super::Policies, name: &FacetName) -> bool {
        let generation = policies.generation();
        if self.generation != generation {
            let (policy, generation) = policies.of(name);
            if !Arc::ptr_eq(&policy, &self.policy) {
                return false;
            }
            self.generation = generation;
        }
        true
    }

    /// A call begins on the connection.
    pub(crate) fn begin(&self, connection: &Connection) -> Running {
        let policy = &self.policy;
        let deadline = policy.call_time_max.map_or(NONE, |time| {
            nanos_now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(NONE))
        });
        self.state.deadline.store(deadline, Ordering::Relaxed);
        let steps = policy.call_steps_max.unwrap_or(NONE);
        self.state.steps_left.store(steps, Ordering::Relaxed);
        self.state.trip(Trip::No);
        self.state.clocks_at[0].store(0, Ordering::Relaxed);
        self.state.read_only.store(false, Ordering::Relaxed);
        self.state.shares_commit.store(false, Ordering::Relaxed);
        let most = (
            policy.result_rows_max.unwrap_or(u64::MAX),
            policy.result_bytes_max.unwrap_or(u64::MAX),
        );
        Running::begin(most, policy.call_memory_max, connection.total_changes())
    }

    /// How long the facet is to rest after a call that began then and ended in `outcome`.
    pub(crate) fn rest<T>(&self, outcome: &Result<T>, began: Instant) -> Option<Duration> {
        let is_overrun = matches!(
            outcome,
            Err(HostError::BudgetExceeded { budget: Budget::Time(_) | Budget::Steps(_), .. })
        );
        let rest = || began.elapsed().saturating_mul(self.policy.overrun_rest);
        is_overrun.then(rest).filter(|rest| !rest.is_zero())
    }

    fn count(&self, connection: &Connection, used: &Used) {
        let meter = &self.state.meter;
        meter.add(Count::Calls, 1);
        meter.add(Count::BusyNanos, nanos(used.elapsed));
        meter.add(Count::CpuNanos, self.state.cpu_nanos(used));
        meter.add(Count::BytesReturned, used.bytes);
        let written = connection.total_changes().saturating_sub(used.changes_before);
        meter.add(Count::RowsWritten, written);
        self.state.count_thread(used.thread);
        meter.note_changed();
    }

    /// The call that has begun may change nothing.
    pub(crate) fn forbid_writes(&self) {
        self.state.read_only.store(true, Ordering::Relaxed);
    }

    /// The call that has begun is not to commit: the host will, for several.
    pub(crate) fn share_commit(&self) {
        self.state.shares_commit.store(true, Ordering::Relaxed);
    }

    /// Whether nothing of the call may go on.
    pub(crate) fn has_tripped(&self) -> bool {
        self.state.tripped() != Trip::No
    }

    /// Lets the host commit what others than the call that tripped have done.
    pub(crate) fn pardon(&self) {
        self.state.trip(Trip::No);
    }

    /// The call has written, and must not.
    pub(crate) fn refuse_write(&self) {
        self.state.trip(Trip::ReadOnly);
    }

    /// The call has ended. What the guard refused in it takes the place of what SQLite made of that.
    pub(crate) fn end<T>(
        &self,
        connection: &Connection,
        running: Running,
        name: &FacetName,
        outcome: Result<T>,
    ) -> Result<T> {
        let tripped = self.state.tripped();
        let used = running.end();
        self.count(connection, &used);
        let facet = || name.clone();
        match tripped {
            Trip::No => {}
            Trip::Memory => {
                let most = self.policy.call_memory_max.unwrap_or_default();
                return Err(HostError::BudgetExceeded {
                    facet: Some(facet()),
                    budget: Budget::Memory(most),
                });
            }
            Trip::Time => {
                let most = self.policy.call_time_max.unwrap_or_default();
                return Err(HostError::BudgetExceeded {
                    facet: Some(facet()),
                    budget: Budget::Time(most),
                });
            }
            Trip::Steps => {
                let most = self.policy.call_steps_max.unwrap_or_default();
                return Err(HostError::BudgetExceeded {
                    facet: Some(facet()),
                    budget: Budget::Steps(most),
                });
            }
            Trip::Reserved => {
                let what = "a name that the host keeps for itself".to_owned();
                return Err(HostError::NotAllowed { facet: facet(), what });
            }
            Trip::ReadOnly => return Err(HostError::ReadTransactionWrites { facet: facet() }),
        }
        let Err(error) = outcome else { return outcome };
        if error.is_refusal()
            && let Some(what) =
                self.state.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return Err(HostError::NotAllowed { facet: facet(), what });
        }
        Err(error)
    }
}

/// Settings of SQLite against statements and stored bytes that were made to do harm.
fn harden(connection: &Connection, rules: &Rules) -> Result<()> {
    let set = |setting, on| connection.set_db_config(setting, on).map(drop);
    set(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    set(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    set(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false)?;
    set(DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false)?;
    if !rules.double_quoted_strings {
        set(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
        set(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    }
    Ok(())
}
