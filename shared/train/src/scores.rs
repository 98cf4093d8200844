//! What an evaluation that many members share has found so far. It takes the place of the replica: members at one
//! cursor hold equal scores, a newcomer copies them, and each step adds those of its pictures.

use std::ops::Range;
use std::sync::Arc;

use perennial_plan::Spec;
use perennial_plan::order::{batch_range, steps_per_epoch};
use perennial_plan::tensors::{HostTensor, NamedTensors, TensorData};
use xxhash_rust::xxh3::Xxh3;

use crate::{StepOutcome, TrainError};

/// Numbers of a picture under one set of weights: evaluated (1), loss, predicted class, its probability, whether the
/// truth is among the best five (1) or not (0).
pub const FIELDS: usize = 5;

/// The scores of all pictures, in their order, with zeros for those that are still to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Pictures in a step.
    batch: usize,
    /// One of weights, two with their average.
    weights: usize,
    /// Each picture's class.
    labels: Arc<[u32]>,
    steps: u64,
    /// `[pictures, weights, FIELDS]`.
    rows: Vec<f64>,
}

/// How many numbers the step after `steps` steps adds, of an evaluation of so many pictures.
pub fn numbers_of(spec: &Spec, pictures: usize, steps: u64) -> usize {
    let batch = spec.train.batch_size as usize;
    pictures_of(pictures, batch, steps).len() * weights_of(spec) * FIELDS
}

fn pictures_of(pictures: usize, batch: usize, steps: u64) -> Range<usize> {
    batch_range(pictures, batch, u32::try_from(steps).unwrap_or(u32::MAX))
}

fn weights_of(spec: &Spec) -> usize {
    let evaluate = spec.evaluate.as_ref();
    evaluate.map_or(1, |evaluate| evaluate.hashes().count())
}

/// The names of the tensors by weights.
const NAMES: [&str; 2] = ["raw", "ema"];

// === impl Scores ===

impl Scores {
    /// Those of no picture. `labels` are the classes of all pictures.
    pub fn new(spec: &Spec, labels: Arc<[u32]>) -> Self {
        let weights = weights_of(spec);
        Self {
            batch: spec.train.batch_size as usize,
            weights,
            steps: 0,
            rows: vec![0.0; labels.len() * weights * FIELDS],
            labels,
        }
    }

    /// Steps that are in it.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Numbers that a picture has.
    pub fn width(&self) -> usize {
        self.weights * FIELDS
    }

    /// The places of the pictures of the step after `steps` steps.
    fn pictures_of(&self, steps: u64) -> Range<usize> {
        pictures_of(self.labels.len(), self.batch, steps)
    }

    /// Adds the numbers of the next step's pictures. Refuses, and changes nothing, unless each picture of the step was
    /// evaluated once under each set of weights.
    pub fn apply(&mut self, numbers: &[f64]) -> Result<StepOutcome, TrainError> {
        let pictures = self.pictures_of(self.steps);
        let once = numbers.chunks_exact(FIELDS).all(|row| row[0] == 1.0);
        if numbers.len() != pictures.len() * self.width() || numbers.is_empty() || !once {
            return Err(TrainError::Scores {
                step: self.steps,
                pictures: pictures.len(),
            });
        }
        let (mut loss_sum, mut top1, mut top5) = (0.0, 0, 0);
        for (row, label) in numbers
            .chunks_exact(self.width())
            .zip(&self.labels[pictures.clone()])
        {
            loss_sum += row[1];
            top1 += u64::from(row[2] == f64::from(*label));
            top5 += row[4] as u64;
        }
        let (start, end) = (pictures.start * self.width(), pictures.end * self.width());
        self.rows[start..end].copy_from_slice(numbers);
        self.steps += 1;
        Ok(StepOutcome {
            samples: pictures.len() as u64,
            loss_sum,
            top1,
            top5,
            grad_norm: 0.0,
            loss_scale: None,
            skipped: false,
            hash: self.hash(),
        })
    }

    /// XXH3 over how far it has come and all numbers.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.steps.to_le_bytes());
        hash.update(bytemuck::cast_slice(&self.rows));
        hash.digest()
    }

    /// The rows of all pictures under the weights, and under their average where that is measured.
    pub fn rows(&self) -> Vec<Vec<f64>> {
        let of = |which: usize| {
            let pictures = self.rows.chunks_exact(self.width());
            let rows = pictures.flat_map(|row| &row[which * FIELDS..(which + 1) * FIELDS]);
            rows.copied().collect()
        };
        (0..self.weights).map(of).collect()
    }

    /// For a checkpoint: `steps`, and `raw` and `ema` as `[pictures, FIELDS]`, whose integers are the bits of 64-bit
    /// floats.
    pub fn to_named(&self) -> NamedTensors {
        let rows = NAMES.into_iter().zip(self.rows()).map(|(name, rows)| {
            let bits = rows.iter().map(|value| value.to_bits() as i64).collect();
            let shape = [self.labels.len(), FIELDS];
            (name.to_string(), HostTensor::i64(shape, bits))
        });
        let steps = HostTensor::i64([], vec![self.steps as i64]);
        rows.chain([("steps".to_string(), steps)]).collect()
    }

    /// What [`Scores::to_named`] wrote.
    pub fn from_named(
        spec: &Spec,
        labels: Arc<[u32]>,
        named: &NamedTensors,
    ) -> Result<Self, TrainError> {
        let refuse = |what: &str| TrainError::Encoding(format!("`{what}` is not that of this job"));
        let mut scores = Self::new(spec, labels);
        let most = steps_per_epoch(scores.labels.len(), scores.batch);
        scores.steps = match named.get("steps").map(|tensor| &tensor.data) {
            Some(TensorData::I64(steps)) if matches!(steps[..], [at] if at >= 0 && at <= i64::from(most)) => {
                steps[0] as u64
            }
            _ => return Err(refuse("steps")),
        };
        let width = scores.width();
        for (which, name) in NAMES.into_iter().take(scores.weights).enumerate() {
            let bits = match named.get(name) {
                Some(HostTensor {
                    shape,
                    data: TensorData::I64(bits),
                }) if *shape == [scores.labels.len(), FIELDS] => bits,
                _ => return Err(refuse(name)),
            };
            for (row, bits) in scores
                .rows
                .chunks_exact_mut(width)
                .zip(bits.chunks_exact(FIELDS))
            {
                for (number, bits) in row[which * FIELDS..].iter_mut().zip(bits) {
                    *number = f64::from_bits(*bits as u64);
                }
            }
        }
        Ok(scores)
    }

    pub(crate) fn numbers(&self) -> &[f64] {
        &self.rows
    }

    /// The same evaluation as it stood after `steps` steps, with these numbers.
    pub(crate) fn resumed(mut self, steps: u64, rows: Vec<f64>) -> Self {
        self.steps = steps;
        self.rows = rows;
        self
    }
}

#[cfg(test)]
mod tests {
    use perennial_plan::spec::EvaluateSpec;

    use super::*;

    const LABELS: [u32; 5] = [0, 1, 2, 1, 0];

    fn spec() -> Spec {
        let mut spec = Spec::default();
        spec.train.batch_size = 2;
        spec.evaluate = Some(EvaluateSpec {
            ema_sha256: Some(String::new()),
            ..EvaluateSpec::default()
        });
        spec
    }

    fn none(spec: &Spec) -> Scores {
        Scores::new(spec, LABELS.into())
    }

    /// What the step after `steps` steps finds: the raw weights are right about every picture.
    fn found(scores: &Scores, steps: u64) -> Vec<f64> {
        let pictures = scores.pictures_of(steps);
        let of = |place: usize| {
            let loss = 0.1 + 0.2 * place as f64;
            let label = f64::from(LABELS[place]);
            [1.0, loss, label, 0.9, 1.0, 1.0, loss * 3.0, 2.0, 0.5, 0.0]
        };
        pictures.flat_map(of).collect()
    }

    #[test]
    fn scores_come_back_from_bytes_and_from_a_checkpoint_to_the_bit() {
        let spec = spec();
        let mut scores = none(&spec);
        for steps in 0..2 {
            let outcome = scores.apply(&found(&scores, steps)).unwrap();
            assert_eq!((outcome.samples, outcome.top1, outcome.top5), (2, 2, 2));
            assert_eq!(outcome.hash, scores.hash());
        }
        let bytes = scores.to_bytes();
        assert_eq!(
            Scores::from_bytes(&spec, LABELS.into(), &bytes).unwrap(),
            scores
        );
        let named = scores.to_named();
        assert_eq!(
            Scores::from_named(&spec, LABELS.into(), &named).unwrap(),
            scores
        );
        for cut in [0, 9, bytes.len() / 2, bytes.len() - 1] {
            Scores::from_bytes(&spec, LABELS.into(), &bytes[..cut]).unwrap_err();
        }
        Scores::from_bytes(&spec, LABELS[1..].into(), &bytes).unwrap_err();
        Scores::from_named(&spec, LABELS[1..].into(), &named).unwrap_err();
    }

    #[test]
    fn a_step_without_a_picture_or_with_one_twice_changes_nothing() {
        let spec = spec();
        let mut scores = none(&spec);
        let whole = found(&scores, 0);
        let mut twice = whole.clone();
        twice[0] = 2.0;
        for numbers in [&whole[FIELDS..], &twice, &[]] {
            scores.apply(numbers).unwrap_err();
            assert_eq!(scores, none(&spec));
        }
        for steps in 0..3 {
            scores.apply(&found(&scores, steps)).unwrap();
        }
        assert_eq!(scores.rows()[1][1], 0.1 * 3.0);
        scores.apply(&whole).unwrap_err();
    }
}
