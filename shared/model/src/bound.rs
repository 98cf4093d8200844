//! Weights on a device, and what a forward pass carries with it.

use std::cell::RefCell;
use std::ops::Range;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use perennial_plan::random::{Domain, Draw, Stream};

use crate::table::{NormId, ParameterId, Table, Weights};

/// A network's weights as tensors on a device.
#[derive(Clone)]
pub struct Bound {
    parameters: Vec<BoundParameter>,
    /// Per batch normalisation, the factor and summand of its running statistics.
    folded: Vec<(Tensor<1>, Tensor<1>)>,
    /// Where the moments of each batch normalisation go.
    moments: Vec<Range<usize>>,
}

#[derive(Clone)]
enum BoundParameter {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
    Kernel(Tensor<4>),
}

/// The term under the square root of every batch normalisation.
pub(crate) const EPSILON: f32 = 1e-5;

// === impl Bound ===

impl Bound {
    /// Copies `weights` to `device`.
    pub fn new(table: &Table, weights: &Weights, device: &Device) -> Self {
        let parameters = table
            .parameters()
            .iter()
            .map(|parameter| {
                let data = TensorData::new(
                    weights.parameters[parameter.range.clone()].to_vec(),
                    parameter.shape.clone(),
                );
                match parameter.shape.len() {
                    1 => BoundParameter::Vector(Tensor::from_data(data, device)),
                    2 => BoundParameter::Matrix(Tensor::from_data(data, device)),
                    _ => BoundParameter::Kernel(Tensor::from_data(data, device)),
                }
            })
            .collect();
        let folded = table
            .norms()
            .iter()
            .map(|norm| {
                let value =
                    |id: ParameterId| &weights.parameters[table.parameters()[id.0].range.clone()];
                let (mean, variance) = (
                    &weights.statistics[norm.mean()],
                    &weights.statistics[norm.variance()],
                );
                let (scale, shift) = perennial_kernels::cpu::norm::fold(
                    value(norm.gamma),
                    value(norm.beta),
                    mean,
                    variance,
                    EPSILON,
                );
                let tensor =
                    |values| Tensor::from_data(TensorData::new(values, [norm.channels]), device);
                (tensor(scale), tensor(shift))
            })
            .collect();
        let moments = table
            .norms()
            .iter()
            .enumerate()
            .map(|(index, norm)| norm.moments(index))
            .collect();
        Self {
            parameters,
            folded,
            moments,
        }
    }

    /// The same weights as fresh leaves of a graph, so that their gradients can be read.
    pub fn with_gradients(&self) -> Self {
        let parameters = self
            .parameters
            .iter()
            .map(|parameter| match parameter.clone() {
                BoundParameter::Vector(tensor) => {
                    BoundParameter::Vector(tensor.autodiff().require_grad())
                }
                BoundParameter::Matrix(tensor) => {
                    BoundParameter::Matrix(tensor.autodiff().require_grad())
                }
                BoundParameter::Kernel(tensor) => {
                    BoundParameter::Kernel(tensor.autodiff().require_grad())
                }
            })
            .collect();
        Self {
            parameters,
            folded: Vec::new(),
            moments: self.moments.clone(),
        }
    }

    /// Takes the gradients out of `gradients` into one vector laid out as [`Weights::parameters`].
    /// A parameter that had no part in the loss has gradient zero.
    pub fn take_gradients(&self, table: &Table, gradients: &mut Gradients) -> Vec<f32> {
        let mut flat = vec![0.0; table.parameters_len()];
        for (parameter, bound) in table.parameters().iter().zip(&self.parameters) {
            let data = match bound {
                BoundParameter::Vector(tensor) => {
                    tensor.grad_remove(gradients).map(Tensor::into_data)
                }
                BoundParameter::Matrix(tensor) => {
                    tensor.grad_remove(gradients).map(Tensor::into_data)
                }
                BoundParameter::Kernel(tensor) => {
                    tensor.grad_remove(gradients).map(Tensor::into_data)
                }
            };
            if let Some(data) = data {
                let values = data.as_slice::<f32>().expect("gradients are f32");
                flat[parameter.range.clone()].copy_from_slice(values);
            }
        }
        flat
    }

    pub(crate) fn vector(&self, id: ParameterId) -> Tensor<1> {
        match &self.parameters[id.0] {
            BoundParameter::Vector(tensor) => tensor.clone(),
            _ => unreachable!("the layer made this parameter with one axis"),
        }
    }

    pub(crate) fn matrix(&self, id: ParameterId) -> Tensor<2> {
        match &self.parameters[id.0] {
            BoundParameter::Matrix(tensor) => tensor.clone(),
            _ => unreachable!("the layer made this parameter with two axes"),
        }
    }

    pub(crate) fn kernel(&self, id: ParameterId) -> Tensor<4> {
        match &self.parameters[id.0] {
            BoundParameter::Kernel(tensor) => tensor.clone(),
            _ => unreachable!("the layer made this parameter with four axes"),
        }
    }

    pub(crate) fn folded(&self, id: NormId) -> (Tensor<1>, Tensor<1>) {
        self.folded[id.0].clone()
    }
}

/// The key of a slot's DropPath: which draw belongs to which step, slot and layer.
#[derive(Debug, Clone, Copy)]
pub struct DropPathKey {
    pub seed: u64,
    pub global_step: u64,
    pub slot: u32,
}

/// How a network is run.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// Running statistics, nothing dropped, no gradients.
    Evaluation,
    /// The statistics of the slot itself, residual branches dropped by this key.
    Training(DropPathKey),
}

/// One forward pass.
pub struct Pass<'a> {
    pub(crate) bound: &'a Bound,
    mode: Mode,
    moments: RefCell<Vec<f64>>,
}

// === impl Pass ===

impl<'a> Pass<'a> {
    pub fn new(bound: &'a Bound, mode: Mode) -> Self {
        let length = bound.moments.last().map_or(0, |range| range.end);
        Self {
            bound,
            mode,
            moments: RefCell::new(vec![0.0; length]),
        }
    }

    pub(crate) fn is_training(&self) -> bool {
        matches!(self.mode, Mode::Training(_))
    }

    /// What the batch normalisations saw, laid out as [`crate::Norm::moments`] says.
    pub fn into_moments(self) -> Vec<f64> {
        self.moments.into_inner()
    }

    pub(crate) fn record_moments(&self, id: NormId, count: usize, mean: &[f32], variance: &[f32]) {
        let mut moments = self.moments.borrow_mut();
        let (head, sums) = moments[self.bound.moments[id.0].clone()].split_at_mut(1);
        let (sums, squares) = sums.split_at_mut(mean.len());
        let count = count as f64;
        head[0] = count;
        for ((sum, square), (mean, variance)) in
            sums.iter_mut().zip(squares).zip(mean.iter().zip(variance))
        {
            let mean = f64::from(*mean);
            *sum = mean * count;
            *square = (f64::from(*variance) + mean * mean) * count;
        }
    }

    /// `branch` with each sample kept with probability `1 - rate` and scaled by its inverse (Huang et
    /// al., "Deep networks with stochastic depth", 2016). `layer` numbers the branch in the network.
    pub(crate) fn drop_path(&self, branch: Tensor<4>, rate: f32, layer: u64) -> Tensor<4> {
        let Mode::Training(key) = self.mode else {
            return branch;
        };
        if rate == 0.0 {
            return branch;
        }
        let batch = branch.dims()[0];
        let mut stream = Stream::new(
            key.seed,
            Domain::DropPath,
            &[key.global_step, u64::from(key.slot), layer],
        );
        let keep = 1.0 - rate;
        let mask: Vec<f32> = (0..batch)
            .map(|_| {
                if stream.uniform() < f64::from(keep) {
                    1.0 / keep
                } else {
                    0.0
                }
            })
            .collect();
        let mask =
            Tensor::<4>::from_data(TensorData::new(mask, [batch, 1, 1, 1]), &branch.device());
        branch * mask
    }
}
