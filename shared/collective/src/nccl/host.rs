//! A device that is host memory, with the streams of the stand-in for NCCL: for machines without a GPU.

use std::ffi::{c_int, c_void};

use super::device::{DeviceError, DeviceMemory, DeviceSum, Place, Span};
use super::library::NcclLibrary;
use crate::error::CollectiveError;

type New = unsafe extern "C" fn() -> *mut c_void;
type Idle = unsafe extern "C" fn(*mut c_void) -> c_int;
type Add = unsafe extern "C" fn(*mut c_void, *mut f32, *const f32, usize) -> c_int;

/// Host memory in the place of a device's. Only the stand-in for NCCL can work on it.
#[derive(Debug)]
pub struct HostMemory {
    /// `cudaStream_t` of the stand-in; zero where it has none to give.
    stream: u64,
    idle: Idle,
    add: Add,
}

// === impl HostMemory ===

impl HostMemory {
    /// A new stream of the library, if that is the stand-in.
    pub fn of(library: &NcclLibrary) -> Result<Self, CollectiveError> {
        // SAFETY: only the stand-in has functions of these names, and they are of these types.
        let functions = unsafe {
            let new = library.function::<New>("standin_stream_new");
            let idle = library.function::<Idle>("standin_stream_idle");
            let add = library.function::<Add>("standin_stream_add");
            new.zip(idle).zip(add)
        };
        let ((new, idle), add) = functions.ok_or_else(|| {
            CollectiveError::Library(format!(
                "`{}` is no stand-in for NCCL, and nothing else can sum what lies in host memory",
                library.file()
            ))
        })?;
        // SAFETY: it takes nothing.
        let stream = unsafe { new() } as u64;
        Ok(Self { stream, idle, add })
    }
}

// SAFETY: a vector's memory stays where it is until it is dropped, and nothing else uses it.
unsafe impl DeviceMemory for HostMemory {
    type Buffer = Vec<f32>;

    fn bind(&mut self) -> Result<(), DeviceError> {
        match self.stream {
            0 => Err(DeviceError("the stand-in has no device".to_owned())),
            _ => Ok(()),
        }
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn allocate(&mut self, len: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(vec![f32::NAN; len])
    }

    fn span(&self, buffer: &Vec<f32>) -> Span {
        Span::new(buffer.as_ptr() as u64, buffer.len())
    }

    fn upload(&mut self, values: &[f32], to: &mut Vec<f32>) -> Result<(), DeviceError> {
        to.copy_from_slice(values);
        Ok(())
    }

    fn clear(&mut self, buffer: &mut Vec<f32>) -> Result<(), DeviceError> {
        buffer.fill(0.0);
        Ok(())
    }

    fn download(&mut self, from: &Vec<f32>, values: &mut [f32]) -> Result<(), DeviceError> {
        values.copy_from_slice(from);
        Ok(())
    }

    fn stream(&self) -> *mut c_void {
        self.stream as *mut c_void
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        // SAFETY: the stream is the library's own.
        Ok(unsafe { (self.idle)(self.stream()) } != 0)
    }
}

// SAFETY: the stand-in adds the elements of the two spans.
unsafe impl DeviceSum for HostMemory {
    unsafe fn add(&mut self, left: Span, right: Span) -> Result<(), DeviceError> {
        assert_eq!(left.len(), right.len());
        // SAFETY: the caller's promise.
        let status = unsafe {
            (self.add)(
                self.stream(),
                left.address() as *mut f32,
                right.address() as *const f32,
                left.len(),
            )
        };
        match status {
            0 => Ok(()),
            status => Err(DeviceError(format!("a kernel came too early: `{status}`"))),
        }
    }
}
