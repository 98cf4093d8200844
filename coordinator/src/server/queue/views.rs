//! The queue and its jobs, as they are told to people.

use std::time::Duration;

use perennial_proto::VERSION;
use perennial_proto::v1::{JobStatus, JobsReply, PoolWorker, StatusReply};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Status;

use crate::queue::{JobView, Queue, WorkerView};

/// How long a job may take to say where it stands.
const ANSWER: Duration = Duration::from_secs(2);

/// A job, without what only it knows.
pub(super) fn job(view: JobView) -> JobStatus {
    let max_workers = view.job.max_workers();
    let submission = view.job.submission;
    JobStatus {
        job: submission.job,
        state: view.state.into(),
        reason: view.reason,
        priority: submission.priority,
        submitted: submission.submitted,
        min_workers: submission.min_workers,
        max_workers,
        workers: view.workers,
        share: view.share,
        running: None,
    }
}

/// All jobs and workers, without what only the jobs know.
pub(super) fn jobs(queue: &Queue, address: &str, store_url: &str) -> JobsReply {
    let workers = queue.workers().into_iter().map(|worker| PoolWorker {
        worker: worker.worker,
        job: worker.job.unwrap_or_default(),
        numerics: worker.numerics,
        threads: worker.threads,
        draining: worker.draining,
    });
    JobsReply {
        jobs: queue.jobs().into_iter().map(job).collect(),
        workers: workers.collect(),
        term: queue.term(),
        address: address.into(),
        store_url: store_url.into(),
        version: VERSION.into(),
    }
}

/// Adds what the jobs that run say of themselves.
pub(super) async fn complete(
    mut jobs: JobsReply,
    asked: Vec<(String, oneshot::Receiver<StatusReply>)>,
    answer: oneshot::Sender<JobsReply>,
) {
    for (name, reply) in asked {
        let Ok(Ok(status)) = timeout(ANSWER, reply).await else {
            continue;
        };
        if let Some(job) = jobs.jobs.iter_mut().find(|job| job.job == name) {
            if job.reason.is_empty() {
                job.reason = format!("{}: {}", status.phase, status.reason);
            }
            job.running = Some(status);
        }
    }
    let _ = answer.send(jobs);
}

/// Where a job stands that does not run; the queue itself, without a name.
pub(super) fn status(queue: &Queue, name: &str) -> Result<StatusReply, Status> {
    if name.is_empty() {
        return Ok(StatusReply {
            phase: "queue".into(),
            reason: "it serves a queue of jobs".into(),
            term: queue.term(),
            ..StatusReply::default()
        });
    }
    let view = queue
        .job(name)
        .ok_or_else(|| Status::not_found(format!("job `{name}` is not in the queue")))?;
    Ok(StatusReply {
        job: name.into(),
        phase: view.state.into(),
        reason: view.reason,
        ..StatusReply::default()
    })
}

/// What a Prometheus server hears of the queue itself.
pub(super) fn metrics(queue: &Queue) -> String {
    metrics_of(&queue.jobs(), &queue.workers())
}

/// The same of a queue that has these.
pub(super) fn metrics_of(jobs: &[JobView], workers: &[WorkerView]) -> String {
    let waiting = workers.iter().filter(|worker| worker.job.is_none()).count();
    let mut text = String::from(
        "# HELP perennial_queue_jobs Jobs of the queue by state.\n# TYPE perennial_queue_jobs gauge\n",
    );
    for state in [
        "queued", "running", "stopping", "finished", "stopped", "failed",
    ] {
        let count = jobs.iter().filter(|job| job.state == state).count();
        text += &format!("perennial_queue_jobs{{state=\"{state}\"}} {count}\n");
    }
    text += "# HELP perennial_queue_workers Workers that are connected.\n# TYPE perennial_queue_workers gauge\n";
    let busy = workers.len() - waiting;
    text += &format!("perennial_queue_workers{{state=\"waiting\"}} {waiting}\n");
    text += &format!("perennial_queue_workers{{state=\"at work\"}} {busy}\n");
    let wanted = wanted(jobs);
    text += "# HELP perennial_queue_workers_wanted Workers that all jobs that wait or run could use together.\n\
             # TYPE perennial_queue_workers_wanted gauge\n";
    text += &format!("perennial_queue_workers_wanted {wanted}\n");
    text
}

/// How many workers all jobs that wait or run could use together: what a pool is scaled by.
fn wanted(jobs: &[JobView]) -> u64 {
    let open = jobs
        .iter()
        .filter(|job| matches!(job.state, "queued" | "running"));
    open.map(|job| u64::from(job.job.max_workers())).sum()
}

/// The metrics of the queue and those of its jobs as one text: each name once, with the samples of all.
pub(super) async fn merge(
    own: String,
    asked: Vec<(String, oneshot::Receiver<String>)>,
    answer: oneshot::Sender<String>,
) {
    let mut texts = Vec::new();
    for (_, text) in asked {
        if let Ok(Ok(text)) = timeout(ANSWER, text).await {
            texts.push(text);
        }
    }
    let _ = answer.send(own + &merged(&texts) + "# EOF\n");
}

fn merged(texts: &[String]) -> String {
    let mut families: Vec<(String, String)> = Vec::new();
    for text in texts {
        let mut family = 0;
        for line in text.lines().filter(|line| *line != "# EOF") {
            let comment = line.strip_prefix("# ");
            let name = comment.and_then(|words| words.split(' ').nth(1));
            let Some(name) = name else {
                if let Some((_, samples)) = families.get_mut(family) {
                    samples.push_str(line);
                    samples.push('\n');
                }
                continue;
            };
            let known = families
                .iter()
                .position(|(heads, _)| heads.split(' ').nth(2) == Some(name));
            family = known.unwrap_or(families.len());
            match families.get_mut(family) {
                // The first text has said what it is.
                Some((heads, _)) if heads.lines().any(|head| head == line) => {}
                Some((heads, _)) => heads.push_str(&format!("{line}\n")),
                None => families.push((format!("{line}\n"), String::new())),
            }
        }
    }
    let families = families.into_iter();
    families.map(|(heads, samples)| heads + &samples).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Queued, State, Submission};

    #[test]
    fn jobs_that_wait_or_run_want_workers_and_those_that_are_over_want_none() {
        let view = |state: &'static str, max_workers: u32| JobView {
            job: Queued {
                submission: Submission {
                    min_workers: 1,
                    max_workers,
                    ..Submission::default()
                },
                state: State::Queued,
                order: 0,
                stop: None,
                message: String::new(),
            },
            state,
            reason: String::new(),
            workers: 0,
            share: 0,
        };
        let open = [view("queued", 4), view("running", 2)];
        assert_eq!(wanted(&open), 6);
        let over = ["stopping", "finished", "stopped", "failed"].map(|state| view(state, 8));
        assert_eq!(wanted(&over), 0);
    }

    #[test]
    fn the_metrics_of_two_jobs_are_one_text_that_has_each_name_once() {
        let text = |job: &str| {
            format!(
                "# HELP perennial_term Rises.\n# TYPE perennial_term gauge\nperennial_term{{job=\"{job}\"}} 1\n\
                 # HELP perennial_steps Applied.\n# TYPE perennial_steps counter\nperennial_steps_total{{job=\"{job}\"}} 7\n# EOF\n"
            )
        };
        assert_eq!(
            merged(&[text("a"), text("b")]),
            "# HELP perennial_term Rises.\n# TYPE perennial_term gauge\n\
             perennial_term{job=\"a\"} 1\nperennial_term{job=\"b\"} 1\n\
             # HELP perennial_steps Applied.\n# TYPE perennial_steps counter\n\
             perennial_steps_total{job=\"a\"} 7\nperennial_steps_total{job=\"b\"} 7\n"
        );
    }
}
