//! The log, entry by entry. What cannot be is named, and the walk goes on from what the entry says.

use std::collections::{BTreeMap, BTreeSet};

use perennial_plan::ledger::StepRecord;
use perennial_plan::order::batch_range;
use perennial_plan::{Cursor, Generation, Spec};
use perennial_report::EpochRecord;

use super::account::{Account, Known, Live, Seen, difference, same};
use super::{Finding, Object};
use crate::log::{DataFacts, LogEntry, LogRecord};
use crate::machine::Evaluations;
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
        if begins || self.after_a_hole {
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
        let in_turn = id == last + 1 || (self.after_a_hole && id > last);
        if !in_turn {
            let expected = last + 1;
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

    // --- steps --------------------------------------------------------------------------------------

    fn cursor(&self, step: u64) -> Cursor {
        match u64::from(self.known.steps_per_epoch(self.spec)) {
            0 => Cursor::default(),
            steps => Cursor {
                epoch: (step / steps) as u32,
                step: (step % steps) as u32,
            },
        }
    }

    fn step(&mut self, object: &'a Object<LogRecord>, step: &StepRecord) {
        let path = object.path.as_str();
        let cursor = step.cursor();
        let steps = self.known.steps_per_epoch(self.spec);
        let epochs = self.spec.train.epochs;
        if step.step >= steps || step.epoch >= epochs {
            self.find(
                path,
                format!("{cursor} is not in the plan of {epochs} epochs with {steps} steps each"),
            );
            return;
        }
        let at = cursor.global_step(steps);
        if at != self.next && !self.after_a_hole {
            let expected = self.cursor(self.next);
            let message = if self.live.contains_key(&at) {
                format!("{cursor} is applied a second time, where {expected} is next")
            } else {
                format!("{cursor} is applied where {expected} is next")
            };
            self.find(path, message);
        }
        if self.after_a_hole {
            (self.next, self.closed) = (at, step.epoch);
        }
        self.after_a_hole = false;
        if step.epoch > self.closed {
            let missing = self.closed + 1;
            self.find(
                path,
                format!("{cursor} is applied before epoch {missing} was closed"),
            );
            self.closed = step.epoch;
        }
        self.next = self.next.max(at + 1);
        self.check_counts(path, step);
        let by_all = self.check_confirmed(path, step);
        self.check_again(object, at, step);
        let live = Live {
            generation: step.generation,
            samples: step.samples,
            by_all,
        };
        self.live.entry(at).or_default().push(live);
    }

    fn check_counts(&mut self, path: &str, step: &StepRecord) {
        let cursor = step.cursor();
        let batch = self.spec.train.batch_size as usize;
        let samples = self.known.train_samples() as usize;
        let planned = batch_range(samples, batch, step.step).len() as u64;
        if step.samples != planned {
            let found = step.samples;
            self.find(
                path,
                format!("{cursor} applied {found} samples, the plan has {planned}"),
            );
        } else if step.top1 > step.top5 || step.top5 > step.samples {
            let (top1, top5) = (step.top1, step.top5);
            self.find(
                path,
                format!("{cursor} counts {top1} first and {top5} fifth guesses right of {planned} samples, which cannot be"),
            );
        }
    }

    /// Whether every member of the generation reported the step's hash.
    fn check_confirmed(&mut self, path: &str, step: &StepRecord) -> bool {
        let (cursor, id) = (step.cursor(), step.generation);
        if self.generation_in_doubt {
            self.generation = self.generations.get(&id).copied();
        }
        let in_force = self.generation.filter(|generation| generation.id == id);
        let Some(generation) = in_force else {
            let message = match self.generation {
                // The entry that is missing has been named.
                _ if self.generation_in_doubt => return false,
                Some(other) => {
                    let other = other.id;
                    format!("{cursor} is of generation {id}, where generation {other} is in force")
                }
                None => format!("{cursor} is of generation {id}, where none is in force"),
            };
            self.find(path, message);
            return false;
        };
        let members = generation.members.len();
        let ranks: BTreeSet<u32> = step.confirmed.iter().copied().collect();
        let inside = ranks.iter().all(|rank| (*rank as usize) < members);
        if ranks.is_empty() || ranks.len() != step.confirmed.len() || !inside {
            let confirmed = &step.confirmed;
            self.find(
                path,
                format!("{cursor} was confirmed by the ranks {confirmed:?}, where generation {id} has {members} members"),
            );
            return false;
        }
        if ranks.len() < members {
            let count = ranks.len();
            let finding = Finding::new(
                path,
                format!(
                    "the replica after {cursor} was confirmed by {count} of {members} members of generation {id}, which went on; all must agree"
                ),
            );
            self.unconfirmed.push(finding);
            return false;
        }
        // The generation was whole after them: nobody was lost who could have kept a confirmation.
        self.findings.append(&mut self.unconfirmed);
        true
    }

    /// What is applied again after going back gives the same, to the bit.
    fn check_again(&mut self, object: &Object<LogRecord>, at: u64, step: &StepRecord) {
        let cursor = step.cursor();
        let Some(seen) = self.known.steps.get(&at) else {
            let position = object.number;
            let record = step.clone();
            self.known.steps.insert(at, Seen { position, record });
            return;
        };
        self.account.steps_recomputed += 1;
        let first = seen.position;
        let words = |step: &StepRecord| {
            [
                ("replica hash", format!("{:016x}", step.replica_hash)),
                ("sum of losses", step.loss_sum.to_string()),
                ("norm of the gradient", step.grad_norm.to_string()),
                ("learning rate", step.learning_rate.to_string()),
                ("samples", step.samples.to_string()),
                ("count of first guesses", step.top1.to_string()),
                ("count of fifth guesses", step.top5.to_string()),
            ]
        };
        let differs = words(step)
            .into_iter()
            .zip(words(&seen.record))
            .find(|(ours, theirs)| ours != theirs);
        if let Some(((what, ours), (_, theirs))) = differs {
            self.find(
                &object.path,
                format!("{cursor} was applied again with another {what}: {ours}, at position {first} it was {theirs}"),
            );
        }
    }

    // --- epochs and ends ----------------------------------------------------------------------------

    fn close_epoch(&mut self, path: &str, record: &EpochRecord, evaluations: &Evaluations) {
        let epoch = record.epoch;
        let steps = u64::from(self.known.steps_per_epoch(self.spec));
        let expected = self.closed + 1;
        let end = u64::from(epoch) * steps;
        if (epoch != expected || self.next != end) && !self.after_a_hole {
            let next = self.cursor(self.next);
            self.find(
                path,
                format!("the record of epoch {epoch} stands where {next} is next and that of epoch {expected} is due"),
            );
        }
        self.closed = epoch;
        if self.after_a_hole {
            self.next = end;
        }
        self.check_sums(path, record, end.saturating_sub(steps)..end);
        self.check_evaluations(path, record, evaluations);
        match self.known.epochs.get(&epoch) {
            Some(first) => {
                if let Some((what, theirs, ours)) = difference(first, record) {
                    self.find(
                        path,
                        format!("epoch {epoch} was closed again with another `{what}`: {ours}, before it was {theirs}"),
                    );
                }
            }
            None => {
                self.known.epochs.insert(epoch, record.clone());
            }
        }
    }

    /// The record's means are those of the epoch's steps.
    fn check_sums(&mut self, path: &str, record: &EpochRecord, steps: std::ops::Range<u64>) {
        let expected = steps.end - steps.start;
        let seen: Vec<&StepRecord> = self
            .known
            .steps
            .range(steps)
            .map(|(_, seen)| &seen.record)
            .collect();
        let samples: u64 = seen.iter().map(|step| step.samples).sum();
        if seen.len() as u64 != expected || samples == 0 {
            // Steps that are missing are named by themselves.
            return;
        }
        let loss = seen.iter().map(|step| step.loss_sum).sum::<f64>() / samples as f64;
        let top1 = seen.iter().map(|step| step.top1).sum::<u64>() as f64 / samples as f64;
        let last = seen.last().copied();
        let rate = last.map_or(f64::NAN, |step| step.learning_rate);
        let norm = last.map_or(f64::NAN, |step| step.grad_norm);
        let pairs = [
            ("train_loss", record.train_loss, loss),
            ("train_top1", record.train_top1, top1),
            ("learning_rate", record.learning_rate, rate),
            ("grad_norm", record.grad_norm, norm),
        ];
        for (index, (name, found, expected)) in pairs.into_iter().enumerate() {
            // A resumed run does not know the step before.
            let unknown = index > 1 && found.is_nan();
            if !unknown && !same(found, expected) {
                let epoch = record.epoch;
                self.find(
                    path,
                    format!("the record of epoch {epoch} has `{name}` {found}, its steps in the log give {expected}"),
                );
            }
        }
    }

    /// All validation samples were evaluated, and the record says what came out.
    fn check_evaluations(&mut self, path: &str, record: &EpochRecord, evaluations: &Evaluations) {
        let epoch = record.epoch;
        let expected = self.known.data.as_ref().map_or(0, |data| data.val_samples);
        let (raw, ema) = (&evaluations.raw, evaluations.ema.as_ref());
        for evaluation in std::iter::once(raw).chain(ema) {
            let counted: u64 = evaluation.confusion.iter().flatten().sum();
            if self.known.data.is_some() && (evaluation.samples != expected || counted != expected)
            {
                let samples = evaluation.samples;
                self.find(
                    path,
                    format!("epoch {epoch} was evaluated on {samples} samples with {counted} answers, the data has {expected}"),
                );
            }
        }
        let mut pairs = vec![
            ("val_loss", record.val_loss, raw.loss),
            ("val_top1", record.val_top1, raw.top1),
            ("val_top5", record.val_top5, raw.top5),
        ];
        let nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let of_ema = |value: fn(&perennial_report::Evaluation) -> f64| ema.map_or(f64::NAN, value);
        pairs.extend([
            ("ema_loss", nan(record.ema_loss), of_ema(|ema| ema.loss)),
            ("ema_top1", nan(record.ema_top1), of_ema(|ema| ema.top1)),
            ("ema_top5", nan(record.ema_top5), of_ema(|ema| ema.top5)),
        ]);
        for (name, found, expected) in pairs {
            if !same(found, expected) {
                self.find(
                    path,
                    format!("the record of epoch {epoch} has `{name}` {found}, its evaluation gives {expected}"),
                );
            }
        }
    }

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
