//! The layers that networks are made of, over channels-last activations.

use burn::tensor::Tensor;
use perennial_kernels::{Activation, ops};

use crate::bound::{EPSILON, Pass};
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
    weight: ParameterId,
    bias: Option<ParameterId>,
}

/// A pointwise convolution without a bias whose outputs are used in `N` equal parts. Each is a product of its
/// own, for a part of one product's outputs would be a copy, in both directions.
pub struct PointwiseParts<const N: usize> {
    weight: ParameterId,
}

/// A depthwise 3x3 convolution, stride 1, padding 1.
pub struct Depthwise {
    weight: ParameterId,
    bias: ParameterId,
    /// Of the normalisation whose work it does in inference.
    activation: Activation,
}

/// A dense 3x3 convolution, stride 2, padding 1, and the normalisation that follows.
pub struct Downsample {
    weight: ParameterId,
    bias: ParameterId,
    norm: BatchNorm,
}

/// A layer's weight and its bias, where it has one.
pub type Parameters = (ParameterId, Option<ParameterId>);

/// Batch normalisation and the activation that follows it.
pub struct BatchNorm {
    norm: NormId,
    gamma: ParameterId,
    beta: ParameterId,
    activation: Activation,
}

/// A classifier.
pub struct Linear {
    weight: ParameterId,
    bias: ParameterId,
}

// === impl Pointwise ===

impl Pointwise {
    pub fn new(table: &mut Table, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        let (weight, bias) = convolution(table, name, [outputs, inputs, 1, 1], bias);
        Self { weight, bias }
    }

    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let weight = pass.bound.kernel(self.weight);
        match self.bias {
            Some(bias) => ops::linear_bias(x, weight, pass.bound.vector(bias)),
            None => ops::linear(x, weight),
        }
    }

    pub fn parameters(&self) -> Parameters {
        (self.weight, self.bias)
    }

    /// Of `gelu(x)`; the layer has a bias.
    pub fn forward_activated(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let bias = self.bias.expect("layers after an activation have a bias");
        let (weight, bias) = (pass.bound.kernel(self.weight), pass.bound.vector(bias));
        ops::gelu_linear_bias(x, weight, bias)
    }

    /// The weight alone, for a gate that computes with it.
    pub fn weight(&self, pass: &Pass) -> Tensor<4> {
        pass.bound.kernel(self.weight)
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

    pub fn forward(&self, x: Tensor<4>, index: usize, pass: &Pass) -> Tensor<4> {
        let weight = pass.bound.part(self.weight, index);
        match pass.bound.part_bias(self.weight, index) {
            Some(bias) => ops::linear_bias(x, weight, bias),
            None => ops::linear(x, weight),
        }
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

    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let weight = pass.bound.kernel(self.weight);
        let bias = pass.bound.vector(self.bias);
        match self.activation {
            Activation::Relu if !pass.is_training() => ops::depthwise_relu(x, weight, bias, 1),
            _ => ops::depthwise(x, weight, bias, 1),
        }
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

    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        let weight = pass.bound.kernel(self.weight);
        let bias = pass.bound.vector(self.bias);
        match self.norm.activation {
            Activation::Relu if !pass.is_training() => ops::conv_stride2_relu(x, weight, bias),
            _ => self.norm.forward(ops::conv_stride2(x, weight, bias), pass),
        }
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

    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        if !pass.is_training() {
            return x;
        }
        let [batch, height, width, _] = x.dims();
        let (gamma, beta) = (pass.bound.vector(self.gamma), pass.bound.vector(self.beta));
        let result = ops::batch_norm(x, gamma, beta, EPSILON, self.activation);
        pass.record_moments(
            self.norm,
            batch * height * width,
            result.mean,
            result.variance,
        );
        result.output
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

    pub fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        ops::linear_bias(
            x,
            pass.bound.matrix(self.weight),
            pass.bound.vector(self.bias),
        )
    }
}
