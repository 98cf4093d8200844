//! Listens to the coordinator while the training thread works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use perennial_collective::AbortHandle;

use crate::error::WorkerError;
use crate::session::{SessionEvent, SessionHandle};

/// What was heard.
#[derive(Default)]
struct Heard {
    stop: AtomicBool,
    /// Set once: how the job ended for this worker.
    end: Mutex<Option<Result<(), String>>>,
    ended: Condvar,
}

/// A thread that hears stops and ends, and cuts a waiting collective off when the job is over.
pub(crate) struct Ears {
    heard: Arc<Heard>,
    abort: AbortHandle,
}

// === impl Ears ===

impl Ears {
    pub fn new(session: SessionHandle) -> Self {
        let heard = Arc::new(Heard::default());
        let abort = AbortHandle::new();
        let ears = Self {
            heard: heard.clone(),
            abort: abort.clone(),
        };
        std::thread::spawn(move || {
            let end = loop {
                match session.recv() {
                    SessionEvent::StopRequested => heard.stop.store(true, Ordering::Relaxed),
                    SessionEvent::End { error: None } => break Ok(()),
                    SessionEvent::End { error: Some(error) } => break Err(error),
                    SessionEvent::Lost(reason) => break Err(reason),
                    SessionEvent::Welcome { .. } | SessionEvent::Start(_) => {}
                }
            };
            abort.abort();
            *heard
                .end
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(end);
            heard.ended.notify_all();
        });
        ears
    }

    /// Ends whatever collective waits on it once the job is over.
    pub fn abort_handle(&self) -> &AbortHandle {
        &self.abort
    }

    /// Whether the coordinator wants the job to stop after a step.
    pub fn stop_requested(&self) -> bool {
        self.heard.stop.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.heard
            .end
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .is_some()
    }

    /// Waits until the coordinator says that the job is over, and how.
    pub fn wait_for_end(&self) -> Result<(), WorkerError> {
        let end = self
            .heard
            .end
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let end = self
            .heard
            .ended
            .wait_while(end, |end| end.is_none())
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        end.clone().unwrap_or(Ok(())).map_err(WorkerError::Ended)
    }
}
