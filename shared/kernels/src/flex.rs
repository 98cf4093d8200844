//! The operations on Burn's CPU backend: tensors to slices and back.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;

use crate::Precision;
use crate::cpu::context::{Gates, Norm};
use crate::cpu::depthwise::Window;
use crate::cpu::{self, Image};
use crate::ops::{KernelGradients, KernelOps};

type Tensor = FloatTensor<Flex>;

/// The contiguous values of `tensor`, copied only where it is a strided view.
fn contiguous(tensor: Tensor) -> Tensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn values(tensor: &Tensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("`contiguous` made it a contiguous f32 tensor")
}

fn dims(tensor: &Tensor) -> Vec<usize> {
    tensor.shape().iter().copied().collect()
}

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> Tensor {
    Tensor::from_data(TensorData::new(values, shape))
}

/// Shows an operation to whoever records the profile's spans (target [`PROFILE`](crate::PROFILE)): its floating-point
/// operations where the count says something, and the bytes of its inputs and results.
fn span(name: &'static str, flop: usize, values: usize) -> tracing::span::EnteredSpan {
    let bytes = 4 * values;
    tracing::trace_span!(target: crate::PROFILE, "operation", name, flop, bytes).entered()
}

/// Values of a tensor.
fn len(tensor: &Tensor) -> usize {
    tensor.shape().num_elements()
}

/// [`span`] of so many products of the size of `x` times `weight`.
fn product_span(
    name: &'static str,
    products: usize,
    x: &Tensor,
    weight: &Tensor,
) -> tracing::span::EnteredSpan {
    let outputs = dims(weight)[0];
    let out = len(x) * outputs / len(weight) * outputs;
    let flop = 2 * len(x) * outputs;
    span(
        name,
        products * flop,
        products * (len(x) + len(weight) + out),
    )
}

fn image(tensor: &Tensor) -> Image {
    let [batch, height, width, channels] = dims(tensor)
        .try_into()
        .expect("an activation has four axes");
    Image {
        batch,
        height,
        width,
        channels,
    }
}

fn linear(x: Tensor, weight: Tensor, bias: Option<Tensor>, precision: Precision) -> Tensor {
    let (x, weight, bias) = (contiguous(x), contiguous(weight), bias.map(contiguous));
    let _span = product_span("linear", 1, &x, &weight);
    let mut shape = dims(&x);
    let outputs = dims(&weight)[0];
    let output = cpu::linear::forward(
        values(&x),
        values(&weight),
        bias.as_ref().map(values),
        outputs,
        precision,
    );
    *shape.last_mut().expect("an activation has axes") = outputs;
    tensor(output, shape)
}

fn window(weight: &Tensor, stride: usize) -> Window {
    Window::new(dims(weight)[2], stride)
}

/// Operations of a depthwise convolution, or of one of its gradients.
fn depthwise_flop(weight: &Tensor, out: Image) -> usize {
    2 * out.len() * dims(weight)[2].pow(2)
}

fn depthwise(x: Tensor, weight: Tensor, bias: Tensor, stride: usize, relu: bool) -> Tensor {
    let [x, weight, bias] = [x, weight, bias].map(contiguous);
    let (shape, window) = (image(&x), window(&weight, stride));
    let out = window.output_image(shape);
    let flop = depthwise_flop(&weight, out);
    let _span = span("depthwise", flop, len(&x) + out.len());
    let (x, weight, bias) = (values(&x), values(&weight), values(&bias));
    let output = cpu::depthwise::forward(shape, window, x, weight, bias, relu);
    tensor(output, vec![out.batch, out.height, out.width, out.channels])
}

fn conv_stride2(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
    precision: Precision,
) -> Tensor {
    let [x, weight, bias] = [x, weight, bias].map(contiguous);
    let shape = cpu::conv::output_image(image(&x), dims(&weight)[0]);
    let _span = span(
        "conv, stride 2",
        shape.len() * 18 * image(&x).channels,
        len(&x) + shape.len(),
    );
    let (weight, bias) = (values(&weight), values(&bias));
    let output = cpu::conv::forward(image(&x), values(&x), weight, bias, relu, precision);
    tensor(
        output,
        vec![shape.batch, shape.height, shape.width, shape.channels],
    )
}

impl KernelOps for Flex {
    fn kernel_linear(x: Tensor, weight: Tensor, precision: Precision) -> Tensor {
        linear(x, weight, None, precision)
    }

    fn kernel_linear_bias(x: Tensor, weight: Tensor, bias: Tensor, precision: Precision) -> Tensor {
        linear(x, weight, Some(bias), precision)
    }

    fn kernel_depthwise(x: Tensor, weight: Tensor, bias: Tensor, stride: usize) -> Tensor {
        depthwise(x, weight, bias, stride, false)
    }

    fn kernel_depthwise_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: usize) -> Tensor {
        depthwise(x, weight, bias, stride, true)
    }

    fn kernel_conv_stride2(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        precision: Precision,
    ) -> Tensor {
        conv_stride2(x, weight, bias, false, precision)
    }

    fn kernel_conv_stride2_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor {
        conv_stride2(x, weight, bias, true, Precision::F32)
    }

    fn kernel_batch_norm(
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        epsilon: f32,
        relu: bool,
    ) -> (Tensor, Tensor, Tensor) {
        let (x, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
        let channels = dims(&gamma)[0];
        let _span = span("batch norm", 0, 2 * len(&x));
        let (mean, variance) = cpu::norm::moments(values(&x), channels);
        let output = cpu::norm::normalize(
            values(&x),
            values(&gamma),
            values(&beta),
            &mean,
            &variance,
            epsilon,
            relu,
        );
        (
            tensor(output, dims(&x)),
            tensor(mean, vec![channels]),
            tensor(variance, vec![channels]),
        )
    }

    fn kernel_gelu_linear_bias(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        precision: Precision,
    ) -> Tensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let _span = product_span("gelu and linear", 1, &x, &weight);
        let mut shape = dims(&x);
        let outputs = dims(&weight)[0];
        let output = cpu::gelu::linear(
            values(&x),
            values(&weight),
            values(&bias),
            outputs,
            precision,
        );
        *shape.last_mut().expect("an activation has axes") = outputs;
        tensor(output, shape)
    }

    fn kernel_mlp(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        second_weight: Tensor,
        second_bias: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let [x, weight, bias, second_weight, second_bias] =
            [x, weight, bias, second_weight, second_bias].map(contiguous);
        let [width, outputs] = [&bias, &second_bias].map(|bias| dims(bias)[0]);
        let mut shape = dims(&x);
        let inputs = *shape.last().expect("an activation has axes");
        let rows = len(&x) / inputs;
        let _span = span(
            "feed-forward",
            2 * rows * width * (inputs + outputs),
            rows * (inputs + width + outputs),
        );
        let (output, hidden) = cpu::gelu::mlp(
            values(&x),
            (values(&weight), values(&bias)),
            (values(&second_weight), values(&second_bias)),
            precision,
        );
        *shape.last_mut().expect("an activation has axes") = width;
        let hidden = tensor(hidden, shape.clone());
        *shape.last_mut().expect("an activation has axes") = outputs;
        (tensor(output, shape), hidden)
    }

    fn kernel_feed_forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        second_weight: Tensor,
        second_bias: Tensor,
    ) -> Tensor {
        let [x, weight, bias, second_weight, second_bias] =
            [x, weight, bias, second_weight, second_bias].map(contiguous);
        let [hidden, outputs] = [&weight, &second_weight].map(|weight| dims(weight)[0]);
        let mut shape = dims(&x);
        let inputs = *shape.last().expect("an activation has axes");
        let rows = len(&x) / inputs;
        let _span = span(
            "feed-forward",
            2 * rows * hidden * (inputs + outputs),
            rows * (inputs + outputs),
        );
        let output = cpu::gelu::feed_forward(
            values(&x),
            (values(&weight), values(&bias)),
            (values(&second_weight), values(&second_bias)),
        );
        *shape.last_mut().expect("an activation has axes") = outputs;
        tensor(output, shape)
    }

    fn kernel_context(
        x: Tensor,
        hidden: Tensor,
        gamma: Tensor,
        beta: Tensor,
        spatial: Tensor,
        channel: Tensor,
        epsilon: f32,
    ) -> (Tensor, Tensor, Tensor) {
        let inputs = [x, hidden, gamma, beta, spatial, channel].map(contiguous);
        let [x, hidden, gamma, beta, spatial, channel] = &inputs;
        let channels = dims(gamma)[0];
        let _span = span("context", 0, 3 * len(x));
        let (mean, variance) = cpu::norm::moments(values(hidden), channels);
        let (scale, shift) =
            cpu::norm::fold(values(gamma), values(beta), &mean, &variance, epsilon);
        let output = cpu::context::forward(
            image(x),
            values(x),
            values(hidden),
            (&scale, &shift),
            gates(spatial, channel),
        );
        (
            tensor(output, dims(x)),
            tensor(mean, vec![channels]),
            tensor(variance, vec![channels]),
        )
    }

    fn kernel_context_gates(x: Tensor, hidden: Tensor, spatial: Tensor, channel: Tensor) -> Tensor {
        let [x, hidden, spatial, channel] = [x, hidden, spatial, channel].map(contiguous);
        let channels = image(&x).channels;
        let _span = span("context", 0, 3 * len(&x));
        let output = cpu::context::forward(
            image(&x),
            values(&x),
            values(&hidden),
            (&vec![1.0; channels], &vec![0.0; channels]),
            gates(&spatial, &channel),
        );
        tensor(output, dims(&x))
    }
}

fn gates<'a>(spatial: &'a Tensor, channel: &'a Tensor) -> Gates<'a> {
    Gates {
        spatial: values(spatial),
        channel: values(channel),
    }
}

impl KernelGradients for Flex {
    fn kernel_linear_backward(
        x: Tensor,
        weight: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
        let _span = product_span("linear, backward", 2, &x, &weight);
        let (dx, dw) = cpu::linear::backward(
            values(&x),
            values(&weight),
            values(&grad),
            dims(&weight)[0],
            precision,
        );
        (tensor(dx, dims(&x)), tensor(dw, dims(&weight)))
    }

    fn kernel_bias_backward(grad: Tensor) -> Tensor {
        let grad = contiguous(grad);
        let _span = span("bias, backward", 0, len(&grad));
        let channels = *dims(&grad).last().expect("an activation has axes");
        tensor(
            cpu::linear::column_sums(values(&grad), channels),
            vec![channels],
        )
    }

    fn kernel_depthwise_backward(
        x: Tensor,
        weight: Tensor,
        stride: usize,
        grad: Tensor,
    ) -> (Tensor, Tensor, Tensor) {
        let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
        let (shape, window) = (image(&x), window(&weight, stride));
        let flop = 2 * depthwise_flop(&weight, image(&grad));
        let _span = span("depthwise, backward", flop, 2 * (len(&x) + len(&grad)));
        let dx = cpu::depthwise::input_gradient(shape, window, values(&weight), values(&grad));
        let (dw, db) = cpu::depthwise::weight_gradient(shape, window, values(&x), values(&grad));
        (
            tensor(dx, dims(&x)),
            tensor(dw, dims(&weight)),
            tensor(db, vec![shape.channels]),
        )
    }

    fn kernel_conv_stride2_backward(
        x: Tensor,
        weight: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
        let _span = span(
            "conv, stride 2, backward",
            len(&grad) * 36 * image(&x).channels,
            2 * (len(&x) + len(&grad)),
        );
        let (dx, dw) = cpu::conv::backward(
            image(&x),
            values(&x),
            values(&weight),
            values(&grad),
            dims(&weight)[0],
            precision,
        );
        (tensor(dx, dims(&x)), tensor(dw, dims(&weight)))
    }

    fn kernel_conv_stride2_weight_backward(
        x: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> Tensor {
        let (x, grad) = (contiguous(x), contiguous(grad));
        let (shape, outputs) = (image(&x), image(&grad).channels);
        let flop = len(&grad) * 18 * shape.channels;
        let _span = span("conv, stride 2, backward", flop, len(&x) + len(&grad));
        let dw = cpu::conv::weight_backward(shape, values(&x), values(&grad), outputs, precision);
        tensor(dw, vec![outputs, shape.channels, 3, 3])
    }

    fn kernel_batch_norm_backward(
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
        epsilon: f32,
        relu: bool,
        grad: Tensor,
    ) -> (Tensor, Tensor, Tensor) {
        let [x, gamma, beta, grad] = [x, gamma, beta, grad].map(contiguous);
        let _span = span("batch norm, backward", 0, 3 * len(&x));
        let moments = (values(&mean), values(&variance));
        let (dx, dgamma, dbeta) = cpu::norm::backward(
            values(&x),
            values(&gamma),
            values(&beta),
            moments,
            epsilon,
            relu,
            values(&grad),
        );
        (
            tensor(dx, dims(&x)),
            tensor(dgamma, dims(&gamma)),
            tensor(dbeta, dims(&beta)),
        )
    }

    fn kernel_gelu_linear_backward(
        x: Tensor,
        weight: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let [x, weight, grad] = [x, weight, grad].map(contiguous);
        let _span = product_span("gelu and linear, backward", 2, &x, &weight);
        let outputs = dims(&weight)[0];
        let (dx, dw) = cpu::gelu::linear_backward(
            values(&x),
            values(&weight),
            values(&grad),
            outputs,
            precision,
        );
        (tensor(dx, dims(&x)), tensor(dw, dims(&weight)))
    }

    fn kernel_mlp_backward(
        x: Tensor,
        hidden: Tensor,
        weights: [Tensor; 2],
        precision: Precision,
        grad: Tensor,
    ) -> [Tensor; 5] {
        let [x, hidden, grad] = [x, hidden, grad].map(contiguous);
        let weights = weights.map(contiguous);
        let [width, outputs] = weights.each_ref().map(|weight| dims(weight)[0]);
        let _span = span(
            "feed-forward, backward",
            4 * width * (len(&x) + len(&grad)),
            2 * len(&x) + len(&hidden) + len(&grad),
        );
        let gradients = cpu::gelu::mlp_backward(
            values(&x),
            values(&hidden),
            weights.each_ref().map(values),
            values(&grad),
            outputs,
            precision,
        );
        let [first, second] = weights.each_ref().map(dims);
        let [dx, dw, db, second_dw, second_db] = gradients;
        [
            tensor(dx, dims(&x)),
            tensor(dw, first),
            tensor(db, vec![width]),
            tensor(second_dw, second),
            tensor(second_db, vec![outputs]),
        ]
    }

    fn kernel_context_backward(
        inputs: [Tensor; 6],
        moments: [Tensor; 2],
        epsilon: f32,
        grad: Tensor,
    ) -> [Tensor; 6] {
        let (inputs, grad) = (inputs.map(contiguous), contiguous(grad));
        let [x, hidden, gamma, beta, spatial, channel] = &inputs;
        let _span = span("context, backward", 0, 5 * len(x));
        let norm = Norm {
            gamma: values(gamma),
            beta: values(beta),
            mean: values(&moments[0]),
            variance: values(&moments[1]),
            epsilon,
        };
        let (x, hidden) = (values(x), values(hidden));
        let (shape, gates) = (image(&grad), gates(spatial, channel));
        let gradients = cpu::context::backward(shape, x, hidden, norm, gates, values(&grad));
        let mut gradients = gradients.into_iter();
        inputs.each_ref().map(|input| {
            let gradient = gradients.next().expect("a gradient for each input");
            tensor(gradient, dims(input))
        })
    }
}
