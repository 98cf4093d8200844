//! Every operation on slices against a plain `f64` reference, and its gradients against central
//! differences of that reference, on shapes that fill no block of a kernel.

mod rounded;
mod support;

use perennial_kernels::Precision::F32;
use perennial_kernels::cpu::context::{Gates, Norm};
use perennial_kernels::cpu::{Image, context, conv, depthwise, gelu, linear, norm};

use support::*;

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

fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.max(0.0)).collect()
}

#[test]
fn the_references_have_their_known_values() {
    for (x, expected) in [
        (0.0, 0.0),
        (0.5, 0.520_499_877_813_046_5),
        (-2.0, -0.995_322_265_018_952_7),
    ] {
        assert!((erf(x) - expected).abs() < 1e-15, "erf({x}) = {}", erf(x));
    }
    let ones = conv_reference(
        image(1, 3, 4, 2),
        Geometry::dense(2),
        &[1.0; 24],
        &[1.0; 18],
        &[0.5],
    );
    assert_eq!(ones, [8.5, 12.5, 8.5, 12.5]);
    let each = conv_reference(
        image(1, 2, 1, 2),
        Geometry {
            size: 3,
            stride: 1,
            groups: 2,
        },
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
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);

        let expected = linear_reference(&wide(&x), &wide(&weight), &wide(&bias));
        assert_close(
            &what,
            &linear::forward(&x, &weight, Some(&bias), outputs, F32),
            &expected,
            FORWARD,
        );
        let expected = linear_reference(&wide(&x), &wide(&weight), &vec![0.0; outputs]);
        assert_close(
            &what,
            &linear::forward(&x, &weight, None, outputs, F32),
            &expected,
            FORWARD,
        );

        let (dx, dweight) = linear::backward(&x, &weight, &grad, outputs, F32);
        let gradients = [dx, dweight, linear::column_sums(&grad, outputs)];
        let reference = |point: &[Vec<f64>]| linear_reference(&point[0], &point[1], &point[2]);
        assert_gradients(&what, &[&x, &weight, &bias], &grad, &gradients, reference);
    }
}

#[test]
fn depthwise_and_its_gradients_agree_with_the_reference() {
    for (size, stride) in [(3, 1), (3, 2), (7, 1), (7, 2)] {
        for shape in IMAGES {
            let what = format!("depthwise {size}x{size} of stride {stride} of {shape:?}");
            let window = depthwise::Window::new(size, stride);
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
            let found = depthwise::forward(shape, window, &x, &weight, &bias, false);
            assert_close(&what, &found, &expected, FORWARD);
            let found = depthwise::forward(shape, window, &x, &weight, &bias, true);
            assert_close(&what, &found, &relu(&expected), FORWARD);

            let (dweight, dbias) = depthwise::weight_gradient(shape, window, &x, &grad);
            let gradients = [
                depthwise::input_gradient(shape, window, &weight, &grad),
                dweight,
                dbias,
            ];
            assert_gradients(&what, &[&x, &weight, &bias], &grad, &gradients, reference);
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
        (image(2, 2, 1, 112), 220),
        (image(2, 16, 16, 24), 48),
        // Its patches are several tiles, one of which has the end of a picture and the beginning of the next.
        (image(3, 35, 18, 48), 2),
    ] {
        let what = format!("convolution of {shape:?} to {outputs}");
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
        let taps = 9 * shape.channels;
        let counts = [shape.len(), taps * outputs, outputs, out.len()];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let reference = |point: &[Vec<f64>]| {
            conv_reference(shape, Geometry::dense(2), &point[0], &point[1], &point[2])
        };

        let expected = reference(&[wide(&x), wide(&weight), wide(&bias)]);
        assert_close(
            &what,
            &conv::forward(shape, &x, &weight, &bias, false, F32),
            &expected,
            FORWARD,
        );
        let found = conv::forward(shape, &x, &weight, &bias, true, F32);
        assert_close(&what, &found, &relu(&expected), FORWARD);

        let (dx, dweight) = conv::backward(shape, &x, &weight, &grad, outputs, F32);
        let alone = conv::weight_backward(shape, &x, &grad, outputs, F32);
        assert_eq!(alone, dweight, "{what}");
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
fn a_linear_layer_after_gelu_and_its_gradients_agree_with_the_reference() {
    // The last ones have several tiles of rows.
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (3, 7, 5),
        (33, 48, 31),
        (700, 57, 3),
        (1030, 33, 2),
    ] {
        let what = format!("gelu and linear {rows}x{inputs} to {outputs}");
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let x: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
        let reference = |point: &[Vec<f64>]| -> Vec<f64> {
            linear_reference(&gelu_reference(&point[0]), &point[1], &wide(&bias))
        };
        let expected = reference(&[wide(&x), wide(&weight)]);
        let found = gelu::linear(&x, &weight, &bias, outputs, F32);
        assert_close(&what, &found, &expected, FORWARD);
        let (dx, dw) = gelu::linear_backward(&x, &weight, &grad, outputs, F32);
        assert_gradients(&what, &[&x, &weight], &grad, &[dx, dw], reference);
    }
}

#[test]
fn the_gates_of_a_context_and_their_gradients_agree_with_the_reference() {
    // Several tiles of pixels in a picture, the last of which is not full.
    for shape in IMAGES.into_iter().chain([image(2, 9, 15, 33)]) {
        let what = format!("context of {shape:?}");
        let channels = shape.channels;
        let epsilon = if shape.len() == channels { 1e-2 } else { 1e-5 };
        let context = Context::random(&what, shape);
        let (mean, variance) = norm::moments(&context.hidden, channels);
        let (gamma, beta) = (&context.gamma, &context.beta);
        let (scale, shift) = norm::fold(gamma, beta, &mean, &variance, epsilon);
        let gates = Gates {
            spatial: &context.spatial,
            channel: &context.channel,
        };
        let (x, hidden) = (&context.x, &context.hidden);
        let expected = context_reference(shape, &context.inputs().map(wide), f64::from(epsilon));
        let found = context::forward(shape, x, hidden, (&scale, &shift), gates);
        assert_close(&what, &found, &expected, FORWARD);

        let norm = Norm {
            gamma,
            beta,
            mean: &mean,
            variance: &variance,
            epsilon,
        };
        let gradients = context::backward(shape, x, hidden, norm, gates, &context.grad);
        assert_context_gradients(&what, shape, &context, f64::from(epsilon), &gradients);
    }
}

#[test]
fn the_gates_of_a_context_without_pictures_are_none() {
    let shape = image(0, 4, 4, 3);
    let gates = Gates {
        spatial: &[1.0; 3],
        channel: &[1.0; 9],
    };
    assert!(context::forward(shape, &[], &[], (&[1.0; 3], &[0.0; 3]), gates).is_empty());
}
