//! A network as a graph of ONNX operators: an [`Engine`] that writes down what it is asked to compute. Activations are
//! `[batch, channels, height, width]`, as ONNX has them.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul};
use std::rc::Rc;

use perennial_kernels::Activation;

use super::proto::{AttributeProto, AttributeType, DataType, NodeProto, TensorProto};
use crate::bound::Folded;
use crate::engine::Engine;
use crate::layers::{BatchNorm, Depthwise, Downsample, Linear, Pointwise, PointwiseParts};
use crate::table::{Parameter, ParameterId, Table};

/// What was written so far.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<NodeProto>,
    pub initializers: Vec<TensorProto>,
}

/// A tensor of the graph.
#[derive(Clone)]
pub struct Value {
    pub name: String,
    graph: Rc<RefCell<Graph>>,
}

/// Writes a network's graph.
pub struct Writer<'a> {
    table: &'a Table,
    /// Only inference is written: normalisations are in the layers beside them.
    folded: &'a Folded,
    graph: Rc<RefCell<Graph>>,
}

/// Geometry of a square convolution.
#[derive(Clone, Copy)]
struct Window {
    size: i64,
    stride: i64,
    groups: i64,
}

const POINTWISE: Window = Window {
    size: 1,
    stride: 1,
    groups: 1,
};

// === impl Graph ===

impl Graph {
    /// Writes an operation; the name of its output.
    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let name = format!("{}_{}", op.to_lowercase(), self.nodes.len());
        self.nodes.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.to_string(),
            attribute,
        });
        name
    }

    /// A tensor that the model holds, written once; its name.
    fn initializer(&mut self, name: String, dims: &[usize], values: &[f32]) -> String {
        if self.initializers.iter().all(|it| it.name != name) {
            self.initializers.push(TensorProto {
                dims: dims.iter().map(|dim| *dim as i64).collect(),
                data_type: DataType::Float.into(),
                name: name.clone(),
                raw_data: values.iter().flat_map(|it| it.to_le_bytes()).collect(),
            });
        }
        name
    }

    fn scalar(&mut self, value: f32) -> String {
        self.initializer(format!("constant_{value}"), &[], &[value])
    }

    /// What the last operation yields is the graph's output, by this name.
    pub fn end(&mut self, output: &str) {
        if let Some(last) = self.nodes.last_mut() {
            last.output = vec![output.to_string()];
        }
    }
}

// === impl Value ===

impl Value {
    /// An input of the graph.
    pub fn input(name: &str, graph: &Rc<RefCell<Graph>>) -> Self {
        Self {
            name: name.to_string(),
            graph: graph.clone(),
        }
    }

    fn then(&self, op: &str, others: &[&str], attributes: Vec<AttributeProto>) -> Self {
        let inputs = [&[self.name.as_str()][..], others].concat();
        let name = self.graph.borrow_mut().node(op, &inputs, attributes);
        Self {
            name,
            graph: self.graph.clone(),
        }
    }

    fn with_scalar(&self, op: &str, scalar: f32) -> Self {
        let scalar = self.graph.borrow_mut().scalar(scalar);
        self.then(op, &[&scalar], Vec::new())
    }

    /// `x * Phi(x)` in the form that runtimes know as one operation.
    fn gelu(&self) -> Self {
        let halves = self
            .with_scalar("Div", std::f32::consts::SQRT_2)
            .then("Erf", &[], Vec::new())
            .with_scalar("Add", 1.0);
        self.then("Mul", &[&halves.name], Vec::new())
            .with_scalar("Mul", 0.5)
    }

    fn relu_if(self, activation: Activation) -> Self {
        match activation {
            Activation::Relu => self.then("Relu", &[], Vec::new()),
            Activation::None => self,
        }
    }

    fn mean_over_pixels(&self) -> Self {
        self.then("GlobalAveragePool", &[], Vec::new())
    }

    /// Bytes of 0..=255 as what the network sees: `(value / 255 - mean) / std` of each channel.
    pub fn normalised(&self, mean: [f32; 3], std: [f32; 3]) -> Self {
        let channels = |name: &str, values: [f32; 3]| {
            let name = name.to_string();
            (self.graph.borrow_mut()).initializer(name, &[1, 3, 1, 1], &values)
        };
        let (mean, std) = (channels("mean", mean), channels("std", std));
        let float = int("to", i64::from(i32::from(DataType::Float)));
        self.then("Cast", &[], vec![float])
            .with_scalar("Div", 255.0)
            .then("Sub", &[&mean], Vec::new())
            .then("Div", &[&std], Vec::new())
    }
}

impl Add for Value {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.then("Add", &[&other.name], Vec::new())
    }
}

impl Mul for Value {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.then("Mul", &[&other.name], Vec::new())
    }
}

impl Div<f32> for Value {
    type Output = Self;

    fn div(self, divisor: f32) -> Self {
        self.with_scalar("Div", divisor)
    }
}

// === impl Writer ===

impl<'a> Writer<'a> {
    pub fn new(table: &'a Table, folded: &'a Folded, graph: &Rc<RefCell<Graph>>) -> Self {
        Self {
            table,
            folded,
            graph: graph.clone(),
        }
    }

    fn values(&self, parameter: &Parameter) -> &[f32] {
        &self.folded.weights.parameters[parameter.range.clone()]
    }

    /// A parameter under its PyTorch name.
    fn parameter(&self, id: ParameterId) -> String {
        let parameter = &self.table.parameters()[id.0];
        let values = self.values(parameter);
        let name = parameter.name.clone();
        (self.graph.borrow_mut()).initializer(name, &parameter.shape, values)
    }

    fn conv(&self, x: &Value, weight: &str, bias: Option<&str>, window: Window) -> Value {
        let Window {
            size,
            stride,
            groups,
        } = window;
        let attributes = vec![
            ints("kernel_shape", &[size; 2]),
            ints("pads", &[size / 2; 4]),
            ints("strides", &[stride; 2]),
            int("group", groups),
        ];
        let operands: Vec<&str> = [Some(weight), bias].into_iter().flatten().collect();
        x.then("Conv", &operands, attributes)
    }
}

impl Engine for Writer<'_> {
    type Map = Value;
    type Rows = Value;

    fn pointwise(&self, x: Value, layer: &Pointwise) -> Value {
        let weight = self.parameter(layer.weight);
        let bias = layer.bias.map(|bias| self.parameter(bias));
        self.conv(&x, &weight, bias.as_deref(), POINTWISE)
    }

    fn pointwise_activated(&self, x: Value, layer: &Pointwise) -> Value {
        self.pointwise(x.gelu(), layer)
    }

    fn pointwise_part<const N: usize>(
        &self,
        x: Value,
        layer: &PointwiseParts<N>,
        index: usize,
    ) -> Value {
        let parameter = &self.table.parameters()[layer.weight.0];
        let mut shape = parameter.shape.clone();
        shape[0] /= N;
        let values = self.values(parameter);
        let length = values.len() / N;
        let part = &values[index * length..][..length];
        let name = format!("{}.{index}", parameter.name);
        let bias = self.folded.biases.get(&layer.weight).map(|parts| {
            let name = format!("{}.{index}", parameter.name.replace(".weight", ".bias"));
            let values = &parts[index];
            (self.graph.borrow_mut()).initializer(name, &[values.len()], values)
        });
        let weight = (self.graph.borrow_mut()).initializer(name, &shape, part);
        self.conv(&x, &weight, bias.as_deref(), POINTWISE)
    }

    fn depthwise(&self, x: Value, layer: &Depthwise) -> Value {
        let channels = self.table.parameters()[layer.weight.0].shape[0];
        let window = Window {
            size: 3,
            stride: 1,
            groups: channels as i64,
        };
        let (weight, bias) = (self.parameter(layer.weight), self.parameter(layer.bias));
        self.conv(&x, &weight, Some(&bias), window)
            .relu_if(layer.activation)
    }

    fn downsample(&self, x: Value, layer: &Downsample) -> Value {
        let window = Window {
            size: 3,
            stride: 2,
            groups: 1,
        };
        let (weight, bias) = (self.parameter(layer.weight), self.parameter(layer.bias));
        self.conv(&x, &weight, Some(&bias), window)
            .relu_if(layer.norm.activation)
    }

    fn batch_norm(&self, x: Value, _: &BatchNorm) -> Value {
        x
    }

    fn context(
        &self,
        x: Value,
        hidden: Value,
        norm: &BatchNorm,
        spatial: &Pointwise,
        channel: &Pointwise,
    ) -> Value {
        let sigmoid = |x: Value| x.then("Sigmoid", &[], Vec::new());
        let gate = self.pointwise(self.batch_norm(hidden, norm), spatial);
        let x = x * sigmoid(gate);
        let gate = self.pointwise(x.mean_over_pixels(), channel);
        x * sigmoid(gate)
    }

    fn drop_path(&self, branch: Value, _: f32, _: u64) -> Value {
        branch
    }

    fn pooled(&self, x: Value) -> Value {
        x.mean_over_pixels()
            .then("Flatten", &[], vec![int("axis", 1)])
    }

    fn linear(&self, x: Value, layer: &Linear) -> Value {
        let (weight, bias) = (self.parameter(layer.weight), self.parameter(layer.bias));
        x.then("Gemm", &[&weight, &bias], vec![int("transB", 1)])
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        i: Some(i),
        r#type: AttributeType::Int.into(),
        ..AttributeProto::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        ints: ints.to_vec(),
        r#type: AttributeType::Ints.into(),
        ..AttributeProto::default()
    }
}
