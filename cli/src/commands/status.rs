//! `perennial status`: where jobs stand, from their store, from the coordinator that rules, and from the queue.

use std::time::Duration;

use clap_complete::ArgValueCandidates;
use perennial_coordinator::operate::{OperateError, Ruler};
use perennial_coordinator::replay::Replayed;
use perennial_plan::Spec;
use perennial_plan::ledger::StepRecord;
use perennial_plan::order::steps_per_epoch;
use perennial_proto::v1::{DeviceMemory, JobStatus, StatusReply};
use perennial_report::EpochRecord;
use perennial_secure::Security;
use perennial_store::{Job, Store};
use serde::Serialize;

use super::queue::Queue;
use crate::job::{At, block_on, replay};
use crate::names;
use crate::output::{Output, bytes, counted, duration, percent, table, thousands};

/// Show where a job stands, or all jobs of a store
///
/// What is stored is shown whether or not anything runs; a job that runs is asked for its workers too, and the
/// queue why each of the others waits.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's name, or its job file; all jobs of the store where it is left out
    #[arg(add = ArgValueCandidates::new(names::jobs))]
    job: Option<String>,
    #[command(flatten)]
    at: At,
    /// Every job, where a long list is cut
    #[arg(long, conflicts_with = "job")]
    all: bool,
}

/// The last steps from which the speed is told.
const RECENT: usize = 50;
/// A coordinator that has not answered after this time does not run.
const PATIENCE: Duration = Duration::from_secs(3);
/// Jobs that are listed.
const LISTED: usize = 40;

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    if let Some(job) = &args.job {
        let standing = block_on(async {
            let job = args.at.open(job).await?;
            let queue = Queue::look(job.store(), &args.at).await?;
            Standing::of(&job, &queue).await
        })?;
        return output.print(&standing, || standing.text());
    }
    let most = (!args.all && !output.json).then_some(LISTED);
    let (queue, all, left_out) = block_on(async {
        let store = args.at.open_store().await?;
        let queue = Queue::look(&store, &args.at).await?;
        let (all, left_out) = standings(&store, &queue, most).await?;
        Ok((queue, all, left_out))
    })?;
    output.print(&all, || {
        if all.is_empty() && queue.replayed.is_none() {
            return format!("store `{}` has no job", queue.store_url);
        }
        let mut text = overview(&all);
        if left_out > 0 {
            let left_out = counted(left_out as u64, "more job");
            text += &format!("... and {left_out}; `perennial status --all` shows them\n");
        }
        text + &queue.text()
    })
}

/// The jobs of a store, those of the queue in front and in its order, at most so many; and how many more
/// there are.
pub async fn standings(
    store: &Store,
    queue: &Queue,
    most: Option<usize>,
) -> anyhow::Result<(Vec<Standing>, usize)> {
    let mut names = queue.order();
    for name in store.jobs().await? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let left_out = names.len().saturating_sub(most.unwrap_or(usize::MAX));
    names.truncate(names.len() - left_out);
    let mut all = Vec::new();
    for name in names {
        all.push(Standing::of(&store.job(&name)?, queue).await?);
    }
    Ok((all, left_out))
}

/// A row for each job, and below it why those wait that do.
pub fn overview(all: &[Standing]) -> String {
    let heads = [
        "job",
        "state",
        "priority",
        "workers",
        "steps",
        "done",
        "left",
        "val top-1",
        "checkpoint",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    rows.extend(all.iter().map(Standing::row));
    let mut text = table(&rows);
    for standing in all {
        if matches!(standing.state.as_str(), "queued" | "failed" | "waiting") {
            let (job, state, reason) = (&standing.job, &standing.state, &standing.reason);
            text += &format!("{job} {state}: {reason}\n");
        }
    }
    text
}

/// Where a job stands.
#[derive(Debug, Serialize)]
pub struct Standing {
    job: String,
    /// `new`, `queued`, `finished`, `stopped`, `failed`, `interrupted`, or the phase that its coordinator is in.
    state: String,
    reason: String,
    global_step: u64,
    /// None: the data was not read yet.
    total_steps: Option<u64>,
    epochs: u32,
    /// Over the last steps that are in the log.
    images_per_second: Option<f64>,
    /// Only while it runs.
    seconds_left: Option<f64>,
    /// The share of the time that went into steps which count, since its coordinator's first generation.
    goodput: Option<f64>,
    /// The last epoch that was evaluated.
    epoch: Option<EpochRecord>,
    /// The newest checkpoint's step.
    checkpoint: Option<u64>,
    /// The newest report's step.
    report: Option<u64>,
    coordinator: Option<String>,
    term: u64,
    generation: u64,
    wanted: Option<u32>,
    workers: Vec<Worker>,
    /// Of a job that the queue has.
    queue: Option<InQueue>,
}

/// A job's place in the queue.
#[derive(Debug, Serialize)]
struct InQueue {
    priority: i32,
    submitted: String,
    min_workers: u32,
    max_workers: u32,
    /// How many it has been given, and is to have.
    given: u32,
    share: u32,
}

#[derive(Debug, Serialize)]
struct Worker {
    worker: String,
    state: String,
    slots: u32,
    slots_per_second: f64,
    /// Only of a worker with a GPU.
    device_memory: Option<DeviceMemory>,
}

// === impl Standing ===

impl Standing {
    pub async fn of(job: &Job, queue: &Queue) -> anyhow::Result<Self> {
        let (spec, replayed) = replay(job).await?;
        let queued = queue.job(job.name());
        let answer = match (&queued, &replayed) {
            (Some(queued), _) if queued.running.is_some() => queued.running.clone().map(Ok),
            (_, Replayed { term: 0, .. }) | (_, Replayed { ended: Some(_), .. }) => None,
            (_, Replayed { address, .. }) => Some(ask(job, &queue.security, address).await),
        };
        let checkpoint = job.checkpoint_steps().await?.last().copied();
        let report = job.report_steps().await?.last().copied();
        let mut standing = Self {
            checkpoint,
            report,
            ..Self::new(job.name(), &spec, replayed, answer)
        };
        if let Some(queued) = queued {
            standing.is_queued(queued);
        }
        Ok(standing)
    }

    /// What the queue says of a job that it has, goes before what its log says of its last run.
    fn is_queued(&mut self, queued: JobStatus) {
        let over = ["finished", "stopped", "failed"].contains(&queued.state.as_str());
        // One that the queue gave up long ago may run elsewhere.
        let elsewhere =
            over && !["finished", "stopped", "interrupted"].contains(&self.state.as_str());
        if queued.running.is_none() && !elsewhere {
            self.state.clone_from(&queued.state);
            if !queued.reason.is_empty() {
                self.reason.clone_from(&queued.reason);
            }
        }
        if queued.state == "stopped" && self.reason.contains("--resume") {
            self.reason = format!("`perennial resume {}` goes on with it", self.job);
        }
        self.queue = Some(InQueue {
            priority: queued.priority,
            submitted: queued.submitted,
            min_workers: queued.min_workers,
            max_workers: queued.max_workers,
            given: queued.workers,
            share: queued.share,
        });
    }

    /// `answer`: of the coordinator, if the log does not say already that the run is over, or another one has
    /// begun and has no generation yet.
    fn new(
        name: &str,
        spec: &Spec,
        replayed: Replayed,
        answer: Option<Result<StatusReply, String>>,
    ) -> Self {
        let (state, reason) = match (&answer, &replayed.ended) {
            (Some(Ok(reply)), _) => (reply.phase.clone(), reply.reason.clone()),
            (_, Some(how)) => (how.clone(), ended(how).to_string()),
            (None, None) => ("new".into(), "it was never started".into()),
            (Some(Err(cause)), None) => ("interrupted".into(), cause.clone()),
        };
        let reply = answer.and_then(Result::ok);
        let stored = replayed.steps.len() as u64;
        let global_step = reply
            .as_ref()
            .map_or(stored, |it| it.global_step.max(stored));
        let samples = replayed
            .data
            .as_ref()
            .map(|data| data.train_samples as usize);
        let total_steps = samples.map(|samples| {
            let steps = steps_per_epoch(samples, spec.train.batch_size as usize);
            u64::from(steps) * u64::from(spec.train.epochs)
        });
        let recent = &replayed.steps[replayed.steps.len().saturating_sub(RECENT)..];
        let pace = Pace::of(recent);
        let left = total_steps.map(|total| total.saturating_sub(global_step));
        let seconds_left = match (&reply, &pace, left) {
            (Some(_), Some(pace), Some(left)) => Some(left as f64 * pace.step_seconds),
            _ => None,
        };
        let workers = reply.iter().flat_map(|reply| &reply.workers);
        Self {
            job: name.to_string(),
            state,
            reason,
            global_step,
            total_steps,
            epochs: spec.train.epochs,
            images_per_second: pace.map(|pace| pace.images_per_second),
            seconds_left,
            goodput: reply.as_ref().and_then(|reply| reply.goodput),
            epoch: replayed.history.last().cloned(),
            checkpoint: None,
            report: None,
            coordinator: reply.as_ref().map(|_| replayed.address.clone()),
            term: replayed.term,
            generation: replayed.last_generation,
            wanted: reply.as_ref().map(|reply| reply.wanted),
            workers: workers
                .map(|worker| Worker {
                    worker: worker.worker.clone(),
                    state: worker.state.clone(),
                    slots: worker.slots,
                    slots_per_second: worker.speed,
                    device_memory: worker.device_memory,
                })
                .collect(),
            queue: None,
        }
    }

    fn done(&self) -> Option<f64> {
        let total = self.total_steps?;
        Some(self.global_step as f64 / total.max(1) as f64)
    }

    fn steps(&self) -> String {
        let total = self.total_steps.map_or("?".to_string(), thousands);
        format!("{} of {total}", thousands(self.global_step))
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_string());
        let present = self.workers.iter().filter(|it| it.state != "gone").count();
        let priority = self.queue.as_ref().map(|queue| queue.priority.to_string());
        vec![
            self.job.clone(),
            self.state.clone(),
            or_dash(priority),
            or_dash((present > 0).then(|| present.to_string())),
            self.steps(),
            or_dash(self.done().map(percent)),
            or_dash(self.seconds_left.map(duration)),
            or_dash(self.epoch.as_ref().map(|epoch| percent(epoch.val_top1))),
            or_dash(self.checkpoint.map(thousands)),
        ]
    }

    fn text(&self) -> String {
        let mut facts = vec![("state", format!("{}: {}", self.state, self.reason))];
        let mut progress = format!("{} steps", self.steps());
        if let Some(done) = self.done() {
            progress += &format!(" ({})", percent(done));
        }
        if let Some(left) = self.seconds_left {
            progress += &format!(", {} left", duration(left));
        }
        facts.push(("progress", progress));
        if let Some(speed) = self.images_per_second {
            let goodput = self.goodput.map_or(String::new(), |goodput| {
                format!(", {} of the time in steps that count", percent(goodput))
            });
            facts.push(("speed", format!("{speed:.1} images/s{goodput}")));
        }
        if let Some(epoch) = &self.epoch {
            facts.push(("last epoch", self.epoch_text(epoch)));
        }
        let step = |step: Option<u64>| {
            step.map_or("none yet".to_string(), |step| {
                format!("step {}", thousands(step))
            })
        };
        facts.push(("checkpoint", step(self.checkpoint)));
        facts.push(("report", step(self.report)));
        if let (Some(address), Some(wanted)) = (&self.coordinator, self.wanted) {
            let (term, generation) = (self.term, self.generation);
            let wanted = counted(u64::from(wanted), "worker");
            facts.push((
                "coordinator",
                format!("{address}, term {term}, generation {generation}, wants {wanted}"),
            ));
        }
        if let Some(queue) = &self.queue {
            let (min, max) = (queue.min_workers, queue.max_workers);
            let given = counted(u64::from(queue.given), "worker");
            facts.push((
                "queue",
                format!(
                    "priority {}, from {min} to {max} workers, has {given} of a share of {}, submitted {}",
                    queue.priority, queue.share, queue.submitted
                ),
            ));
        }
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = format!("job `{}`\n", self.job);
        for (name, value) in facts {
            text += &format!("{name:<width$}  {value}\n");
        }
        if !self.workers.is_empty() {
            let has_gpus = (self.workers.iter()).any(|worker| worker.device_memory.is_some());
            let mut heads = vec!["worker", "state", "slots", "slots/s"];
            heads.extend(has_gpus.then_some("GPU memory"));
            let mut rows = vec![heads.into_iter().map(String::from).collect()];
            rows.extend(self.workers.iter().map(|worker| worker.row(has_gpus)));
            text += &format!("\n{}", table(&rows));
        }
        text
    }

    fn epoch_text(&self, epoch: &EpochRecord) -> String {
        let ema = epoch.ema_top1.map_or(String::new(), |top1| {
            format!(", with averaged weights {}", percent(top1))
        });
        format!(
            "{} of {}: loss {:.4}, validation loss {:.4}, top-1 {}{ema}",
            epoch.epoch,
            self.epochs,
            epoch.train_loss,
            epoch.val_loss,
            percent(epoch.val_top1)
        )
    }
}

fn ended(how: &str) -> &'static str {
    match how {
        "finished" => "all epochs are done",
        _ => "`--resume` goes on with it",
    }
}

async fn ask(job: &Job, security: &Security, address: &str) -> Result<StatusReply, String> {
    let ruler = Ruler::logged(format!("job `{}`", job.name()), address, security);
    let asked = tokio::time::timeout(PATIENCE, ruler.status(job.name())).await;
    match asked {
        Ok(Ok(reply)) if reply.job == job.name() => Ok(reply),
        Ok(Err(OperateError::Refused(reason))) => Err(reason),
        Ok(Err(OperateError::Unreachable { cause, .. })) => Err(format!(
            "no coordinator answers at `{address}` ({cause}); `--resume` goes on with it"
        )),
        _ => Err(format!(
            "no coordinator answers at `{address}`; `--resume` goes on with it"
        )),
    }
}

/// How fast steps come.
struct Pace {
    images_per_second: f64,
    step_seconds: f64,
}

// === impl Pace ===

impl Pace {
    fn of(steps: &[StepRecord]) -> Option<Self> {
        let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
        let samples: u64 = steps.iter().map(|step| step.samples).sum();
        (seconds > 0.0).then(|| Self {
            images_per_second: samples as f64 / seconds,
            step_seconds: seconds / steps.len() as f64,
        })
    }
}

// === impl Worker ===

impl Worker {
    /// `with_memory`: beside workers with a GPU.
    fn row(&self, with_memory: bool) -> Vec<String> {
        let speed = match self.slots_per_second {
            speed if speed > 0.0 => format!("{speed:.1}"),
            _ => "-".to_string(),
        };
        let memory = (self.device_memory).map_or("-".to_string(), memory_in_words);
        let mut row = vec![
            self.worker.clone(),
            self.state.clone(),
            self.slots.to_string(),
            speed,
        ];
        row.extend(with_memory.then_some(memory));
        row
    }
}

fn memory_in_words(memory: DeviceMemory) -> String {
    let [used, total, peak] = [memory.used, memory.total, memory.peak].map(bytes);
    format!("{used} of {total}, at most {peak}")
}

#[cfg(test)]
mod tests;
