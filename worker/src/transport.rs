//! What carries the sums of a generation: the mesh of TCP connections alone, or NCCL beside it.
//!
//! An exact sum has the same bits over either. So members that cannot all use NCCL sum over TCP and say why.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use perennial_collective::{Collective, CollectiveError, Tcp};
use perennial_kernels::ComputeDevice;
use perennial_plan::Spec;
use perennial_plan::spec::Reduction;

use crate::error::WorkerError;
use crate::nccl::Nccl;

/// Generations in a row in which NCCL may fail before this worker leaves the job.
const ATTEMPTS: u32 = 3;

/// What carries a worker's sums, in all generations of a job.
#[derive(Debug)]
pub(crate) struct Transport {
    reduction: Reduction,
    nccl: Option<Nccl>,
    /// Generations in which NCCL failed since it last summed.
    failures: AtomicU32,
}

/// A member's collective, and what it is over.
pub(crate) struct Connected {
    pub collective: Box<dyn Collective>,
    pub over_nccl: bool,
}

/// Refuses a job whose sums a worker on `device` cannot do.
pub fn refuse_reduction(spec: &Spec, device: ComputeDevice) -> Result<(), WorkerError> {
    match spec.train.reduction {
        Reduction::Exact => Ok(()),
        Reduction::Fast => Transport::open(device, Reduction::Fast).map(drop),
    }
}

// === impl Transport ===

impl Transport {
    /// For workers that compute on `device`.
    pub fn open(device: ComputeDevice, reduction: Reduction) -> Result<Self, WorkerError> {
        let nccl = Nccl::of(device)?;
        if reduction == Reduction::Fast {
            let nccl = nccl.as_ref().ok_or(WorkerError::Reduction)?;
            nccl.is_there()?;
        }
        Ok(Self {
            reduction,
            nccl,
            failures: AtomicU32::new(0),
        })
    }

    /// The members that `mesh` has connected, ready to sum.
    pub fn connect(&self, mut mesh: Tcp) -> Result<Connected, CollectiveError> {
        let over_tcp = |mesh| Connected {
            collective: Box::new(mesh),
            over_nccl: false,
        };
        let Some(nccl) = self.nccl.as_ref().filter(|_| mesh.world_size() > 1) else {
            return Ok(over_tcp(mesh));
        };
        match nccl.ask(&mut mesh)? {
            Ok(()) => {
                let collective = nccl.connect(mesh, self.reduction)?;
                tracing::info!("sums go over {nccl}");
                Ok(Connected {
                    collective,
                    over_nccl: true,
                })
            }
            Err(reason) if self.reduction == Reduction::Fast => Err(CollectiveError::Unfit(reason)),
            Err(reason) => {
                tracing::warn!("sums go over TCP, because {reason}");
                Ok(over_tcp(mesh))
            }
        }
    }

    /// Takes note of a sum over NCCL that came about.
    pub fn summed(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Takes note of a failure. One that only NCCL knows breaks the generation, and the next one may do better; when
    /// that has been in vain, this worker gives up.
    pub fn failed(&self, error: &CollectiveError) -> Result<(), WorkerError> {
        if !matches!(
            error,
            CollectiveError::Nccl { .. } | CollectiveError::Overdue { .. }
        ) {
            return Ok(());
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        match failures {
            ATTEMPTS.. => Err(WorkerError::NcclFails {
                failures,
                last: error.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = if self.over_nccl { "NCCL" } else { "TCP" };
        write!(formatter, "Connected({over})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport() -> Transport {
        Transport::open(ComputeDevice::Cpu, Reduction::Exact).unwrap()
    }

    #[test]
    fn nccl_that_fails_again_and_again_makes_the_worker_leave_and_a_sum_in_between_does_not() {
        let failure = CollectiveError::Nccl {
            call: "ncclGroupEnd",
            reason: "unhandled system error".into(),
        };
        let transport = transport();
        for _ in 0..2 {
            assert!(transport.failed(&failure).is_ok());
        }
        transport.summed();
        for _ in 0..2 {
            assert!(transport.failed(&failure).is_ok());
        }
        let lost = CollectiveError::PeerLost {
            rank: 1,
            reason: String::new(),
        };
        assert!(transport.failed(&lost).is_ok(), "somebody else's fault");
        let error = transport.failed(&failure).unwrap_err();
        assert!(!error.is_fatal(), "the others go on");
        let said = error.to_string();
        assert!(said.contains("failed 3 times in a row"), "{said}");
        assert!(said.contains("unhandled system error"), "{said}");
    }

    #[test]
    fn fast_sums_are_refused_where_there_is_no_nccl() {
        let refused = Transport::open(ComputeDevice::Cpu, Reduction::Fast).unwrap_err();
        assert!(matches!(refused, WorkerError::Reduction), "{refused}");
    }
}
