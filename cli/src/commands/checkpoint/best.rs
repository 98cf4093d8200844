//! The best checkpoint of a job by a metric.

use clap::ValueEnum;
use perennial_report::EpochRecord;
use perennial_store::{Job, Manifest};

/// By what the best is chosen. Losses are better when they are lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Validation top-1, of the average where there is one: what `checkpoint.keep_best` keeps
    Top1,
    /// Validation top-1 of the weights
    ValTop1,
    /// Validation top-5 of the weights
    ValTop5,
    /// Validation loss of the weights
    ValLoss,
    /// Validation top-1 of the average
    EmaTop1,
    /// Validation top-5 of the average
    EmaTop5,
    /// Validation loss of the average
    EmaLoss,
    /// Loss in training, of the epoch that ends there
    TrainLoss,
}

// === impl Metric ===

impl Metric {
    /// The value of a checkpoint, the higher the better. All but the first need one at an epoch's end, whose
    /// weights are those that were evaluated.
    fn of(self, manifest: &Manifest) -> Option<f64> {
        if self == Self::Top1 {
            return manifest.metric;
        }
        let at_its_end = manifest.cursor.step == 0;
        let history: Vec<EpochRecord> = serde_json::from_value(manifest.history.clone()).ok()?;
        let record = history.last().filter(|_| at_its_end)?;
        match self {
            Self::Top1 => None,
            Self::ValTop1 => Some(record.val_top1),
            Self::ValTop5 => Some(record.val_top5),
            Self::ValLoss => Some(-record.val_loss),
            Self::EmaTop1 => record.ema_top1,
            Self::EmaTop5 => record.ema_top5,
            Self::EmaLoss => record.ema_loss.map(|loss| -loss),
            Self::TrainLoss => Some(-record.train_loss),
        }
    }
}

/// The step of the best checkpoint that is there, the newest of equal ones; none where no checkpoint has the metric.
pub async fn best(job: &Job, metric: Metric) -> anyhow::Result<Option<u64>> {
    let mut best: Option<(f64, u64)> = None;
    for step in job.checkpoint_steps().await? {
        let value = match job.load_manifest(step).await {
            Ok(manifest) => metric.of(&manifest),
            // Retention was faster.
            Err(perennial_store::StoreError::Missing { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(value) = value.filter(|value| !value.is_nan()) else {
            continue;
        };
        if best.is_none_or(|(known, _)| value >= known) {
            best = Some((value, step));
        }
    }
    Ok(best.map(|(_, step)| step))
}

#[cfg(test)]
mod tests {
    use perennial_plan::{Cursor, Spec};
    use perennial_store::FORMAT_VERSION;
    use serde_json::json;

    use super::*;

    fn manifest(cursor: Cursor) -> Manifest {
        let record = EpochRecord {
            epoch: 1,
            train_loss: 0.5,
            train_top1: 0.25,
            learning_rate: 0.1,
            grad_norm: 1.0,
            val_loss: 0.75,
            val_top1: 0.125,
            val_top5: 0.875,
            ema_loss: None,
            ema_top1: None,
            ema_top5: None,
            images_per_second: 1.0,
            seconds: 1.0,
            workers: 1,
            loss_scale: None,
            skipped_steps: None,
        };
        Manifest {
            format_version: FORMAT_VERSION,
            job: "job".into(),
            global_step: 3,
            cursor,
            created: String::new(),
            spec: Spec::default(),
            spec_identity: String::new(),
            data_fingerprint: String::new(),
            numerics: String::new(),
            version: String::new(),
            parts: Vec::new(),
            weights_sha256: String::new(),
            ema_sha256: None,
            history: json!([record]),
            progress: json!({}),
            metric: Some(0.125),
            generation: 1,
            ledger_head: None,
        }
    }

    #[test]
    fn a_loss_is_better_when_lower_and_weights_between_two_evaluations_have_none() {
        let at_its_end = manifest(Cursor { epoch: 1, step: 0 });
        assert_eq!(Metric::ValLoss.of(&at_its_end), Some(-0.75));
        assert_eq!(Metric::ValTop5.of(&at_its_end), Some(0.875));
        assert_eq!(Metric::EmaTop1.of(&at_its_end), None);
        let between = manifest(Cursor { epoch: 1, step: 2 });
        assert_eq!(Metric::ValLoss.of(&between), None);
        assert_eq!(Metric::Top1.of(&between), Some(0.125));
    }
}
