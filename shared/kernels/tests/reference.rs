//! Every operation on slices against a plain `f64` reference, and its gradients against central
//! differences of that reference, on shapes that fill no block of a kernel.

use perennial_kernels::cpu::{
    Image, channel_gate, conv, depthwise, gelu, linear, norm, spatial_gate,
};
use perennial_plan::random::{Domain, Draw, Stream};

/// Largest error of an output, relative to the largest output.
const FORWARD: f64 = 1e-5;
/// Largest error of a gradient, relative to the largest value of that gradient.
const GRADIENT: f64 = 2e-4;
/// Half the distance of the two points of a central difference.
const STEP: f64 = 1e-5;
/// Values of one input whose gradient is checked; all of them when there are fewer.
const SAMPLED: usize = 48;

const fn image(batch: usize, height: usize, width: usize, channels: usize) -> Image {
    Image {
        batch,
        height,
        width,
        channels,
    }
}

const IMAGES: [Image; 10] = [
    image(1, 1, 1, 1),
    image(3, 1, 1, 9),
    image(1, 5, 1, 2),
    image(2, 1, 4, 17),
    image(1, 3, 7, 1),
    image(3, 2, 5, 31),
    image(1, 4, 4, 48),
    image(2, 7, 6, 48),
    image(2, 2, 3, 220),
    image(2, 16, 16, 56),
];

struct Source(Stream);

impl Source {
    fn new(name: &str) -> Self {
        Self(Stream::new(
            42,
            Domain::Synthetic,
            &[perennial_plan::random::name_hash(name)],
        ))
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.normal() as f32).collect()
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
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
fn assert_gradients(
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

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its series of positive terms (Abramowitz and Stegun, 7.1.6).
fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `x`: `[rows, in]`, `weight`: `[outputs, in]`, `bias`: `[outputs]`.
fn linear_reference(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
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

/// A 3x3 convolution with padding 1 and `inputs / groups` inputs for each output.
/// `weight`: `[outputs, inputs / groups, 3, 3]`, `bias`: `[outputs]`.
fn conv_reference(
    shape: Image,
    stride: usize,
    groups: usize,
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
    let (inputs, outputs) = (channels / groups, bias.len() / groups);
    let mut out = Vec::new();
    for picture in 0..batch {
        for row in (0..height).step_by(stride) {
            for column in (0..width).step_by(stride) {
                for output in 0..bias.len() {
                    let mut sum = bias[output];
                    for input in 0..inputs {
                        for tap in 0..9 {
                            let (y, z) = (
                                (row + tap / 3).wrapping_sub(1),
                                (column + tap % 3).wrapping_sub(1),
                            );
                            if y < height && z < width {
                                let channel = output / outputs * inputs + input;
                                let value =
                                    x[((picture * height + y) * width + z) * channels + channel];
                                sum += weight[(output * inputs + input) * 9 + tap] * value;
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

fn moments_reference(x: &[f64], channels: usize) -> (Vec<f64>, Vec<f64>) {
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

fn activation(value: f64, relu: bool) -> f64 {
    if relu { value.max(0.0) } else { value }
}

fn norm_reference(x: &[f64], gamma: &[f64], beta: &[f64], epsilon: f64, relu: bool) -> Vec<f64> {
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

fn spatial_gate_reference(x: &[f64], hidden: &[f64], weight: &[f64]) -> Vec<f64> {
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

fn channel_gate_reference(shape: Image, x: &[f64], weight: &[f64]) -> Vec<f64> {
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

// === tests ===

#[test]
fn the_references_have_their_known_values() {
    for (x, expected) in [
        (0.0, 0.0),
        (0.5, 0.520_499_877_813_046_5),
        (-2.0, -0.995_322_265_018_952_7),
    ] {
        assert!((erf(x) - expected).abs() < 1e-15, "erf({x}) = {}", erf(x));
    }
    let ones = conv_reference(image(1, 3, 4, 2), 2, 1, &[1.0; 24], &[1.0; 18], &[0.5]);
    assert_eq!(ones, [8.5, 12.5, 8.5, 12.5]);
    let each = conv_reference(
        image(1, 2, 1, 2),
        1,
        2,
        &[1.0, 10.0, 2.0, 20.0],
        &[1.0; 18],
        &[0.0, 1.0],
    );
    assert_eq!(each, [3.0, 31.0, 3.0, 31.0]);
}

#[test]
fn linear_and_its_gradients_agree_with_the_reference() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 3, 2),
        (7, 1, 5),
        (5, 17, 1),
        (33, 48, 31),
        (9, 220, 48),
        (3, 48, 220),
        (300, 56, 112),
    ] {
        let what = format!("linear {rows}x{inputs} to {outputs}");
        let mut source = Source::new(&what);
        let (x, weight) = (
            source.values(rows * inputs),
            source.values(outputs * inputs),
        );
        let (bias, grad) = (source.values(outputs), source.values(rows * outputs));

        let expected = linear_reference(&wide(&x), &wide(&weight), &wide(&bias));
        assert_close(
            &what,
            &linear::forward(&x, &weight, Some(&bias), outputs),
            &expected,
            FORWARD,
        );
        let expected = linear_reference(&wide(&x), &wide(&weight), &vec![0.0; outputs]);
        assert_close(
            &what,
            &linear::forward(&x, &weight, None, outputs),
            &expected,
            FORWARD,
        );

        let (dx, dweight) = linear::backward(&x, &weight, &grad, outputs);
        let gradients = [dx, dweight, linear::column_sums(&grad, outputs)];
        let reference = |point: &[Vec<f64>]| linear_reference(&point[0], &point[1], &point[2]);
        assert_gradients(&what, &[&x, &weight, &bias], &grad, &gradients, reference);
    }
}

#[test]
fn depthwise_and_its_gradients_agree_with_the_reference() {
    for shape in IMAGES {
        let what = format!("depthwise of {shape:?}");
        let mut source = Source::new(&what);
        let channels = shape.channels;
        let (x, weight) = (source.values(shape.len()), source.values(9 * channels));
        let (bias, grad) = (source.values(channels), source.values(shape.len()));
        let reference = |point: &[Vec<f64>]| {
            conv_reference(shape, 1, channels, &point[0], &point[1], &point[2])
        };

        let expected = reference(&[wide(&x), wide(&weight), wide(&bias)]);
        assert_close(
            &what,
            &depthwise::forward(shape, &x, &weight, &bias),
            &expected,
            FORWARD,
        );

        let (dweight, dbias) = depthwise::weight_gradient(shape, &x, &grad);
        let gradients = [
            depthwise::input_gradient(shape, &weight, &grad),
            dweight,
            dbias,
        ];
        assert_gradients(&what, &[&x, &weight, &bias], &grad, &gradients, reference);
    }
}

#[test]
fn the_convolution_of_stride_two_and_its_gradients_agree_with_the_reference() {
    for (shape, outputs) in [
        (image(1, 1, 1, 1), 1),
        (image(1, 2, 3, 1), 5),
        (image(3, 5, 4, 3), 1),
        (image(2, 9, 7, 3), 24),
        (image(1, 3, 5, 48), 17),
        (image(2, 2, 1, 112), 220),
        (image(2, 16, 16, 24), 48),
    ] {
        let what = format!("convolution of {shape:?} to {outputs}");
        let mut source = Source::new(&what);
        let out = conv::output_image(shape, outputs);
        assert_eq!(
            out,
            image(
                shape.batch,
                shape.height.div_ceil(2),
                shape.width.div_ceil(2),
                outputs
            )
        );
        let (x, weight) = (
            source.values(shape.len()),
            source.values(9 * shape.channels * outputs),
        );
        let (bias, grad) = (source.values(outputs), source.values(out.len()));
        let reference =
            |point: &[Vec<f64>]| conv_reference(shape, 2, 1, &point[0], &point[1], &point[2]);

        let expected = reference(&[wide(&x), wide(&weight), wide(&bias)]);
        assert_close(
            &what,
            &conv::forward(shape, &x, &weight, &bias),
            &expected,
            FORWARD,
        );

        let (dx, dweight) = conv::backward(shape, &x, &weight, &grad, outputs);
        let gradients = [dx, dweight, linear::column_sums(&grad, outputs)];
        assert_gradients(&what, &[&x, &weight, &bias], &grad, &gradients, reference);
    }
}

#[test]
fn batch_norm_and_its_gradients_agree_with_the_reference() {
    let one_row = 1e-2;
    for (rows, channels, epsilon) in [
        (1, 1, one_row),
        (1, 48, one_row),
        (3, 1, 1e-5),
        (5, 7, 1e-5),
        (8, 220, 1e-5),
        (65, 48, 1e-5),
        (1000, 31, 1e-3),
    ] {
        let mut source = Source::new(&format!("norm {rows}x{channels}"));
        let x: Vec<f32> = source
            .values(rows * channels)
            .iter()
            .map(|x| 2.0 * x - 0.5)
            .collect();
        let (gamma, beta) = (source.values(channels), source.values(channels));
        let grad = source.values(x.len());
        let (mean, variance) = norm::moments(&x, channels);
        let (expected_mean, expected_variance) = moments_reference(&wide(&x), channels);
        assert_close("mean", &mean, &expected_mean, FORWARD);
        assert_close("variance", &variance, &expected_variance, FORWARD);

        for relu in [false, true] {
            let what = format!("norm of {rows}x{channels}, relu {relu}");
            let reference = |point: &[Vec<f64>]| {
                norm_reference(&point[0], &point[1], &point[2], f64::from(epsilon), relu)
            };
            let expected = reference(&[wide(&x), wide(&gamma), wide(&beta)]);
            let found = norm::normalize(&x, &gamma, &beta, &mean, &variance, epsilon, relu);
            assert_close(&what, &found, &expected, FORWARD);

            let (dx, dgamma, dbeta) =
                norm::backward(&x, &gamma, &beta, (&mean, &variance), epsilon, relu, &grad);
            assert_gradients(
                &what,
                &[&x, &gamma, &beta],
                &grad,
                &[dx, dgamma, dbeta],
                reference,
            );
        }
    }
}

#[test]
fn the_variance_survives_a_mean_far_from_zero() {
    let (rows, channels) = (1031, 5);
    let x: Vec<f32> = Source::new("far")
        .values(rows * channels)
        .iter()
        .map(|x| 1000.0 + x)
        .collect();
    let (mean, variance) = norm::moments(&x, channels);
    let (expected_mean, expected_variance) = moments_reference(&wide(&x), channels);
    assert_close("mean", &mean, &expected_mean, FORWARD);
    assert_close("variance", &variance, &expected_variance, FORWARD);
}

#[test]
fn a_scale_and_shift_agree_with_the_reference_and_keep_nan() {
    for (rows, channels) in [(1, 1), (3, 7), (9, 48), (5, 220)] {
        let mut source = Source::new(&format!("scale {rows}x{channels}"));
        let mut x = source.values(rows * channels);
        let (scale, shift) = (source.values(channels), source.values(channels));
        for relu in [false, true] {
            let value = |(i, x): (usize, &f32)| {
                activation(
                    f64::from(*x) * f64::from(scale[i % channels]) + f64::from(shift[i % channels]),
                    relu,
                )
            };
            let expected: Vec<f64> = x.iter().enumerate().map(value).collect();
            assert_close(
                "scale and shift",
                &norm::scale_shift(&x, &scale, &shift, relu),
                &expected,
                FORWARD,
            );
        }
        x[0] = f32::NAN;
        assert!(norm::scale_shift(&x, &scale, &shift, true)[0].is_nan());
    }
}

#[test]
fn gelu_and_its_gradient_agree_with_the_reference() {
    for count in [1, 7, 48, 4099] {
        let what = format!("gelu of {count}");
        let mut source = Source::new(&what);
        let x: Vec<f32> = source.values(count).iter().map(|x| 3.0 * x).collect();
        let grad = source.values(count);
        let reference = |point: &[Vec<f64>]| {
            point[0]
                .iter()
                .map(|x| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)))
                .collect()
        };
        let expected: Vec<f64> = reference(&[wide(&x)]);
        assert_close(&what, &gelu::forward(&x), &expected, FORWARD);
        assert_gradients(&what, &[&x], &grad, &[gelu::backward(&x, &grad)], reference);
    }
}

#[test]
fn the_spatial_gate_and_its_gradients_agree_with_the_reference() {
    for (pixels, channels) in [(1, 1), (1, 9), (5, 7), (12, 48), (6, 220), (128, 56)] {
        let what = format!("spatial gate of {pixels}x{channels}");
        let mut source = Source::new(&what);
        let (x, hidden) = (
            source.values(pixels * channels),
            source.values(pixels * channels),
        );
        let weight: Vec<f32> = source
            .values(channels)
            .iter()
            .map(|w| w / (channels as f32).sqrt())
            .collect();
        let grad = source.values(x.len());
        let reference =
            |point: &[Vec<f64>]| spatial_gate_reference(&point[0], &point[1], &point[2]);

        let expected = reference(&[wide(&x), wide(&hidden), wide(&weight)]);
        assert_close(
            &what,
            &spatial_gate::forward(&x, &hidden, &weight),
            &expected,
            FORWARD,
        );

        let (dx, dhidden, dweight) = spatial_gate::backward(&x, &hidden, &weight, &grad);
        assert_gradients(
            &what,
            &[&x, &hidden, &weight],
            &grad,
            &[dx, dhidden, dweight],
            reference,
        );
    }
}

#[test]
fn the_channel_gate_and_its_gradients_agree_with_the_reference() {
    for shape in IMAGES {
        let what = format!("channel gate of {shape:?}");
        let mut source = Source::new(&what);
        let x = source.values(shape.len());
        let weight = source.values(shape.channels * shape.channels);
        let grad = source.values(shape.len());
        let reference = |point: &[Vec<f64>]| channel_gate_reference(shape, &point[0], &point[1]);

        let expected = reference(&[wide(&x), wide(&weight)]);
        assert_close(
            &what,
            &channel_gate::forward(shape, &x, &weight),
            &expected,
            FORWARD,
        );

        let (dx, dweight) = channel_gate::backward(shape, &x, &weight, &grad);
        assert_gradients(&what, &[&x, &weight], &grad, &[dx, dweight], reference);
    }
}
