//! A job that is an evaluation: each step measures the next pictures, dealt in slots like those of a training step,
//! and the replica is what was found so far. So whoever dies, joins or leaves, each picture is measured once, and the
//! result has the same bits.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_collective::{Contribution, Partial, SlotSum};
use perennial_data::{DataError, DataSet, Prefetcher, SlotBatch};
use perennial_model::{Bound, Network, Weights};
use perennial_plan::invariants::Invariant;
use perennial_plan::order::{batch_range, slot_range};
use perennial_plan::spec::{DataSpec, EvaluateSpec, EvaluatedPictures};
use perennial_plan::tensors::weights_sha256;
use perennial_plan::{Cursor, Spec};
use perennial_store::{Job, tensors};
use perennial_train::scores::FIELDS;
use perennial_train::{Scores, infer};

use crate::checkpointing::block_on;
use crate::error::WorkerError;
use crate::evaluation::rows;
use crate::member::Member;
use crate::own_slots::OwnSlots;
use crate::pictures::tensor;
use crate::training::Stepped;

/// What an evaluation measures, and on which classes.
pub(crate) struct Evaluated {
    /// The weights, and their average where that is measured as well.
    weights: Vec<Weights>,
    /// Each picture's class.
    pub labels: Arc<[u32]>,
}

/// The pictures of an evaluation, as the validation side of a data set with the network's classes.
pub(crate) fn pictures(evaluate: &EvaluateSpec, spec: &DataSpec) -> Result<DataSet, WorkerError> {
    let data = match evaluate.pictures {
        EvaluatedPictures::All => DataSet::all_of(spec)?,
        EvaluatedPictures::Validation => {
            let mut data = DataSet::open(spec)?;
            data.train.clear();
            data
        }
    };
    with_classes(data, &evaluate.classes)
}

/// The data set with the network's classes in the place of its own, matched by their names.
pub(crate) fn with_classes(mut data: DataSet, classes: &[String]) -> Result<DataSet, WorkerError> {
    let position = |class: &String| classes.iter().position(|known| known == class);
    let places = data
        .classes
        .iter()
        .map(|class| {
            position(class).map(|place| place as u32).ok_or_else(|| {
                WorkerError::Inference(format!(
                    "{}: class `{class}` is not one of the network's: {}",
                    data.dir.display(),
                    classes.join(", ")
                ))
            })
        })
        .collect::<Result<Vec<u32>, _>>()?;
    for sample in &mut data.val {
        sample.class = places[sample.class as usize];
    }
    data.classes = classes.to_vec();
    Ok(data)
}

// === impl Evaluated ===

impl Evaluated {
    /// Reads the weights from the job's folder (EV-2).
    pub fn load(
        job: &Job,
        evaluate: &EvaluateSpec,
        network: &Network,
        data: &DataSet,
    ) -> Result<Self, WorkerError> {
        let weights = evaluate.hashes().map(|hash| {
            let path = job.weights_path(hash);
            let named = tensors::decode(&block_on(job.weights(hash))??)?;
            let found = weights_sha256(&named);
            Invariant::Ev2.check(found == hash, || {
                format!("{path} has weights with the hash {found}")
            })?;
            let weights = network.table.from_named(&named);
            weights.map_err(|source| WorkerError::Weights { path, source })
        });
        Ok(Self {
            weights: weights.collect::<Result<_, _>>()?,
            labels: data.val.iter().map(|sample| sample.class).collect(),
        })
    }

    /// Where the evaluation begins.
    pub fn none(&self, spec: &Spec) -> Scores {
        Scores::new(spec, self.labels.clone())
    }

    /// The weights, where slots are computed.
    pub fn bound(&self, network: &Network, device: &burn::tensor::Device) -> Vec<Bound> {
        let weights = self.weights.iter();
        weights
            .map(|weights| Bound::for_inference(&network.table, weights, device))
            .collect()
    }
}

// === impl Member ===

impl Member<'_> {
    /// One step of an evaluation: own slots, the sum over all, what is added to the scores.
    pub fn score(
        &mut self,
        cursor: Cursor,
        weights: &[Bound],
        batches: &mut Prefetcher<Result<SlotBatch, DataError>>,
    ) -> Result<Stepped, WorkerError> {
        let worker = self.worker;
        let job = &worker.job;
        let (network, spec) = (&job.network, &job.spec);
        let slots = spec.train.slots;
        let size = spec.data.image_size as usize;
        let classes = job.pipeline.data().classes.len();
        let owned = self.generation.members[self.rank].slots.clone();
        let batch = batch_range(job.samples(), spec.train.batch_size as usize, cursor.step);
        let width = weights.len() * FIELDS;

        let own = OwnSlots::new(self, cursor, batches);
        let work = |(slot, batch): (u32, SlotBatch)| {
            let mut found = vec![0.0; batch.labels.len() * width];
            let images = tensor(batch.images, size, &worker.device);
            for (which, bound) in weights.iter().enumerate() {
                let logits = infer(network, bound, images.clone())?;
                let rows = rows(&logits, &batch.targets, &batch.labels, classes);
                for (picture, row) in found.chunks_exact_mut(width).zip(rows.chunks_exact(FIELDS)) {
                    picture[which * FIELDS..][..FIELDS].copy_from_slice(row);
                }
            }
            Ok::<_, WorkerError>((slot, found))
        };
        let (clock, found) = own.compute(&worker.cores, work)?;
        let mut found: BTreeMap<u32, Vec<f64>> = found.into_iter().collect();

        let statistics = SlotSum::new(slots, owned.clone());
        for slot in owned {
            let numbers = found.remove(&slot).map(|found| {
                let own = slot_range(batch.clone(), slots, slot);
                let mut numbers = vec![0.0; batch.len() * width];
                let start = (own.start - batch.start) * width;
                numbers[start..start + found.len()].copy_from_slice(&found);
                numbers
            });
            statistics.add(slot, numbers)?;
        }
        let contribution = Contribution {
            slots,
            gradients: Partial::default(),
            statistics: Partial {
                len: batch.len() * width,
                nodes: statistics.finish()?,
            },
            control: 0,
        };
        self.conclude(cursor, clock, contribution, 0.0)
    }
}
