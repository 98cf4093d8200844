//! From what the machine knows to the report that people read.

use perennial_plan::Spec;
use perennial_proto::VERSION;
use perennial_report::{DataSummary, FORMAT_VERSION, ModelSummary, Report};

use crate::machine::ReportInput;

/// The report of a run. `created` is RFC 3339 in UTC, `command` trains it again.
pub fn build_report(
    spec: &Spec,
    input: &ReportInput,
    created: String,
    command: Option<String>,
) -> Report {
    let data = &input.data;
    Report {
        format_version: FORMAT_VERSION,
        job: spec.name.clone(),
        program_version: VERSION.into(),
        created,
        command,
        finished: input.finished,
        epochs_done: input.epochs_done,
        global_step: input.global_step,
        model: ModelSummary {
            name: spec.model.name.clone(),
            parameters: data.parameters,
            weights: spec.model.weights.clone(),
        },
        data: DataSummary {
            dir: spec.data.dir.clone(),
            fingerprint: data.fingerprint.clone(),
            classes: data.classes.clone(),
            train_samples: data.train_samples,
            val_samples: data.val_samples,
            skipped: data.skipped,
        },
        raw: input.evaluations.raw.clone(),
        ema: input.evaluations.ema.clone(),
        weights_sha256: input.weights_sha256.clone(),
        ema_sha256: input.ema_sha256.clone(),
        numerics: data.numerics.clone(),
        ledger_root: input.ledger_root.clone(),
        workers: input.workers,
        generations: input.generation,
        epochs: input.history.clone(),
        spec: serde_json::to_value(spec).expect("a spec is plain data"),
    }
}
