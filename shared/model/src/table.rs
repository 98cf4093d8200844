//! The table of a network's tensors, and the flat vectors that hold their values.

use std::ops::Range;
use std::sync::Arc;

use perennial_plan::random::{Domain, Draw, Stream, name_hash};

/// From which distribution a parameter is drawn first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
}

/// A trainable tensor.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its PyTorch name.
    pub name: String,
    /// Its PyTorch shape.
    pub shape: Vec<usize>,
    /// Where it lies in [`Weights::parameters`].
    pub range: Range<usize>,
    /// Equal parts along the first axis in which it is used, each a tensor of its own; mostly one.
    pub(crate) parts: usize,
    init: Init,
}

/// A batch normalisation: its running mean and variance lie one after the other in
/// [`Weights::statistics`].
#[derive(Debug, Clone)]
pub struct Norm {
    /// The name of the module, without `.running_mean`.
    pub name: String,
    pub channels: usize,
    /// Where its running mean starts; its running variance follows.
    pub offset: usize,
    pub(crate) gamma: ParameterId,
    pub(crate) beta: ParameterId,
}

/// A batch normalisation whose work a layer beside it does in inference, where its statistics are fixed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fold {
    pub norm: NormId,
    pub weight: ParameterId,
    pub bias: Option<ParameterId>,
    /// Whether the normalisation comes before the layer, which then is a pointwise one.
    pub before: bool,
}

/// A parameter in the order in which the network was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ParameterId(pub(crate) usize);

/// A batch normalisation in the order in which the network was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NormId(pub(crate) usize);

/// Every tensor of a network.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// In the order in which the network was built; their ranges ascend by name.
    parameters: Vec<Parameter>,
    norms: Vec<Norm>,
    folds: Vec<Fold>,
}

/// The numbers of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// All parameters, in ascending order of their names. Tensors on the processor share them: [`Arc::make_mut`] changes them in
    /// their place once nobody else has them.
    pub parameters: Arc<Vec<f32>>,
    /// Running mean and variance of every batch normalisation.
    pub statistics: Vec<f32>,
    /// Training steps whose statistics were merged: PyTorch's `num_batches_tracked`.
    pub batches_tracked: u64,
}

// === impl Table ===

impl Table {
    pub(crate) fn parameter(&mut self, name: String, shape: &[usize], init: Init) -> ParameterId {
        let id = ParameterId(self.parameters.len());
        self.parameters.push(Parameter {
            name,
            shape: shape.to_vec(),
            range: 0..0,
            parts: 1,
            init,
        });
        id
    }

    /// The parameter is used in so many parts along its first axis.
    pub(crate) fn divide(&mut self, id: ParameterId, parts: usize) {
        self.parameters[id.0].parts = parts;
    }

    pub(crate) fn norm(
        &mut self,
        name: String,
        channels: usize,
    ) -> (NormId, ParameterId, ParameterId) {
        let gamma = self.parameter(format!("{name}.weight"), &[channels], Init::Ones);
        let beta = self.parameter(format!("{name}.bias"), &[channels], Init::Zeros);
        let offset = self.statistics_len();
        self.norms.push(Norm {
            name,
            channels,
            offset,
            gamma,
            beta,
        });
        (NormId(self.norms.len() - 1), gamma, beta)
    }

    pub(crate) fn fold(&mut self, fold: Fold) {
        self.folds.push(fold);
    }

    pub(crate) fn folds(&self) -> &[Fold] {
        &self.folds
    }

    /// Lays the parameters out by name. Called once, when the network is complete.
    pub(crate) fn lay_out(&mut self) {
        let mut order: Vec<usize> = (0..self.parameters.len()).collect();
        order.sort_by(|a, b| self.parameters[*a].name.cmp(&self.parameters[*b].name));
        let mut start = 0;
        for index in order {
            let parameter = &mut self.parameters[index];
            let length: usize = parameter.shape.iter().product();
            parameter.range = start..start + length;
            start += length;
        }
    }

    /// The parameters, in the order in which the network was built.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameters in ascending order of their names: the order of [`Weights::parameters`].
    pub fn by_name(&self) -> Vec<&Parameter> {
        let mut parameters: Vec<&Parameter> = self.parameters.iter().collect();
        parameters.sort_by_key(|parameter| parameter.range.start);
        parameters
    }

    /// The batch normalisations, in the order in which the network was built.
    pub fn norms(&self) -> &[Norm] {
        &self.norms
    }

    /// How many trainable numbers there are.
    pub fn parameters_len(&self) -> usize {
        self.parameters
            .iter()
            .map(|parameter| parameter.range.len())
            .sum()
    }

    /// The length of the moments of one forward pass: see [`Norm::moments`].
    pub fn moments_len(&self) -> usize {
        self.statistics_len() + self.norms.len()
    }

    /// How many running statistics there are.
    pub fn statistics_len(&self) -> usize {
        self.norms.iter().map(|norm| 2 * norm.channels).sum()
    }

    /// Weights drawn from `seed`: each parameter from its own name, so that its first value depends
    /// neither on the others nor on the order in which they are drawn.
    pub fn initial_weights(&self, seed: u64) -> Weights {
        let mut parameters = vec![0.0; self.parameters_len()];
        for parameter in &self.parameters {
            let mut stream = Stream::new(seed, Domain::Init, &[name_hash(&parameter.name)]);
            let values = &mut parameters[parameter.range.clone()];
            match parameter.init {
                Init::Zeros => {}
                Init::Ones => values.fill(1.0),
                Init::Uniform(bound) => {
                    values.fill_with(|| stream.uniform_in(-bound, bound) as f32)
                }
                Init::Normal(deviation) => {
                    values.fill_with(|| (stream.normal() * deviation) as f32)
                }
            }
        }
        let mut statistics = vec![0.0; self.statistics_len()];
        for norm in &self.norms {
            statistics[norm.variance()].fill(1.0);
        }
        Weights {
            parameters: Arc::new(parameters),
            statistics,
            batches_tracked: 0,
        }
    }
}

// === impl Norm ===

impl Norm {
    /// Where its running mean lies in [`Weights::statistics`].
    pub fn mean(&self) -> Range<usize> {
        self.offset..self.offset + self.channels
    }

    /// Where the moments of a forward pass lie for the `index`-th norm of the table: the number of
    /// values a channel, then per channel their sum, then per channel the sum of their squares.
    /// Moments add over slots.
    pub fn moments(&self, index: usize) -> Range<usize> {
        let start = self.offset + index;
        start..start + 1 + 2 * self.channels
    }

    /// Where its running variance lies in [`Weights::statistics`].
    pub fn variance(&self) -> Range<usize> {
        self.offset + self.channels..self.offset + 2 * self.channels
    }
}
