//! CAS-ViT against the numbers of the official implementation.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use perennial_kernels::{ComputeDevice, Precision};
use perennial_model::{Bound, DropPathKey, Mode, Network, Pass, Weights};
use perennial_plan::random::{mix, name_hash};
use perennial_plan::spec::ModelSpec;
use serde_json::Value;

/// The processor, or the GPU that `PERENNIAL_TEST_DEVICE` names.
fn device() -> Device {
    let named = std::env::var("PERENNIAL_TEST_DEVICE");
    let device: ComputeDevice = named.map_or(ComputeDevice::Cpu, |name| name.parse().unwrap());
    device.open().unwrap()
}

/// The reference numbers, where they are at hand; the smallest case of them is kept beside this file. Or all that are in
/// `PERENNIAL_TEST_FIXTURES`: a machine that only runs this test has no checkout where it was built.
fn fixtures() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("PERENNIAL_TEST_FIXTURES") {
        let files = std::fs::read_dir(folder).unwrap();
        return files.map(|file| file.unwrap().path()).collect();
    }
    let manifest = env!("CARGO_MANIFEST_DIR");
    let folder = PathBuf::from(manifest).join("../../../shared/fixtures/models");
    if !folder.is_dir() {
        return vec![PathBuf::from(manifest).join("tests/data/casvit_xs_dist.json")];
    }
    [
        "casvit_xs",
        "casvit_xs_dist",
        "casvit_s",
        "casvit_m",
        "casvit_t",
    ]
    .map(|name| folder.join(format!("{name}.json")))
    .to_vec()
}

/// The fixtures' value formula.
fn u(name: &str, i: u64) -> f64 {
    let hash = mix(name_hash(name).wrapping_add(i));
    (hash >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
}

fn formula(name: &str, shape: &[usize], rule: &str) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let fan_in: usize = shape.iter().skip(1).product();
    let bound = (3.0 / fan_in as f64).sqrt();
    (0..count as u64)
        .map(|i| {
            let u = u(name, i);
            let value = match rule {
                "bn_mean" | "bias" => 0.1 * u,
                "bn_var" => 1.0 + 0.5 * u.abs(),
                "near_one" => 1.0 + 0.1 * u,
                "weight" => u * bound,
                "weight_half" => 0.5 * (u * bound),
                "weight_quarter" => 0.25 * (u * bound),
                other => panic!("unknown rule {other}"),
            };
            value as f32
        })
        .collect()
}

struct Case {
    network: Network,
    weights: Weights,
    distillation: bool,
}

impl Case {
    fn new(fixture: &Value) -> Self {
        let distillation = fixture["distillation"].as_bool().unwrap_or(false);
        let name = fixture["name"]
            .as_str()
            .unwrap()
            .trim_end_matches("_dist")
            .to_string();
        let spec = ModelSpec {
            name,
            distillation,
            ..ModelSpec::default()
        };
        let network =
            Network::new(&spec, fixture["num_classes"].as_u64().unwrap() as usize).unwrap();
        assert_eq!(
            network.table.parameters_len() as u64,
            fixture["param_count"].as_u64().unwrap()
        );

        let mut named = network.table.to_named(&network.table.initial_weights(0));
        let rows = fixture["state_dict"]["rows"].as_array().unwrap();
        assert_eq!(
            rows.len(),
            named.len(),
            "the official state dict has as many entries"
        );
        for row in rows {
            let (key, rule) = (row[0].as_str().unwrap(), row[2].as_str().unwrap());
            let shape: Vec<usize> = serde_json::from_value(row[1].clone()).unwrap();
            let tensor = named
                .get_mut(key)
                .unwrap_or_else(|| panic!("{key} has no place in the network"));
            assert_eq!(tensor.shape, shape, "{key}");
            if rule != "zero_i64" {
                tensor.data = perennial_model::files::TensorData::F32(formula(key, &shape, rule));
            }
        }
        let weights = network.table.from_named(&named).unwrap();
        Self {
            network,
            weights,
            distillation,
        }
    }

    /// The input `[batch, height, width, 3]`; the formula counts in `[batch, 3, height, width]`.
    fn input(&self, case: &Value) -> Tensor<4> {
        let [batch, height, width] =
            ["batch", "height", "width"].map(|key| case[key].as_u64().unwrap() as usize);
        let mut values = vec![0.0f32; batch * height * width * 3];
        let mut index = 0;
        for b in 0..batch {
            for c in 0..3 {
                for pixel in 0..height * width {
                    values[(b * height * width + pixel) * 3 + c] = (1.5 * u("input", index)) as f32;
                    index += 1;
                }
            }
        }
        Tensor::from_data(
            TensorData::new(values, [batch, height, width, 3]),
            &device(),
        )
    }

    fn eval_logits(&self, weights: &Weights, case: &Value) -> Vec<f32> {
        let bound = Bound::for_inference(&self.network.table, weights, &device());
        let pass = Pass::new(&bound, Mode::Evaluation);
        self.network
            .logits(self.input(case), &pass)
            .into_data()
            .try_into_vec()
            .unwrap()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Number(number) => vec![number.as_f64().unwrap()],
        other => panic!("not numbers: {other}"),
    }
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs
        .iter()
        .fold(0.0f64, |most, value| most.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        let error = (f64::from(*ours) - theirs).abs();
        assert!(
            error <= tolerance * scale,
            "{what}: {ours} is {theirs} officially, {error:e} off"
        );
    }
}

/// The tolerances are those that PyTorch's own f32 run keeps, and tighter than a wrong epsilon or
/// activation would stand.
#[test]
fn logits_loss_gradients_and_running_statistics_are_those_of_the_official_networks() {
    let mut compared = 0;
    for path in fixtures() {
        let fixture: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let case_of = Case::new(&fixture);
        for case in fixture["cases"].as_array().unwrap() {
            let name = format!(
                "{} at {}x{}",
                fixture["name"], case["height"], case["width"]
            );
            let logits = case_of.eval_logits(&case_of.weights, case);
            assert_close(
                &format!("{name}: eval logits"),
                &logits,
                &numbers(&case["eval_logits"]["f64"]),
                1e-5,
            );
            if !case["train_logits"].is_null() {
                training(&case_of, &name, case, &F32);
                training(&case_of, &format!("{name} in bf16"), case, &BF16);
                training(&case_of, &format!("{name} in f16"), case, &F16);
            }
            compared += 1;
        }
    }
    assert!(compared >= 1, "no fixture was compared");
}

/// How far training may be from the official networks, relative to the largest value.
struct Tolerance {
    precision: Precision,
    /// Of logits from the statistics of the few pictures themselves.
    logits: f64,
    /// Of logits from the running statistics after one step.
    evaluated: f64,
    loss: f64,
    /// Of the norm of the whole gradient.
    norm: f64,
    /// Of each parameter's gradient, without and with a ReLU that lies within rounding of its kink: it may legitimately
    /// fall on the other side.
    gradients: [f64; 2],
    /// Of each parameter's gradient, relative to the norm of the whole one.
    floor: f64,
}

const F32: Tolerance = Tolerance {
    precision: Precision::F32,
    logits: 2e-5,
    evaluated: 2e-5,
    loss: 1e-5,
    norm: 1e-3,
    gradients: [1e-3, 5e-3],
    floor: 1e-6,
};

/// One rounding to bfloat16 is off by up to 0.4 %. Many ReLUs are within it of their kinks.
const BF16: Tolerance = Tolerance {
    precision: Precision::Bf16,
    logits: 4e-2,
    evaluated: 2e-2,
    loss: 2e-2,
    norm: 2e-2,
    gradients: [5e-2, 5e-2],
    floor: 5e-3,
};

/// One rounding to half precision is off by up to 0.05 %. The loss is not scaled here, so small gradients fade.
const F16: Tolerance = Tolerance {
    precision: Precision::F16,
    logits: 5e-3,
    evaluated: 5e-3,
    loss: 3e-3,
    norm: 5e-3,
    gradients: [2e-2, 2e-2],
    floor: 5e-3,
};

fn training(case_of: &Case, name: &str, case: &Value, tolerance: &Tolerance) {
    let table = &case_of.network.table;
    let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
    let leaves =
        Bound::new(table, &case_of.weights, &device(), tolerance.precision).with_gradients();
    let pass = Pass::new(
        &leaves,
        Mode::Training(DropPathKey {
            seed: 0,
            global_step: 0,
            slot: 0,
        }),
    );
    let heads = case_of
        .network
        .forward(case_of.input(case).autodiff(), &pass);

    let official = &case["train_logits"]["f64"];
    let official = if case_of.distillation {
        vec![&official["head"], &official["dist_head"]]
    } else {
        vec![official]
    };
    let share = 1.0 / heads.len() as f64;
    let mut loss = 0.0;
    let mut surrogate: Option<Tensor<2>> = None;
    for (head, official) in heads.into_iter().zip(official) {
        let [batch, classes] = head.dims();
        let logits: Vec<f32> = head.clone().inner().into_data().try_into_vec().unwrap();
        assert_close(
            &format!("{name}: train logits"),
            &logits,
            &numbers(official),
            tolerance.logits,
        );
        let mut gradient = Vec::new();
        for (row, label) in logits.chunks_exact(classes).zip(&labels) {
            let exps: Vec<f64> = row.iter().map(|logit| f64::from(*logit).exp()).collect();
            let sum: f64 = exps.iter().sum();
            loss -= share * (exps[*label] / sum).ln() / batch as f64;
            gradient.extend(exps.iter().enumerate().map(|(class, exp)| {
                ((exp / sum - f64::from(u8::from(class == *label))) * share / batch as f64) as f32
            }));
        }
        let gradient =
            Tensor::<2>::from_data(TensorData::new(gradient, [batch, classes]), &device());
        let product = head * gradient.autodiff();
        surrogate = Some(surrogate.map_or(product.clone(), |sum| sum + product));
    }
    let official_loss = case["loss"]["f64"].as_f64().unwrap();
    assert!(
        (loss - official_loss).abs() <= tolerance.loss * official_loss,
        "{name}: loss {loss}, officially {official_loss}"
    );

    let mut gradients = surrogate.unwrap().backward();
    let moments = pass.into_moments().unwrap();
    let gradient = leaves.take_gradients(table, &mut gradients);
    let gradient = gradient.read().unwrap();
    let flat = gradient.flat();
    let official_norm = case["grad_norm"]["f64"].as_f64().unwrap();
    let kinks = case["relu_kinks_train"]["below_1e-6"].as_u64().unwrap_or(0);
    let relative = tolerance.gradients[usize::from(kinks > 0)];
    let floor = tolerance.floor * official_norm;
    let norm = flat.iter().map(|value| f64::from(*value).powi(2));
    let norm = norm.sum::<f64>().sqrt();
    assert!(
        (norm - official_norm).abs() <= tolerance.norm * official_norm,
        "{name}: the gradient has norm {norm}, officially {official_norm}"
    );
    for row in case["grads"]["rows"].as_array().unwrap() {
        let key = row[0].as_str().unwrap();
        let parameter = table
            .parameters()
            .iter()
            .find(|parameter| parameter.name == key)
            .unwrap();
        let values = &flat[parameter.range.clone()];
        let norm = values
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            .sqrt();
        let official = row[1].as_f64().unwrap();
        let error = (norm - official).abs();
        assert!(
            error <= relative * official + floor,
            "{name}: the gradient of {key} has norm {norm}, officially {official}"
        );
        let first: Vec<f64> = numbers(&row[3]);
        let scale = first
            .iter()
            .fold(0.0f64, |most, value| most.max(value.abs()));
        for (ours, theirs) in values.iter().zip(&first) {
            let error = (f64::from(*ours) - theirs).abs();
            assert!(
                error <= relative * (scale + official) + floor,
                "{name}: {key} has a gradient {ours}, officially {theirs}"
            );
        }
    }

    let mut statistics = case_of.weights.statistics.clone();
    for (index, norm) in table.norms().iter().enumerate() {
        let moments = &moments[norm.moments(index)];
        for channel in 0..norm.channels {
            let mean = moments[1 + channel] / moments[0];
            let variance = moments[1 + norm.channels + channel] / moments[0] - mean * mean;
            let unbiased = variance * moments[0] / (moments[0] - 1.0);
            let running = &mut statistics[norm.offset + channel];
            *running = 0.9 * *running + 0.1 * mean as f32;
            let running = &mut statistics[norm.offset + norm.channels + channel];
            *running = 0.9 * *running + 0.1 * unbiased as f32;
        }
    }
    let updated = Weights {
        statistics,
        ..case_of.weights.clone()
    };
    let logits = case_of.eval_logits(&updated, case);
    let official = numbers(&case["eval_logits_after_train_forward"]["f64"]);
    assert_close(
        &format!("{name}: eval logits with the new statistics"),
        &logits,
        &official,
        tolerance.evaluated,
    );
}
