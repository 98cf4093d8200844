//! Where a process computes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use burn::tensor::Device;

/// How the numerics class of every CUDA GPU begins.
const CUDA_CLASS: &str = "cuda sm_";

/// A processor of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeDevice {
    #[default]
    Cpu,
    /// The NVIDIA GPU with this number.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("`{0}` is no device: use `cpu`, or `cuda:N` for the N-th NVIDIA GPU, from 0")]
    Unknown(String),
    #[error(
        "`{0}` needs a program built for GPUs: `cargo build --release --features cuda`; this one computes on `cpu`"
    )]
    NotBuilt(ComputeDevice),
    #[error("cannot use `{device}`: {reason}")]
    Unusable {
        device: ComputeDevice,
        reason: String,
    },
    #[error(
        "the GPU's memory is full; lower `train.batch_size`, or raise `train.slots`: slots are computed one by one"
    )]
    OutOfMemory,
    #[error("the device failed: {0}")]
    Failed(String),
}

/// Whether replicas of this numerics class were trained on GPUs.
pub fn is_gpu_class(numerics: &str) -> bool {
    numerics.starts_with(CUDA_CLASS)
}

// === impl DeviceError ===

impl DeviceError {
    /// What a device said when its results were read.
    pub fn of_reading(error: &impl fmt::Display) -> Self {
        let said = error.to_string();
        // Of what an allocation was refused for, later operations find that it was never written.
        let full = [
            "out of memory",
            "out of device memory",
            "can't allocate buffer of size",
            "memory location was never initialized",
        ];
        let lower = said.to_lowercase();
        if full.iter().any(|text| lower.contains(text)) {
            return Self::OutOfMemory;
        }
        let words = said.lines().map(str::trim);
        let words = words.take_while(|line| !line.starts_with("Backtrace"));
        let words = words.filter(|line| !line.is_empty() && *line != "Caused by:");
        Self::Failed(words.collect::<Vec<_>>().join(": "))
    }
}

/// A GPU, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Major and minor compute capability.
    pub capability: [i32; 2],
    /// Bytes.
    pub memory: usize,
    /// Errors of its memory that were not corrected since the driver was loaded, where that was asked and is counted.
    pub memory_errors: Option<u64>,
}

/// What a GPU holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// By whatever computes there, this process or another one.
    pub used: u64,
    pub total: u64,
    /// The most that was found used since it was first looked at.
    pub peak: u64,
}

/// What a machine has of CUDA. Of each part its version or place, or the reason why it cannot be used.
#[derive(Debug, Clone)]
pub struct Cuda {
    /// The newest CUDA that the driver can run.
    pub driver: Result<String, String>,
    /// The compiler of kernels.
    pub nvrtc: Result<String, String>,
    /// The folder of CUDA's headers, which the compiler reads.
    pub headers: Result<PathBuf, String>,
    /// Needed only for sums between GPUs.
    pub nccl: Result<String, String>,
    pub gpus: Result<Vec<Gpu>, String>,
    /// Pairs of GPUs that reach each other's memory without the host.
    pub links: Result<Vec<[usize; 2]>, String>,
}

// === impl Cuda ===

impl Cuda {
    /// Asks this machine. None: the program was built without GPUs.
    pub fn probe() -> Option<Self> {
        #[cfg(feature = "cuda")]
        {
            Some(crate::gpu::probe::cuda())
        }
        #[cfg(not(feature = "cuda"))]
        {
            None
        }
    }
}

// === impl ComputeDevice ===

impl ComputeDevice {
    /// The device, once it was found to be usable with all that it needs.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(self, index),
        }
    }

    /// The model, instruction set and kernel set of a GPU: within one such class equal input gives equal bits. None: not a GPU.
    pub fn gpu_class(self) -> Result<Option<String>, DeviceError> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(index) => cuda_class(self, index).map(Some),
        }
    }

    /// Calls `told` with what happened once the driver says that the GPU has failed, from another thread. The error is why
    /// nobody can watch it; a CPU needs nobody.
    pub fn watch(self, told: impl FnOnce(String) + Send + 'static) -> Result<(), String> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(index) => watch_cuda(index, told),
        }
    }

    /// Calls `told` with what the GPU holds, at once and then `every` so often, from another thread. The error is why nobody
    /// can tell; a CPU's memory is not watched.
    pub fn watch_memory(
        self,
        every: Duration,
        told: impl FnMut(DeviceMemory) + Send + 'static,
    ) -> Result<(), String> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(index) => watch_cuda_memory(index, every, told),
        }
    }

    /// Whether slots side by side gain nothing here.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

impl FromStr for ComputeDevice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_string());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            Some(("cuda", index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => {
                index.parse().map(Self::Cuda).map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(device: ComputeDevice, index: usize) -> Result<Device, DeviceError> {
    let reason = crate::gpu::probe::usable(index);
    reason.map_err(|reason| DeviceError::Unusable { device, reason })?;
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(device: ComputeDevice, _index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt(device))
}

#[cfg(feature = "cuda")]
fn watch_cuda(index: usize, told: impl FnOnce(String) + Send + 'static) -> Result<(), String> {
    crate::gpu::health::watch(index, told)
}

#[cfg(not(feature = "cuda"))]
fn watch_cuda(_index: usize, _told: impl FnOnce(String) + Send + 'static) -> Result<(), String> {
    Err("the program was built without GPUs".to_string())
}

#[cfg(feature = "cuda")]
fn watch_cuda_memory(
    index: usize,
    every: Duration,
    told: impl FnMut(DeviceMemory) + Send + 'static,
) -> Result<(), String> {
    crate::gpu::memory::watch(index, every, told)
}

#[cfg(not(feature = "cuda"))]
fn watch_cuda_memory(
    _index: usize,
    _every: Duration,
    _told: impl FnMut(DeviceMemory) + Send + 'static,
) -> Result<(), String> {
    Err("the program was built without GPUs".to_string())
}

#[cfg(feature = "cuda")]
fn cuda_class(device: ComputeDevice, index: usize) -> Result<String, DeviceError> {
    let gpu = crate::gpu::probe::gpu(index);
    let gpu = gpu.map_err(|reason| DeviceError::Unusable { device, reason })?;
    let [major, minor] = gpu.capability;
    Ok(format!(
        "{CUDA_CLASS}{major}{minor} ({}), {}",
        gpu.name,
        crate::gpu::KERNEL_SET
    ))
}

#[cfg(not(feature = "cuda"))]
fn cuda_class(device: ComputeDevice, _index: usize) -> Result<String, DeviceError> {
    Err(DeviceError::NotBuilt(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for (text, device) in [
            ("cpu", ComputeDevice::Cpu),
            ("cuda:0", ComputeDevice::Cuda(0)),
            ("cuda:12", ComputeDevice::Cuda(12)),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "cuda",
            "cuda:",
            "cuda:+1",
            "cuda:-1",
            "cuda:1:2",
            "cpu:0",
            "cuda:99999999999999999999",
        ] {
            let error = text.parse::<ComputeDevice>().unwrap_err();
            assert_eq!(error, DeviceError::Unknown(text.to_string()));
        }
    }

    #[test]
    fn a_full_memory_is_told_from_other_failures() {
        for said in [
            "An error happened during execution\nCaused by:\n  CUDA_ERROR_OUT_OF_MEMORY: out of memory",
            "An IO error happened\nCaused by:\n  couldn't find it: Memory location was never initialized\n",
            "The bytes were never written: skipped `Kernel`: An IO error happened: can't allocate buffer of size: 4096",
        ] {
            assert_eq!(DeviceError::of_reading(&said), DeviceError::OutOfMemory);
        }
        let said = "An error happened\nCaused by:\n  the launch failed\nBacktrace:\n 0: main";
        assert_eq!(
            DeviceError::of_reading(&said).to_string(),
            "the device failed: An error happened: the launch failed"
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_gpus_says_how_to_build_one_with_them() {
        let error = ComputeDevice::Cuda(3).open().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cuda:3` needs a program built for GPUs: `cargo build --release --features cuda`; this one computes on `cpu`"
        );
    }
}
