//! The queue's log: what was submitted and asked for, and which jobs run, as entries that are only ever
//! appended. What a job does once it runs stands in its own log.

use std::collections::BTreeSet;

use perennial_plan::invariants::{Invariant, Violation};
use serde::{Deserialize, Serialize};

use crate::log::LogRecord;

/// What the queue's log keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum QueueEntry {
    /// The writer rules from here on, until a higher term begins.
    Term {
        /// Where it listens: `host:port`.
        address: String,
        version: String,
        /// Workers' names up to this number may be in use.
        names: u32,
    },
    /// More names are in use.
    Names {
        names: u32,
    },
    Submitted(Submission),
    /// A job that was over waits again, at the end of those of its priority.
    Resumed {
        job: String,
    },
    Prioritized {
        job: String,
        priority: i32,
    },
    /// The most workers that the job may have.
    Scaled {
        job: String,
        workers: u32,
    },
    /// A stop was asked for.
    Stopped {
        job: String,
        now: bool,
    },
    /// The worker is to leave for good, once the job that it serves has let it go.
    Drained {
        worker: String,
    },
    /// It has been told so.
    Dismissed {
        worker: String,
    },
    /// The job runs, on workers of this numerics class from now on.
    Started {
        job: String,
        numerics: String,
    },
    /// It waits again, with a checkpoint.
    Returned {
        job: String,
        reason: String,
    },
    Ended {
        job: String,
        how: How,
        /// Why, where it failed.
        message: String,
    },
}

/// A job on its way into the queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    pub job: String,
    /// RFC 3339 in UTC.
    pub submitted: String,
    /// Higher ones come first.
    pub priority: i32,
    pub min_workers: u32,
    /// More are of no use, or not allowed by the job.
    pub max_workers: u32,
    /// The most that are wished for.
    pub workers: Option<u32>,
    /// Of the steps that it has already, if any.
    pub numerics: Option<String>,
    /// The command that trains this again, for the report.
    pub command: Option<String>,
}

/// How a job left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Finished,
    Stopped,
    Failed,
}

/// Where a job in the queue stands, as far as the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Over(How),
}

/// A job of the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    pub submission: Submission,
    pub state: State,
    /// Its place among those of its priority: the position at which it was submitted or resumed.
    pub order: u64,
    /// A stop was asked for, at once or not.
    pub stop: Option<bool>,
    /// Why it failed or was sent back.
    pub message: String,
}

/// The queue, as far as its log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replayed {
    /// The highest term; 0 for an empty log.
    pub term: u64,
    /// Where the coordinator of that term listens.
    pub address: String,
    /// The highest number that a worker's name may have.
    pub names: u32,
    /// In the order in which they were first submitted.
    pub jobs: Vec<Queued>,
    /// Workers that are to leave for good.
    pub drained: BTreeSet<String>,
    entries: u64,
    writer: String,
}

// === impl Replayed ===

impl Replayed {
    /// The state after `log`, all entries from position 0 on.
    pub fn of(log: &[LogRecord<QueueEntry>]) -> Result<Self, Violation> {
        let mut state = Self::default();
        for record in log {
            state.take(record)?;
        }
        Ok(state)
    }

    /// What was written next.
    pub fn take(&mut self, record: &LogRecord<QueueEntry>) -> Result<(), Violation> {
        let in_turn = match &record.entry {
            QueueEntry::Term { .. } => record.term > self.term,
            _ => record.term == self.term && record.writer == self.writer,
        };
        Invariant::Log1.check(in_turn, || {
            let (position, term, other) = (self.entries, record.term, &record.writer);
            let (ours, writer) = (self.term, &self.writer);
            format!("position {position} of the queue's log is of term {term} by `{other}`, where term {ours} by `{writer}` rules")
        })?;
        self.term = record.term;
        self.writer.clone_from(&record.writer);
        self.apply(&record.entry);
        Ok(())
    }

    /// What an entry changes. One about a job that is not there changes nothing.
    pub(super) fn apply(&mut self, entry: &QueueEntry) {
        let order = self.entries;
        self.entries += 1;
        match entry {
            QueueEntry::Term { address, names, .. } => {
                self.address.clone_from(address);
                self.names = self.names.max(*names);
            }
            QueueEntry::Names { names } => self.names = self.names.max(*names),
            QueueEntry::Submitted(submission) => {
                self.jobs.retain(|job| job.submission.job != submission.job);
                self.jobs.push(Queued {
                    submission: submission.clone(),
                    state: State::Queued,
                    order,
                    stop: None,
                    message: String::new(),
                });
            }
            QueueEntry::Resumed { job } => self.change(job, |job| {
                job.state = State::Queued;
                job.order = order;
                job.stop = None;
                job.message.clear();
            }),
            QueueEntry::Prioritized { job, priority } => {
                self.change(job, |job| job.submission.priority = *priority);
            }
            QueueEntry::Scaled { job, workers } => {
                self.change(job, |job| job.submission.workers = Some(*workers));
            }
            QueueEntry::Stopped { job, now } => self.change(job, |job| match job.state {
                State::Queued => job.state = State::Over(How::Stopped),
                State::Running => job.stop = Some(*now),
                State::Over(_) => {}
            }),
            QueueEntry::Drained { worker } => drop(self.drained.insert(worker.clone())),
            QueueEntry::Dismissed { worker } => drop(self.drained.remove(worker)),
            QueueEntry::Started { job, numerics } => self.change(job, |job| {
                job.state = State::Running;
                job.submission.numerics = Some(numerics.clone());
                job.message.clear();
            }),
            QueueEntry::Returned { job, reason } => self.change(job, |job| {
                job.state = State::Queued;
                job.message.clone_from(reason);
            }),
            QueueEntry::Ended { job, how, message } => self.change(job, |job| {
                job.state = State::Over(*how);
                job.stop = None;
                job.message.clone_from(message);
            }),
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Queued)) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.submission.job == name) {
            change(job);
        }
    }

    /// The job of this name.
    pub fn job(&self, name: &str) -> Option<&Queued> {
        self.jobs.iter().find(|job| job.submission.job == name)
    }
}

// === impl Queued ===

impl Queued {
    /// The most workers that it is given.
    pub fn max_workers(&self) -> u32 {
        let it = &self.submission;
        let most = it.workers.unwrap_or(u32::MAX).min(it.max_workers);
        most.max(it.min_workers)
    }

    /// Those with lower ranks get workers first.
    pub fn rank(&self) -> (i64, u64) {
        (-i64::from(self.submission.priority), self.order)
    }
}

// === impl How ===

impl How {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}
