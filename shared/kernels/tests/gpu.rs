//! Every operation for GPUs against the same references as the CPU's, its kernels run on the host: their very text, with
//! every access checked, on shapes that fill no tile, group or cube.

mod support;

use perennial_kernels::Precision::{self, Bf16, F16};
use perennial_kernels::cpu::Image;
use perennial_kernels::cpu::conv::output_image;
use perennial_kernels::cpu::depthwise::Window;
use perennial_kernels::cpu::rounding::{bf16, f16};
use perennial_kernels::gpu::host::Host;
use perennial_kernels::gpu::math;
use perennial_kernels::gpu::operations::{self, Convolution, Layer, Norm};
use perennial_kernels::gpu::optimizer::STRIDE;
use perennial_kernels::gpu::product::PIECE;
use perennial_kernels::gpu::sums::GROUP;
use perennial_kernels::resident::{Adamw, Rule, Sgd, Shape, Step};

use support::*;

const IMAGES: [Image; 9] = [
    image(1, 1, 1, 1),
    image(3, 1, 1, 9),
    image(1, 5, 1, 2),
    image(2, 1, 4, 17),
    image(1, 3, 7, 1),
    image(3, 2, 5, 31),
    image(2, 7, 6, 48),
    image(2, 2, 3, 110),
    image(2, 9, 15, 20),
];

fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.max(0.0)).collect()
}

#[test]
fn linear_and_its_gradients_agree_with_the_reference() {
    // Sums of one piece and of several, rows of one group and of groups of groups.
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 3, 2),
        (7, 1, 5),
        (5, 17, 1),
        (33, 48, 31),
        (9, 220, 48),
        (3, 65, 130),
        (65, 64, 64),
        (PIECE + 1, 3, 2),
        (2 * PIECE + 77, 2, 3),
        (GROUP * GROUP + 5, 1, 1),
    ] {
        let what = format!("linear {rows}x{inputs} to {outputs}");
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let layer = Layer {
            rows,
            inputs,
            outputs,
            gelu: false,
            precision: Precision::F32,
        };

        let expected = linear_reference(&wide(&x), &wide(&weight), &wide(&bias));
        let found = operations::linear(&Host, layer, &x, &weight, Some(&bias));
        assert_close(&what, &found, &expected, FORWARD);
        let expected = linear_reference(&wide(&x), &wide(&weight), &vec![0.0; outputs]);
        let found = operations::linear(&Host, layer, &x, &weight, None);
        assert_close(&what, &found, &expected, FORWARD);

        let [dx, dweight] = operations::linear_backward(&Host, layer, &x, &weight, &grad);
        let dbias = operations::bias_backward(&Host, rows, outputs, &grad);
        let reference = |point: &[Vec<f64>]| linear_reference(&point[0], &point[1], &point[2]);
        let gradients = [dx, dweight, dbias];
        assert_gradients(&what, &[&x, &weight, &bias], &grad, &gradients, reference);
    }
}

#[test]
fn a_linear_layer_after_gelu_and_its_gradients_agree_with_the_reference() {
    for (rows, inputs, outputs) in [(1, 1, 1), (3, 7, 5), (33, 48, 31), (200, 70, 3)] {
        let what = format!("gelu and linear {rows}x{inputs} to {outputs}");
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let x: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
        let layer = Layer {
            rows,
            inputs,
            outputs,
            gelu: true,
            precision: Precision::F32,
        };
        let reference = |point: &[Vec<f64>]| -> Vec<f64> {
            linear_reference(&gelu_reference(&point[0]), &point[1], &wide(&bias))
        };
        let expected = reference(&[wide(&x), wide(&weight)]);
        let found = operations::linear(&Host, layer, &x, &weight, Some(&bias));
        assert_close(&what, &found, &expected, FORWARD);
        let gradients = operations::linear_backward(&Host, layer, &x, &weight, &grad);
        assert_gradients(&what, &[&x, &weight], &grad, &gradients, reference);
    }
}

/// A precision and what rounds to it.
type Rounding = fn(f32) -> f32;

const ROUNDED: [(Precision, Rounding); 2] = [(Bf16, bf16), (F16, f16)];

#[test]
fn products_of_rounded_operands_are_those_of_operands_that_were_rounded_before() {
    for (precision, round) in ROUNDED {
        for (rows, inputs, outputs) in [(1, 1, 1), (33, 48, 31), (3, 65, 130), (PIECE + 1, 3, 2)] {
            let what = format!("{precision:?} linear {rows}x{inputs} to {outputs}");
            let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
            let [x, weight, bias, grad] = Source::new(&what).all(counts);
            let [near_x, near_weight, near_grad] = rounded([&x, &weight, &grad], round);
            let [layer, plain] = [precision, Precision::F32].map(|precision| Layer {
                rows,
                inputs,
                outputs,
                gelu: false,
                precision,
            });
            let found = operations::linear(&Host, layer, &x, &weight, Some(&bias));
            let expected = linear_reference(&wide(&near_x), &wide(&near_weight), &wide(&bias));
            assert_close(&what, &found, &expected, FORWARD);
            let same = operations::linear(&Host, plain, &near_x, &near_weight, Some(&bias));
            assert_eq!(found, same, "{what}");
            assert_eq!(
                operations::linear_backward(&Host, layer, &x, &weight, &grad),
                operations::linear_backward(&Host, plain, &near_x, &near_weight, &near_grad),
                "{what}"
            );

            // The activated values are rounded, their slope is that of the values before.
            let after_gelu = Layer {
                gelu: true,
                ..layer
            };
            let activated: Vec<f32> = x.iter().map(|x| round(math::gelu(*x))).collect();
            assert_eq!(
                operations::linear(&Host, after_gelu, &x, &weight, None),
                operations::linear(&Host, plain, &activated, &near_weight, None),
                "{what}"
            );
            let [dx, dweight] = operations::linear_backward(&Host, after_gelu, &x, &weight, &grad);
            let [dactivated, same] =
                operations::linear_backward(&Host, plain, &activated, &near_weight, &near_grad);
            let slopes = x.iter().map(|x| math::gelu_slope(*x));
            let through: Vec<f32> = dactivated.iter().zip(slopes).map(|(d, s)| d * s).collect();
            assert_eq!([dx, dweight], [through, same], "{what}");
        }
        for (shape, outputs) in [(image(1, 2, 3, 1), 5), (image(2, 9, 7, 3), 24)] {
            let what = format!("{precision:?} convolution of {shape:?}");
            let taps = 9 * shape.channels;
            let out = output_image(shape, outputs).len();
            let counts = [shape.len(), taps * outputs, outputs, out];
            let [x, weight, bias, grad] = Source::new(&what).all(counts);
            let [near_x, near_weight, near_grad] = rounded([&x, &weight, &grad], round);
            let [convolution, plain] = [precision, Precision::F32].map(|precision| Convolution {
                shape,
                outputs,
                precision,
            });
            assert_eq!(
                operations::conv_stride2(&Host, convolution, [&x, &weight, &bias], false),
                operations::conv_stride2(&Host, plain, [&near_x, &near_weight, &bias], false),
                "{what}"
            );
            let inputs = [&near_x, &near_weight, &near_grad];
            assert_eq!(
                operations::conv_stride2_backward(&Host, convolution, [&x, &weight, &grad]),
                operations::conv_stride2_backward(&Host, plain, inputs),
                "{what}"
            );
        }
    }
}

#[test]
fn depthwise_and_its_gradients_agree_with_the_reference() {
    for (size, stride) in [(3, 1), (3, 2), (7, 1), (7, 2)] {
        for shape in IMAGES {
            let what = format!("depthwise {size}x{size} of stride {stride} of {shape:?}");
            let window = Window::new(size, stride);
            let out = window.output_image(shape);
            let channels = shape.channels;
            let counts = [shape.len(), size * size * channels, channels, out.len()];
            let [x, weight, bias, grad] = Source::new(&what).all(counts);
            let geometry = Geometry {
                size,
                stride,
                groups: channels,
            };
            let reference = |point: &[Vec<f64>]| {
                conv_reference(shape, geometry, &point[0], &point[1], &point[2])
            };

            let expected = reference(&[wide(&x), wide(&weight), wide(&bias)]);
            let inputs = [&x, &weight, &bias];
            let found = operations::depthwise(&Host, shape, window, inputs, false);
            assert_close(&what, &found, &expected, FORWARD);
            let found = operations::depthwise(&Host, shape, window, inputs, true);
            assert_close(&what, &found, &relu(&expected), FORWARD);

            let gradients =
                operations::depthwise_backward(&Host, shape, window, &x, &weight, &grad);
            let inputs = inputs.map(Vec::as_slice);
            assert_gradients(&what, &inputs, &grad, &gradients, reference);
        }
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
        (image(2, 2, 1, 33), 70),
    ] {
        let what = format!("convolution of {shape:?} to {outputs}");
        let taps = 9 * shape.channels;
        let out = output_image(shape, outputs);
        let counts = [shape.len(), taps * outputs, outputs, out.len()];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let reference = |point: &[Vec<f64>]| {
            conv_reference(shape, Geometry::dense(2), &point[0], &point[1], &point[2])
        };

        let convolution = Convolution {
            shape,
            outputs,
            precision: Precision::F32,
        };
        let expected = reference(&[wide(&x), wide(&weight), wide(&bias)]);
        let found = operations::conv_stride2(&Host, convolution, [&x, &weight, &bias], false);
        assert_close(&what, &found, &expected, FORWARD);
        let found = operations::conv_stride2(&Host, convolution, [&x, &weight, &bias], true);
        assert_close(&what, &found, &relu(&expected), FORWARD);

        let [dx, dweight] =
            operations::conv_stride2_backward(&Host, convolution, [&x, &weight, &grad]);
        let alone = operations::conv_stride2_weight_backward(&Host, convolution, [&x, &grad]);
        assert_eq!(alone, dweight, "{what}");
        let dbias = operations::bias_backward(&Host, out.len() / outputs, outputs, &grad);
        let gradients = [dx, dweight, dbias];
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
        (GROUP + 1, 48, 1e-5),
        (1000, 31, 1e-3),
        (GROUP * GROUP + 3, 2, 1e-5),
    ] {
        let mut source = Source::new(&format!("norm {rows}x{channels}"));
        let x: Vec<f32> = (source.values(rows * channels).iter())
            .map(|x| 2.0 * x - 0.5)
            .collect();
        let (gamma, beta) = (source.values(channels), source.values(channels));
        let grad = source.values(x.len());
        let (expected_mean, expected_variance) = moments_reference(&wide(&x), channels);

        for relu in [false, true] {
            let what = format!("norm of {rows}x{channels}, relu {relu}");
            let norm = Norm {
                rows,
                channels,
                epsilon,
                relu,
            };
            let reference = |point: &[Vec<f64>]| {
                norm_reference(&point[0], &point[1], &point[2], f64::from(epsilon), relu)
            };
            let expected = reference(&[wide(&x), wide(&gamma), wide(&beta)]);
            let [found, mean, variance] = operations::batch_norm(&Host, norm, &x, &gamma, &beta);
            assert_close("mean", &mean, &expected_mean, FORWARD);
            assert_close("variance", &variance, &expected_variance, FORWARD);
            assert_close(&what, &found, &expected, FORWARD);

            let inputs = [&x, &gamma, &beta];
            let gradients =
                operations::batch_norm_backward(&Host, norm, inputs, [&mean, &variance], &grad);
            let inputs = inputs.map(Vec::as_slice);
            assert_gradients(&what, &inputs, &grad, &gradients, reference);
        }
    }
}

#[test]
fn the_variance_survives_a_mean_far_from_zero() {
    let (rows, channels) = (1031, 5);
    let x: Vec<f32> = (Source::new("far").values(rows * channels).iter())
        .map(|x| 1000.0 + x)
        .collect();
    let norm = Norm {
        rows,
        channels,
        epsilon: 1e-5,
        relu: false,
    };
    let ones = vec![1.0; channels];
    let [_, mean, variance] = operations::batch_norm(&Host, norm, &x, &ones, &ones);
    let (expected_mean, expected_variance) = moments_reference(&wide(&x), channels);
    assert_close("mean", &mean, &expected_mean, FORWARD);
    assert_close("variance", &variance, &expected_variance, FORWARD);
}

#[test]
fn the_spatial_gate_and_its_gradients_agree_with_the_reference() {
    for (pixels, channels) in [(1, 1), (1, 9), (5, 7), (12, 48), (6, 220), (GROUP + 9, 56)] {
        let what = format!("spatial gate of {pixels}x{channels}");
        let mut source = Source::new(&what);
        let (x, hidden) = (
            source.values(pixels * channels),
            source.values(pixels * channels),
        );
        let weight: Vec<f32> = (source.values(channels).iter())
            .map(|w| w / (channels as f32).sqrt())
            .collect();
        let grad = source.values(x.len());
        let reference =
            |point: &[Vec<f64>]| spatial_gate_reference(&point[0], &point[1], &point[2]);

        let shape = [pixels, channels];
        let expected = reference(&[wide(&x), wide(&hidden), wide(&weight)]);
        let found = operations::spatial_gate(&Host, shape, &x, &hidden, &weight);
        assert_close(&what, &found, &expected, FORWARD);
        let gradients =
            operations::spatial_gate_backward(&Host, shape, &x, &hidden, &weight, &grad);
        assert_gradients(&what, &[&x, &hidden, &weight], &grad, &gradients, reference);
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
        let found = operations::channel_gate(&Host, shape, &x, &weight);
        assert_close(&what, &found, &expected, FORWARD);
        let gradients = operations::channel_gate_backward(&Host, shape, &x, &weight, &grad);
        assert_gradients(&what, &[&x, &weight], &grad, &gradients, reference);
    }
}

#[test]
fn the_gradients_of_a_context_agree_with_the_reference() {
    for shape in [image(3, 1, 1, 9), image(2, 7, 6, 48), image(2, 9, 15, 33)] {
        let what = format!("context of {shape:?}");
        let (channels, epsilon) = (shape.channels, 1e-5);
        let context = Context::random(&what, shape);
        let norm = Norm {
            rows: shape.len() / channels,
            channels,
            epsilon,
            relu: true,
        };
        let inputs = [
            &context.x,
            &context.hidden,
            &context.gamma,
            &context.beta,
            &context.spatial,
            &context.channel,
        ];
        let [_, mean, variance] =
            operations::batch_norm(&Host, norm, inputs[1], inputs[2], inputs[3]);
        let moments = [&mean, &variance];
        let gradients =
            operations::context_backward(&Host, shape, epsilon, inputs, moments, &context.grad);
        assert_context_gradients(&what, shape, &context, f64::from(epsilon), &gradients);
    }
}

/// The rows after a step, in 64 bits.
fn update_reference(shape: Shape, step: &Step, inputs: [&[f64]; 3]) -> Vec<f64> {
    let [state, gradient, decays] = inputs;
    let Shape { len, averaged, .. } = shape;
    let mut out = state.to_vec();
    let scale = f64::from(step.gradient_scale);
    for at in 0..len {
        let gradient = gradient[at] * scale;
        let moment = at + len * (1 + usize::from(averaged));
        match step.rule {
            Rule::Adamw(adamw) => {
                let [
                    first_weight,
                    beta2,
                    second_weight,
                    correction,
                    eps,
                    size,
                    keep,
                ] = [
                    adamw.first_weight,
                    adamw.beta2,
                    adamw.second_weight,
                    adamw.correction2_sqrt,
                    adamw.eps,
                    adamw.minus_step_size,
                    adamw.keep,
                ]
                .map(f64::from);
                out[moment] += first_weight * (gradient - out[moment]);
                let second = &mut out[moment + len];
                *second = *second * beta2 + second_weight * gradient * gradient;
                let denominator = second.sqrt() / correction + eps;
                let kept = if decays[at] == 1.0 { keep } else { 1.0 };
                out[at] = out[at] * kept + size * out[moment] / denominator;
            }
            Rule::Sgd(sgd) => {
                let mut change = gradient + f64::from(sgd.weight_decay) * decays[at] * out[at];
                if shape.rows > 1 + usize::from(averaged) {
                    change += out[moment] * f64::from(sgd.momentum);
                    out[moment] = change;
                }
                out[at] += f64::from(sgd.minus_learning_rate) * change;
            }
        }
        if averaged {
            let average = out[at + len];
            out[at + len] = average + f64::from(step.average_weight) * (out[at] - average);
        }
    }
    out
}

#[test]
fn a_step_of_an_optimizer_and_its_average_agree_with_the_reference() {
    let adamw = Rule::Adamw(Adamw {
        first_weight: 0.1,
        beta2: 0.99,
        second_weight: 0.01,
        correction2_sqrt: 0.3,
        eps: 1e-3,
        minus_step_size: -0.02,
        keep: 0.9,
    });
    let sgd = Rule::Sgd(Sgd {
        momentum: 0.8,
        minus_learning_rate: -0.3,
        weight_decay: 0.2,
    });
    for (rule, moments) in [(adamw, 2), (sgd, 1), (sgd, 0)] {
        for (len, averaged, average_weight) in [
            (1, false, 0.0),
            (7, true, 1.0),
            (300, true, 0.3),
            (301, true, 0.7),
        ] {
            let rows = 1 + usize::from(averaged) + moments;
            let shape = Shape {
                rows,
                len,
                averaged,
            };
            let step = Step {
                rule,
                gradient_scale: 0.5,
                average_weight,
            };
            let what = format!("{len} parameters, {rows} rows, {rule:?}");
            let [mut state, gradient] = Source::new(&what).all([rows * len, len]);
            // The second moment is a mean of squares.
            if moments == 2 {
                let second = (rows - 1) * len;
                state[second..].iter_mut().for_each(|it| *it = it.abs());
            }
            let decays: Vec<f32> = (0..len).map(|at| (at % 3 == 0) as u8 as f32).collect();
            let inputs = [&wide(&state)[..], &wide(&gradient), &wide(&decays)];
            let expected = update_reference(shape, &step, inputs);
            let found = operations::update(&Host, shape, &step, [&state, &gradient, &decays]);
            assert_close(&what, &found, &expected, FORWARD);
            if average_weight == 1.0 {
                assert_eq!(found[len..2 * len], found[..len], "exact at its end");
            }
        }
    }
}

#[test]
fn a_fingerprint_tells_values_apart_by_every_bit_and_place() {
    for len in [1, 2, 63, STRIDE, 2 * STRIDE + 5] {
        let values = Source::new("fingerprint").values(len);
        let of = |values: &[f32]| {
            let words = operations::fingerprint(&Host, len, &values.to_vec());
            let words: Vec<u32> = words.iter().map(|word| word.to_bits()).collect();
            assert_eq!(words.len(), 2 * len.min(STRIDE));
            words
        };
        let original = of(&values);
        assert_eq!(of(&values), original);
        for (at, bit) in [(0, 0), (len / 2, 31), (len - 1, 17)] {
            let mut other = values.clone();
            other[at] = f32::from_bits(other[at].to_bits() ^ (1 << bit));
            assert_ne!(of(&other), original, "bit {bit} of value {at} of {len}");
        }
        // Two that one unit reads: equal changes do not undo each other, and their order counts.
        if len > STRIDE {
            let mut other = values.clone();
            other[0] = -other[0];
            other[STRIDE] = -other[STRIDE];
            assert_ne!(of(&other), original);
            let mut other = values.clone();
            other.swap(0, STRIDE);
            assert_ne!(of(&other), original);
        }
        // What lies behind is not part of it.
        let longer: Vec<f32> = values.iter().copied().chain([1.0]).collect();
        assert_eq!(of(&longer), original);
    }
}
