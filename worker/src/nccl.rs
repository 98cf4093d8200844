//! Sums over NCCL: between GPUs, or, for tests, between processes whose device is host memory.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_collective::nccl::{
    self, Cuda, DeviceError, HostMemory, NcclConfig, NcclLibrary, Presence, Reduction as Way,
};
use perennial_collective::{Collective, CollectiveError, Tcp};
use perennial_kernels::ComputeDevice;
use perennial_plan::spec::Reduction;

/// Set: a worker on a CPU sums over the stand-in for NCCL, with host memory for its device.
const ON_HOST: &str = "PERENNIAL_NCCL_ON_HOST";
/// How long members wait for each other to be ready for NCCL, and how long making the communicator may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// This worker's NCCL.
#[derive(Debug)]
pub(crate) struct Nccl {
    /// Why it cannot be used, where it cannot.
    library: Result<Arc<NcclLibrary>, CollectiveError>,
    memory: Memory,
}

/// Where gradients lie when they are summed.
#[derive(Debug, Clone, Copy)]
enum Memory {
    Cuda(usize),
    Host,
}

/// What NCCL adds to the numerics class: what a stand-in has carried is never taken for anything else.
pub(crate) fn class_word(device: ComputeDevice) -> Option<&'static str> {
    let stands_in = device == ComputeDevice::Cpu && on_host();
    stands_in.then_some("sums over a stand-in for NCCL")
}

fn on_host() -> bool {
    std::env::var_os(ON_HOST).is_some_and(|value| !value.is_empty())
}

// === impl Nccl ===

impl Nccl {
    /// For slots that are computed on `device`; none where sums go over TCP whatever there is.
    pub fn of(device: ComputeDevice) -> Result<Option<Self>, CollectiveError> {
        match device {
            ComputeDevice::Cuda(index) => {
                let library = NcclLibrary::load();
                if let Err(reason) = &library {
                    tracing::warn!("sums between GPUs go over TCP: {reason}");
                }
                let memory = Memory::Cuda(index);
                Ok(Some(Self { library, memory }))
            }
            ComputeDevice::Cpu if on_host() => {
                let library = NcclLibrary::load()?;
                HostMemory::of(&library)?;
                Ok(Some(Self {
                    library: Ok(library),
                    memory: Memory::Host,
                }))
            }
            ComputeDevice::Cpu => Ok(None),
        }
    }

    /// An error unless it can be used.
    pub fn is_there(&self) -> Result<(), CollectiveError> {
        self.library.clone().map(drop)
    }

    /// Whether all members of `mesh` can sum over NCCL, which they ask each other; the reason where they cannot.
    pub fn ask(&self, mesh: &mut Tcp) -> Result<Result<(), String>, CollectiveError> {
        let device = match self.memory {
            Memory::Cuda(index) => Cuda::place(index).map_err(failed)?,
            Memory::Host => format!("process {}", std::process::id()),
        };
        let library = self.library.as_deref().ok();
        nccl::all_can(mesh, &Presence::new(library, &device), DEADLINE)
    }

    /// The members of `mesh`, ready to sum.
    pub fn connect(
        &self,
        mesh: Tcp,
        reduction: Reduction,
    ) -> Result<Box<dyn Collective>, CollectiveError> {
        let library = self.library.clone()?;
        let way = match reduction {
            Reduction::Exact => Way::Exact,
            Reduction::Fast => Way::Fast,
        };
        let config = NcclConfig::new(way, DEADLINE);
        Ok(match self.memory {
            Memory::Cuda(index) => {
                let device = Cuda::open(index).map_err(failed)?;
                Box::new(nccl::Nccl::connect(mesh, &library, device, config)?)
            }
            Memory::Host => {
                let device = HostMemory::of(&library)?;
                Box::new(nccl::Nccl::connect(mesh, &library, device, config)?)
            }
        })
    }
}

fn failed(error: DeviceError) -> CollectiveError {
    CollectiveError::Device(error.to_string())
}

impl fmt::Display for Nccl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.library {
            Ok(library) => write!(
                formatter,
                "NCCL {} (`{}`)",
                library.version(),
                library.file()
            ),
            Err(_) => formatter.write_str("no NCCL"),
        }
    }
}
