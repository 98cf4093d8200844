//! One job, as far as it is known: from its coordinator while it runs, and from the store.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use perennial_plan::Spec;
use perennial_plan::ledger::StepRecord;
use perennial_proto::VERSION;
use perennial_report::{EpochRecord, Live, Mistake, Report, Stretch};
use perennial_secure::Caller;
use perennial_store::PartKind;
use serde::Serialize;

use super::events::Line;
use super::overview::{InQueue, Progress};
use super::record::{Checkpoint, Record};
use super::{Dashboard, Failure, json, may_touch};

/// Epochs in the table, the latest ones.
const EPOCHS: usize = 200;
/// Mistakes of the newest report that are shown with it.
const MISTAKES: usize = 12;

#[derive(Serialize)]
struct View<'a> {
    job: &'a str,
    version: &'static str,
    /// As `perennial status` calls it.
    state: String,
    reason: String,
    queue: Option<InQueue>,
    running: Option<Progress>,
    global_step: u64,
    /// None: the data was not read yet.
    total_steps: Option<u64>,
    epochs: u32,
    slots: u32,
    /// Fragments of HTML.
    charts: Charts,
    history: &'a [EpochRecord],
    /// The newest first.
    events: Vec<Line>,
    /// The newest first.
    checkpoints: Vec<CheckpointRow<'a>>,
    /// Steps, the newest first.
    reports: Vec<u64>,
    report: Option<Headline<'a>>,
    ledger: Ledger<'a>,
    spec: &'a Spec,
}

#[derive(Serialize)]
struct Charts {
    by_epoch: String,
    by_step: String,
    members: String,
}

#[derive(Serialize)]
struct CheckpointRow<'a> {
    step: u64,
    epoch: u32,
    created: &'a str,
    bytes: u64,
    top1: Option<f64>,
    has_ema: bool,
    generation: u64,
    weights_sha256: &'a str,
    ledger_agrees: Option<bool>,
}

/// What the newest report says in short.
#[derive(Serialize)]
struct Headline<'a> {
    step: u64,
    finished: bool,
    weights: &'static str,
    top1: f64,
    top5: f64,
    k: u32,
    loss: f64,
    samples: u64,
    mistakes: Vec<Picture<'a>>,
}

/// A wrong answer.
#[derive(Serialize)]
struct Picture<'a> {
    truth: &'a str,
    predicted: &'a str,
    confidence: f64,
    /// A `data:` URI of an image.
    picture: Option<&'a str>,
}

/// What was applied, as the log has it.
#[derive(Serialize)]
struct Ledger<'a> {
    steps: u64,
    samples: u64,
    root: String,
    term: u64,
    generation: u64,
    entries: u64,
    data_fingerprint: Option<&'a str>,
    numerics: Option<&'a str>,
    classes: usize,
    parameters: Option<u64>,
    broken: Option<&'a str>,
}

pub async fn job(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
    caller: Option<Extension<Caller>>,
) -> Result<Response, Failure> {
    may_touch(caller.as_ref().map(|Extension(caller)| caller), &name)?;
    let record = dashboard.records.of(&name).await?;
    let Some(record) = record else {
        let url = &dashboard.store_url;
        return Err(Failure::not_found(format!(
            "job `{name}` is not in store `{url}`"
        )));
    };
    // What is stored is shown by a standby, too.
    let (found, unheard) = match dashboard.find(&name).await {
        Ok(found) => (found, None),
        Err(failure) => (None, Some(failure.message)),
    };
    let mut record = record.lock().await;
    record.refresh().await?;
    let (state, reason, queue, running) = match found {
        Some(job) => (job.state, job.reason, job.queue, job.running),
        None => {
            let (state, reason) = stored_state(&record);
            (
                state.to_string(),
                unheard.unwrap_or(reason.to_string()),
                None,
                None,
            )
        }
    };
    json(&View {
        state,
        reason,
        queue,
        running,
        ..View::of(&record)
    })
}

/// How a job stands that nobody here rules.
fn stored_state(record: &Record) -> (&str, &'static str) {
    match (record.state.ended.as_deref(), record.state.term) {
        (Some("finished"), _) => ("finished", "all epochs are done"),
        (Some(how), _) => (how, "it can be resumed"),
        (None, 0) => ("new", "it was never started"),
        (None, _) => (
            "elsewhere",
            "another coordinator rules it, or none does any more",
        ),
    }
}

// === impl View ===

impl<'a> View<'a> {
    fn of(record: &'a Record) -> Self {
        let state = &record.state;
        let spec = &record.spec;
        let classes = state.data.as_ref().map_or(0, |data| data.classes.len());
        let steps = state.steps.len() as u64;
        let per_epoch = u64::from(state.steps_per_epoch(spec));
        let live = Live {
            steps,
            epochs: &state.history,
            k: if classes == 0 {
                5
            } else {
                classes.min(5) as u32
            },
        };
        let history = &state.history;
        Self {
            job: record.job.name(),
            version: VERSION,
            state: String::new(),
            reason: String::new(),
            queue: None,
            running: None,
            global_step: steps,
            total_steps: (per_epoch > 0).then(|| per_epoch * u64::from(spec.train.epochs)),
            epochs: spec.train.epochs,
            slots: spec.train.slots,
            charts: Charts {
                by_epoch: live.by_epoch(),
                by_step: live.by_step(|step| numbers(&state.steps[step as usize])),
                members: Stretch::timeline(&record.stretches()),
            },
            history: &history[history.len().saturating_sub(EPOCHS)..],
            events: record.events.iter().rev().filter_map(Line::of).collect(),
            checkpoints: (record.checkpoints.values().rev())
                .map(CheckpointRow::of)
                .collect(),
            reports: record.reports.iter().rev().copied().collect(),
            report: (record.report.as_ref()).map(|(step, report)| Headline::of(*step, report)),
            ledger: Ledger::of(record, classes),
            spec,
        }
    }
}

/// Loss, pictures a second and the gradient's norm.
fn numbers(step: &StepRecord) -> [f64; 3] {
    let samples = step.samples as f64;
    [
        step.loss_sum / samples,
        samples / step.seconds,
        step.grad_norm,
    ]
}

// === impl CheckpointRow ===

impl<'a> CheckpointRow<'a> {
    fn of(checkpoint: &'a Checkpoint) -> Self {
        let manifest = &checkpoint.manifest;
        Self {
            step: manifest.global_step,
            epoch: manifest.cursor.epoch,
            created: &manifest.created,
            bytes: manifest.parts.iter().map(|part| part.bytes).sum(),
            top1: manifest.metric,
            has_ema: manifest.part(PartKind::Ema).is_some(),
            generation: manifest.generation,
            weights_sha256: &manifest.weights_sha256,
            ledger_agrees: checkpoint.agrees,
        }
    }
}

// === impl Headline ===

impl<'a> Headline<'a> {
    fn of(step: u64, report: &'a Report) -> Self {
        let (weights, evaluation) = report.reported();
        let mut mistakes: Vec<&Mistake> = evaluation.mistakes.iter().collect();
        mistakes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        let class = |index: u32| {
            let name = report.data.classes.get(index as usize);
            name.map_or("?", String::as_str)
        };
        let picture = |mistake: &&'a Mistake| Picture {
            truth: class(mistake.truth),
            predicted: class(mistake.predicted),
            confidence: mistake.confidence,
            picture: (mistake.thumbnail.as_deref()).filter(|uri| uri.starts_with("data:image/")),
        };
        Self {
            step,
            finished: report.finished,
            weights: weights.name(),
            top1: evaluation.top1,
            top5: evaluation.top5,
            k: evaluation.k,
            loss: evaluation.loss,
            samples: evaluation.samples,
            mistakes: mistakes.iter().take(MISTAKES).map(picture).collect(),
        }
    }
}

// === impl Ledger ===

impl<'a> Ledger<'a> {
    fn of(record: &'a Record, classes: usize) -> Self {
        let state = &record.state;
        let data = state.data.as_ref();
        Self {
            steps: record.root.count(),
            samples: state.steps.iter().map(|step| step.samples).sum(),
            root: record.root.root(),
            term: state.term,
            generation: state.last_generation,
            entries: record.entries(),
            data_fingerprint: data.map(|data| data.fingerprint.as_str()),
            numerics: data.map(|data| data.numerics.as_str()),
            classes,
            parameters: data.map(|data| data.parameters),
            broken: record.broken.as_deref(),
        }
    }
}
