//! The log, entry by entry. What cannot be is named, and the walk goes on from what the entry says.

mod epochs;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use perennial_plan::{Cursor, Generation, Spec};

use super::account::{Account, Known, Live};
use super::{Finding, Object};
use crate::log::{DataFacts, LogEntry, LogRecord};
use crate::replay::Replayed;

/// Where the walk stands.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    spec: &'a Spec,
    pub findings: Vec<Finding>,
    pub account: Account,
    pub known: Known,
    /// The steps that count, by steps before them.
    pub live: BTreeMap<u64, Vec<Live>>,
    pub generations: BTreeMap<u64, &'a Generation>,
    term: u64,
    writer: &'a str,
    /// The generation in force.
    generation: Option<&'a Generation>,
    /// Steps before the next one.
    pub next: u64,
    /// Epochs that are evaluated.
    closed: u32,
    /// Steps of the generation in force that not all of its members confirmed.
    unconfirmed: Vec<Finding>,
    /// Entries before this one could not be read: it is taken as it is.
    after_a_hole: bool,
    /// The generation that is in force may be one of those entries.
    generation_in_doubt: bool,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    pub fn over(spec: &'a Spec, log: &'a [Object<LogRecord>]) -> Self {
        let mut walk = Self {
            spec,
            findings: Vec::new(),
            account: Account {
                planned_epochs: spec.train.epochs,
                ..Account::default()
            },
            known: Known::default(),
            live: BTreeMap::new(),
            generations: BTreeMap::new(),
            term: 0,
            writer: "",
            generation: None,
            next: 0,
            closed: 0,
            unconfirmed: Vec::new(),
            after_a_hole: false,
            generation_in_doubt: false,
        };
        for object in log {
            match &object.content {
                Ok(record) => walk.entry(object, record),
                Err(why) => {
                    walk.find(&object.path, why.as_str());
                    walk.after_a_hole = true;
                    walk.generation_in_doubt = true;
                    walk.unconfirmed.clear();
                }
            }
        }
        walk.as_a_coordinator_reads_it(log);
        walk.gather();
        walk
    }

    fn find(&mut self, object: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(object, message));
    }

    fn entry(&mut self, object: &'a Object<LogRecord>, record: &'a LogRecord) {
        let path = &object.path;
        self.account.log_entries += 1;
        self.check_term(path, record);
        match &record.entry {
            LogEntry::Term { .. } => self.account.terms += 1,
            LogEntry::Generation {
                generation, data, ..
            } => {
                self.check_data(path, data);
                self.begin(path, generation);
            }
            LogEntry::Steps { steps } => {
                for step in steps {
                    self.step(object, step);
                }
            }
            LogEntry::Epoch {
                record,
                evaluations,
            } => self.close_epoch(path, record, evaluations),
            LogEntry::Scale { .. } => {}
            LogEntry::Ended { how, global_step } => self.end(path, how, *global_step),
        }
        if !matches!(record.entry, LogEntry::Term { .. } | LogEntry::Scale { .. }) {
            self.after_a_hole = false;
        }
    }

    fn cursor(&self, step: u64) -> Cursor {
        match u64::from(self.known.steps_per_epoch(self.spec)) {
            0 => Cursor::default(),
            steps => Cursor {
                epoch: (step / steps) as u32,
                step: (step % steps) as u32,
            },
        }
    }

    // --- terms --------------------------------------------------------------------------------------

    fn check_term(&mut self, path: &str, record: &'a LogRecord) {
        let (term, writer) = (record.term, record.writer.as_str());
        let (ours, rules) = (self.term, self.writer);
        let begins = matches!(record.entry, LogEntry::Term { .. });
        let lawful = match begins {
            true => term > ours,
            false if self.after_a_hole => term >= ours,
            false => term == ours && writer == rules,
        };
        if !lawful {
            let message = match (begins, ours) {
                (true, _) => format!("term {term} begins after term {ours}; terms must rise"),
                (false, 0) => format!(
                    "the log begins with an entry of term {term} instead of the beginning of a term"
                ),
                (false, _) => format!(
                    "the entry is of term {term} by `{writer}`, where term {ours} by `{rules}` rules"
                ),
            };
            self.find(path, message);
        }
        // What was named once is not named again with every entry that follows.
        let goes_on = ours == 0 || (term > ours && writer == rules);
        if begins || self.after_a_hole || goes_on {
            self.term = self.term.max(term);
            self.writer = writer;
        }
    }

    // --- generations --------------------------------------------------------------------------------

    fn check_data(&mut self, path: &str, data: &DataFacts) {
        let Some(known) = &self.known.data else {
            self.known.data = Some(data.clone());
            return;
        };
        if known != data {
            let message = format!(
                "the generation's data is {data:?}, that of the first one {known:?}; all steps are of the same data"
            );
            self.find(path, message);
        }
    }

    fn begin(&mut self, path: &str, generation: &'a Generation) {
        let id = generation.id;
        let last = self.generations.keys().next_back().copied().unwrap_or(0);
        let in_turn = id.checked_sub(1) == Some(last) || (self.after_a_hole && id > last);
        if !in_turn {
            let expected = last.saturating_add(1);
            self.find(
                path,
                format!("generation {id} begins where generation {expected} is next"),
            );
        }
        self.check_slots(path, generation);
        self.check_start(path, generation);
        self.go_to(generation.start);
        // They count: this generation begins behind them, or went back before them.
        self.unconfirmed.clear();
        self.generation = Some(generation);
        self.generation_in_doubt = false;
        self.generations.insert(id, generation);
        self.account.ended = None;
    }

    /// Each slot is held by exactly one member.
    fn check_slots(&mut self, path: &str, generation: &Generation) {
        let (id, slots) = (generation.id, self.spec.train.slots);
        for slot in 0..slots {
            let holds = generation
                .members
                .iter()
                .filter(|member| member.slots.contains(&slot));
            let holders: Vec<&str> = holds.map(|member| member.worker.as_str()).collect();
            if holders.len() != 1 {
                let whom = match holders.as_slice() {
                    [] => "nobody".to_string(),
                    several => format!("`{}`", several.join("` and `")),
                };
                self.find(
                    path,
                    format!("generation {id} deals slot {slot} to {whom}; each of the {slots} slots goes to one member"),
                );
            }
        }
        for member in &generation.members {
            if member.slots.end > slots {
                let (worker, range) = (&member.worker, &member.slots);
                self.find(
                    path,
                    format!("generation {id} deals slots {range:?} to `{worker}`, where the job has {slots}"),
                );
            }
        }
        let names: BTreeSet<&str> = generation
            .members
            .iter()
            .map(|member| member.worker.as_str())
            .collect();
        if names.len() != generation.members.len() {
            self.find(path, format!("generation {id} has a member twice"));
        }
    }

    fn check_start(&mut self, path: &str, generation: &Generation) {
        let (id, start) = (generation.id, generation.start);
        let at = start.global_step(self.known.steps_per_epoch(self.spec));
        if let Some(checkpoint) = generation.checkpoint
            && checkpoint != at
        {
            self.find(
                path,
                format!("generation {id} begins at {start}, which is after {at} steps, from the checkpoint of step {checkpoint}"),
            );
        }
        let from_storage = generation.checkpoint.is_some() || at == 0;
        let in_turn = at == self.next || (from_storage && at < self.next);
        if !in_turn && !self.after_a_hole {
            let expected = self.cursor(self.next);
            self.find(
                path,
                format!("generation {id} begins at {start} where {expected} is next"),
            );
        }
    }

    /// What lies beyond `start` is applied anew.
    fn go_to(&mut self, start: Cursor) {
        let steps = self.known.steps_per_epoch(self.spec);
        self.next = start.global_step(steps);
        self.live.split_off(&self.next);
        self.closed = if self.after_a_hole {
            start.epoch
        } else {
            self.closed.min(start.epoch)
        };
    }

    // --- ends ---------------------------------------------------------------------------------------

    fn end(&mut self, path: &str, how: &str, global_step: u64) {
        if global_step != self.next && !self.after_a_hole {
            let next = self.next;
            self.find(
                path,
                format!("the run {how} after {global_step} steps, the log has {next} before"),
            );
        }
        if self.after_a_hole {
            self.next = global_step;
            self.closed = self.cursor(global_step).epoch;
        }
        let (closed, epochs) = (self.closed, self.spec.train.epochs);
        let all = u64::from(epochs) * u64::from(self.known.steps_per_epoch(self.spec));
        if how == "finished" && (global_step != all || closed != epochs) {
            self.find(
                path,
                format!("the run finished after {global_step} of {all} steps and {closed} of {epochs} epochs"),
            );
        }
        self.unconfirmed.clear();
        self.generation = None;
        self.account.ended = Some(how.to_string());
    }

    // --- the whole ----------------------------------------------------------------------------------

    /// Where nothing was found, a coordinator can go on from this log.
    fn as_a_coordinator_reads_it(&mut self, log: &[Object<LogRecord>]) {
        if !self.findings.is_empty() {
            return;
        }
        let records: Vec<LogRecord> = log
            .iter()
            .filter_map(|object| object.content.clone().ok())
            .collect();
        if let Err(violation) = Replayed::of(self.spec, &records)
            && let Some(last) = log.last()
        {
            self.find(&last.path, violation.to_string());
        }
    }

    fn gather(&mut self) {
        let steps = self.known.steps_per_epoch(self.spec);
        let account = &mut self.account;
        account.generations = self.generations.len() as u64;
        account.epochs = self.closed;
        account.steps = self.live.len() as u64;
        account.steps_per_epoch = steps;
        account.planned_steps = u64::from(account.planned_epochs) * u64::from(steps);
        account.samples_applied = self.live.values().flatten().map(|live| live.samples).sum();
        account.train_samples = self.known.train_samples();
        let by_all = |live: &&Vec<Live>| live.iter().any(|live| live.by_all);
        account.steps_confirmed_by_all = self.live.values().filter(by_all).count() as u64;
        account.steps_confirmed_by_survivors = account.steps - account.steps_confirmed_by_all;
    }
}
