//! The numerics class: within one class, equal input gives equal bits.

use perennial_kernels::cpu::tiles;
use perennial_kernels::{ComputeDevice, DeviceError, KERNEL_SET, Precision};
use perennial_plan::spec;
use perennial_proto::rules::BF16_TILES;

/// The kind of processor, its vector unit and the kernel set. What kernels compute does not depend on a processor's caches,
/// so its model does not belong to the class.
pub fn numerics_class(device: ComputeDevice) -> Result<String, DeviceError> {
    let mut class = device.gpu_class()?.unwrap_or_else(cpu_class);
    if let Some(word) = crate::nccl::class_word(device) {
        class = format!("{class}, {word}");
    }
    if !device.is_gpu() && tiles::are_used() {
        class.push_str(BF16_TILES);
    }
    Ok(class)
}

fn cpu_class() -> String {
    format!("{} {}, {KERNEL_SET}", std::env::consts::ARCH, vector_unit())
}

/// What a job of this precision rounds the operands of its products to.
pub(crate) fn operands(precision: spec::Precision) -> Precision {
    match precision {
        spec::Precision::F32 => Precision::F32,
        spec::Precision::Bf16 => Precision::Bf16,
        spec::Precision::F16 => Precision::F16,
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_unit() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "avx512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "avx2"
    } else {
        "sse2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_unit() -> &'static str {
    "baseline"
}
