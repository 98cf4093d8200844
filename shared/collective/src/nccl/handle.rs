//! What other threads may know of a communicator, and do to it.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::DeviceError;
use super::library::{Functions, NcclLibrary};
use super::raw::{self, Status};
use crate::error::CollectiveError;

/// Why the communicator is of no further use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was told to end.
    Stopped,
    /// A call failed, at once or later.
    Call {
        call: &'static str,
        reason: String,
        /// NCCL says that it was not this member.
        remote: bool,
    },
    Device(DeviceError),
}

/// What other threads may do to a communicator.
#[derive(Debug)]
pub(super) struct Handle {
    library: Arc<NcclLibrary>,
    /// Null before it is there, and once somebody has taken it to end it.
    comm: AtomicPtr<c_void>,
    stop: AtomicBool,
    /// Why it is about to be aborted.
    failure: Mutex<Option<Fault>>,
    /// Held while it is aborted: who wants that, too, waits until it is.
    ending: Mutex<()>,
}

// === impl Fault ===

impl From<DeviceError> for Fault {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<Fault> for CollectiveError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Stopped => Self::Aborted,
            Fault::Call { call, reason, .. } => Self::Nccl { call, reason },
            Fault::Device(DeviceError(reason)) => Self::Device(reason),
        }
    }
}

// === impl Handle ===

impl Handle {
    pub fn new(library: &Arc<NcclLibrary>) -> Arc<Self> {
        Arc::new(Self {
            library: library.clone(),
            comm: AtomicPtr::new(ptr::null_mut()),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            ending: Mutex::new(()),
        })
    }

    /// Ends every wait of the communicator's thread, which then aborts it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn functions(&self) -> &Functions {
        &self.library.functions
    }

    /// Takes up what NCCL made, if it made anything.
    pub fn set(&self, comm: raw::Comm) {
        self.comm.store(comm, Ordering::SeqCst);
    }

    /// The communicator, unless it is not there yet or has been ended.
    pub fn comm(&self) -> Option<raw::Comm> {
        let comm = self.comm.load(Ordering::SeqCst);
        (!comm.is_null()).then_some(comm)
    }

    /// Says why it is about to be aborted.
    pub fn fails(&self, fault: &Fault) {
        *lock(&self.failure) = Some(fault.clone());
    }

    /// Why the communicator's thread is aborting it.
    pub fn failure(&self) -> Option<Fault> {
        lock(&self.failure).clone()
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Ends the communicator and whatever it does, unless that has been done. Also to be called from another
    /// thread than its own, though only when that one does not come out of a call into NCCL: the abort then
    /// raises the flag on which such a call gives up.
    pub fn abort(&self) -> Result<(), Fault> {
        let _ending = lock(&self.ending);
        let comm = self.comm.swap(ptr::null_mut(), Ordering::SeqCst);
        if comm.is_null() {
            return Ok(());
        }
        // SAFETY: NCCL made it, and whoever ends it takes it first, so it has not been freed. NCCL asks that
        // no other thread is in a call on it. This is the thread that makes all of them; or one did not come
        // back although a non-blocking call must, and nothing but this ends it.
        let status = unsafe { (self.library.functions.abort)(comm) };
        self.check("ncclCommAbort", status)
    }

    /// An error unless the call went well or goes on.
    pub fn check(&self, call: &'static str, status: Status) -> Result<(), Fault> {
        self.library.check(call, status)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
