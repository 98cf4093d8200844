//! `perennial evaluate`.

use perennial_report::ClassificationReport;
use serde_json::json;

use super::weights::{MAX_PIXELS, WeightsArgs};
use crate::output::{Output, counted, percent};

/// Measure a weights file on a folder of pictures or a pack
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    /// One folder a class, or a pack: a folder or s3://bucket/prefix; those that validate where it is split
    #[arg(long, value_name = "DIR")]
    data: String,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let classifier = args.weights.load()?;
    let mut evaluation = classifier.evaluate(&args.data, args.weights.threads(), MAX_PIXELS)?;
    // Pictures belong into a page, not into lines.
    evaluation
        .mistakes
        .iter_mut()
        .for_each(|mistake| mistake.thumbnail = None);
    let classes = &classifier.card.classes;
    let report = ClassificationReport::new(classes, &evaluation.confusion);
    let value = json!({
        "event": "evaluation",
        "weights_sha256": classifier.weights_sha256(),
        "classes": classes,
        "evaluation": &evaluation,
        "classification_report": &report,
    });
    output.print(&value, || {
        format!(
            "{}: top-1 {}, top-{} {}, loss {:.4}\n\n{}",
            counted(evaluation.samples, "picture"),
            percent(evaluation.top1),
            evaluation.k,
            percent(evaluation.top5),
            evaluation.loss,
            report.to_text(2)
        )
    })
}
