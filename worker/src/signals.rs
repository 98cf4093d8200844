//! The process is asked to leave: a spot machine's notice, a scheduler, a person.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_session::{Report, Reporter};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::WorkerError;

/// The exit status of a process that SIGTERM ended.
const TERMINATED: i32 = 128 + 15;

/// Whether the process was asked to leave, and who tells the coordinator so.
#[derive(Clone, Default)]
pub(crate) struct Notice(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    asked: bool,
    reporter: Option<Reporter>,
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

    fn give(&self) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.asked = true;
        if let Some(reporter) = &asked.reporter {
            reporter.send(Report::Drain);
        }
    }
}
