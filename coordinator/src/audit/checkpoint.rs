//! Checkpoints are of the ledger's steps.

use std::collections::BTreeMap;

use perennial_plan::ledger::StepRecord;
use perennial_plan::{Generation, Spec};
use perennial_proto::rules::part_kinds;
use perennial_report::EpochRecord;
use perennial_store::Manifest;

use super::account::{Known, difference, same};
use super::{Finding, Stored};
use crate::machine::Progress;

/// What is wrong with the manifests. `roots` has the ledger's by steps before them.
pub(super) fn check(
    stored: &Stored,
    known: &Known,
    generations: &BTreeMap<u64, &Generation>,
    roots: &BTreeMap<u64, String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The newest one before that agrees with the ledger.
    let mut agrees = 0;
    for object in &stored.manifests {
        let mut sheet = Sheet {
            path: &object.path,
            findings: &mut findings,
        };
        let manifest = match &object.content {
            Ok(manifest) => manifest,
            Err(why) => {
                sheet.find(why.as_str());
                continue;
            }
        };
        sheet.origin(stored, object.number, manifest, known, generations);
        sheet.parts(&stored.spec, manifest);
        let step = manifest.global_step;
        let steps = known.steps_per_epoch(&stored.spec);
        if manifest.cursor.global_step(steps) != step {
            let cursor = manifest.cursor;
            sheet.find(format!(
                "it is of step {step}, but its cursor {cursor} stands after {} steps",
                cursor.global_step(steps)
            ));
        }
        if let Some(root) = roots.get(&step) {
            if sheet.root(manifest, root, agrees) {
                agrees = step;
            }
            sheet.history(manifest, known, steps);
        } else {
            let there = known.contiguous();
            sheet.find(format!(
                "it is of step {step}, but the log has only the first {there} steps without a gap"
            ));
        }
    }
    findings
}

/// Where findings about one manifest go.
struct Sheet<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

// === impl Sheet ===

impl Sheet<'_> {
    fn find(&mut self, message: impl Into<String>) {
        self.findings.push(Finding::new(self.path, message));
    }

    /// It is of this job, this place and this data.
    fn origin(
        &mut self,
        stored: &Stored,
        number: u64,
        manifest: &Manifest,
        known: &Known,
        generations: &BTreeMap<u64, &Generation>,
    ) {
        let (job, step) = (&manifest.job, manifest.global_step);
        let expected = &stored.spec.name;
        if job != expected || step != number {
            self.find(format!(
                "it is of job `{job}` step {step}, expected job `{expected}` step {number}"
            ));
        }
        for (key, theirs, ours) in manifest.spec.differences(&stored.spec) {
            self.find(format!(
                "its `{key}` is {theirs}, that of the job is {ours}"
            ));
        }
        if let Some(data) = &known.data {
            let pairs = [
                (
                    "data fingerprint",
                    &manifest.data_fingerprint,
                    &data.fingerprint,
                ),
                ("numerics class", &manifest.numerics, &data.numerics),
            ];
            for (what, found, expected) in pairs {
                if found != expected {
                    self.find(format!(
                        "its {what} is `{found}`, in the log it is `{expected}`"
                    ));
                }
            }
        }
        let id = manifest.generation;
        if !generations.contains_key(&id) {
            self.find(format!(
                "it was made by generation {id}, which the log does not have"
            ));
        }
    }

    /// There is one part of each kind.
    fn parts(&mut self, spec: &Spec, manifest: &Manifest) {
        let mut found: Vec<&str> = manifest
            .parts
            .iter()
            .map(|part| part.kind.as_str())
            .collect();
        found.sort_unstable();
        let mut expected = part_kinds(spec).to_vec();
        expected.sort_unstable();
        if found != expected {
            self.find(format!(
                "it names the parts {found:?}, a checkpoint of this job has {expected:?}"
            ));
        }
    }

    /// Whether its ledger is the log's.
    fn root(&mut self, manifest: &Manifest, root: &str, agrees: u64) -> bool {
        let holds = manifest.ledger_head.as_deref() == Some(root);
        if !holds {
            let (step, first) = (manifest.global_step, agrees + 1);
            let found = manifest.ledger_head.as_deref().unwrap_or("missing");
            self.find(format!(
                "its ledger root after step {step} is {found}, the log gives {root}: one of steps {first} to {step} in the log, or the manifest, was changed"
            ));
        }
        holds
    }

    /// Its records and sums are those of the log.
    fn history(&mut self, manifest: &Manifest, known: &Known, steps_per_epoch: u32) {
        let cursor = manifest.cursor;
        let history: Vec<EpochRecord> = match serde_json::from_value(manifest.history.clone()) {
            Ok(history) => history,
            Err(error) => return self.find(format!("its history cannot be read: {error}")),
        };
        let progress: Progress = match serde_json::from_value(manifest.progress.clone()) {
            Ok(progress) => progress,
            Err(error) => return self.find(format!("its progress cannot be read: {error}")),
        };
        if history.len() != cursor.epoch as usize {
            let (found, expected) = (history.len(), cursor.epoch);
            self.find(format!(
                "its history has {found} epochs where {expected} are done"
            ));
        }
        for (epoch, record) in (1..).zip(&history) {
            let Some(expected) = known.epochs.get(&epoch) else {
                self.find(format!("its history has epoch {epoch}, the log does not"));
                continue;
            };
            if let Some((what, theirs, ours)) = difference(expected, record) {
                self.find(format!(
                    "its history has `{what}` {ours} for epoch {epoch}, the log has {theirs}"
                ));
            }
        }
        self.metric(manifest, known);
        let end = manifest.global_step;
        let first = end.saturating_sub(end % u64::from(steps_per_epoch.max(1)));
        let seen: Vec<&StepRecord> = known
            .steps
            .range(first..end)
            .map(|(_, seen)| &seen.record)
            .collect();
        let sum = |count: fn(&StepRecord) -> u64| seen.iter().map(|step| count(step)).sum::<u64>();
        let counts = [
            ("samples", progress.samples, sum(|step| step.samples)),
            ("top1", progress.top1, sum(|step| step.top1)),
            ("top5", progress.top5, sum(|step| step.top5)),
            (
                "skipped_steps",
                progress.skipped_steps,
                sum(|step| u64::from(step.skipped)),
            ),
        ];
        for (what, found, expected) in counts {
            if found != expected {
                self.find(format!(
                    "its progress counts `{what}` {found}, the log's steps of this epoch give {expected}"
                ));
            }
        }
        let expected = seen.iter().map(|step| step.loss_sum).sum::<f64>();
        if !same(progress.loss_sum, expected) {
            let found = progress.loss_sum;
            self.find(format!(
                "its progress has the sum of losses {found}, the log's steps of this epoch give {expected}"
            ));
        }
    }

    /// By which the best checkpoint is kept.
    fn metric(&mut self, manifest: &Manifest, known: &Known) {
        let expected = known
            .epochs
            .get(&manifest.cursor.epoch)
            .map(|record| record.ema_top1.unwrap_or(record.val_top1));
        let equal = match (manifest.metric, expected) {
            (Some(found), Some(expected)) => same(found, expected),
            (found, expected) => found.is_none() && expected.is_none_or(f64::is_nan),
        };
        if !equal {
            let words =
                |value: Option<f64>| value.map_or("none".to_string(), |value| value.to_string());
            let (found, expected) = (words(manifest.metric), words(expected));
            self.find(format!(
                "its `metric` is {found}, the last evaluation in the log gives {expected}"
            ));
        }
    }
}
