//! The observer: sees every process and the store, and checks that every invariant holds.

use std::collections::{BTreeMap, BTreeSet};

use perennial_coordinator::log::{LogEntry, LogRecord};
use perennial_coordinator::machine::Evaluations;
use perennial_plan::{Cursor, Generation};
use perennial_session::Assignment;

use crate::Loss;
use crate::job::{Job, VAL_SAMPLES};
use crate::queue::{SECOND, Time, WorkerId};
use crate::world::World;

/// What the log says, as the observer reads it.
#[derive(Default)]
pub struct Watch {
    term: u64,
    writer: String,
    writers: BTreeSet<String>,
    generations: BTreeMap<u64, Generation>,
    last: u64,
    /// Steps that count.
    pub steps: u64,
    /// The most that ever counted.
    pub most_steps: u64,
    epochs: u32,
    /// Who applied which step in which generation, by incarnation.
    applied: BTreeSet<(u64, u64, u64)>,
    /// Steps that were computed, by generation.
    computed: BTreeSet<(u64, u64)>,
    furthest: u64,
    /// Since when a member is missing, until the next step.
    hurt: Option<(Time, Loss)>,
    pub finished: bool,
}

impl Watch {
    /// Steps that were computed more than once.
    pub fn recomputed(&self) -> u64 {
        let distinct: BTreeSet<u64> = self.computed.iter().map(|(_, step)| *step).collect();
        (self.computed.len() - distinct.len()) as u64
    }

    pub fn generations(&self) -> u64 {
        self.generations.len() as u64
    }

    /// Whether a later generation is in the log.
    pub fn is_over(&self, generation: u64) -> bool {
        generation < self.last
    }

    /// Whether the process is a member now, as far as the log says.
    pub fn is_member(&self, incarnation: u64) -> bool {
        self.generations.get(&self.last).is_some_and(|generation| {
            generation
                .members
                .iter()
                .any(|member| member.incarnation == incarnation)
        })
    }
}

impl World {
    /// A member was lost: the time until the next step counts.
    pub fn is_hurt(&mut self, loss: Loss) {
        self.watch.hurt.get_or_insert((self.now, loss));
    }

    /// A worker applied the step at `cursor`.
    pub fn saw_step(&mut self, worker: WorkerId, generation: u64, cursor: Cursor) {
        let step = self.job.global_step(cursor);
        let incarnation = self.workers[worker].incarnation;
        let watch = &mut self.watch;
        watch.applied.insert((generation, step, incarnation));
        watch.computed.insert((generation, step));
        if generation == watch.last && step >= watch.furthest {
            watch.furthest = step + 1;
            if let Some((since, loss)) = watch.hurt.take() {
                let seconds = (self.now - since) as f64 / SECOND as f64;
                self.trace(|| format!("the next step comes {seconds:.1} s after a {loss:?} loss"));
                self.stats.recoveries.entry(loss).or_default().push(seconds);
            }
        }
        let Some(replica) = &self.workers[worker].training.replica else {
            return;
        };
        let times = replica.seen.iter().filter(|seen| **seen != 1).count();
        let twice = replica.seen.iter().any(|seen| *seen > 1);
        if twice || (replica.cursor.step == 0 && times > 0) {
            let message = format!("epoch {} was applied {:?}", cursor.epoch, replica.seen);
            self.violated("EX-1", message);
        }
    }

    /// Every replica is the one that the undisturbed run has at its cursor.
    pub fn check_replica(&mut self, worker: WorkerId) {
        let Some(replica) = &self.workers[worker].training.replica else {
            return;
        };
        let expected = self.job.hash_at(replica.cursor);
        if replica.hash != expected {
            let message = format!(
                "worker process {worker} has {:016x} at {}, the undisturbed run has {expected:016x}",
                replica.hash, replica.cursor
            );
            self.violated("REP-1", message);
        }
    }

    /// A generation takes effect only once its entry exists.
    pub fn saw_assignment(&mut self, worker: WorkerId, assignment: &Assignment) {
        let id = assignment.generation.id;
        if self.watch.generations.get(&id) != Some(&assignment.generation) {
            let message = format!(
                "worker process {worker} trains in generation {id}, which is not what the log has"
            );
            self.violated("GEN-1", message);
        }
    }

    /// The log has a new entry.
    pub fn saw_entry(&mut self, position: u64, record: &LogRecord) {
        self.trace(|| format!("log {position}: {}", brief(record)));
        let broken = self.check_entry(record);
        if let Err((number, message)) = broken {
            self.violated(number, format!("log position {position}: {message}"));
        }
    }

    fn check_entry(&mut self, record: &LogRecord) -> Result<(), (&'static str, String)> {
        let ensure = |holds: bool, number: &'static str, message: String| {
            if holds {
                Ok(())
            } else {
                Err((number, message))
            }
        };
        let job = &self.job;
        let watch = &mut self.watch;
        let (term, writer) = (record.term, &record.writer);
        if let LogEntry::Term { .. } = record.entry {
            ensure(
                term > watch.term,
                "LOG-1",
                format!("term {term} begins after term {}", watch.term),
            )?;
            ensure(
                watch.writers.insert(writer.clone()),
                "LOG-1",
                format!("`{writer}` begins a second term"),
            )?;
            watch.term = term;
            watch.writer.clone_from(writer);
            return Ok(());
        }
        ensure(
            term == watch.term && *writer == watch.writer,
            "LOG-1",
            format!("`{writer}` writes in term {term}, which is not the newest or not its own"),
        )?;
        match &record.entry {
            LogEntry::Generation { generation, .. } => {
                let id = generation.id;
                ensure(
                    id > watch.last,
                    "GEN-1",
                    format!("generation {id} follows {}", watch.last),
                )?;
                let dealt: Vec<u32> = generation
                    .members
                    .iter()
                    .flat_map(|member| member.slots.clone())
                    .collect();
                let all: Vec<u32> = (0..job.spec.train.slots).collect();
                ensure(
                    dealt == all,
                    "EX-1",
                    format!("generation {id} deals {dealt:?}"),
                )?;
                let start = job.global_step(generation.start);
                let stored = generation.checkpoint.map_or(start == 0, |step| {
                    step == start && self.store.checkpoints.contains_key(&step)
                });
                ensure(
                    start == watch.steps || (start < watch.steps && stored),
                    "EX-2",
                    format!(
                        "generation {id} begins at step {start} where {} is next",
                        watch.steps
                    ),
                )?;
                watch.steps = start;
                watch.epochs = watch.epochs.min(generation.start.epoch);
                watch.last = id;
                watch.generations.insert(id, generation.clone());
            }
            LogEntry::Steps { steps } => {
                for step in steps {
                    let global = job.global_step(step.cursor());
                    ensure(
                        global == watch.steps,
                        "EX-2",
                        format!("step {global} is logged where {} is next", watch.steps),
                    )?;
                    ensure(
                        step.generation == watch.last,
                        "GEN-2",
                        format!(
                            "step {global} of generation {} is logged in generation {}",
                            step.generation, watch.last
                        ),
                    )?;
                    let after = step.cursor().next(job.steps_per_epoch);
                    ensure(
                        step.replica_hash == job.hash_at(after)
                            && step.samples == job.batch_len(step.step),
                        "REP-1",
                        format!("step {global} has hash {:016x}", step.replica_hash),
                    )?;
                    let members = &watch.generations[&watch.last].members;
                    let all = step.confirmed.iter().all(|rank| {
                        members.get(*rank as usize).is_some_and(|member| {
                            watch
                                .applied
                                .contains(&(watch.last, global, member.incarnation))
                        })
                    });
                    ensure(
                        all && !step.confirmed.is_empty(),
                        "GEN-2",
                        format!(
                            "step {global} is confirmed by {:?}, not all of which applied it",
                            step.confirmed
                        ),
                    )?;
                    watch.steps += 1;
                    watch.most_steps = watch.most_steps.max(watch.steps);
                }
            }
            LogEntry::Epoch {
                record,
                evaluations,
            } => {
                let epoch = watch.epochs + 1;
                let end = u64::from(epoch) * u64::from(job.steps_per_epoch);
                ensure(
                    record.epoch == epoch && watch.steps == end,
                    "EV-1",
                    format!("epoch {} is closed at step {}", record.epoch, watch.steps),
                )?;
                let hash = job.hash_at(Cursor { epoch, step: 0 });
                let truth = job.evaluation(hash, VAL_SAMPLES as u64);
                let truth: Option<Evaluations> = serde_json::from_slice(&truth).ok();
                ensure(
                    truth.as_ref() == Some(&**evaluations),
                    "EV-1",
                    format!("epoch {epoch} has the evaluation {evaluations:?}"),
                )?;
                watch.epochs = epoch;
            }
            LogEntry::Scale { .. } | LogEntry::Term { .. } => {}
            LogEntry::Ended { how, .. } => {
                if self.stop.only {
                    watch.finished |= how == "stopped";
                } else if how == "finished" {
                    let stored = self.store.checkpoints.get(&job.total_steps);
                    let weights = stored.and_then(|commit| commit.tensors_sha256(job.kind()));
                    let last = Cursor {
                        epoch: job.spec.train.epochs,
                        step: 0,
                    };
                    let truth = Job::tensors(job.kind(), job.hash_at(last));
                    ensure(
                        watch.steps == job.total_steps
                            && watch.epochs == job.spec.train.epochs
                            && weights == Some(&truth),
                        "outcome",
                        format!("the job ends at step {} with {weights:?}", watch.steps),
                    )?;
                    watch.finished = true;
                }
            }
        }
        Ok(())
    }

    /// A coordinator says that the job is done.
    pub fn saw_finish(&mut self, weights: &str) {
        let truth = self.job.weights();
        if weights != truth {
            let message = format!("the job ends with {weights}, the undisturbed run with {truth}");
            self.violated("REP-1", message);
        }
        if !self.watch.finished {
            self.violated("outcome", "finished, but the log does not say so".into());
        }
    }
}

fn brief(record: &LogRecord) -> String {
    let what = match &record.entry {
        LogEntry::Term { address, .. } => format!("term at {address}"),
        LogEntry::Generation {
            generation, reason, ..
        } => {
            let members: Vec<&str> = generation
                .members
                .iter()
                .map(|member| member.worker.as_str())
                .collect();
            format!(
                "generation {} from {} checkpoint {:?} of {}: {reason}",
                generation.id,
                generation.start,
                generation.checkpoint,
                members.join(", ")
            )
        }
        LogEntry::Steps { steps } => {
            let steps: Vec<String> = steps.iter().map(|step| step.cursor().to_string()).collect();
            steps.join(", ")
        }
        LogEntry::Epoch { record, .. } => format!("epoch {}", record.epoch),
        other => format!("{other:?}"),
    };
    format!("term {} {}: {what}", record.term, record.writer)
}
