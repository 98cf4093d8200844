//! Named tensors in memory, and the hash by which weights are compared.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Tensors by their names, ascending.
pub type NamedTensors = BTreeMap<String, HostTensor>;

/// A tensor in memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Empty for a single number.
    pub shape: Vec<usize>,
    pub data: TensorData,
}

/// The elements of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

// === impl HostTensor ===

impl HostTensor {
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self {
            shape: shape.into(),
            data: TensorData::F32(data),
        }
    }

    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self {
            shape: shape.into(),
            data: TensorData::I64(data),
        }
    }

    /// The number of elements that the data has; equal to the product of the shape in a sound tensor.
    pub fn elements(&self) -> usize {
        match &self.data {
            TensorData::F32(values) => values.len(),
            TensorData::I64(values) => values.len(),
        }
    }

    /// Whether there are as many elements as the shape says.
    pub fn is_sound(&self) -> bool {
        let product = (self.shape.iter()).try_fold(1usize, |product, d| product.checked_mul(*d));
        product == Some(self.elements())
    }
}

/// SHA-256 over all tensors in ascending order of their names, in hexadecimal: the name, a zero byte,
/// each dimension as little-endian u64, the data as little-endian f32 (integers converted).
pub fn weights_sha256(tensors: &NamedTensors) -> String {
    const PIECE: usize = 16 * 1024;
    fn feed<T: Copy>(hash: &mut Sha256, values: &[T], float: impl Fn(T) -> f32) {
        let mut bytes = Vec::with_capacity(4 * PIECE);
        for piece in values.chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|value| float(*value).to_le_bytes()));
            hash.update(&bytes);
        }
    }

    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        hash.update(name.as_bytes());
        hash.update([0]);
        for dimension in &tensor.shape {
            hash.update((*dimension as u64).to_le_bytes());
        }
        match &tensor.data {
            TensorData::F32(values) => feed(&mut hash, values, |value| value),
            TensorData::I64(values) => feed(&mut hash, values, |value| value as f32),
        }
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
