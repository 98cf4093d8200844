//! A device that is host memory, with streams of the stand-in library.

use std::ffi::{c_int, c_void};

use perennial_collective::nccl::{DeviceError, DeviceMemory, DeviceSum, Span};

type New = unsafe extern "C" fn() -> *mut c_void;
type Idle = unsafe extern "C" fn(*mut c_void) -> c_int;
type Add = unsafe extern "C" fn(*mut c_void, *mut f32, *const f32, usize) -> c_int;

pub struct Host {
    stream: u64,
    idle: Idle,
    add: Add,
}

impl Host {
    /// A new stream of the library in `file`, if that is the stand-in.
    pub fn new(file: &str) -> Result<Self, libloading::Error> {
        // SAFETY: the stand-in has no initialisers, and the functions are of these types. It stays loaded.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(file)?));
            let new = library.get::<New>("standin_stream_new")?;
            Ok(Self {
                stream: new() as u64,
                idle: *library.get::<Idle>("standin_stream_idle")?,
                add: *library.get::<Add>("standin_stream_add")?,
            })
        }
    }
}

// SAFETY: a vector's memory stays where it is until it is dropped, and nothing else uses it.
unsafe impl DeviceMemory for Host {
    type Buffer = Vec<f32>;

    fn bind(&mut self) -> Result<(), DeviceError> {
        match std::env::var("NO_DEVICE") {
            Ok(reason) => Err(DeviceError(reason)),
            Err(_) => Ok(()),
        }
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
unsafe impl DeviceSum for Host {
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
