//! The loss scale in a checkpoint and on the way to another member.

use perennial_plan::LossScale;
use perennial_plan::tensors::{HostTensor, NamedTensors, TensorData};

use crate::TrainError;

const SCALE: &str = "loss_scale.scale";
const GOOD_STEPS: &str = "loss_scale.good_steps";
const SKIPPED: &str = "loss_scale.skipped";

/// Its numbers as whole ones, the scale by its bits.
pub(crate) fn words(state: LossScale) -> [u64; 3] {
    [
        u64::from(state.scale.to_bits()),
        u64::from(state.good_steps),
        state.skipped,
    ]
}

/// The state of these [`words`], unless they are of none.
pub(crate) fn from_words([scale, good_steps, skipped]: [u64; 3]) -> Option<LossScale> {
    let scale = f32::from_bits(u32::try_from(scale).ok()?);
    let state = LossScale {
        scale,
        good_steps: u32::try_from(good_steps).ok()?,
        skipped,
    };
    (scale.is_finite() && scale > 0.0).then_some(state)
}

pub(crate) fn scale_to_named(state: LossScale, named: &mut NamedTensors) {
    let whole = |count: u64| HostTensor::i64([], vec![count as i64]);
    let scale = HostTensor::f32([], vec![state.scale]);
    named.insert(SCALE.to_string(), scale);
    named.insert(GOOD_STEPS.to_string(), whole(state.good_steps.into()));
    named.insert(SKIPPED.to_string(), whole(state.skipped));
}

pub(crate) fn scale_from_named(named: &NamedTensors) -> Result<LossScale, TrainError> {
    let missing = |name: &str| TrainError::OptimizerTensor {
        name: name.to_string(),
    };
    let whole = |name| match named.get(name).map(|tensor| &tensor.data) {
        Some(TensorData::I64(values)) if values.len() == 1 && values[0] >= 0 => {
            Ok(values[0] as u64)
        }
        _ => Err(missing(name)),
    };
    let scale = match named.get(SCALE).map(|tensor| &tensor.data) {
        Some(TensorData::F32(values)) if values.len() == 1 => u64::from(values[0].to_bits()),
        _ => return Err(missing(SCALE)),
    };
    from_words([scale, whole(GOOD_STEPS)?, whole(SKIPPED)?]).ok_or_else(|| missing(SCALE))
}
