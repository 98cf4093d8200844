//! `perennial predict`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use perennial_worker::inference::{Classifier, Prediction};
use serde_json::json;

use super::weights::{MAX_PIXELS, WeightsArgs};
use crate::output::{self, Output};

/// Classify pictures: CSV, or with --json one object a picture
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    /// Pictures, and folders that are searched for pictures
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How many of the most probable classes to tell
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// With --json: the logits of all classes as well
    #[arg(long)]
    logits: bool,
    /// Go on when a picture cannot be read, and fail at the end
    #[arg(long)]
    keep_going: bool,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let pictures = pictures(&args.paths)?;
    let classifier = args.weights.load()?;
    let top = usize::from(args.top).min(classifier.card.classes.len());
    let mut csv = csv::Writer::from_writer(std::io::stdout().lock());
    if !output.json {
        let numbered =
            (1..=top).flat_map(|place| [format!("class_{place}"), format!("probability_{place}")]);
        csv.write_record(std::iter::once("path".to_string()).chain(numbered))?;
        csv.flush()?;
    }
    let mut failed = 0usize;
    let mut writing = Ok(());
    classifier.predict(
        &pictures,
        args.weights.threads(),
        MAX_PIXELS,
        |prediction| {
            let prediction = match prediction {
                Ok(prediction) => prediction,
                Err(error) if args.keep_going => {
                    failed += 1;
                    let _ = writeln!(std::io::stderr(), "error: {error}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if writing.is_ok() {
                writing = if output.json {
                    drop(csv.flush());
                    println_json(&classifier, &prediction, top, args.logits)
                } else {
                    csv.write_record(record(&classifier, &prediction, top))
                        .map_err(Into::into)
                };
            }
            Ok(())
        },
    )?;
    writing?;
    csv.flush()?;
    if failed > 0 {
        bail!("{failed} of {} pictures could not be read", pictures.len());
    }
    Ok(())
}

fn record(classifier: &Classifier, prediction: &Prediction, top: usize) -> Vec<String> {
    let mut record = vec![prediction.path.display().to_string()];
    for class in prediction.ranking.iter().take(top) {
        record.push(classifier.card.classes[*class].clone());
        record.push(format!("{:.6}", prediction.probabilities[*class]));
    }
    record
}

fn println_json(
    classifier: &Classifier,
    prediction: &Prediction,
    top: usize,
    logits: bool,
) -> anyhow::Result<()> {
    let ranked: Vec<_> = prediction
        .ranking
        .iter()
        .take(top)
        .map(|class| json!({"class": classifier.card.classes[*class], "probability": prediction.probabilities[*class]}))
        .collect();
    let best = prediction.ranking[0];
    let mut line = json!({
        "event": "prediction",
        "path": prediction.path,
        "class": classifier.card.classes[best],
        "probability": prediction.probabilities[best],
        "top": ranked,
    });
    if logits {
        line["logits"] = json!(prediction.logits);
    }
    // Not through `output::line`: the CSV writer holds the lock of this thread, which is reentrant.
    output::line(&line.to_string())
}

/// The files named, and every picture in the folders named, in ascending order of their paths.
fn pictures(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = found.len();
            search(path, &mut found)?;
            if found.len() == before {
                bail!("{}: no pictures in this folder", path.display());
            }
            found[before..].sort();
        } else if path.is_file() {
            found.push(path.clone());
        } else {
            bail!("{}: there is no such file or folder", path.display());
        }
    }
    Ok(found)
}

fn search(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read `{}`", folder.display()))?
            .path();
        if path.is_dir() {
            search(&path, found)?;
        } else if perennial_data::is_picture(&path) {
            found.push(path);
        }
    }
    Ok(())
}
