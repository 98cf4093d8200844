use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::decode::Element;
use super::{HostTensor, ModelFileError, NamedTensors};

pub fn read(path: &Path) -> Result<NamedTensors, ModelFileError> {
    let bytes = std::fs::read(path).map_err(|source| ModelFileError::Io {
        path: path.into(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| ModelFileError::Malformed {
        path: path.into(),
        format: "safetensors",
        reason: error.to_string(),
    })?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.iter() {
        let Some(element) = element(view.dtype()) else {
            return Err(ModelFileError::ElementType {
                path: path.into(),
                tensor: name.to_string(),
                found: format!("{:?}", view.dtype()),
            });
        };
        let tensor = HostTensor {
            shape: view.shape().to_vec(),
            data: element.decode(view.data()),
        };
        tensors.insert(name.to_string(), tensor);
    }
    Ok(tensors)
}

/// The entry `key` of the file's metadata.
pub fn read_metadata(path: &Path, key: &str) -> Result<Option<String>, ModelFileError> {
    let bytes = std::fs::read(path).map_err(|source| ModelFileError::Io {
        path: path.into(),
        source,
    })?;
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|error| ModelFileError::Malformed {
            path: path.into(),
            format: "safetensors",
            reason: error.to_string(),
        })?;
    Ok(metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(key).cloned()))
}

fn element(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::F64 => Some(Element::F64),
        Dtype::F32 => Some(Element::F32),
        Dtype::F16 => Some(Element::F16),
        Dtype::BF16 => Some(Element::Bf16),
        Dtype::I64 => Some(Element::I64),
        Dtype::I32 => Some(Element::I32),
        _ => None,
    }
}
