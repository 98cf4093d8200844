//! The one replica of this worker, through all generations: the training changes it, checkpoints and other
//! workers read it meanwhile.

use std::collections::VecDeque;
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use perennial_collective::{Delta, ReplicaSource, Snapshot};
use perennial_model::Table;
use perennial_train::{Replica, Scores, StepDelta, StepOutcome, TrainError};

/// Steps kept for those who follow.
const KEPT_STEPS: usize = 16;
/// Bytes of steps kept for those who follow.
const KEPT_BYTES: usize = 1 << 30;
/// How long after its last question somebody counts as following.
const FOLLOWED: Duration = Duration::from_secs(60);

/// A replica and where it stands.
pub(crate) struct Held {
    /// Steps that are in it.
    pub global_step: u64,
    /// Of the state.
    pub hash: u64,
    pub state: State,
}

/// What a step changes.
#[expect(clippy::large_enum_variant, reason = "a worker has one of them")]
pub(crate) enum State {
    Training(Replica),
    /// The job is an evaluation: its weights stay as they are.
    Evaluating(Scores),
}

/// The replica, where there is one, and the last steps that led to it. The last one is always kept, so
/// that a member one step behind catches up without a copy.
#[derive(Default)]
pub(crate) struct SharedReplica {
    /// That share a step.
    threads: usize,
    held: RwLock<Option<Held>>,
    // Locked after `held`, never before.
    history: Mutex<History>,
    stepped: Condvar,
}

#[derive(Default)]
struct History {
    stands_at: Option<u64>,
    /// The last steps without a gap, up to `stands_at`.
    steps: VecDeque<Kept>,
    followed: Option<Instant>,
}

struct Kept {
    before: u64,
    hash: u64,
    delta: Arc<StepDelta>,
}

// === impl Held ===

impl Held {
    /// `state` as it is, or where `device` has what training changes, once it is there.
    pub fn of(mut state: State, device: Option<&Device>) -> Result<Self, TrainError> {
        if let (State::Training(replica), Some(device)) = (&mut state, device) {
            replica.reside(device)?;
        }
        let (global_step, hash) = match &state {
            State::Training(replica) => (replica.steps(), replica.hash()),
            State::Evaluating(scores) => (scores.steps(), scores.hash()),
        };
        Ok(Self {
            global_step,
            hash,
            state,
        })
    }

    /// Whether the host has all of it.
    fn is_fetched(&self) -> bool {
        match &self.state {
            State::Training(replica) => replica.is_fetched(),
            State::Evaluating(_) => true,
        }
    }

    /// What a job that trains has.
    pub fn replica(&self) -> &Replica {
        match &self.state {
            State::Training(replica) => replica,
            State::Evaluating(_) => unreachable!("an evaluation asks for its scores"),
        }
    }
}

// === impl State ===

impl State {
    /// On an error nothing has changed.
    fn apply(
        &mut self,
        table: &Table,
        delta: &StepDelta,
        threads: usize,
    ) -> Result<StepOutcome, TrainError> {
        match self {
            Self::Training(replica) => replica.apply(
                table,
                &delta.gradient,
                &delta.statistics,
                delta.learning_rate,
                threads,
            ),
            Self::Evaluating(scores) => scores.apply(&delta.statistics),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Training(replica) => replica.to_bytes(),
            Self::Evaluating(scores) => scores.to_bytes(),
        }
    }
}

// === impl SharedReplica ===

impl SharedReplica {
    /// Without a replica yet; steps are shared by so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            ..Self::default()
        }
    }

    /// Looks at the replica, which cannot change meanwhile. What a device has is copied to the host before.
    pub fn read<T>(&self, look: impl FnOnce(Option<&Held>) -> T) -> Result<T, TrainError> {
        Ok(look(self.fetched()?.as_ref()))
    }

    /// Looks at the replica where it is: what the host has of it may be older than what a device has.
    pub fn glance<T>(&self, look: impl FnOnce(Option<&Held>) -> T) -> T {
        look(self.held().as_ref())
    }

    /// The step at which it stands, and its hash.
    pub fn standing(&self) -> Option<(u64, u64)> {
        self.glance(|held| held.map(|held| (held.global_step, held.hash)))
    }

    /// Puts another replica, or none, in its place.
    pub fn replace(&self, replacement: Option<Held>) {
        let mut held = self.held_mut();
        let mut history = self.history();
        history.steps.clear();
        history.stands_at = replacement.as_ref().map(|held| held.global_step);
        *held = replacement;
        drop(history);
        self.stepped.notify_all();
    }

    /// Takes the replica one step further. Also says how long it had to wait for readers. On an error
    /// nothing has changed.
    pub fn apply(
        &self,
        table: &Table,
        delta: StepDelta,
    ) -> Result<(StepOutcome, Duration), TrainError> {
        let asked = Instant::now();
        let mut guard = self.held_mut();
        let waited = asked.elapsed();
        let held = guard.as_mut().expect("only who holds a replica steps");
        let outcome = held.state.apply(table, &delta, self.threads)?;
        let before = held.global_step;
        held.global_step += 1;
        held.hash = outcome.hash;
        self.history().push(Kept {
            before,
            hash: outcome.hash,
            delta: Arc::new(delta),
        });
        self.stepped.notify_all();
        Ok((outcome, waited))
    }

    fn fetched(&self) -> Result<RwLockReadGuard<'_, Option<Held>>, TrainError> {
        let held = self.held();
        if held.as_ref().is_none_or(Held::is_fetched) {
            return Ok(held);
        }
        drop(held);
        let mut held = self.held_mut();
        if let Some(State::Training(replica)) = held.as_mut().map(|held| &mut held.state) {
            replica.fetch()?;
        }
        Ok(RwLockWriteGuard::downgrade(held))
    }

    fn held(&self) -> RwLockReadGuard<'_, Option<Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_mut(&self) -> RwLockWriteGuard<'_, Option<Held>> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplicaSource for SharedReplica {
    fn snapshot(&self) -> Option<Snapshot> {
        let fetched = self.fetched();
        let held = fetched
            .inspect_err(
                |error| tracing::warn!(%error, "the replica cannot be copied from its device"),
            )
            .ok()?;
        let held = held.as_ref()?;
        self.history().followed = Some(Instant::now());
        Some(Snapshot {
            global_step: held.global_step,
            hash: held.hash,
            bytes: held.state.to_bytes().into(),
        })
    }

    fn delta(&self, global_step: u64, patience: Duration) -> Delta {
        let until = Instant::now() + patience;
        let mut history = self.history();
        loop {
            history.followed = Some(Instant::now());
            let Some(stands_at) = history.stands_at.filter(|at| *at >= global_step) else {
                return Delta::Gone;
            };
            if stands_at > global_step {
                let mut steps = history.steps.iter();
                let Some(kept) = steps.find(|kept| kept.before == global_step) else {
                    return Delta::Gone;
                };
                let (hash, delta) = (kept.hash, kept.delta.clone());
                drop(history);
                let bytes = Offered { stands_at, delta }.to_bytes().into();
                return Delta::Next { hash, bytes };
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Delta::NotYet;
            }
            let (waited, _) = self
                .stepped
                .wait_timeout(history, left)
                .unwrap_or_else(PoisonError::into_inner);
            history = waited;
        }
    }
}

/// A step on its way to a follower, who wants to know how far behind it is.
#[derive(Debug, PartialEq)]
pub(crate) struct Offered<D> {
    /// The step at which the source stands.
    pub stands_at: u64,
    pub delta: D,
}

// === impl Offered ===

impl Offered<Arc<StepDelta>> {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.delta.to_bytes();
        bytes.extend(self.stands_at.to_le_bytes());
        bytes
    }
}

impl Offered<StepDelta> {
    /// `step` reads the step itself.
    pub fn from_bytes(
        bytes: &[u8],
        step: impl FnOnce(&[u8]) -> Result<StepDelta, TrainError>,
    ) -> Result<Self, TrainError> {
        let (delta, stands_at) = bytes
            .split_last_chunk::<8>()
            .ok_or_else(|| TrainError::Encoding("they end too early".into()))?;
        Ok(Self {
            stands_at: u64::from_le_bytes(*stands_at),
            delta: step(delta)?,
        })
    }
}

// === impl History ===

impl History {
    fn push(&mut self, kept: Kept) {
        self.stands_at = Some(kept.before + 1);
        let bytes = 4 * kept.delta.gradient.len() + 8 * kept.delta.statistics.len();
        self.steps.push_back(kept);
        let followed = self.followed.is_some_and(|at| at.elapsed() < FOLLOWED);
        let limit = if followed {
            KEPT_STEPS.min(KEPT_BYTES / bytes.max(1)).max(1)
        } else {
            1
        };
        while self.steps.len() > limit {
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
