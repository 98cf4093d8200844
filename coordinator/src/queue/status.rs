//! What people see of the queue.

use super::{Queue, Queued, State};

/// A job as the queue sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub job: Queued,
    /// `queued`, `running`, `stopping`, `finished`, `stopped` or `failed`.
    pub state: &'static str,
    /// Why; empty where the job itself knows it.
    pub reason: String,
    /// Workers that it has been given, and that it is to have.
    pub workers: u32,
    pub share: u32,
}

/// A worker that is connected.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerView {
    pub worker: String,
    /// None: it waits.
    pub job: Option<String>,
    pub numerics: String,
    pub threads: u32,
    pub draining: bool,
}

impl Queue {
    /// Those that run and wait, in the order in which they get workers, then those that are over, the newest
    /// first.
    pub fn jobs(&self) -> Vec<JobView> {
        let mut jobs: Vec<&Queued> = self.state.jobs.iter().collect();
        jobs.sort_by_key(|job| match job.state {
            State::Over(_) => (true, (-(job.order as i64), 0)),
            _ => (false, job.rank()),
        });
        jobs.into_iter().map(|job| self.view(job)).collect()
    }

    /// The job of this name.
    pub fn job(&self, name: &str) -> Option<JobView> {
        self.state.job(name).map(|job| self.view(job))
    }

    fn view(&self, job: &Queued) -> JobView {
        let name = &job.submission.job;
        let run = self.runs.get(name);
        let ending = run.is_some_and(|run| run.is_ending()) || job.stop.is_some();
        let state = match job.state {
            State::Queued => "queued",
            State::Running if ending => "stopping",
            State::Running => "running",
            State::Over(how) => how.as_str(),
        };
        let waits = self.reasons.get(name);
        let reason = match job.state {
            State::Queued => match (waits, job.message.as_str()) {
                (Some(waits), "") => waits.clone(),
                (Some(waits), sent_back) => {
                    format!("{waits}; it was sent back because {sent_back}")
                }
                (None, message) => message.to_string(),
            },
            State::Running => String::new(),
            State::Over(_) => job.message.clone(),
        };
        JobView {
            state,
            reason,
            workers: self.assigned(name) as u32,
            share: run.and_then(|run| run.share).unwrap_or(0),
            job: job.clone(),
        }
    }

    /// All that are connected, by name.
    pub fn workers(&self) -> Vec<WorkerView> {
        let mut workers: Vec<WorkerView> = (self.workers.values())
            .map(|worker| WorkerView {
                worker: worker.name.clone(),
                job: worker.job.clone(),
                numerics: worker.numerics.clone(),
                threads: worker.threads,
                draining: self.state.drained.contains(&worker.name),
            })
            .collect();
        workers
            .sort_by_key(|worker| (crate::replay::number(&worker.worker), worker.worker.clone()));
        workers
    }
}
