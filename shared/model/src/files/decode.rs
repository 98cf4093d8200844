//! From a file's bytes (little-endian, row-major) to numbers.

use half::{bf16, f16};

use super::TensorData;

/// The element types that networks are saved in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
}

// === impl Element ===

impl Element {
    pub fn decode(self, bytes: &[u8]) -> TensorData {
        match self {
            Element::F64 => TensorData::F32(map(bytes, |b| f64::from_le_bytes(b) as f32)),
            Element::F32 => TensorData::F32(map(bytes, f32::from_le_bytes)),
            Element::F16 => TensorData::F32(map(bytes, |b| f16::from_le_bytes(b).to_f32())),
            Element::Bf16 => TensorData::F32(map(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            Element::I64 => TensorData::I64(map(bytes, i64::from_le_bytes)),
            Element::I32 => TensorData::I64(map(bytes, |b| i32::from_le_bytes(b).into())),
        }
    }
}

fn map<const SIZE: usize, T>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    elements.iter().map(|element| number(*element)).collect()
}
