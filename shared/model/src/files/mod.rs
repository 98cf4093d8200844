//! Reading weights that others wrote: `.safetensors`, and what `torch.save` writes.
//!
//! Files come from the internet. No code in them is run, what they claim is checked against what they hold
//! before memory is taken, and whatever is wrong with one is an error that names it.

mod decode;
mod error;
mod pth;
mod safetensors;

use std::path::Path;

use crate::card::ModelCard;
pub use error::ModelFileError;
pub use perennial_plan::tensors::{HostTensor, NamedTensors, TensorData};

/// Which weights to take from a training checkpoint that has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// What the optimizer was at.
    Raw,
    /// The exponential moving average.
    Average,
}

/// The tensors of a weights file: 16, 32 and 64 bit floats as 32 bit ones, integers as 64 bit ones.
///
/// A training checkpoint may have them under `model`, `state_dict`, `model_ema` or `state_dict_ema`, looked for in
/// this order, or the averages first if asked for. A `module.` in front of all names is taken off.
pub fn read(path: &Path, weights: Weights) -> Result<NamedTensors, ModelFileError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let tensors = match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("safetensors") => safetensors::read(path)?,
        Some("pth" | "pt" | "tar" | "bin") => pth::read(path, weights)?,
        _ => return Err(ModelFileError::Extension { path: path.into() }),
    };
    if tensors.is_empty() {
        return Err(ModelFileError::NoTensors { path: path.into() });
    }
    Ok(without_wrapper_prefix(tensors))
}

/// What a `.safetensors` file that we wrote says of itself; none for files of others.
pub fn read_card(path: &Path) -> Result<Option<ModelCard>, ModelFileError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if extension.is_none_or(|extension| !extension.eq_ignore_ascii_case("safetensors")) {
        return Ok(None);
    }
    let Some(json) = safetensors::read_metadata(path, ModelCard::KEY)? else {
        return Ok(None);
    };
    let card = serde_json::from_str(&json).map_err(|error| ModelFileError::Malformed {
        path: path.into(),
        format: "safetensors",
        reason: format!("its `{}` entry cannot be read: {error}", ModelCard::KEY),
    })?;
    Ok(Some(card))
}

/// `DataParallel` and timm's average put the network one level down, as `module`.
fn without_wrapper_prefix(tensors: NamedTensors) -> NamedTensors {
    const PREFIX: &str = "module.";
    if !tensors.keys().all(|name| name.starts_with(PREFIX)) {
        return tensors;
    }
    tensors
        .into_iter()
        .map(|(name, tensor)| (name[PREFIX.len()..].to_string(), tensor))
        .collect()
}
