//! The process is asked to leave: by a spot machine's notice, a scheduler, a person, or because its GPU has failed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use perennial_kernels::{ComputeDevice, DeviceError};
use perennial_proto::v1::DeviceMemory;
use perennial_session::{Report, Reporter};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::WorkerError;

/// The exit status of a process that SIGTERM ended.
const TERMINATED: i32 = 128 + 15;
/// How long the job may take to let a worker go whose GPU has failed. Its step may never end.
const LAST_STEP: Duration = Duration::from_secs(5);
/// How often the coordinator is told what the GPU holds.
const MEMORY_TOLD: Duration = Duration::from_secs(2);

/// Whether the process was asked to leave, and who tells the coordinator so.
#[derive(Clone, Default)]
pub(crate) struct Notice(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    asked: bool,
    reporter: Option<Reporter>,
}

/// Whether the worker's device has failed.
#[derive(Clone, Default)]
pub(crate) struct Health {
    notice: Notice,
    failure: Arc<OnceLock<String>>,
}

// === impl Health ===

impl Health {
    /// From now on a failure of the device asks the coordinator to let this worker go, and ends the process when that
    /// takes too long; and what its memory holds is told again and again.
    pub fn watch(device: ComputeDevice) -> Self {
        let health = Self::default();
        let told = health.clone();
        let failed = move |reason: String| {
            tracing::error!("the device `{device}` failed: {reason}; this worker leaves");
            told.fails(reason);
            std::thread::sleep(LAST_STEP);
            tracing::error!("the job did not let this worker go; it leaves regardless");
            std::process::exit(1);
        };
        if let Err(reason) = device.watch(failed) {
            tracing::warn!("nobody watches for failures of `{device}`: {reason}");
        }
        let notice = health.notice.clone();
        let holds = move |memory: perennial_kernels::device::DeviceMemory| {
            notice.report(Report::DeviceMemory(DeviceMemory {
                used: memory.used,
                total: memory.total,
                peak: memory.peak,
            }));
        };
        if let Err(reason) = device.watch_memory(MEMORY_TOLD, holds) {
            tracing::warn!("nobody watches the memory of `{device}`: {reason}");
        }
        health
    }

    /// The session at hand tells the coordinator from now on.
    pub fn pass_on_to(&self, reporter: Reporter) {
        self.notice.pass_on_to(reporter);
    }

    /// An error once the device has failed.
    pub fn check(&self) -> Result<(), DeviceError> {
        match self.failure.get() {
            Some(reason) => Err(DeviceError::Failed(reason.clone())),
            None => Ok(()),
        }
    }

    fn fails(&self, reason: String) {
        // Only the first one is of interest.
        let _ = self.failure.set(reason);
        self.notice.give();
    }
}

// === impl Notice ===

impl Notice {
    /// From now on SIGTERM asks the coordinator to let this worker go. After `grace`, or at a second signal,
    /// the process ends regardless.
    pub fn listen(grace: Duration) -> Result<Self, WorkerError> {
        let failed = |error: std::io::Error| WorkerError::Thread(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        // Registered before this returns, so that no signal comes too early.
        let entered = runtime.enter();
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        drop(entered);
        let notice = Self::default();
        let given = notice.clone();
        let wait = async move {
            terminate.recv().await;
            tracing::info!("asked to leave; the coordinator is told");
            given.give();
            tokio::select! {
                () = tokio::time::sleep(grace) => tracing::warn!(
                    "the job did not let this worker go within {} s; it leaves regardless",
                    grace.as_secs()
                ),
                _ = terminate.recv() => tracing::warn!("asked to leave twice; it leaves at once"),
            }
            std::process::exit(TERMINATED);
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(wait))
            .map_err(failed)?;
        Ok(notice)
    }

    /// The session at hand tells the coordinator from now on, at once if the notice came already.
    pub fn pass_on_to(&self, reporter: Reporter) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.asked {
            reporter.send(Report::Drain);
        }
        asked.reporter = Some(reporter);
    }

    /// Tells the coordinator at hand, if there is one.
    fn report(&self, report: Report) {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reporter) = &asked.reporter {
            reporter.send(report);
        }
    }

    fn give(&self) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.asked = true;
        if let Some(reporter) = &asked.reporter {
            reporter.send(Report::Drain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_failed_is_an_error_that_says_how() {
        let health = Health::watch(ComputeDevice::Cpu);
        assert_eq!(health.check(), Ok(()));
        health.fails("the driver reports Xid 79".into());
        health.fails("the driver reports Xid 45".into());
        assert_eq!(
            health.check().unwrap_err().to_string(),
            "the device failed: the driver reports Xid 79"
        );
    }
}
