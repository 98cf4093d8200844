//! The comparisons, and the references they compare with.

use perennial_kernels::cpu::Image;
use perennial_plan::random::{Domain, Draw, Stream};

/// Largest error of an output, relative to the largest output.
pub const FORWARD: f64 = 1e-5;
/// Largest error of a gradient, relative to the largest value of that gradient.
const GRADIENT: f64 = 2e-4;
/// Half the distance of the two points of a central difference.
const STEP: f64 = 1e-5;
/// Values of one input whose gradient is checked; all of them when there are fewer.
const SAMPLED: usize = 48;

pub const fn image(batch: usize, height: usize, width: usize, channels: usize) -> Image {
    Image {
        batch,
        height,
        width,
        channels,
    }
}

/// Random inputs, the same for the same name.
pub struct Source(Stream);

impl Source {
    pub fn new(name: &str) -> Self {
        Self(Stream::new(
            42,
            Domain::Synthetic,
            &[perennial_plan::random::name_hash(name)],
        ))
    }

    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.normal() as f32).collect()
    }

    /// One after the other, so many values each.
    pub fn all<const N: usize>(&mut self, counts: [usize; N]) -> [Vec<f32>; N] {
        counts.map(|count| self.values(count))
    }
}

pub fn rounded<const N: usize>(operands: [&[f32]; N], round: fn(f32) -> f32) -> [Vec<f32>; N] {
    operands.map(|values| values.iter().map(|value| round(*value)).collect())
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "length of {what}");
    // A gradient that vanishes everywhere is held against 0.01.
    let scale = expected
        .iter()
        .fold(0.01f64, |max, value| max.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / scale;
        assert!(
            error <= tolerance,
            "{what}[{index}]: {found} instead of {expected}, off by {error:e} of the maximum"
        );
    }
}

/// Checks `gradients`, one per input, of `sum(reference(inputs) * grad)`.
pub fn assert_gradients(
    what: &str,
    inputs: &[&[f32]],
    grad: &[f32],
    gradients: &[Vec<f32>],
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    assert_eq!(inputs.len(), gradients.len());
    let mut positions = Source::new(what).0;
    let mut point: Vec<Vec<f64>> = inputs.iter().map(|input| wide(input)).collect();
    for (input, gradient) in gradients.iter().enumerate() {
        let size = point[input].len();
        assert_eq!(gradient.len(), size, "length of gradient {input} of {what}");
        let chosen: Vec<usize> = match size <= SAMPLED {
            true => (0..size).collect(),
            false => (0..SAMPLED)
                .map(|_| positions.below(size as u64) as usize)
                .collect(),
        };
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for &index in &chosen {
            let value = point[input][index];
            point[input][index] = value + STEP;
            let above = reference(&point);
            point[input][index] = value - STEP;
            let below = reference(&point);
            point[input][index] = value;
            // A ReLU that switches between the two points has no derivative to compare with.
            if above
                .iter()
                .zip(&below)
                .any(|(above, below)| (*above == 0.0) != (*below == 0.0))
            {
                continue;
            }
            let difference: f64 = above
                .iter()
                .zip(&below)
                .zip(grad)
                .map(|((above, below), grad)| (above - below) * f64::from(*grad))
                .sum();
            expected.push(difference / (2.0 * STEP));
            found.push(gradient[index]);
        }
        assert!(
            2 * found.len() > chosen.len(),
            "most values of input {input} of {what} are on a kink"
        );
        assert_close(
            &format!("gradient {input} of {what}"),
            &found,
            &expected,
            GRADIENT,
        );
    }
}

// === references ===

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its series of positive terms (Abramowitz and Stegun, 7.1.6).
pub fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

pub fn gelu_reference(x: &[f64]) -> Vec<f64> {
    let gelu = |x: &f64| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    x.iter().map(gelu).collect()
}

/// `x`: `[rows, in]`, `weight`: `[outputs, in]`, `bias`: `[outputs]`.
pub fn linear_reference(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    let output = |row: &[f64], weight: &[f64], bias: f64| {
        bias + row.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>()
    };
    let outputs = |row| {
        weight
            .chunks_exact(inputs)
            .zip(bias)
            .map(move |(weight, bias)| output(row, weight, *bias))
    };
    x.chunks_exact(inputs).flat_map(outputs).collect()
}

/// What a convolution does beside its numbers; its padding is half its size.
#[derive(Clone, Copy)]
pub struct Geometry {
    pub size: usize,
    pub stride: usize,
    pub groups: usize,
}

// === impl Geometry ===

impl Geometry {
    /// 3x3, all inputs for each output.
    pub fn dense(stride: usize) -> Self {
        Self {
            size: 3,
            stride,
            groups: 1,
        }
    }
}

/// A convolution with `inputs / groups` inputs for each output.
/// `weight`: `[outputs, inputs / groups, size, size]`, `bias`: `[outputs]`.
pub fn conv_reference(
    shape: Image,
    geometry: Geometry,
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
) -> Vec<f64> {
    let Image {
        batch,
        height,
        width,
        channels,
    } = shape;
    let Geometry {
        size,
        stride,
        groups,
    } = geometry;
    let taps = size * size;
    let (inputs, outputs) = (channels / groups, bias.len() / groups);
    let mut out = Vec::new();
    for picture in 0..batch {
        for row in (0..height).step_by(stride) {
            for column in (0..width).step_by(stride) {
                for output in 0..bias.len() {
                    let mut sum = bias[output];
                    for input in 0..inputs {
                        for tap in 0..taps {
                            let (y, z) = (
                                (row + tap / size).wrapping_sub(size / 2),
                                (column + tap % size).wrapping_sub(size / 2),
                            );
                            if y < height && z < width {
                                let channel = output / outputs * inputs + input;
                                let value =
                                    x[((picture * height + y) * width + z) * channels + channel];
                                sum += weight[(output * inputs + input) * taps + tap] * value;
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

pub fn moments_reference(x: &[f64], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (x.len() / channels) as f64;
    let mean_of = |channel: usize, value: &dyn Fn(f64) -> f64| {
        x.iter()
            .skip(channel)
            .step_by(channels)
            .map(|x| value(*x))
            .sum::<f64>()
            / rows
    };
    let mean: Vec<f64> = (0..channels)
        .map(|channel| mean_of(channel, &|x| x))
        .collect();
    let variance = (0..channels)
        .map(|channel| mean_of(channel, &|x| (x - mean[channel]).powi(2)))
        .collect();
    (mean, variance)
}

pub fn activation(value: f64, relu: bool) -> f64 {
    if relu { value.max(0.0) } else { value }
}

pub fn norm_reference(
    x: &[f64],
    gamma: &[f64],
    beta: &[f64],
    epsilon: f64,
    relu: bool,
) -> Vec<f64> {
    let channels = gamma.len();
    let (mean, variance) = moments_reference(x, channels);
    let normalized = |(i, x): (usize, &f64)| {
        let c = i % channels;
        activation(
            (x - mean[c]) / (variance[c] + epsilon).sqrt() * gamma[c] + beta[c],
            relu,
        )
    };
    x.iter().enumerate().map(normalized).collect()
}

pub fn spatial_gate_reference(x: &[f64], hidden: &[f64], weight: &[f64]) -> Vec<f64> {
    let channels = weight.len();
    let pixels = x.chunks_exact(channels).zip(hidden.chunks_exact(channels));
    pixels
        .flat_map(|(x, hidden)| {
            let gate = sigmoid(
                hidden
                    .iter()
                    .zip(weight)
                    .map(|(hidden, weight)| hidden * weight)
                    .sum(),
            );
            x.iter().map(move |x| x * gate)
        })
        .collect()
}

pub fn channel_gate_reference(shape: Image, x: &[f64], weight: &[f64]) -> Vec<f64> {
    let channels = shape.channels;
    x.chunks_exact(shape.picture())
        .flat_map(|picture| {
            let (mean, _) = moments_reference(picture, channels);
            let gate: Vec<f64> = linear_reference(&mean, weight, &vec![0.0; channels])
                .into_iter()
                .map(sigmoid)
                .collect();
            picture
                .iter()
                .enumerate()
                .map(move |(i, x)| x * gate[i % channels])
        })
        .collect()
}

/// The inputs of a context, and the gradient of its output.
pub struct Context {
    pub x: Vec<f32>,
    pub hidden: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub spatial: Vec<f32>,
    pub channel: Vec<f32>,
    pub grad: Vec<f32>,
}

// === impl Context ===

impl Context {
    pub fn random(what: &str, shape: Image) -> Self {
        let channels = shape.channels;
        let mut source = Source::new(what);
        let mut values = |count: usize| source.values(count);
        let [x, hidden, grad] = [(); 3].map(|()| values(shape.len()));
        let [gamma, beta, mut spatial] = [(); 3].map(|()| values(channels));
        for weight in &mut spatial {
            *weight /= (channels as f32).sqrt();
        }
        let channel = values(channels * channels);
        Self {
            x,
            hidden,
            gamma,
            beta,
            spatial,
            channel,
            grad,
        }
    }

    /// In the order of the operation.
    pub fn inputs(&self) -> [&[f32]; 6] {
        [
            &self.x,
            &self.hidden,
            &self.gamma,
            &self.beta,
            &self.spatial,
            &self.channel,
        ]
    }
}

/// `point`: the inputs of a [`Context`].
pub fn context_reference(shape: Image, point: &[Vec<f64>], epsilon: f64) -> Vec<f64> {
    let [x, hidden, gamma, beta, spatial, channel] = point else {
        panic!("a context has six inputs, not {}", point.len());
    };
    let normal = norm_reference(hidden, gamma, beta, epsilon, true);
    let gated = spatial_gate_reference(x, &normal, spatial);
    channel_gate_reference(shape, &gated, channel)
}

/// [`assert_gradients`] of a context. What its ReLU lets pass is behind the output, where its kinks are seen.
pub fn assert_context_gradients(
    what: &str,
    shape: Image,
    context: &Context,
    epsilon: f64,
    gradients: &[Vec<f32>],
) {
    let reference = |point: &[Vec<f64>]| {
        let mut values = context_reference(shape, point, epsilon);
        let [_, hidden, gamma, beta, ..] = point else {
            panic!("a context has six inputs, not {}", point.len());
        };
        values.extend(norm_reference(hidden, gamma, beta, epsilon, true));
        values
    };
    let (inputs, grad) = (context.inputs(), &context.grad);
    assert_gradients(what, &inputs, grad, gradients, reference);
}
