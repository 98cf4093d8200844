//! The queue of a store, as its coordinator tells it, or as its log does where none answers.

use std::time::Duration;

use perennial_coordinator::operate::{OperateError, read_queue};
use perennial_coordinator::queue::{Replayed, State};
use perennial_proto::v1::{JobStatus, JobsReply, PoolWorker};
use perennial_secure::Security;
use perennial_store::Store;

use crate::job::At;
use crate::output::{counted, table};

/// A coordinator that has not answered after this time does not run.
const PATIENCE: Duration = Duration::from_secs(3);

/// The queue of a store.
#[derive(Debug)]
pub struct Queue {
    pub store_url: String,
    /// How coordinators are spoken with.
    pub security: Security,
    /// What its log says; none where there is none.
    pub replayed: Option<Replayed>,
    /// What its coordinator says, or why nothing is heard of it.
    pub told: Result<JobsReply, String>,
}

// === impl Queue ===

impl Queue {
    /// Reads the queue's log and asks its coordinator.
    pub async fn look(store: &Store, at: &At) -> anyhow::Result<Self> {
        let replayed = read_queue(store).await?;
        let told = match &replayed {
            None => Err("there is no queue".to_string()),
            Some(replayed) => {
                let queue = at.queue().await?;
                match tokio::time::timeout(PATIENCE, queue.jobs()).await {
                    Ok(Ok(jobs)) => Ok(jobs),
                    Ok(Err(OperateError::Refused(reason))) => Err(reason),
                    _ => Err(format!(
                        "no coordinator of the queue answers at `{}`; start one with `perennial coordinator --store {}`",
                        replayed.address,
                        store.url()
                    )),
                }
            }
        };
        Ok(Self {
            store_url: store.url().to_string(),
            security: at.security()?,
            replayed,
            told,
        })
    }

    /// The names of its jobs, those that run or wait in front.
    pub fn order(&self) -> Vec<String> {
        match (&self.told, &self.replayed) {
            (Ok(told), _) => told.jobs.iter().map(|job| job.job.clone()).collect(),
            (Err(_), Some(replayed)) => {
                let mut jobs: Vec<_> = replayed.jobs.iter().collect();
                jobs.sort_by_key(|job| (matches!(job.state, State::Over(_)), job.rank()));
                jobs.iter().map(|job| job.submission.job.clone()).collect()
            }
            (Err(_), None) => Vec::new(),
        }
    }

    /// The job of this name.
    pub fn job(&self, name: &str) -> Option<JobStatus> {
        match (&self.told, &self.replayed) {
            (Ok(told), _) => told.jobs.iter().find(|job| job.job == name).cloned(),
            (Err(why), Some(replayed)) => {
                let job = replayed.job(name)?;
                let (state, reason) = match job.state {
                    State::Over(how) => (how.as_str(), job.message.clone()),
                    State::Queued => ("queued", why.clone()),
                    State::Running => ("interrupted", why.clone()),
                };
                Some(JobStatus {
                    job: name.into(),
                    state: state.into(),
                    reason,
                    priority: job.submission.priority,
                    submitted: job.submission.submitted.clone(),
                    min_workers: job.submission.min_workers,
                    max_workers: job.max_workers(),
                    ..JobStatus::default()
                })
            }
            (Err(_), None) => None,
        }
    }

    /// Its coordinator and its workers, for people; nothing where there is no queue.
    pub fn text(&self) -> String {
        match (&self.told, &self.replayed) {
            (_, None) => String::new(),
            (Err(why), Some(_)) => format!("\n{why}\n"),
            (Ok(told), Some(_)) => {
                let waiting = told.workers.iter().filter(|worker| worker.job.is_empty());
                let workers = counted(told.workers.len() as u64, "worker");
                let (address, term, waiting) = (&told.address, told.term, waiting.count());
                format!("\nqueue at {address}, term {term}: {workers}, of which {waiting} wait\n")
            }
        }
    }
}

/// Workers and whose they are, at most so many.
pub fn workers(workers: &[PoolWorker], most: usize) -> String {
    let mut rows = vec![["worker", "job", "threads"].map(String::from).to_vec()];
    for worker in workers.iter().take(most) {
        let serves = match (worker.draining, worker.job.as_str()) {
            (true, _) => "leaves",
            (false, "") => "waits",
            (false, job) => job,
        };
        rows.push(vec![
            worker.worker.clone(),
            serves.to_string(),
            worker.threads.to_string(),
        ]);
    }
    let left_out = workers.len().saturating_sub(most);
    let more = match left_out {
        0 => String::new(),
        left_out => format!(
            "... and {}; `perennial top --json` has them\n",
            counted(left_out as u64, "more worker")
        ),
    };
    table(&rows) + &more
}

/// A reply for programs.
pub fn as_json(told: &JobsReply) -> serde_json::Value {
    let workers = told.workers.iter().map(|worker| {
        serde_json::json!({
            "worker": worker.worker,
            "job": (!worker.job.is_empty()).then_some(&worker.job),
            "numerics": worker.numerics,
            "threads": worker.threads,
            "draining": worker.draining,
        })
    });
    serde_json::json!({
        "address": told.address,
        "term": told.term,
        "store": told.store_url,
        "workers": workers.collect::<Vec<_>>(),
    })
}
