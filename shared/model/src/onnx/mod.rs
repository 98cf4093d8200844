//! A trained network as an ONNX model, for runtimes that know nothing of us.
//!
//! Operator set 17 in f32; batch normalisations are folded into the layers beside them, so that weights carry
//! their PyTorch names but not their training values. Input `images`, `[batch, 3, image_size, image_size]`;
//! output `logits`, `[batch, classes]`, the mean of the heads where there are two. The model's metadata has
//! the entries of its [`ModelCard`] and the hash of the weights.

mod graph;
pub mod proto;

use std::cell::RefCell;
use std::rc::Rc;

use perennial_plan::tensors::weights_sha256;
use prost::Message;
use serde_json::Value as Json;

use crate::bound::Folded;
use crate::{ModelCard, Network, Weights};
use graph::{Graph, Value, Writer};
use proto::{
    DataType, Dimension, DimensionProto, GraphProto, ModelProto, OperatorSetIdProto,
    StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The newest version of ONNX's operators that is in use everywhere; GELU is written by its `Erf`.
const OPERATOR_SET: i64 = 17;
/// Of the file format that came with it.
const IR_VERSION: i64 = 8;

pub const INPUT: &str = "images";
pub const OUTPUT: &str = "logits";

/// How a model takes its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Pictures in a batch; none: any number.
    pub batch: Option<u32>,
    /// The model takes bytes of 0..=255 (`uint8`) and normalises them itself. Otherwise it takes floats that are
    /// normalised by the card's mean and deviation.
    pub normalise: bool,
}

/// The model, encoded. `weights` are of `network`, `card` says of what they are.
pub fn encode(network: &Network, weights: &Weights, card: &ModelCard, input: Input) -> Vec<u8> {
    let graph = Rc::new(RefCell::new(Graph::default()));
    let images = Value::input(INPUT, &graph);
    let images = match input.normalise {
        true => images.normalised(card.mean, card.std),
        false => images,
    };
    let folded = Folded::new(&network.table, weights);
    let writer = Writer::new(&network.table, &folded, &graph);
    network.logits_by(images, &writer);
    graph.borrow_mut().end(OUTPUT);
    let Graph {
        nodes,
        initializers,
    } = graph.take();

    let batch = match input.batch {
        Some(batch) => Dimension::Value(batch.into()),
        None => Dimension::Param("batch".to_string()),
    };
    let fixed = |size: usize| Dimension::Value(size as i64);
    let (size, classes) = (card.image_size as usize, card.classes.len());
    let (element, meaning) = match input.normalise {
        true => (
            DataType::Uint8,
            "RGB pictures of 0..=255, as they were decoded and resized",
        ),
        false => (
            DataType::Float,
            "RGB pictures, (value / 255 - mean) / std of each channel",
        ),
    };
    let images = vec![batch.clone(), fixed(3), fixed(size), fixed(size)];
    let logits = vec![batch, fixed(classes)];
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "perennial".to_string(),
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        doc_string: format!("{} for {classes} classes", card.model),
        graph: Some(GraphProto {
            node: nodes,
            name: card.model.clone(),
            initializer: initializers,
            input: vec![value_info(INPUT, element, images, meaning)],
            output: vec![value_info(
                OUTPUT,
                DataType::Float,
                logits,
                "one for each class",
            )],
        }),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPERATOR_SET,
        }],
        metadata_props: metadata(network, weights, card),
    };
    model.encode_to_vec()
}

fn value_info(name: &str, element: DataType, dims: Vec<Dimension>, doc: &str) -> ValueInfoProto {
    let dim = dims
        .into_iter()
        .map(|value| DimensionProto { value: Some(value) });
    ValueInfoProto {
        name: name.to_string(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: element.into(),
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            }),
        }),
        doc_string: doc.to_string(),
    }
}

/// Texts as they are, everything else as JSON.
fn metadata(network: &Network, weights: &Weights, card: &ModelCard) -> Vec<StringStringEntryProto> {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.to_string(),
        value,
    };
    let hash = weights_sha256(&network.table.to_named(weights));
    let mut entries = vec![entry("weights_sha256", hash)];
    let card = serde_json::to_value(card).expect("a card is plain data");
    for (key, value) in card.as_object().expect("a card is a structure") {
        let text = match value {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        entries.push(entry(key, text));
    }
    entries
}
