use perennial_plan::spec::{OptimizerName, OptimizerSpec};
use perennial_train::{Optimizer, Segment};
use serde_json::Value;

use crate::fixtures::{assert_near, cases, load, numbers, tensor};

/// None for what the job file cannot ask for: Adam (decay coupled to the gradient) and Nesterov's momentum.
fn spec(case: &Value) -> Option<OptimizerSpec> {
    let number = |key: &str| case[key].as_f64().unwrap_or(0.0);
    let name = match case["optimizer"].as_str().unwrap() {
        "AdamW" => OptimizerName::Adamw,
        "SGD" if case["nesterov"] != true => OptimizerName::Sgd,
        _ => return None,
    };
    let defaults = OptimizerSpec::default();
    let betas = match case["betas"].as_array() {
        Some(betas) => [betas[0].as_f64().unwrap(), betas[1].as_f64().unwrap()],
        None => defaults.betas,
    };
    Some(OptimizerSpec {
        name,
        learning_rate: number("lr"),
        weight_decay: number("weight_decay"),
        betas,
        momentum: number("momentum"),
        ..defaults
    })
}

#[test]
fn adamw_and_sgd_take_the_steps_of_pytorch() {
    let fixture = load("optimizers");
    let mut seen = Vec::new();
    for case in cases(&fixture, "cases") {
        let Some(spec) = spec(case) else { continue };
        let segment = Segment {
            range: 0..6,
            decay: true,
        };
        let mut optimizer = Optimizer::new(&spec, vec![segment]);
        let mut parameters = tensor("opt.p", 6, 1.0);
        let steps = case["f32"]["p_after_step_1..5"].as_array().unwrap();
        for (index, expected) in steps.iter().enumerate() {
            let gradients = tensor(&format!("opt.g{}", index + 1), 6, 1.0);
            optimizer.step(&mut parameters, &gradients, 1.0, spec.learning_rate);
            assert_near(&parameters, &numbers(expected), 1.2e-7);
        }
        let moments = optimizer.state().moments;
        let expected = case["f32"]["final_state"].as_object().unwrap();
        assert_eq!(moments.len(), expected.len());
        for (name, values) in moments {
            assert_near(&values, &numbers(&expected[&name]), 2.5e-7);
        }
        seen.push((spec.name, spec.momentum > 0.0));
    }
    for kind in [
        (OptimizerName::Adamw, false),
        (OptimizerName::Sgd, true),
        (OptimizerName::Sgd, false),
    ] {
        assert!(seen.contains(&kind), "{kind:?}");
    }
}
