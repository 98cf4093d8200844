//! The report as data, and its JSON.
//!
//! A number that is not finite is written as `null` and read back as NaN: a run that diverged still has a report.

use serde::{Deserialize, Deserializer, Serialize};

use crate::ClassificationReport;

/// The version of the JSON layout that this crate writes.
pub const FORMAT_VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("report: not the JSON of a report: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "report: `format_version` is `{found}`, but this program reads `{FORMAT_VERSION}`; use the program that wrote it"
    )]
    Version { found: u64 },
    #[error("report: `{field}` is {found}, but must be {expected}")]
    Inconsistent {
        field: String,
        found: String,
        expected: String,
    },
    #[error("no picture can be made of the curves: {reason}")]
    Picture { reason: String },
    #[error("label `{label}` is outside the {classes} classes")]
    Label { label: u32, classes: usize },
    #[error("{truth} true labels but {predicted} predicted ones")]
    Lengths { truth: usize, predicted: usize },
}

/// One pass over the validation set with one set of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub samples: u64,
    /// Mean cross-entropy a sample.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// The share (0..1) of samples whose class was the first guess.
    #[serde(deserialize_with = "null_is_nan")]
    pub top1: f64,
    /// The share (0..1) of samples whose class was among the first `k` guesses.
    #[serde(deserialize_with = "null_is_nan")]
    pub top5: f64,
    /// 5, or the number of classes where there are fewer.
    pub k: u32,
    /// Counts, `[truth][predicted]`.
    pub confusion: Vec<Vec<u64>>,
    /// Wrong answers, the most confident first.
    pub mistakes: Vec<Mistake>,
}

/// A wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    pub path: String,
    /// Index of the true class.
    pub truth: u32,
    /// Index of the predicted class.
    pub predicted: u32,
    /// The probability (0..1) that the network gave its answer.
    #[serde(deserialize_with = "null_is_nan")]
    pub confidence: f64,
    /// A small picture as a `data:image/...` URI; anything else is not shown.
    pub thumbnail: Option<String>,
}

/// What one epoch did. Accuracies are shares (0..1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u32,
    #[serde(deserialize_with = "null_is_nan")]
    pub train_loss: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub train_top1: f64,
    /// At the epoch's last step.
    #[serde(deserialize_with = "null_is_nan")]
    pub learning_rate: f64,
    /// Global L2 norm before clipping, at the epoch's last step.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// At the epoch's last step, where the job scales the loss; and how many of its steps were skipped for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
    #[serde(deserialize_with = "null_is_nan")]
    pub val_loss: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub val_top1: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub val_top5: f64,
    pub ema_loss: Option<f64>,
    pub ema_top1: Option<f64>,
    pub ema_top5: Option<f64>,
    #[serde(deserialize_with = "null_is_nan")]
    pub images_per_second: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub seconds: f64,
    pub workers: u32,
}

/// What was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    pub dir: String,
    /// A hash over the files' names and contents.
    pub fingerprint: String,
    /// Names in the order of their indices.
    pub classes: Vec<String>,
    pub train_samples: u64,
    pub val_samples: u64,
    /// Files left out because they could not be read.
    pub skipped: u64,
}

/// What was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    pub name: String,
    /// Trainable numbers.
    pub parameters: u64,
    /// The file that training started from; none: a random start.
    pub weights: Option<String>,
}

/// Everything about a run that somebody who was not there wants to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    pub job: String,
    pub program_version: String,
    /// When, as RFC 3339 in UTC.
    pub created: String,
    /// The command that trains this again.
    pub command: Option<String>,
    /// Whether all epochs are done.
    pub finished: bool,
    pub epochs_done: u32,
    /// Optimizer steps since the start.
    pub global_step: u64,
    pub model: ModelSummary,
    pub data: DataSummary,
    /// With the weights as they are after the last step.
    pub raw: Evaluation,
    /// With the exponential moving average of the weights.
    pub ema: Option<Evaluation>,
    pub weights_sha256: Option<String>,
    pub ema_sha256: Option<String>,
    /// Merkle root over all applied steps, where the job is finished.
    #[serde(default)]
    pub ledger_root: Option<String>,
    /// The class of processors and kernels whose bits agree.
    pub numerics: String,
    /// At the end.
    pub workers: u32,
    /// Memberships that the run went through.
    pub generations: u64,
    pub epochs: Vec<EpochRecord>,
    /// The resolved job file.
    pub spec: serde_json::Value,
}

/// Which of the two sets of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    Raw,
    Ema,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Derived from the raw weights' confusion matrix.
    raw_classification: ClassificationReport,
    ema_classification: Option<ClassificationReport>,
}

// === impl Weights ===

impl Weights {
    /// For the middle of a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw weights",
            Self::Ema => "EMA weights",
        }
    }
}

// === impl Report ===

impl Report {
    /// The report and, derived from it, the scores of each class (`raw_classification`, `ema_classification`).
    pub fn to_json_pretty(&self) -> String {
        let classification = |evaluation: &Evaluation| self.classification(evaluation);
        let document = Document {
            report: self,
            raw_classification: classification(&self.raw),
            ema_classification: self.ema.as_ref().map(classification),
        };
        serde_json::to_string_pretty(&document).expect("a report is plain data")
    }

    /// Reads what [`Self::to_json_pretty`] wrote and refuses a report that contradicts itself.
    pub fn from_json(json: &str) -> Result<Self, ReportError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let found = serde_json::from_str::<Version>(json)?.format_version;
        if found != u64::from(FORMAT_VERSION) {
            return Err(ReportError::Version { found });
        }
        let report: Self = serde_json::from_str(json)?;
        report.validate()?;
        Ok(report)
    }

    /// Checks that counts and indices fit the classes and each other.
    pub fn validate(&self) -> Result<(), ReportError> {
        self.validate_evaluation("raw", &self.raw)?;
        self.ema
            .as_ref()
            .map_or(Ok(()), |ema| self.validate_evaluation("ema", ema))
    }

    fn validate_evaluation(&self, name: &str, evaluation: &Evaluation) -> Result<(), ReportError> {
        let ensure = |holds: bool, field: &str, found: String, expected: String| {
            let field = format!("{name}.{field}");
            if holds {
                Ok(())
            } else {
                Err(ReportError::Inconsistent {
                    field,
                    found,
                    expected,
                })
            }
        };
        let classes = self.data.classes.len();
        let rows = evaluation.confusion.len();
        let square = rows == classes && evaluation.confusion.iter().all(|row| row.len() == classes);
        ensure(
            square,
            "confusion",
            format!("a matrix of {rows} rows"),
            format!("{classes} rows of {classes} counts, one a class"),
        )?;
        let counted = evaluation
            .confusion
            .iter()
            .flatten()
            .try_fold(0u64, |sum, &count| sum.checked_add(count));
        ensure(
            counted == Some(evaluation.samples),
            "samples",
            evaluation.samples.to_string(),
            "the sum of `confusion`".to_string(),
        )?;
        for mistake in &evaluation.mistakes {
            let label = mistake.truth.max(mistake.predicted);
            ensure(
                (label as usize) < classes,
                "mistakes",
                format!("of a class with index {label}"),
                format!("of one of the {classes} classes"),
            )?;
        }
        Ok(())
    }

    /// The evaluation that the report leads with: the higher top-1, EMA where they are equal.
    pub fn reported(&self) -> (Weights, &Evaluation) {
        match &self.ema {
            Some(ema) if ema.top1 >= self.raw.top1 || self.raw.top1.is_nan() => (Weights::Ema, ema),
            _ => (Weights::Raw, &self.raw),
        }
    }

    /// The first epoch with the highest validation top-1 of the weights that the report leads with.
    pub fn best_epoch(&self) -> Option<&EpochRecord> {
        let weights = self.reported().0;
        let top1 = |record: &EpochRecord| {
            let top1 = match weights {
                Weights::Ema => record.ema_top1.unwrap_or(f64::NAN),
                Weights::Raw => record.val_top1,
            };
            if top1.is_nan() {
                f64::NEG_INFINITY
            } else {
                top1
            }
        };
        self.epochs
            .iter()
            .rev()
            .max_by(|a, b| top1(a).total_cmp(&top1(b)))
            .filter(|best| top1(best).is_finite())
    }

    /// The scores of each class in one of the report's evaluations.
    pub fn classification(&self, evaluation: &Evaluation) -> ClassificationReport {
        ClassificationReport::new(&self.data.classes, &evaluation.confusion)
    }

    /// Wall-clock seconds in epochs.
    pub fn seconds(&self) -> f64 {
        self.epochs
            .iter()
            .map(|record| record.seconds)
            .filter(|seconds| seconds.is_finite())
            .sum()
    }

    pub(crate) fn planned_epochs(&self) -> Option<u64> {
        self.spec.get("train")?.get("epochs")?.as_u64()
    }

    /// Whether the weights are the same for any workers: unless sums were `fast`.
    pub(crate) fn is_exact(&self) -> bool {
        let reduction = self
            .spec
            .get("train")
            .and_then(|train| train.get("reduction"));
        reduction.and_then(serde_json::Value::as_str) != Some("fast")
    }

    pub(crate) fn class_name(&self, index: usize) -> String {
        let name = self.data.classes.get(index);
        name.cloned().unwrap_or_else(|| index.to_string())
    }
}

/// A number that may not be one, for which JSON has null.
pub fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
