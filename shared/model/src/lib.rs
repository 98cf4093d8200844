//! The networks, and reading PyTorch-named weights.
//!
//! A [`Network`] is structure alone. Its numbers are [`Weights`]: all parameters in one flat vector in
//! ascending order of their PyTorch names, all running statistics in another, so that optimizer, average,
//! clipping and reduction are single passes over memory. To compute, weights are bound to a device
//! ([`Bound`]) and the network's `forward` is called with a [`Pass`].

mod bound;
mod card;
pub mod casvit;
mod engine;
pub mod files;
mod layers;
mod names;
pub mod onnx;
mod table;

pub use bound::{Bound, DropPathKey, Gradient, GradientTensors, Mode, Pass};
pub use card::ModelCard;
pub use names::NameMismatch;
pub use table::{Norm, Parameter, Table, Weights};

use burn::tensor::Tensor;
use engine::Engine;
use perennial_plan::spec::ModelSpec;

/// A network without its numbers.
pub struct Network {
    /// Its parameters and running statistics.
    pub table: Table,
    structure: casvit::CasVit,
}

/// A network that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("unknown network `{name}`: choose casvit_xs, casvit_s, casvit_m or casvit_t")]
pub struct UnknownNetwork {
    pub name: String,
}

// === impl Network ===

impl Network {
    /// The network of `spec` for `classes` classes.
    pub fn new(spec: &ModelSpec, classes: usize) -> Result<Self, UnknownNetwork> {
        let variant = casvit::Variant::named(&spec.name).ok_or_else(|| UnknownNetwork {
            name: spec.name.clone(),
        })?;
        let mut table = Table::default();
        let structure = casvit::CasVit::new(
            &mut table,
            variant,
            classes,
            spec.drop_path as f32,
            spec.distillation,
        );
        Ok(Self { table, structure })
    }

    /// The logits of each head, `[batch, classes]`. `images`: `[batch, height, width, 3]`, normalised.
    pub fn forward(&self, images: Tensor<4>, pass: &Pass) -> Vec<Tensor<2>> {
        self.structure.forward(images, pass)
    }

    /// Logits for inference, the mean of the heads: `[batch, classes]`.
    pub fn logits(&self, images: Tensor<4>, pass: &Pass) -> Tensor<2> {
        self.logits_by(images, pass)
    }

    fn logits_by<E: Engine>(&self, images: E::Map, engine: &E) -> E::Rows {
        let mut heads = self.structure.forward(images, engine).into_iter();
        let first = heads.next().expect("a network has a head");
        match heads.next() {
            Some(second) => (first + second) / 2.0,
            None => first,
        }
    }
}
