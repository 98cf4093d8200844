//! The products with operands rounded to bfloat16 or half precision, against the `f64` reference of rounded operands and its central
//! differences, on shapes that fill no block of a kernel.

use perennial_kernels::Precision::{self, Bf16, F16};
use perennial_kernels::cpu::rounding::{bf16, f16};
use perennial_kernels::cpu::{conv, gelu, linear, tiles};

use crate::support::*;

/// A precision, what rounds to it, and the share of a value by which one rounding more or less changes it.
type Case = (Precision, fn(f32) -> f32, f64);

const CASES: [Case; 2] = [(Bf16, bf16, 4e-3), (F16, f16, 5e-4)];

/// `grad^T @ x`: `grad` `[rows, outputs]`, `x` `[rows, inputs]`.
fn weight_gradient(grad: &[f32], x: &[f32], outputs: usize) -> Vec<f64> {
    let rows = grad.len() / outputs;
    let inputs = x.len() / rows;
    let mut sums = vec![0.0; outputs * inputs];
    for (grad, x) in grad.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
        for (sums, grad) in sums.chunks_exact_mut(inputs).zip(grad) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += f64::from(*grad) * f64::from(*x);
            }
        }
    }
    sums
}

#[test]
fn linear_and_its_gradients_are_those_of_rounded_operands() {
    CASES.into_iter().for_each(check_linear);
}

fn check_linear((precision, round, _): Case) {
    // The last ones have several tiles of rows.
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 3, 2),
        (7, 1, 5),
        (5, 17, 1),
        (33, 48, 31),
        (9, 220, 48),
        (3, 48, 220),
        (1500, 57, 12),
        (700, 12, 101),
    ] {
        let what = format!("{precision:?} linear {rows}x{inputs} to {outputs}");
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let [near_x, near_weight, near_grad] = rounded([&x, &weight, &grad], round);
        assert_ne!(near_x, x);

        for bias in [Some(bias.as_slice()), None] {
            let start = bias.map_or(vec![0.0; outputs], wide);
            let expected = linear_reference(&wide(&near_x), &wide(&near_weight), &start);
            let found = linear::forward(&x, &weight, bias, outputs, precision);
            assert_close(&what, &found, &expected, FORWARD);
        }

        let (dx, dweight) = linear::backward(&x, &weight, &grad, outputs, precision);
        let expected = weight_gradient(&near_grad, &near_x, outputs);
        assert_close(&what, &dweight, &expected, FORWARD);
        let zeros = vec![0.0; outputs];
        let reference = |point: &[Vec<f64>]| linear_reference(&point[0], &point[1], &zeros);
        let inputs: [&[f32]; 2] = [&near_x, &near_weight];
        assert_gradients(&what, &inputs, &near_grad, &[dx, dweight], reference);
    }
}

#[test]
fn the_convolution_of_stride_two_and_its_gradients_are_those_of_rounded_operands() {
    CASES.into_iter().for_each(check_convolution);
}

fn check_convolution((precision, round, _): Case) {
    for (shape, outputs) in [
        (image(1, 1, 1, 1), 1),
        (image(1, 2, 3, 1), 5),
        (image(2, 9, 7, 3), 24),
        (image(1, 3, 5, 48), 17),
        (image(2, 2, 1, 112), 220),
    ] {
        let what = format!("{precision:?} convolution of {shape:?} to {outputs}");
        let taps = 9 * shape.channels;
        let out = conv::output_image(shape, outputs).len();
        let counts = [shape.len(), taps * outputs, outputs, out];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let [near_x, near_weight, near_grad] = rounded([&x, &weight, &grad], round);
        let reference = |point: &[Vec<f64>]| {
            conv_reference(
                shape,
                Geometry::dense(2),
                &point[0],
                &point[1],
                &wide(&bias),
            )
        };

        let expected = reference(&[wide(&near_x), wide(&near_weight)]);
        let found = conv::forward(shape, &x, &weight, &bias, false, precision);
        assert_close(&what, &found, &expected, FORWARD);

        let (dx, dweight) = conv::backward(shape, &x, &weight, &grad, outputs, precision);
        let inputs: [&[f32]; 2] = [&near_x, &near_weight];
        assert_gradients(&what, &inputs, &near_grad, &[dx, dweight], reference);
    }
}

#[test]
fn a_linear_layer_after_gelu_rounds_the_activated_values() {
    CASES.into_iter().for_each(check_gelu);
}

fn check_gelu((precision, round, one_rounding): Case) {
    for (rows, inputs, outputs) in [(1, 1, 1), (3, 7, 5), (33, 48, 31), (1030, 33, 2)] {
        let what = format!("{precision:?} gelu and linear {rows}x{inputs} to {outputs}");
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x, weight, bias, grad] = Source::new(&what).all(counts);
        let x: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
        let [near_weight, near_grad] = rounded([&weight, &grad], round);
        let activated = gelu_reference(&wide(&x));
        let activated: Vec<f32> = activated.iter().map(|x| round(*x as f32)).collect();

        // A value between two numbers may go to the other one here, in one term.
        let expected = linear_reference(&wide(&activated), &wide(&near_weight), &wide(&bias));
        let found = gelu::linear(&x, &weight, &bias, outputs, precision);
        assert_close(&what, &found, &expected, one_rounding);

        let (dx, dweight) = gelu::linear_backward(&x, &weight, &grad, outputs, precision);
        let expected = weight_gradient(&near_grad, &activated, outputs);
        assert_close(&what, &dweight, &expected, one_rounding);
        // The slope is that of the value before it was rounded.
        let reference = |point: &[Vec<f64>]| {
            linear_reference(
                &gelu_reference(&point[0]),
                &wide(&near_weight),
                &wide(&bias),
            )
        };
        assert_gradients(&what, &[&x], &near_grad, &[dx], reference);
    }
}

#[test]
fn special_values_pass_through_a_product() {
    let infinite = [f32::INFINITY, f32::NEG_INFINITY];
    // The smallest subnormal numbers are not taken for zero, but by tiles.
    let (tiny_bf16, tiny_f16) = (f32::from_bits(0x0001_0000), 2.0f32.powi(-24));
    let left_of_tiny = if tiles::are_used() { 0.0 } else { tiny_bf16 };
    for (precision, value, expected) in [
        (Bf16, f32::NAN, [f32::NAN, f32::NAN]),
        (Bf16, f32::INFINITY, infinite),
        // It is rounded to infinity.
        (Bf16, f32::MAX, infinite),
        (Bf16, tiny_bf16, [left_of_tiny, -left_of_tiny]),
        (F16, f32::NAN, [f32::NAN, f32::NAN]),
        (F16, f32::INFINITY, infinite),
        (F16, 65504.0, [65504.0, -65504.0]),
        (F16, 65520.0, infinite),
        (F16, tiny_f16, [tiny_f16, -tiny_f16]),
        (F16, tiny_f16 / 2.0, [0.0, 0.0]),
    ] {
        let weight = [1.0, 2.0, -1.0, 0.5];
        let x = [value, 0.0, 1.0, 1.0];
        let found = linear::forward(&x, &weight, None, 2, precision);
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found == &expected || found.is_nan() && expected.is_nan(),
                "{precision:?} of {value}: {found}"
            );
        }
        assert_eq!(found[2..], [3.0, -0.5], "other rows do not know of it");
    }
}

/// A sum beyond the largest number of half precision is an `f32`; it is infinite once it is an operand.
#[test]
fn a_gradient_beyond_half_precision_is_infinite_in_the_layer_below() {
    let weight = [60000.0, 60000.0];
    let sum = linear::forward(&[1.0, 1.0], &weight, None, 1, F16);
    assert_eq!(sum, [120000.0]);
    let (dx, dweight) = linear::backward(&[1.0, 2.0], &[1.0, 1.0], &sum, 1, F16);
    assert_eq!([dx, dweight].concat(), [f32::INFINITY; 4]);
}
