//! What a step changes element by element, where a GPU has it: it stays there from step to step.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use crate::DeviceError;
use crate::gpu::host::Host;
use crate::gpu::operations;

/// Parameters, their average where there is one, and the moments of their optimizer, on a device.
#[derive(Debug, Clone)]
pub struct Resident {
    /// `[rows, len]`, in this order.
    values: Tensor<1>,
    /// `[len]`: 1 where weight decay applies, else 0.
    decays: Tensor<1>,
    shape: Shape,
}

/// What the rows of a [`Resident`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub rows: usize,
    /// Parameters.
    pub len: usize,
    /// Whether the second row is the average of the first.
    pub averaged: bool,
}

/// One step, the same for all parameters, with its constants rounded as PyTorch rounds them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub rule: Rule,
    pub gradient_scale: f32,
    /// What the average takes of the changed parameters.
    pub average_weight: f32,
}

/// How parameters change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// The moments are `exp_avg` and `exp_avg_sq`.
    Adamw(Adamw),
    /// The moment is `momentum_buffer`, if there is a row for it.
    Sgd(Sgd),
}

/// The constants of one AdamW step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adamw {
    pub first_weight: f32,
    pub beta2: f32,
    pub second_weight: f32,
    pub correction2_sqrt: f32,
    pub eps: f32,
    pub minus_step_size: f32,
    /// What weight decay leaves of a parameter.
    pub keep: f32,
}

/// The constants of one SGD step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub momentum: f32,
    pub minus_learning_rate: f32,
    pub weight_decay: f32,
}

// === impl Resident ===

impl Resident {
    /// Copies rows of the same length to `device`: parameters, the average if there is one (`averaged`), moments.
    pub fn new(rows: &[&[f32]], averaged: bool, decays: Vec<f32>, device: &Device) -> Self {
        let shape = Shape {
            rows: rows.len(),
            len: decays.len(),
            averaged,
        };
        Self {
            values: tensor(rows.concat(), device),
            decays: tensor(decays, device),
            shape,
        }
    }

    /// What it is after a step. It may not be computed yet; what goes wrong shows when something of it is read.
    pub fn after(&self, gradient: &[f32], step: &Step) -> Result<Self, DeviceError> {
        let gradient = tensor(gradient.to_vec(), &self.values.device());
        let inputs = [&self.values, &gradient, &self.decays];
        #[cfg(feature = "cuda")]
        if let Some(values) = crate::gpu::cuda::run(inputs, |gpu, inputs| {
            operations::update(gpu, self.shape, step, inputs)
        }) {
            return Ok(self.with(values));
        }
        let [values, gradient, decays] = read_all(inputs)?;
        let inputs = [&values, &gradient, &decays];
        let values = operations::update(&Host, self.shape, step, inputs);
        Ok(self.with(tensor(values, &self.values.device())))
    }

    fn with(&self, values: Tensor<1>) -> Self {
        Self {
            values,
            ..self.clone()
        }
    }

    /// Words that differ where parameters or average do, in whichever bit: a function of these alone.
    pub fn fingerprint(&self) -> Result<Vec<u32>, DeviceError> {
        let Shape { len, averaged, .. } = self.shape;
        let len = len * (1 + usize::from(averaged));
        #[cfg(feature = "cuda")]
        if let Some(words) = crate::gpu::cuda::run([&self.values], |gpu, [values]| {
            operations::fingerprint(gpu, len, values)
        }) {
            return Ok(as_words(&read(words)?));
        }
        let words = operations::fingerprint(&Host, len, &read(self.values.clone())?);
        Ok(as_words(&words))
    }

    /// Copies all rows to the host.
    pub fn read(&self) -> Result<Vec<Vec<f32>>, DeviceError> {
        let values = read(self.values.clone())?;
        let rows = 0..self.shape.rows;
        let row = |row| values[row * self.shape.len..][..self.shape.len].to_vec();
        Ok(rows.map(row).collect())
    }

    /// Parameters, where they are.
    pub fn parameters(&self, range: Range<usize>) -> Tensor<1> {
        debug_assert!(range.end <= self.shape.len);
        self.values.clone().slice([range])
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.values.device()
    }
}

fn tensor(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>, DeviceError> {
    let data = tensor.try_into_data();
    let data = data.map_err(|error| DeviceError::of_reading(&error))?;
    Ok(data.try_into_vec::<f32>().expect("what is computed is f32"))
}

fn read_all<const N: usize>(tensors: [&Tensor<1>; N]) -> Result<[Vec<f32>; N], DeviceError> {
    let mut values = [const { Vec::new() }; N];
    for (values, tensor) in values.iter_mut().zip(tensors) {
        *values = read(tensor.clone())?;
    }
    Ok(values)
}

fn as_words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
