//! Which fault comes when: a function of the seed alone.

use std::time::Duration;

use perennial_plan::random::{Domain, Draw, Stream};
use serde::Serialize;

/// What can be done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// A member is killed (SIGKILL); another process is started in its place.
    Kill,
    /// A member is stopped (SIGSTOP) until it counts as lost, then goes on (SIGCONT).
    Stop,
    /// A member is cut off from the other ones and from the coordinators until it counts as lost.
    Partition,
    /// The ruling coordinator is killed; another standby is started in its place.
    Coordinator,
    /// For a while half of all requests to the store fail.
    Store,
}

/// A fault that is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Since the first step. It happens later where there is nothing to strike at that moment.
    pub at: Duration,
    pub fault: Fault,
    /// Chooses among those whom it can strike: modulo their number.
    pub which: u64,
}

/// All faults that a seed means, in the order of time, without end.
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    /// Each once, in a fixed order.
    kinds: Vec<Fault>,
    every: Duration,
    next: u64,
}

/// Each fault comes at its place in a raster; the chance moves it by so much of the distance at most.
const JITTER: f64 = 0.1;

// === impl Fault ===

impl Fault {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::Coordinator => "coordinator",
            Self::Store => "store",
        }
    }

    /// Whether it takes a member away.
    pub fn strikes_a_worker(self) -> bool {
        matches!(self, Self::Kill | Self::Stop | Self::Partition)
    }
}

// === impl Plan ===

impl Plan {
    /// A fault of one of `kinds` about `every` so often. In each round of as many faults as there are kinds
    /// each kind comes once, in an order drawn for the round.
    pub fn new(seed: u64, kinds: &[Fault], every: Duration) -> Self {
        let mut kinds = kinds.to_vec();
        kinds.sort();
        kinds.dedup();
        Self {
            seed,
            kinds,
            every,
            next: 0,
        }
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let number = self.next;
        self.next += 1;
        let (round, place) = match self.kinds.len() as u64 {
            0 => return None,
            kinds => (number / kinds, number % kinds),
        };
        let mut order = self.kinds.clone();
        Stream::new(self.seed, Domain::Chaos, &[round]).shuffle(&mut order);
        let mut chance = Stream::new(self.seed, Domain::Chaos, &[round, place]);
        let moved = JITTER * (2.0 * chance.uniform() - 1.0);
        Some(Planned {
            at: self.every.mul_f64(number as f64 + 1.0 + moved),
            fault: order[place as usize],
            which: chance.next_u64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Fault; 5] = [
        Fault::Kill,
        Fault::Stop,
        Fault::Partition,
        Fault::Coordinator,
        Fault::Store,
    ];
    const EVERY: Duration = Duration::from_secs(10);

    fn plan(seed: u64, kinds: &[Fault], count: usize) -> Vec<Planned> {
        Plan::new(seed, kinds, EVERY).take(count).collect()
    }

    #[test]
    fn a_seed_means_one_plan_and_another_seed_another_one() {
        assert_eq!(plan(7, &ALL, 50), plan(7, &ALL, 50));
        assert_ne!(plan(7, &ALL, 50), plan(8, &ALL, 50));
        let mut turned = ALL;
        turned.reverse();
        assert_eq!(plan(7, &ALL, 50), plan(7, &turned, 50));
    }

    #[test]
    fn every_round_has_each_kind_once() {
        for round in plan(3, &ALL, 50).chunks(5) {
            let mut kinds: Vec<Fault> = round.iter().map(|planned| planned.fault).collect();
            kinds.sort();
            assert_eq!(kinds, ALL);
        }
        let twice = [Fault::Store, Fault::Store];
        assert!(plan(3, &twice, 9).iter().all(|p| p.fault == Fault::Store));
    }

    #[test]
    fn rounds_differ_in_their_order() {
        let plan = plan(1, &ALL, 100);
        let order = |round: &[Planned]| round.iter().map(|p| p.fault).collect::<Vec<_>>();
        let first = order(&plan[..5]);
        assert!(plan.chunks(5).any(|round| order(round) != first));
    }

    #[test]
    fn faults_come_in_time_about_so_often_as_was_asked() {
        let plan = plan(5, &ALL, 200);
        for (number, planned) in plan.iter().enumerate() {
            let raster = EVERY * (number as u32 + 1);
            assert!(planned.at.abs_diff(raster) <= EVERY.mul_f64(JITTER));
        }
        assert!(plan.windows(2).all(|pair| pair[0].at < pair[1].at));
    }

    #[test]
    fn no_kinds_mean_no_faults() {
        assert_eq!(plan(5, &[], 3), []);
    }
}
