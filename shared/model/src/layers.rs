//! The layers that networks are made of: which parameters they have, and which operation they are.

use perennial_kernels::Activation;

use crate::engine::Engine;
use crate::table::{Fold, Init, NormId, ParameterId, Table};

/// PyTorch's default for convolutions and their biases: uniform within `1 / sqrt(fan_in)`.
fn convolution(
    table: &mut Table,
    name: &str,
    shape: [usize; 4],
    bias: bool,
) -> (ParameterId, Option<ParameterId>) {
    let fan_in = shape[1] * shape[2] * shape[3];
    let init = Init::Uniform(1.0 / (fan_in as f64).sqrt());
    let weight = table.parameter(format!("{name}.weight"), &shape, init);
    let bias = bias.then(|| table.parameter(format!("{name}.bias"), &shape[..1], init));
    (weight, bias)
}

/// A pointwise convolution.
pub struct Pointwise {
    pub(crate) weight: ParameterId,
    pub(crate) bias: Option<ParameterId>,
}

/// A pointwise convolution without a bias whose outputs are used in `N` equal parts. Each is a product of its
/// own, for a part of one product's outputs would be a copy, in both directions.
pub struct PointwiseParts<const N: usize> {
    pub(crate) weight: ParameterId,
}

/// A depthwise 3x3 convolution, stride 1, padding 1.
pub struct Depthwise {
    pub(crate) weight: ParameterId,
    pub(crate) bias: ParameterId,
    /// Of the normalisation whose work it does in inference.
    pub(crate) activation: Activation,
}

/// A dense 3x3 convolution, stride 2, padding 1, and the normalisation that follows.
pub struct Downsample {
    pub(crate) weight: ParameterId,
    pub(crate) bias: ParameterId,
    pub(crate) norm: BatchNorm,
}

/// A layer's weight and its bias, where it has one.
pub type Parameters = (ParameterId, Option<ParameterId>);

/// Batch normalisation and the activation that follows it.
pub struct BatchNorm {
    pub(crate) norm: NormId,
    pub(crate) gamma: ParameterId,
    pub(crate) beta: ParameterId,
    pub(crate) activation: Activation,
}

/// A classifier.
pub struct Linear {
    pub(crate) weight: ParameterId,
    pub(crate) bias: ParameterId,
}

// === impl Pointwise ===

impl Pointwise {
    pub fn new(table: &mut Table, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        let (weight, bias) = convolution(table, name, [outputs, inputs, 1, 1], bias);
        Self { weight, bias }
    }

    pub fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        engine.pointwise(x, self)
    }

    pub fn parameters(&self) -> Parameters {
        (self.weight, self.bias)
    }

    /// Of `gelu(x)`; the layer has a bias.
    pub fn forward_activated<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        engine.pointwise_activated(x, self)
    }
}

// === impl PointwiseParts ===

impl<const N: usize> PointwiseParts<N> {
    /// `outputs` of each part.
    pub fn new(table: &mut Table, name: &str, inputs: usize, outputs: usize) -> Self {
        let (weight, _) = convolution(table, name, [N * outputs, inputs, 1, 1], false);
        table.divide(weight, N);
        Self { weight }
    }

    pub fn forward<E: Engine>(&self, x: E::Map, index: usize, engine: &E) -> E::Map {
        engine.pointwise_part(x, self, index)
    }

    pub fn parameters(&self) -> Parameters {
        (self.weight, None)
    }
}

// === impl Depthwise ===

impl Depthwise {
    pub fn new(table: &mut Table, name: &str, channels: usize) -> Self {
        let (weight, bias) = convolution(table, name, [channels, 1, 3, 3], true);
        Self {
            weight,
            bias: bias.expect("made with a bias"),
            activation: Activation::None,
        }
    }

    /// A normalisation with this activation follows, whose work this layer does in inference.
    pub fn followed_by(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    pub fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        engine.depthwise(x, self)
    }

    pub fn parameters(&self) -> Parameters {
        (self.weight, Some(self.bias))
    }
}

// === impl Downsample ===

impl Downsample {
    /// `conv` and `norm` are the names of the two.
    pub fn new(
        table: &mut Table,
        [conv, norm]: [&str; 2],
        [inputs, outputs]: [usize; 2],
        activation: Activation,
    ) -> Self {
        let (weight, bias) = convolution(table, conv, [outputs, inputs, 3, 3], true);
        let norm = BatchNorm::new(table, norm, outputs, activation);
        norm.fold_into_previous(table, (weight, bias));
        Self {
            weight,
            bias: bias.expect("made with a bias"),
            norm,
        }
    }

    pub fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        engine.downsample(x, self)
    }
}

// === impl BatchNorm ===

impl BatchNorm {
    pub fn new(table: &mut Table, name: &str, channels: usize, activation: Activation) -> Self {
        let (norm, gamma, beta) = table.norm(name.to_string(), channels);
        Self {
            norm,
            gamma,
            beta,
            activation,
        }
    }

    /// In inference the layer before it does its work.
    pub fn fold_into_previous(&self, table: &mut Table, layer: Parameters) {
        self.fold(table, layer, false);
    }

    /// In inference the pointwise layer after it does its work.
    pub fn fold_into_next(&self, table: &mut Table, layer: Parameters) {
        self.fold(table, layer, true);
    }

    fn fold(&self, table: &mut Table, (weight, bias): Parameters, before: bool) {
        table.fold(Fold {
            norm: self.norm,
            weight,
            bias,
            before,
        });
    }

    pub fn forward<E: Engine>(&self, x: E::Map, engine: &E) -> E::Map {
        engine.batch_norm(x, self)
    }
}

// === impl Linear ===

impl Linear {
    pub fn new(table: &mut Table, name: &str, inputs: usize, outputs: usize) -> Self {
        let weight = table.parameter(
            format!("{name}.weight"),
            &[outputs, inputs],
            Init::Normal(0.02),
        );
        let bias = table.parameter(format!("{name}.bias"), &[outputs], Init::Zeros);
        Self { weight, bias }
    }

    pub fn parameters(&self) -> Parameters {
        (self.weight, Some(self.bias))
    }

    pub fn forward<E: Engine>(&self, x: E::Rows, engine: &E) -> E::Rows {
        engine.linear(x, self)
    }
}
