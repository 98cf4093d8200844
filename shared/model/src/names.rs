//! Weights under their PyTorch names, and back.

use std::sync::Arc;

use crate::files::{HostTensor, NamedTensors, TensorData};
use crate::table::{Table, Weights};

/// Weights that do not fit the network: names and shapes at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the weights are of another network: {}", self.sentence())]
pub struct NameMismatch {
    /// Names the network has and the weights lack.
    pub missing: Vec<String>,
    /// Names the weights have and the network lacks.
    pub unexpected: Vec<String>,
    /// Name, the network's shape, the weights' shape.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

// === impl NameMismatch ===

impl NameMismatch {
    fn sentence(&self) -> String {
        let some = |names: &[String]| {
            let shown: Vec<String> = names
                .iter()
                .take(3)
                .map(|name| format!("`{name}`"))
                .collect();
            let more = names.len().saturating_sub(3);
            if more > 0 {
                format!("{} and {more} more", shown.join(", "))
            } else {
                shown.join(", ")
            }
        };
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            parts.push(format!(
                "{} missing ({})",
                self.missing.len(),
                some(&self.missing)
            ));
        }
        if !self.unexpected.is_empty() {
            parts.push(format!(
                "{} unexpected ({})",
                self.unexpected.len(),
                some(&self.unexpected)
            ));
        }
        if let Some((name, network, weights)) = self.shapes.first() {
            let count = self.shapes.len();
            parts.push(format!(
                "{count} of another shape (`{name}` is {weights:?}, the network has {network:?})"
            ));
        }
        parts.join(", ")
    }
}

/// The classifiers at the end, which depend on the number of classes.
const HEADS: [&str; 4] = [
    "head.weight",
    "head.bias",
    "dist_head.weight",
    "dist_head.bias",
];

impl Table {
    /// The weights under their PyTorch names, as PyTorch's `state_dict` has them.
    pub fn to_named(&self, weights: &Weights) -> NamedTensors {
        let mut named = NamedTensors::new();
        for parameter in self.parameters() {
            let data = TensorData::F32(weights.parameters[parameter.range.clone()].to_vec());
            named.insert(
                parameter.name.clone(),
                HostTensor {
                    shape: parameter.shape.clone(),
                    data,
                },
            );
        }
        for norm in self.norms() {
            for (suffix, range) in [
                ("running_mean", norm.mean()),
                ("running_var", norm.variance()),
            ] {
                let data = TensorData::F32(weights.statistics[range].to_vec());
                named.insert(
                    format!("{}.{suffix}", norm.name),
                    HostTensor {
                        shape: vec![norm.channels],
                        data,
                    },
                );
            }
            let data = TensorData::I64(vec![weights.batches_tracked as i64]);
            named.insert(
                format!("{}.num_batches_tracked", norm.name),
                HostTensor {
                    shape: vec![],
                    data,
                },
            );
        }
        named
    }

    /// Weights from their PyTorch names. Every name and shape must fit.
    pub fn from_named(&self, named: &NamedTensors) -> Result<Weights, NameMismatch> {
        let mut weights = self.initial_weights(0);
        let mut mismatch = NameMismatch {
            missing: Vec::new(),
            unexpected: Vec::new(),
            shapes: Vec::new(),
        };
        let mut expected = std::collections::BTreeSet::new();
        let mut take = |name: String, shape: &[usize], optional: bool| {
            let found = named.get(&name).filter(|tensor| {
                let fits = tensor.shape == shape;
                if !fits {
                    mismatch
                        .shapes
                        .push((name.clone(), shape.to_vec(), tensor.shape.clone()));
                }
                fits
            });
            if !named.contains_key(&name) && !optional {
                mismatch.missing.push(name.clone());
            }
            expected.insert(name);
            found.map(|tensor| &tensor.data)
        };
        for parameter in self.parameters() {
            if let Some(data) = take(parameter.name.clone(), &parameter.shape, false) {
                Arc::make_mut(&mut weights.parameters)[parameter.range.clone()]
                    .copy_from_slice(&floats(data));
            }
        }
        for norm in self.norms() {
            for (suffix, range) in [
                ("running_mean", norm.mean()),
                ("running_var", norm.variance()),
            ] {
                if let Some(data) = take(format!("{}.{suffix}", norm.name), &[norm.channels], false)
                {
                    weights.statistics[range].copy_from_slice(&floats(data));
                }
            }
            if let Some(data) = take(format!("{}.num_batches_tracked", norm.name), &[], true) {
                weights.batches_tracked = floats(data)[0].max(0.0) as u64;
            }
        }
        mismatch.unexpected = named
            .keys()
            .filter(|name| !expected.contains(*name))
            .cloned()
            .collect();
        if mismatch.missing.is_empty()
            && mismatch.unexpected.is_empty()
            && mismatch.shapes.is_empty()
        {
            Ok(weights)
        } else {
            Err(mismatch)
        }
    }

    /// Pretrained weights to start from: the heads are taken from `initial` where their shape differs
    /// or they are missing, a head that the network lacks is left out, everything else must fit.
    /// Returns the names of the tensors that were not taken.
    pub fn from_pretrained(
        &self,
        mut named: NamedTensors,
        initial: &Weights,
    ) -> Result<(Weights, Vec<String>), NameMismatch> {
        let own = self.to_named(initial);
        let mut replaced = Vec::new();
        for name in HEADS {
            match (own.get(name), named.get(name)) {
                (Some(own), found) if found.is_none_or(|tensor| tensor.shape != own.shape) => {
                    named.insert(name.to_string(), own.clone());
                    replaced.push(name.to_string());
                }
                (None, Some(_)) => {
                    named.remove(name);
                }
                _ => {}
            }
        }
        Ok((self.from_named(&named)?, replaced))
    }
}

fn floats(data: &TensorData) -> Vec<f32> {
    match data {
        TensorData::F32(values) => values.clone(),
        TensorData::I64(values) => values.iter().map(|value| *value as f32).collect(),
    }
}
