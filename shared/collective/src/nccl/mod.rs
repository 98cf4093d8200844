//! Members as processes with a GPU each: NCCL carries and sums what lies on the devices.
//!
//! Everything small goes over the mesh of TCP connections that the members have anyway: the unique id of the
//! generation, who holds which nodes, statistics in f64, control words. The mesh is also how a death is seen at
//! once. So the coordinator knows nothing of NCCL, and an id cannot be of another generation: the mesh's
//! handshake has checked that.
//!
//! Invariants:
//! * `Exact` gives the bits of [`Local`](crate::Local) and [`Tcp`](crate::Tcp); `Fast` does not promise that.
//! * No call takes much longer than its deadline, whatever NCCL does.
//! * After an error nothing of the communicator is used again, and the next generation makes a new one.
//!
//! NCCL has traps, and each has its answer here:
//!
//! | trap | answer |
//! | --- | --- |
//! | A blocking call never returns when a peer is gone | `blocking = 0`, and the state is asked for after each call: `communicator` |
//! | `cudaStreamSynchronize` never returns either | the stream is asked whether it is idle, and never waited for: `Communicator::wait` |
//! | Work put on the stream while a call is in progress | a group is settled before anything follows it: `Communicator::group` |
//! | A group spread over threads; calls of two threads at once | one thread makes all calls; a `Group` cannot leave it: `engine` |
//! | Abort while another thread is in a call | that thread aborts; another one only when it does not come back: `Engine::run` |
//! | Abort hangs unless all living members abort | whoever fails leaves the mesh without waiting for its abort, and all others see that: `Engine::run` |
//! | An abort that hangs all the same | nobody waits for it longer than a few seconds: `Engine::run` |
//! | Buffers of a sum that failed may still be written to | they are dropped behind the abort and the end of the stream, or never: `Works::settle` |
//! | `ncclCommDestroy` waits for dead members of the machine | never called: once all say that they are done, aborting loses nothing: `Nccl::drop` |
//! | A unique id used twice, or left from before | one a generation, over its mesh; `NCCL_COMM_ID` is refused: `Nccl::meet`, `NcclLibrary::load` |
//! | Members with different versions, or two on one GPU | told to each other before they meet: [`all_can`], `Nccl::meet` |
//! | Members that sum in different orders | every sum begins with what it is about: `Layout::agree` |
//! | A configuration of another version's layout | the first layout, which all later ones take: `raw::Config` |
//! | A missing function found out at its first call | all are looked for when the library is loaded: `library` |
//! | A dead peer on the same machine is no error at all | the mesh sees it: `Tcp::over` |
//!
//! Several members on one GPU, for tests: NCCL refuses that unless each process has an `NCCL_HOSTID` of its own;
//! then `NCCL_SOCKET_IFNAME=lo`, `NCCL_IB_DISABLE=1`, and `NCCL_RAS_ENABLE=0`, because its status port is one a
//! machine.
#![allow(unsafe_code)]

#[macro_use]
mod symbols;

mod communicator;
mod cuda;
mod device;
mod driver;
mod engine;
mod exact;
mod handle;
mod host;
mod layout;
mod library;
mod member;
mod presence;
mod raw;
mod slots;
mod sum;

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_plan::tree::Node;

use crate::Partial;

pub use cuda::{Cuda, CudaBuffer};
pub use device::{DeviceError, DeviceMemory, DeviceSum, Lent, Place, Span};
pub use host::HostMemory;
pub use library::{NcclLibrary, Version};
pub use member::Nccl;
pub use presence::{Presence, all_can};

/// How gradients are summed over slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reduction {
    /// By the fixed tree: the bits do not depend on the membership.
    Exact = 0,
    /// By `ncclAllReduce`: they do.
    Fast = 1,
}

/// How a generation sums over NCCL.
#[derive(Debug, Clone)]
pub struct NcclConfig {
    pub reduction: Reduction,
    /// How long taking up the device may take, and then making the communicator.
    pub deadline: Duration,
    /// Elements in one transfer, at most: a piece of the exact sum, a bucket of the fast one. The same at every
    /// member. An exact sum needs that much memory for each node of another member.
    pub chunk: usize,
}

/// The nodes of one vector on the device: [`Partial`] of gradients.
#[derive(Debug)]
pub struct DevicePartial<B> {
    /// Elements in the vector of every node, the same at every member.
    pub len: usize,
    pub nodes: BTreeMap<Node, B>,
}

/// What one member brings to a step, with gradients on the device: [`Contribution`](crate::Contribution).
#[derive(Debug)]
pub struct DeviceContribution<B> {
    /// Slots of the job: the tree's leaves.
    pub slots: u32,
    pub gradients: DevicePartial<B>,
    pub statistics: Partial<f64>,
    /// Flags for everybody; all members' flags are OR-ed.
    pub control: u64,
}

/// What every member gets from a step, with the gradient on the device: [`Reduced`](crate::Reduced).
#[derive(Debug)]
pub struct DeviceReduced<B> {
    pub gradients: B,
    pub statistics: Vec<f64>,
    pub control: u64,
}

// === impl Reduction ===

impl Reduction {
    fn decode(code: u32) -> Result<Self, String> {
        match code {
            0 => Ok(Self::Exact),
            1 => Ok(Self::Fast),
            _ => Err(format!("`{code}` is no reduction")),
        }
    }
}

// === impl NcclConfig ===

impl NcclConfig {
    /// 4 million elements in a transfer: 16 MiB, in which NCCL reaches a link's bandwidth.
    pub fn new(reduction: Reduction, deadline: Duration) -> Self {
        Self {
            reduction,
            deadline,
            chunk: 1 << 22,
        }
    }
}
