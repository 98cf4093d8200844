//! The operations of [`crate::ops`] as kernels, on any machine. Shapes and meaning are those of [`crate::cpu`].

use super::conv::{PatchSums, Patches};
use super::depthwise::{Depthwise, DepthwiseInput, DepthwiseTaps, DepthwiseWeight};
use super::elementwise::{
    Divide, Outer, Part, ScaleColumns, ScaleRows, ShiftColumns, Sigmoid, SigmoidSlope,
};
use super::gates::{DotLanes, LANES, SpatialGate, SpatialSlope};
use super::kernel::Machine;
use super::norm::{NormGamma, NormInput, NormSums, Normalize};
use super::optimizer::{Adamw, Fingerprint, STRIDE, Sgd};
use super::pictures::PictureValues;
use super::product::{Ending, Product, product};
use super::sums::{GROUP, ProductGroups, SquareGroups, WeightedGroups, total};
use crate::Precision;
use crate::cpu::Image;
use crate::cpu::conv::output_image;
use crate::cpu::depthwise::Window;
use crate::pictures::{Mixing, Pictures};
use crate::resident::{Rule, Shape, Step};

/// A fully connected layer: `rows` of `inputs` values to `outputs`.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// Whether GELU comes before it.
    pub gelu: bool,
    pub precision: Precision,
}

/// `x @ weight^T + bias`, of `gelu(x)` where the layer says so.
pub fn linear<M: Machine>(
    machine: &M,
    layer: Layer,
    x: &M::Values,
    weight: &M::Values,
    bias: Option<&M::Values>,
) -> M::Values {
    let Layer {
        rows,
        inputs,
        outputs,
        gelu,
        precision,
    } = layer;
    let shape = Product {
        gelu: [gelu, false],
        precision,
        ending: bias.map_or(Ending::None, |_| Ending::Bias),
        ..Product::of_rows(rows, outputs, inputs)
    };
    product(machine, x, weight, bias, shape)
}

/// The gradients of `x` and `weight`.
pub fn linear_backward<M: Machine>(
    machine: &M,
    layer: Layer,
    x: &M::Values,
    weight: &M::Values,
    grad: &M::Values,
) -> [M::Values; 2] {
    let Layer {
        rows,
        inputs,
        outputs,
        gelu,
        precision,
    } = layer;
    let (ending, extra) = match gelu {
        true => (Ending::GeluSlope, Some(x)),
        false => (Ending::None, None),
    };
    let input = Product {
        precision,
        ending,
        ..Product::plain(rows, inputs, outputs)
    };
    [
        product(machine, grad, weight, extra, input),
        weight_backward(machine, layer, x, grad),
    ]
}

/// The gradient of `weight`.
fn weight_backward<M: Machine>(
    machine: &M,
    layer: Layer,
    x: &M::Values,
    grad: &M::Values,
) -> M::Values {
    let of_weight = Product {
        gelu: [false, layer.gelu],
        precision: layer.precision,
        ..Product::of_columns(layer.outputs, layer.inputs, layer.rows)
    };
    product(machine, grad, x, None, of_weight)
}

/// The gradient of a bias from `grad` `[rows, columns]`.
pub fn bias_backward<M: Machine>(
    machine: &M,
    rows: usize,
    columns: usize,
    grad: &M::Values,
) -> M::Values {
    total(machine, grad.clone(), 1, rows, columns)
}

/// A depthwise convolution and the ReLU that may follow.
pub fn depthwise<M: Machine>(
    machine: &M,
    shape: Image,
    window: Window,
    [x, weight, bias]: [&M::Values; 3],
    relu: bool,
) -> M::Values {
    let out = window.output_image(shape);
    let Image {
        height,
        width,
        channels,
        ..
    } = shape;
    let (size, stride) = (window.size, window.stride);
    let relu = u32::from(relu);
    let scalars = (
        height, width, channels, out.height, out.width, size, stride, relu,
    );
    machine.run::<Depthwise>(&[x, weight, bias], scalars, out.len(), out.len())
}

/// The gradients of `x`, `weight` and `bias`.
pub fn depthwise_backward<M: Machine>(
    machine: &M,
    shape: Image,
    window: Window,
    x: &M::Values,
    weight: &M::Values,
    grad: &M::Values,
) -> [M::Values; 3] {
    let out = window.output_image(shape);
    let Image {
        height,
        width,
        channels,
        ..
    } = shape;
    let (size, stride) = (window.size, window.stride);
    let scalars = (height, width, channels, out.height, out.width, size, stride);
    let dx = machine.run::<DepthwiseInput>(&[grad, weight], scalars, shape.len(), shape.len());
    let taps = size * size;
    let lines = out.batch * out.height;
    let units = lines * channels;
    let sums = machine.run::<DepthwiseWeight>(&[x, grad], scalars, units, units * (taps + 1));
    let sums = total(machine, sums, 1, lines, channels * (taps + 1));
    let part = |first: usize, count: usize| {
        let len = channels * count;
        machine.run::<DepthwiseTaps>(&[&sums], (taps + 1, first, count), len, len)
    };
    [dx, part(0, taps), part(taps, 1)]
}

/// A dense 3x3 convolution of stride 2.
#[derive(Debug, Clone, Copy)]
pub struct Convolution {
    /// Of its input.
    pub shape: Image,
    pub outputs: usize,
    pub precision: Precision,
}

// === impl Convolution ===

impl Convolution {
    /// The layer over its patches.
    fn of_patches(self) -> Layer {
        Layer {
            rows: output_image(self.shape, 1).len(),
            inputs: 9 * self.shape.channels,
            outputs: self.outputs,
            gelu: false,
            precision: self.precision,
        }
    }
}

/// The convolution and the ReLU that may follow.
pub fn conv_stride2<M: Machine>(
    machine: &M,
    convolution: Convolution,
    [x, weight, bias]: [&M::Values; 3],
    relu: bool,
) -> M::Values {
    let Convolution {
        shape,
        outputs,
        precision,
    } = convolution;
    let rows = output_image(shape, 1).len();
    let of_patches = Product {
        ending: match relu {
            true => Ending::BiasRelu,
            false => Ending::Bias,
        },
        precision,
        ..Product::of_rows(rows, outputs, 9 * shape.channels)
    };
    let patches = patches(machine, shape, x);
    product(machine, &patches, weight, Some(bias), of_patches)
}

/// The gradients of `x` and `weight`.
pub fn conv_stride2_backward<M: Machine>(
    machine: &M,
    convolution: Convolution,
    [x, weight, grad]: [&M::Values; 3],
) -> [M::Values; 2] {
    let shape = convolution.shape;
    let patches = patches(machine, shape, x);
    let layer = convolution.of_patches();
    let [dpatches, dweight] = linear_backward(machine, layer, &patches, weight, grad);
    let out = output_image(shape, 1);
    let scalars = (
        shape.height,
        shape.width,
        shape.channels,
        out.height,
        out.width,
    );
    let dx = machine.run::<PatchSums>(&[&dpatches], scalars, shape.len(), shape.len());
    [dx, dweight]
}

/// The gradient of `weight` alone.
pub fn conv_stride2_weight_backward<M: Machine>(
    machine: &M,
    convolution: Convolution,
    [x, grad]: [&M::Values; 2],
) -> M::Values {
    let patches = patches(machine, convolution.shape, x);
    weight_backward(machine, convolution.of_patches(), &patches, grad)
}

fn patches<M: Machine>(machine: &M, shape: Image, x: &M::Values) -> M::Values {
    let out = output_image(shape, 9 * shape.channels);
    let scalars = (
        shape.height,
        shape.width,
        shape.channels,
        out.height,
        out.width,
    );
    machine.run::<Patches>(&[x], scalars, out.len(), out.len())
}

/// A batch normalisation: `rows` of `channels` values.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    pub rows: usize,
    pub channels: usize,
    pub epsilon: f32,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// The output, the mean and the biased variance of each channel.
pub fn batch_norm<M: Machine>(
    machine: &M,
    norm: Norm,
    x: &M::Values,
    gamma: &M::Values,
    beta: &M::Values,
) -> [M::Values; 3] {
    let Norm { rows, channels, .. } = norm;
    let divide =
        |sums: M::Values| machine.run::<Divide>(&[&sums], (rows as f32,), channels, channels);
    let mean = divide(total(machine, x.clone(), 1, rows, channels));
    let groups = rows.div_ceil(GROUP);
    let units = groups * channels;
    let squares = machine.run::<SquareGroups>(&[x, &mean], (rows, channels), units, units);
    let variance = divide(total(machine, squares, 1, groups, channels));
    let output = normalize(machine, norm, [x, gamma, beta], [&mean, &variance]);
    [output, mean, variance]
}

/// The output alone, by the `moments`: mean and variance.
fn normalize<M: Machine>(
    machine: &M,
    norm: Norm,
    [x, gamma, beta]: [&M::Values; 3],
    [mean, variance]: [&M::Values; 2],
) -> M::Values {
    let size = norm.rows * norm.channels;
    machine.run::<Normalize>(
        &[x, gamma, beta, mean, variance],
        (norm.channels, norm.epsilon, u32::from(norm.relu)),
        size,
        size,
    )
}

/// The gradients of `x`, `gamma` and `beta`. `moments`: mean and variance of the forward pass.
pub fn batch_norm_backward<M: Machine>(
    machine: &M,
    norm: Norm,
    [x, gamma, beta]: [&M::Values; 3],
    [mean, variance]: [&M::Values; 2],
    grad: &M::Values,
) -> [M::Values; 3] {
    let Norm {
        rows,
        channels,
        epsilon,
        relu,
    } = norm;
    let relu = u32::from(relu);
    let groups = rows.div_ceil(GROUP);
    let sums = machine.run::<NormSums>(
        &[x, gamma, beta, mean, variance, grad],
        (rows, channels, epsilon, relu),
        groups * channels,
        groups * 2 * channels,
    );
    let sums = total(machine, sums, 1, groups, 2 * channels);
    let size = rows * channels;
    let dx = machine.run::<NormInput>(
        &[x, gamma, beta, mean, variance, grad, &sums],
        (rows as f32, channels, epsilon, relu),
        size,
        size,
    );
    let dgamma =
        machine.run::<NormGamma>(&[&sums, variance], (channels, epsilon), channels, channels);
    let dbeta = machine.run::<Part>(&[&sums], (0,), channels, channels);
    [dx, dgamma, dbeta]
}

/// `[pixels, LANES]`: dot products of the pixels of `a` with `b`, one for all (`stride` 0) or one each (`channels`).
fn dot<M: Machine>(
    machine: &M,
    pixels: usize,
    channels: usize,
    a: &M::Values,
    b: &M::Values,
    stride: usize,
) -> M::Values {
    let units = pixels * LANES;
    machine.run::<DotLanes>(&[a, b], (channels, stride), units, units)
}

/// `x * sigmoid(hidden . weight)`, all over `pixels` of `channels`.
pub fn spatial_gate<M: Machine>(
    machine: &M,
    [pixels, channels]: [usize; 2],
    x: &M::Values,
    hidden: &M::Values,
    weight: &M::Values,
) -> M::Values {
    let lanes = dot(machine, pixels, channels, hidden, weight, 0);
    let gate = machine.run::<SpatialGate>(&[&lanes], (), pixels, pixels);
    let size = pixels * channels;
    machine.run::<ScaleRows>(&[x, &gate], (channels,), size, size)
}

/// The gradients of `x`, `hidden` and `weight`.
pub fn spatial_gate_backward<M: Machine>(
    machine: &M,
    [pixels, channels]: [usize; 2],
    x: &M::Values,
    hidden: &M::Values,
    weight: &M::Values,
    grad: &M::Values,
) -> [M::Values; 3] {
    let lanes = dot(machine, pixels, channels, hidden, weight, 0);
    let gate = machine.run::<SpatialGate>(&[&lanes], (), pixels, pixels);
    let lanes = dot(machine, pixels, channels, grad, x, channels);
    let slope = machine.run::<SpatialSlope>(&[&lanes, &gate], (), pixels, pixels);
    let size = pixels * channels;
    let dx = machine.run::<ScaleRows>(&[grad, &gate], (channels,), size, size);
    let dhidden = machine.run::<Outer>(&[&slope, weight], (channels,), size, size);
    let groups = pixels.div_ceil(GROUP);
    let units = groups * channels;
    let sums = machine.run::<WeightedGroups>(&[hidden, &slope], (pixels, channels), units, units);
    [dx, dhidden, total(machine, sums, 1, groups, channels)]
}

/// The mean over pixels and the gate, both `[batch, channels]`.
fn channel_gates<M: Machine>(
    machine: &M,
    shape: Image,
    x: &M::Values,
    weight: &M::Values,
) -> [M::Values; 2] {
    let (pixels, size) = (shape.height * shape.width, shape.batch * shape.channels);
    let sums = total(machine, x.clone(), shape.batch, pixels, shape.channels);
    let mean = machine.run::<Divide>(&[&sums], (pixels as f32,), size, size);
    let logits = linear(machine, mean_layer(shape), &mean, weight, None);
    let gate = machine.run::<Sigmoid>(&[&logits], (), size, size);
    [mean, gate]
}

fn mean_layer(shape: Image) -> Layer {
    Layer {
        rows: shape.batch,
        inputs: shape.channels,
        outputs: shape.channels,
        gelu: false,
        precision: Precision::F32,
    }
}

/// `x * sigmoid(weight @ mean(x))`.
pub fn channel_gate<M: Machine>(
    machine: &M,
    shape: Image,
    x: &M::Values,
    weight: &M::Values,
) -> M::Values {
    let [_, gate] = channel_gates(machine, shape, x, weight);
    let scalars = (shape.picture(), shape.channels);
    machine.run::<ScaleColumns>(&[x, &gate], scalars, shape.len(), shape.len())
}

/// The gradients of `x` and `weight`.
pub fn channel_gate_backward<M: Machine>(
    machine: &M,
    shape: Image,
    x: &M::Values,
    weight: &M::Values,
    grad: &M::Values,
) -> [M::Values; 2] {
    let (pixels, channels) = (shape.height * shape.width, shape.channels);
    let size = shape.batch * channels;
    let [mean, gate] = channel_gates(machine, shape, x, weight);
    let groups = pixels.div_ceil(GROUP);
    let units = groups * size;
    let sums = machine.run::<ProductGroups>(&[x, grad], (pixels, groups, channels), units, units);
    let sums = total(machine, sums, shape.batch, groups, channels);
    let slope = machine.run::<SigmoidSlope>(&[&sums, &gate], (), size, size);
    let [dmean, dweight] = linear_backward(machine, mean_layer(shape), &mean, weight, &slope);
    let share = machine.run::<Divide>(&[&dmean], (pixels as f32,), size, size);
    let scalars = (shape.picture(), channels);
    let dx = machine.run::<ShiftColumns>(&[grad, &gate, &share], scalars, shape.len(), shape.len());
    [dx, dweight]
}

/// The gradients of [`crate::ops::context`]'s inputs, in their order. What is between them is computed again.
pub fn context_backward<M: Machine>(
    machine: &M,
    shape: Image,
    epsilon: f32,
    [x, hidden, gamma, beta, spatial, channel]: [&M::Values; 6],
    moments: [&M::Values; 2],
    grad: &M::Values,
) -> [M::Values; 6] {
    let norm = Norm {
        rows: shape.len() / shape.channels,
        channels: shape.channels,
        epsilon,
        relu: true,
    };
    let pixels = [norm.rows, norm.channels];
    let normal = normalize(machine, norm, [hidden, gamma, beta], moments);
    let gated = spatial_gate(machine, pixels, x, &normal, spatial);
    let [dgated, dchannel] = channel_gate_backward(machine, shape, &gated, channel, grad);
    let [dx, dnormal, dspatial] =
        spatial_gate_backward(machine, pixels, x, &normal, spatial, &dgated);
    let [dhidden, dgamma, dbeta] =
        batch_norm_backward(machine, norm, [hidden, gamma, beta], moments, &dnormal);
    [dx, dhidden, dgamma, dbeta, dspatial, dchannel]
}

/// Pictures as a network sees them, from their bytes in words and the tables of these.
pub fn pictures<M: Machine>(
    machine: &M,
    pictures: &Pictures,
    words: &M::Values,
    tables: &M::Values,
) -> M::Values {
    let [top, bottom, left, right] = match pictures.mixing {
        Mixing::Patch {
            top,
            bottom,
            left,
            right,
        } => [top, bottom, left, right],
        _ => [0; 4],
    };
    let blend = u32::from(matches!(pictures.mixing, Mixing::Blend { .. }));
    let (samples, size) = (pictures.samples(), pictures.size);
    let len = samples * size * size * 3;
    let scalars = (samples, size, blend, top, bottom, left, right);
    machine.run::<PictureValues>(&[words, tables], scalars, len, len)
}

/// One step of an optimizer: `inputs` are the rows of the shape, the gradient, and where weight decay applies.
pub fn update<M: Machine>(
    machine: &M,
    shape: Shape,
    step: &Step,
    inputs: [&M::Values; 3],
) -> M::Values {
    let Shape {
        rows,
        len,
        averaged,
    } = shape;
    let average_weight = step.average_weight;
    let scale = step.gradient_scale;
    let averages = u32::from(averaged);
    match step.rule {
        Rule::Adamw(adamw) => {
            let scalars = (
                len,
                averages,
                average_weight,
                scale,
                adamw.first_weight,
                adamw.beta2,
                adamw.second_weight,
                adamw.correction2_sqrt,
                adamw.eps,
                adamw.minus_step_size,
                adamw.keep,
            );
            machine.run::<Adamw>(&inputs, scalars, len, rows * len)
        }
        Rule::Sgd(sgd) => {
            let buffered = u32::from(rows > 1 + usize::from(averaged));
            let scalars = (
                len,
                averages,
                average_weight,
                scale,
                buffered,
                sgd.momentum,
                sgd.minus_learning_rate,
                sgd.weight_decay,
            );
            machine.run::<Sgd>(&inputs, scalars, len, rows * len)
        }
    }
}

/// Words that tell the first `len` values from all others.
pub fn fingerprint<M: Machine>(machine: &M, len: usize, values: &M::Values) -> M::Values {
    let stride = len.min(STRIDE);
    machine.run::<Fingerprint>(&[values], (len, stride), stride, 2 * stride)
}
