use std::collections::HashMap;
use std::io;
use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader, Tensor};

use super::decode::Element;
use super::{HostTensor, ModelFileError, NamedTensors, Weights};

const RAW: [&str; 2] = ["model", "state_dict"];
const AVERAGE: [&str; 2] = ["model_ema", "state_dict_ema"];

/// Tensors may share storage, so they can come to somewhat more than the file.
const LARGEST_SHARING: u64 = 4;

pub fn read(path: &Path, weights: Weights) -> Result<NamedTensors, ModelFileError> {
    let found = find(path, weights).map_err(|error| pytorch_error(path, error))?;
    refuse_inflated(path, &found)?;
    let mut tensors = NamedTensors::new();
    for (name, tensor) in found {
        let Some(element) = element(tensor.dtype()) else {
            return Err(ModelFileError::ElementType {
                path: path.into(),
                tensor: name,
                found: format!("{:?}", tensor.dtype()),
            });
        };
        let bytes = tensor.read().map_err(|error| io_error(path, error))?;
        let tensor = HostTensor {
            shape: tensor.shape().to_vec(),
            data: element.decode(&bytes),
        };
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The tensors under the first of the usual keys that has a dictionary with any, else those at the root.
fn find(path: &Path, weights: Weights) -> Result<HashMap<String, Tensor>, PytorchError> {
    let order = match weights {
        Weights::Raw => [RAW, AVERAGE],
        Weights::Average => [AVERAGE, RAW],
    };
    if let PickleValue::Dict(root) = PytorchReader::read_pickle_data(path, None)? {
        for key in order.as_flattened() {
            if matches!(root.get(*key), Some(PickleValue::Dict(_))) {
                let reader = PytorchReader::with_top_level_key(path, key)?;
                if !reader.is_empty() {
                    return Ok(reader.into_tensors());
                }
            }
        }
    }
    Ok(PytorchReader::new(path)?.into_tensors())
}

/// A tensor is a view that can repeat the same few bytes, so a small file could claim any size.
fn refuse_inflated(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<(), ModelFileError> {
    let metadata = std::fs::metadata(path).map_err(|error| io_error(path, error))?;
    let holds = metadata.len();
    let claims = tensors
        .values()
        .map(|tensor| tensor.byte_len() as u64)
        .fold(0, u64::saturating_add);
    if claims > holds.saturating_mul(LARGEST_SHARING) {
        return Err(ModelFileError::ClaimsTooMuch {
            path: path.into(),
            holds,
            claims,
        });
    }
    Ok(())
}

fn element(dtype: DType) -> Option<Element> {
    match dtype {
        DType::F64 => Some(Element::F64),
        DType::F32 => Some(Element::F32),
        DType::F16 => Some(Element::F16),
        DType::BF16 => Some(Element::Bf16),
        DType::I64 => Some(Element::I64),
        DType::I32 => Some(Element::I32),
        DType::I16 | DType::I8 | DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Bool => {
            None
        }
    }
}

fn pytorch_error(path: &Path, error: PytorchError) -> ModelFileError {
    match error {
        PytorchError::Io(error) => io_error(path, error),
        error => malformed(path, error.to_string()),
    }
}

fn io_error(path: &Path, error: io::Error) -> ModelFileError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            malformed(path, error.to_string())
        }
        _ => ModelFileError::Io {
            path: path.into(),
            source: error,
        },
    }
}

fn malformed(path: &Path, reason: String) -> ModelFileError {
    ModelFileError::Malformed {
        path: path.into(),
        format: "PyTorch",
        reason,
    }
}
