//! How much of a GPU's memory is used, as its driver counts it.

use std::thread;
use std::time::Duration;

use cudarc::driver::DriverError;
use cudarc::driver::result::{ctx, device, mem_get_info, primary_ctx};
use cudarc::driver::sys::CUdevice;

use super::{in_background, probe};
use crate::device::DeviceMemory;

/// The context of a GPU in which kernels are computed as well, current on the thread that has it.
struct Context(CUdevice);

/// Calls `told` with what GPU `index` holds, at once and then `every` so often, from a thread of its own. The error is why
/// nobody can tell.
pub fn watch(
    index: usize,
    every: Duration,
    mut told: impl FnMut(DeviceMemory) + Send + 'static,
) -> Result<(), String> {
    probe::gpu(index)?;
    let watching = move || {
        let watched = Context::open(index).and_then(|_context| {
            let mut peak = 0;
            loop {
                let (free, total) = mem_get_info()?;
                let used = total.saturating_sub(free) as u64;
                peak = used.max(peak);
                told(DeviceMemory {
                    used,
                    total: total as u64,
                    peak,
                });
                thread::sleep(every);
            }
        });
        // As the process ends the driver answers nobody any more.
        let told: Result<(), DriverError> = watched;
        tracing::debug!(?told, "nobody looks at the GPU's memory any more");
    };
    in_background("gpu-memory", watching)
}

// === impl Context ===

impl Context {
    #[allow(unsafe_code)]
    fn open(index: usize) -> Result<Self, DriverError> {
        let handle = device::get(index as i32)?;
        // SAFETY: `handle` is a GPU that the driver gave, and its context is released once, when this is dropped.
        let context = unsafe { primary_ctx::retain(handle) }?;
        let context_of_thread = Self(handle);
        // SAFETY: the context is there as long as this is.
        unsafe { ctx::set_current(context) }?;
        Ok(context_of_thread)
    }
}

impl Drop for Context {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: it was retained once. What the driver says to that changes nothing.
        let _ = unsafe { primary_ctx::release(self.0) };
    }
}
