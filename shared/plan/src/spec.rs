//! The job file, resolved: every key with its default, checked.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::scaling::LossScale;

/// A key of the job file whose value cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job file: `{key}` is {value}, but must be {expected}")]
pub struct SpecError {
    pub key: &'static str,
    pub value: String,
    pub expected: &'static str,
}

/// A section of the job file, in the words of its documentation.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    pub about: &'static [&'static str],
    /// Each key with the lines that are said of it.
    pub keys: &'static [(&'static str, &'static [&'static str])],
}

macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $($(#[doc = $doc:literal])* $(#[serde $serde:tt])* $field:ident: $kind:ty = $default:expr,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])* $(#[serde $serde])* pub $field: $kind,)* }

        impl $name {
            /// What stands above in words.
            pub const SECTION: Section = Section {
                about: &[$($about),*],
                keys: &[$((stringify!($field), &[$($doc),*])),*],
            };
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// A whole job.
    Spec {
        /// The job's name: its folder in the store.
        name: String = "job".into(),
        /// The seed of everything random in the job.
        seed: u64 = 42,
        data: DataSpec = DataSpec::default(),
        model: ModelSpec = ModelSpec::default(),
        train: TrainSpec = TrainSpec::default(),
        optimizer: OptimizerSpec = OptimizerSpec::default(),
        schedule: ScheduleSpec = ScheduleSpec::default(),
        augment: AugmentSpec = AugmentSpec::default(),
        mix: MixSpec = MixSpec::default(),
        ema: EmaSpec = EmaSpec::default(),
        elastic: ElasticSpec = ElasticSpec::default(),
        checkpoint: CheckpointSpec = CheckpointSpec::default(),
        /// Weights to measure in place of training; none: the job trains.
        #[serde(skip_serializing_if = "Option::is_none")]
        evaluate: Option<EvaluateSpec> = None,
    }
}

section! {
    /// `[data]`: which pictures, and how they become tensors.
    DataSpec {
        /// One folder a class, or `train/` and `val/` with one folder a class in each, or a pack of such a
        /// folder: a folder with `PACK.json` in it, or `s3://bucket/prefix`.
        dir: String = String::new(),
        /// The share of samples held out for validation when `dir` is not split yet.
        val_fraction: f64 = 0.3,
        /// The seed of that split.
        split_seed: u32 = 42,
        /// Whether that split keeps each class's share.
        stratify: bool = false,
        /// Height and width in pixels of what the network sees.
        image_size: u32 = 64,
        /// How pictures are resized, as Pillow does it.
        resize: Interpolation = Interpolation::Bilinear,
        /// Per-channel mean that normalisation subtracts, of values in 0..1.
        mean: [f32; 3] = [0.5; 3],
        /// Per-channel standard deviation that normalisation divides by.
        std: [f32; 3] = [0.5; 3],
        /// What becomes of a picture that cannot be decoded: `fail` ends the run with its name, `skip` leaves it out and
        /// counts it in the report.
        on_bad_image: OnBadImage = OnBadImage::Fail,
        /// Decoding refuses pictures with more pixels.
        max_pixels: u64 = 100_000_000,
        /// Memory for decoded pictures a worker, in MiB.
        cache_mib: u64 = 1024,
        /// The folder on a worker's machine that keeps what was read of a pack on S3; none: `perennial` in
        /// the user's folder for caches.
        cache_dir: String = String::new(),
        /// Room in that folder, for all packs together, in MiB; 0: nothing is kept.
        cache_disk_mib: u64 = 10_240,
    }
}

/// How a picture is resized; both as Pillow does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    Bilinear,
    Bicubic,
}

/// What to do with a picture that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadImage {
    /// End the run with an error that names it.
    Fail,
    /// Leave it out of the data set and count it in the report.
    Skip,
}

section! {
    /// `[model]`: which network, and what it starts from.
    ModelSpec {
        /// `casvit_xs`, `casvit_s`, `casvit_m` or `casvit_t`.
        name: String = "casvit_xs".into(),
        /// A `.safetensors` or `.pth` file to start from; none: drawn from the seed.
        weights: Option<String> = None,
        /// The rate of the last block; the others rise linearly to it.
        drop_path: f64 = 0.0,
        /// A second head whose logits are averaged with the first's in evaluation.
        distillation: bool = false,
    }
}

section! {
    /// `[train]`: how long, in which portions.
    TrainSpec {
        /// Passes over the training pictures.
        epochs: u32 = 30,
        /// Samples in a global batch.
        batch_size: u32 = 64,
        /// Shares of a global batch; bounds how many workers are of use.
        slots: u32 = 4,
        /// How gradients are summed over slots: `exact` by a fixed tree, `fast` by NCCL between GPUs, whose weights
        /// depend on the workers.
        reduction: Reduction = Reduction::Exact,
        /// In which numbers products are computed. Weights, optimizer, normalisations, loss, gradients and sums are `f32`
        /// in each, and so is evaluation.
        precision: Precision = Precision::F32,
        /// Of a job in `f16`: what the loss scale begins with, a power of two; none: 65536.
        #[serde(skip_serializing_if = "Option::is_none")]
        loss_scale: Option<f64> = None,
        /// The largest global L2 norm of the gradient; 0 turns clipping off.
        clip_grad_norm: f64 = 5.0,
    }
}

/// How gradients are summed over slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// By the fixed tree over slots: the bits do not depend on the membership.
    Exact,
    /// By the all-reduce of a library (NCCL, between GPUs): the weights depend on the workers.
    Fast,
}

/// In which numbers the network trains. Weights, optimizer, normalisations, loss, gradients and sums are `f32` in
/// each, and so is evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    /// The operands of matrix products are rounded to bfloat16.
    Bf16,
    /// The operands of matrix products are rounded to half precision, and the loss is scaled: see
    /// [`LossScale`].
    F16,
}

// === impl Precision ===

impl Precision {
    /// As the job file names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// What the job file calls `name`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16]
            .into_iter()
            .find(|precision| precision.name() == name)
    }
}

section! {
    /// `[optimizer]`.
    OptimizerSpec {
        /// Which optimizer.
        name: OptimizerName = OptimizerName::Adamw,
        /// The highest learning rate, from which the schedule goes down.
        learning_rate: f64 = 1e-3,
        /// Decoupled for AdamW, added to the gradient for SGD; never on biases and norms.
        weight_decay: f64 = 0.05,
        /// AdamW's decay rates of the two moments.
        betas: [f64; 2] = [0.9, 0.999],
        /// AdamW's term in the denominator.
        eps: f64 = 1e-8,
        /// SGD's momentum.
        momentum: f64 = 0.9,
    }
}

/// Which optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    Adamw,
    Sgd,
}

section! {
    /// `[schedule]`: the learning rate over the epochs, set once a step.
    ScheduleSpec {
        /// How the learning rate goes on after the warmup: along a half cosine, or not at all.
        name: ScheduleName = ScheduleName::Cosine,
        /// Epochs of linear rise from `warmup_learning_rate`.
        warmup_epochs: u32 = 0,
        /// Where that rise starts.
        warmup_learning_rate: f64 = 1e-6,
        /// Where the cosine ends.
        min_learning_rate: f64 = 1e-6,
    }
}

/// Which schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    Cosine,
    Constant,
}

section! {
    /// `[augment]`: what happens to a training picture.
    AugmentSpec {
        /// The probability of mirroring left to right.
        horizontal_flip: f64 = 0.5,
        /// The probability of mirroring top to bottom.
        vertical_flip: f64 = 0.0,
        /// The probability of Cutout (area 2 to 40 %, aspect 0.4 to 2.5, one value for the patch).
        cutout: f64 = 0.0,
        /// The share of the area that a random resized crop keeps, `[low, high]`; none: the whole picture is resized.
        crop_scale: Option<[f64; 2]> = None,
        /// The aspect ratios of that crop, `[low, high]`.
        crop_ratio: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0],
    }
}

section! {
    /// `[mix]`: MixUp, CutMix and label smoothing.
    MixSpec {
        /// MixUp's Beta parameter; 0 turns it off.
        mixup_alpha: f64 = 0.0,
        /// CutMix's Beta parameter; 0 turns it off.
        cutmix_alpha: f64 = 0.0,
        /// The sides of CutMix's patch as `[low, high]` shares instead of drawing from Beta.
        cutmix_minmax: Option<[f64; 2]> = None,
        /// The probability that a slot is mixed.
        prob: f64 = 1.0,
        /// The probability of CutMix where both are on.
        switch_prob: f64 = 0.5,
        /// Whether lambda is corrected to the area that the clipped patch covers.
        correct_lam: bool = true,
        /// The share of a label that is spread over all classes.
        label_smoothing: f64 = 0.1,
    }
}

section! {
    /// `[ema]`: the exponential moving average of the weights.
    EmaSpec {
        /// The weight of the old average in each step; 0 turns the average off.
        decay: f64 = 0.9998,
        /// Let the decay rise to `decay` with the steps. Without pretrained weights a constant high decay
        /// keeps the average near the random start, and it does not score.
        warmup: bool = true,
    }
}

section! {
    /// `[elastic]`: how many workers.
    ElasticSpec {
        /// With fewer the job waits; also how many `train` starts without `--workers`.
        min_workers: u32 = 1,
        /// More are not taken; none: no limit but the slots.
        max_workers: Option<u32> = None,
    }
}

section! {
    /// `[checkpoint]`: when, and which are kept. The last one of a run is always written.
    CheckpointSpec {
        /// Steps between checkpoints; 0: at each epoch's end only.
        every_steps: u64 = 0,
        /// How many of the newest are kept.
        keep_last: u32 = 3,
        /// How many of the best by validation top-1 (EMA where there is one) are kept.
        keep_best: u32 = 1,
        /// Each checkpoint whose step is a multiple of this is kept; 0: none.
        keep_every: u64 = 0,
    }
}

section! {
    /// `[evaluate]`: the job is an evaluation of given weights. Its one epoch goes over the pictures to measure them
    /// on; `[train]` says how these are dealt, and there is no training. No job file has this: `evaluate` makes it.
    EvaluateSpec {
        /// Where the weights are from, in words.
        of: String = String::new(),
        /// The hash of the weights, by which they are found in the job's folder.
        weights_sha256: String = String::new(),
        /// Likewise of their average, which is measured as well.
        ema_sha256: Option<String> = None,
        /// The network's classes in the order of its logits; the pictures' are matched with them by name.
        classes: Vec<String> = Vec::new(),
        pictures: EvaluatedPictures = EvaluatedPictures::All,
    }
}

/// Which pictures of `data.dir` an evaluation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvaluatedPictures {
    /// Those that validate where they are split, else all.
    All,
    /// Those that a job with this `[data]` holds out for validation.
    Validation,
}

// === impl EvaluateSpec ===

impl EvaluateSpec {
    /// The hashes of what is measured, the weights themselves first.
    pub fn hashes(&self) -> impl Iterator<Item = &str> {
        let hashes = std::iter::once(&self.weights_sha256).chain(&self.ema_sha256);
        hashes.map(String::as_str)
    }
}

// === impl Spec ===

impl Spec {
    /// The sections of the job file in their order, with their names; the first is what stands above all of them.
    pub const SECTIONS: [(&str, Section); 11] = [
        ("", Self::SECTION),
        ("data", DataSpec::SECTION),
        ("model", ModelSpec::SECTION),
        ("train", TrainSpec::SECTION),
        ("optimizer", OptimizerSpec::SECTION),
        ("schedule", ScheduleSpec::SECTION),
        ("augment", AugmentSpec::SECTION),
        ("mix", MixSpec::SECTION),
        ("ema", EmaSpec::SECTION),
        ("elastic", ElasticSpec::SECTION),
        ("checkpoint", CheckpointSpec::SECTION),
    ];

    /// Refuses the first value that cannot be.
    pub fn validate(&self) -> Result<(), SpecError> {
        fn ensure(
            key: &'static str,
            value: impl ToString,
            holds: bool,
            expected: &'static str,
        ) -> Result<(), SpecError> {
            if holds {
                Ok(())
            } else {
                Err(SpecError {
                    key,
                    value: value.to_string(),
                    expected,
                })
            }
        }
        let probability = |key, value: f64| {
            ensure(
                key,
                value,
                (0.0..=1.0).contains(&value),
                "a probability between 0 and 1",
            )
        };
        let positive = |key, value: f64| {
            ensure(
                key,
                value,
                value.is_finite() && value > 0.0,
                "a positive number",
            )
        };
        let not_negative = |key, value: f64| {
            ensure(
                key,
                value,
                value.is_finite() && value >= 0.0,
                "0 or a positive number",
            )
        };
        let at_least_one = |key, value: u32| ensure(key, value, value >= 1, "at least 1");
        let share = |key, [low, high]: [f64; 2]| {
            let holds = 0.0 < low && low <= high && high <= 1.0;
            ensure(
                key,
                format!("[{low}, {high}]"),
                holds,
                "two rising numbers above 0 and up to 1",
            )
        };

        let named = !self.name.is_empty()
            && self
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !self.name.starts_with('.');
        ensure(
            "name",
            format!("\"{}\"", self.name),
            named,
            "letters, digits, `-`, `_` and `.`, not starting with `.`",
        )?;

        let data = &self.data;
        ensure(
            "data.dir",
            "\"\"",
            !data.dir.is_empty(),
            "a folder of pictures or a pack; set it there or with --data",
        )?;
        let split = data.val_fraction > 0.0 && data.val_fraction < 1.0;
        ensure(
            "data.val_fraction",
            data.val_fraction,
            split,
            "between 0 and 1, both excluded",
        )?;
        ensure(
            "data.image_size",
            data.image_size,
            (32..=1024).contains(&data.image_size),
            "between 32 and 1024",
        )?;
        for mean in data.mean {
            ensure("data.mean", mean, mean.is_finite(), "three finite numbers")?;
        }
        for std in data.std {
            ensure(
                "data.std",
                std,
                std.is_finite() && std > 0.0,
                "three positive numbers",
            )?;
        }
        ensure(
            "data.max_pixels",
            data.max_pixels,
            data.max_pixels >= 1,
            "at least 1",
        )?;

        let networks = ["casvit_xs", "casvit_s", "casvit_m", "casvit_t"];
        let known = networks.contains(&self.model.name.as_str());
        ensure(
            "model.name",
            format!("\"{}\"", self.model.name),
            known,
            "casvit_xs, casvit_s, casvit_m or casvit_t",
        )?;
        let drop_path = self.model.drop_path;
        ensure(
            "model.drop_path",
            drop_path,
            (0.0..1.0).contains(&drop_path),
            "between 0 and 1, 1 excluded",
        )?;

        at_least_one("train.epochs", self.train.epochs)?;
        at_least_one("train.batch_size", self.train.batch_size)?;
        let slots = self.train.slots;
        ensure(
            "train.slots",
            slots,
            (1..=1024).contains(&slots),
            "between 1 and 1024",
        )?;
        not_negative("train.clip_grad_norm", self.train.clip_grad_norm)?;
        if let Some(scale) = self.train.loss_scale {
            let half = self.train.precision == Precision::F16;
            let exponent = scale.log2();
            let holds = exponent.fract() == 0.0 && (0.0..=32.0).contains(&exponent);
            ensure(
                "train.loss_scale",
                scale,
                half && holds,
                "a power of two from 1 to 4294967296, and only where train.precision is \"f16\"",
            )?;
        }

        positive("optimizer.learning_rate", self.optimizer.learning_rate)?;
        not_negative("optimizer.weight_decay", self.optimizer.weight_decay)?;
        for beta in self.optimizer.betas {
            ensure(
                "optimizer.betas",
                beta,
                (0.0..1.0).contains(&beta),
                "two numbers between 0 and 1, 1 excluded",
            )?;
        }
        positive("optimizer.eps", self.optimizer.eps)?;
        let momentum = self.optimizer.momentum;
        ensure(
            "optimizer.momentum",
            momentum,
            (0.0..1.0).contains(&momentum),
            "between 0 and 1, 1 excluded",
        )?;

        let warmup = self.schedule.warmup_epochs;
        ensure(
            "schedule.warmup_epochs",
            warmup,
            warmup < self.train.epochs,
            "less than train.epochs",
        )?;
        not_negative(
            "schedule.warmup_learning_rate",
            self.schedule.warmup_learning_rate,
        )?;
        not_negative(
            "schedule.min_learning_rate",
            self.schedule.min_learning_rate,
        )?;

        let augment = &self.augment;
        probability("augment.horizontal_flip", augment.horizontal_flip)?;
        probability("augment.vertical_flip", augment.vertical_flip)?;
        probability("augment.cutout", augment.cutout)?;
        if let Some(scale) = augment.crop_scale {
            share("augment.crop_scale", scale)?;
        }
        let [low, high] = augment.crop_ratio;
        let ratio = 0.0 < low && low <= high && high.is_finite();
        ensure(
            "augment.crop_ratio",
            format!("[{low}, {high}]"),
            ratio,
            "two rising positive numbers",
        )?;

        not_negative("mix.mixup_alpha", self.mix.mixup_alpha)?;
        not_negative("mix.cutmix_alpha", self.mix.cutmix_alpha)?;
        if let Some(minmax) = self.mix.cutmix_minmax {
            share("mix.cutmix_minmax", minmax)?;
        }
        probability("mix.prob", self.mix.prob)?;
        probability("mix.switch_prob", self.mix.switch_prob)?;
        let smoothing = self.mix.label_smoothing;
        ensure(
            "mix.label_smoothing",
            smoothing,
            (0.0..1.0).contains(&smoothing),
            "between 0 and 1, 1 excluded",
        )?;
        let decay = self.ema.decay;
        ensure(
            "ema.decay",
            decay,
            (0.0..1.0).contains(&decay),
            "between 0 and 1, 1 excluded",
        )?;

        at_least_one("elastic.min_workers", self.elastic.min_workers)?;
        if let Some(max) = self.elastic.max_workers {
            ensure(
                "elastic.max_workers",
                max,
                max >= self.elastic.min_workers,
                "at least elastic.min_workers",
            )?;
        }
        at_least_one("checkpoint.keep_last", self.checkpoint.keep_last)?;
        let Some(evaluate) = &self.evaluate else {
            return Ok(());
        };
        for hash in evaluate.hashes() {
            let lowercase = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            ensure(
                "evaluate.weights_sha256",
                format!("\"{hash}\""),
                hash.len() == 64 && hash.bytes().all(lowercase),
                "a SHA-256 of 64 hexadecimal digits",
            )?;
        }
        ensure(
            "evaluate.classes",
            format!("{:?}", evaluate.classes),
            evaluate.classes.len() > 1,
            "at least two names",
        )?;
        let epochs = self.train.epochs;
        ensure("train.epochs", epochs, epochs == 1, "1 in an evaluation")
    }

    /// What decides the final weights: the spec without what only says where things are and how many
    /// take part. Two jobs with equal identities and equal data give equal weights.
    pub fn identity(&self) -> Spec {
        let mut identity = self.clone();
        identity.data.dir = String::new();
        identity.data.cache_mib = 0;
        identity.data.cache_dir = String::new();
        identity.data.cache_disk_mib = 0;
        identity.data.max_pixels = 0;
        identity.elastic = ElasticSpec::default();
        identity.checkpoint = CheckpointSpec::default();
        if let Some(evaluate) = &mut identity.evaluate {
            evaluate.of = String::new();
        }
        // A default that is left out is the same job; jobs without a scale have the identity that they always had.
        identity.train.loss_scale = LossScale::of(&self.train).map(|state| f64::from(state.scale));
        identity
    }

    /// A spec in which every key is written down, also those that most jobs do without.
    pub fn with_every_key() -> Self {
        let mut spec = Self::default();
        spec.train.loss_scale = Some(f64::from(LossScale::INITIAL));
        spec
    }

    /// SHA-256 of the identity's JSON, in hexadecimal.
    pub fn identity_hash(&self) -> String {
        let json = serde_json::to_vec(&self.identity()).expect("a spec is plain data");
        Sha256::digest(json)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The keys (`section.key`) in which two identities differ, with both values as JSON.
    pub fn differences(&self, other: &Spec) -> Vec<(String, String, String)> {
        fn walk(
            path: &str,
            a: &serde_json::Value,
            b: &serde_json::Value,
            found: &mut Vec<(String, String, String)>,
        ) {
            match (a, b) {
                (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                    for (key, value) in a {
                        let path = if path.is_empty() {
                            key.clone()
                        } else {
                            format!("{path}.{key}")
                        };
                        walk(
                            &path,
                            value,
                            b.get(key).unwrap_or(&serde_json::Value::Null),
                            found,
                        );
                    }
                    // A section that one of them does not have.
                    for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                        found.push((key.clone(), "null".into(), value.to_string()));
                    }
                }
                _ if a != b => found.push((path.to_string(), a.to_string(), b.to_string())),
                _ => {}
            }
        }
        let json =
            |spec: &Spec| serde_json::to_value(spec.identity()).expect("a spec is plain data");
        let mut found = Vec::new();
        walk("", &json(self), &json(other), &mut found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let mut spec = Spec::default();
        spec.data.dir = "seedlings".into();
        spec
    }

    #[test]
    fn the_defaults_are_a_valid_job_once_the_data_is_named() {
        assert_eq!(Spec::default().validate().unwrap_err().key, "data.dir");
        spec().validate().unwrap();
    }

    #[test]
    fn an_impossible_value_is_refused_with_its_key() {
        type Change = fn(&mut Spec);
        let changes: [(&str, Change); 8] = [
            ("name", |s| s.name = "a/b".into()),
            ("data.val_fraction", |s| s.data.val_fraction = 1.0),
            ("data.std", |s| s.data.std[1] = 0.0),
            ("model.name", |s| s.model.name = "resnet".into()),
            ("train.batch_size", |s| s.train.batch_size = 0),
            ("optimizer.learning_rate", |s| {
                s.optimizer.learning_rate = f64::NAN
            }),
            ("augment.crop_scale", |s| {
                s.augment.crop_scale = Some([0.9, 0.1])
            }),
            ("mix.prob", |s| s.mix.prob = -0.1),
        ];
        for (key, change) in changes {
            let mut spec = spec();
            change(&mut spec);
            let error = spec.validate().unwrap_err();
            assert_eq!(error.key, key);
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("job file: `{key}` is ")),
                "{error}"
            );
        }
    }

    /// A sum in another order has a last digit that a careless reader of JSON gets wrong.
    #[test]
    fn a_spec_read_from_its_json_has_the_same_identity() {
        let mut spec = spec();
        for (index, rate) in (0..500).map(|index| (index, 1.0 / f64::from(3 + index))) {
            spec.optimizer.learning_rate = rate * 1e-3 + rate * rate;
            spec.data.mean[index as usize % 3] = rate as f32 + 0.1;
            let json = serde_json::to_string(&spec).unwrap();
            let read: Spec = serde_json::from_str(&json).unwrap();
            assert_eq!(read, spec, "{json}");
            assert_eq!(read.identity_hash(), spec.identity_hash());
        }
    }

    #[test]
    fn an_evaluation_names_its_weights_by_a_hash_that_is_no_path_and_a_job_that_trains_says_nothing_of_it()
     {
        assert!(!serde_json::to_string(&spec()).unwrap().contains("evaluate"));
        let mut spec = spec();
        spec.train.epochs = 1;
        spec.evaluate = Some(EvaluateSpec {
            weights_sha256: "0f".repeat(32),
            classes: vec!["daisy".into(), "rose".into()],
            ..EvaluateSpec::default()
        });
        spec.validate().unwrap();
        for hash in ["../../elsewhere", "", &"0F".repeat(32), &"/.".repeat(32)] {
            let mut other = spec.clone();
            if let Some(evaluate) = &mut other.evaluate {
                evaluate.ema_sha256 = Some(hash.to_string());
            }
            assert_eq!(other.validate().unwrap_err().key, "evaluate.weights_sha256");
        }
    }

    #[test]
    fn a_loss_scale_is_of_f16_alone_and_its_default_need_not_be_written() {
        let mut half = spec();
        half.train.precision = Precision::F16;
        let implied = half.identity_hash();
        half.train.loss_scale = Some(65536.0);
        half.validate().unwrap();
        assert_eq!(half.identity_hash(), implied);
        half.train.loss_scale = Some(1024.0);
        half.validate().unwrap();
        assert_ne!(half.identity_hash(), implied);
        for scale in [0.0, -2.0, 0.5, 3.0, 2f64.powi(33), f64::NAN, f64::INFINITY] {
            half.train.loss_scale = Some(scale);
            assert_eq!(half.validate().unwrap_err().key, "train.loss_scale");
        }
        half.train.loss_scale = Some(1024.0);
        half.train.precision = Precision::Bf16;
        assert_eq!(half.validate().unwrap_err().key, "train.loss_scale");
    }

    /// A checkpoint of a job without a scale names the identity that it was made under.
    #[test]
    fn the_identity_of_a_job_without_a_loss_scale_stays_what_it_was() {
        let json = serde_json::to_string(&spec().identity()).unwrap();
        assert!(!json.contains("loss_scale"), "{json}");
        assert_eq!(
            spec().identity_hash(),
            "96f543e14af4133c77fd2ad4e55236ecf8673276276508deb28173e1ed49e626"
        );
    }

    #[test]
    fn the_identity_names_what_differs_and_nothing_else() {
        let mut other = spec();
        other.data.dir = "elsewhere".into();
        other.checkpoint.keep_last = 9;
        assert_eq!(spec().identity_hash(), other.identity_hash());
        other.train.batch_size = 32;
        other.mix.prob = 0.5;
        let differences = spec().differences(&other);
        let keys: Vec<&str> = differences.iter().map(|(key, _, _)| key.as_str()).collect();
        assert_eq!(keys, ["mix.prob", "train.batch_size"]);
        assert_ne!(spec().identity_hash(), other.identity_hash());
    }
}
