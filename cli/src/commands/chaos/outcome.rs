//! What a run under faults came to, as a table and as JSON.

use std::time::Duration;

use perennial_plan::ledger::StepRecord;
use serde::Serialize;

use super::account::Account;
use super::plan::Fault;
use super::seen::{Again, Seen, Strike, Times};
use crate::output::{duration, percent, table, thousands};

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub job: String,
    pub seed: u64,
    pub workers: u32,
    pub threads: usize,
    /// Where the runs are kept.
    pub store: String,
    pub faults: Vec<Row>,
    pub strikes: Vec<Struck>,
    /// Training while no coordinator ruled.
    pub without_coordinator: Option<Interregnum>,
    pub computed_again: Again,
    pub account: Option<Account>,
    /// Committed pictures a second of undisturbed runs with the same number of workers, before and after.
    pub undisturbed_images_per_second: f64,
    pub images_per_second: f64,
    /// Of the time from the first step to the last, how much a machine with the workers that were there is
    /// worth (0..1).
    pub capacity: f64,
    /// Committed pictures over those that the undisturbed run commits with that capacity.
    pub goodput: f64,
    /// Committed pictures a second of this run between its faults, where they leave time for that: the speed of a
    /// shared machine changes from one run to the next.
    pub images_per_second_between_faults: Option<f64>,
    pub seconds: f64,
    pub undisturbed: Hashes,
    pub disturbed: Hashes,
    pub same_weights: bool,
    /// Workers that ended though nobody wanted it, and how.
    pub ended_by_themselves: Vec<String>,
    /// Why the run is not as it should be; empty when it is.
    pub failures: Vec<String>,
}

/// Of the last checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hashes {
    pub global_step: u64,
    pub weights_sha256: String,
    pub ema_sha256: Option<String>,
}

/// The faults of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub fault: Fault,
    pub planned: usize,
    pub happened: usize,
    pub detection: Option<Times>,
    pub recovery: Option<Times>,
}

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub struct Struck {
    pub fault: Fault,
    /// Seconds since the run's beginning.
    pub at: f64,
    pub happened: bool,
    pub detection: Option<f64>,
    pub recovery: Option<f64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub failed_requests: u64,
}

/// What the members did between the death of a coordinator and the first step that the next one hears of,
/// over all that died.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interregnum {
    pub seconds: f64,
    pub steps: u64,
    /// From step to step, by the members' own clocks.
    pub longest_step_seconds: f64,
    /// Of the whole run.
    pub median_step_seconds: f64,
}

/// How long what members have to report may take to come.
const AT_ONCE: Duration = Duration::from_millis(200);

fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl Row ===

impl Row {
    /// Of the strikes of one kind, of which `planned` should have been.
    pub fn of(fault: Fault, planned: usize, strikes: &[Strike], seen: &[Seen]) -> Self {
        let strikes: Vec<&Strike> = (strikes.iter())
            .filter(|strike| strike.fault == fault && strike.happened)
            .collect();
        Self {
            fault,
            planned,
            happened: strikes.len(),
            detection: Times::of(strikes.iter().filter_map(|it| it.detected(seen))),
            recovery: Times::of(strikes.iter().filter_map(|it| it.recovered(seen))),
        }
    }
}

// === impl Struck ===

impl Struck {
    pub fn of(strike: &Strike, seen: &[Seen]) -> Self {
        Self {
            fault: strike.fault,
            at: strike.at.as_secs_f64(),
            happened: strike.happened,
            detection: strike.detected(seen).map(|it| it.as_secs_f64()),
            recovery: strike.recovered(seen).map(|it| it.as_secs_f64()),
            failed_requests: strike.failed_requests,
        }
    }

    /// As a line for people.
    pub fn line(&self) -> String {
        let seconds =
            |time: Option<f64>| time.map_or("-".to_string(), |time| format!("{time:.2} s"));
        let failed = match self.failed_requests {
            0 => String::new(),
            failed => format!(", {} requests failed", thousands(failed)),
        };
        let fault = self.fault.as_str();
        let so = if self.happened { "" } else { " DID NOT HAPPEN" };
        format!(
            "{:>8.1} s  {fault:<11}{so} detected after {}, next step after {}{failed}",
            self.at,
            seconds(self.detection),
            seconds(self.recovery)
        )
    }
}

// === impl Interregnum ===

impl Interregnum {
    /// From the steps that count. None without a coordinator that was replaced.
    pub fn of(strikes: &[Strike], seen: &[Seen], steps: &[StepRecord]) -> Option<Self> {
        let mut all: Vec<f64> = steps.iter().map(|step| step.seconds).collect();
        all.sort_by(f64::total_cmp);
        let mut interregnum = Self {
            seconds: 0.0,
            steps: 0,
            longest_step_seconds: 0.0,
            median_step_seconds: *all.get(all.len() / 2)?,
        };
        let fell = strikes.iter().filter(|it| it.fault == Fault::Coordinator);
        for strike in fell {
            let Some(recovered) = strike.recovered(seen) else {
                continue;
            };
            // The first step that the next coordinator hears of comes with all the others that were taken.
            let known = |until: Duration| {
                let steps = seen.iter().filter(|seen| seen.at <= until);
                steps.filter_map(Seen::global_step).max().unwrap_or(0)
            };
            let (from, to) = (known(strike.at), known(strike.at + recovered + AT_ONCE));
            let meanwhile = steps.get(from as usize..to as usize).unwrap_or_default();
            interregnum.seconds += recovered.as_secs_f64();
            interregnum.steps += meanwhile.len() as u64;
            for step in meanwhile {
                interregnum.longest_step_seconds =
                    interregnum.longest_step_seconds.max(step.seconds);
            }
        }
        (interregnum.seconds > 0.0).then_some(interregnum)
    }
}

// === impl Outcome ===

impl Outcome {
    pub fn text(&self) -> String {
        let mut rows = vec![["fault", "planned", "happened"].map(String::from).to_vec()];
        for what in ["detected", "next step"] {
            rows[0].extend(["median", "p95", "max"].map(|column| format!("{what} {column}")));
        }
        for row in &self.faults {
            let mut cells = vec![
                row.fault.as_str().to_string(),
                row.planned.to_string(),
                row.happened.to_string(),
            ];
            for times in [row.detection, row.recovery] {
                let numbers = times.map(|it| [it.median, it.p95, it.max]);
                match numbers {
                    Some(numbers) => cells.extend(numbers.map(|number| format!("{number:.2} s"))),
                    None => cells.extend(["-", "-", "-"].map(String::from)),
                }
            }
            rows.push(cells);
        }
        let mut facts = vec![vec![
            "steps computed again".to_string(),
            format!(
                "{} from a checkpoint, at most {} cut",
                self.computed_again.from_checkpoint, self.computed_again.cut
            ),
        ]];
        let mut fact = |what: &str, value: String| facts.push(vec![what.to_string(), value]);
        if let Some(account) = &self.account {
            fact(
                "samples",
                format!(
                    "{} applied, {} lost, {} repeated",
                    thousands(account.samples),
                    account.lost,
                    account.repeated
                ),
            );
        }
        if let Some(it) = &self.without_coordinator {
            fact(
                "without a coordinator",
                format!(
                    "{} steps in {}, the longest {:.2} s (median of all {:.2} s)",
                    it.steps,
                    duration(it.seconds),
                    it.longest_step_seconds,
                    it.median_step_seconds
                ),
            );
        }
        fact(
            "goodput",
            format!(
                "{} ({:.1} images/s with {} of the capacity, undisturbed {:.1}) over {}",
                percent(self.goodput),
                self.images_per_second,
                percent(self.capacity),
                self.undisturbed_images_per_second,
                duration(self.seconds)
            ),
        );
        if let Some(between) = self.images_per_second_between_faults {
            let share = percent(self.images_per_second / between);
            fact(
                "between the faults",
                format!("{between:.1} images/s, of which the whole run has {share}"),
            );
        }
        if !self.ended_by_themselves.is_empty() {
            fact(
                "ended by themselves",
                format!("{} workers", self.ended_by_themselves.len()),
            );
        }
        let same = if self.same_weights {
            "the same as those of one undisturbed worker"
        } else {
            "DIFFERENT from those of one undisturbed worker"
        };
        fact("weights", same.to_string());
        fact("weights_sha256", self.disturbed.weights_sha256.clone());
        if let Some(ema) = &self.disturbed.ema_sha256 {
            fact("ema_sha256", ema.clone());
        }
        let width = facts.iter().map(|row| row[0].len()).max().unwrap_or(0);
        let facts = facts
            .iter()
            .map(|row| format!("{:<width$}  {}\n", row[0], row[1]));
        format!("{}\n{}", table(&rows), facts.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at: f64, from: u32, global_step: u64) -> Seen {
        Seen::step(Duration::from_secs_f64(at), from, global_step)
    }

    fn record(step: u32, seconds: f64) -> StepRecord {
        StepRecord {
            step,
            generation: 1,
            samples: 4,
            seconds,
            ..StepRecord::default()
        }
    }

    #[test]
    fn steps_without_a_coordinator_are_those_that_the_next_one_is_told_at_once() {
        let strike = Strike {
            fault: Fault::Coordinator,
            at: Duration::from_secs(10),
            victim: 1,
            over: None,
            happened: true,
            failed_requests: 0,
            is_shown: false,
        };
        let seen = [
            step(9.9, 1, 2),
            step(14.0, 9, 3),
            step(14.1, 9, 5),
            step(15.0, 9, 6),
        ];
        let seconds = [9.0, 1.0, 1.0, 2.0, 1.5, 8.0];
        let steps: Vec<StepRecord> = (0..).zip(seconds).map(|(i, s)| record(i, s)).collect();
        let interregnum = Interregnum::of(&[strike], &seen, &steps).unwrap();
        assert_eq!((interregnum.seconds, interregnum.steps), (4.0, 3));
        assert_eq!(interregnum.longest_step_seconds, 2.0);
        assert_eq!(Interregnum::of(&[], &seen, &steps), None);
    }
}
