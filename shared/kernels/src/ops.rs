//! The operations on Burn tensors.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::{Activation, Precision};

/// The operations as a backend provides them. Shapes are those of the functions of this module.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait KernelOps: Backend {
    fn kernel_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
    fn kernel_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
    fn kernel_depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
    ) -> FloatTensor<Self>;
    fn kernel_conv_stride2(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
    /// `relu` says whether a ReLU follows. Returns the output, the mean and the biased variance.
    fn kernel_batch_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// Not differentiable.
    fn kernel_depthwise_relu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
    ) -> FloatTensor<Self>;
    /// Not differentiable.
    fn kernel_conv_stride2_relu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    fn kernel_gelu_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
    /// Returns the output, and that of the first layer, which is not differentiable.
    fn kernel_mlp(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        second_weight: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Not differentiable.
    fn kernel_feed_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        second_weight: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Returns the output, and the mean and the biased variance of `hidden`.
    fn kernel_context(
        x: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        spatial: FloatTensor<Self>,
        channel: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// Not differentiable.
    fn kernel_context_gates(
        x: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        spatial: FloatTensor<Self>,
        channel: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The derivatives of [`KernelOps`]: from the inputs and the gradient of the output (last) to the
/// gradients of the inputs, in their order.
pub trait KernelGradients: Backend {
    fn kernel_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn kernel_bias_backward(grad: FloatTensor<Self>) -> FloatTensor<Self>;
    fn kernel_depthwise_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: usize,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn kernel_conv_stride2_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The gradient of the weight alone, for inputs without one.
    fn kernel_conv_stride2_weight_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
    #[allow(clippy::too_many_arguments)]
    fn kernel_batch_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f32,
        relu: bool,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn kernel_gelu_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `weights` are those of the two layers, `hidden` is what the first one gave. In the order of the operation's inputs.
    fn kernel_mlp_backward(
        x: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weights: [FloatTensor<Self>; 2],
        precision: Precision,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 5];
    /// `inputs` are the six tensors of the operation, `moments` the mean and the variance that it found.
    fn kernel_context_backward(
        inputs: [FloatTensor<Self>; 6],
        moments: [FloatTensor<Self>; 2],
        epsilon: f32,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 6];
}

fn dispatch<const A: usize, const B: usize, const C: usize>(
    tensors: (Tensor<A>, Tensor<B>, Tensor<C>),
) -> [FloatTensor<Dispatch>; 3] {
    let (a, b, c) = tensors;
    [a.into_dispatch(), b.into_dispatch(), c.into_dispatch()]
}

/// `x @ weight^T`: a fully connected layer, and a pointwise convolution.
/// `x`: `[..., in]`, `weight`: `[out, in]` (trailing ones allowed), result: `[..., out]`.
pub fn linear<const D: usize, const W: usize>(
    x: Tensor<D>,
    weight: Tensor<W>,
    precision: Precision,
) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::kernel_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        precision,
    ))
}

/// [`linear`] with a bias of shape `[out]`.
pub fn linear_bias<const D: usize, const W: usize>(
    x: Tensor<D>,
    weight: Tensor<W>,
    bias: Tensor<1>,
    precision: Precision,
) -> Tensor<D> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_linear_bias(x, weight, bias, precision))
}

/// Depthwise convolution, padded by half its size. `x`: `[batch, height, width, channels]`, `weight`: `[channels, 1,
/// size, size]` with a size of 3 or 7, `bias`: `[channels]`, `stride`: 1 or 2, result: `[batch, ceil(height /
/// stride), ceil(width / stride), channels]`.
pub fn depthwise(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_depthwise(x, weight, bias, stride))
}

/// Dense 3x3 convolution, stride 2, padding 1. `x`: `[batch, height, width, in]`,
/// `weight`: `[out, in, 3, 3]`, `bias`: `[out]`, result: `[batch, ceil(height / 2), ceil(width / 2), out]`.
pub fn conv_stride2(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    precision: Precision,
) -> Tensor<4> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_conv_stride2(x, weight, bias, precision))
}

/// What an operation with a batch normalisation by the statistics of its input returns in training.
pub struct Normalized {
    /// Same shape as the input.
    pub output: Tensor<4>,
    /// `[channels]`, not differentiable.
    pub mean: Tensor<1>,
    /// `[channels]`, the biased variance, not differentiable.
    pub variance: Tensor<1>,
}

/// Batch normalisation by the statistics of `x`, and the activation that follows.
/// `x`: `[batch, height, width, channels]`, `gamma`, `beta`: `[channels]`.
pub fn batch_norm(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f32,
    activation: Activation,
) -> Normalized {
    let [x, gamma, beta] = dispatch((x, gamma, beta));
    let relu = activation == Activation::Relu;
    let (output, mean, variance) = Dispatch::kernel_batch_norm(x, gamma, beta, epsilon, relu);
    Normalized {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// [`depthwise`] and a ReLU. For inference only.
pub fn depthwise_relu(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
) -> Tensor<4> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_depthwise_relu(x, weight, bias, stride))
}

/// [`conv_stride2`] and a ReLU. For inference only.
pub fn conv_stride2_relu(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_conv_stride2_relu(x, weight, bias))
}

/// [`linear_bias`] of the activated input: `gelu(x) @ weight^T + bias` with GELU in its exact form,
/// `x * Phi(x)`.
pub fn gelu_linear_bias<const D: usize, const W: usize>(
    x: Tensor<D>,
    weight: Tensor<W>,
    bias: Tensor<1>,
    precision: Precision,
) -> Tensor<D> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_gelu_linear_bias(
        x, weight, bias, precision,
    ))
}

/// [`gelu_linear_bias`] with the second layer of [`linear_bias`] with the first one, each a weight and a bias, to the bit.
pub fn mlp(
    x: Tensor<4>,
    (weight, bias): (Tensor<4>, Tensor<1>),
    (second_weight, second_bias): (Tensor<4>, Tensor<1>),
    precision: Precision,
) -> Tensor<4> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    let (second_weight, second_bias) = (second_weight.into_dispatch(), second_bias.into_dispatch());
    let (output, _) = Dispatch::kernel_mlp(x, weight, bias, second_weight, second_bias, precision);
    Tensor::from_dispatch(output)
}

/// `x` and [`mlp`] of it, added: what is between them never leaves the cache. For inference only.
pub fn feed_forward(
    x: Tensor<4>,
    (weight, bias): (Tensor<4>, Tensor<1>),
    (second_weight, second_bias): (Tensor<4>, Tensor<1>),
) -> Tensor<4> {
    let [x, weight, bias] = dispatch((x, weight, bias));
    Tensor::from_dispatch(Dispatch::kernel_feed_forward(
        x,
        weight,
        bias,
        second_weight.into_dispatch(),
        second_bias.into_dispatch(),
    ))
}

/// The gates of a context, in training: `s * sigmoid(channel @ mean(s))`, one gate a channel from the mean over the pixels of a
/// picture, of `s = x * sigmoid(n . spatial)`, one gate a pixel from the dot product over channels. `n` is `hidden` after
/// [`batch_norm`] with a ReLU, and the moments are those of `hidden`. `x`, `hidden`: `[batch, height, width, channels]`, `gamma`,
/// `beta`: `[channels]`, `spatial`: `[1, channels, 1, 1]`, `channel`: `[channels, channels, 1, 1]`.
pub fn context(
    x: Tensor<4>,
    hidden: Tensor<4>,
    (gamma, beta): (Tensor<1>, Tensor<1>),
    (spatial, channel): (Tensor<4>, Tensor<4>),
    epsilon: f32,
) -> Normalized {
    let (output, mean, variance) = Dispatch::kernel_context(
        x.into_dispatch(),
        hidden.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        spatial.into_dispatch(),
        channel.into_dispatch(),
        epsilon,
    );
    Normalized {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// [`context`] of a `hidden` that is normalised and not negative. For inference only.
pub fn context_gates(
    x: Tensor<4>,
    hidden: Tensor<4>,
    (spatial, channel): (Tensor<4>, Tensor<4>),
) -> Tensor<4> {
    let [x, hidden, spatial] = dispatch((x, hidden, spatial));
    let channel = channel.into_dispatch();
    Tensor::from_dispatch(Dispatch::kernel_context_gates(x, hidden, spatial, channel))
}
