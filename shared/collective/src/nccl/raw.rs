//! What of NCCL's C interface is used, after `nccl.h` of 2.14 to 2.30.
//!
//! Results are plain numbers and no Rust enum: a later NCCL may return one that is not known here.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `ncclComm_t`, opaque.
pub(super) type Comm = *mut c_void;
/// `cudaStream_t`, which is the driver's `CUstream`.
pub(super) type Stream = *mut c_void;
/// `ncclResult_t`.
pub(super) type Status = c_int;

pub(super) const SUCCESS: Status = 0;
/// A peer exited, or the network between failed.
pub(super) const REMOTE_ERROR: Status = 6;
pub(super) const IN_PROGRESS: Status = 7;
/// `ncclFloat32`.
pub(super) const FLOAT32: c_int = 7;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// Bytes of a unique id.
pub(super) const UNIQUE_ID: usize = 128;

/// `ncclUniqueId`: where the members of one communicator meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct UniqueId {
    pub internal: [u8; UNIQUE_ID],
}

/// `ncclConfig_t` as 2.14 had it, the first with one. A later NCCL takes as many bytes as `size` says, and its
/// own defaults for what came after `version`: so one layout serves them all.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// Padding in 2.14, `cgaClusterSize` later.
    undefined: c_int,
}

// === impl Config ===

impl Config {
    /// A communicator whose calls return at once, also while it is being made.
    pub fn non_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21400,
            blocking: 0,
            undefined: c_int::MIN,
        }
    }
}

pub(super) type GetVersion = unsafe extern "C" fn(*mut c_int) -> Status;
pub(super) type GetErrorString = unsafe extern "C" fn(Status) -> *const c_char;
pub(super) type GetLastError = unsafe extern "C" fn(Comm) -> *const c_char;
pub(super) type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> Status;
pub(super) type InitRank =
    unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Status;
pub(super) type GetAsyncError = unsafe extern "C" fn(Comm, *mut Status) -> Status;
pub(super) type Abort = unsafe extern "C" fn(Comm) -> Status;
/// Start and end of a group.
pub(super) type OfGroup = unsafe extern "C" fn() -> Status;
pub(super) type Send =
    unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> Status;
pub(super) type Receive =
    unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
pub(super) type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
