//! Every operation and its gradients on Burn tensors, as networks call it, against the references. On the processor, or on the
//! GPU that `PERENNIAL_TEST_DEVICE` names.

mod support;

use burn::tensor::{Device, Tensor, TensorData};
use perennial_kernels::cpu::Image;
use perennial_kernels::cpu::rounding::{bf16, f16};
use perennial_kernels::gpu::host::Host;
use perennial_kernels::gpu::operations;
use perennial_kernels::pictures::{Mixing, Pictures};
use perennial_kernels::resident::{Adamw, Resident, Rule, Shape, Step};
use perennial_kernels::{Activation, ComputeDevice, Precision, ops};

use support::*;

fn device() -> Device {
    let named = std::env::var("PERENNIAL_TEST_DEVICE");
    let device: ComputeDevice = named.map_or(ComputeDevice::Cpu, |name| name.parse().unwrap());
    device.open().unwrap()
}

fn leaf<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, &device()).autodiff().require_grad()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

/// The gradients of `leaves` where `grad` weighs `output`.
macro_rules! gradients {
    ($output:expr, $grad:expr, [$($leaf:ident),*]) => {{
        let (output, grad): (_, &Vec<f32>) = ($output, $grad);
        let weights = TensorData::new(grad.clone(), output.dims());
        let weights = Tensor::from_data(weights, &device()).autodiff();
        let mut gradients = (output * weights).backward();
        [$(values($leaf.grad_remove(&mut gradients).unwrap())),*]
    }};
}

/// Checks `output` and, where `grad` weighs it, the gradients of `leaves`.
macro_rules! check {
    ($what:expr, $output:expr, $grad:expr, [$($leaf:ident: $values:expr),*], $reference:expr) => {{
        let (what, output, grad, reference) = ($what, $output, &$grad, $reference);
        let expected = reference(&[$(wide($values)),*]);
        assert_close(&what, &values(output.clone().inner()), &expected, FORWARD);
        let found = gradients!(output, grad, [$($leaf),*]);
        assert_gradients(&what, &[$($values),*], grad, &found, reference);
    }};
}

#[test]
fn pictures_are_what_their_bytes_and_their_partners_are_worth_to_the_bit() {
    const SIZE: usize = 5;
    const PICTURE: usize = SIZE * SIZE * 3;
    let mut source = Source::new("pictures");
    let mut table = [[0.0; 256]; 3];
    for values in &mut table {
        values.copy_from_slice(&source.values(256));
    }
    let (own, partner) = (0.3, 0.7);
    let patch = Mixing::Patch {
        top: 1,
        bottom: 4,
        left: 0,
        right: 3,
    };
    for samples in 1..=5usize {
        let bytes: Vec<u8> = (0..samples * PICTURE)
            .map(|at| (at * 37 % 256) as u8)
            .collect();
        for mixing in [Mixing::Alone, Mixing::Blend { own, partner }, patch] {
            let value = |at: usize| table[at % 3][usize::from(bytes[at])];
            let expected = (0..bytes.len()).map(|at| {
                let (picture, place) = (at / PICTURE, at % PICTURE);
                let other = (samples - 1 - picture) * PICTURE + place;
                let (row, column) = (place / 3 / SIZE, place / 3 % SIZE);
                let middle = other == at;
                match mixing {
                    Mixing::Blend { .. } if !middle => value(at) * own + value(other) * partner,
                    Mixing::Patch { .. } if (1..4).contains(&row) && column < 3 => value(other),
                    _ => value(at),
                }
            });
            let pictures = Pictures {
                bytes: &bytes,
                size: SIZE,
                values: &table,
                mixing,
            };
            let found = pictures.tensor(&device());
            assert_eq!(found.dims(), [samples, SIZE, SIZE, 3]);
            let bits = |value: f32| value.to_bits();
            let found: Vec<u32> = values(found).into_iter().map(bits).collect();
            let expected: Vec<u32> = expected.map(bits).collect();
            assert_eq!(found, expected, "{samples} pictures, {mixing:?}");
        }
    }
}

#[test]
fn a_replica_on_a_device_takes_the_steps_of_its_twin_on_the_host() {
    for (len, averaged) in [(1, true), (700, false), (70_001, true)] {
        let rows = if averaged { 4 } else { 3 };
        let shape = Shape {
            rows,
            len,
            averaged,
        };
        let mut source = Source::new("resident");
        let mut state = source.values(rows * len);
        state[(rows - 1) * len..]
            .iter_mut()
            .for_each(|it| *it = it.abs());
        let decays: Vec<f32> = (0..len).map(|at| (at % 3 == 0) as u8 as f32).collect();
        let lines: Vec<&[f32]> = state.chunks(len).collect();
        let mut resident = Resident::new(&lines, averaged, decays.clone(), &device());
        for step in 1..=2 {
            let gradient = source.values(len);
            let step = Step {
                rule: Rule::Adamw(Adamw {
                    first_weight: 0.1,
                    beta2: 0.99,
                    second_weight: 0.01,
                    correction2_sqrt: 0.1 * step as f32,
                    eps: 1e-3,
                    minus_step_size: -0.02,
                    keep: 0.9,
                }),
                gradient_scale: 0.5,
                average_weight: 0.4,
            };
            resident = resident.after(&gradient, &step).unwrap();
            state = operations::update(&Host, shape, &step, [&state, &gradient, &decays]);
        }
        let found = resident.read().unwrap();
        assert_close("a replica", &found.concat(), &wide(&state), FORWARD);
        let hashed = len * (1 + usize::from(averaged));
        let expected = operations::fingerprint(&Host, hashed, &found.concat());
        let expected: Vec<u32> = expected.iter().map(|word| word.to_bits()).collect();
        assert_eq!(resident.fingerprint().unwrap(), expected);
        let part = len / 3..len;
        assert_eq!(values(resident.parameters(part.clone())), found[0][part]);
    }
}

fn dims(shape: Image) -> [usize; 4] {
    [shape.batch, shape.height, shape.width, shape.channels]
}

#[test]
fn linear_layers_agree_with_the_reference() {
    for (rows, inputs, outputs) in [(1, 1, 1), (33, 48, 31), (70, 130, 65), (4100, 9, 3)] {
        let what = format!("linear {rows}x{inputs} to {outputs}");
        let counts = [rows * inputs, outputs * inputs, outputs, rows * outputs];
        let [x_values, weight_values, bias_values, grad] = Source::new(&what).all(counts);
        let x = leaf(&x_values, [rows, inputs]);
        let weight = leaf(&weight_values, [outputs, inputs]);
        let bias = leaf(&bias_values, [outputs]);
        let plain = |point: &[Vec<f64>]| linear_reference(&point[0], &point[1], &point[2]);
        check!(
            what.clone(),
            ops::linear_bias(x.clone(), weight.clone(), bias.clone(), Precision::F32),
            grad,
            [x: &x_values, weight: &weight_values, bias: &bias_values],
            plain
        );
        let unbiased =
            |point: &[Vec<f64>]| linear_reference(&point[0], &point[1], &vec![0.0; outputs]);
        check!(
            what.clone(),
            ops::linear(x.clone(), weight.clone(), Precision::F32),
            grad,
            [x: &x_values, weight: &weight_values],
            unbiased
        );
        let activated =
            |point: &[Vec<f64>]| linear_reference(&gelu_reference(&point[0]), &point[1], &point[2]);
        check!(
            format!("gelu and {what}"),
            ops::gelu_linear_bias(x.clone(), weight.clone(), bias.clone(), Precision::F32),
            grad,
            [x: &x_values, weight: &weight_values, bias: &bias_values],
            activated
        );
    }
}

#[test]
fn a_feed_forward_branch_at_once_gives_what_its_operations_give_and_so_do_its_gradients() {
    // The last ones have several tiles of rows, the last of which is not full.
    for (rows, inputs, width, outputs) in [
        (1, 1, 1, 1),
        (33, 48, 31, 5),
        (70, 3, 300, 65),
        (1030, 9, 57, 9),
        (401, 40, 170, 40),
    ] {
        let what = format!("feed-forward {rows}x{inputs} to {width} to {outputs}");
        let [x, weight, bias, second_weight, second_bias, grad] = Source::new(&what).all([
            rows * inputs,
            width * inputs,
            width,
            outputs * width,
            outputs,
            rows * outputs,
        ]);
        let x = leaf(&x, [1, 1, rows, inputs]);
        let (weight, bias) = (leaf(&weight, [width, inputs, 1, 1]), leaf(&bias, [width]));
        let second_weight = leaf(&second_weight, [outputs, width, 1, 1]);
        let second_bias = leaf(&second_bias, [outputs]);
        let (first, second) = (
            (weight.clone(), bias.clone()),
            (second_weight.clone(), second_bias.clone()),
        );
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let between = ops::linear_bias(x.clone(), weight.clone(), bias.clone(), precision);
            let (last_weight, last_bias) = second.clone();
            let apart = ops::gelu_linear_bias(between, last_weight, last_bias, precision);
            let at_once = ops::mlp(x.clone(), first.clone(), second.clone(), precision);
            assert_eq!(at_once.dims(), [1, 1, rows, outputs]);
            let what = format!("{what} in {precision:?}");
            assert_eq!(
                values(at_once.clone().inner()),
                values(apart.clone().inner()),
                "{what}"
            );
            let leaves = ["x", "weight", "bias", "second weight", "second bias"];
            let found = gradients!(
                at_once,
                &grad,
                [x, weight, bias, second_weight, second_bias]
            );
            let expected = gradients!(apart, &grad, [x, weight, bias, second_weight, second_bias]);
            for (leaf, (found, expected)) in leaves.into_iter().zip(found.into_iter().zip(expected))
            {
                assert_eq!(found, expected, "{leaf} of {what}");
            }
        }
        if inputs == outputs {
            let [x, weight, second_weight] = [x, weight, second_weight].map(|leaf| leaf.inner());
            let (first, second) = ((weight, bias.inner()), (second_weight, second_bias.inner()));
            let branch = ops::mlp(x.clone(), first.clone(), second.clone(), Precision::F32);
            let found = ops::feed_forward(x.clone(), first, second);
            assert_eq!(values(found), values(x + branch), "{what}, with its input");
        }
    }
}

/// In each precision, rounding and its gradients included: what is rounded before and rounded to the same again is the
/// same to the bit.
#[test]
fn products_round_their_operands() {
    for (precision, round) in [
        (Precision::Bf16, bf16 as fn(f32) -> f32),
        (Precision::F16, f16),
    ] {
        let (rows, inputs, outputs) = (70, 130, 65);
        let shape = image(2, 9, 7, 5);
        let taps = 9 * shape.channels;
        let layer = [rows * inputs, outputs * inputs];
        let counts = [layer[0], layer[1], shape.len(), taps * outputs, outputs];
        let [x, weight, pictures, taps, bias] = Source::new("rounded").all(counts);
        let run = |x: &[f32], weight: &[f32], pictures: &[f32], taps: &[f32], precision| {
            let x = leaf(x, [rows, inputs]);
            let weight = leaf(weight, [outputs, inputs]);
            let pictures = leaf(pictures, dims(shape));
            let taps = leaf(taps, [outputs, shape.channels, 3, 3]);
            let bias = leaf(&bias, [outputs]);
            let linear = ops::linear(x.clone(), weight.clone(), precision);
            let conv = ops::conv_stride2(pictures.clone(), taps.clone(), bias, precision);
            // The gradient of each is one, which every format has. A sum would have it too, but Burn's adds in the order of
            // arrival on a GPU.
            let mut of_linear = linear.clone().backward();
            let mut of_conv = conv.clone().backward();
            [
                values(linear.inner()),
                values(conv.inner()),
                values(x.grad_remove(&mut of_linear).unwrap()),
                values(weight.grad_remove(&mut of_linear).unwrap()),
                values(pictures.grad_remove(&mut of_conv).unwrap()),
                values(taps.grad_remove(&mut of_conv).unwrap()),
            ]
        };
        let found = run(&x, &weight, &pictures, &taps, precision);
        let [near_x, near_weight, near_pictures, near_taps] =
            rounded([&x, &weight, &pictures, &taps], round);
        let expected = run(
            &near_x,
            &near_weight,
            &near_pictures,
            &near_taps,
            Precision::F32,
        );
        for (found, expected) in found.iter().zip(&expected) {
            let what = format!("rounded to {precision:?}");
            assert_close(&what, found, &wide(expected), FORWARD);
        }
        assert_ne!(found, run(&x, &weight, &pictures, &taps, Precision::F32));
    }
}

#[test]
fn convolutions_agree_with_the_reference() {
    for (shape, outputs) in [
        (image(1, 1, 1, 1), 1),
        (image(3, 5, 4, 3), 24),
        (image(2, 9, 7, 48), 17),
    ] {
        let what = format!("convolutions of {shape:?}");
        let mut source = Source::new(&what);
        let channels = shape.channels;
        let x_values = source.values(shape.len());
        let x = leaf(&x_values, dims(shape));

        for (size, stride) in [(3, 1), (3, 2), (7, 1), (7, 2)] {
            let geometry = Geometry {
                size,
                stride,
                groups: channels,
            };
            let weight_values = source.values(size * size * channels);
            let bias_values = source.values(channels);
            let weight = leaf(&weight_values, [channels, 1, size, size]);
            let bias = leaf(&bias_values, [channels]);
            let reference = |point: &[Vec<f64>]| {
                conv_reference(shape, geometry, &point[0], &point[1], &point[2])
            };
            let output = ops::depthwise(x.clone(), weight.clone(), bias.clone(), stride);
            let grad = source.values(output.dims().iter().product());
            check!(
                format!("{what}, {size}x{size} of stride {stride}"),
                output,
                grad,
                [x: &x_values, weight: &weight_values, bias: &bias_values],
                reference
            );
            let rectified = ops::depthwise_relu(x.clone(), weight, bias, stride).inner();
            let expected = reference(&[wide(&x_values), wide(&weight_values), wide(&bias_values)]);
            let expected: Vec<f64> = expected.iter().map(|value| value.max(0.0)).collect();
            assert_close(&what, &values(rectified), &expected, FORWARD);
        }

        let (weight_values, bias_values) = (
            source.values(9 * channels * outputs),
            source.values(outputs),
        );
        let weight = leaf(&weight_values, [outputs, channels, 3, 3]);
        let bias = leaf(&bias_values, [outputs]);
        let reference = |point: &[Vec<f64>]| {
            conv_reference(shape, Geometry::dense(2), &point[0], &point[1], &point[2])
        };
        let output = ops::conv_stride2(x.clone(), weight.clone(), bias.clone(), Precision::F32);
        let grad = source.values(output.dims().iter().product());
        check!(
            what.clone(),
            output,
            grad,
            [x: &x_values, weight: &weight_values, bias: &bias_values],
            reference
        );
        // Pictures without a gradient: those of the layer are the same.
        let gradients_of = |x: Tensor<4>| {
            let output = ops::conv_stride2(x, weight.clone(), bias.clone(), Precision::F32);
            gradients!(output, &grad, [weight, bias])
        };
        let pictures = x.clone().inner().autodiff();
        assert_eq!(gradients_of(pictures), gradients_of(x.clone()), "{what}");
        let rectified = ops::conv_stride2_relu(x.clone(), weight, bias).inner();
        let expected = reference(&[wide(&x_values), wide(&weight_values), wide(&bias_values)]);
        let expected: Vec<f64> = expected.iter().map(|value| value.max(0.0)).collect();
        assert_close(&what, &values(rectified), &expected, FORWARD);
    }
}

#[test]
fn batch_normalisations_agree_with_the_reference() {
    for (shape, epsilon) in [
        (image(1, 3, 1, 1), 1e-2),
        (image(2, 5, 7, 48), 1e-5),
        (image(3, 40, 40, 5), 1e-3),
    ] {
        for activation in [Activation::None, Activation::Relu] {
            let what = format!("norm of {shape:?}, {activation:?}");
            let mut source = Source::new(&what);
            let channels = shape.channels;
            let x_values = source.values(shape.len());
            let (gamma_values, beta_values) = (source.values(channels), source.values(channels));
            let grad = source.values(shape.len());
            let x = leaf(&x_values, dims(shape));
            let (gamma, beta) = (
                leaf(&gamma_values, [channels]),
                leaf(&beta_values, [channels]),
            );
            let relu = activation == Activation::Relu;
            let reference = |point: &[Vec<f64>]| {
                norm_reference(&point[0], &point[1], &point[2], f64::from(epsilon), relu)
            };
            let found =
                ops::batch_norm(x.clone(), gamma.clone(), beta.clone(), epsilon, activation);
            let (mean, variance) = moments_reference(&wide(&x_values), channels);
            assert_close("mean", &values(found.mean.inner()), &mean, FORWARD);
            assert_close(
                "variance",
                &values(found.variance.inner()),
                &variance,
                FORWARD,
            );
            check!(
                what,
                found.output,
                grad,
                [x: &x_values, gamma: &gamma_values, beta: &beta_values],
                reference
            );
        }
    }
}

#[test]
fn the_gates_of_a_context_agree_with_the_reference() {
    for (shape, epsilon) in [
        (image(1, 1, 1, 1), 1e-2),
        (image(2, 7, 6, 48), 1e-5),
        (image(3, 9, 9, 17), 1e-5),
    ] {
        let what = format!("context of {shape:?}");
        let channels = shape.channels;
        let given = Context::random(&what, shape);
        let [x, hidden, gamma, beta, spatial, channel] = given.inputs();
        let [x, hidden] = [x, hidden].map(|values| leaf(values, dims(shape)));
        let [gamma, beta] = [gamma, beta].map(|values| leaf(values, [channels]));
        let spatial = leaf(spatial, [1, channels, 1, 1]);
        let channel = leaf(channel, [channels, channels, 1, 1]);
        let found = ops::context(
            x.clone(),
            hidden.clone(),
            (gamma.clone(), beta.clone()),
            (spatial.clone(), channel.clone()),
            epsilon,
        );
        let (mean, variance) = moments_reference(&wide(&given.hidden), channels);
        assert_close("mean", &values(found.mean.inner()), &mean, FORWARD);
        assert_close(
            "variance",
            &values(found.variance.inner()),
            &variance,
            FORWARD,
        );
        let point = given.inputs().map(wide);
        let expected = context_reference(shape, &point, f64::from(epsilon));
        let output = found.output;
        assert_close(&what, &values(output.clone().inner()), &expected, FORWARD);
        let found = gradients!(
            output,
            &given.grad,
            [x, hidden, gamma, beta, spatial, channel]
        );
        assert_context_gradients(&what, shape, &given, f64::from(epsilon), &found);

        // What is normalised and rectified already.
        let normal: Vec<f32> = given.hidden.iter().map(|value| value.abs()).collect();
        let gated = spatial_gate_reference(&wide(&given.x), &wide(&normal), &wide(&given.spatial));
        let expected = channel_gate_reference(shape, &gated, &wide(&given.channel));
        let normal = leaf(&normal, dims(shape)).inner();
        let gates = (spatial.inner(), channel.inner());
        let found = ops::context_gates(x.inner(), normal, gates);
        assert_close(&what, &values(found), &expected, FORWARD);
    }
}
