//! What was seen of a run, and the times and shares that follow from it. Pure.

use std::time::Duration;

use perennial_coordinator::JobEvent;
use serde::Serialize;

use super::plan::Fault;
use super::process::Uid;

/// An event of a coordinator.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Since the run's beginning.
    pub at: Duration,
    /// The coordinator.
    pub from: Uid,
    pub event: JobEvent,
    /// The members of a generation that has begun, or the worker that was lost.
    pub about: Vec<Uid>,
}

/// A fault that was brought about.
#[derive(Debug, Clone)]
pub struct Strike {
    pub fault: Fault,
    pub at: Duration,
    /// The process that it struck; 0 for a fault of the store.
    pub victim: Uid,
    /// When it was over, where it is one that passes.
    pub over: Option<Duration>,
    /// It really did what it was to do.
    pub happened: bool,
    /// Requests to the store that failed.
    pub failed_requests: u64,
    /// Somebody was told of it.
    pub is_shown: bool,
}

/// How many workers there were at which time.
#[derive(Debug, Clone, Default)]
pub struct Workforce(Vec<(Duration, i64)>);

/// Of a number of durations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    pub count: usize,
    pub median: f64,
    pub p95: f64,
    pub max: f64,
}

/// Steps that were computed more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Again {
    /// Applied already, and lost with all who had them.
    pub from_checkpoint: u64,
    /// Broken off half-way, as a member was lost: at most one for each generation that broke.
    pub cut: u64,
}

// === impl Seen ===

impl Seen {
    /// A step of which only the number matters.
    #[cfg(test)]
    pub fn step(at: Duration, from: Uid, global_step: u64) -> Self {
        let event = JobEvent::Step {
            epoch: 1,
            step: global_step as u32,
            global_step,
            total_steps: 100,
            loss: 0.0,
            top1: 0.0,
            learning_rate: 0.0,
            grad_norm: 0.0,
            loss_scale: None,
            skipped: None,
            images_per_second: 0.0,
            eta_seconds: 0.0,
        };
        Self {
            at,
            from,
            event,
            about: Vec::new(),
        }
    }

    /// The steps that are committed with it, where it is a step.
    pub fn global_step(&self) -> Option<u64> {
        match self.event {
            JobEvent::Step { global_step, .. } => Some(global_step),
            _ => None,
        }
    }
}

// === impl Strike ===

impl Strike {
    /// From the fault until a coordinator noticed: the worker is told to be lost or the next generation
    /// begins without it; or another coordinator rules.
    pub fn detected(&self, seen: &[Seen]) -> Option<Duration> {
        let noticed = seen.iter().find(|seen| self.is_noticed_in(seen))?;
        Some(noticed.at - self.at)
    }

    fn is_noticed_in(&self, seen: &Seen) -> bool {
        if seen.at < self.at {
            return false;
        }
        match (&seen.event, self.fault) {
            (_, Fault::Store) => false,
            (JobEvent::Waiting { .. } | JobEvent::Error { .. }, Fault::Coordinator) => false,
            (_, Fault::Coordinator) => seen.from != self.victim,
            (JobEvent::WorkerLost { .. }, _) => seen.about.contains(&self.victim),
            (JobEvent::Started { .. }, _) => !seen.about.contains(&self.victim),
            _ => false,
        }
    }

    /// From the fault to the first step that is committed after it was dealt with: by a generation without
    /// the worker, by the next coordinator, or, with a store that fails, just the next one.
    pub fn recovered(&self, seen: &[Seen]) -> Option<Duration> {
        let mut later = seen.iter().filter(|seen| seen.at >= self.at);
        if self.fault.strikes_a_worker() {
            later.find(|seen| {
                matches!(seen.event, JobEvent::Started { .. }) && !seen.about.contains(&self.victim)
            })?;
        }
        let step = later
            .find(|seen| matches!(seen.event, JobEvent::Step { .. }) && seen.from != self.victim)?;
        Some(step.at - self.at)
    }
}

/// How long after a fault was dealt with and had passed the run is as if it had not been: whoever was lost is a
/// member again by then.
const SETTLED: Duration = Duration::from_secs(5);

/// Steps a second between the faults, far enough from each: what this machine does in this very run when nothing
/// is amiss. None where faults leave no such time.
pub fn pace_between(strikes: &[Strike], seen: &[Seen]) -> Option<f64> {
    let disturbed: Vec<(Duration, Duration)> = strikes
        .iter()
        .map(|strike| {
            let recovered = strike.at + strike.recovered(seen).unwrap_or(Duration::MAX / 2);
            let over = strike.over.unwrap_or_default();
            (strike.at, recovered.max(over) + SETTLED)
        })
        .collect();
    let steps = seen
        .iter()
        .filter_map(|seen| Some((seen.at, seen.global_step()?)));
    let (mut count, mut time) = (0, Duration::ZERO);
    for ((from, before), (to, after)) in steps.clone().zip(steps.skip(1)) {
        let quiet = disturbed
            .iter()
            .all(|(begin, end)| to < *begin || from > *end);
        if quiet && after > before {
            count += after - before;
            time += to - from;
        }
    }
    (count > 0).then(|| count as f64 / time.as_secs_f64())
}

// === impl Workforce ===

impl Workforce {
    pub fn add(&mut self, at: Duration) {
        self.0.push((at, 1));
    }

    pub fn remove(&mut self, at: Duration) {
        self.0.push((at, -1));
    }

    /// The integral of `share` of the number of workers over the time between `from` and `to`, in seconds.
    pub fn integral(&self, from: Duration, to: Duration, share: impl Fn(u64) -> f64) -> f64 {
        let mut changes = self.0.clone();
        changes.sort();
        let (mut count, mut since, mut sum) = (0, from, 0.0);
        for (at, change) in changes {
            let until = at.clamp(since, to.max(since));
            sum += (until - since).as_secs_f64() * share(count);
            since = until;
            count = count.saturating_add_signed(change);
        }
        sum + to.saturating_sub(since).as_secs_f64() * share(count)
    }
}

// === impl Times ===

impl Times {
    /// None of nothing.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut sorted: Vec<f64> = durations.into_iter().map(|d| d.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        // The smallest one that so large a share of all does not exceed.
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied()
        };
        Some(Self {
            count: sorted.len(),
            median: at(0.5)?,
            p95: at(0.95)?,
            max: *sorted.last()?,
        })
    }
}

// === impl Again ===

impl Again {
    /// From the generations that began. Nobody is drained in these runs, so a member that is missing was
    /// lost.
    pub fn of(seen: &[Seen]) -> Self {
        let mut again = Self::default();
        let mut applied = 0;
        let mut members: Option<&[Uid]> = None;
        for seen in seen {
            match &seen.event {
                JobEvent::Step { global_step, .. } => applied = applied.max(*global_step),
                JobEvent::Started {
                    global_step,
                    reason,
                    ..
                } => {
                    again.from_checkpoint += applied.saturating_sub(*global_step);
                    applied = *global_step;
                    if let Some(before) = members {
                        let lost = before.iter().any(|member| !seen.about.contains(member));
                        let came = seen.about.iter().any(|member| !before.contains(member));
                        let planned = came || reason.starts_with("slots are dealt");
                        again.cut += u64::from(lost || !planned);
                    }
                    members = Some(&seen.about);
                }
                _ => {}
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_between_faults_is_that_of_the_steps_far_from_all() {
        let strike = |at| Strike {
            fault: Fault::Store,
            at: s(at),
            victim: 0,
            over: Some(s(at + 4)),
            happened: true,
            failed_requests: 1,
            is_shown: false,
        };
        // A step a second, but none while the store fails and for two seconds more.
        let failing = |at: &u64| (20..26).contains(at) || (60..66).contains(at);
        let steps = (0..100).filter(|at| !failing(at)).enumerate();
        let seen: Vec<Seen> = steps
            .map(|(step, at)| Seen::step(s(at), 1, step as u64))
            .collect();
        let pace = |strikes: &[Strike]| pace_between(strikes, &seen);
        assert_eq!(pace(&[strike(20), strike(60)]), Some(1.0));
        assert!(pace(&[strike(20)]).unwrap() < 1.0);
        let all: Vec<Strike> = (0..10).map(|tenth| strike(10 * tenth)).collect();
        assert_eq!(pace(&all), None);
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn seen(at: u64, from: Uid, event: JobEvent, about: &[Uid]) -> Seen {
        let about = about.to_vec();
        Seen {
            at: s(at),
            from,
            event,
            about,
        }
    }

    fn step(at: u64, from: Uid, global_step: u64) -> Seen {
        Seen::step(s(at), from, global_step)
    }

    fn started(at: u64, global_step: u64, reason: &str, members: &[Uid]) -> Seen {
        let event = JobEvent::Started {
            generation: at,
            epoch: 1,
            step: 0,
            global_step,
            total_steps: 100,
            resumed_from: None,
            workers: members.len() as u32,
            reason: reason.into(),
        };
        seen(at, 1, event, members)
    }

    fn lost(at: u64, worker: Uid) -> Seen {
        let event = JobEvent::WorkerLost {
            worker: format!("w{worker}"),
            reason: String::new(),
        };
        seen(at, 1, event, &[worker])
    }

    fn waiting(at: u64, from: Uid) -> Seen {
        let reason = String::new();
        seen(at, from, JobEvent::Waiting { reason }, &[])
    }

    fn strike(fault: Fault, at: u64, victim: Uid) -> Strike {
        Strike {
            fault,
            at: s(at),
            victim,
            over: None,
            happened: true,
            failed_requests: 0,
            is_shown: false,
        }
    }

    #[test]
    fn a_lost_worker_is_recovered_from_with_a_step_of_a_generation_without_it() {
        let seen = [
            started(1, 0, "", &[2, 3, 4]),
            step(10, 1, 5),
            lost(11, 3),
            lost(12, 2),
            step(13, 1, 6),
            started(14, 6, "", &[2, 4]),
            started(15, 6, "", &[4]),
            step(16, 1, 7),
        ];
        let strike = strike(Fault::Kill, 10, 2);
        assert_eq!(strike.detected(&seen), Some(s(2)));
        assert_eq!(strike.recovered(&seen), Some(s(6)));
        assert_eq!(strike.recovered(&seen[..7]), None);
    }

    #[test]
    fn a_generation_without_a_worker_is_noticed_before_it_is_said_to_be_lost() {
        let seen = [started(12, 6, "", &[3, 4]), lost(13, 2)];
        assert_eq!(strike(Fault::Stop, 10, 2).detected(&seen), Some(s(2)));
        let seen = [started(9, 6, "", &[3, 4]), lost(13, 2)];
        assert_eq!(strike(Fault::Stop, 10, 2).detected(&seen), Some(s(3)));
    }

    #[test]
    fn a_coordinator_is_replaced_by_one_that_rules_and_not_by_one_that_waits() {
        let seen = [step(10, 1, 5), waiting(11, 9), step(14, 9, 6)];
        let strike = strike(Fault::Coordinator, 10, 1);
        assert_eq!(strike.detected(&seen), Some(s(4)));
        assert_eq!(strike.recovered(&seen), Some(s(4)));
        assert_eq!(strike.detected(&seen[..2]), None);
    }

    #[test]
    fn only_steps_that_are_gone_and_generations_that_broke_count_as_computed_again() {
        let seen = [
            started(1, 0, "", &[2, 3]),
            step(2, 1, 5),
            started(3, 5, "worker `w4` joins", &[2, 3, 4]),
            started(4, 5, "slots are dealt by speed", &[2, 3, 4]),
            step(5, 1, 9),
            started(6, 9, "worker `w2` is gone", &[3, 4]),
            step(7, 9, 9),
            started(8, 6, "worker `w3` is gone", &[5]),
        ];
        let again = Again {
            from_checkpoint: 3,
            cut: 2,
        };
        assert_eq!(Again::of(&seen), again);
    }

    #[test]
    fn capacity_counts_who_was_there_for_as_long_as_he_was() {
        let mut workforce = Workforce::default();
        for _ in 0..3 {
            workforce.add(s(1));
        }
        workforce.remove(s(10));
        workforce.add(s(14));
        workforce.remove(s(30));
        let share = |workers: u64| workers as f64 / 3.0;
        let integral = workforce.integral(s(5), s(20), share);
        assert!((integral - (15.0 - 4.0 / 3.0)).abs() < 1e-9, "{integral}");
        // Two are enough to fill this machine.
        let most = |workers: u64| workers.min(2) as f64 / 2.0;
        assert!((workforce.integral(s(5), s(20), most) - 15.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        assert_eq!(Times::of([]), None);
        let times = Times::of((1..=20).map(s)).unwrap();
        assert_eq!((times.count, times.median), (20, 10.0));
        assert_eq!((times.p95, times.max), (19.0, 20.0));
        let one = Times::of([s(3)]).unwrap();
        assert_eq!((one.median, one.p95, one.max), (3.0, 3.0, 3.0));
    }
}
