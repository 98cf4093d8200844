//! Clipping, loss, average and accuracy.

use perennial_plan::spec::EmaSpec;
use perennial_train::ema::{self, EmaDecay};
use perennial_train::metrics::{Meter, argmax};
use perennial_train::{Segment, clip, loss};

use crate::fixtures::{assert_near, cases, hash, load, numbers, tensor};

#[test]
fn gradients_are_clipped_as_pytorch_clips_them() {
    let fixture = load("clip_grad_norm");
    let mut clipped_once = false;
    for case in cases(&fixture, "cases") {
        if case["norm_type"] != 2.0 {
            continue;
        }
        let scale = case["scale"].as_f64().unwrap();
        let max_norm = case["max_norm"].as_f64().unwrap();
        let parts = [("clip.0", 12), ("clip.1", 5), ("clip.2", 12)];
        let gradients: Vec<f32> = parts
            .iter()
            .flat_map(|(name, count)| tensor(name, *count, scale))
            .collect();
        let segments = Segment::table(parts.map(|(name, _)| {
            let shape: &[usize] = if name == "clip.1" { &[5] } else { &[12] };
            (name, shape)
        }));

        let norm = clip::global_norm(&gradients, &segments, 1);
        let expected = case["f64"]["total_norm"].as_f64().unwrap();
        assert!(
            (norm - expected).abs() <= expected * 1e-14,
            "{norm} but {expected}"
        );
        let coefficient = clip::clip_coefficient(norm, max_norm).unwrap();
        let clipped: Vec<f32> = gradients.iter().map(|g| g * coefficient as f32).collect();
        assert_near(&clipped, &numbers(&case["f32"]["clipped"]), 2.5e-7);
        clipped_once |= coefficient < 1.0;
    }
    assert!(clipped_once);
}

#[test]
fn losses_and_gradients_are_those_of_pytorch_and_timm() {
    let fixture = load("mixup_losses");
    let classes = fixture["num_classes"].as_u64().unwrap() as usize;
    let rows = 6;
    let logits = tensor("logits", rows * classes, 3.0);
    let hard = |row: usize| (5 * row + 1) % classes;
    for case in cases(&fixture, "losses") {
        let smoothing = case["smoothing"].as_f64().unwrap_or(0.0);
        let lam = case["lam"].as_f64().unwrap_or(1.0);
        let off = smoothing / classes as f64;
        let one_hot = |label, class| {
            if label == class {
                1.0 - smoothing + off
            } else {
                off
            }
        };
        // A mixed row is mixed with the row at the same place from the end.
        let targets: Vec<f32> = (0..rows * classes)
            .map(|index| (index / classes, index % classes))
            .map(|(row, class)| {
                lam * one_hot(hard(row), class) + (1.0 - lam) * one_hot(hard(rows - 1 - row), class)
            })
            .map(|target| target as f32)
            .collect();
        let mut gradient = vec![0.0; rows * classes];
        let sum = loss::soft_target_cross_entropy(&logits, &targets, classes, &mut gradient);

        let mean = sum / rows as f64;
        let expected = case["f64"].as_f64().unwrap();
        assert!((mean - expected).abs() < 3e-7, "{case}: {mean}");
        let first: Vec<f32> = gradient[..classes]
            .iter()
            .map(|g| g / rows as f32)
            .collect();
        assert_near(&first, &numbers(&case["grad_row0_f64"]), 3e-8);
    }
}

#[test]
fn the_decay_is_that_of_timm() {
    let fixture = load("ema");
    let mut seen = 0;
    for case in cases(&fixture, "get_decay") {
        let other = ["update_after_step", "warmup_gamma"];
        if case["use_warmup"] != true || other.iter().any(|key| case.get(key).is_some()) {
            continue;
        }
        let decay = EmaDecay::new(&EmaSpec {
            decay: case["decay"].as_f64().unwrap(),
            warmup: true,
        })
        .unwrap();
        for pair in case["step_decay"].as_array().unwrap() {
            let (step, expected) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
            assert!((decay.at(step) - expected).abs() < 1e-15, "step {step}");
        }
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn the_average_moves_as_that_of_timm_with_and_without_warm_up() {
    let fixture = load("ema");
    let mut seen = Vec::new();
    for case in cases(&fixture, "cases") {
        let warmup = case["use_warmup"] == true;
        let stepped = !case["update_step_argument"].is_null();
        let other = ["min_decay", "update_after_step", "exclude_buffers"];
        let ours = case["class"] == "ModelEmaV3"
            && warmup == stepped
            && other.iter().all(|key| case.get(key).is_none());
        if !ours {
            continue;
        }
        let decay = EmaDecay::new(&EmaSpec {
            decay: case["decay"].as_f64().unwrap(),
            warmup,
        })
        .unwrap();
        for (key, count) in [("0.weight", 6), ("1.bias", 2), ("1.running_var", 2)] {
            let at = |time: usize| tensor(&format!("ema.{time}.{key}"), count, 1.0);
            let mut average = at(0);
            for (index, expected) in cases(case, "ema_after_t_1..5").iter().enumerate() {
                let time = index + 1;
                ema::update(&mut average, &at(time), decay.at(time as u64));
                assert_near(&average, &numbers(&expected[key]), 1.2e-7);
            }
        }
        seen.push(warmup);
    }
    assert!(seen.contains(&true) && seen.contains(&false));
}

#[test]
fn accuracy_is_that_of_timm() {
    let fixture = load("classification_report");
    let rows = fixture["n"].as_u64().unwrap() as usize;
    let classes = fixture["num_classes"].as_u64().unwrap() as usize;
    let labels: Vec<u32> = (0..rows as u64)
        .map(|row| (hash("y_true", row) % classes as u64) as u32)
        .collect();
    let mut scores = tensor("scores", rows * classes, 1.0);
    for (row, label) in labels.iter().enumerate() {
        scores[row * classes + *label as usize] += 0.5;
    }
    let mut meter = Meter::default();
    meter.add(&scores, classes, &labels, 0.0);

    let expected = &fixture["topk"];
    assert_eq!(meter.top1_share(), expected["top1"].as_f64());
    assert_eq!(meter.top5_share(), expected["top5"].as_f64());
    let first: Vec<usize> = scores.chunks(classes).take(20).map(argmax).collect();
    let argmax_first: Vec<f64> = first.iter().map(|index| *index as f64).collect();
    assert_eq!(argmax_first, numbers(&expected["argmax_first20"]));
}
