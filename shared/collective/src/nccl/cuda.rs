//! An NVIDIA GPU: its memory, a stream of its own, and the addition of the exact sum.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::sync::Arc;

use super::device::{DeviceError, DeviceMemory, DeviceSum, Place, Span};
use super::driver::{Context, Kernel, Memory, Stream};

/// The addition, in the driver's own language: it needs no compiler. Without `.ftz`, subnormal numbers are kept.
const PTX: &CStr = c"\
.version 7.0
.target sm_75
.address_size 64

.visible .entry perennial_add(.param .u64 left, .param .u64 right, .param .u64 count)
{
    .reg .pred %outside;
    .reg .b32 %block, %threads, %thread;
    .reg .b64 %index, %end, %offset, %to, %from;
    .reg .f32 %a, %b;

    mov.u32 %block, %ctaid.x;
    mov.u32 %threads, %ntid.x;
    mov.u32 %thread, %tid.x;
    mul.wide.u32 %index, %block, %threads;
    cvt.u64.u32 %offset, %thread;
    add.u64 %index, %index, %offset;
    ld.param.u64 %end, [count];
    setp.ge.u64 %outside, %index, %end;
    @%outside bra DONE;
    shl.b64 %offset, %index, 2;
    ld.param.u64 %to, [left];
    ld.param.u64 %from, [right];
    cvta.to.global.u64 %to, %to;
    cvta.to.global.u64 %from, %from;
    add.u64 %to, %to, %offset;
    add.u64 %from, %from, %offset;
    ld.global.f32 %a, [%to];
    ld.global.f32 %b, [%from];
    add.rn.f32 %a, %a, %b;
    st.global.f32 [%to], %a;
DONE:
    ret;
}
";
const ADD: &CStr = c"perennial_add";
/// Threads of a block.
const THREADS: usize = 256;

/// A GPU.
pub struct Cuda {
    index: usize,
    context: Arc<Context>,
    stream: Stream,
    add: Kernel,
}

/// A vector of f32 in a GPU's memory.
pub struct CudaBuffer {
    memory: Memory,
    len: usize,
}

// === impl Cuda ===

impl Cuda {
    /// The GPU with the number `index`, as the driver counts them.
    pub fn open(index: usize) -> Result<Self, DeviceError> {
        let context = Context::new(index)?;
        Ok(Self {
            index,
            stream: Stream::new(&context)?,
            add: Kernel::new(&context, PTX, ADD)?,
            context,
        })
    }

    /// Where GPU `index` is in this machine, which is how NCCL tells GPUs apart: `0000:01:00.0`.
    pub fn place(index: usize) -> Result<String, DeviceError> {
        Context::new(index)?.bus_id()
    }
}

// SAFETY: a buffer's memory is the driver's, aligned to 256 bytes, stays where it is until the buffer is dropped, and
// nothing else has its address.
unsafe impl DeviceMemory for Cuda {
    type Buffer = CudaBuffer;

    fn bind(&mut self) -> Result<(), DeviceError> {
        self.context.set_current()
    }

    fn place(&self) -> Place {
        Place::Cuda(self.index)
    }

    fn allocate(&mut self, len: usize) -> Result<CudaBuffer, DeviceError> {
        let memory = self.context.allocate(len * size_of::<f32>())?;
        Ok(CudaBuffer { memory, len })
    }

    fn span(&self, buffer: &CudaBuffer) -> Span {
        Span::new(buffer.memory.address(), buffer.len)
    }

    fn upload(&mut self, values: &[f32], to: &mut CudaBuffer) -> Result<(), DeviceError> {
        assert_eq!(values.len(), to.len, "a buffer is as long as its values");
        self.stream.upload(values, &to.memory)
    }

    fn clear(&mut self, buffer: &mut CudaBuffer) -> Result<(), DeviceError> {
        let bytes = buffer.len * size_of::<f32>();
        self.stream.clear(&buffer.memory, bytes)
    }

    fn download(&mut self, from: &CudaBuffer, values: &mut [f32]) -> Result<(), DeviceError> {
        assert_eq!(values.len(), from.len, "values are as long as their buffer");
        self.stream.download(&from.memory, values)
    }

    fn stream(&self) -> *mut c_void {
        self.stream.handle()
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.stream.is_idle()
    }
}

// SAFETY: the kernel reads and writes the `count` elements of its two places alone.
unsafe impl DeviceSum for Cuda {
    unsafe fn add(&mut self, left: Span, right: Span) -> Result<(), DeviceError> {
        assert_eq!(left.len(), right.len());
        let blocks = u32::try_from(left.len().div_ceil(THREADS));
        let blocks = blocks.map_err(|_| DeviceError("a vector is too long".to_owned()))?;
        if blocks == 0 {
            return Ok(());
        }
        let mut arguments = [left.address(), right.address(), left.len() as u64];
        // SAFETY: these are the kernel's arguments; the rest is the caller's promise.
        unsafe {
            self.add
                .launch(&self.stream, blocks, THREADS as u32, &mut arguments)
        }
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Cuda")
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, len) = (self.memory.address(), self.len);
        write!(formatter, "CudaBuffer({len} elements at {address:#x})")
    }
}
