//! Named tensors in memory and as safetensors files that PyTorch can load.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use safetensors::{Dtype, SafeTensors, View};
use sha2::{Digest, Sha256};

use crate::error::StoreError;

pub use perennial_plan::tensors::{HostTensor, NamedTensors, TensorData, weights_sha256};

/// A tensor as `safetensors` wants to see it.
struct Viewed<'a>(&'a HostTensor);

impl View for Viewed<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.data {
            TensorData::F32(_) => Dtype::F32,
            TensorData::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; View::data_len(self)];
        match &self.0.data {
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
        match &self.0.data {
            TensorData::F32(values) => values.len() * 4,
            TensorData::I64(values) => values.len() * 8,
        }
    }
}

/// The tensors as a safetensors file, the same bytes for the same tensors.
pub fn encode(tensors: &NamedTensors) -> Result<Bytes, StoreError> {
    encode_described(tensors, "format", "pt")
}

/// As [`encode`], with one entry in the file's metadata. (The library writes several in random order.)
pub fn encode_described(
    tensors: &NamedTensors,
    key: &str,
    value: &str,
) -> Result<Bytes, StoreError> {
    for (name, tensor) in tensors {
        if !tensor.is_sound() {
            let (shape, elements) = (&tensor.shape, tensor.elements());
            return Err(StoreError::Tensors(format!(
                "tensor `{name}` has the shape `{shape:?}` but `{elements}` elements"
            )));
        }
    }
    let metadata = HashMap::from([(key.to_owned(), value.to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name, Viewed(tensor)));
    let bytes = safetensors::serialize(views, Some(metadata));
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

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
