//! The operations under automatic differentiation: each records its inputs and calls the backend's
//! own backward pass.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use crate::Precision;
use crate::ops::{KernelGradients, KernelOps};

type Plain<B> = <B as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// The backward pass of one operation on the inner backend: a plain function of what was saved and
/// of the output's gradient, giving one gradient an input.
struct Derivative<B: Backend, S, const N: usize> {
    gradients: fn(S, Plain<B>) -> [Plain<B>; N],
}

impl<B: Backend, S, const N: usize> std::fmt::Debug for Derivative<B, S, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Derivative")
    }
}

impl<B, S, const N: usize> Backward<B, N> for Derivative<B, S, N>
where
    B: Backend,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    type State = S;

    fn backward(self, ops: Ops<S, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let gradients = (self.gradients)(ops.state, grad);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// Records `output` as computed from `inputs`.
fn record<B, C, S, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    output: Plain<B>,
    saved: S,
    gradients: fn(S, Plain<B>) -> [Plain<B>; N],
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    let nodes = inputs.each_ref().map(|input| input.node());
    match (Derivative::<B, S, N> { gradients })
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish(saved, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// The forward pass of a layer: from the input, the weight and the bias to the output.
type Forward<B> = fn(Plain<B>, Plain<B>, Plain<B>, Precision) -> Plain<B>;
/// Its backward pass but for the bias: from the input, the weight and the output's gradient to the first two's gradients.
type LayerBackward<B> = fn(Plain<B>, Plain<B>, Plain<B>, Precision) -> (Plain<B>, Plain<B>);

/// Records a layer that is a product of an input and a weight, with a bias added.
fn record_product<B: KernelGradients, C: CheckpointStrategy>(
    inputs: [FloatTensor<Autodiff<B, C>>; 3],
    precision: Precision,
    forward: Forward<B>,
    backward: LayerBackward<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let [x, weight, bias] = inputs.each_ref().map(|input| input.primitive().clone());
    let saved = (x.clone(), weight.clone(), precision, backward);
    let output = forward(x, weight, bias, precision);
    record::<B, C, _, _>(
        inputs,
        output,
        saved,
        |(x, weight, precision, backward), grad| {
            let (x, weight) = backward(x, weight, grad.clone(), precision);
            [x, weight, B::kernel_bias_backward(grad)]
        },
    )
}

impl<B: KernelOps + KernelGradients, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn kernel_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let inputs = [&x, &weight].map(|input| input.primitive().clone());
        let [x_value, weight_value] = inputs.clone();
        let output = B::kernel_linear(x_value, weight_value, precision);
        let saved = (inputs, precision);
        record::<B, C, _, _>([x, weight], output, saved, |(inputs, precision), grad| {
            let [x, weight] = inputs;
            B::kernel_linear_backward(x, weight, grad, precision).into()
        })
    }

    fn kernel_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        record_product::<B, C>(
            [x, weight, bias],
            precision,
            B::kernel_linear_bias,
            B::kernel_linear_backward,
        )
    }

    fn kernel_depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
    ) -> FloatTensor<Self> {
        let inputs = [x, weight, bias];
        let [x, weight, bias] = inputs.each_ref().map(|input| input.primitive().clone());
        let saved = (x.clone(), weight.clone(), stride);
        let output = B::kernel_depthwise(x, weight, bias, stride);
        record::<B, C, _, _>(inputs, output, saved, |(x, weight, stride), grad| {
            B::kernel_depthwise_backward(x, weight, stride, grad).into()
        })
    }

    fn kernel_conv_stride2(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        if !x.is_tracked() {
            let x = x.into_primitive();
            let [weight_value, bias_value] =
                [&weight, &bias].map(|input| input.primitive().clone());
            let output = B::kernel_conv_stride2(x.clone(), weight_value, bias_value, precision);
            let saved = (x, precision);
            return record::<B, C, _, _>([weight, bias], output, saved, |(x, precision), grad| {
                let weight = B::kernel_conv_stride2_weight_backward(x, grad.clone(), precision);
                [weight, B::kernel_bias_backward(grad)]
            });
        }
        record_product::<B, C>(
            [x, weight, bias],
            precision,
            B::kernel_conv_stride2,
            B::kernel_conv_stride2_backward,
        )
    }

    fn kernel_batch_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = [&x, &gamma, &beta].map(|input| input.primitive().clone());
        let [x_value, gamma_value, beta_value] = inputs.clone();
        let (output, mean, variance) =
            B::kernel_batch_norm(x_value, gamma_value, beta_value, epsilon, relu);
        let saved = (inputs, mean.clone(), variance.clone(), epsilon, relu);
        let output = record::<B, C, _, _>(
            [x, gamma, beta],
            output,
            saved,
            |(inputs, mean, variance, epsilon, relu), grad| {
                let [x, gamma, beta] = inputs;
                let (x, gamma, beta) = B::kernel_batch_norm_backward(
                    x, gamma, beta, mean, variance, epsilon, relu, grad,
                );
                [x, gamma, beta]
            },
        );
        (output, untracked::<B, C>(mean), untracked::<B, C>(variance))
    }

    fn kernel_gelu_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        record_product::<B, C>(
            [x, weight, bias],
            precision,
            B::kernel_gelu_linear_bias,
            B::kernel_gelu_linear_backward,
        )
    }

    fn kernel_mlp(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        second_weight: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = [x, weight, bias, second_weight, second_bias];
        let [x, weight, bias, second_weight, second_bias] =
            inputs.each_ref().map(|input| input.primitive().clone());
        let weights = [weight.clone(), second_weight.clone()];
        let (output, hidden) = B::kernel_mlp(
            x.clone(),
            weight,
            bias,
            second_weight,
            second_bias,
            precision,
        );
        let saved = (x, hidden.clone(), weights, precision);
        let output = record::<B, C, _, _>(
            inputs,
            output,
            saved,
            |(x, hidden, weights, precision), grad| {
                B::kernel_mlp_backward(x, hidden, weights, precision, grad)
            },
        );
        (output, untracked::<B, C>(hidden))
    }

    fn kernel_context(
        x: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        spatial: FloatTensor<Self>,
        channel: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = [x, hidden, gamma, beta, spatial, channel];
        let values = inputs.each_ref().map(|input| input.primitive().clone());
        let [x, hidden, gamma, beta, spatial, channel] = values.clone();
        let (output, mean, variance) =
            B::kernel_context(x, hidden, gamma, beta, spatial, channel, epsilon);
        let saved = (values, [mean.clone(), variance.clone()], epsilon);
        let output =
            record::<B, C, _, _>(inputs, output, saved, |(inputs, moments, epsilon), grad| {
                B::kernel_context_backward(inputs, moments, epsilon, grad)
            });
        (output, untracked::<B, C>(mean), untracked::<B, C>(variance))
    }

    fn kernel_context_gates(
        x: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        spatial: FloatTensor<Self>,
        channel: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let inputs = [x, hidden, spatial, channel];
        let [x, hidden, spatial, channel] = inputs.map(|input| input.into_primitive());
        untracked::<B, C>(B::kernel_context_gates(x, hidden, spatial, channel))
    }

    fn kernel_depthwise_relu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
    ) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(|input| input.into_primitive());
        untracked::<B, C>(B::kernel_depthwise_relu(x, weight, bias, stride))
    }

    fn kernel_conv_stride2_relu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(|input| input.into_primitive());
        untracked::<B, C>(B::kernel_conv_stride2_relu(x, weight, bias))
    }

    fn kernel_feed_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        second_weight: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let inputs = [x, weight, bias, second_weight, second_bias];
        let [x, weight, bias, second_weight, second_bias] =
            inputs.map(|input| input.into_primitive());
        untracked::<B, C>(B::kernel_feed_forward(
            x,
            weight,
            bias,
            second_weight,
            second_bias,
        ))
    }
}

fn untracked<B: Backend, C: CheckpointStrategy>(value: Plain<B>) -> FloatTensor<Autodiff<B, C>> {
    <Autodiff<B, C> as burn::backend::AutodiffBackend>::from_inner(value)
}
