//! A small report to change in tests.

use perennial_report::{
    DataSummary, EpochRecord, Evaluation, FORMAT_VERSION, Mistake, ModelSummary, Report,
};

pub fn report() -> Report {
    let evaluation = |top1: f64| Evaluation {
        samples: 40,
        loss: 0.1 + 0.2,
        top1,
        top5: 1.0,
        k: 3,
        confusion: vec![vec![9, 1, 0], vec![2, 8, 3], vec![0, 1, 16]],
        mistakes: vec![Mistake {
            path: "val/oat/7.png".into(),
            truth: 1,
            predicted: 2,
            confidence: 0.97,
            thumbnail: Some("data:image/jpeg;base64,/9j/4AAQ".into()),
        }],
    };
    Report {
        format_version: FORMAT_VERSION,
        job: "meadow".into(),
        program_version: "0.1.0".into(),
        created: "2026-11-24T07:05:31Z".into(),
        command: Some("perennial train meadow.toml".into()),
        finished: true,
        epochs_done: 3,
        global_step: 12,
        model: ModelSummary {
            name: "casvit_xs".into(),
            parameters: 2_958_012,
            weights: None,
        },
        data: DataSummary {
            dir: "meadow".into(),
            fingerprint: "f00d".into(),
            classes: ["barley", "oat", "rye"].map(String::from).to_vec(),
            train_samples: 90,
            val_samples: 40,
            skipped: 0,
        },
        raw: evaluation(0.8),
        ema: Some(evaluation(0.825)),
        weights_sha256: Some("aaaa1111".into()),
        ema_sha256: Some("bbbb2222".into()),
        ledger_root: Some("cccc3333".into()),
        numerics: "cpu".into(),
        workers: 2,
        generations: 1,
        epochs: (1..=3).map(record).collect(),
        spec: serde_json::json!({ "name": "meadow", "train": { "epochs": 3 }, "mix": { "prob": 0.1 } }),
    }
}

pub fn record(epoch: u32) -> EpochRecord {
    let t = f64::from(epoch);
    EpochRecord {
        epoch,
        train_loss: 2.0 / t,
        train_top1: 0.2 * t,
        learning_rate: 1e-3 / t,
        grad_norm: 1.0,
        loss_scale: None,
        skipped_steps: None,
        val_loss: 1.7 / t,
        val_top1: 0.25 * t,
        val_top5: 0.9,
        ema_loss: Some(1.6 / t),
        ema_top1: Some(0.27 * t),
        ema_top5: Some(0.95),
        images_per_second: 1234.5,
        seconds: 61.0,
        workers: 2,
    }
}

/// Panics unless every element that is opened is closed in order; returns the names of all elements.
#[allow(dead_code)]
pub fn elements(html: &str) -> Vec<String> {
    const VOID: [&str; 3] = ["meta", "img", "!DOCTYPE"];
    let (mut names, mut open) = (Vec::new(), Vec::new());
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let length = rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..start + length];
        rest = &rest[start + length + 1..];
        let name = tag
            .trim_start_matches('/')
            .split_whitespace()
            .next()
            .unwrap()
            .to_string();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_ref(), Some(&name), "closed out of order");
        } else if !VOID.contains(&name.as_str()) {
            open.push(name.clone());
            names.push(name);
        } else {
            names.push(name);
        }
    }
    assert_eq!(open, Vec::<String>::new(), "left open");
    names
}
