/// Why a training step or the state of an optimizer is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainError {
    #[error(
        "the gradient's norm is `{norm}`; lower `optimizer.learning_rate` or set `train.clip_grad_norm`"
    )]
    GradientNotFinite { norm: f64 },
    #[error(
        "the gradient is not finite even at a loss scale of `{scale}`; lower `optimizer.learning_rate`, set \
         `train.clip_grad_norm`, or train in `train.precision = \"bf16\"`"
    )]
    ScaleExhausted { scale: f32 },
    #[error(
        "the optimizer keeps {expected}, but the state to load has {found}; load the state of the same optimizer"
    )]
    MomentNames { expected: String, found: String },
    #[error(
        "`{name}` has {found} values for {expected} parameters; load the state of the same network"
    )]
    MomentLength {
        name: String,
        expected: usize,
        found: usize,
    },
    #[error(
        "the optimizer's state lacks `{name}` in the shape of the network; load the state of the same job"
    )]
    OptimizerTensor { name: String },
    #[error("not each of the {pictures} pictures of step {step} was evaluated exactly once")]
    Scores { step: u64, pictures: usize },
    /// Where a device has the replica.
    #[error(transparent)]
    Device(#[from] perennial_kernels::DeviceError),
    #[error("these bytes are no replica or step of this job: {0}; copy them again")]
    Encoding(String),
}
