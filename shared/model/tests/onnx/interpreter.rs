//! The operators that are written, as their specification says, in plain loops.

use std::collections::HashMap;

use perennial_model::onnx::proto::{GraphProto, NodeProto, TensorProto};

#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The graph's output for its input.
pub fn run(graph: &GraphProto, input: Array) -> Array {
    let mut known: HashMap<&str, Array> = (graph.initializer.iter())
        .map(|tensor| (tensor.name.as_str(), Array::from(tensor)))
        .collect();
    known.insert(&graph.input[0].name, input);
    for node in &graph.node {
        let inputs: Vec<&Array> = (node.input.iter())
            .map(|name| {
                (known.get(name.as_str())).unwrap_or_else(|| panic!("{name} comes too late"))
            })
            .collect();
        let output = apply(node, &inputs);
        known.insert(&node.output[0], output);
    }
    known.remove(graph.output[0].name.as_str()).unwrap()
}

fn apply(node: &NodeProto, inputs: &[&Array]) -> Array {
    match (node.op_type.as_str(), inputs) {
        ("Add", [a, b]) => a.broadcast(b, |a, b| a + b),
        ("Sub", [a, b]) => a.broadcast(b, |a, b| a - b),
        ("Mul", [a, b]) => a.broadcast(b, |a, b| a * b),
        ("Div", [a, b]) => a.broadcast(b, |a, b| a / b),
        ("Cast", [x]) => (*x).clone(),
        ("Relu", [x]) => x.map(|x| x.max(0.0)),
        ("Sigmoid", [x]) => x.map(|x| 1.0 / (1.0 + (-x).exp())),
        ("Erf", [x]) => x.map(erf),
        ("GlobalAveragePool", [x]) => {
            let pixels = x.shape[2] * x.shape[3];
            let mean = |plane: &[f32]| plane.iter().sum::<f32>() / pixels as f32;
            let values = x.values.chunks_exact(pixels).map(mean).collect();
            Array::new(vec![x.shape[0], x.shape[1], 1, 1], values)
        }
        ("Flatten", [x]) => {
            let axis = int(node, "axis") as usize;
            let sides = [&x.shape[..axis], &x.shape[axis..]];
            let shape = sides.map(|dims| dims.iter().product()).to_vec();
            Array::new(shape, x.values.clone())
        }
        ("Gemm", [x, weight, bias]) => {
            assert_eq!(int(node, "transB"), 1);
            let rows = x.values.chunks_exact(x.shape[1]);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let values = rows.flat_map(|row| {
                let columns = weight.values.chunks_exact(x.shape[1]).zip(&bias.values);
                columns.map(move |(column, bias)| dot(row, column) + bias)
            });
            Array::new(vec![x.shape[0], weight.shape[0]], values.collect())
        }
        ("Conv", [x, weight]) => convolve(node, x, weight, None),
        ("Conv", [x, weight, bias]) => convolve(node, x, weight, Some(bias)),
        (other, inputs) => panic!("{other} of {} inputs", inputs.len()),
    }
}

fn convolve(node: &NodeProto, x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let [batch, channels, height, width] = dims(x);
    let [outputs, inputs, kernel, _] = dims(weight);
    assert_eq!(ints(node, "kernel_shape"), [kernel as i64; 2]);
    let (pad, stride) = (ints(node, "pads")[0], ints(node, "strides")[0]);
    let groups = int(node, "group") as usize;
    assert_eq!(inputs * groups, channels);
    let after = |size: usize| (size as i64 + 2 * pad - kernel as i64) / stride + 1;
    let (rows, columns) = (after(height), after(width));
    let mut values = Vec::new();
    for (b, o) in (0..batch).flat_map(|b| (0..outputs).map(move |o| (b, o))) {
        let first = o / (outputs / groups) * inputs;
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let mut sum = bias.map_or(0.0, |bias| bias.values[o]);
            for i in 0..inputs {
                let plane = &x.values[(b * channels + first + i) * height * width..];
                let window = &weight.values[(o * inputs + i) * kernel * kernel..];
                for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                    let y = row * stride - pad + ky as i64;
                    let x = column * stride - pad + kx as i64;
                    if (0..height as i64).contains(&y) && (0..width as i64).contains(&x) {
                        sum += plane[y as usize * width + x as usize] * window[ky * kernel + kx];
                    }
                }
            }
            values.push(sum);
        }
    }
    Array::new(
        vec![batch, outputs, rows as usize, columns as usize],
        values,
    )
}

fn dims(array: &Array) -> [usize; 4] {
    array.shape.as_slice().try_into().unwrap()
}

fn int(node: &NodeProto, name: &str) -> i64 {
    let found = node.attribute.iter().find(|it| it.name == name);
    found.unwrap().i.unwrap()
}

fn ints<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    &node
        .attribute
        .iter()
        .find(|it| it.name == name)
        .unwrap()
        .ints
}

/// Its Taylor series.
fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    if x.abs() > 4.0 {
        return x.signum() as f32;
    }
    let (mut power, mut sum) = (x, 0.0);
    for n in 0..80 {
        sum += power / f64::from(2 * n + 1);
        power *= -x * x / f64::from(n + 1);
    }
    (sum * std::f64::consts::FRAC_2_SQRT_PI) as f32
}

// === impl Array ===

impl Array {
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, values }
    }

    fn map(&self, function: impl Fn(f32) -> f32) -> Self {
        let values = self.values.iter().map(|value| function(*value)).collect();
        Self::new(self.shape.clone(), values)
    }

    /// NumPy's rule: axes of one value are repeated, missing ones are in front.
    fn broadcast(&self, other: &Self, function: impl Fn(f32, f32) -> f32) -> Self {
        let rank = self.shape.len().max(other.shape.len());
        let padded = |it: &Self| [vec![1; rank - it.shape.len()], it.shape.clone()].concat();
        let (a, b) = (padded(self), padded(other));
        let shape: Vec<usize> = (a.iter().zip(&b))
            .map(|(a, b)| {
                assert!(a == b || *a == 1 || *b == 1, "{a} and {b}");
                *a.max(b)
            })
            .collect();
        let place = |mut index: usize, dims: &[usize]| {
            let (mut place, mut step) = (0, 1);
            for (size, own) in shape.iter().zip(dims).rev() {
                place += index % size % own * step;
                index /= size;
                step *= own;
            }
            place
        };
        let values = (0..shape.iter().product())
            .map(|at| function(self.values[place(at, &a)], other.values[place(at, &b)]))
            .collect();
        Self::new(shape, values)
    }
}

impl From<&TensorProto> for Array {
    fn from(tensor: &TensorProto) -> Self {
        let (words, _) = tensor.raw_data.as_chunks::<4>();
        let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Self::new(
            tensor.dims.iter().map(|dim| *dim as usize).collect(),
            values,
        )
    }
}
