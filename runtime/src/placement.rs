//! Which core serves a facet, and moving what is below a first level to another.
//!
//! How a move keeps the order of calls: the new core stops the subtree, behind what it has of it; then
//! the new placement is published; then the old core gets a last call over the subtree, which closes its
//! connections and ends the stop. A caller that knows of the old placement puts its call before that
//! last one, or finds that the old core has had it, and looks again. So everything on the old core runs
//! before anything on the new one, and nobody waits for the move but the subtree itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use lapidary_engine::{FacetName, Ticket};

use crate::call::Call;
use crate::core_thread::Core;
use crate::error::HostError;
use crate::host::{Host, checked};

/// Which core serves what.
pub(crate) struct Placement {
    cores: usize,
    /// First levels that are not on the core of their hash.
    moved: RwLock<HashMap<String, usize>>,
    /// Counts the moves. Changed with `moved` locked.
    moves: AtomicU64,
    /// Held by who moves.
    moving: Mutex<()>,
}

impl Placement {
    pub(crate) fn new(cores: usize) -> Self {
        let moved = RwLock::default();
        Self { cores, moved, moves: AtomicU64::new(0), moving: Mutex::default() }
    }

    /// The core that serves `name`, and the state of the placement that says so.
    fn find(&self, name: &FacetName) -> (usize, u64) {
        let moved = self.moved.read().unwrap_or_else(PoisonError::into_inner);
        let elsewhere = moved.get(name.root()).copied();
        let core = elsewhere.unwrap_or_else(|| core_of(name.root(), self.cores));
        (core, self.moves.load(Ordering::Acquire))
    }

    /// The core that serves `name`.
    pub(crate) fn core_of(&self, name: &FacetName) -> usize {
        self.find(name).0
    }

    /// Whether anything was ever moved.
    pub(crate) fn has_moved(&self) -> bool {
        self.moves.load(Ordering::Acquire) > 0
    }

    /// Says that `core` serves `root`; returns the state of the placement from now on.
    fn set(&self, root: &str, core: usize) -> u64 {
        let mut moved = self.moved.write().unwrap_or_else(PoisonError::into_inner);
        if core == core_of(root, self.cores) {
            moved.remove(root);
        } else {
            moved.insert(root.to_owned(), core);
        }
        self.moves.fetch_add(1, Ordering::Release) + 1
    }
}

/// The core of a facet, as it was last found, and the state of the placement then: in the low 16 bits
/// and in the others, read and written as one.
pub(crate) struct Seat(AtomicU64);

/// Cores that a [`Seat`] can tell apart.
pub(crate) const CORES_MAX: usize = 1 << 16;

impl Seat {
    pub(crate) fn of(name: &FacetName, placement: &Placement) -> Self {
        Self(AtomicU64::new(Self::pack(placement.find(name))))
    }

    /// Of what belongs to a core, whatever moves.
    pub(crate) fn fixed(core: usize) -> Self {
        Self(AtomicU64::new(Self::pack((core, u64::MAX >> 16))))
    }

    fn pack((core, state): (usize, u64)) -> u64 {
        (state << 16) | (core as u64 & 0xffff)
    }

    fn unpack(bits: u64) -> (usize, u64) {
        // 16 bits fit.
        (usize::try_from(bits & 0xffff).unwrap_or(0), bits >> 16)
    }

    /// The core that serves `name`, and the state of the placement that says so.
    pub(crate) fn find(&self, name: &FacetName, placement: &Placement) -> (usize, u64) {
        let (core, state) = self.known();
        if state >= placement.moves.load(Ordering::Acquire) {
            return (core, state);
        }
        let found = placement.find(name);
        self.0.store(Self::pack(found), Ordering::Relaxed);
        found
    }

    /// As it was last found.
    pub(crate) fn known(&self) -> (usize, u64) {
        Self::unpack(self.0.load(Ordering::Relaxed))
    }
}

impl Host {
    /// Has core number `core` serve every facet whose name begins with the level `root`, without
    /// stopping them: calls that wait on their core run there first, those made from now on run on the
    /// new one after them. Connections are opened anew there. The reply comes when the old core has
    /// run its last call. It holds for as long as the host is open, and is not stored.
    ///
    /// [`plan_moves`](Self::plan_moves) says what is worth moving.
    ///
    /// The call fails with [`InvalidInput`](crate::HostErrorKind::InvalidInput) if `root` has more than
    /// one level, which stay together, or if there is no such core.
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let config = HostConfig::new().cores(NonZeroUsize::new(2).unwrap()).pin_cores(false);
    /// # let host = Host::open(directory.path().join("store"), config)?;
    /// let facet = host.facet("tenant-7/agents/1")?;
    /// let other = 1 - facet.core();
    /// let before = facet.execute("CREATE TABLE t(n)", ());
    /// let moved = host.move_to_core("tenant-7", other);
    /// facet.execute("INSERT INTO t VALUES (1)", ()).wait()?;
    /// assert_eq!(facet.core(), other);
    /// moved.wait()?;
    /// before.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn move_to_core(&self, root: impl AsRef<str>, core: usize) -> Call<()> {
        let root = match checked(root.as_ref()) {
            Ok(root) => root,
            Err(error) => return Call::failed(error),
        };
        if root.as_str() != root.root() {
            let reason = "only a first level moves, with all below it; give that";
            return Call::failed(HostError::InvalidSetting { setting: "root", reason });
        }
        if core >= self.shared.mailboxes.len() {
            let reason = "there is no core of that number; they are numbered from 0";
            return Call::failed(HostError::InvalidSetting { setting: "core", reason });
        }
        let placement = &self.shared.placement;
        let _moving = placement.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.target(&root);
        if let Err(error) = self.shared.check_open(Some(&root)) {
            return Call::failed(error);
        }
        let from = placement.core_of(&root);
        if from == core {
            return target.call(|core: &mut Core| core.on_catalog(&[], |_| Ok(())));
        }
        // The order matters: see the head of this file.
        let hold = self.shared.mailboxes[core].hold(&root);
        let state = placement.set(root.as_str(), core);
        tracing::info!(%root, from, to = core, "moves to another core");
        let name = root.clone();
        target.leave(&root, from, state, move |old: &mut Core| {
            old.writers.close_subtree(&name);
            drop(hold);
            // What is answered has nothing of the facets in it.
            (Ok(()), Ticket::DURABLE)
        })
    }

    /// Which first levels to move to which cores, so that the busiest core gets less to do, by what each
    /// facet was busy for lately: the difference of two readings of its
    /// [meter](crate::MeterReading::busy). Nothing is moved yet. It proposes few moves, the one that
    /// helps most first, and none that would only change places.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lapidary::{FacetName, Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let busy = |facet: &str, ms| Ok((FacetName::new(facet)?, Duration::from_millis(ms)));
    /// let readings: Vec<_> = [busy("a/1", 70), busy("b", 60)]
    ///     .into_iter()
    ///     .collect::<Result<_, lapidary::HostError>>()?;
    /// for (root, core) in host.plan_moves(readings) {
    ///     host.move_to_core(&root, core).wait()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn plan_moves(
        &self,
        busy: impl IntoIterator<Item = (FacetName, Duration)>,
    ) -> Vec<(String, usize)> {
        let mut roots = HashMap::<String, (usize, Duration)>::new();
        for (name, busy) in busy {
            let core = self.shared.placement.core_of(&name);
            roots.entry(name.root().to_owned()).or_insert((core, Duration::ZERO)).1 += busy;
        }
        let mut roots: Vec<_> =
            roots.into_iter().map(|(root, (core, busy))| (root, core, busy)).collect();
        roots.sort();
        plan(roots, self.shared.mailboxes.len())
    }
}

/// Moves of `roots`, each with its core and what it is busy for, among `cores`.
fn plan(mut roots: Vec<(String, usize, Duration)>, cores: usize) -> Vec<(String, usize)> {
    let mut loads = vec![Duration::ZERO; cores];
    for (_, core, busy) in &roots {
        loads[*core] += *busy;
    }
    let mut moves: Vec<(String, usize)> = Vec::new();
    // Each step makes the greatest load smaller, or two loads less apart; so there is an end.
    while moves.len() < roots.len() {
        let busiest = (0..cores).max_by_key(|&core| loads[core]).unwrap_or(0);
        let idlest = (0..cores).min_by_key(|&core| loads[core]).unwrap_or(0);
        let apart = loads[busiest].saturating_sub(loads[idlest]);
        // What leaves the two closest: half of what they are apart. A tenth of that is not worth it.
        let gain = |busy: Duration| apart.saturating_sub((apart / 2).abs_diff(busy) * 2);
        let best = roots
            .iter_mut()
            .filter(|(root, core, _)| {
                *core == busiest && !moves.iter().any(|(moved, _)| moved == root)
            })
            .max_by_key(|(_, _, busy)| gain(*busy));
        match best {
            Some((root, core, busy)) if gain(*busy) > apart / 10 && !busy.is_zero() => {
                loads[busiest] -= *busy;
                loads[idlest] += *busy;
                *core = idlest;
                moves.push((root.clone(), idlest));
            }
            _ => break,
        }
    }
    moves
}

/// The core, of `cores`, that serves every facet whose name starts with the level `root`.
///
/// Only the root counts, so that a subtree is deleted or renamed on one core. The function is fixed
/// (FNV-1a, spread by the finalizer of SplitMix64): a facet keeps its core, and with it its place
/// in figures and logs, from one run to the next.
pub(crate) fn core_of(root: &str, cores: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in root.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // Multiply and shift: the remainder is below `cores`, so it fits.
    usize::try_from((u128::from(hash) * cores as u128) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assignment_is_fixed() {
        let cores: Vec<usize> =
            ["agents", "tenants", "a", "b", "c", "Zürich"].iter().map(|r| core_of(r, 8)).collect();
        assert_eq!(cores, [7, 0, 0, 1, 3, 6]);
    }

    #[test]
    fn roots_spread_evenly() {
        for cores in [1, 2, 3, 8] {
            let mut counts = vec![0_usize; cores];
            for number in 0..8_000 {
                counts[core_of(&format!("tenant-{number}"), cores)] += 1;
            }
            let fair = 8_000 / cores;
            assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 5), "{counts:?}");
        }
    }

    fn planned(roots: &[(&str, usize, u64)], cores: usize) -> Vec<(String, usize)> {
        let root = |&(root, core, ms): &(&str, usize, u64)| {
            (root.to_owned(), core, Duration::from_millis(ms))
        };
        plan(roots.iter().map(root).collect(), cores)
    }

    #[test]
    fn what_helps_is_moved_and_what_would_not_is_left() {
        let to = |root: &str, core| (root.to_owned(), core);
        assert_eq!(planned(&[("a", 0, 40), ("b", 0, 60), ("c", 1, 10)], 2), [to("a", 1)]);
        // One that is busy alone would only be busy elsewhere.
        assert_eq!(planned(&[("a", 0, 100), ("b", 1, 0)], 2), []);
        assert_eq!(planned(&[("a", 0, 50), ("b", 1, 49)], 2), []);
        assert_eq!(planned(&[("a", 0, 50), ("b", 0, 50)], 1), []);
        assert_eq!(planned(&[], 4), []);
        let four = [("a", 0, 10), ("b", 0, 10), ("c", 0, 10), ("d", 0, 10)];
        let mut cores: Vec<_> = planned(&four, 4).into_iter().map(|(_, core)| core).collect();
        cores.sort_unstable();
        assert_eq!(cores, [1, 2, 3]);
    }

    #[test]
    fn a_seat_knows_its_core_until_something_moves() {
        let placement = Placement::new(8);
        let name = FacetName::new("a/b").unwrap();
        let seat = Seat::of(&name, &placement);
        assert_eq!(seat.find(&name, &placement), (0, 0));
        assert_eq!(placement.set("a", 7), 1);
        assert_eq!(seat.known(), (0, 0));
        assert_eq!(seat.find(&name, &placement), (7, 1));
        assert_eq!(placement.set("a", 0), 2);
        assert_eq!(seat.find(&name, &placement), (0, 2));
        assert!(placement.moved.read().unwrap().is_empty());
        assert_eq!(Seat::fixed(65_535).find(&name, &placement).0, 65_535);
    }
}
