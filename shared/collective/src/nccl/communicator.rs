//! One NCCL communicator, never waited for blindly.
//!
//! It belongs to one thread. No call blocks: after each, its state is asked for until it is done, and every
//! look also asks whether somebody wants all of it to end.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::device::{DeviceMemory, Span};
use super::handle::{Fault, Handle};
use super::raw::{self, Stream};

/// How often a wait looks again before it lets the processor go.
const SPINS: u32 = 2000;
const PAUSE: Duration = Duration::from_micros(50);
/// How long a stream may take to come to its end after an abort.
const DRAIN: Duration = Duration::from_secs(1);

/// The communicator, on its thread.
#[derive(Debug)]
pub(super) struct Communicator {
    handle: Arc<Handle>,
    stream: Stream,
    /// A member without others needs no communicator, and its stream is watched all the same.
    alone: bool,
}

/// Between the start and the end of a group, which must be on one thread: it cannot be sent to another one.
pub(super) struct Group<'a> {
    communicator: &'a Communicator,
    comm: raw::Comm,
    on_one_thread: PhantomData<*const ()>,
}

/// Looks again and again: at once for a short while, then with pauses.
pub(super) struct Watch<'a> {
    handle: &'a Handle,
    looks: u32,
}

// === impl Communicator ===

impl Communicator {
    /// Before it is there: [`Self::init`] makes it.
    pub fn new(handle: Arc<Handle>, stream: Stream, alone: bool) -> Self {
        Self {
            handle,
            stream,
            alone,
        }
    }

    /// Meets the other members at `id`. The calling thread's current device is the communicator's.
    pub fn init(&self, id: raw::UniqueId, rank: usize, world_size: usize) -> Result<(), Fault> {
        let call = "ncclCommInitRankConfig";
        let mut config = raw::Config::non_blocking();
        let mut comm: raw::Comm = ptr::null_mut();
        // SAFETY: the pointers are to one communicator and one configuration of the size that it says; NCCL
        // copies the configuration before it returns.
        let status = unsafe {
            let functions = &self.handle.functions();
            (functions.init_rank)(
                &mut comm,
                world_size as c_int,
                id,
                rank as c_int,
                &mut config,
            )
        };
        self.handle.set(comm);
        self.handle.check(call, status)?;
        self.settle(call)
    }

    /// Puts several calls on the stream as one, so that sends and receives wait for each other in no order.
    pub fn group(&self, calls: impl FnOnce(&Group<'_>) -> Result<(), Fault>) -> Result<(), Fault> {
        let call = "ncclGroupEnd";
        let functions = &self.handle.functions();
        let group = Group {
            communicator: self,
            comm: self.comm()?,
            on_one_thread: PhantomData,
        };
        // SAFETY: it only marks this thread, and the end below comes whatever happens between.
        let started = unsafe { (functions.group_start)() };
        self.handle.check("ncclGroupStart", started)?;
        let made = calls(&group);
        // SAFETY: the group was started on this thread.
        let ended = unsafe { (functions.group_end)() };
        made?;
        self.handle.check(call, ended)?;
        // Nothing else may be put on the stream before the whole group is there.
        self.settle(call)
    }

    /// Waits until all of the stream is done. A blind wait for the stream would never end when a peer is gone.
    pub fn wait<D: DeviceMemory>(&self, device: &mut D) -> Result<(), Fault> {
        let call = "ncclCommGetAsyncError";
        let mut watch = self.watch();
        while !device.is_idle()? {
            self.state(call)?;
            watch.again()?;
        }
        // What failed may have left the stream idle all the same: then nothing is known of the buffers.
        self.settle(call)
    }

    /// Aborts the communicator because of `fault`, which others hear first. Whoever calls it lets go what NCCL may
    /// still write to behind that, and not before.
    pub fn failed<T>(&self, fault: Fault) -> Result<T, Fault> {
        self.handle.fails(&fault);
        if let Err(second) = self.abort() {
            tracing::warn!(?second, "a communicator could not be aborted");
        }
        Err(fault)
    }

    /// Whether the stream is done, after an abort, with what was put on it behind what failed.
    pub fn is_drained<D: DeviceMemory>(&self, device: &mut D) -> bool {
        let end = Instant::now() + DRAIN;
        loop {
            match device.is_idle() {
                Ok(true) => return true,
                Ok(false) if Instant::now() < end => thread::sleep(PAUSE),
                _ => return false,
            }
        }
    }

    pub fn abort(&self) -> Result<(), Fault> {
        self.handle.abort()
    }

    fn comm(&self) -> Result<raw::Comm, Fault> {
        self.handle.comm().ok_or(Fault::Stopped)
    }

    fn watch(&self) -> Watch<'_> {
        Watch {
            handle: &self.handle,
            looks: 0,
        }
    }

    /// Waits until the last call is no longer in progress.
    fn settle(&self, call: &'static str) -> Result<(), Fault> {
        let mut watch = self.watch();
        while !self.state(call)? {
            watch.again()?;
        }
        Ok(())
    }

    /// Whether the last call is done; an error when anything failed since the communicator was made.
    fn state(&self, call: &'static str) -> Result<bool, Fault> {
        if self.alone {
            return Ok(true);
        }
        let mut state = raw::SUCCESS;
        // SAFETY: NCCL made the communicator, and the state has its place.
        let asked = unsafe { (self.handle.functions().get_async_error)(self.comm()?, &mut state) };
        self.handle.check(call, asked)?;
        self.handle.check(call, state)?;
        Ok(state != raw::IN_PROGRESS)
    }
}

impl Drop for Communicator {
    /// Only what was not closed is still there.
    fn drop(&mut self) {
        if let Err(fault) = self.abort() {
            tracing::warn!(?fault, "a communicator could not be aborted");
        }
    }
}

// === impl Group ===

impl Group<'_> {
    /// # Safety
    /// The span is of a buffer that lives, and that nobody changes, until the stream is idle.
    pub unsafe fn send(&self, span: Span, peer: usize) -> Result<(), Fault> {
        let handle = &self.communicator.handle;
        // SAFETY: the caller's promise; the communicator lives as long as the group.
        let status = unsafe {
            (handle.functions().send)(
                span.pointer(),
                span.len(),
                raw::FLOAT32,
                peer as c_int,
                self.comm,
                self.communicator.stream,
            )
        };
        handle.check("ncclSend", status)
    }

    /// # Safety
    /// The span is of a buffer that lives, and that nobody else uses, until the stream is idle.
    pub unsafe fn receive(&self, span: Span, peer: usize) -> Result<(), Fault> {
        let handle = &self.communicator.handle;
        // SAFETY: the caller's promise; the communicator lives as long as the group.
        let status = unsafe {
            (handle.functions().receive)(
                span.pointer(),
                span.len(),
                raw::FLOAT32,
                peer as c_int,
                self.comm,
                self.communicator.stream,
            )
        };
        handle.check("ncclRecv", status)
    }

    /// Sums the span of all members, into each one's.
    ///
    /// # Safety
    /// The span is of a buffer that lives, and that nobody else uses, until the stream is idle.
    pub unsafe fn all_reduce(&self, span: Span) -> Result<(), Fault> {
        let handle = &self.communicator.handle;
        // SAFETY: the caller's promise; NCCL allows the sum in place; the communicator lives as long as the
        // group.
        let status = unsafe {
            (handle.functions().all_reduce)(
                span.pointer(),
                span.pointer(),
                span.len(),
                raw::FLOAT32,
                raw::SUM,
                self.comm,
                self.communicator.stream,
            )
        };
        handle.check("ncclAllReduce", status)
    }
}

// === impl Watch ===

impl Watch<'_> {
    /// A moment later, unless all of it is to end.
    fn again(&mut self) -> Result<(), Fault> {
        if self.handle.is_stopped() {
            return Err(Fault::Stopped);
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks < SPINS {
            thread::yield_now();
        } else {
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}
