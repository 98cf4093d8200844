//! Replicas and steps as bytes, for the way from one member to another.
//!
//! A version, the numbers (little-endian, each vector after its length), and an XXH3 over all of it. Both
//! ends know the job, so neither names nor shapes travel.

use std::sync::Arc;

use perennial_model::{Table, Weights};
use perennial_plan::{LossScale, Spec};
use xxhash_rust::xxh3::xxh3_64;

use crate::scaling::{from_words, words};
use crate::{Replica, Scores, TrainError};

const VERSION: u8 = 1;
const REPLICA: u8 = b'R';
const STEP: u8 = b'S';
const SCORES: u8 = b'E';

/// What takes every replica of the cursor before it to the one after it, to the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct StepDelta {
    /// The sum over all slots, laid out as the parameters.
    pub gradient: Vec<f32>,
    /// Likewise: see [`crate::slot::SlotOutcome`].
    pub statistics: Vec<f64>,
    pub learning_rate: f64,
}

// === impl StepDelta ===

impl StepDelta {
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = 4 * self.gradient.len() + 8 * self.statistics.len();
        let mut writer = Writer::new(STEP, length);
        writer.f64s(&[self.learning_rate]);
        writer.f32s(&self.gradient);
        writer.f64s(&self.statistics);
        writer.finish()
    }

    /// A step of the network of `table`.
    pub fn from_bytes(table: &Table, bytes: &[u8]) -> Result<Self, TrainError> {
        let statistics = crate::slot::COUNTS + table.moments_len();
        Self::of_lengths(table.parameters_len(), statistics, bytes)
    }

    /// A step of an evaluation, which adds so many `numbers`.
    pub fn of_scores(numbers: usize, bytes: &[u8]) -> Result<Self, TrainError> {
        Self::of_lengths(0, numbers, bytes)
    }

    fn of_lengths(gradient: usize, statistics: usize, bytes: &[u8]) -> Result<Self, TrainError> {
        let mut reader = Reader::new(STEP, bytes)?;
        let learning_rate = reader.f64s(1)?[0];
        let gradient = reader.f32s(gradient)?;
        let statistics = reader.f64s(statistics)?;
        reader.finish()?;
        Ok(Self {
            gradient,
            statistics,
            learning_rate,
        })
    }
}

// === impl Replica ===

impl Replica {
    /// All of the replica: weights, average, optimizer state, loss scale.
    pub fn to_bytes(&self) -> Vec<u8> {
        let moments: Vec<&[f32]> = self.moments().collect();
        let copies = 1 + usize::from(self.ema.is_some());
        let numbers = copies * (self.weights.parameters.len() + self.weights.statistics.len())
            + moments.len() * self.weights.parameters.len();
        let mut writer = Writer::new(REPLICA, 4 * numbers);
        writer.u64(self.optimizer_steps());
        // Both ends know whether the job has one.
        if let Some(state) = self.loss_scale {
            for word in words(state) {
                writer.u64(word);
            }
        }
        for weights in [Some(&self.weights), self.ema.as_ref()]
            .into_iter()
            .flatten()
        {
            writer.u64(weights.batches_tracked);
            writer.f32s(&weights.parameters);
            writer.f32s(&weights.statistics);
        }
        for moment in moments {
            writer.f32s(moment);
        }
        writer.finish()
    }

    /// The replica of this job that [`Replica::to_bytes`] wrote.
    pub fn from_bytes(spec: &Spec, table: &Table, bytes: &[u8]) -> Result<Self, TrainError> {
        let mut reader = Reader::new(REPLICA, bytes)?;
        let steps = reader.u64()?;
        let loss_scale = match LossScale::of(&spec.train) {
            Some(_) => Some(read_loss_scale(&mut reader)?),
            None => None,
        };
        let mut weights = || {
            Ok::<_, TrainError>(Weights {
                batches_tracked: reader.u64()?,
                parameters: Arc::new(reader.f32s(table.parameters_len())?),
                statistics: reader.f32s(table.statistics_len())?,
            })
        };
        let raw = weights()?;
        let average = if spec.ema.decay > 0.0 {
            Some(weights()?)
        } else {
            None
        };
        let mut replica = Replica::new(spec, table, raw);
        replica.ema = average;
        replica.loss_scale = loss_scale;
        let mut moments = Vec::new();
        for _ in replica.moments() {
            moments.push(reader.f32s(table.parameters_len())?);
        }
        reader.finish()?;
        replica.load_moments(steps, moments)?;
        Ok(replica)
    }
}

fn read_loss_scale(reader: &mut Reader) -> Result<LossScale, TrainError> {
    let found = [reader.u64()?, reader.u64()?, reader.u64()?];
    from_words(found).ok_or_else(|| {
        TrainError::Encoding(format!("`{found:?}` are no loss scale and its counters"))
    })
}

// === impl Scores ===

impl Scores {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(SCORES, 8 * self.numbers().len());
        writer.u64(self.steps());
        writer.f64s(self.numbers());
        writer.finish()
    }

    /// The scores of this job, whose pictures have the classes `labels`, that [`Scores::to_bytes`] wrote.
    pub fn from_bytes(spec: &Spec, labels: Arc<[u32]>, bytes: &[u8]) -> Result<Self, TrainError> {
        let scores = Self::new(spec, labels);
        let mut reader = Reader::new(SCORES, bytes)?;
        let steps = reader.u64()?;
        let rows = reader.f64s(scores.numbers().len())?;
        reader.finish()?;
        Ok(scores.resumed(steps, rows))
    }
}

struct Writer(Vec<u8>);

// === impl Writer ===

impl Writer {
    /// `length`: about how many bytes of numbers will follow.
    fn new(kind: u8, length: usize) -> Self {
        let mut bytes = Vec::with_capacity(length + 256);
        bytes.extend([VERSION, kind]);
        Self(bytes)
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn f32s(&mut self, values: &[f32]) {
        self.u64(values.len() as u64);
        let start = self.0.len();
        self.0.resize(start + 4 * values.len(), 0);
        for (place, value) in self.0[start..]
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(values)
        {
            *place = value.to_le_bytes();
        }
    }

    fn f64s(&mut self, values: &[f64]) {
        self.u64(values.len() as u64);
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn finish(mut self) -> Vec<u8> {
        let checksum = xxh3_64(&self.0);
        self.u64(checksum);
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(kind: u8, bytes: &'a [u8]) -> Result<Self, TrainError> {
        let (body, checksum) = bytes
            .split_last_chunk::<8>()
            .ok_or_else(|| too_short(bytes.len()))?;
        let [version, found, rest @ ..] = body else {
            return Err(too_short(bytes.len()));
        };
        if *version != VERSION || *found != kind {
            return Err(TrainError::Encoding(format!(
                "they begin with `{version}` and `{found}` instead of `{VERSION}` and `{kind}`"
            )));
        }
        if xxh3_64(body) != u64::from_le_bytes(*checksum) {
            return Err(TrainError::Encoding("their checksum is wrong".into()));
        }
        Ok(Self(rest))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], TrainError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| too_short(self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, TrainError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// A vector that must have this length.
    fn vector(&mut self, expected: usize, width: usize) -> Result<&'a [u8], TrainError> {
        let found = self.u64()?;
        if found != expected as u64 {
            return Err(TrainError::Encoding(format!(
                "a vector has `{found}` numbers where the job's has {expected}"
            )));
        }
        self.take(expected * width)
    }

    fn f32s(&mut self, expected: usize) -> Result<Vec<f32>, TrainError> {
        let (values, _) = self.vector(expected, 4)?.as_chunks::<4>();
        Ok(values
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    }

    fn f64s(&mut self, expected: usize) -> Result<Vec<f64>, TrainError> {
        let (values, _) = self.vector(expected, 8)?.as_chunks::<8>();
        Ok(values
            .iter()
            .map(|bytes| f64::from_le_bytes(*bytes))
            .collect())
    }

    fn finish(self) -> Result<(), TrainError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(TrainError::Encoding(format!("`{more}` bytes are too many"))),
        }
    }
}

fn too_short(length: usize) -> TrainError {
    TrainError::Encoding(format!("they end too early, after `{length}` bytes"))
}

#[cfg(test)]
mod tests;
