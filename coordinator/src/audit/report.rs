//! Reports are of the ledger's steps.

use std::collections::BTreeMap;

use perennial_plan::Generation;
use perennial_report::Report;

use super::account::{Known, difference};
use super::{Finding, Stored};

/// What is wrong with the reports. `roots` has the ledger's by steps before them.
pub(super) fn check(
    stored: &Stored,
    known: &Known,
    generations: &BTreeMap<u64, &Generation>,
    roots: &BTreeMap<u64, String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for object in &stored.reports {
        let mut find = |message: String| findings.push(Finding::new(&object.path, message));
        let report = match &object.content {
            Ok(report) => report,
            Err(why) => {
                find(why.clone());
                continue;
            }
        };
        let (job, step) = (&report.job, report.global_step);
        let (expected, number) = (&stored.spec.name, object.number);
        if job != expected || step != number {
            find(format!(
                "it is of job `{job}` step {step}, expected job `{expected}` step {number}"
            ));
        }
        let root = roots.get(&number).map(String::as_str);
        // Only a job that is done has it.
        if (report.ledger_root.is_some() || report.finished)
            && report.ledger_root.as_deref() != root
        {
            let found = report.ledger_root.as_deref().unwrap_or("missing");
            let expected = root.unwrap_or("none, as steps before are missing");
            find(format!(
                "its ledger root is {found}, the log gives {expected}"
            ));
        }
        let steps = u64::from(known.steps_per_epoch(&stored.spec));
        let done = u64::from(report.epochs_done);
        if done * steps != number || report.epochs.len() as u64 != done {
            let records = report.epochs.len();
            find(format!(
                "it tells of {done} epochs in {records} records, which is not step {number} of {steps} an epoch"
            ));
        }
        for (epoch, record) in (1..).zip(&report.epochs) {
            let Some(expected) = known.epochs.get(&epoch) else {
                find(format!("it has epoch {epoch}, the log does not"));
                continue;
            };
            if let Some((what, theirs, ours)) = difference(expected, record) {
                find(format!(
                    "it has `{what}` {ours} for epoch {epoch}, the log has {theirs}"
                ));
            }
        }
        if let Some(data) = &known.data
            && (report.data.fingerprint != data.fingerprint || report.numerics != data.numerics)
        {
            let (found, on) = (&report.data.fingerprint, &report.numerics);
            let (expected, with) = (&data.fingerprint, &data.numerics);
            find(format!(
                "its data is `{found}` on `{on}`, in the log it is `{expected}` on `{with}`"
            ));
        }
        let generation = report.generations;
        if !generations.contains_key(&generation) {
            find(format!(
                "it counts {generation} generations, the log has {}",
                generations.len()
            ));
        }
        weights(stored, report, number, &mut find);
    }
    findings
}

/// Its weights are those of the checkpoint of this step, where that is still there.
fn weights(stored: &Stored, report: &Report, step: u64, find: &mut impl FnMut(String)) {
    let manifest = stored
        .manifests
        .iter()
        .find(|manifest| manifest.number == step);
    let Some(Ok(manifest)) = manifest.map(|manifest| &manifest.content) else {
        return;
    };
    let pairs = [
        (
            "weights",
            &report.weights_sha256,
            Some(&manifest.weights_sha256),
        ),
        (
            "averaged weights",
            &report.ema_sha256,
            manifest.ema_sha256.as_ref(),
        ),
    ];
    for (what, found, expected) in pairs {
        if let Some(found) = found
            && Some(found) != expected
        {
            let expected = expected.map_or("none", String::as_str);
            find(format!(
                "its {what} are {found}, those of checkpoint {step} are {expected}"
            ));
        }
    }
}
