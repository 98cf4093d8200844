//! A whole cluster in one thread and virtual time.
//!
//! The state machines of coordinator and worker are the real ones; network, store, clocks and training
//! are made up, and everything that goes wrong comes from one seed. After everything that happens the
//! invariants of `plan::invariants` are checked from outside: an observer sees every replica and every
//! object, and knows what the undisturbed run gives.

mod chance;
mod coordinator;
mod faults;
mod job;
mod mesh;
mod network;
mod queue;
mod stop;
mod store;
mod training;
mod watch;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use faults::Fault;

/// How to simulate.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Print everything that happens.
    pub trace: bool,
    /// Nothing goes wrong.
    pub undisturbed: bool,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub seed: u64,
    /// Virtual seconds since the start.
    pub at: f64,
    /// The invariant's number, or another rule's name.
    pub what: &'static str,
    pub message: String,
}

/// What one or many simulations went through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    pub seeds: u64,
    pub events: u64,
    /// Virtual seconds.
    pub seconds: f64,
    pub faults: BTreeMap<Fault, u64>,
    pub generations: u64,
    pub terms: u64,
    /// Coordinators that found that another one rules.
    pub deposed: u64,
    /// Steps that were computed more than once.
    pub recomputed: u64,
    /// From the loss of a member to the next step, in virtual seconds; ascending, once all is done.
    pub recoveries: BTreeMap<Loss, Vec<f64>>,
}

/// How a member is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Its connections close.
    Closed,
    /// It says nothing any more.
    Silent,
    /// With it so many are gone that others must come first.
    TooMany,
}

/// Runs the world of this seed until its job is done.
pub fn simulate(seed: u64, options: &Options) -> Result<Summary, Failure> {
    world::World::new(seed, options).run()
}

/// Runs the worlds of these seeds on `threads` threads. The failures come in the order of their seeds.
pub fn simulate_all(seeds: Range<u64>, threads: usize) -> (Summary, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new((Summary::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut summary = Summary::default();
                let mut failures = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match simulate(seed, &Options::default()) {
                        Ok(one) => summary.add(one),
                        Err(failure) => failures.push(failure),
                    }
                }
                if let Ok(mut results) = results.lock() {
                    results.0.add(summary);
                    results.1.extend(failures);
                }
            });
        }
    });
    let (mut summary, mut failures) = results.into_inner().unwrap_or_default();
    for recoveries in summary.recoveries.values_mut() {
        recoveries.sort_by(f64::total_cmp);
    }
    failures.sort_by_key(|failure| failure.seed);
    (summary, failures)
}

// === impl Summary ===

impl Summary {
    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.seconds += other.seconds;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.generations += other.generations;
        self.terms += other.terms;
        self.deposed += other.deposed;
        self.recomputed += other.recomputed;
        for (loss, recoveries) in other.recoveries {
            self.recoveries.entry(loss).or_default().extend(recoveries);
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds: {} events in {:.0} virtual seconds, {} generations, {} terms, {} coordinators deposed, {} steps computed again",
            self.seeds,
            self.events,
            self.seconds,
            self.generations,
            self.terms,
            self.deposed,
            self.recomputed
        )?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {count:6} {fault:?}")?;
        }
        for (loss, recoveries) in &self.recoveries {
            let count = recoveries.len();
            let (median, late) = (recoveries[count / 2], recoveries[count * 95 / 100]);
            let most = recoveries[count - 1];
            writeln!(
                f,
                "{loss:?} loss of a member to the next step: median {median:.1} s, p95 {late:.1} s, at most {most:.1} s, of {count}"
            )?;
        }
        Ok(())
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} is broken after {:.3} s: {}\n  cargo run --release -p perennial-simulation -- --seed {} --trace",
            self.seed, self.what, self.at, self.message, self.seed
        )
    }
}

impl std::error::Error for Failure {}
