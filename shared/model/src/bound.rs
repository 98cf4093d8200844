//! Weights on a device, and what a forward pass carries with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use burn::backend::{AllocationProperty, Bytes};
use burn::tensor::{DType, Device, Gradients, Shape, Tensor, TensorData, Transaction};
use bytes::Bytes as SharedBytes;
use perennial_kernels::resident::Resident;
use perennial_kernels::{DeviceError, Lent, Precision};
use perennial_plan::random::{Domain, Draw, Stream};

use crate::table::{Fold, NormId, Parameter, ParameterId, Table, Weights};

/// A network's weights as tensors on a device.
#[derive(Clone)]
pub struct Bound {
    device: Device,
    parameters: Vec<BoundParameter>,
    /// Of the operands of products.
    pub(crate) precision: Precision,
    /// None: for training. Else the biases that layers without one got with a batch normalisation, by weight,
    /// one for each part of it.
    inference: Option<BTreeMap<ParameterId, Vec<Tensor<1>>>>,
    /// Where the moments of each batch normalisation go.
    moments: Vec<Range<usize>>,
}

#[derive(Clone)]
enum BoundParameter {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
    Kernel(Tensor<4>),
    /// A kernel in equal parts along its outputs.
    Parts(Vec<Tensor<4>>),
}

/// The gradient of a loss by all parameters: of each, or of a part of it, the values and their place in
/// [`Weights::parameters`]. What had no part in the loss is left out; its gradient is zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient {
    /// Of [`Weights::parameters`], as it is laid out.
    pub len: usize,
    pub parts: Vec<(Range<usize>, Vec<f32>)>,
}

/// A [`Gradient`] where it was computed, and perhaps before it is.
#[derive(Debug)]
pub struct GradientTensors {
    len: usize,
    places: Vec<Range<usize>>,
    tensors: Vec<Tensor<1>>,
}

/// Weights for inference: each batch normalisation's work is done by the layer before or after it.
pub(crate) struct Folded {
    pub weights: Weights,
    /// The biases that layers without one got, by weight: one for each part of it.
    pub biases: BTreeMap<ParameterId, Vec<Vec<f32>>>,
}

/// The term under the square root of every batch normalisation.
pub(crate) const EPSILON: f32 = 1e-5;

/// Parameters as bytes.
struct Shared(Arc<Vec<f32>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

// === impl Bound ===

impl Bound {
    /// `weights` on `device`, for training with the operands of products in `precision`. On the processor they are shared: to be
    /// dropped before `weights` change.
    pub fn new(table: &Table, weights: &Weights, device: &Device, precision: Precision) -> Self {
        let whole = SharedBytes::from_owner(Shared(weights.parameters.clone()));
        Self::of(table, device, precision, |range| {
            let bytes = whole.slice(size_of::<f32>() * range.start..size_of::<f32>() * range.end);
            let bytes = Bytes::from_shared(bytes, AllocationProperty::Native);
            Tensor::from_data(
                TensorData::from_bytes(bytes, [range.len()], DType::F32),
                device,
            )
        })
    }

    /// Parameters that a device has already, for training there.
    pub fn resident(table: &Table, weights: &Resident, precision: Precision) -> Self {
        let device = weights.device();
        Self::of(table, &device, precision, |range| weights.parameters(range))
    }

    /// `values` gives those of a range of the parameters.
    fn of(
        table: &Table,
        device: &Device,
        precision: Precision,
        values: impl Fn(Range<usize>) -> Tensor<1>,
    ) -> Self {
        let parameters = (table.parameters().iter())
            .map(|parameter| BoundParameter::new(parameter, &values))
            .collect();
        let moments = table.norms().iter().enumerate();
        Self {
            device: device.clone(),
            parameters,
            precision,
            inference: None,
            moments: moments.map(|(index, norm)| norm.moments(index)).collect(),
        }
    }

    /// Copies `weights` to `device`, for inference in `f32`: every batch normalisation, whose statistics are the
    /// running ones, is folded into the layer before or after it.
    pub fn for_inference(table: &Table, weights: &Weights, device: &Device) -> Self {
        let folded = Folded::new(table, weights);
        let tensor = |bias: &Vec<f32>| {
            Tensor::from_data(TensorData::new(bias.clone(), [bias.len()]), device)
        };
        let biases = (folded.biases.iter())
            .map(|(weight, parts)| (*weight, parts.iter().map(tensor).collect()))
            .collect();
        Self {
            inference: Some(biases),
            ..Self::new(table, &folded.weights, device, Precision::F32)
        }
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
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
                BoundParameter::Parts(parts) => {
                    let leaf = |part: Tensor<4>| part.autodiff().require_grad();
                    BoundParameter::Parts(parts.into_iter().map(leaf).collect())
                }
            })
            .collect();
        Self {
            device: self.device.clone(),
            parameters,
            precision: self.precision,
            inference: None,
            moments: self.moments.clone(),
        }
    }

    /// Takes the gradients out of `gradients`.
    pub fn take_gradients(&self, table: &Table, gradients: &mut Gradients) -> GradientTensors {
        let mut taken = GradientTensors {
            len: table.parameters_len(),
            places: Vec::new(),
            tensors: Vec::new(),
        };
        for (parameter, bound) in table.parameters().iter().zip(&self.parameters) {
            let range = parameter.range.clone();
            match bound {
                BoundParameter::Vector(tensor) => taken.take(tensor, gradients, range),
                BoundParameter::Matrix(tensor) => taken.take(tensor, gradients, range),
                BoundParameter::Kernel(tensor) => taken.take(tensor, gradients, range),
                BoundParameter::Parts(parts) => {
                    let length = range.len() / parts.len();
                    for (part, start) in parts.iter().zip(range.step_by(length)) {
                        taken.take(part, gradients, start..start + length);
                    }
                }
            }
        }
        taken
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

    pub(crate) fn part(&self, id: ParameterId, index: usize) -> Tensor<4> {
        match &self.parameters[id.0] {
            BoundParameter::Parts(parts) => parts[index].clone(),
            _ => unreachable!("the layer made this parameter in parts"),
        }
    }

    /// The bias of a part of a layer that was made without one.
    pub(crate) fn part_bias(&self, id: ParameterId, index: usize) -> Option<Tensor<1>> {
        let biases = self.inference.as_ref()?.get(&id)?;
        Some(biases[index].clone())
    }
}

// === impl Gradient ===

impl Gradient {
    /// Laid out as [`Weights::parameters`].
    pub fn flat(&self) -> Vec<f32> {
        let mut flat = vec![0.0; self.len];
        for (place, values) in &self.parts {
            flat[place.clone()].copy_from_slice(values);
        }
        flat
    }
}

// === impl GradientTensors ===

impl GradientTensors {
    /// Takes a leaf's gradient for its place, unless the leaf had no part in the loss.
    fn take<const D: usize>(
        &mut self,
        leaf: &Tensor<D>,
        gradients: &mut Gradients,
        place: Range<usize>,
    ) {
        if let Some(gradient) = leaf.grad_remove(gradients) {
            self.tensors.push(gradient.reshape([place.len()]));
            self.places.push(place);
        }
    }

    /// Copies it to the host.
    pub fn read(self) -> Result<Gradient, DeviceError> {
        let tensors = self.tensors.into_iter();
        let reading = tensors.fold(Transaction::default(), Transaction::register);
        let values = read(reading)?;
        Ok(Gradient {
            len: self.len,
            parts: self.places.into_iter().zip(values).collect(),
        })
    }

    /// Its parts, once they are computed, to be read where they are.
    pub fn lend(self) -> Result<Vec<(Range<usize>, Lent)>, DeviceError> {
        let lent = perennial_kernels::lend(self.tensors)?;
        Ok(self.places.into_iter().zip(lent).collect())
    }
}

// === impl Folded ===

impl Folded {
    pub fn new(table: &Table, weights: &Weights) -> Self {
        let mut weights = weights.clone();
        let biases = (table.folds().iter())
            .filter_map(|fold| {
                let bias = fold_into_layer(table, fold, &mut weights);
                if let Some(id) = fold.bias {
                    let range = table.parameters()[id.0].range.clone();
                    Arc::make_mut(&mut weights.parameters)[range].copy_from_slice(&bias);
                    return None;
                }
                let parts = table.parameters()[fold.weight.0].parts;
                let parts = bias.chunks_exact(bias.len() / parts);
                Some((fold.weight, parts.map(<[f32]>::to_vec).collect()))
            })
            .collect();
        Self { weights, biases }
    }
}

// === impl BoundParameter ===

impl BoundParameter {
    fn new(parameter: &Parameter, values: impl Fn(Range<usize>) -> Tensor<1>) -> Self {
        let mut shape = parameter.shape.clone();
        shape[0] /= parameter.parts;
        let shape = Shape::from(shape);
        let range = parameter.range.clone();
        match parameter.shape.len() {
            1 => Self::Vector(values(range)),
            2 => Self::Matrix(values(range).reshape(shape)),
            _ if parameter.parts > 1 => {
                let length = range.len() / parameter.parts;
                let parts = range.step_by(length);
                let part = |start| values(start..start + length).reshape(shape.clone());
                Self::Parts(parts.map(part).collect())
            }
            _ => Self::Kernel(values(range).reshape(shape)),
        }
    }
}

/// Lets the layer's weight do the normalisation's work; the bias that belongs to it.
fn fold_into_layer(table: &Table, fold: &Fold, weights: &mut Weights) -> Vec<f32> {
    let norm = &table.norms()[fold.norm.0];
    let range = |id: ParameterId| table.parameters()[id.0].range.clone();
    let (scale, shift) = perennial_kernels::cpu::norm::fold(
        &weights.parameters[range(norm.gamma)],
        &weights.parameters[range(norm.beta)],
        &weights.statistics[norm.mean()],
        &weights.statistics[norm.variance()],
        EPSILON,
    );
    let outputs = table.parameters()[fold.weight.0].shape[0];
    let mut bias = match fold.bias {
        Some(id) => weights.parameters[range(id)].to_vec(),
        None => vec![0.0; outputs],
    };
    let weight = &mut Arc::make_mut(&mut weights.parameters)[range(fold.weight)];
    let inputs = weight.len() / outputs;
    for (output, (weight, bias)) in weight.chunks_exact_mut(inputs).zip(&mut bias).enumerate() {
        if fold.before {
            let terms = weight.iter().zip(&shift);
            let offset: f64 = terms.map(|(w, s)| f64::from(*w) * f64::from(*s)).sum();
            *bias += offset as f32;
            weight
                .iter_mut()
                .zip(&scale)
                .for_each(|(w, scale)| *w *= scale);
        } else {
            *bias = *bias * scale[output] + shift[output];
            weight.iter_mut().for_each(|w| *w *= scale[output]);
        }
    }
    bias
}

/// The values of what was registered, all at once: a GPU is waited for a single time.
fn read(reading: Transaction) -> Result<Vec<Vec<f32>>, DeviceError> {
    let data = reading.try_execute();
    let data = data.map_err(|error| DeviceError::of_reading(&error))?;
    let values = data.into_iter().map(|data| {
        let values = data.try_into_vec::<f32>();
        values.expect("what is computed is f32")
    });
    Ok(values.collect())
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
    /// Read at the pass's end: a GPU does not wait for it in between.
    moments: RefCell<Vec<Seen>>,
}

/// What a batch normalisation saw.
struct Seen {
    norm: NormId,
    count: usize,
    mean: Tensor<1>,
    variance: Tensor<1>,
}

// === impl Pass ===

impl<'a> Pass<'a> {
    /// `bound` is made for this mode.
    pub fn new(bound: &'a Bound, mode: Mode) -> Self {
        let inference = matches!(mode, Mode::Evaluation);
        assert_eq!(
            bound.inference.is_some(),
            inference,
            "weights are bound for {mode:?}"
        );
        Self {
            bound,
            mode,
            moments: RefCell::default(),
        }
    }

    pub(crate) fn is_training(&self) -> bool {
        matches!(self.mode, Mode::Training(_))
    }

    /// What the batch normalisations saw, laid out as [`crate::Norm::moments`] says.
    pub fn into_moments(self) -> Result<Vec<f64>, DeviceError> {
        let length = self.bound.moments.last().map_or(0, |range| range.end);
        let mut moments = vec![0.0; length];
        let mut reading = Transaction::default();
        let mut places = Vec::new();
        for seen in self.moments.into_inner() {
            places.push((self.bound.moments[seen.norm.0].clone(), seen.count as f64));
            reading = reading.register(seen.mean).register(seen.variance);
        }
        let values = read(reading)?;
        for ((place, count), values) in places.into_iter().zip(values.chunks_exact(2)) {
            let (mean, variance) = (&values[0], &values[1]);
            let (head, sums) = moments[place].split_at_mut(1);
            let (sums, squares) = sums.split_at_mut(mean.len());
            head[0] = count;
            for ((sum, square), (mean, variance)) in
                sums.iter_mut().zip(squares).zip(mean.iter().zip(variance))
            {
                let mean = f64::from(*mean);
                *sum = mean * count;
                *square = (f64::from(*variance) + mean * mean) * count;
            }
        }
        Ok(moments)
    }

    pub(crate) fn record_moments(
        &self,
        norm: NormId,
        count: usize,
        mean: Tensor<1>,
        variance: Tensor<1>,
    ) {
        self.moments.borrow_mut().push(Seen {
            norm,
            count,
            mean,
            variance,
        });
    }

    /// `branch` with each sample kept with probability `1 - rate` and scaled by its inverse (Huang et
    /// al., "Deep networks with stochastic depth", 2016). `layer` numbers the branch in the network.
    pub(crate) fn drop_branches(&self, branch: Tensor<4>, rate: f32, layer: u64) -> Tensor<4> {
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
