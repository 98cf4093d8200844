//! Checkpoints in the making: a checkpoint is committed once every part lies in the store and every
//! member has reported the steps up to it.

use std::collections::BTreeMap;

use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::{Cursor, Spec};
use perennial_proto::rules::part_writer;
use perennial_proto::v1::PartWritten;
use perennial_report::EpochRecord;
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;

/// The sums of an epoch that is under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub samples: u64,
    /// Not a number, which JSON does not have, once a step's was not: such a step was skipped.
    #[serde(deserialize_with = "perennial_report::null_is_nan")]
    pub loss_sum: f64,
    /// Samples whose label was the best guess.
    pub top1: u64,
    /// Samples whose label was among the best five guesses.
    pub top5: u64,
    pub seconds: f64,
    /// Steps skipped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_steps: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

// === impl Progress ===

impl Progress {
    pub(super) fn add(&mut self, step: &StepRecord) {
        self.samples += step.samples;
        self.loss_sum += step.loss_sum;
        self.top1 += step.top1;
        self.top5 += step.top5;
        self.seconds += step.seconds;
        self.skipped_steps += u64::from(step.skipped);
    }
}

/// Where a job stood after a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub cursor: Cursor,
    /// The epochs that are done.
    pub history: Vec<EpochRecord>,
    /// The sums of the epoch that is not.
    pub progress: Progress,
    /// Validation top-1 of the last evaluation.
    pub metric: Option<f64>,
    /// Over all steps up to here.
    pub ledger: LedgerRoot,
}

/// What a run must share with one that goes on from its checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Provenance {
    pub generation: u64,
    pub numerics: String,
    pub data_fingerprint: String,
}

/// Everything that a manifest says of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    pub global_step: u64,
    pub snapshot: Snapshot,
    pub provenance: Provenance,
    /// One of each kind.
    pub parts: Vec<PartWritten>,
}

// === impl Commit ===

impl Commit {
    /// The hash of the tensors in the part of this kind.
    pub fn tensors_sha256(&self, kind: &str) -> Option<&str> {
        let part = self.parts.iter().find(|part| part.kind == kind)?;
        Some(&part.tensors_sha256)
    }

    /// The hashes of the weights that the checkpoint is about, and of their average: those of its parts, or of
    /// what an evaluation names.
    pub fn weights(&self, spec: &Spec) -> (String, Option<String>) {
        match &spec.evaluate {
            None => {
                let hash = |kind| self.tensors_sha256(kind).map(str::to_string);
                (hash("model").unwrap_or_default(), hash("ema"))
            }
            Some(evaluate) => (evaluate.weights_sha256.clone(), evaluate.ema_sha256.clone()),
        }
    }
}

/// What becomes of a checkpoint.
#[derive(Debug)]
enum State {
    Gathering,
    Committing(Box<Commit>),
    Committed,
    Failed(String),
}

#[derive(Debug)]
struct Checkpoint {
    parts: Vec<PartWritten>,
    /// Once the ledger has come so far.
    snapshot: Option<Snapshot>,
    /// Who writes each kind, once that is known.
    writers: Vec<String>,
    /// The generation in which it was tried last.
    generation: u64,
    state: State,
}

/// The checkpoints of a run, by global step.
#[derive(Debug)]
pub(super) struct Checkpoints {
    kinds: &'static [&'static str],
    checkpoints: BTreeMap<u64, Checkpoint>,
    newest: Option<u64>,
}

/// What became of the last checkpoint.
pub(super) enum Last<'a> {
    UnderWay,
    Committed,
    Failed(&'a str),
}

// === impl Checkpoints ===

impl Checkpoints {
    pub fn new(kinds: &'static [&'static str]) -> Self {
        Self {
            kinds,
            checkpoints: BTreeMap::new(),
            newest: None,
        }
    }

    /// This checkpoint is in the store; what is gathered up to it need not be.
    pub fn found(&mut self, global_step: u64) {
        self.newest = self.newest.max(Some(global_step));
        self.checkpoints.retain(|step, _| *step > global_step);
    }

    /// The newest checkpoint in the store.
    pub fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// Takes a part. One that was taken before has no effect; an error says why it cannot be one.
    pub fn part_written(&mut self, part: PartWritten) -> Result<(), String> {
        let (kind, step) = (&part.kind, part.global_step);
        if !self.kinds.contains(&kind.as_str()) {
            return Err(format!(
                "a checkpoint of this job has no part of kind `{kind}`"
            ));
        }
        if Some(step) <= self.newest {
            return Ok(());
        }
        let checkpoint = self.entry(step);
        if let Some(known) = checkpoint.parts.iter().find(|known| known.kind == *kind) {
            if known.tensors_sha256 == part.tensors_sha256 {
                return Ok(());
            }
            let (ours, theirs) = (&known.tensors_sha256, &part.tensors_sha256);
            return Err(format!(
                "checkpoint {step} has a part `{kind}` of tensors `{ours}`, and this one is of `{theirs}`"
            ));
        }
        checkpoint.parts.push(part);
        Ok(())
    }

    /// A checkpoint is due where the ledger stands; the `members` of `generation` write it. One that
    /// failed in an earlier one is tried again.
    pub fn due(&mut self, ledger: &Ledger, members: &[String], generation: u64) {
        let step = ledger.global_step();
        if Some(step) <= self.newest {
            return;
        }
        let kinds = 0..self.kinds.len();
        let writers = kinds.filter_map(|index| {
            let rank = part_writer(index, members.len().max(1));
            members.get(rank).cloned()
        });
        let writers = writers.collect();
        let checkpoint = self.entry(step);
        checkpoint.writers = writers;
        match checkpoint.state {
            State::Committing(_) | State::Committed => return,
            State::Failed(_) if checkpoint.generation >= generation => {}
            State::Failed(_) | State::Gathering => checkpoint.state = State::Gathering,
        }
        checkpoint.snapshot = Some(ledger.snapshot());
        checkpoint.generation = generation;
    }

    /// The global steps of checkpoints that nobody can complete any more, because a writer of a missing
    /// part is not among `alive`.
    pub fn abandoned(&mut self, alive: &[String]) -> Vec<(u64, String)> {
        let mut lost = Vec::new();
        for (&step, checkpoint) in &mut self.checkpoints {
            if !matches!(checkpoint.state, State::Gathering) || checkpoint.snapshot.is_none() {
                continue;
            }
            let missing = self
                .kinds
                .iter()
                .zip(&checkpoint.writers)
                .find(|(kind, writer)| {
                    checkpoint.parts.iter().all(|part| part.kind != **kind)
                        && !alive.contains(writer)
                });
            if let Some((kind, writer)) = missing {
                let message =
                    format!("worker `{writer}` left before it had written the part `{kind}`");
                checkpoint.state = State::Failed(message.clone());
                lost.push((step, message));
            }
        }
        lost
    }

    /// The highest global step of a checkpoint that can be committed once the log has come so far.
    pub fn complete(&self) -> Option<u64> {
        let complete = self.checkpoints.iter().filter(|(_, checkpoint)| {
            matches!(checkpoint.state, State::Gathering)
                && checkpoint.snapshot.is_some()
                && checkpoint.parts.len() == self.kinds.len()
        });
        complete.map(|(step, _)| *step).max()
    }

    /// The checkpoints that can be committed now that the log has `logged` steps and `epochs` epochs.
    pub fn take_complete(
        &mut self,
        logged: u64,
        epochs: u32,
        provenance: &Provenance,
    ) -> Vec<Commit> {
        let mut commits = Vec::new();
        for (&global_step, checkpoint) in &mut self.checkpoints {
            let complete = checkpoint.parts.len() == self.kinds.len() && global_step <= logged;
            if !complete || !matches!(checkpoint.state, State::Gathering) {
                continue;
            }
            let in_log = |snapshot: &mut Snapshot| snapshot.history.len() <= epochs as usize;
            let Some(snapshot) = checkpoint.snapshot.take_if(in_log) else {
                continue;
            };
            let commit = Commit {
                global_step,
                snapshot,
                provenance: provenance.clone(),
                parts: checkpoint.parts.clone(),
            };
            checkpoint.state = State::Committing(Box::new(commit.clone()));
            commits.push(commit);
        }
        commits
    }

    /// The manifest exists. Returns what it says.
    pub fn committed(&mut self, global_step: u64) -> Option<Commit> {
        let checkpoint = self.checkpoints.get_mut(&global_step)?;
        let State::Committing(commit) = std::mem::replace(&mut checkpoint.state, State::Committed)
        else {
            return None;
        };
        self.newest = self.newest.max(Some(global_step));
        // Only the last one is ever asked for again.
        self.checkpoints.retain(|step, other| {
            *step >= global_step || matches!(other.state, State::Committing(_))
        });
        Some(*commit)
    }

    /// A part could not be written. Returns whether the checkpoint fails by it.
    pub fn part_failed(&mut self, global_step: u64, generation: u64, message: &str) -> bool {
        if Some(global_step) <= self.newest {
            return false;
        }
        let checkpoint = self.entry(global_step);
        // Another attempt may be under way by now, or all parts are there nevertheless.
        let gathering = matches!(checkpoint.state, State::Gathering);
        let failed = matches!(checkpoint.state, State::Failed(_));
        let newest = generation >= checkpoint.generation;
        if newest && (gathering || failed) {
            // Of several attempts that failed, the last one decides whether another is under way.
            checkpoint.state = State::Failed(message.to_string());
            checkpoint.generation = generation;
        }
        newest && gathering
    }

    /// The manifest could not be written.
    pub fn commit_failed(&mut self, global_step: u64, message: &str) {
        if let Some(checkpoint) = self.checkpoints.get_mut(&global_step) {
            checkpoint.state = State::Failed(message.to_string());
        }
    }

    /// Every part is there, and the manifest is to be tried again.
    pub fn commit_again(&mut self, global_step: u64, snapshot: Snapshot) {
        if let Some(checkpoint) = self.checkpoints.get_mut(&global_step) {
            checkpoint.state = State::Gathering;
            checkpoint.snapshot = Some(snapshot);
        }
    }

    /// Whether the checkpoint can still come to be, with nobody but `able` to write what is missing.
    pub fn is_under_way(&self, global_step: u64, able: &[&str]) -> bool {
        let Some(checkpoint) = self.checkpoints.get(&global_step) else {
            return false;
        };
        let mut kinds = self.kinds.iter().zip(&checkpoint.writers);
        match checkpoint.state {
            State::Committing(_) => true,
            State::Gathering => {
                checkpoint.snapshot.is_some()
                    && kinds.all(|(kind, writer)| {
                        able.contains(&writer.as_str())
                            || checkpoint.parts.iter().any(|part| part.kind == **kind)
                    })
            }
            State::Committed | State::Failed(_) => false,
        }
    }

    /// What is known of this checkpoint does not count.
    pub fn drop(&mut self, global_step: u64) {
        self.checkpoints.remove(&global_step);
    }

    /// The run goes back to the newest checkpoint: what was gathered after it is gathered anew.
    pub fn rewind(&mut self) {
        let newest = self.newest;
        self.checkpoints.retain(|step, checkpoint| {
            Some(*step) <= newest || matches!(checkpoint.state, State::Committing(_))
        });
    }

    /// Whether a commit is under way whose end decides what is newest.
    pub fn is_committing(&self) -> bool {
        self.checkpoints
            .values()
            .any(|checkpoint| matches!(checkpoint.state, State::Committing(_)))
    }

    pub fn is_committed(&self, global_step: u64) -> bool {
        self.newest == Some(global_step) || matches!(self.at(global_step), Last::Committed)
    }

    pub fn at(&self, global_step: u64) -> Last<'_> {
        match self
            .checkpoints
            .get(&global_step)
            .map(|checkpoint| &checkpoint.state)
        {
            _ if self.newest == Some(global_step) => Last::Committed,
            Some(State::Committed) => Last::Committed,
            Some(State::Failed(message)) => Last::Failed(message),
            _ => Last::UnderWay,
        }
    }

    /// Whether every part of the checkpoint has come.
    pub fn has_all_parts(&self, global_step: u64) -> bool {
        self.is_committed(global_step)
            || self
                .checkpoints
                .get(&global_step)
                .is_some_and(|checkpoint| checkpoint.parts.len() == self.kinds.len())
    }

    fn entry(&mut self, global_step: u64) -> &mut Checkpoint {
        self.checkpoints
            .entry(global_step)
            .or_insert_with(|| Checkpoint {
                parts: Vec::new(),
                snapshot: None,
                writers: Vec::new(),
                generation: 0,
                state: State::Gathering,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read: manifests that were written before steps could be skipped, and sums that JSON has no number for.
    #[test]
    fn the_sums_of_an_epoch_come_back_from_json() {
        let json = r#"{"samples":8,"loss_sum":2.5,"top1":1,"top5":2,"seconds":0.5}"#;
        let progress: Progress = serde_json::from_str(json).unwrap();
        assert_eq!((progress.loss_sum, progress.skipped_steps), (2.5, 0));
        assert_eq!(serde_json::to_string(&progress).unwrap(), json);
        let mut progress = progress;
        progress.add(&StepRecord {
            loss_sum: f64::NAN,
            skipped: true,
            ..StepRecord::default()
        });
        let json = serde_json::to_string(&progress).unwrap();
        let read: Progress = serde_json::from_str(&json).unwrap();
        assert!(read.loss_sum.is_nan() && read.skipped_steps == 1, "{json}");
    }
}
