//! What a run's log says of its samples, from storage alone.

use perennial_coordinator::log::LogRecord;
use perennial_coordinator::replay::Replayed;
use perennial_plan::Spec;
use perennial_plan::ledger::StepRecord;
use perennial_plan::order::batch_range;
use serde::Serialize;

/// The samples that were to be applied against those that were.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Account {
    pub steps: u64,
    pub samples: u64,
    pub lost: u64,
    pub repeated: u64,
}

// === impl Account ===

impl Account {
    /// Of a job that is done. The error says which rule the log breaks.
    pub fn of(spec: &Spec, log: &[LogRecord]) -> Result<(Self, Replayed), String> {
        let replayed = Replayed::of(spec, log).map_err(|violation| violation.to_string())?;
        let samples = replayed.data.as_ref().map_or(0, |data| data.train_samples);
        let account = Self::balance(spec, samples as usize, &replayed.steps);
        Ok((account, replayed))
    }

    /// Every step of every epoch has its whole batch, once.
    fn balance(spec: &Spec, samples: usize, steps: &[StepRecord]) -> Self {
        let batch = spec.train.batch_size as usize;
        let count = samples.div_ceil(batch.max(1)) as u32;
        let mut account = Self {
            steps: steps.len() as u64,
            ..Self::default()
        };
        let mut applied = std::collections::BTreeMap::new();
        for step in steps {
            account.samples += step.samples;
            *applied.entry((step.epoch, step.step)).or_insert(0) += step.samples;
        }
        for epoch in 0..spec.train.epochs {
            for step in 0..count {
                let wanted = batch_range(samples, batch, step).len() as u64;
                let got = applied.remove(&(epoch, step)).unwrap_or(0);
                account.lost += wanted.saturating_sub(got);
                account.repeated += got.saturating_sub(wanted);
            }
        }
        // Whatever is left was never to be applied.
        account.repeated += applied.values().sum::<u64>();
        account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let mut spec = Spec::default();
        spec.train.epochs = 2;
        spec.train.batch_size = 4;
        spec
    }

    /// Ten samples in batches of four.
    fn steps() -> Vec<StepRecord> {
        let record = |epoch, step, samples| StepRecord {
            epoch,
            step,
            generation: 1,
            samples,
            ..StepRecord::default()
        };
        let epoch = |epoch| [(0, 4), (1, 4), (2, 2)].map(|(step, n)| record(epoch, step, n));
        [epoch(0), epoch(1)].concat()
    }

    #[test]
    fn an_account_balances_when_every_batch_was_applied_once() {
        let account = Account::balance(&spec(), 10, &steps());
        let balanced = Account {
            steps: 6,
            samples: 20,
            lost: 0,
            repeated: 0,
        };
        assert_eq!(account, balanced);
    }

    #[test]
    fn a_missing_batch_is_lost_and_one_that_is_there_twice_is_repeated() {
        let mut missing = steps();
        missing.remove(2);
        assert_eq!(Account::balance(&spec(), 10, &missing).lost, 2);
        let mut twice = steps();
        twice.push(twice[3].clone());
        let account = Account::balance(&spec(), 10, &twice);
        assert_eq!((account.lost, account.repeated), (0, 4));
        let mut beyond = steps();
        beyond[0].epoch = 7;
        let account = Account::balance(&spec(), 10, &beyond);
        assert_eq!((account.lost, account.repeated), (4, 4));
    }
}
