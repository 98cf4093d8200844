//! The parts of checkpoints: whole, and the replica that the ledger has.

use std::time::Duration;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use perennial_coordinator::audit::{Audit, Finding, Stored};
use perennial_model::Network;
use perennial_plan::Spec;
use perennial_plan::tensors::weights_sha256;
use perennial_store::{Job, Manifest, NamedTensors, Part, PartKind, StoreError, tensors};
use perennial_train::{Replica, Scores};
use perennial_worker::{ComputeDevice, is_gpu_class};

use crate::output::Output;

const TEMPLATE: &str = "{spinner} {bar:12} {bytes}/{total_bytes} {wide_msg}";

/// Reads every part of every checkpoint and says what is wrong with them.
pub async fn check(
    job: &Job,
    stored: &Stored,
    audit: &Audit,
    output: Output,
) -> Result<Vec<Finding>, StoreError> {
    let manifests: Vec<&Manifest> = stored
        .manifests
        .iter()
        .filter_map(|object| object.content.as_ref().ok())
        .collect();
    let parts = manifests.iter().flat_map(|manifest| &manifest.parts);
    let bar = progress(parts.map(|part| part.bytes).sum(), output);
    let mut findings = Vec::new();
    for manifest in manifests {
        let step = manifest.global_step;
        bar.set_message(format!("checkpoint {step}"));
        let mut found = Vec::new();
        let mut tensors = Vec::new();
        for part in &manifest.parts {
            match read(job, manifest, part).await? {
                Ok(named) => tensors.push((part.kind, named)),
                Err(why) => found.push(Finding::new(&path(job, part), why)),
            }
            bar.inc(part.bytes);
        }
        if found.is_empty()
            && let Some(why) = disagreement(&stored.spec, audit, manifest, &tensors)
        {
            found.push(Finding::new(&job.manifest_path(step), why));
        }
        // Retention may have removed it meanwhile.
        if !found.is_empty() && job.checkpoint_steps().await?.contains(&step) {
            findings.append(&mut found);
        }
    }
    bar.finish_and_clear();
    Ok(findings)
}

fn path(job: &Job, part: &Part) -> String {
    format!("{}/{}", job.name(), part.path)
}

/// The tensors of a part, or what is wrong with it.
async fn read(
    job: &Job,
    manifest: &Manifest,
    part: &Part,
) -> Result<Result<NamedTensors, String>, StoreError> {
    let step = manifest.global_step;
    let bytes = match job.read_part(part).await {
        Ok(bytes) => bytes,
        Err(StoreError::MissingPart { .. }) => {
            return Ok(Err(format!(
                "it is missing, and checkpoint {step} names it"
            )));
        }
        Err(StoreError::Truncated {
            found, expected, ..
        }) => {
            return Ok(Err(format!(
                "it has {found} bytes, checkpoint {step} says {expected}"
            )));
        }
        Err(StoreError::Damaged {
            found, expected, ..
        }) => {
            return Ok(Err(format!(
                "its SHA-256 is {found}, checkpoint {step} says {expected}"
            )));
        }
        Err(StoreError::Malformed { reason, .. }) => {
            return Ok(Err(format!(
                "checkpoint {step} names it, which cannot be: {reason}"
            )));
        }
        Err(error) => return Err(error),
    };
    let named = match tensors::decode(&bytes) {
        Ok(named) => named,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let expected = match part.kind {
        PartKind::Model => Some(&manifest.weights_sha256),
        PartKind::Ema => manifest.ema_sha256.as_ref(),
        // Compared with the ledger: see `disagreement`.
        PartKind::Optimizer | PartKind::Scores => return Ok(Ok(named)),
    };
    let found = weights_sha256(&named);
    if expected != Some(&found) {
        let expected = expected.map_or("nothing", String::as_str);
        return Ok(Err(format!(
            "its tensors hash to {found}, checkpoint {step} says {expected}"
        )));
    }
    Ok(Ok(named))
}

/// How the replica in a checkpoint is another than the ledger's. Its hash is of weights and average; the
/// optimizer's state must be of this network and as many steps, and otherwise has the manifest's SHA-256
/// alone.
fn disagreement(
    spec: &Spec,
    audit: &Audit,
    manifest: &Manifest,
    tensors: &[(PartKind, NamedTensors)],
) -> Option<String> {
    let step = manifest.global_step;
    // Without either the audit has said what is missing.
    let (expected, data) = (audit.replica_hash(step)?, audit.data()?);
    let state = match spec.evaluate {
        None => replica(spec, data.classes.len(), tensors, &manifest.numerics)
            .map(|replica| (replica.hash(), replica.steps())),
        Some(_) => scores(spec, data.train_samples as usize, tensors)
            .map(|scores| (scores.hash(), scores.steps())),
    };
    let (found, steps) = match state {
        Ok(state) => state,
        Err(error) => return Some(format!("its parts are no replica of this job: {error}")),
    };
    if found != expected {
        return Some(format!(
            "the replica in its parts has the hash {found:016x}, the ledger has {expected:016x} after step {step}"
        ));
    }
    (steps != step).then(|| format!("its optimizer has taken {steps} steps instead of {step}"))
}

/// What an evaluation found up to the checkpoint, of so many pictures.
fn scores(
    spec: &Spec,
    pictures: usize,
    tensors: &[(PartKind, NamedTensors)],
) -> anyhow::Result<Scores> {
    let part = tensors.iter().find(|(kind, _)| *kind == PartKind::Scores);
    let (_, named) = part.context("there is no scores part")?;
    // Which class a picture is of does not show in them.
    let labels: Vec<u32> = vec![0; pictures];
    Ok(Scores::from_named(spec, labels.into(), named)?)
}

/// The replica that a worker would go on from.
fn replica(
    spec: &Spec,
    classes: usize,
    tensors: &[(PartKind, NamedTensors)],
    numerics: &str,
) -> anyhow::Result<Replica> {
    let part = |kind: PartKind| {
        let found = tensors.iter().find(|(other, _)| *other == kind);
        found.map(|(_, named)| named)
    };
    let missing = |kind: PartKind| anyhow!("there is no {} part", kind.as_str());
    let model = part(PartKind::Model).ok_or_else(|| missing(PartKind::Model))?;
    let optimizer = part(PartKind::Optimizer).ok_or_else(|| missing(PartKind::Optimizer))?;
    let table = Network::new(&spec.model, classes)?.table;
    let mut replica = Replica::new(spec, &table, table.initial_weights(spec.seed));
    replica.load_weights(&table, model, part(PartKind::Ema))?;
    replica.load_optimizer(&table, optimizer)?;
    if is_gpu_class(numerics) {
        // Its hash is that of a replica on a device, whichever that is.
        replica.reside(&ComputeDevice::Cpu.open()?)?;
    }
    Ok(replica)
}

/// Shows how far the reading is, on a terminal and to people.
fn progress(bytes: u64, output: Output) -> ProgressBar {
    if output.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stdout());
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
    bar.set_style(style.progress_chars("━╸ "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
