//! Weights without a job: evaluation on a folder or a pack, prediction of pictures.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_data::augment::Transform;
use perennial_data::{DataError, DataSet, Images, Picture, Pipeline, Sample, Side, read_picture};
use perennial_model::{Bound, ModelCard, Network, Weights, files, onnx};
use perennial_plan::Spec;
use perennial_plan::order::{batch_range, slot_range, steps_per_epoch};
use perennial_plan::spec::EvaluateSpec;
use perennial_plan::tensors::weights_sha256;
use perennial_report::Evaluation;
use perennial_store::tensors;
use perennial_train::{infer, loss};

use crate::error::WorkerError;
use crate::evaluating::pictures;
use crate::evaluation::{PORTION, evaluate_places, summarize};
use crate::pictures::tensor;
use crate::slots::Cores;

/// A network with its weights and what they say of themselves.
pub struct Classifier {
    pub card: ModelCard,
    network: Network,
    weights: Weights,
}

/// A picture to predict.
#[derive(Debug, Clone)]
pub enum Picked {
    File(PathBuf),
    /// One of a pack's.
    Packed(Arc<DataSet>, Sample),
}

/// What the network says of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    pub path: PathBuf,
    /// One for each class.
    pub logits: Vec<f32>,
    /// One for each class; they sum to one.
    pub probabilities: Vec<f32>,
    /// All classes, the most probable first.
    pub ranking: Vec<usize>,
}

// === impl Classifier ===

impl Classifier {
    /// Reads a weights file. `card` overrides what the file says of itself, and is needed for files that
    /// were not written by this program.
    pub fn load(
        path: &Path,
        which: files::Weights,
        card: Option<ModelCard>,
    ) -> Result<Self, WorkerError> {
        let named = files::read(path, which)?;
        let card = match card {
            Some(card) => card,
            None => files::read_card(path)?.ok_or_else(|| {
                WorkerError::Inference(format!(
                    "{}: the file does not say what its network is; name it with --model, --image-size and --classes",
                    path.display()
                ))
            })?,
        };
        let network = Network::new(&card.model_spec(), card.classes.len())?;
        let weights = network
            .table
            .from_named(&named)
            .map_err(|source| WorkerError::Weights {
                path: path.display().to_string(),
                source,
            })?;
        Ok(Self {
            card,
            network,
            weights,
        })
    }

    /// Measures the weights in this process on the pictures of the evaluation `spec`. Mistakes carry their pictures.
    pub fn evaluate(
        &self,
        evaluate: &EvaluateSpec,
        spec: &Spec,
        threads: usize,
    ) -> Result<Evaluation, WorkerError> {
        let data = pictures(evaluate, &spec.data)?;
        let portions = every_slot(spec, data.val.len());
        let pipeline = Pipeline::new(data, spec);
        let cores = Cores::new(threads)?;
        let rows = evaluate_places(
            &pipeline,
            &self.network,
            &self.bound(),
            Side::Val,
            portions,
            &cores,
            || Ok(()),
        )?;
        summarize(
            &rows,
            pipeline.data(),
            Side::Val,
            Some(spec.data.max_pixels),
        )
    }

    /// The weights as a `.safetensors` file that says everything of itself.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WorkerError> {
        let named = self.network.table.to_named(&self.weights);
        let bytes = tensors::encode_described(&named, ModelCard::KEY, &self.card.to_json())?;
        Ok(bytes.into())
    }

    /// Predicts the pictures in portions, in their order; `each` gets every prediction or the error of a
    /// picture that cannot be read.
    pub fn predict(
        &self,
        pictures: &[Picked],
        threads: usize,
        max_pixels: u64,
        mut each: impl FnMut(Result<Prediction, WorkerError>) -> Result<(), WorkerError>,
    ) -> Result<(), WorkerError> {
        let spec = self.spec();
        let transform = Transform::new(&spec.data, &spec.augment);
        let bound = self.bound();
        let cores = Cores::new(threads)?;
        let (size, classes) = (self.card.image_size as usize, self.card.classes.len());
        // A round keeps every core busy and the memory bounded.
        for round in pictures.chunks(PORTION * threads.max(1)) {
            let mut portions = round.chunks(PORTION).enumerate();
            let next = || portions.next().map(Ok::<_, WorkerError>);
            let work = |(index, portion): (usize, &[Picked])| {
                let mut images = Vec::new();
                let readable: Vec<Result<(), DataError>> = read(portion, max_pixels)
                    .map(|picture| {
                        transform.normalise(&transform.resized(&picture?), &mut images);
                        Ok(())
                    })
                    .collect();
                let logits = if images.is_empty() {
                    Vec::new()
                } else {
                    let images = tensor(Images::Ready(images), size, bound.device());
                    infer(&self.network, &bound, images)?
                };
                let mut rows = logits.chunks_exact(classes);
                let predictions: Vec<Result<Prediction, WorkerError>> = portion
                    .iter()
                    .zip(readable)
                    .map(|(picked, readable)| {
                        readable?;
                        let logits = rows.next().expect("a row for each picture that was read");
                        Ok(prediction(picked.path(), logits))
                    })
                    .collect();
                Ok((index, predictions))
            };
            let done = cores.for_each(next, work)?.into_iter();
            let mut done = done.collect::<Result<Vec<_>, WorkerError>>()?;
            done.sort_by_key(|(index, _)| *index);
            for prediction in done.into_iter().flat_map(|(_, predictions)| predictions) {
                each(prediction)?;
            }
        }
        Ok(())
    }

    /// The network with these weights as an ONNX model.
    pub fn to_onnx(&self, input: onnx::Input) -> Vec<u8> {
        onnx::encode(&self.network, &self.weights, &self.card, input)
    }

    /// The hash by which weights are compared.
    pub fn weights_sha256(&self) -> String {
        weights_sha256(&self.network.table.to_named(&self.weights))
    }

    fn bound(&self) -> Bound {
        let device = burn::tensor::Device::flex();
        Bound::for_inference(&self.network.table, &self.weights, &device)
    }

    fn spec(&self) -> Spec {
        Spec {
            data: self.card.data_spec(),
            ..Spec::default()
        }
    }
}

/// The places in all slots of all steps of an evaluation of so many pictures, in their order: what its workers would look
/// at, each in one forward pass, so that the results are the same to the bit.
fn every_slot(spec: &Spec, pictures: usize) -> impl Iterator<Item = Range<usize>> + Send {
    let (batch, slots) = (spec.train.batch_size as usize, spec.train.slots);
    let steps = 0..steps_per_epoch(pictures, batch);
    let all = steps.flat_map(move |step| {
        let places = batch_range(pictures, batch, step);
        (0..slots).map(move |slot| slot_range(places.clone(), slots, slot))
    });
    all.filter(|places| !places.is_empty())
}

/// The fingerprint of the pictures of an evaluation.
pub fn evaluated_fingerprint(spec: &Spec) -> Result<String, WorkerError> {
    let evaluate = spec.evaluate.clone().unwrap_or_default();
    Ok(pictures(&evaluate, &spec.data)?.fingerprint()?)
}

// === impl Picked ===

impl Picked {
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Packed(data, sample) => data.path(sample),
        }
    }

    fn is_beside(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Packed(one, _), Self::Packed(two, _)) if Arc::ptr_eq(one, two))
    }
}

/// The pictures in their order; those of one pack are read side by side.
fn read(
    portion: &[Picked],
    max_pixels: u64,
) -> impl Iterator<Item = Result<Picture, DataError>> + use<'_> {
    let runs = portion.chunk_by(Picked::is_beside);
    runs.flat_map(move |run| -> Vec<Result<Picture, DataError>> {
        let data = match &run[0] {
            Picked::File(path) => return vec![read_picture(path, max_pixels)],
            Picked::Packed(data, _) => data,
        };
        let samples: Vec<Sample> = run
            .iter()
            .filter_map(|picked| match picked {
                Picked::File(_) => None,
                Picked::Packed(_, sample) => Some(*sample),
            })
            .collect();
        let files = data.read_all(&samples).into_iter();
        (samples.iter().zip(files))
            .map(|(sample, file)| data.decoded(sample, &file?, max_pixels))
            .collect()
    })
}

fn prediction(path: PathBuf, logits: &[f32]) -> Prediction {
    let probabilities = loss::softmax(logits, logits.len());
    let mut ranking: Vec<usize> = (0..logits.len()).collect();
    ranking.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    Prediction {
        path,
        logits: logits.to_vec(),
        probabilities,
        ranking,
    }
}
