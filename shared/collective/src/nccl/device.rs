//! The seam to the device: its memory, its stream, and the one kernel of the exact sum.
//!
//! A device is implemented where its kernels are. [`DeviceMemory`] is what any use of NCCL needs;
//! [`DeviceSum`] adds the kernel. Everything is called on one thread, the communicator's own.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::ops::Range;

/// Why a device did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// A range of f32 on the device: an address and a number of elements. It owns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    address: u64,
    len: usize,
}

/// Whose memory something lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Host,
    /// The GPU with this number, as the driver counts them.
    Cuda(usize),
}

/// f32 on a device that somebody else has allocated, to be read until this is dropped.
pub struct Lent {
    place: Place,
    span: Span,
    _owner: Box<dyn Any + Send>,
}

/// The memory of one device, and one stream on it.
///
/// # Safety
///
/// NCCL and kernels write through the addresses that [`DeviceMemory::span`] gives. So a span lies in memory of
/// the device that holds its buffer's f32, aligned for them, and stays there and is used by nobody else until
/// the buffer is dropped. A buffer may be dropped on any thread.
pub unsafe trait DeviceMemory: Send + 'static {
    /// A vector of f32 on the device.
    type Buffer: Send + 'static;

    /// Makes the device the calling thread's: NCCL works on the thread's current one. Called first, once.
    fn bind(&mut self) -> Result<(), DeviceError>;

    fn place(&self) -> Place;

    /// A vector of `len` elements with any values.
    fn allocate(&mut self, len: usize) -> Result<Self::Buffer, DeviceError>;

    /// All of a buffer.
    fn span(&self, buffer: &Self::Buffer) -> Span;

    /// Copies to the device, in the stream's order. `values` may be changed after it returned.
    fn upload(&mut self, values: &[f32], to: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// Makes all elements zero, in the stream's order. Called when nothing on the stream uses the buffer.
    fn clear(&mut self, buffer: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// Copies from the device. Called when the stream is idle, and returns when the values are there.
    fn download(&mut self, from: &Self::Buffer, values: &mut [f32]) -> Result<(), DeviceError>;

    /// `cudaStream_t` (`CUstream`) on which all of this and NCCL's work is put.
    fn stream(&self) -> *mut c_void;

    /// Whether all that was put on the stream is done. Never waits (`cuStreamQuery`): a stream on which NCCL
    /// hangs must leave the thread free to abort.
    fn is_idle(&mut self) -> Result<bool, DeviceError>;
}

/// The kernel of the exact sum.
///
/// # Safety
///
/// As [`DeviceMemory`]; and [`DeviceSum::add`] touches the elements of its two spans alone.
pub unsafe trait DeviceSum: DeviceMemory {
    /// Puts `left[i] += right[i]` on the stream, each one addition of two f32 rounded to nearest, subnormal numbers
    /// kept: to the bit what a CPU computes.
    ///
    /// # Safety
    ///
    /// Both spans are of buffers that live until the stream has come to it, as long as each other, and have
    /// no element in common.
    unsafe fn add(&mut self, left: Span, right: Span) -> Result<(), DeviceError>;
}

// === impl Lent ===

impl Lent {
    /// The `len` elements from `address` on.
    ///
    /// # Safety
    ///
    /// They lie in the memory of `place`, aligned for f32. Whatever writes them is done, and nothing changes them or
    /// their place as long as `owner` is not dropped.
    pub unsafe fn new(place: Place, address: u64, len: usize, owner: Box<dyn Any + Send>) -> Self {
        Self {
            place,
            span: Span::new(address, len),
            _owner: owner,
        }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.span.len()
    }

    pub fn is_empty(&self) -> bool {
        self.span.is_empty()
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }
}

impl From<Vec<f32>> for Lent {
    fn from(values: Vec<f32>) -> Self {
        let (address, len) = (values.as_ptr() as u64, values.len());
        // SAFETY: nobody but the box has the vector, whose elements stay where they are when it moves.
        unsafe { Self::new(Place::Host, address, len, Box::new(values)) }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Lent({} elements in {:?})",
            self.len(),
            self.place
        )
    }
}

// === impl Span ===

impl Span {
    /// `len` elements from `address` on.
    pub fn new(address: u64, len: usize) -> Self {
        Self { address, len }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements `range` of this one.
    pub(super) fn part(&self, range: &Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part lies inside its span"
        );
        Self {
            address: self.address + (range.start * size_of::<f32>()) as u64,
            len: range.len(),
        }
    }

    pub(super) fn pointer(&self) -> *mut c_void {
        self.address as *mut c_void
    }
}
