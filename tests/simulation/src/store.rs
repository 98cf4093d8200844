//! The object storage: objects are created, never overwritten.

use std::collections::{BTreeMap, BTreeSet};

use perennial_coordinator::log::{LogEntry, LogRecord};
use perennial_coordinator::machine::{Commit, Event, ResumePoint};
use perennial_plan::ledger::StepRecord;
use perennial_plan::{Cursor, Spec};

use crate::job::{Job, Replica};
use crate::queue::Time;

/// How many of the newest checkpoints are kept.
const KEEP: usize = 2;

#[derive(Default)]
pub struct Store {
    pub log: Vec<LogRecord>,
    /// By global step.
    pub checkpoints: BTreeMap<u64, Commit>,
    /// By path.
    parts: BTreeMap<String, (&'static str, Replica)>,
    /// The paths of parts that retention removed.
    removed: BTreeSet<String>,
    /// Until then nothing is answered.
    pub outage_until: Time,
}

/// What became of an append.
pub enum Appended {
    New,
    /// This very entry was there already.
    Again,
    Taken,
    /// There would be a hole before it.
    Hole,
}

// === impl Store ===

impl Store {
    pub fn append(&mut self, position: u64, record: LogRecord) -> Appended {
        match self.log.get(position as usize) {
            Some(there) if *there == record => Appended::Again,
            Some(_) => Appended::Taken,
            None if position == self.log.len() as u64 => {
                self.log.push(record);
                Appended::New
            }
            None => Appended::Hole,
        }
    }

    pub fn write_part(&mut self, path: String, kind: &'static str, replica: Replica) {
        self.parts.entry(path).or_insert((kind, replica));
    }

    /// Commits a checkpoint, unless a part of it was removed with an earlier checkpoint of that step; an
    /// error says how it breaks CK-1. `logged` is the most steps that the log ever had.
    pub fn commit(
        &mut self,
        job: &Job,
        commit: &Commit,
        kinds: &[&str],
        logged: u64,
    ) -> Result<bool, String> {
        let step = commit.global_step;
        for kind in kinds {
            let named: Vec<_> = commit
                .parts
                .iter()
                .filter(|part| part.kind == *kind)
                .collect();
            let [part] = named[..] else {
                return Err(format!(
                    "checkpoint {step} names {} parts `{kind}`",
                    named.len()
                ));
            };
            if self.removed.contains(&part.path) {
                return Ok(false);
            }
            let Some((stored, replica)) = self.parts.get(&part.path) else {
                return Err(format!(
                    "checkpoint {step} names `{}`, which is not there",
                    part.path
                ));
            };
            let holds = stored == kind
                && Job::tensors(kind, replica.hash) == part.tensors_sha256
                && job.global_step(replica.cursor) == step
                && replica.cursor == commit.snapshot.cursor;
            if !holds {
                return Err(format!(
                    "checkpoint {step} names `{}`, which is {stored} of {} with hash {:016x}",
                    part.path, replica.cursor, replica.hash
                ));
            }
        }
        let true_root = job.ledger_root(step);
        if logged < step || true_root != commit.snapshot.ledger {
            return Err(format!(
                "checkpoint {step} is committed where the log never had more than {logged} steps, with ledger {}",
                commit.snapshot.ledger.root()
            ));
        }
        self.checkpoints
            .entry(step)
            .or_insert_with(|| commit.clone());
        Ok(true)
    }

    /// Whether the log has an entry of a term after `term`, at or after `position`.
    pub fn has_later_term(&self, position: u64, term: u64) -> bool {
        let mut entries = self.log.iter().skip(position as usize);
        entries.any(|record| record.term > term)
    }

    /// How many steps the log counts.
    pub fn steps(&self) -> u64 {
        self.steps_before(self.log.len() as u64)
    }

    /// How many steps the log counted before it had an entry at `position`.
    pub fn steps_before(&self, position: u64) -> u64 {
        let mut steps: Vec<Cursor> = Vec::new();
        for record in self.log.iter().take(position as usize) {
            match &record.entry {
                LogEntry::Generation { generation, .. } => {
                    steps.retain(|step| *step < generation.start);
                }
                LogEntry::Steps { steps: more } => {
                    steps.extend(more.iter().map(StepRecord::cursor));
                }
                _ => {}
            }
        }
        steps.len() as u64
    }

    /// Removes the oldest checkpoints up to `newest`: the manifest, then every part of that step.
    pub fn prune(&mut self, newest: u64) {
        let steps: Vec<u64> = self
            .checkpoints
            .range(..=newest)
            .map(|(step, _)| *step)
            .collect();
        for step in steps.iter().rev().skip(KEEP) {
            self.checkpoints.remove(step);
            let folder = format!("checkpoints/{step:012}/");
            let gone: Vec<String> = self
                .parts
                .keys()
                .filter(|path| path.starts_with(&folder))
                .cloned()
                .collect();
            for path in gone {
                self.parts.remove(&path);
                self.removed.insert(path);
            }
        }
    }

    /// The replica in a checkpoint.
    pub fn load(&self, step: u64) -> Option<Replica> {
        let commit = self.checkpoints.get(&step)?;
        let part = commit.parts.first()?;
        let (_, replica) = self.parts.get(&part.path)?;
        Some(replica.clone())
    }

    /// The newest checkpoint that is not beyond `steps`.
    pub fn newest(&self, spec: &Spec, steps: u64) -> Option<ResumePoint> {
        let (step, commit) = self.checkpoints.range(..=steps).next_back()?;
        let (weights_sha256, ema_sha256) = commit.weights(spec);
        Some(ResumePoint {
            global_step: *step,
            snapshot: commit.snapshot.clone(),
            numerics: commit.provenance.numerics.clone(),
            data_fingerprint: commit.provenance.data_fingerprint.clone(),
            weights_sha256,
            ema_sha256,
        })
    }

    /// How the job ended, unless it goes on.
    pub fn ended(&self) -> Option<&str> {
        match &self.log.last()?.entry {
            LogEntry::Ended { how, .. } => Some(how),
            _ => None,
        }
    }

    /// Where the coordinator of the highest term listens.
    pub fn ruler(&self) -> Option<&str> {
        self.log
            .iter()
            .rev()
            .find_map(|record| match &record.entry {
                LogEntry::Term { address, .. } => Some(address.as_str()),
                _ => None,
            })
    }
}

/// An answer for an append.
pub fn answer(appended: &Appended) -> Event {
    match appended {
        Appended::New | Appended::Again => Event::LogAppended,
        Appended::Taken | Appended::Hole => Event::LogRaceLost,
    }
}
