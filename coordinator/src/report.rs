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
    let ready = &input.ready;
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
            parameters: ready.parameters,
            weights: spec.model.weights.clone(),
        },
        data: DataSummary {
            dir: spec.data.dir.clone(),
            fingerprint: ready.data_fingerprint.clone(),
            classes: ready.classes.clone(),
            train_samples: ready.train_samples,
            val_samples: ready.val_samples,
            skipped: ready.skipped,
        },
        raw: input.evaluations.raw.clone(),
        ema: input.evaluations.ema.clone(),
        weights_sha256: input.weights_sha256.clone(),
        ema_sha256: input.ema_sha256.clone(),
        numerics: input.numerics.clone(),
        workers: input.workers,
        generations: input.generation,
        epochs: input.history.clone(),
        spec: serde_json::to_value(spec).expect("a spec is plain data"),
    }
}
