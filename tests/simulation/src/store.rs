//! The object storage: objects are created, never overwritten.

use std::collections::BTreeMap;

use perennial_coordinator::log::{LogEntry, LogRecord};
use perennial_coordinator::machine::{Commit, Event, ResumePoint};
use perennial_plan::ledger::LedgerRoot;

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

    /// Commits a checkpoint; an error says how it breaks CK-1.
    pub fn commit(&mut self, job: &Job, commit: &Commit, kinds: &[&str]) -> Result<(), String> {
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
        let logged = self.steps();
        let mut root = LedgerRoot::default();
        for record in logged.iter().take(step as usize) {
            root.push(record);
        }
        if root.count() != step || root != commit.snapshot.ledger {
            return Err(format!(
                "checkpoint {step} is committed where the log has {} steps",
                logged.len()
            ));
        }
        self.checkpoints
            .entry(step)
            .or_insert_with(|| commit.clone());
        Ok(())
    }

    /// The steps that the log counts.
    fn steps(&self) -> Vec<&perennial_plan::ledger::StepRecord> {
        let mut steps: Vec<&perennial_plan::ledger::StepRecord> = Vec::new();
        for record in &self.log {
            match &record.entry {
                LogEntry::Generation { generation, .. } => {
                    let start = generation.start;
                    steps.retain(|step| step.cursor() < start);
                }
                LogEntry::Steps { steps: more } => steps.extend(more),
                _ => {}
            }
        }
        steps
    }

    /// Removes manifests first, then what no other one names.
    pub fn prune(&mut self) {
        while self.checkpoints.len() > KEEP {
            self.checkpoints.pop_first();
        }
        let newest = self.checkpoints.keys().max().copied().unwrap_or(0);
        let named: Vec<&str> = self
            .checkpoints
            .values()
            .flat_map(|commit| commit.parts.iter().map(|part| part.path.as_str()))
            .collect();
        let mut kept = BTreeMap::new();
        for (path, (kind, replica)) in std::mem::take(&mut self.parts) {
            // What is newer may belong to a checkpoint in the making.
            let making = path.as_str() > format!("checkpoints/{newest:012}~").as_str();
            if making || named.contains(&path.as_str()) {
                kept.insert(path, (kind, replica));
            }
        }
        self.parts = kept;
    }

    /// The replica in a checkpoint.
    pub fn load(&self, step: u64) -> Option<Replica> {
        let commit = self.checkpoints.get(&step)?;
        let part = commit.parts.first()?;
        let (_, replica) = self.parts.get(&part.path)?;
        Some(replica.clone())
    }

    pub fn newest(&self) -> Option<ResumePoint> {
        let (step, commit) = self.checkpoints.last_key_value()?;
        Some(ResumePoint {
            global_step: *step,
            snapshot: commit.snapshot.clone(),
            numerics: commit.provenance.numerics.clone(),
            data_fingerprint: commit.provenance.data_fingerprint.clone(),
            weights_sha256: commit.tensors_sha256("model").unwrap_or_default().into(),
            ema_sha256: commit.tensors_sha256("ema").map(str::to_string),
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
        self.log.iter().rev().find_map(|record| match &record.entry {
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
