//! From the log to the state that it describes.

use perennial_plan::invariants::{Invariant, Violation};
use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::order::steps_per_epoch;
use perennial_plan::{Cursor, Generation, Spec};
use perennial_report::EpochRecord;

use crate::log::{DataFacts, LogEntry, LogRecord};
use crate::machine::Evaluations;

/// Where a job stands, as far as its log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replayed {
    /// The highest term; 0 for an empty log.
    pub term: u64,
    /// Where the coordinator of that term listens.
    pub address: String,
    /// The last generation, unless the run that it was in has ended.
    pub generation: Option<Generation>,
    /// The highest generation id.
    pub last_generation: u64,
    pub data: Option<DataFacts>,
    /// All steps that count, from the first one on.
    pub steps: Vec<StepRecord>,
    pub history: Vec<EpochRecord>,
    /// At the end of the last epoch in the history.
    pub evaluations: Option<Evaluations>,
    /// The wanted number of workers, where it was ever changed.
    pub wanted: Option<u32>,
    /// The highest number in the names of workers.
    pub names: u32,
    /// How the last run ended, unless another one has begun.
    pub ended: Option<String>,
}

// === impl Replayed ===

impl Replayed {
    /// The state after `log`, all entries from position 0 on.
    pub fn of(spec: &Spec, log: &[LogRecord]) -> Result<Self, Violation> {
        let mut state = Self::default();
        let mut writer = "";
        for (position, record) in log.iter().enumerate() {
            state.take(spec, position, record, writer)?;
            writer = &record.writer;
        }
        Ok(state)
    }

    /// What stands at `position`, behind an entry of `writer`.
    pub(crate) fn take(
        &mut self,
        spec: &Spec,
        position: usize,
        record: &LogRecord,
        writer: &str,
    ) -> Result<(), Violation> {
        let begins = matches!(record.entry, LogEntry::Term { .. });
        let in_turn = if begins {
            record.term > self.term
        } else {
            record.term == self.term && record.writer == writer
        };
        Invariant::Log1.check(in_turn, || {
            let (term, ours) = (record.term, self.term);
            let other = &record.writer;
            format!("position {position} is of term {term} by `{other}`, where term {ours} by `{writer}` rules")
        })?;
        self.term = record.term;
        match &record.entry {
            LogEntry::Term { address, .. } => self.address.clone_from(address),
            LogEntry::Generation {
                generation, data, ..
            } => {
                self.data = Some(data.clone());
                self.begin(spec, generation)?;
            }
            LogEntry::Steps { steps } => {
                for step in steps {
                    let expected = self.cursor(spec);
                    Invariant::Ex2.check(step.cursor() == expected, || {
                        format!(
                            "position {position} has {} where {expected} is next",
                            step.cursor()
                        )
                    })?;
                    self.steps.push(step.clone());
                }
            }
            LogEntry::Epoch {
                record,
                evaluations,
            } => {
                let (epoch, cursor) = (record.epoch, self.cursor(spec));
                let expected = self.history.len() as u32 + 1;
                let in_turn = epoch == expected && cursor.epoch == epoch && cursor.step == 0;
                Invariant::Ev1.check(in_turn, || {
                    format!("position {position} closes epoch {epoch}, where {cursor} is next and {expected} to be closed")
                })?;
                self.history.push((**record).clone());
                self.evaluations = Some((**evaluations).clone());
            }
            LogEntry::Scale { wanted } => self.wanted = Some(*wanted),
            LogEntry::Ended { how, .. } => {
                self.generation = None;
                self.ended = Some(how.clone());
            }
        }
        Ok(())
    }

    fn begin(&mut self, spec: &Spec, generation: &Generation) -> Result<(), Violation> {
        let (id, last) = (generation.id, self.last_generation);
        Invariant::Gen1.check(id > last, || {
            format!("generation {id} begins after generation {last}")
        })?;
        self.last_generation = id;
        self.ended = None;
        let (start, cursor) = (generation.start, self.cursor(spec));
        let from_storage = generation.checkpoint.is_some() || start == Cursor::default();
        let in_turn = start == cursor || (from_storage && start < cursor);
        Invariant::Ex2.check(in_turn, || {
            format!("generation {id} begins at {start} where {cursor} is next")
        })?;
        if start < cursor {
            let steps = start.global_step(self.steps_per_epoch(spec));
            self.steps.truncate(steps as usize);
            if self.history.len() > start.epoch as usize {
                self.history.truncate(start.epoch as usize);
                self.evaluations = None;
            }
        }
        for member in &generation.members {
            self.names = self.names.max(number(&member.worker));
        }
        self.generation = Some(generation.clone());
        Ok(())
    }

    /// The next step, as far as the log says.
    pub fn cursor(&self, spec: &Spec) -> Cursor {
        let steps = self.steps_per_epoch(spec);
        match (self.steps.len() as u64, u64::from(steps)) {
            (_, 0) => Cursor::default(),
            (count, steps) => Cursor {
                epoch: (count / steps) as u32,
                step: (count % steps) as u32,
            },
        }
    }

    /// Steps in an epoch; 0 before the data is known.
    pub fn steps_per_epoch(&self, spec: &Spec) -> u32 {
        let samples = self.data.as_ref().map_or(0, |data| data.train_samples);
        steps_per_epoch(samples as usize, spec.train.batch_size as usize)
    }

    /// The hash over the first `count` steps; none while there are fewer.
    pub fn root(&self, count: u64) -> Option<LedgerRoot> {
        let mut root = LedgerRoot::default();
        for step in self.steps.get(..count as usize)? {
            root.push(step);
        }
        Some(root)
    }
}

/// The number in a name that a coordinator gave: 7 for `w7`.
pub(crate) fn number(worker: &str) -> u32 {
    let digits = worker.strip_prefix('w').unwrap_or_default();
    digits.parse().unwrap_or(0)
}
