//! The memory of a tensor on a GPU, lent to who works on it besides CubeCL.

use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl_runtime::runtime::Runtime;
use perennial_collective::nccl::{Lent, Place};

use crate::DeviceError;

/// The values of `tensor`, `f32` on a CUDA GPU, to be read once the calling thread's stream has been waited for.
#[allow(unsafe_code)]
pub(crate) fn lend(tensor: CubeTensor) -> Result<Lent, DeviceError> {
    let CubeDevice::Cuda(device) = &tensor.device else {
        let reason = format!("`{:?}` is no CUDA GPU", tensor.device);
        return Err(DeviceError::Failed(reason));
    };
    let place = Place::Cuda(device.index);
    let tensor = into_contiguous(tensor);
    let len = tensor.meta.shape().num_elements();
    let handle = tensor.handle.clone();
    let memory = tensor
        .client
        .get_resource::<<CudaRuntime as Runtime>::Server>(handle);
    let memory = memory.map_err(|error| DeviceError::of_reading(&error))?;
    let address = memory.resource().ptr;
    // SAFETY: a contiguous tensor's values lie from its address on. What is lent holds the tensor, so that nobody writes into
    // its memory, and the resource, so that it stays where it is. It is handed out by `crate::lend` alone, when the stream
    // has done what writes it.
    Ok(unsafe { Lent::new(place, address, len, Box::new((memory, tensor))) })
}
