//! Writes a made-up report to a folder, to look at: `cargo run --release -p perennial-report --example
//! sample_report -- DIR [CLASSES] [EPOCHS]`.

use std::path::PathBuf;

use perennial_report::{
    DataSummary, EpochRecord, Evaluation, FORMAT_VERSION, Mistake, ModelSummary, Report,
    confusion_matrix,
};
use serde_json::json;

const SPECIES: [&str; 12] = [
    "Black-grass",
    "Charlock",
    "Cleavers",
    "Common Chickweed",
    "Common wheat",
    "Fat Hen",
    "Loose Silky-bent",
    "Maize",
    "Scentless Mayweed",
    "Shepherds Purse",
    "Small-flowered Cranesbill",
    "Sugar beet",
];
const PER_CLASS: u32 = 100;

/// Numbers of 0..1 that look random (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() * f64::from(end)) as u32
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: sample_report DIR [CLASSES] [EPOCHS]")?,
    );
    let classes: u32 = arguments.next().map_or(Ok(12), |text| text.parse())?;
    let epochs: u32 = arguments.next().map_or(Ok(30), |text| text.parse())?;
    let report = sample(classes, epochs);
    report.validate()?;
    std::fs::create_dir_all(&folder)?;
    for (name, content) in [
        ("report.json", report.to_json_pretty()),
        ("report.txt", report.to_text()),
        ("report.html", report.to_html()),
    ] {
        std::fs::write(folder.join(name), content)?;
        println!("{}", folder.join(name).display());
    }
    Ok(())
}

fn sample(classes: u32, epochs: u32) -> Report {
    let mut noise = Noise(7);
    let names: Vec<String> = (0..classes)
        .map(|class| match SPECIES.get(class as usize) {
            Some(name) => name.to_string(),
            None => format!("Species {class}"),
        })
        .collect();
    let raw = evaluation(&mut noise, classes, 0.83);
    let ema = evaluation(&mut noise, classes, 0.86);
    let records = (1..=epochs)
        .map(|epoch| record(&mut noise, epoch, epochs, &raw, &ema))
        .collect();
    Report {
        format_version: FORMAT_VERSION,
        job: "seedlings".into(),
        program_version: "0.1.0".into(),
        created: "2026-11-24T07:05:31Z".into(),
        command: Some("perennial train seedlings.toml --data seedlings_96 --store s3://models/perennial --workers 2".into()),
        finished: true,
        epochs_done: epochs,
        global_step: u64::from(epochs) * 45,
        model: ModelSummary {
            name: "casvit_xs".into(),
            parameters: 2_958_012,
            weights: None,
        },
        data: DataSummary {
            dir: "seedlings_96".into(),
            fingerprint: "3b1fb9cbe54dd3a0b5f2b1d6a6f5dc2b8f1e7c0a1d5c33f8f8a7e3d64e0b9a77".into(),
            classes: names,
            train_samples: 2818,
            val_samples: raw.samples,
            skipped: 3,
        },
        raw,
        ema: Some(ema),
        weights_sha256: Some("9f2c4e8b7d1a6053c2f98e41b7a0d3655e0c1f7a8b92d4e6f3a1c5b7d9e80f24".into()),
        ema_sha256: Some("51d07c3be9a84f62d0b13e7f95c2a86401e7f3d98b5c6a2f4e0d1b7c9a83f5e6".into()),
        ledger_root: Some("7c2f8a5b0e3d96f1a4c8b7d2e5f09386a1b4c7d0e3f6a9b2c5d8e1f4a7b0c3d6".into()),
        numerics: "cpu x86_64 avx2 f32, kernels 1".into(),
        workers: 2,
        generations: 3,
        epochs: records,
        spec: json!({
            "name": "seedlings", "seed": 42,
            "data": { "dir": "seedlings_96", "val_fraction": 0.3, "split_seed": 42, "stratify": false, "image_size": 64, "resize": "bilinear",
                "mean": [0.485f32, 0.456f32, 0.406f32], "std": [0.229f32, 0.224f32, 0.225f32], "on_bad_image": "skip", "max_pixels": 100_000_000, "cache_mib": 1024 },
            "model": { "name": "casvit_xs", "weights": null, "drop_path": 0.0, "distillation": false },
            "train": { "epochs": epochs, "batch_size": 64, "slots": 4, "reduction": "exact", "precision": "f32", "clip_grad_norm": 5.0 },
            "optimizer": { "name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "momentum": 0.9 },
            "schedule": { "name": "cosine", "warmup_epochs": 0, "warmup_learning_rate": 1e-6, "min_learning_rate": 1e-6 },
            "augment": { "horizontal_flip": 0.0, "vertical_flip": 0.0, "cutout": 0.5, "crop_scale": null, "crop_ratio": [0.75, 4.0 / 3.0] },
            "mix": { "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "cutmix_minmax": null, "prob": 0.1, "switch_prob": 0.5, "correct_lam": true, "label_smoothing": 0.1 },
            "ema": { "decay": 0.995, "warmup": true },
            "elastic": { "min_workers": 1, "max_workers": null },
            "checkpoint": { "every_steps": 0, "keep_last": 3, "keep_best": 1, "keep_every": 0 }
        }),
    }
}

fn evaluation(noise: &mut Noise, classes: u32, accuracy: f64) -> Evaluation {
    let (mut truth, mut predicted) = (Vec::new(), Vec::new());
    for class in 0..classes {
        for _ in 0..PER_CLASS - 37 * class % 40 {
            truth.push(class);
            predicted.push(match noise.next() {
                right if right < accuracy => class,
                alike if alike < accuracy + 0.08 => (class + 6) % classes,
                _ => noise.below(classes),
            });
        }
    }
    let right = truth.iter().zip(&predicted).filter(|(a, b)| a == b).count();
    let top1 = right as f64 / truth.len() as f64;
    let wrong = truth
        .iter()
        .zip(&predicted)
        .enumerate()
        .filter(|(_, (a, b))| a != b);
    let mistakes = wrong
        .step_by(7)
        .take(18)
        .enumerate()
        .map(|(rank, (index, (&truth, &predicted)))| Mistake {
            path: format!(
                "val/{}/{index:05}c97e74bd0.png",
                SPECIES[truth as usize % 12]
            ),
            truth,
            predicted,
            confidence: 0.995 - 0.013 * rank as f64,
            thumbnail: Some(seedling(noise)),
        })
        .collect();
    Evaluation {
        samples: truth.len() as u64,
        loss: 1.9 - 1.5 * accuracy,
        top1,
        top5: top5(top1),
        k: classes.min(5),
        confusion: confusion_matrix(&truth, &predicted, classes as usize)
            .expect("labels are below classes"),
        mistakes,
    }
}

fn record(
    noise: &mut Noise,
    epoch: u32,
    epochs: u32,
    raw: &Evaluation,
    ema: &Evaluation,
) -> EpochRecord {
    let progress = f64::from(epoch) / f64::from(epochs);
    let learned = (1.0 - (-4.5 * progress).exp()) / (1.0 - (-4.5f64).exp());
    let wobble = (noise.next() - 0.5) * 0.09 * (1.0 - progress);
    let smooth = (learned - 0.25 * (-9.0 * progress).exp()).max(0.05);
    let val_top1 = (0.12 + (raw.top1 - 0.12) * learned + wobble).clamp(0.0, 1.0);
    let ema_top1 = 0.1 + (ema.top1 - 0.1) * smooth;
    EpochRecord {
        epoch,
        train_loss: 2.5 - 1.45 * learned + 0.2 * wobble,
        train_top1: 0.1 + 0.72 * learned,
        learning_rate: 1e-6 + 0.5 * (1e-3 - 1e-6) * (1.0 + (std::f64::consts::PI * progress).cos()),
        grad_norm: 1.2 + 2.0 * noise.next(),
        loss_scale: None,
        skipped_steps: None,
        val_loss: 2.4 - (2.4 - raw.loss) * learned - 1.5 * wobble,
        val_top1,
        val_top5: top5(val_top1),
        ema_loss: Some(2.45 - (2.45 - ema.loss) * smooth),
        ema_top1: Some(ema_top1),
        ema_top5: Some(top5(ema_top1)),
        images_per_second: 380.0 + 40.0 * noise.next(),
        seconds: 7.0 + noise.next(),
        workers: if epoch < epochs / 3 { 1 } else { 2 },
    }
}

fn top5(top1: f64) -> f64 {
    1.0 - (1.0 - top1).powf(2.2)
}

/// A drawing in place of a photograph.
fn seedling(noise: &mut Noise) -> String {
    let mut leaves = String::new();
    let turn = noise.below(90);
    for leaf in 0..3 + noise.below(4) {
        let (angle, length) = (turn + leaf * 75, 18 + noise.below(14));
        leaves += &format!(
            "<ellipse cx='48' cy='{}' rx='{}' ry='{length}' transform='rotate({angle} 48 48)'/>",
            48 - length,
            6 + noise.below(6)
        );
    }
    let (soil, green) = (20 + noise.below(15), 85 + noise.below(40));
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 96 96'><rect width='96' height='96' fill='hsl({soil} 25% 32%)'/><g fill='hsl({green} 42% 45%)'>{leaves}</g></svg>"
    );
    format!(
        "data:image/svg+xml,{}",
        svg.replace('%', "%25")
            .replace('<', "%3C")
            .replace('>', "%3E")
    )
}
