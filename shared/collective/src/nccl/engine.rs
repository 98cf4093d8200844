//! The communicator's thread, and how everybody else waits for it.
//!
//! One thread makes all calls into NCCL and into the device. Who waits for it looks meanwhile whether the members
//! are all there, and gives up at the deadline even if that thread never comes back.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::communicator::Communicator;
use super::device::{DeviceError, DeviceMemory, DeviceSum};
use super::handle::{Fault, Handle};
use super::library::NcclLibrary;
use crate::error::CollectiveError;
use crate::tcp::Tcp;

/// How often a wait looks whether a member is lost.
const LOOK: Duration = Duration::from_millis(2);
/// How long the thread may take to abort before another one does it, and that one before nobody waits any more.
const GRACE: Duration = Duration::from_secs(2);
/// How long a member that NCCL says has failed elsewhere waits for the mesh to say where.
const BLAME: Duration = Duration::from_millis(500);
/// How long any other failure does: much shorter, so that the member where it happened is the first to leave.
const OWN_BLAME: Duration = Duration::from_millis(50);

/// What lives on the thread.
pub(super) struct Works<D: DeviceMemory> {
    pub communicator: Communicator,
    pub device: D,
    /// Why the device cannot be used.
    bound: Result<(), DeviceError>,
    /// Buffers to be used again.
    spare: Vec<D::Buffer>,
}

type Job<D> = Box<dyn FnOnce(&mut Works<D>) + Send>;

/// The thread, from outside. It ends when this is dropped and its last job is done.
pub(super) struct Engine<D: DeviceMemory> {
    jobs: Sender<Job<D>>,
    handle: Arc<Handle>,
    /// Nothing that is asked of it will be answered.
    stuck: bool,
}

// === impl Works ===

impl<D: DeviceMemory> Works<D> {
    /// A buffer of `len` elements with any values.
    pub fn buffer(&mut self, len: usize) -> Result<D::Buffer, Fault> {
        let device = &self.device;
        let fits = |buffer: &D::Buffer| device.span(buffer).len() == len;
        match self.spare.iter().position(fits) {
            Some(index) => Ok(self.spare.swap_remove(index)),
            None => Ok(self.device.allocate(len)?),
        }
    }

    /// Keeps buffers that nothing on the stream uses any more. A generation's sums need few lengths, so not many are
    /// kept.
    pub fn keep(&mut self, buffers: Vec<D::Buffer>) {
        self.spare.extend(buffers);
    }

    /// Waits for what was put on the stream, which uses `held`. When that fails, `held` is let go behind the abort and
    /// the end of the stream, or never.
    pub fn settle<T>(&mut self, put: Result<(), Fault>, held: T) -> Result<T, Fault> {
        let Self {
            communicator,
            device,
            ..
        } = self;
        let Err(fault) = put.and_then(|()| communicator.wait(device)) else {
            return Ok(held);
        };
        let failed = communicator.failed(fault);
        if !communicator.is_drained(device) {
            // Something on the stream may still use it.
            std::mem::forget(held);
        }
        failed
    }
}

// === impl Engine ===

impl<D: DeviceSum> Engine<D> {
    /// Starts the thread, which makes the device its own. `alone`: without a communicator.
    pub fn start(
        library: &Arc<NcclLibrary>,
        mut device: D,
        alone: bool,
    ) -> Result<Self, CollectiveError> {
        let handle = Handle::new(library);
        let shared = handle.clone();
        let (jobs, queue): (Sender<Job<D>>, Receiver<Job<D>>) = mpsc::channel();
        let work = move || {
            let bound = device.bind();
            let mut works = Works {
                communicator: Communicator::new(shared, device.stream(), alone),
                device,
                bound,
                spare: Vec::new(),
            };
            while let Ok(job) = queue.recv() {
                job(&mut works);
            }
        };
        let started = thread::Builder::new().name("nccl".to_owned()).spawn(work);
        started.map_err(|error| {
            CollectiveError::Device(format!("no thread can be started: {error}"))
        })?;
        Ok(Self {
            jobs,
            handle,
            stuck: false,
        })
    }

    /// Runs `job` on the thread, for `limit` at most. It is broken off when `mesh` says so. When anything goes
    /// wrong this member leaves the mesh before it waits for the abort, for an abort may wait for the other
    /// members': so they see at once that they have to.
    pub fn run<T: Send + 'static>(
        &mut self,
        mesh: &mut Tcp,
        limit: Duration,
        job: impl FnOnce(&mut Works<D>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, CollectiveError> {
        if self.stuck {
            return Err(CollectiveError::Broken);
        }
        let (sender, answer) = mpsc::channel();
        let work: Job<D> = Box::new(move |works| {
            let bound = works.bound.clone().map_err(Fault::from);
            let result = bound.and_then(|()| job(works));
            // Nobody waits who has given up.
            let _ = sender.send(result);
        });
        self.jobs.send(work).map_err(|_| ended())?;
        let end = Instant::now() + limit;
        let mut answered = false;
        let mut patience = OWN_BLAME;
        let why = loop {
            match answer.recv_timeout(LOOK) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(fault)) => {
                    answered = true;
                    patience = blame(&fault);
                    break fault.into();
                }
                Err(RecvTimeoutError::Disconnected) => break ended(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(fault) = self.handle.failure() {
                patience = blame(&fault);
                break fault.into();
            }
            if let Some(why) = mesh.over() {
                break why;
            }
            if Instant::now() >= end {
                // All members wait for each other, so nobody can say who is the cause.
                break CollectiveError::Overdue { limit };
            }
        };
        self.handle.stop();
        let why = match why {
            // A member that died makes NCCL fail, too, which cannot say who it was.
            CollectiveError::Nccl { .. } => mesh.loss_within(patience).unwrap_or(why),
            why => why,
        };
        mesh.leave();
        if !answered && is_silent(&answer) {
            self.abort_from_outside(&answer);
        }
        Err(why)
    }

    /// The thread does not come out of a call that must not block. An abort may hang, too, so it gets a
    /// thread of its own; in the worst case both stay behind, with all that NCCL may still write to.
    fn abort_from_outside<T>(&mut self, answer: &Receiver<T>) {
        tracing::warn!("a call into NCCL does not return; its communicator is aborted");
        let handle = self.handle.clone();
        let abort = move || {
            if let Err(fault) = handle.abort() {
                tracing::warn!(?fault, "a communicator could not be aborted");
            }
        };
        let started = (thread::Builder::new().name("nccl-abort".to_owned())).spawn(abort);
        self.stuck = started.is_err() || is_silent(answer);
        if self.stuck {
            tracing::error!(
                "a call into NCCL does not even end by an abort; its thread is left behind"
            );
        }
    }
}

fn blame(fault: &Fault) -> Duration {
    match fault {
        Fault::Call { remote: true, .. } => BLAME,
        _ => OWN_BLAME,
    }
}

fn is_silent<T>(answer: &Receiver<T>) -> bool {
    matches!(answer.recv_timeout(GRACE), Err(RecvTimeoutError::Timeout))
}

fn ended() -> CollectiveError {
    CollectiveError::Device("the thread of the communicator has ended".to_owned())
}
