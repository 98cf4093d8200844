//! What was computed, lent to sums where it lies.

#[cfg(feature = "cuda")]
use burn::backend::Cube;
use burn::tensor::Tensor;
use perennial_collective::nccl::Lent;

use crate::DeviceError;

/// The values of each tensor once they are computed: where they are in a GPU's memory, else on the host.
pub fn lend(tensors: Vec<Tensor<1>>) -> Result<Vec<Lent>, DeviceError> {
    let Some(device) = tensors.first().map(Tensor::device) else {
        return Ok(Vec::new());
    };
    let lent = tensors.into_iter().map(lend_one);
    let lent = lent.collect::<Result<_, _>>()?;
    // The stream of this thread, which has come to wait for that of each tensor.
    let done = device.sync();
    done.map_err(|error| DeviceError::of_reading(&error))?;
    Ok(lent)
}

fn lend_one(tensor: Tensor<1>) -> Result<Lent, DeviceError> {
    #[cfg(feature = "cuda")]
    if let Ok(tensor) = tensor.clone().try_into_primitive::<Cube>() {
        return crate::gpu::lend::lend(tensor);
    }
    let data = tensor.try_into_data();
    let data = data.map_err(|error| DeviceError::of_reading(&error))?;
    let values = data.try_into_vec::<f32>();
    Ok(values.expect("what is computed is f32").into())
}
