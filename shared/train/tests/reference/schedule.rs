use perennial_plan::spec::ScheduleSpec;
use perennial_train::LearningRate;
use serde_json::Value;

use crate::fixtures::{cases, load, numbers};

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap()
}

fn assert_rates(rate: &LearningRate, expected: &[f64]) {
    for (step, expected) in expected.iter().enumerate() {
        let found = rate.at(step as u64);
        let error = (found - expected).abs();
        assert!(
            error < 1e-17 + expected * 1e-13,
            "step {step}: {found} but {expected}"
        );
    }
}

#[test]
fn without_warm_up_whole_epochs_have_the_rates_of_pytorch_also_when_they_rise_again() {
    let fixture = load("lr_schedules");
    for case in cases(&fixture, "torch_cosine_annealing") {
        let spec = ScheduleSpec {
            min_learning_rate: number(case, "eta_min"),
            ..ScheduleSpec::default()
        };
        let epochs = number(case, "T_max") as u32;
        let expected = numbers(&case["lr_after_k_steps"]);
        assert!(expected.len() > 2 * epochs as usize || expected.len() > epochs as usize + 1);
        let rate = LearningRate::new(&spec, number(case, "base_lr"), epochs, 1);
        assert_rates(&rate, &expected);
    }
}

/// Covers one cycle with the warm-up before it. timm's other forms (the warm-up inside the cycle, several
/// cycles, `k_decay`, the floor after the last cycle) are not what the job file can ask for.
#[test]
fn with_warm_up_whole_epochs_have_the_rates_of_timm() {
    let fixture = load("lr_schedules");
    let mut warmed_up = 0;
    for case in cases(&fixture, "timm_cosine") {
        let warmup = case["warmup_t"].as_u64().unwrap() as u32;
        let other = case.get("k_decay").is_some() || case.get("cycle_limit").is_some();
        if other || (warmup > 0 && case["warmup_prefix"] != true) {
            continue;
        }
        let spec = ScheduleSpec {
            warmup_epochs: warmup,
            warmup_learning_rate: case["warmup_lr_init"].as_f64().unwrap_or(0.0),
            min_learning_rate: number(case, "lr_min"),
            ..ScheduleSpec::default()
        };
        let epochs = number(case, "t_initial") as u32 + warmup;
        let expected = numbers(&case["lr_after_construction_then_step(1..40)"]);
        let rate = LearningRate::new(&spec, number(case, "base_lr"), epochs, 1);
        assert_rates(&rate, &expected[..=epochs as usize]);
        warmed_up += usize::from(warmup > 0);
    }
    assert!(warmed_up > 0);
}

/// Its warm-up, whose last step repeats the base rate, is not ours.
#[test]
fn without_warm_up_every_step_has_the_rate_of_the_cas_vit_scheduler() {
    let fixture = load("lr_schedules");
    let mut seen = 0;
    for case in cases(&fixture, "casvit_cosine_scheduler") {
        if case["warmup_epochs"] != 0 {
            continue;
        }
        let spec = ScheduleSpec {
            min_learning_rate: number(case, "final_value"),
            ..ScheduleSpec::default()
        };
        let epochs = number(case, "epochs") as u32;
        let steps_per_epoch = case["niter_per_ep"].as_u64().unwrap();
        let rate = LearningRate::new(&spec, number(case, "base_value"), epochs, steps_per_epoch);
        assert_rates(&rate, &numbers(&case["values"]));
        seen += 1;
    }
    assert!(seen > 0);
}
