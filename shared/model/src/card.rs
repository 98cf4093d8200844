//! What a weights file says of itself, so that it can be used alone.

use perennial_plan::Spec;
use perennial_plan::spec::{DataSpec, Interpolation, ModelSpec};
use serde::{Deserialize, Serialize};

/// How to use the weights beside it: kept in the header of the `.safetensors` files that we write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The network's name.
    pub model: String,
    pub distillation: bool,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    pub image_size: u32,
    pub resize: Interpolation,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

// === impl ModelCard ===

impl ModelCard {
    /// The key in the file's metadata.
    pub const KEY: &str = "perennial";

    pub fn new(spec: &Spec, classes: Vec<String>) -> Self {
        Self {
            model: spec.model.name.clone(),
            distillation: spec.model.distillation,
            classes,
            image_size: spec.data.image_size,
            resize: spec.data.resize,
            mean: spec.data.mean,
            std: spec.data.std,
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a card is plain data")
    }

    /// The network that the weights belong to.
    pub fn model_spec(&self) -> ModelSpec {
        ModelSpec {
            name: self.model.clone(),
            distillation: self.distillation,
            ..ModelSpec::default()
        }
    }

    /// How pictures become what the network sees.
    pub fn data_spec(&self) -> DataSpec {
        DataSpec {
            image_size: self.image_size,
            resize: self.resize,
            mean: self.mean,
            std: self.std,
            ..DataSpec::default()
        }
    }
}
