//! Named tensors in memory and as safetensors files that PyTorch can load.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors, View};
use sha2::{Digest, Sha256};

use crate::error::StoreError;

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

    fn is_sound(&self) -> bool {
        let product = (self.shape.iter()).try_fold(1usize, |product, d| product.checked_mul(*d));
        product == Some(self.elements())
    }
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        match self.data {
            TensorData::F32(_) => Dtype::F32,
            TensorData::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; View::data_len(self)];
        match &self.data {
            TensorData::F32(values) => {
                let (places, _) = bytes.as_chunks_mut::<4>();
                for (place, value) in places.iter_mut().zip(values) {
                    *place = value.to_le_bytes();
                }
            }
            TensorData::I64(values) => {
                let (places, _) = bytes.as_chunks_mut::<8>();
                for (place, value) in places.iter_mut().zip(values) {
                    *place = value.to_le_bytes();
                }
            }
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        match &self.data {
            TensorData::F32(values) => values.len() * 4,
            TensorData::I64(values) => values.len() * 8,
        }
    }
}

/// The tensors as a safetensors file, the same bytes for the same tensors.
pub fn encode(tensors: &NamedTensors) -> Result<Bytes, StoreError> {
    for (name, tensor) in tensors {
        if !tensor.is_sound() {
            let (shape, elements) = (&tensor.shape, tensor.elements());
            return Err(StoreError::Tensors(format!(
                "tensor `{name}` has the shape `{shape:?}` but `{elements}` elements"
            )));
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(metadata));
    bytes
        .map(Bytes::from)
        .map_err(|error| StoreError::Tensors(error.to_string()))
}

/// Reads a safetensors file of 32-bit floats and 64-bit integers.
pub fn decode(bytes: &[u8]) -> Result<NamedTensors, StoreError> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| StoreError::Tensors(error.to_string()))?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.iter() {
        let data = match view.dtype() {
            Dtype::F32 => {
                let (chunks, _) = view.data().as_chunks::<4>();
                TensorData::F32(chunks.iter().map(|c| f32::from_le_bytes(*c)).collect())
            }
            Dtype::I64 => {
                let (chunks, _) = view.data().as_chunks::<8>();
                TensorData::I64(chunks.iter().map(|c| i64::from_le_bytes(*c)).collect())
            }
            other => {
                return Err(StoreError::Tensors(format!(
                    "tensor `{name}` is of type `{other:?}`; only F32 and I64 are read"
                )));
            }
        };
        let tensor = HostTensor {
            shape: view.shape().to_vec(),
            data,
        };
        if !tensor.is_sound() {
            return Err(StoreError::Tensors(format!(
                "tensor `{name}` has other data than its shape says"
            )));
        }
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
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
    hex(&hash.finalize())
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
