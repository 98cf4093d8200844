//! CUDA GPUs: kernels on the tensors of Burn's CubeCL backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Cube, DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::{AddressType, BufferArg, CubeCount, CubeDim};

use super::kernel::{Kernel, Machine};
use super::operations::{self, Convolution, Layer, Norm};
use super::product::{Product, TILE, UNITS, product_kernel};
use crate::Precision;
use crate::cpu::Image;
use crate::cpu::depthwise::Window;
use crate::ops::{KernelGradients, KernelOps};

/// Units of a cube, for kernels whose units are independent.
const CUBE: usize = 256;

/// A kernel with its tensors, ready to run.
pub struct Launch {
    pub client: Client,
    pub cubes: CubeCount,
    pub cube: CubeDim,
    pub addresses: AddressType,
    pub inputs: Vec<BufferArg>,
    pub out: BufferArg,
    pub units: usize,
}

/// The GPU that has a tensor.
pub(crate) struct Gpu {
    like: CubeTensor,
}

// === impl Gpu ===

impl Gpu {
    fn of(tensor: &CubeTensor) -> Self {
        Self {
            like: tensor.clone(),
        }
    }

    fn empty(&self, len: usize) -> CubeTensor {
        let client = self.like.client.clone();
        let memory = client.empty(len * size_of::<f32>());
        let device = self.like.device.clone();
        CubeTensor::new_contiguous(client, device, Shape::new([len]), memory, DType::F32)
    }
}

impl Machine for Gpu {
    type Values = CubeTensor;

    fn run<K: Kernel>(
        &self,
        inputs: &[&CubeTensor],
        scalars: K::Scalars,
        units: usize,
        len: usize,
    ) -> CubeTensor {
        let out = self.empty(len);
        if units == 0 {
            return out;
        }
        let launch = Launch {
            client: self.like.client.clone(),
            cubes: CubeCount::Static(units.div_ceil(CUBE) as u32, 1, 1),
            cube: CubeDim::new_1d(CUBE as u32),
            addresses: addresses(inputs.iter().copied().chain([&out])),
            inputs: inputs.iter().map(|input| buffer(input)).collect(),
            out: buffer(&out),
            units,
        };
        K::launch(launch, scalars);
        out
    }

    #[allow(unsafe_code)]
    fn multiply(
        &self,
        left: &CubeTensor,
        right: &CubeTensor,
        extra: Option<&CubeTensor>,
        product: Product,
    ) -> CubeTensor {
        let Product { rows, columns, .. } = product;
        let pieces = product.pieces();
        let out = self.empty(pieces * rows * columns);
        let extra = extra.unwrap_or(left);
        let cubes = [rows.div_ceil(TILE), columns.div_ceil(TILE), pieces].map(|count| count as u32);
        // SAFETY: `load` reads inside its operand and `store` writes inside the result, at places that no other unit
        // writes; both, and the ends of the loops, are tested on the host, where every access is checked. All units of a
        // cube meet at both barriers of each of the same number of turns.
        unsafe {
            product_kernel::kernel::launch_unchecked(
                &self.like.client,
                CubeCount::Static(cubes[0], cubes[1], cubes[2]),
                CubeDim::new_1d(UNITS as u32),
                addresses([left, right, extra, &out]),
                buffer(left),
                buffer(right),
                buffer(extra),
                buffer(&out),
                rows,
                columns,
                product.depth,
                product.left[0],
                product.left[1],
                product.right[0],
                product.right[1],
                product.piece,
                u32::from(product.gelu[0]),
                u32::from(product.gelu[1]),
                product.format(),
                product.ending as u32,
            );
        }
        out
    }
}

fn buffer(tensor: &CubeTensor) -> BufferArg {
    tensor.clone().into_buffer_arg()
}

/// What holds the places in all of them.
fn addresses<'a>(tensors: impl IntoIterator<Item = &'a CubeTensor>) -> AddressType {
    let types = tensors.into_iter().map(CubeTensor::required_address_type);
    types.max().unwrap_or_default()
}

fn dims(tensor: &CubeTensor) -> Vec<usize> {
    tensor.meta.shape().iter().copied().collect()
}

fn len(tensor: &CubeTensor) -> usize {
    tensor.meta.shape().num_elements()
}

/// The last axis: channels.
fn channels(tensor: &CubeTensor) -> usize {
    *dims(tensor).last().expect("an activation has axes")
}

fn rows(tensor: &CubeTensor) -> usize {
    len(tensor) / channels(tensor)
}

fn image(tensor: &CubeTensor) -> Image {
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

/// `values` with the shape `shape`.
fn shaped(values: CubeTensor, shape: Vec<usize>) -> CubeTensor {
    let CubeTensor {
        client,
        handle,
        device,
        dtype,
        ..
    } = values;
    CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, dtype)
}

fn like(values: CubeTensor, tensor: &CubeTensor) -> CubeTensor {
    shaped(values, dims(tensor))
}

fn layer(x: &CubeTensor, weight: &CubeTensor, gelu: bool, precision: Precision) -> Layer {
    Layer {
        rows: rows(x),
        inputs: channels(x),
        outputs: dims(weight)[0],
        gelu,
        precision,
    }
}

fn linear(
    x: CubeTensor,
    weight: CubeTensor,
    bias: Option<CubeTensor>,
    gelu: bool,
    precision: Precision,
) -> CubeTensor {
    let (x, weight, bias) = (
        into_contiguous(x),
        into_contiguous(weight),
        bias.map(into_contiguous),
    );
    let layer = layer(&x, &weight, gelu, precision);
    let out = operations::linear(&Gpu::of(&x), layer, &x, &weight, bias.as_ref());
    let mut shape = dims(&x);
    *shape.last_mut().expect("an activation has axes") = layer.outputs;
    shaped(out, shape)
}

fn linear_backward(
    x: CubeTensor,
    weight: CubeTensor,
    grad: CubeTensor,
    gelu: bool,
    precision: Precision,
) -> (CubeTensor, CubeTensor) {
    let [x, weight, grad] = [x, weight, grad].map(into_contiguous);
    let layer = layer(&x, &weight, gelu, precision);
    let [dx, dweight] = operations::linear_backward(&Gpu::of(&x), layer, &x, &weight, &grad);
    (like(dx, &x), like(dweight, &weight))
}

fn window(weight: &CubeTensor, stride: usize) -> Window {
    Window::new(dims(weight)[2], stride)
}

fn depthwise(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    stride: usize,
    relu: bool,
) -> CubeTensor {
    let [x, weight, bias] = [x, weight, bias].map(into_contiguous);
    let (shape, window) = (image(&x), window(&weight, stride));
    let out = operations::depthwise(&Gpu::of(&x), shape, window, [&x, &weight, &bias], relu);
    let shape = window.output_image(shape);
    shaped(
        out,
        vec![shape.batch, shape.height, shape.width, shape.channels],
    )
}

fn conv_stride2(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    relu: bool,
    precision: Precision,
) -> CubeTensor {
    let [x, weight, bias] = [x, weight, bias].map(into_contiguous);
    let (shape, outputs) = (image(&x), dims(&weight)[0]);
    let convolution = Convolution {
        shape,
        outputs,
        precision,
    };
    let out = operations::conv_stride2(&Gpu::of(&x), convolution, [&x, &weight, &bias], relu);
    let shape = crate::cpu::conv::output_image(shape, outputs);
    shaped(
        out,
        vec![shape.batch, shape.height, shape.width, shape.channels],
    )
}

/// What `work` computes of tensors on the GPU that has them; None where that is no GPU.
pub(crate) fn run<const N: usize>(
    tensors: [&burn::tensor::Tensor<1>; N],
    work: impl FnOnce(&Gpu, [&CubeTensor; N]) -> CubeTensor,
) -> Option<burn::tensor::Tensor<1>> {
    let tensors = tensors.map(|it| it.clone().try_into_primitive::<Cube>().ok());
    let tensors: Option<Vec<CubeTensor>> = tensors.into_iter().collect();
    let tensors = tensors?;
    let inputs: [&CubeTensor; N] = std::array::from_fn(|index| &tensors[index]);
    let values = work(&Gpu::of(inputs[0]), inputs);
    Some(burn::tensor::Tensor::from_primitive::<Cube>(values))
}

type Tensor = FloatTensor<Cube>;

impl KernelOps for Cube {
    fn kernel_linear(x: Tensor, weight: Tensor, precision: Precision) -> Tensor {
        linear(x, weight, None, false, precision)
    }

    fn kernel_linear_bias(x: Tensor, weight: Tensor, bias: Tensor, precision: Precision) -> Tensor {
        linear(x, weight, Some(bias), false, precision)
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
        let [x, gamma, beta] = [x, gamma, beta].map(into_contiguous);
        let norm = norm(&x, epsilon, relu);
        let [output, mean, variance] =
            operations::batch_norm(&Gpu::of(&x), norm, &x, &gamma, &beta);
        (like(output, &x), mean, variance)
    }

    fn kernel_gelu_linear_bias(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        precision: Precision,
    ) -> Tensor {
        linear(x, weight, Some(bias), true, precision)
    }

    fn kernel_mlp(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        second_weight: Tensor,
        second_bias: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let hidden = linear(x, weight, Some(bias), false, precision);
        let (weight, bias) = (second_weight, Some(second_bias));
        (
            linear(hidden.clone(), weight, bias, true, precision),
            hidden,
        )
    }

    fn kernel_feed_forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        second_weight: Tensor,
        second_bias: Tensor,
    ) -> Tensor {
        let hidden = linear(x.clone(), weight, Some(bias), false, Precision::F32);
        let (weight, bias) = (second_weight, Some(second_bias));
        let branch = linear(hidden, weight, bias, true, Precision::F32);
        add::<Self>(x, branch)
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
        let (normal, mean, variance) = Self::kernel_batch_norm(hidden, gamma, beta, epsilon, true);
        let output = Self::kernel_context_gates(x, normal, spatial, channel);
        (output, mean, variance)
    }

    fn kernel_context_gates(x: Tensor, hidden: Tensor, spatial: Tensor, channel: Tensor) -> Tensor {
        let [x, hidden, spatial, channel] = [x, hidden, spatial, channel].map(into_contiguous);
        let machine = Gpu::of(&x);
        let pixels = [rows(&x), channels(&x)];
        let gated = operations::spatial_gate(&machine, pixels, &x, &hidden, &spatial);
        let out = operations::channel_gate(&machine, image(&x), &gated, &channel);
        like(out, &x)
    }
}

fn add<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(a, b)
}

fn norm(x: &CubeTensor, epsilon: f32, relu: bool) -> Norm {
    Norm {
        rows: rows(x),
        channels: channels(x),
        epsilon,
        relu,
    }
}

impl KernelGradients for Cube {
    fn kernel_linear_backward(
        x: Tensor,
        weight: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        linear_backward(x, weight, grad, false, precision)
    }

    fn kernel_bias_backward(grad: Tensor) -> Tensor {
        let grad = into_contiguous(grad);
        let sums = operations::bias_backward(&Gpu::of(&grad), rows(&grad), channels(&grad), &grad);
        shaped(sums, vec![channels(&grad)])
    }

    fn kernel_depthwise_backward(
        x: Tensor,
        weight: Tensor,
        stride: usize,
        grad: Tensor,
    ) -> (Tensor, Tensor, Tensor) {
        let [x, weight, grad] = [x, weight, grad].map(into_contiguous);
        let (shape, window) = (image(&x), window(&weight, stride));
        let [dx, dweight, dbias] =
            operations::depthwise_backward(&Gpu::of(&x), shape, window, &x, &weight, &grad);
        (like(dx, &x), like(dweight, &weight), dbias)
    }

    fn kernel_conv_stride2_backward(
        x: Tensor,
        weight: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let [x, weight, grad] = [x, weight, grad].map(into_contiguous);
        let convolution = Convolution {
            shape: image(&x),
            outputs: dims(&weight)[0],
            precision,
        };
        let [dx, dweight] =
            operations::conv_stride2_backward(&Gpu::of(&x), convolution, [&x, &weight, &grad]);
        (like(dx, &x), like(dweight, &weight))
    }

    fn kernel_conv_stride2_weight_backward(
        x: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> Tensor {
        let [x, grad] = [x, grad].map(into_contiguous);
        let convolution = Convolution {
            shape: image(&x),
            outputs: image(&grad).channels,
            precision,
        };
        let dweight =
            operations::conv_stride2_weight_backward(&Gpu::of(&x), convolution, [&x, &grad]);
        let shape = vec![convolution.outputs, convolution.shape.channels, 3, 3];
        shaped(dweight, shape)
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
        let [x, gamma, beta, grad] = [x, gamma, beta, grad].map(into_contiguous);
        let [dx, dgamma, dbeta] = operations::batch_norm_backward(
            &Gpu::of(&x),
            norm(&x, epsilon, relu),
            [&x, &gamma, &beta],
            [&mean, &variance],
            &grad,
        );
        (like(dx, &x), dgamma, dbeta)
    }

    fn kernel_gelu_linear_backward(
        x: Tensor,
        weight: Tensor,
        grad: Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        linear_backward(x, weight, grad, true, precision)
    }

    fn kernel_mlp_backward(
        x: Tensor,
        hidden: Tensor,
        [weight, second_weight]: [Tensor; 2],
        precision: Precision,
        grad: Tensor,
    ) -> [Tensor; 5] {
        let second_bias = Self::kernel_bias_backward(grad.clone());
        let (hidden, second_weight) = linear_backward(hidden, second_weight, grad, true, precision);
        let bias = Self::kernel_bias_backward(hidden.clone());
        let (x, weight) = linear_backward(x, weight, hidden, false, precision);
        [x, weight, bias, second_weight, second_bias]
    }

    fn kernel_context_backward(
        inputs: [Tensor; 6],
        moments: [Tensor; 2],
        epsilon: f32,
        grad: Tensor,
    ) -> [Tensor; 6] {
        let (inputs, grad) = (inputs.map(into_contiguous), into_contiguous(grad));
        let [x, hidden, gamma, beta, spatial, channel] = &inputs;
        let gradients = operations::context_backward(
            &Gpu::of(x),
            image(x),
            epsilon,
            [x, hidden, gamma, beta, spatial, channel],
            moments.each_ref(),
            &grad,
        );
        let mut gradients = gradients.into_iter();
        inputs.each_ref().map(|input| {
            let gradient = gradients.next().expect("a gradient for each input");
            like(gradient, input)
        })
    }
}
