//! What carries out the operations of a network. The network says once what follows on what; a [`Pass`] computes it
//! with Burn's tensors, [`crate::onnx`] writes it down as a graph.

use std::ops::{Add, Div, Mul};

use burn::tensor::Tensor;
use perennial_kernels::{Activation, ops};

use crate::bound::{EPSILON, Pass};
use crate::layers::{BatchNorm, Depthwise, Downsample, Linear, Pointwise, PointwiseParts};

/// The operations that networks are made of.
pub trait Engine {
    /// An activation of every pixel: for tensors `[batch, height, width, channels]`.
    type Map: Clone + Add<Output = Self::Map> + Mul<Output = Self::Map>;
    /// One row a picture: `[batch, features]`.
    type Rows: Clone + Add<Output = Self::Rows> + Div<f32, Output = Self::Rows>;

    fn pointwise(&self, x: Self::Map, layer: &Pointwise) -> Self::Map;
    /// Of `gelu(x)`; the layer has a bias.
    fn pointwise_activated(&self, x: Self::Map, layer: &Pointwise) -> Self::Map;
    /// `x` and the residual branch numbered `layer`, dropped for some samples in training: of the normalised `x` the second layer
    /// of the activated first one; both have a bias.
    fn feed_forward(
        &self,
        x: Self::Map,
        norm: &BatchNorm,
        [first, second]: [&Pointwise; 2],
        rate: f32,
        layer: u64,
    ) -> Self::Map {
        let hidden = self.pointwise(self.batch_norm(x.clone(), norm), first);
        x + self.drop_path(self.pointwise_activated(hidden, second), rate, layer)
    }
    /// The outputs of one part.
    fn pointwise_part<const N: usize>(
        &self,
        x: Self::Map,
        layer: &PointwiseParts<N>,
        index: usize,
    ) -> Self::Map;
    fn depthwise(&self, x: Self::Map, layer: &Depthwise) -> Self::Map;
    fn downsample(&self, x: Self::Map, layer: &Downsample) -> Self::Map;
    fn batch_norm(&self, x: Self::Map, layer: &BatchNorm) -> Self::Map;
    /// `s * sigmoid(channel @ mean(s))`, one gate a channel, of `s = x * sigmoid(hidden . spatial)`, one gate a pixel: of the
    /// normalised `hidden`. `spatial` has one output, neither layer has a bias.
    fn context(
        &self,
        x: Self::Map,
        hidden: Self::Map,
        norm: &BatchNorm,
        spatial: &Pointwise,
        channel: &Pointwise,
    ) -> Self::Map;
    /// The residual branch numbered `layer`, dropped for some samples in training.
    fn drop_path(&self, branch: Self::Map, rate: f32, layer: u64) -> Self::Map;
    /// The mean over the pixels of each picture.
    fn pooled(&self, x: Self::Map) -> Self::Rows;
    fn linear(&self, x: Self::Rows, layer: &Linear) -> Self::Rows;
}

impl Engine for Pass<'_> {
    type Map = Tensor<4>;
    type Rows = Tensor<2>;

    fn pointwise(&self, x: Tensor<4>, layer: &Pointwise) -> Tensor<4> {
        let weight = self.bound.kernel(layer.weight);
        match layer.bias {
            Some(bias) => {
                ops::linear_bias(x, weight, self.bound.vector(bias), self.bound.precision)
            }
            None => ops::linear(x, weight, self.bound.precision),
        }
    }

    fn pointwise_activated(&self, x: Tensor<4>, layer: &Pointwise) -> Tensor<4> {
        let bias = layer.bias.expect("layers after an activation have a bias");
        let (weight, bias) = (self.bound.kernel(layer.weight), self.bound.vector(bias));
        ops::gelu_linear_bias(x, weight, bias, self.bound.precision)
    }

    fn feed_forward(
        &self,
        x: Tensor<4>,
        norm: &BatchNorm,
        [first, second]: [&Pointwise; 2],
        rate: f32,
        layer: u64,
    ) -> Tensor<4> {
        let [first, second] = [first, second].map(|layer| {
            let bias = layer.bias.expect("layers around an activation have a bias");
            (self.bound.kernel(layer.weight), self.bound.vector(bias))
        });
        if !self.is_training() {
            return ops::feed_forward(x, first, second);
        }
        let normalized = self.batch_norm(x.clone(), norm);
        let branch = ops::mlp(normalized, first, second, self.bound.precision);
        x + self.drop_path(branch, rate, layer)
    }

    fn pointwise_part<const N: usize>(
        &self,
        x: Tensor<4>,
        layer: &PointwiseParts<N>,
        index: usize,
    ) -> Tensor<4> {
        let weight = self.bound.part(layer.weight, index);
        match self.bound.part_bias(layer.weight, index) {
            Some(bias) => ops::linear_bias(x, weight, bias, self.bound.precision),
            None => ops::linear(x, weight, self.bound.precision),
        }
    }

    fn depthwise(&self, x: Tensor<4>, layer: &Depthwise) -> Tensor<4> {
        let weight = self.bound.kernel(layer.weight);
        let bias = self.bound.vector(layer.bias);
        match layer.activation {
            Activation::Relu if !self.is_training() => ops::depthwise_relu(x, weight, bias, 1),
            _ => ops::depthwise(x, weight, bias, 1),
        }
    }

    fn downsample(&self, x: Tensor<4>, layer: &Downsample) -> Tensor<4> {
        let weight = self.bound.kernel(layer.weight);
        let bias = self.bound.vector(layer.bias);
        match layer.norm.activation {
            Activation::Relu if !self.is_training() => ops::conv_stride2_relu(x, weight, bias),
            _ => {
                let x = ops::conv_stride2(x, weight, bias, self.bound.precision);
                self.batch_norm(x, &layer.norm)
            }
        }
    }

    fn batch_norm(&self, x: Tensor<4>, layer: &BatchNorm) -> Tensor<4> {
        if !self.is_training() {
            return x;
        }
        let gamma = self.bound.vector(layer.gamma);
        let beta = self.bound.vector(layer.beta);
        let result = ops::batch_norm(x, gamma, beta, EPSILON, layer.activation);
        self.normalized(layer, result)
    }

    fn context(
        &self,
        x: Tensor<4>,
        hidden: Tensor<4>,
        norm: &BatchNorm,
        spatial: &Pointwise,
        channel: &Pointwise,
    ) -> Tensor<4> {
        let gates = (
            self.bound.kernel(spatial.weight),
            self.bound.kernel(channel.weight),
        );
        if !self.is_training() {
            return ops::context_gates(x, hidden, gates);
        }
        let parameters = (self.bound.vector(norm.gamma), self.bound.vector(norm.beta));
        let result = ops::context(x, hidden, parameters, gates, EPSILON);
        self.normalized(norm, result)
    }

    fn drop_path(&self, branch: Tensor<4>, rate: f32, layer: u64) -> Tensor<4> {
        self.drop_branches(branch, rate, layer)
    }

    fn pooled(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, height, width, channels] = x.dims();
        x.reshape([batch, height * width, channels])
            .mean_dim(1)
            .reshape([batch, channels])
    }

    fn linear(&self, x: Tensor<2>, layer: &Linear) -> Tensor<2> {
        let weight = self.bound.matrix(layer.weight);
        ops::linear_bias(
            x,
            weight,
            self.bound.vector(layer.bias),
            self.bound.precision,
        )
    }
}

impl Pass<'_> {
    /// The output, whose normalisation's moments are recorded.
    fn normalized(&self, layer: &BatchNorm, result: ops::Normalized) -> Tensor<4> {
        let [batch, height, width, _] = result.output.dims();
        let count = batch * height * width;
        self.record_moments(layer.norm, count, result.mean, result.variance);
        result.output
    }
}
