//! `perennial predict`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use perennial_data::DataSet;
use perennial_data::pack::is_pack;
use perennial_plan::spec::DataSpec;
use perennial_worker::inference::{Classifier, Picked, Prediction};
use serde_json::json;

use super::weights::{MAX_PIXELS, WeightsArgs};
use crate::output::{self, Output};

/// Classify pictures: CSV, or with --json one object a picture
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    /// Pictures, folders that are searched for pictures, and packs (their validation side where it is their
    /// folder's)
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

/// The files named, and every picture in the folders and packs named, in ascending order of their paths.
fn pictures(paths: &[PathBuf]) -> anyhow::Result<Vec<Picked>> {
    let mut found = Vec::new();
    for path in paths {
        let location = path.to_string_lossy();
        if is_pack(&location) {
            let data = Arc::new(DataSet::all_of(&DataSpec {
                dir: location.into_owned(),
                ..DataSpec::default()
            })?);
            let samples = data.val.iter();
            found.extend(samples.map(|sample| Picked::Packed(data.clone(), *sample)));
        } else if path.is_dir() {
            let mut files = Vec::new();
            search(path, &mut files)?;
            if files.is_empty() {
                bail!("{}: no pictures in this folder", path.display());
            }
            files.sort();
            found.extend(files.into_iter().map(Picked::File));
        } else if path.is_file() {
            found.push(Picked::File(path.clone()));
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
