//! Members that train nothing: real sessions, and answers as a worker gives them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use perennial_plan::Cursor;
use perennial_plan::order::{batch_range, steps_per_epoch};
use perennial_plan::random::mix;
use perennial_proto::rules::control;
use perennial_proto::v1::{CaughtUp, Ready, Standing, StepDone};
use perennial_secure::Security;
use perennial_session::{Assignment, Command, Options, Report, Reporter, attach};
use tokio::task::JoinHandle;

/// Samples in a batch.
pub const BATCH: u32 = 4096;
/// So many that no epoch ends meanwhile.
const TRAIN_SAMPLES: usize = 10_000_000;
const STEP: Duration = Duration::from_secs(1);
/// A member that is not reached for so long is not reached at all.
const AT_MOST: Duration = Duration::from_secs(60);

pub struct Members {
    shared: Arc<Shared>,
    sessions: Vec<JoinHandle<()>>,
    /// The generation that all have started last.
    generation: u64,
}

/// What all members write down.
struct Shared {
    coordinator: String,
    steps: AtomicU64,
    reached: Mutex<Reached>,
}

#[derive(Default)]
struct Reached {
    /// By generation: how many got there, and when the last one did.
    milestones: BTreeMap<(Milestone, u64), (usize, Instant)>,
    exits: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Milestone {
    Started,
    ToldToHalt,
    /// Halted at a boundary, for a newcomer.
    Regrouped,
}

/// What a member is at.
#[derive(Default)]
struct Work {
    generation: Option<u64>,
    cursor: Cursor,
    /// It halts after the step at hand.
    regroup: bool,
}

// === impl Members ===

impl Members {
    pub fn new(coordinator: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                coordinator: coordinator.into(),
                steps: AtomicU64::new(0),
                reached: Mutex::default(),
            }),
            sessions: Vec::new(),
            generation: 0,
        }
    }

    /// Steps reported so far, by all members together.
    pub fn steps(&self) -> u64 {
        self.shared.steps.load(Ordering::Relaxed)
    }

    pub fn add(&mut self, count: usize) {
        for _ in 0..count {
            self.sessions.push(member(self.shared.clone()));
        }
    }

    /// Closes the oldest member's connection, and says when.
    pub fn remove_one(&mut self) -> Instant {
        self.sessions.remove(0).abort();
        Instant::now()
    }

    /// When the last of so many members was told to start a generation after the one before.
    pub async fn all_started(&mut self, count: usize) -> Result<Instant, String> {
        let (generation, at) = self
            .wait(Milestone::Started, self.generation + 1, count)
            .await?;
        self.generation = generation;
        Ok(at)
    }

    /// When the last of so many members was told to break the generation off.
    pub async fn all_told_to_halt(&self, count: usize) -> Result<Instant, String> {
        let told = self.wait(Milestone::ToldToHalt, self.generation, count);
        Ok(told.await?.1)
    }

    /// When the last of so many members halted at a boundary.
    pub async fn all_halted_for_a_newcomer(&self, count: usize) -> Result<Instant, String> {
        let halted = self.wait(Milestone::Regrouped, self.generation, count);
        Ok(halted.await?.1)
    }

    /// The first generation from `from` on in which so many got so far, and when the last one did.
    async fn wait(
        &self,
        milestone: Milestone,
        from: u64,
        count: usize,
    ) -> Result<(u64, Instant), String> {
        let deadline = Instant::now() + AT_MOST;
        loop {
            let mut most = 0;
            for ((_, generation), (reached, at)) in self
                .shared
                .reached()
                .milestones
                .range((milestone, from)..=(milestone, u64::MAX))
            {
                if *reached >= count {
                    return Ok((*generation, *at));
                }
                most = most.max(*reached);
            }
            if Instant::now() > deadline {
                self.check()?;
                let seconds = AT_MOST.as_secs();
                return Err(format!(
                    "only {most} of {count} members got to `{milestone:?}` within {seconds} s"
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// An error if a member's session has ended by itself.
    pub fn check(&self) -> Result<(), String> {
        match self.shared.reached().exits.first() {
            Some(why) => Err(format!("a member's session ended: {why}")),
            None => Ok(()),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn reached(&self) -> MutexGuard<'_, Reached> {
        lock(&self.reached)
    }

    fn reach(&self, milestone: Milestone, generation: u64) {
        let now = Instant::now();
        let mut reached = self.reached();
        let at = reached.milestones.entry((milestone, generation));
        let (count, last) = at.or_insert((0, now));
        *count += 1;
        *last = now;
    }
}

fn member(shared: Arc<Shared>) -> JoinHandle<()> {
    let options = Options {
        coordinators: vec![shared.coordinator.clone()],
        security: Security::default(),
        numerics: "none".into(),
        threads: 1,
        patience: AT_MOST,
        worker: String::new(),
    };
    let work = Arc::new(Mutex::new(Work::default()));
    let reporter = Arc::new(Mutex::new(None::<Reporter>));
    let answering = reporter.clone();
    let (sender, session) = attach(options, move |command| {
        let reporter = lock(&answering).clone();
        if let Some(reporter) = reporter {
            answer(&shared, &work, &reporter, command);
        }
    })
    .expect("the address is one");
    *lock(&reporter) = Some(sender);
    tokio::spawn(session)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(shared: &Arc<Shared>, work: &Arc<Mutex<Work>>, reporter: &Reporter, command: Command) {
    match command {
        Command::Prepare { .. } => reporter.send(Report::Ready(Ready {
            data_fingerprint: "made up".into(),
            train_samples: TRAIN_SAMPLES as u64,
            val_samples: 1000,
            classes: vec!["a".into(), "b".into()],
            parameters: 1,
            collective_address: "127.0.0.1:12345".into(),
            replica_address: "127.0.0.1:12346".into(),
            ..Ready::default()
        })),
        Command::Train(assignment) => {
            shared.reach(Milestone::Started, assignment.generation.id);
            train(shared.clone(), work.clone(), reporter.clone(), &assignment);
        }
        Command::Follow(source) => reporter.send(Report::CaughtUp(CaughtUp {
            global_step: source.global_step,
            replica_hash: replica_hash(source.global_step),
        })),
        Command::Break { generation } => {
            shared.reach(Milestone::ToldToHalt, generation);
            halt(&mut lock(work), reporter, generation);
        }
        Command::Raise { generation, flags } => {
            let mut work = lock(work);
            work.regroup |= work.generation == Some(generation) && flags & control::REGROUP != 0;
        }
        Command::Exit(end) | Command::Return { end, .. } => {
            shared.reached().exits.push(format!("{end:?}"))
        }
    }
}

fn per_epoch() -> u32 {
    steps_per_epoch(TRAIN_SAMPLES, BATCH as usize)
}

/// Of a replica after so many steps.
fn replica_hash(global_step: u64) -> u64 {
    mix(global_step)
}

/// Takes steps in a task of their own until the generation is over.
fn train(shared: Arc<Shared>, work: Arc<Mutex<Work>>, reporter: Reporter, assignment: &Assignment) {
    let generation = assignment.generation.id;
    *lock(&work) = Work {
        generation: Some(generation),
        cursor: assignment.generation.start,
        regroup: false,
    };
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(STEP).await;
            let mut work = lock(&work);
            if work.generation != Some(generation) {
                return;
            }
            let done = work.cursor;
            work.cursor = done.next(per_epoch());
            let global_step = work.cursor.global_step(per_epoch());
            shared.steps.fetch_add(1, Ordering::Relaxed);
            reporter.send(Report::StepDone(StepDone {
                generation,
                epoch: done.epoch,
                step: done.step,
                samples: batch_range(TRAIN_SAMPLES, BATCH as usize, done.step).len() as u64,
                loss_sum: 1.0,
                learning_rate: 1e-3,
                grad_norm: 1.0,
                replica_hash: replica_hash(global_step),
                seconds: STEP.as_secs_f64(),
                compute_seconds: STEP.as_secs_f64() / 2.0,
                global_step,
                ..StepDone::default()
            }));
            if work.regroup {
                halt(&mut work, &reporter, generation);
                shared.reach(Milestone::Regrouped, generation);
            }
        }
    });
}

fn halt(work: &mut Work, reporter: &Reporter, generation: u64) {
    if work.generation != Some(generation) {
        return;
    }
    work.generation = None;
    reporter.send(Report::Halted(Standing {
        generation,
        epoch: work.cursor.epoch,
        step: work.cursor.step,
        replica_hash: replica_hash(work.cursor.global_step(per_epoch())),
        halted: true,
        ..Standing::default()
    }));
}
