//! Validation by all members: each evaluates its slots of the validation set, everybody gets the whole.

use std::ops::Range;

use base64::Engine;
use perennial_collective::{Contribution, Partial, SlotSum};
use perennial_data::{DataError, DataSet, Pipeline, Sample, Side, thumbnail_jpeg};
use perennial_model::{Bound, Network, Weights};
use perennial_plan::invariants::Invariant;
use perennial_plan::order::slot_range;
use perennial_report::{Evaluation, Mistake, confusion_matrix};
use perennial_train::scores::FIELDS;
use perennial_train::{infer, loss, metrics};

use crate::error::WorkerError;
use crate::member::Member;
use crate::pictures::tensor;
use crate::shared::State;
use crate::slots::Cores;

/// Pictures in one forward pass.
pub(crate) const PORTION: usize = 64;
/// The most confident mistakes that a report shows.
const MISTAKES: usize = 24;
/// The longer side of a mistake's picture in pixels.
const THUMBNAIL: u32 = 96;

impl Member<'_> {
    /// Evaluates raw and averaged weights; the JSON `{"raw": ..., "ema": ...}` that the report is made of.
    pub fn evaluate(&mut self) -> Result<Vec<u8>, WorkerError> {
        let state = self.worker.replica.read(|held| {
            match &held.expect("a member holds a replica").state {
                State::Training(replica) => Ok((replica.weights.clone(), replica.ema.clone())),
                State::Evaluating(scores) => Err(scores.rows()),
            }
        })?;
        let mut rows = match state {
            Ok((raw, average)) => std::iter::once(raw)
                .chain(average)
                .map(|weights| self.evaluate_weights(&weights))
                .collect::<Result<Vec<_>, _>>()?,
            // An evaluation has measured them on the way.
            Err(rows) => rows,
        }
        .into_iter();
        let raw = rows.next().unwrap_or_default();
        let ema = rows.next();
        let job = &self.worker.job;
        let data = job.pipeline.data();
        let max_pixels = job.spec.data.max_pixels;
        let evaluation = |rows: &[f64]| summarize(rows, data, Side::Val, Some(max_pixels));
        let json = serde_json::json!({
            "raw": evaluation(&raw)?,
            "ema": ema.as_deref().map(evaluation).transpose()?,
        });
        Ok(json.to_string().into_bytes())
    }

    /// The rows of all samples of the validation set, each evaluated by the member that holds its slot.
    fn evaluate_weights(&mut self, weights: &Weights) -> Result<Vec<f64>, WorkerError> {
        let (worker, turn) = (self.worker, self.turn);
        let job = &worker.job;
        let samples = job.pipeline.data().val.len();
        let slots = job.spec.train.slots;
        let owned = self.generation.members[self.rank].slots.clone();
        let network = &job.network;
        let bound = Bound::for_inference(&network.table, weights, &worker.device);
        let statistics = SlotSum::new(slots, owned.clone());
        for slot in owned {
            let places = slot_range(0..samples, slots, slot);
            if places.is_empty() {
                statistics.add(slot, None)?;
                continue;
            }
            let own = evaluate_places(
                &job.pipeline,
                network,
                &bound,
                Side::Val,
                portions(places.clone()),
                &worker.cores,
                || turn.check(),
            )?;
            let mut rows = vec![0.0; samples * FIELDS];
            rows[places.start * FIELDS..places.end * FIELDS].copy_from_slice(&own);
            statistics.add(slot, Some(rows))?;
        }
        let reduced = self.all_reduce(Contribution {
            slots,
            gradients: Partial::default(),
            statistics: Partial {
                len: samples * FIELDS,
                nodes: statistics.finish()?,
            },
            control: 0,
        })?;
        let rows = reduced.statistics.chunks_exact(FIELDS);
        let evaluated: f64 = rows.clone().map(|row| row[0]).sum();
        let all_once = rows.clone().all(|row| row[0] == 1.0);
        Invariant::Ev1.check(all_once, || {
            format!("{evaluated} of {samples} validation samples were evaluated")
        })?;
        Ok(reduced.statistics)
    }
}

/// The places in portions for one forward pass each.
fn portions(places: Range<usize>) -> impl Iterator<Item = Range<usize>> + Send {
    let starts = places.clone().step_by(PORTION);
    starts.map(move |start| start..places.end.min(start + PORTION))
}

/// The rows of the samples at these places of `side`, in their order; each portion is one forward pass. `go_on` is asked
/// before each of them: its error ends the evaluation.
pub(crate) fn evaluate_places(
    pipeline: &Pipeline,
    network: &Network,
    bound: &Bound,
    side: Side,
    mut portions: impl Iterator<Item = Range<usize>> + Send,
    cores: &Cores,
    go_on: impl Fn() -> Result<(), WorkerError> + Sync,
) -> Result<Vec<f64>, WorkerError> {
    let size = pipeline.image_size() as usize;
    let classes = pipeline.data().classes.len();
    let next = || {
        let portion = portions.next()?;
        Some(go_on().map(|()| portion))
    };
    let work = |portion: Range<usize>| {
        let samples: Vec<u32> = portion.clone().map(|place| place as u32).collect();
        let batch = pipeline.eval_batch(side, &samples)?;
        let images = tensor(batch.images, size, bound.device());
        let logits = infer(network, bound, images)?;
        Ok((
            portion.start,
            rows(&logits, &batch.targets, &batch.labels, classes),
        ))
    };
    let mut done = cores
        .for_each(next, work)?
        .into_iter()
        .collect::<Result<Vec<_>, WorkerError>>()?;
    done.sort_by_key(|(start, _)| *start);
    Ok(done.into_iter().flat_map(|(_, rows)| rows).collect())
}

/// The numbers of each picture, [`FIELDS`] a picture.
pub(crate) fn rows(logits: &[f32], targets: &[f32], labels: &[u32], classes: usize) -> Vec<f64> {
    let probabilities = loss::softmax(logits, classes);
    let samples = logits
        .chunks_exact(classes)
        .zip(probabilities.chunks_exact(classes))
        .zip(targets.chunks_exact(classes));
    samples
        .zip(labels)
        .flat_map(|(((logits, probabilities), target), label)| {
            let mut gradient = vec![0.0; classes];
            let loss = loss::soft_target_cross_entropy(logits, target, classes, &mut gradient);
            let predicted = metrics::argmax(logits);
            let among_best = metrics::top_k(logits, classes, &[*label], 5);
            [
                1.0,
                loss,
                predicted as f64,
                f64::from(probabilities[predicted]),
                among_best as f64,
            ]
        })
        .collect()
}

/// The evaluation of a report from the rows of all samples. With `thumbnails`, a limit on pixels, the most
/// confident mistakes carry their pictures.
pub(crate) fn summarize(
    rows: &[f64],
    data: &DataSet,
    side: Side,
    thumbnails: Option<u64>,
) -> Result<Evaluation, WorkerError> {
    let samples = data.side(side);
    let truth: Vec<u32> = samples.iter().map(|sample| sample.class).collect();
    let predicted: Vec<u32> = rows.chunks_exact(FIELDS).map(|row| row[2] as u32).collect();
    let count = samples.len() as f64;
    let sum = |field: usize| rows.chunks_exact(FIELDS).map(|row| row[field]).sum::<f64>();
    let correct = truth
        .iter()
        .zip(&predicted)
        .filter(|(truth, predicted)| truth == predicted)
        .count();
    let confusion = confusion_matrix(&truth, &predicted, data.classes.len())
        .map_err(|error| WorkerError::Inference(error.to_string()))?;

    let mut wrong: Vec<usize> = (0..samples.len())
        .filter(|place| truth[*place] != predicted[*place])
        .collect();
    wrong.sort_by(|a, b| {
        rows[b * FIELDS + 3]
            .total_cmp(&rows[a * FIELDS + 3])
            .then(a.cmp(b))
    });
    let mistakes = wrong
        .into_iter()
        .take(MISTAKES)
        .map(|place| {
            let sample = &samples[place];
            Ok(Mistake {
                path: data.relative(sample)?,
                truth: truth[place],
                predicted: predicted[place],
                confidence: rows[place * FIELDS + 3],
                thumbnail: thumbnails.and_then(|max_pixels| data_uri(data, sample, max_pixels)),
            })
        })
        .collect::<Result<_, DataError>>()?;
    Ok(Evaluation {
        samples: samples.len() as u64,
        loss: sum(1) / count,
        top1: correct as f64 / count,
        top5: sum(4) / count,
        k: data.classes.len().min(5) as u32,
        confusion,
        mistakes,
    })
}

/// A small JPEG of the picture as a `data:` URI; none where it cannot be read any more.
fn data_uri(data: &DataSet, sample: &Sample, max_pixels: u64) -> Option<String> {
    let picture = data.picture(sample, max_pixels).ok()?;
    let jpeg = thumbnail_jpeg(&picture, THUMBNAIL).ok()?;
    Some(format!(
        "data:image/jpeg;base64,{}",
        base64::engine::general_purpose::STANDARD.encode(jpeg)
    ))
}
