//! NVIDIA's driver, as far as sums need it, bound by hand like NCCL.
//!
//! All of it is in every driver since CUDA 11. The context is the device's primary one, which CUDA's runtime, NCCL and
//! CubeCL use as well: what one of them allocates the others may use.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::sync::{Arc, OnceLock};

use super::device::DeviceError;

/// Names of the library, in the order in which CubeCL's bindings try them: both must find the same one.
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// `CUresult`.
type Status = c_int;
/// Opaque: `CUcontext`, `CUstream`, `CUmodule`, `CUfunction`.
type Handle = *mut c_void;
/// `CUdeviceptr`.
pub(super) type Address = u64;

const OUT_OF_MEMORY: Status = 2;
/// `CUDA_ERROR_NOT_READY`: a stream is not idle yet.
const NOT_READY: Status = 600;
/// `CU_STREAM_NON_BLOCKING`: nothing on the default stream waits for it.
const NON_BLOCKING: c_uint = 1;
/// Bytes of `0000:01:00.0`, its end, and what a longer domain may add.
const BUS_ID: usize = 32;

functions! { Functions {
    init = "cuInit": unsafe extern "C" fn(c_uint) -> Status,
    error_name = "cuGetErrorName": unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
    device = "cuDeviceGet": unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    bus_id = "cuDeviceGetPCIBusId": unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
    retain = "cuDevicePrimaryCtxRetain": unsafe extern "C" fn(*mut Handle, c_int) -> Status,
    release = "cuDevicePrimaryCtxRelease_v2": unsafe extern "C" fn(c_int) -> Status,
    set_current = "cuCtxSetCurrent": unsafe extern "C" fn(Handle) -> Status,
    stream_create = "cuStreamCreate": unsafe extern "C" fn(*mut Handle, c_uint) -> Status,
    stream_destroy = "cuStreamDestroy_v2": unsafe extern "C" fn(Handle) -> Status,
    stream_query = "cuStreamQuery": unsafe extern "C" fn(Handle) -> Status,
    stream_synchronize = "cuStreamSynchronize": unsafe extern "C" fn(Handle) -> Status,
    allocate = "cuMemAlloc_v2": unsafe extern "C" fn(*mut Address, usize) -> Status,
    free = "cuMemFree_v2": unsafe extern "C" fn(Address) -> Status,
    upload = "cuMemcpyHtoDAsync_v2": unsafe extern "C" fn(Address, *const c_void, usize, Handle) -> Status,
    download = "cuMemcpyDtoHAsync_v2": unsafe extern "C" fn(*mut c_void, Address, usize, Handle) -> Status,
    set = "cuMemsetD8Async": unsafe extern "C" fn(Address, c_uchar, usize, Handle) -> Status,
    module_load = "cuModuleLoadData": unsafe extern "C" fn(*mut Handle, *const c_void) -> Status,
    module_unload = "cuModuleUnload": unsafe extern "C" fn(Handle) -> Status,
    module_function = "cuModuleGetFunction": unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Status,
    launch = "cuLaunchKernel": Launch,
} }

/// Function, blocks, threads of a block, shared memory, stream, pointers to the arguments, and nothing.
type Launch = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Status;

/// The primary context of one GPU.
pub(super) struct Context {
    functions: &'static Functions,
    device: c_int,
    /// `CUcontext`.
    context: u64,
}

/// A stream of its own, on which nothing else waits.
pub(super) struct Stream {
    context: Arc<Context>,
    /// `CUstream`.
    handle: u64,
}

/// A kernel, and the module that it is from.
pub(super) struct Kernel {
    context: Arc<Context>,
    /// `CUmodule` and `CUfunction`.
    module: u64,
    function: u64,
}

/// Memory of the device.
pub(super) struct Memory {
    context: Arc<Context>,
    address: Address,
}

/// The driver, loaded and started once.
fn functions() -> Result<&'static Functions, DeviceError> {
    static DRIVER: OnceLock<Result<Functions, DeviceError>> = OnceLock::new();
    let driver = DRIVER.get_or_init(Functions::load);
    driver.as_ref().map_err(Clone::clone)
}

// === impl Functions ===

impl Functions {
    fn load() -> Result<Self, DeviceError> {
        // SAFETY: loading the driver's library runs its initialisers, which any program that uses it does.
        let library = NAMES
            .iter()
            .find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
        let library = library.ok_or_else(|| {
            DeviceError(format!(
                "the NVIDIA driver's library was not found: looked for `{}`",
                NAMES.join("`, `")
            ))
        })?;
        // SAFETY: the types are those of `cuda.h`, and the library is never unloaded.
        let functions = unsafe { Self::find(&library) }
            .map_err(|name| DeviceError(format!("the NVIDIA driver has no function `{name}`")))?;
        std::mem::forget(library);
        // SAFETY: the flags must be zero.
        let status = unsafe { (functions.init)(0) };
        functions.check("cuInit", status)?;
        Ok(functions)
    }

    fn check(&self, call: &str, status: Status) -> Result<(), DeviceError> {
        if status == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: the function writes a pointer to a string that lives as long as the driver, or null.
        let name = unsafe {
            (self.error_name)(status, &mut name);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        };
        let name = name.unwrap_or_else(|| format!("status `{status}`"));
        Err(DeviceError(format!("{call} of the CUDA driver: {name}")))
    }
}

// === impl Context ===

impl Context {
    /// Of the GPU with the number `index`.
    pub fn new(index: usize) -> Result<Arc<Self>, DeviceError> {
        let functions = functions()?;
        let mut device = 0;
        let mut context: Handle = std::ptr::null_mut();
        // SAFETY: the function writes one number, for which there is place.
        let status = unsafe { (functions.device)(&mut device, index as c_int) };
        functions.check("cuDeviceGet", status)?;
        // SAFETY: the device is one that the driver gave; the function writes one handle.
        let status = unsafe { (functions.retain)(&mut context, device) };
        functions.check("cuDevicePrimaryCtxRetain", status)?;
        Ok(Arc::new(Self {
            functions,
            device,
            context: context as u64,
        }))
    }

    /// Where the GPU is in this machine: `0000:01:00.0`.
    pub fn bus_id(&self) -> Result<String, DeviceError> {
        let mut text: [c_char; BUS_ID] = [0; BUS_ID];
        // SAFETY: the function writes at most as many bytes as it is told, the last of them zero.
        let text = unsafe {
            let status = (self.functions.bus_id)(text.as_mut_ptr(), BUS_ID as c_int, self.device);
            self.functions.check("cuDeviceGetPCIBusId", status)?;
            CStr::from_ptr(text.as_ptr())
        };
        Ok(text.to_string_lossy().into_owned())
    }

    /// Makes it the calling thread's.
    pub fn set_current(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is there as long as this is.
        let status = unsafe { (self.functions.set_current)(self.context as Handle) };
        self.functions.check("cuCtxSetCurrent", status)
    }

    /// Memory for so many bytes, of which there is one at least.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Memory, DeviceError> {
        let mut address = 0;
        self.set_current()?;
        // SAFETY: the function writes one address, for which there is place.
        let status = unsafe { (self.functions.allocate)(&mut address, bytes.max(1)) };
        if status == OUT_OF_MEMORY {
            return Err(DeviceError(format!(
                "the GPU's memory is full: there is no room for `{bytes}` bytes of a sum; lower `train.batch_size`, or \
                 raise `train.slots`: slots are computed one by one"
            )));
        }
        self.functions.check("cuMemAlloc", status)?;
        Ok(Memory {
            context: self.clone(),
            address,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once, and nothing of it is left. What the driver says to that changes nothing.
        unsafe { (self.functions.release)(self.device) };
    }
}

// === impl Stream ===

impl Stream {
    pub fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let mut handle: Handle = std::ptr::null_mut();
        context.set_current()?;
        // SAFETY: the function writes one handle, for which there is place.
        let status = unsafe { (context.functions.stream_create)(&mut handle, NON_BLOCKING) };
        context.functions.check("cuStreamCreate", status)?;
        Ok(Self {
            context: context.clone(),
            handle: handle as u64,
        })
    }

    pub fn handle(&self) -> *mut c_void {
        self.handle as Handle
    }

    /// Whether all that was put on it is done.
    pub fn is_idle(&self) -> Result<bool, DeviceError> {
        let functions = self.context.functions;
        // SAFETY: the stream is there as long as this is.
        match unsafe { (functions.stream_query)(self.handle()) } {
            NOT_READY => Ok(false),
            status => functions.check("cuStreamQuery", status).map(|()| true),
        }
    }

    /// Copies to the device. The driver has read `values` when it returns, for they are in pageable memory.
    pub fn upload(&self, values: &[f32], to: &Memory) -> Result<(), DeviceError> {
        let functions = self.context.functions;
        // SAFETY: the memory is as long as the values, which its owner has checked.
        let status = unsafe {
            (functions.upload)(
                to.address,
                values.as_ptr().cast(),
                size_of_val(values),
                self.handle(),
            )
        };
        functions.check("cuMemcpyHtoDAsync", status)
    }

    /// Makes the first `bytes` of `memory` zero.
    pub fn clear(&self, memory: &Memory, bytes: usize) -> Result<(), DeviceError> {
        let functions = self.context.functions;
        // SAFETY: the memory has so many bytes, which its owner has checked.
        let status = unsafe { (functions.set)(memory.address, 0, bytes, self.handle()) };
        functions.check("cuMemsetD8Async", status)
    }

    /// Copies from the device, and waits for that: to be called when nothing else is on the stream.
    pub fn download(&self, from: &Memory, values: &mut [f32]) -> Result<(), DeviceError> {
        let functions = self.context.functions;
        // SAFETY: the memory is as long as the values, which its owner has checked, and nothing writes to either
        // before the stream is done.
        let status = unsafe {
            (functions.download)(
                values.as_mut_ptr().cast(),
                from.address,
                size_of_val(values),
                self.handle(),
            )
        };
        functions.check("cuMemcpyDtoHAsync", status)?;
        // SAFETY: the stream is there as long as this is.
        let status = unsafe { (functions.stream_synchronize)(self.handle()) };
        functions.check("cuStreamSynchronize", status)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.set_current().is_ok() {
            // SAFETY: nobody else has it. The driver frees it once what is on it is done, and does not wait for that.
            unsafe { (self.context.functions.stream_destroy)(self.handle()) };
        }
    }
}

// === impl Kernel ===

impl Kernel {
    /// The kernel `name` of a module in PTX, which the driver compiles for its GPU.
    pub fn new(context: &Arc<Context>, ptx: &CStr, name: &CStr) -> Result<Self, DeviceError> {
        let functions = context.functions;
        let (mut module, mut function): (Handle, Handle) =
            (std::ptr::null_mut(), std::ptr::null_mut());
        context.set_current()?;
        // SAFETY: the image is text that ends in zero; the function writes one handle.
        let status = unsafe { (functions.module_load)(&mut module, ptx.as_ptr().cast()) };
        functions.check("cuModuleLoadData", status)?;
        let mut kernel = Self {
            context: context.clone(),
            module: module as u64,
            function: 0,
        };
        // SAFETY: the module is there; the name ends in zero; the function writes one handle.
        let status = unsafe { (functions.module_function)(&mut function, module, name.as_ptr()) };
        functions.check("cuModuleGetFunction", status)?;
        kernel.function = function as u64;
        Ok(kernel)
    }

    /// Puts it on a stream, with `blocks` of `threads`.
    ///
    /// # Safety
    /// The arguments are those of the kernel, eight bytes each, and it may do what it does with them.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        blocks: u32,
        threads: u32,
        arguments: &mut [u64],
    ) -> Result<(), DeviceError> {
        let functions = self.context.functions;
        let pointers = arguments.iter_mut();
        let mut pointers: Vec<*mut c_void> = pointers
            .map(|argument| (argument as *mut u64).cast())
            .collect();
        // SAFETY: the caller's promise; the driver has copied the arguments when it returns.
        let status = unsafe {
            (functions.launch)(
                self.function as Handle,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream.handle(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        functions.check("cuLaunchKernel", status)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.context.set_current().is_ok() {
            // SAFETY: nobody else has it, and the stream that it was put on is idle or given up.
            unsafe { (self.context.functions.module_unload)(self.module as Handle) };
        }
    }
}

// === impl Memory ===

impl Memory {
    pub fn address(&self) -> Address {
        self.address
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.set_current().is_ok() {
            // SAFETY: nobody else has it. The driver waits for what uses it.
            unsafe { (self.context.functions.free)(self.address) };
        }
    }
}
