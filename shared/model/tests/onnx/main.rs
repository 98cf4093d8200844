//! The ONNX model held against the network itself: its graph is carried out by plain loops.

mod interpreter;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use interpreter::{Array, run};
use perennial_model::onnx::proto::{DataType, Dimension, GraphProto, ModelProto};
use perennial_model::onnx::{self, Input};
use perennial_model::{Bound, Mode, ModelCard, Network, Pass, Weights};
use perennial_plan::random::{Domain, Draw, Stream};
use perennial_plan::spec::{Interpolation, ModelSpec};
use prost::Message;

const SIZE: usize = 32;
const BATCH: usize = 2;
const FLOATS: Input = Input {
    batch: None,
    normalise: false,
};

struct Case {
    network: Network,
    weights: Weights,
    card: ModelCard,
}

impl Case {
    fn new(name: &str, distillation: bool) -> Self {
        let spec = ModelSpec {
            name: name.to_string(),
            distillation,
            drop_path: 0.5,
            ..ModelSpec::default()
        };
        let card = ModelCard {
            model: name.to_string(),
            distillation,
            classes: ["oak", "maple", "birch, \"silver\""]
                .map(String::from)
                .to_vec(),
            image_size: SIZE as u32,
            resize: Interpolation::Bicubic,
            mean: [0.4, 0.5, 0.6],
            std: [0.25, 0.5, 0.75],
        };
        let network = Network::new(&spec, card.classes.len()).unwrap();
        let weights = trained(&network);
        Self {
            network,
            weights,
            card,
        }
    }

    fn model(&self, input: Input) -> ModelProto {
        let bytes = onnx::encode(&self.network, &self.weights, &self.card, input);
        ModelProto::decode(bytes.as_slice()).unwrap()
    }

    fn graph(&self, input: Input) -> GraphProto {
        self.model(input).graph.unwrap()
    }

    /// The network's logits; `images`: `[batch, 3, size, size]`.
    fn logits(&self, images: &[f32]) -> Vec<f32> {
        let pixels = SIZE * SIZE;
        let last: Vec<f32> = (images.chunks_exact(3 * pixels))
            .flat_map(|image| (0..3 * pixels).map(|at| image[at % 3 * pixels + at / 3]))
            .collect();
        let shape = [images.len() / (3 * pixels), SIZE, SIZE, 3];
        let device = Device::flex();
        let bound = Bound::for_inference(&self.network.table, &self.weights, &device);
        let images = Tensor::from_data(TensorData::new(last, shape), &device);
        let logits = self
            .network
            .logits(images, &Pass::new(&bound, Mode::Evaluation));
        logits.into_data().try_into_vec().unwrap()
    }
}

/// Weights in which no normalisation does nothing.
fn trained(network: &Network) -> Weights {
    let mut weights = network.table.initial_weights(7);
    let mut stream = Stream::new(7, Domain::Init, &[1]);
    for parameter in network.table.parameters() {
        for value in &mut Arc::make_mut(&mut weights.parameters)[parameter.range.clone()] {
            match parameter.shape.len() {
                1 => *value += stream.uniform_in(-0.1, 0.1) as f32,
                // The heads, which begin with small numbers.
                2 => *value *= 20.0,
                _ => {}
            }
        }
    }
    for norm in network.table.norms() {
        for value in &mut weights.statistics[norm.mean()] {
            *value = stream.uniform_in(-0.1, 0.1) as f32;
        }
        for value in &mut weights.statistics[norm.variance()] {
            *value = stream.uniform_in(0.5, 1.5) as f32;
        }
    }
    weights
}

fn images() -> Vec<f32> {
    let mut stream = Stream::new(3, Domain::Init, &[2]);
    let count = BATCH * 3 * SIZE * SIZE;
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn input_shape() -> Vec<usize> {
    vec![BATCH, 3, SIZE, SIZE]
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &Array, what: &str) {
    assert_eq!(theirs.shape, [BATCH, 3], "{what}");
    let largest = ours.iter().fold(0.0f32, |most, it| most.max(it.abs()));
    assert!(largest > 0.1, "{what}: logits that say something: {ours:?}");
    for (ours, theirs) in ours.iter().zip(&theirs.values) {
        let error = (ours - theirs).abs();
        assert!(error <= 1e-4 * largest, "{what}: {ours}, in ONNX {theirs}");
    }
}

#[test]
fn the_graph_computes_the_logits_of_every_network() {
    let images = images();
    for (name, distillation) in [
        ("casvit_xs", false),
        ("casvit_xs", true),
        ("casvit_s", false),
        ("casvit_m", true),
        ("casvit_t", false),
    ] {
        let case = Case::new(name, distillation);
        let input = Array::new(input_shape(), images.clone());
        let logits = run(&case.graph(FLOATS), input);
        let what = format!("{name}, distillation {distillation}");
        assert_close(&case.logits(&images), &logits, &what);
    }
}

#[test]
fn a_graph_that_normalises_takes_bytes() {
    let case = Case::new("casvit_xs", false);
    let input = Input {
        normalise: true,
        ..FLOATS
    };
    let graph = case.graph(input);
    let element = graph.input[0].r#type.as_ref().unwrap().tensor_type.as_ref();
    assert_eq!(element.unwrap().elem_type(), DataType::Uint8);

    let mut stream = Stream::new(5, Domain::Init, &[3]);
    let count = BATCH * 3 * SIZE * SIZE;
    let bytes: Vec<f32> = (0..count)
        .map(|_| stream.uniform_in(0.0, 256.0).floor() as f32)
        .collect();
    let normalised: Vec<f32> = (bytes.iter().enumerate())
        .map(|(at, byte)| {
            let channel = at / (SIZE * SIZE) % 3;
            (byte / 255.0 - case.card.mean[channel]) / case.card.std[channel]
        })
        .collect();
    let logits = run(&graph, Array::new(input_shape(), bytes));
    assert_close(&case.logits(&normalised), &logits, "bytes");
}

#[test]
fn every_weight_stands_in_the_model_under_its_name_and_shape() {
    for distillation in [false, true] {
        let case = Case::new("casvit_xs", distillation);
        let mut expected: Vec<(String, Vec<i64>)> = Vec::new();
        for parameter in case.network.table.parameters() {
            let shape: Vec<i64> = parameter.shape.iter().map(|dim| *dim as i64).collect();
            let module = parameter.name.rsplit_once('.').unwrap().0;
            let folded = (case.network.table.norms().iter()).any(|norm| norm.name == module);
            match parameter.name.strip_suffix(".qkv.weight") {
                _ if folded => {}
                // Queries, keys and values, each with the bias that it got from the normalisation before.
                Some(attention) => {
                    for part in 0..3 {
                        let shape = vec![shape[0] / 3, shape[1], 1, 1];
                        expected.push((format!("{attention}.qkv.bias.{part}"), vec![shape[0]]));
                        expected.push((format!("{attention}.qkv.weight.{part}"), shape));
                    }
                }
                None => expected.push((parameter.name.clone(), shape)),
            }
        }
        let graph = case.graph(FLOATS);
        let mut found: Vec<(String, Vec<i64>)> = (graph.initializer.iter())
            .filter(|tensor| !tensor.name.starts_with("constant_"))
            .inspect(|tensor| {
                let values: i64 = tensor.dims.iter().product();
                assert_eq!(tensor.raw_data.len() as i64, 4 * values, "{}", tensor.name);
                assert_eq!(tensor.data_type(), DataType::Float, "{}", tensor.name);
            })
            .map(|tensor| (tensor.name.clone(), tensor.dims.clone()))
            .collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn the_batch_is_free_or_fixed_and_nothing_else_differs() {
    let case = Case::new("casvit_xs", false);
    let dims = |graph: &GraphProto, output: bool| -> Vec<Dimension> {
        let values = if output { &graph.output } else { &graph.input };
        let tensor = values[0].r#type.clone().unwrap().tensor_type.unwrap();
        let dims = tensor.shape.unwrap().dim;
        dims.into_iter().map(|dim| dim.value.unwrap()).collect()
    };
    let fixed = |sizes: &[i64]| sizes.iter().map(|it| Dimension::Value(*it)).collect();
    let free = |sizes: &[i64]| {
        let mut dims: Vec<Dimension> = fixed(sizes);
        dims.insert(0, Dimension::Param("batch".into()));
        dims
    };
    let (size, any) = (SIZE as i64, case.graph(FLOATS));
    assert_eq!(dims(&any, false), free(&[3, size, size]));
    assert_eq!(dims(&any, true), free(&[3]));
    let eight = case.graph(Input {
        batch: Some(8),
        ..FLOATS
    });
    assert_eq!(dims(&eight, false), fixed(&[8, 3, size, size]) as Vec<_>);
    assert_eq!(dims(&eight, true), fixed(&[8, 3]) as Vec<_>);
    assert_eq!(any.node, eight.node);
    assert_eq!(any.initializer, eight.initializer);
}

#[test]
fn the_model_says_what_it_is() {
    let case = Case::new("casvit_xs", false);
    let model = case.model(FLOATS);
    assert_eq!((model.ir_version, model.opset_import.len()), (8, 1));
    assert_eq!(model.opset_import[0].version, 17);
    assert_eq!(model.opset_import[0].domain, "");
    let entry = |key: &str| {
        let found = model.metadata_props.iter().find(|it| it.key == key);
        found.map(|entry| entry.value.as_str())
    };
    assert_eq!(entry("model"), Some("casvit_xs"));
    assert_eq!(entry("image_size"), Some("32"));
    assert_eq!(entry("resize"), Some("bicubic"));
    assert_eq!(entry("std"), Some("[0.25,0.5,0.75]"));
    let classes: Vec<String> = serde_json::from_str(entry("classes").unwrap()).unwrap();
    assert_eq!(classes, case.card.classes);
    let named = case.network.table.to_named(&case.weights);
    let hash = perennial_plan::tensors::weights_sha256(&named);
    assert_eq!(entry("weights_sha256"), Some(hash.as_str()));
}
