//! What came out, in words and as a record.

use perennial_plan::spec::EvaluateSpec;
use perennial_report::{ClassificationReport, Evaluation};
use perennial_store::tensors::sha256;
use serde_json::{Value, json};

use crate::output::{Output, counted, percent};

/// What an evaluation found.
pub struct Shown {
    /// The job that it is, where it is one.
    job: Option<String>,
    evaluate: EvaluateSpec,
    raw: Evaluation,
    ema: Option<Evaluation>,
}

// === impl Shown ===

impl Shown {
    pub fn new(
        job: Option<String>,
        evaluate: EvaluateSpec,
        raw: Evaluation,
        ema: Option<Evaluation>,
    ) -> Self {
        Self {
            job,
            evaluate,
            raw: without_pictures(raw),
            ema: ema.map(without_pictures),
        }
    }

    pub fn print(&self, output: Output) -> anyhow::Result<()> {
        let classes = &self.evaluate.classes;
        let report =
            |evaluation: &Evaluation| ClassificationReport::new(classes, &evaluation.confusion);
        let ema = self.ema.as_ref().map(|ema| {
            json!({
                "weights_sha256": self.evaluate.ema_sha256,
                "evaluation": ema,
                "classification_report": report(ema),
            })
        });
        let value = json!({
            "event": "evaluation",
            "job": self.job,
            "of": self.evaluate.of,
            "weights_sha256": self.evaluate.weights_sha256,
            "classes": classes,
            "evaluation": &self.raw,
            "classification_report": report(&self.raw),
            "ema": ema,
            "sha256": self.sha256(),
        });
        output.print(&value, || self.text())
    }

    fn text(&self) -> String {
        let report = |evaluation: &Evaluation| {
            let report = ClassificationReport::new(&self.evaluate.classes, &evaluation.confusion);
            format!(
                "{}: top-1 {}, top-{} {}, loss {:.4}\n\n{}",
                counted(evaluation.samples, "picture"),
                percent(evaluation.top1),
                evaluation.k,
                percent(evaluation.top5),
                evaluation.loss,
                report.to_text(2)
            )
        };
        let raw = report(&self.raw);
        match &self.ema {
            None => raw,
            Some(ema) => format!("{}\n\naveraged weights, {}", raw.trim_end(), report(ema)),
        }
    }

    /// Over everything that was found, to the bit: equal for equal weights and pictures, whoever measured them.
    fn sha256(&self) -> String {
        let found: Value = json!([self.raw, self.ema]);
        sha256(found.to_string().as_bytes())
    }
}

/// Pictures belong into a page, not into lines.
fn without_pictures(mut evaluation: Evaluation) -> Evaluation {
    let mistakes = evaluation.mistakes.iter_mut();
    mistakes.for_each(|mistake| mistake.thumbnail = None);
    evaluation
}
