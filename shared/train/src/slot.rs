//! The gradient of one slot.

use burn::tensor::{Tensor, TensorData};
use perennial_kernels::DeviceError;
use perennial_model::{Bound, DropPathKey, GradientTensors, Mode, Network, Pass};

use crate::loss::soft_target_cross_entropy;
use crate::metrics::top_k;

/// The samples of one slot: `n` pictures and what the loss is taken against.
#[derive(Debug, Clone)]
pub struct SlotInput {
    /// `[n, size, size, 3]`, normalised, where the weights are.
    pub images: Tensor<4>,
    /// `[n, classes]`, each row sums to one.
    pub targets: Vec<f32>,
    /// `[n]`, each sample's own class.
    pub labels: Vec<u32>,
}

/// What a slot contributes to its step. Both add over slots.
#[derive(Debug)]
pub struct SlotOutcome {
    /// That of the sum of the samples' losses, times `loss_factor`; still where it is computed.
    pub gradient: GradientTensors,
    /// Samples, sum of losses, top-1 and top-5 counts, then the moments of every batch normalisation.
    pub statistics: Vec<f64>,
}

/// Numbers in the statistics before the moments.
pub(crate) const COUNTS: usize = 4;

/// Length of the statistics of a step.
pub fn statistics_len(network: &Network) -> usize {
    COUNTS + network.table.moments_len()
}

/// Forward and backward of one slot on the calling thread, or the GPU where `bound` is. With two heads the loss is the mean of
/// theirs. The gradient is that of the loss times `loss_factor`, see [`loss_factor`]; the loss that is told is not.
pub fn slot_gradient(
    network: &Network,
    bound: &Bound,
    input: SlotInput,
    key: DropPathKey,
    loss_factor: f32,
) -> Result<SlotOutcome, DeviceError> {
    let samples = input.labels.len();
    let classes = input.targets.len() / samples;
    let leaves = bound.with_gradients();
    let pass = Pass::new(&leaves, Mode::Training(key));
    let heads = network.forward(input.images.autodiff(), &pass);

    let share = 1.0 / heads.len() as f32;
    let mut loss = 0.0;
    let mut mean_logits = vec![0.0f32; samples * classes];
    let mut surrogate: Option<Tensor<2>> = None;
    for head in heads {
        let logits = read(head.clone().inner())?;
        let mut gradient = vec![0.0f32; logits.len()];
        loss += f64::from(share)
            * soft_target_cross_entropy(&logits, &input.targets, classes, &mut gradient);
        for (mean, logit) in mean_logits.iter_mut().zip(&logits) {
            *mean += share * logit;
        }
        let weight = share * loss_factor;
        gradient.iter_mut().for_each(|value| *value *= weight);
        // The loss's gradient is known: its product with the logits has it as derivative. Its sum would be the same
        // to the backward pass, and on a GPU one that is added up in the order of arrival.
        let gradient = TensorData::new(gradient, [samples, classes]);
        let gradient = Tensor::<2>::from_data(gradient, bound.device());
        let product = head * gradient.autodiff();
        surrogate = Some(match surrogate {
            Some(sum) => sum + product,
            None => product,
        });
    }
    let mut gradients = surrogate.expect("a network has a head").backward();
    let moments = pass.into_moments()?;

    let top1 = top_k(&mean_logits, classes, &input.labels, 1);
    let top5 = top_k(&mean_logits, classes, &input.labels, 5);
    let mut statistics = vec![samples as f64, loss, top1 as f64, top5 as f64];
    statistics.extend(moments);
    Ok(SlotOutcome {
        gradient: leaves.take_gradients(&network.table, &mut gradients),
        statistics,
    })
}

/// What each sample's loss is multiplied by in the step of `samples` samples, under this loss scale.
///
/// A scale is made for the mean of a batch, as PyTorch's is: the sum of many samples would overflow by itself. Without
/// one the loss is the sum, which needs no division.
pub fn loss_factor(loss_scale: Option<f32>, samples: usize) -> f32 {
    loss_scale.map_or(1.0, |scale| scale / samples as f32)
}

/// Logits for inference, `[n, classes]`. `images`: `[n, size, size, 3]`, where `bound` is.
pub fn infer(network: &Network, bound: &Bound, images: Tensor<4>) -> Result<Vec<f32>, DeviceError> {
    read(network.logits(images, &Pass::new(bound, Mode::Evaluation)))
}

fn read(logits: Tensor<2>) -> Result<Vec<f32>, DeviceError> {
    let data = logits.try_into_data();
    let data = data.map_err(|error| DeviceError::of_reading(&error))?;
    Ok(data.try_into_vec::<f32>().expect("logits are f32"))
}
