//! What the commands that use a weights file alone have in common.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use perennial_model::{ModelCard, files};
use perennial_plan::spec::{DataSpec, Interpolation};
use perennial_worker::inference::Classifier;

use crate::shell::CommandLine;

/// The weights file, and how it is used
#[derive(Debug, clap::Args)]
pub struct WeightsArgs {
    /// A .safetensors file (of `checkpoint export`, it says everything of itself) or a .pth file
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    #[command(flatten)]
    unsaid: UnsaidArgs,
    /// Slots computed side by side; all cores where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// What a weights file does not say of itself
#[derive(Debug, clap::Args)]
pub struct UnsaidArgs {
    /// Take the averaged weights from a training checkpoint that has both
    #[arg(long)]
    ema: bool,
    /// The network, for files of other programs: casvit_xs, casvit_s, casvit_m or casvit_t
    #[arg(long, value_name = "NAME", requires = "classes")]
    model: Option<String>,
    /// The classes in the order of the logits, comma-separated, for files of other programs
    #[arg(
        long,
        value_name = "A,B,...",
        value_delimiter = ',',
        requires = "model"
    )]
    classes: Vec<String>,
    /// Height and width in pixels, for files of other programs
    #[arg(long, value_name = "PIXELS", default_value_t = 224, requires = "model", value_parser = clap::value_parser!(u32).range(32..=1024))]
    image_size: u32,
    /// Per-channel mean, for files of other programs
    #[arg(
        long,
        value_name = "R,G,B",
        value_delimiter = ',',
        num_args = 1,
        requires = "model"
    )]
    mean: Vec<f32>,
    /// Per-channel standard deviation, for files of other programs
    #[arg(
        long,
        value_name = "R,G,B",
        value_delimiter = ',',
        num_args = 1,
        requires = "model"
    )]
    std: Vec<f32>,
}

/// Pictures with more pixels are refused.
pub const MAX_PIXELS: u64 = 100_000_000;

// === impl WeightsArgs ===

impl WeightsArgs {
    pub fn load(&self) -> anyhow::Result<Classifier> {
        self.unsaid.load(&self.weights)
    }

    pub fn threads(&self) -> usize {
        self.threads.map_or_else(all_cores, usize::from)
    }
}

pub fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

// === impl UnsaidArgs ===

impl UnsaidArgs {
    /// The averaged weights are wanted.
    pub fn ema(&self) -> bool {
        self.ema
    }

    /// The network and the weights of this file.
    pub fn load(&self, weights: &Path) -> anyhow::Result<Classifier> {
        let which = if self.ema {
            files::Weights::Average
        } else {
            files::Weights::Raw
        };
        Ok(Classifier::load(weights, which, self.card()?)?)
    }

    /// The same of the content of a .safetensors file.
    pub fn load_content(&self, content: &[u8]) -> anyhow::Result<Classifier> {
        let cannot = "cannot keep the weights in a file for now";
        let mut file = tempfile::Builder::new()
            .suffix(".safetensors")
            .tempfile()
            .context(cannot)?;
        file.write_all(content).context(cannot)?;
        self.load(file.path())
    }

    /// Adds them to a command line.
    pub fn spell(&self, line: CommandLine) -> CommandLine {
        let line = match self.ema {
            true => line.word("--ema"),
            false => line,
        };
        let Some(model) = &self.model else {
            return line;
        };
        let line = line
            .option("--model", model)
            .option("--classes", self.classes.join(","))
            .option("--image-size", self.image_size);
        let channels = [("--mean", &self.mean), ("--std", &self.std)];
        channels.into_iter().fold(line, |line, (name, values)| {
            let values: Vec<String> = values.iter().map(f32::to_string).collect();
            match values.is_empty() {
                true => line,
                false => line.option(name, values.join(",")),
            }
        })
    }

    fn card(&self) -> anyhow::Result<Option<ModelCard>> {
        let Some(model) = &self.model else {
            return Ok(None);
        };
        let default = DataSpec::default();
        Ok(Some(ModelCard {
            model: model.clone(),
            distillation: false,
            classes: self.classes.clone(),
            image_size: self.image_size,
            resize: Interpolation::Bilinear,
            mean: channels("--mean", &self.mean)?.unwrap_or(default.mean),
            std: channels("--std", &self.std)?.unwrap_or(default.std),
        }))
    }
}

fn channels(flag: &str, values: &[f32]) -> anyhow::Result<Option<[f32; 3]>> {
    match values {
        [] => Ok(None),
        [r, g, b] => Ok(Some([*r, *g, *b])),
        other => bail!(
            "{flag} has {} numbers, but a picture has three channels",
            other.len()
        ),
    }
}
